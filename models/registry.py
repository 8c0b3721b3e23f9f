"""What networks there are: names, sizes, licences."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .config import PRESETS
from .loading import bundled_weights
from .two_view import TwoViewModel

_PUBLISHED_LICENCE = "CC BY-NC-SA 4.0 (published weights, non-commercial; not shipped with weav3r)"


@dataclass(frozen=True)
class ModelInfo:
    """One named network.

    Attributes:
        name: what to pass to `PRESETS` or, when bundled, to `load_model`.
        parameters: number of parameters.
        bundled_bytes: size of the weights that this installation ships, None when it ships none.
        licence: of the weights.
        description: one line.
    """

    name: str
    parameters: int
    bundled_bytes: int | None
    licence: str
    description: str


_DESCRIPTIONS = {
    "weav3r-small": "trained by this project on procedural scenes; points, confidence, descriptors",
    "dust3r-224-linear": "shape of the published DUSt3R network at 224 pixels, linear head",
    "dust3r-512-linear": "shape of the published DUSt3R network at 512 pixels, linear head",
    "dust3r-512-dpt": "shape of the published DUSt3R network at 512 pixels, DPT head",
    "mast3r-512": "shape of the published MASt3R network: DPT head and descriptors, metric",
}


def available_models() -> list[ModelInfo]:
    """List the presets in a fixed order."""
    return [model_info(name) for name in PRESETS]


def model_info(name: str) -> ModelInfo:
    """Describe one preset.

    Raises:
        ValueError: if there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown model {name!r}; there are: {', '.join(PRESETS)}")
    with torch.device("meta"):
        model = TwoViewModel(PRESETS[name])
    file = bundled_weights(name)
    return ModelInfo(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bundled_bytes=None if file is None else file.stat().st_size,
        licence="Apache-2.0" if name.startswith("weav3r") else _PUBLISHED_LICENCE,
        description=_DESCRIPTIONS[name],
    )
