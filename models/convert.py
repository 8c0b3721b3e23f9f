"""Checkpoint folders to keep and to share: two layouts, every precision, a tensor at a time."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ._foreign import printable
from .calibration_file import read_calibration, write_calibration
from .card import CARD_FILE, Provenance, model_card
from .checkpoint import Checkpoint, open_checkpoint
from .config import ConfidenceMode, ModelConfig
from .loading import empty_model
from .published_config import config_from_published
from .storage import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LazyTensors,
    StorageDtype,
    TensorFile,
    file_sha256,
    pack_tensor,
    require_dtype,
    shape_of,
    write_tensors,
)
from .two_view import TwoViewModel
from .weights import canonical_keys, load_weights

Layout = Literal["weav3r", "published"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedFolder:
    """What was written.

    Attributes:
        file: the weights file; `config.json` and `README.md` lie beside it.
        bytes: size of the weights file.
        sha256: of the weights file.
        tensors: number of tensors in it, row scales not counted.
        provenance: licence and training data that travel with it.
    """

    file: Path
    bytes: int
    sha256: str
    tensors: int
    provenance: Provenance


def save_pretrained(
    model: TwoViewModel,
    folder: str | Path,
    *,
    dtype: StorageDtype = "float32",
    layout: Layout = "weav3r",
    provenance: Provenance | None = None,
    repo_id: str | None = None,
) -> SavedFolder:
    """Write a network with its configuration and model card; see `TwoViewModel.save_pretrained`."""
    stated = provenance or model.provenance or Provenance()
    return _write(
        model.state_dict(), model.config, Path(folder), dtype, layout, stated, repo_id, ""
    )


def convert_checkpoint(
    source: str | Path,
    folder: str | Path,
    *,
    dtype: StorageDtype = "float32",
    layout: Layout = "weav3r",
    licence: str | None = None,
    force: bool = False,
    revision: str | None = None,
    offline: bool | None = None,
    progress: bool = False,
) -> SavedFolder:
    """Rewrite a checkpoint as a folder; memory holds one tensor at a time.

    The written weights are read again and compared with the source.

    Args:
        source: anything that `weav3r.load_model` takes.
        folder: to write; must be empty or new unless `force`.
        dtype: of the stored weights.
        layout: "weav3r", or "published" for classes of the published code.
        licence: stated for the result; None keeps what the source states.
        force: write into a folder that holds something.
        revision: branch, tag or commit of a Hub id.
        offline: never use the network.
        progress: show progress bars of downloads.

    Returns:
        What was written.

    Raises:
        FileExistsError: if the folder holds something.
        ValueError: if the weights fit neither the configuration nor `dtype`, or the network does
            not fit `layout`.
        FileNotFoundError, PermissionError, ConnectionError: see `load_model`.
    """
    folder = Path(folder)
    if folder.is_file() or folder.suffix == ".safetensors":
        raise ValueError(f"{folder}: name a folder to write, not a file")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise FileExistsError(f"{folder} is not empty; name another folder, or force it")
    checkpoint = open_checkpoint(source, revision=revision, offline=offline, progress=progress)
    if folder.resolve() == checkpoint.file.parent.resolve():
        raise ValueError(f"{folder} holds the source itself; name another folder")
    if isinstance(checkpoint.tensors, TensorFile):  # read once and dropped, tensor by tensor
        tensors = TensorFile(checkpoint.file, keep=False)
        checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    tensors = _Renamed(checkpoint)
    stated = checkpoint.provenance
    if licence is not None:
        _note_wider_licence(checkpoint, licence)
        stated = dataclasses.replace(stated, licence=licence)
    origin = checkpoint.origin
    saved = _write(tensors, checkpoint.config, folder, dtype, layout, stated, None, origin)
    _verify(saved.file, tensors, dtype)
    calibration = read_calibration(checkpoint.file)
    if calibration is not None and dtype != "int8":  # whose rounding adds errors of its own
        write_calibration(saved.file, calibration)
    return saved


def _note_wider_licence(checkpoint: Checkpoint, licence: str) -> None:
    if checkpoint.provenance.non_commercial and not Provenance(licence).non_commercial:
        logger.warning(
            "the copy of %s states %s in place of %s, non-commercial use only; that is for the "
            "owner of the weights to decide",
            *map(printable, (checkpoint.origin, licence, checkpoint.provenance.licence)),
        )


class _Renamed(LazyTensors):
    """The tensors of a checkpoint under the names that the network gives them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors = checkpoint.tensors
        shapes = checkpoint.shapes()
        empty = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        model = empty_model(checkpoint.config, checkpoint)
        load_weights(model, empty, origin=checkpoint.origin, assign=True)
        stored = {id(value): key for key, value in empty.items()}
        self._names = {key: stored[id(value)] for key, value in canonical_keys(empty).items()}
        for key in set(empty) - set(self._names.values()):  # the other name of a kept one
            (name,) = (kept for kept in self._names if kept in canonical_keys({key: empty[key]}))
            canonical_keys({name: self[name], key: self._tensors[key]})
        for key in model.state_dict():
            if key not in self._names:  # one decoder in the file stands for both
                self._names[key] = self._names[key.replace("dec_blocks2.", "dec_blocks.", 1)]
        self.shapes = {key: shapes[name] for key, name in self._names.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[self._names[key]]


def _write(
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    folder: Path,
    dtype: StorageDtype,
    layout: Layout,
    provenance: Provenance,
    repo_id: str | None,
    origin: str = "",
) -> SavedFolder:
    text = _config_text(config, layout, dtype)
    file = folder / WEIGHTS_FILE
    header = {"config": json.dumps(config.to_dict(), allow_nan=False)}
    try:
        write_tensors(file, tensors, dtype, header | provenance.to_metadata())
    except ValueError as error:
        raise ValueError(f"{origin}: {error}" if origin else str(error)) from error
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    sha256 = file_sha256(file)
    count = sum(math.prod(shape_of(tensors, key)) for key in tensors)
    title = repo_id or folder.resolve().name
    card = model_card(title, config, provenance, count, sha256, repo_id or str(folder))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return SavedFolder(file, file.stat().st_size, sha256, len(tensors), provenance)


def _config_text(config: ModelConfig, layout: Layout, dtype: StorageDtype) -> str:
    require_dtype(dtype)
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    if layout == "weav3r":
        return json.dumps(config.to_dict(), indent=2, allow_nan=False)
    if dtype == "int8":
        raise ValueError("the published classes cannot read int8 weights; choose another dtype")
    # Infinity as a bare word is no JSON, but what the published classes write and read.
    return json.dumps(published_arguments(config), indent=2)


def _verify(file: Path, tensors: Mapping[str, Tensor], dtype: StorageDtype) -> None:
    written = TensorFile(file, keep=False)
    for key in tensors:
        for name, expected in pack_tensor(key, tensors[key], dtype).items():
            if not torch.equal(written.stored(name), expected):
                raise OSError(f"{file}: {name} reads back differently; is the disk in order?")


# Fields that mean nothing without the head they belong to.
_HEAD_FIELDS = {
    "dpt": ("dpt_layer_dims", "dpt_feature_dim", "dpt_last_dim", "dpt_hooks"),
    "local": ("local_dims", "local_token_dim"),
}
_MIN_PUBLISHED_DPT_DEPTH = 10


def published_arguments(config: ModelConfig) -> dict[str, Any]:
    """Give the constructor arguments of the published classes for a network.

    Args:
        config: of the network.

    Returns:
        Keyword arguments; `config_from_published` is the way back.

    Raises:
        ValueError: naming the fields that the published classes have no argument for.
    """
    arguments = {
        "img_size": list(config.image_size),
        "patch_size": config.patch_size,
        "pos_embed": f"RoPE{config.rope_base:g}",
        "mlp_ratio": config.mlp_ratio,
        "enc_embed_dim": config.encoder_dim,
        "enc_depth": config.encoder_depth,
        "enc_num_heads": config.encoder_heads,
        "dec_embed_dim": config.decoder_dim,
        "dec_depth": config.decoder_depth,
        "dec_num_heads": config.decoder_heads,
        "patch_embed_cls": "PatchEmbedDust3R",
        "landscape_only": False,
        "freeze": config.freeze,
        "head_type": config.point_head,
        "output_mode": "pts3d",
        "depth_mode": [config.point_mode, -math.inf, math.inf],
        "conf_mode": _published_confidence(config.confidence),
    }
    if config.descriptor_head == "mlp":
        arguments |= {
            "head_type": f"catmlp+{config.point_head}",
            "output_mode": f"pts3d+desc{config.descriptor_dim}",
            "desc_mode": "norm",
            "two_confs": config.two_confidences,
            "desc_conf_mode": _published_confidence(config.descriptor_confidence),
        }
    lost = _lost_fields(config, arguments)
    if lost:
        raise ValueError(
            f"the published classes cannot express {', '.join(lost)}; use layout='weav3r'"
        )
    return arguments


def _published_confidence(mode: ConfidenceMode | None) -> list[Any] | None:
    return None if mode is None else [mode.kind, mode.low, mode.high]


def _lost_fields(config: ModelConfig, arguments: Mapping[str, Any]) -> list[str]:
    """List what does not survive the way to the published arguments and back."""
    if config.point_head == "dpt" and config.decoder_depth < _MIN_PUBLISHED_DPT_DEPTH:
        return [f"decoder_depth={config.decoder_depth} (their DPT head needs more than 9)"]
    try:
        back = config_from_published(arguments)
    except ValueError:
        return [f"point_head={config.point_head!r} with descriptor_head={config.descriptor_head!r}"]
    idle = {"name"}.union(
        *(names for head, names in _HEAD_FIELDS.items() if head not in _heads(config))
    )
    if config.hooks == back.hooks:
        idle.add("dpt_hooks")
    lost = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name not in idle and getattr(config, field.name) != getattr(back, field.name)
    ]
    return lost + ["point_mode='ray'"] * (config.point_mode == "ray")


def _heads(config: ModelConfig) -> tuple[str, str]:
    return config.point_head, config.descriptor_head
