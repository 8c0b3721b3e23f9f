"""What networks there are: names, sizes, licences."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .card import BUNDLED, PUBLISHED_LICENCE
from .checkpoint import bundled_weights, open_checkpoint, parse_config, remote_id
from .config import PRESETS, ModelConfig
from .hub import describe
from .hub_cache import PUBLISHED_IDS, cached_file, cached_ids
from .loading import empty_model, find_problems
from .storage import CONFIG_FILE, file_sha256, read_text

_SHOWN_PROBLEMS = 6
_PUBLISHED_NOTE = f"{PUBLISHED_LICENCE} (published weights, non-commercial; not shipped)"


@dataclass(frozen=True)
class ModelInfo:
    """One named network.

    Attributes:
        name: what to pass to `PRESETS` or to `load_model`.
        parameters: number of parameters.
        bundled_bytes: size of the weights that this installation ships, None when it ships none.
        licence: of the weights.
        description: one line.
        hub_id: of the published weights, None for ours.
    """

    name: str
    parameters: int
    bundled_bytes: int | None
    licence: str
    description: str
    hub_id: str | None


_DESCRIPTIONS = {
    "weav3r-small": "trained by this project on procedural scenes; points, confidence, descriptors",
    "dust3r-224-linear": "the published DUSt3R network at 224 pixels, linear head",
    "dust3r-512-linear": "the published DUSt3R network at 512 pixels, linear head",
    "dust3r-512-dpt": "the published DUSt3R network at 512 pixels, DPT head",
    "mast3r-512": "the published MASt3R network: DPT head and descriptors, metric",
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
    hub_id = PUBLISHED_IDS.get(name)
    return ModelInfo(
        name=name,
        parameters=_count_parameters(PRESETS[name]),
        bundled_bytes=None if file is None else file.stat().st_size,
        licence=BUNDLED.licence if hub_id is None else _PUBLISHED_NOTE,
        description=_DESCRIPTIONS[name],
        hub_id=hub_id,
    )


@dataclass(frozen=True)
class CachedModel:
    """A checkpoint of the Hub that is on this machine.

    Attributes:
        hub_id: its name.
        file: the weights.
        bytes: their size.
    """

    hub_id: str
    file: Path
    bytes: int


def cached_models() -> list[CachedModel]:
    """List the checkpoints in the cache of the Hub that are networks of these kinds."""
    found = []
    for hub_id in cached_ids():
        file = cached_file(hub_id)
        if file is not None and (hub_id in PUBLISHED_IDS.values() or _is_ours(file)):
            found.append(CachedModel(hub_id, file, file.stat().st_size))
    return found


def _is_ours(file: Path) -> bool:
    config = file.parent / CONFIG_FILE
    try:
        parse_config(read_text(config), str(config))
    except (OSError, ValueError):
        return False
    return True


def checkpoint_info(source: str | Path, *, offline: bool | None = None) -> dict[str, Any]:
    """Describe a preset, or a checkpoint without loading its weights, as plain data.

    Args:
        source: as for `load_model`. A Hub id is looked up in the cache, then asked for on the Hub
            without downloading its weights; a preset is never asked for.
        offline: never use the network; None follows the variable HF_HUB_OFFLINE.

    Returns:
        The fields of `ModelInfo` for a preset; `config`; and for a checkpoint `file`, `bytes`,
        `sha256`, `licence`, `fits` (whether the weights fit the configuration, with the first
        `problems` where they do not), `parameters` (of the network, None where they do not),
        `tensors` (in the file) and the other text entries of its header as `metadata`.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the file cannot be read.
    """
    info: dict[str, Any] = {}
    if isinstance(source, str) and source in PRESETS:
        info = asdict(model_info(source)) | {"config": PRESETS[source].to_dict()}
    remote = remote_id(source)
    if remote is None or cached_file(remote) is not None:
        return {**info, **_local_info(source)}
    return info or _remote_info(remote, offline)


def _local_info(source: str | Path) -> dict[str, Any]:
    checkpoint = open_checkpoint(source, offline=True)
    problems = find_problems(checkpoint)
    return {
        "name": checkpoint.config.name,
        "fits": not problems,
        **({"problems": problems[:_SHOWN_PROBLEMS]} if problems else {}),
        "parameters": None if problems else _count_parameters(checkpoint.config),
        "file": str(checkpoint.file),
        "bytes": checkpoint.file.stat().st_size,
        "sha256": file_sha256(checkpoint.file),
        "tensors": len(checkpoint.tensors),
        "licence": checkpoint.provenance.licence or "not stated",
        "provenance": asdict(checkpoint.provenance),
        "metadata": {k: v for k, v in checkpoint.metadata.items() if k != "provenance"},
        "config": checkpoint.config.to_dict(),
    }


def _remote_info(source: str, offline: bool | None) -> dict[str, Any]:
    remote = describe(source, offline=offline)
    info: dict[str, Any] = {
        "hub_id": source,
        "file": remote.name,
        "downloaded": False,
        "bytes": remote.bytes,
        "sha256": remote.sha256,
        "licence": remote.licence or "not stated",
    }
    if remote.config is not None:
        config, _ = parse_config(remote.config, source)
        info |= {
            "name": config.name,
            "parameters": _count_parameters(config),
            "config": config.to_dict(),
        }
    return info


def _count_parameters(config: ModelConfig) -> int:
    return sum(math.prod(parameter.shape) for parameter in empty_model(config).parameters())
