"""RoPE, attention, transformer blocks and the cross-view completion model."""

from .croco import (
    CROCO_PRESETS,
    CompletionPrediction,
    CrocoConfig,
    CrocoModel,
    completion_loss,
)

__all__ = [
    "CROCO_PRESETS",
    "CompletionPrediction",
    "CrocoConfig",
    "CrocoModel",
    "completion_loss",
]
