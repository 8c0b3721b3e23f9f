"""Heads that turn tokens into pointmaps, confidence and descriptors."""

from .view_head import RawMaps, ViewHead, full_precision

__all__ = ["RawMaps", "ViewHead", "full_precision"]
