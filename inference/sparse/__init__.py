"""Cameras from matches and canonical pointmaps: the sparse alignment."""
