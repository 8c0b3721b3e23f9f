"""Heads that turn tokens into pointmaps, confidence and descriptors."""
