"""The two-view model, its heads and presets, and checkpoint files."""

from .config import PRESETS, ConfidenceMode, ModelConfig
from .loading import load_model, resolve_device, save_checkpoint
from .outputs import EncodedImages, PairPrediction, ViewPrediction
from .two_view import TwoViewModel

__all__ = [
    "PRESETS",
    "ConfidenceMode",
    "EncodedImages",
    "ModelConfig",
    "PairPrediction",
    "TwoViewModel",
    "ViewPrediction",
    "load_model",
    "resolve_device",
    "save_checkpoint",
]
