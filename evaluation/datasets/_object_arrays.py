"""Read .npz files that hold Python objects, without ever running what a pickle says."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds numbers, strings, containers and numpy arrays; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if name in ("_reconstruct", "scalar"):
            from numpy._core import multiarray

            return getattr(multiarray, name)
        return getattr(np, name)


def load_objects(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name; object arrays may hold plain values and arrays of them.

    Raises:
        ValueError: the file is damaged, or asks for anything but plain values.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                arrays[member.removesuffix(".npy")] = _read_array(archive.read(member))
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as plain values: {error}") from error
    return arrays


def _read_array(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(stream)
    if not dtype.hasobject:
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    array = _PlainUnpickler(stream).load()
    if not isinstance(array, np.ndarray):
        raise ValueError(f"expected an array, got {type(array).__name__}")
    return array.reshape(shape, order="F" if fortran else "C")
