"""The two-view model, its heads and presets, and checkpoint files."""

from .card import Provenance
from .config import PRESETS, ConfidenceMode, ModelConfig
from .convert import SavedFolder, convert_checkpoint
from .loading import load_model, resolve_device
from .outputs import EncodedImages, PairPrediction, ViewPrediction
from .registry import ModelInfo, available_models, checkpoint_info, model_info
from .storage import save_checkpoint
from .two_view import TwoViewModel
from .weights import initialise_from_croco

__all__ = [
    "PRESETS",
    "ConfidenceMode",
    "EncodedImages",
    "ModelConfig",
    "ModelInfo",
    "PairPrediction",
    "Provenance",
    "SavedFolder",
    "TwoViewModel",
    "ViewPrediction",
    "available_models",
    "checkpoint_info",
    "convert_checkpoint",
    "initialise_from_croco",
    "load_model",
    "model_info",
    "resolve_device",
    "save_checkpoint",
]
