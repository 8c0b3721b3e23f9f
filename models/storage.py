"""Weights in safetensors files: stored precisions, and the configuration in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .two_view import TwoViewModel

StorageDtype = Literal["float32", "float16", "bfloat16", "int8"]

SCALE_SUFFIX = ".int8_scale"  # key of the row scales beside an int8 tensor
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def save_checkpoint(
    model: TwoViewModel,
    path: str | Path,
    dtype: StorageDtype = "float16",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write weights and configuration.

    Args:
        model: the network.
        path: a file that ends in `.safetensors`, or a folder (made if needed) that gets
            `config.json` and `model.safetensors`.
        dtype: of the stored weights. "int8" stores every tensor with two or more axes as integers
            with one float32 scale per row, the others as float16.
        metadata: further text entries for the header, such as the licence.

    Returns:
        The weights file.

    Raises:
        ValueError: for an unknown dtype, or weights that do not fit it.
    """
    if dtype not in get_args(StorageDtype):
        raise ValueError(f"dtype must be one of {', '.join(get_args(StorageDtype))}, got {dtype!r}")
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / WEIGHTS_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    config = json.dumps(model.config.to_dict(), allow_nan=False)
    header = {**(metadata or {}), "format": "pt", "storage": dtype, "config": config}
    partial = file.with_suffix(".partial")
    save_file(pack_tensors(model.state_dict(), dtype), partial, metadata=header)
    os.replace(partial, file)
    if file is not path:
        text = json.dumps(model.config.to_dict(), indent=2, allow_nan=False)
        (path / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return file


def pack_tensors(state: Mapping[str, Tensor], dtype: StorageDtype) -> dict[str, Tensor]:
    """Convert a state dict to its stored form; see `save_checkpoint`."""
    packed: dict[str, Tensor] = {}
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        if dtype == "int8" and value.ndim >= 2:
            packed[key], packed[key + SCALE_SUFFIX] = _quantise_rows(value.float())
            continue
        stored = value.to(torch.float16 if dtype == "int8" else getattr(torch, dtype))
        if not bool(stored.isfinite().all()):
            raise ValueError(f"{key} holds values that {dtype} cannot store; choose float32")
        packed[key] = stored
    return packed


def unpack_tensors(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the stored form back to a float32 state dict."""
    state: dict[str, Tensor] = {}
    for key, value in packed.items():
        if key.endswith(SCALE_SUFFIX):
            continue
        scale = packed.get(key + SCALE_SUFFIX)
        value = value.float()
        state[key] = value if scale is None else value * scale.view(-1, *[1] * (value.ndim - 1))
    return state


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file written by `save_checkpoint` or by others.

    Returns:
        The float32 state dict and the text metadata.

    Raises:
        ValueError: if the file is not readable as safetensors.
    """
    try:
        with safe_open(str(file), framework="pt", device="cpu") as handle:
            packed = {key: handle.get_tensor(key) for key in handle.keys()}
            metadata = dict(handle.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    return unpack_tensors(packed), metadata


def _quantise_rows(value: Tensor) -> tuple[Tensor, Tensor]:
    rows = value.flatten(1)
    scale = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    quantised = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return quantised.view(value.shape), scale
