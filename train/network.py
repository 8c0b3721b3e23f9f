"""The network of a run: fresh, from a checkpoint, or started from a completion network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.card import PUBLISHED_LICENCE, Provenance
from ..models.config import PRESETS, ModelConfig
from ..models.loading import load_model
from ..models.published import is_torch_file, read_completion_weights
from ..models.two_view import TwoViewModel
from ..models.weights import initialise_from_croco
from .config import Recipe

logger = logging.getLogger(__name__)


def build_model(recipe: Recipe) -> TwoViewModel:
    """Make the recipe's network, from its initial weights or from the seed.

    Weights of a completion network (CroCo) start the transformer of the recipe's model; those of
    a two-view network bring their own configuration, unless the recipe takes them partly: MASt3R
    starts from DUSt3R and has heads of its own.

    Raises:
        ValueError: nothing of the initial weights fits the recipe's model.
    """
    completion = None if recipe.init is None else _completion_weights(recipe.init)
    if recipe.init is not None and completion is None:
        model = load_model(recipe.init, device="cpu")
        provenance = (model.provenance or Provenance()).derived(base_name(recipe.init))
        if recipe.init_partly:
            model = _taken_over(_fresh_model(recipe), model, recipe.init)
        model.provenance = provenance
        return model
    model = _fresh_model(recipe)
    if recipe.init is not None and completion is not None:
        initialise_from_croco(model, completion, origin=recipe.init)
        licence = PUBLISHED_LICENCE if is_torch_file(Path(recipe.init).expanduser()) else ""
        model.provenance = Provenance(licence).derived(base_name(recipe.init))
    return model


def _taken_over(model: TwoViewModel, source: TwoViewModel, origin: str) -> TwoViewModel:
    """Copy every tensor of the same name and shape."""
    own, theirs = model.state_dict(), source.state_dict()
    fits = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
    if not any(key.startswith("enc_blocks") for key in fits):
        raise ValueError(f"{origin} has no block that fits {model.config.name}; choose another")
    model.load_state_dict(own | fits)
    logger.info("%d of %d tensors are those of %s", len(fits), len(own), origin)
    return model


def model_config(recipe: Recipe) -> ModelConfig:
    """Give the shape of a fresh network of the recipe.

    Raises:
        ValueError: for an unknown preset or field.
    """
    if recipe.model not in PRESETS:
        raise ValueError(f"unknown model {recipe.model!r}; presets: {', '.join(PRESETS)}")
    return ModelConfig.from_dict(PRESETS[recipe.model].to_dict() | recipe.model_overrides)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: matrices and kernels decay, vectors and scalars do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def base_name(init: str) -> str:
    """Name initial weights without telling others where they lay on this machine."""
    path = Path(init).expanduser()
    return path.name if path.exists() else init


def _completion_weights(init: str) -> dict[str, Tensor] | None:
    path = Path(init).expanduser()
    return read_completion_weights(path) if path.is_file() else None


def _fresh_model(recipe: Recipe) -> TwoViewModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return TwoViewModel(model_config(recipe))
