"""Heads that turn tokens into pointmaps, confidence and descriptors."""

from .view_head import RawMaps, ViewHead, full_precision, layers_read

__all__ = ["RawMaps", "ViewHead", "full_precision", "layers_read"]
