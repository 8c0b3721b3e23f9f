"""What networks there are: names, sizes, licences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .config import PRESETS, ModelConfig
from .loading import bundled_weights, read_header
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
    file = bundled_weights(name)
    return ModelInfo(
        name=name,
        parameters=_count_parameters(PRESETS[name]),
        bundled_bytes=None if file is None else file.stat().st_size,
        licence="Apache-2.0" if name.startswith("weav3r") else _PUBLISHED_LICENCE,
        description=_DESCRIPTIONS[name],
    )


def checkpoint_info(source: str | Path) -> dict[str, Any]:
    """Describe a preset, or a checkpoint without loading its weights, as plain data.

    Args:
        source: preset name, `.safetensors` file or folder, as for `load_model`.

    Returns:
        The fields of `ModelInfo` for a preset; `config`; and for a checkpoint `file`, `bytes`,
        `parameters` and the other text entries of its header as `metadata`.

    Raises:
        FileNotFoundError: if it is neither a preset nor a file.
        ValueError: if the file cannot be read.
    """
    info: dict[str, Any] = {}
    if isinstance(source, str) and source in PRESETS:
        info = asdict(model_info(source))
        if bundled_weights(source) is None:
            return {**info, "config": PRESETS[source].to_dict()}
    file, config, metadata = read_header(source)
    return {
        "name": config.name,
        "parameters": _count_parameters(config),
        **info,
        "file": str(file),
        "bytes": file.stat().st_size,
        "metadata": {key: text for key, text in metadata.items() if key != "config"},
        "config": config.to_dict(),
    }


def _count_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        model = TwoViewModel(config)
    return sum(parameter.numel() for parameter in model.parameters())
