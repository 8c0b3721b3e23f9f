"""What it takes to repeat a number: methods, weights, machine, data; and JSON of it all."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..inference.defaults import inference_size
from ..models.two_view import TwoViewModel


def describe_method(method: object) -> dict[str, object]:
    """What a method says about itself, and the hash of its weights if it holds a network.

    A method may have an attribute `description` (a mapping of plain values); one with an attribute
    `model` that is a torch module gets the sha256 of its weights and the number of its parameters.
    """
    described: dict[str, object] = {"kind": type(method).__name__}
    described.update(getattr(method, "description", {}))
    model = getattr(method, "model", None)
    if isinstance(model, TwoViewModel):
        described.setdefault("size", getattr(method, "size", None) or inference_size(model))
    if isinstance(model, torch.nn.Module):
        described["parameters"] = sum(p.numel() for p in model.parameters())
        described["weights_sha256"] = hash_weights(model)
        described["device"] = str(next(model.parameters()).device)
    return described


def hash_weights(model: torch.nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of a module's weights, sorted by name.

    The same weights give the same hash whatever file they came from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe_environment() -> dict[str, object]:
    """Versions, machine and thread counts that a number may depend on."""
    packages = {}
    for name in ("weav3r", "numpy", "torch", "pycolmap", "pillow", "scipy"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "packages": packages,
    }


class HashedSet(Protocol):
    """A set whose files can be hashed."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def data_files(self) -> tuple[Path, ...]: ...


def hash_data(sets: Sequence[HashedSet]) -> dict[str, str]:
    """ "SET/FILE" -> sha256 of every data file of the sets."""
    return {
        f"{data.name}/{Path(os.path.relpath(path, data.folder)).as_posix()}": sha256_of_file(path)
        for data in sets
        for path in data.data_files
    }


def sha256_of_file(path: Path | str) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """Turn dataclasses, arrays and numbers into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _key(key: object) -> str:
    return f"{key:g}" if isinstance(key, float) else str(key)
