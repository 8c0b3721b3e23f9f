"""Heads that turn tokens into pointmaps, confidence and descriptors."""

from .view_head import RawMaps, ViewHead

__all__ = ["RawMaps", "ViewHead"]
