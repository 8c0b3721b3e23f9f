"""Weights in safetensors files: stored precisions, read and written a tensor at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ._foreign import hint
from .two_view import TwoViewModel

StorageDtype = Literal["float32", "float16", "bfloat16", "int8"]

SCALE_SUFFIX = ".int8_scale"  # key of the row scales beside an int8 tensor
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_HEADER_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
}
_REMAP_BYTES = 64 * 2**20
_MAX_HEADER_BYTES = 8 * 2**20  # 1000 tensors take 130 kB
_MAX_TEXT_BYTES = 4 * 2**20  # of what stands beside weights; a configuration has 2 kB


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name that are read when they are asked for.

    Attributes:
        shapes: of all tensors, known without reading them.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class TensorFile(LazyTensors):
    """The tensors of a safetensors file, as float32.

    What is stored as float32 comes as a view of the mapped file and costs no second copy. The rest
    is converted, and the mapping renewed every 64 MiB so that pages read leave the memory.

    Args:
        file: written by `save_checkpoint` or by others.
        keep: whether the views are kept; when they are dropped after use their pages go, too.

    Attributes:
        metadata: text entries of the header.
        views: names of the tensors that are views of the file.

    Raises:
        ValueError: if the file is not readable as safetensors; also by reading a tensor.
    """

    def __init__(self, file: Path, keep: bool = True) -> None:
        self.file, self._keep = file, keep
        self._read = 0
        with _named_errors(file):
            _check_header_size(file)
            self._handle = safe_open(str(file), framework="pt", device="cpu")
            self.metadata: dict[str, str] = dict(self._handle.metadata() or {})
            self._stored = set(self._handle.keys())
            self.shapes = {
                key: tuple(self._handle.get_slice(key).get_shape())
                for key in self._handle.keys()
                if not key.endswith(SCALE_SUFFIX)
            }
            for shape in self.shapes.values():  # an axis of 0 may stand beside absurd ones
                torch.empty(shape, device="meta")
            self.views = frozenset(
                key for key in self.shapes if self._handle.get_slice(key).get_dtype() == "F32"
            )

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.shapes:
            raise KeyError(key)
        scale = self.stored(key + SCALE_SUFFIX) if key + SCALE_SUFFIX in self._stored else None
        value = self.stored(key)
        with _named_errors(self.file):
            return unpack_tensor(value, scale)

    def stored(self, key: str) -> Tensor:
        """Give a tensor as it is in the file, row scales included."""
        with _named_errors(self.file):
            if self._read > _REMAP_BYTES:
                self._handle = safe_open(str(self.file), framework="pt", device="cpu")
                self._read = 0
            value = self._handle.get_tensor(key)
            if value.dtype != torch.float32 or not self._keep:
                self._read += value.nbytes
            return value


def _check_header_size(file: Path) -> None:
    with open(file, "rb") as stream:
        head = stream.read(512)
    size = int.from_bytes(head[:8], "little")
    if size > _MAX_HEADER_BYTES:
        raise ValueError(
            f"a header of {size} bytes, expected at most {_MAX_HEADER_BYTES}; {hint(head)}"
        )


@contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    """Turn whatever a broken file provokes into one error that names it."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (SafetensorError, OSError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error


def read_text(file: Path) -> str:
    """Read a small text file beside the weights: configuration or model card.

    Raises:
        ValueError: naming the file, if it is too large to be one.
    """
    with open(file, "rb") as stream:
        data = stream.read(_MAX_TEXT_BYTES + 1)
    if len(data) > _MAX_TEXT_BYTES:
        raise ValueError(
            f"{file} is larger than {_MAX_TEXT_BYTES >> 20} MiB: no {file.name} of a checkpoint"
        )
    return data.decode("utf-8-sig", "replace")


def shape_of(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """Give the shape of a tensor, without reading it where the mapping is lazy."""
    return tensors.shapes[key] if isinstance(tensors, LazyTensors) else tuple(tensors[key].shape)


def save_checkpoint(
    model: TwoViewModel,
    path: str | Path,
    dtype: StorageDtype = "float16",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write weights and configuration.

    Args:
        model: the network. Its provenance (licence, training data) is written with it.
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
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / WEIGHTS_FILE
    header = {"config": json.dumps(model.config.to_dict(), allow_nan=False)}
    if model.provenance is not None:
        header |= model.provenance.to_metadata()
    write_tensors(file, model.state_dict(), dtype, {**header, **(metadata or {})})
    if file is not path:
        text = json.dumps(model.config.to_dict(), indent=2, allow_nan=False)
        (path / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return file


def write_tensors(
    file: Path,
    tensors: Mapping[str, Tensor],
    dtype: StorageDtype,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, holding one converted tensor at a time.

    The library's own writer wants all of them at once. The file appears whole or not at all.

    Args:
        file: to write or replace; its folder is made if needed.
        tensors: floating-point weights by name; each is asked for once.
        dtype: of the stored weights, see `save_checkpoint`.
        metadata: text entries of the header.

    Raises:
        ValueError: for an unknown dtype, or weights that do not fit it.
    """
    require_dtype(dtype)
    header, offsets = _plan(tensors, dtype, {**(metadata or {}), "format": "pt", "storage": dtype})
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as stream:
            stream.write(header)
            for key in tensors:
                for name, value in pack_tensor(key, tensors[key], dtype).items():
                    stream.seek(len(header) + offsets[name])
                    stream.write(value.reshape(-1).view(torch.uint8).numpy().data)
        os.replace(partial, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        partial.unlink(missing_ok=True)


def require_dtype(dtype: str) -> None:
    """Check the name of a stored precision.

    Raises:
        ValueError: if there is none of that name.
    """
    if dtype not in get_args(StorageDtype):
        raise ValueError(f"dtype must be one of {', '.join(get_args(StorageDtype))}, got {dtype!r}")


def _plan(
    tensors: Mapping[str, Tensor], dtype: StorageDtype, metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """Lay out the file: its header, and where each stored tensor begins after it."""
    parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for key in tensors:
        shape = shape_of(tensors, key)
        if dtype == "int8" and len(shape) >= 2:
            parts[key] = (torch.int8, shape)
            parts[key + SCALE_SUFFIX] = (torch.float32, shape[:1])
        else:
            parts[key] = (_plain_dtype(dtype), shape)
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offsets: dict[str, int] = {}
    position = 0
    # The widest first: then every tensor begins at a multiple of its item size.
    for name, (kind, shape) in sorted(parts.items(), key=lambda p: (-p[1][0].itemsize, p[0])):
        size = kind.itemsize * torch.Size(shape).numel()
        span = [position, position + size]
        entries[name] = {"dtype": _HEADER_NAMES[kind], "shape": shape, "data_offsets": span}
        offsets[name] = position
        position += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets


def _plain_dtype(dtype: StorageDtype) -> torch.dtype:
    return torch.float16 if dtype == "int8" else getattr(torch, dtype)


def pack_tensor(key: str, value: Tensor, dtype: StorageDtype) -> dict[str, Tensor]:
    """Convert one tensor to its stored form, one or two tensors; see `save_checkpoint`.

    Raises:
        ValueError: if its values do not fit.
    """
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise ValueError(f"{key} is of type {kind}; weights are floating-point numbers")
    value = value.detach().cpu().contiguous()
    if dtype == "int8" and value.ndim >= 2:
        stored, scale = _quantise_rows(value.float())
        packed, check = {key: stored, key + SCALE_SUFFIX: scale}, scale
    else:
        check = value.to(_plain_dtype(dtype))
        packed = {key: check}
    if not bool(check.isfinite().all()):
        if not bool(value.isfinite().all()):
            raise ValueError(f"{key} holds NaN or infinite values; these weights are broken")
        raise ValueError(f"{key} holds values that {dtype} cannot store; choose float32")
    return packed


def unpack_tensor(value: Tensor, scale: Tensor | None) -> Tensor:
    """Convert one stored tensor back to float32; float32 and plain integers stay as they are."""
    if scale is not None:
        return value.float() * scale.view(-1, *[1] * (value.ndim - 1))
    return value.float() if value.is_floating_point() else value


def file_sha256(file: Path) -> str:
    """Give the SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _quantise_rows(value: Tensor) -> tuple[Tensor, Tensor]:
    rows = value.flatten(1)
    scale = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    quantised = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return quantised.view(value.shape), scale
