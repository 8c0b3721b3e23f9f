"""Cameras from pointmaps: the dense alignment."""
