"""What the readers of foreign layouts share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64
from PIL import Image

from ..pair_table import PairTable
from ..posed_set import ViewEntry


def load_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read some arrays of an .npz.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is damaged or lacks an array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path}: expected the arrays {', '.join(names)}: {error}") from error


def load_npy(path: Path) -> np.ndarray:
    """Read one array; errors as of `load_npz`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} holds no array: {error}") from error


def load_json(path: Path) -> Any:
    """Read a JSON file; errors as of `load_npz`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no readable JSON: {error}") from error


def load_numbers(path: Path, columns: int | None = None) -> Float64[np.ndarray, "n m"]:
    """Read a table of numbers with `#` comments.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it holds other things, or another number of columns.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    rows = [line.split("#")[0].replace(",", " ").split() for line in path.read_text().splitlines()]
    try:
        table = np.array([[float(v) for v in row] for row in rows if row], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: expected a table of numbers: {error}") from error
    if table.ndim != 2 or (columns is not None and table.shape[1] != columns):
        raise ValueError(f"{path}: expected rows of {columns or 'equally many'} numbers")
    return table


def rigid(
    rotation: Float[np.ndarray, "3 3"], translation: Float[np.ndarray, " 3"]
) -> Float64[np.ndarray, "4 4"]:
    """A 4x4 pose of its parts."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, np.ravel(translation)
    return pose


def rotation_xyzw(quaternion: Float[np.ndarray, " 4"]) -> Float64[np.ndarray, "3 3"]:
    """Rotation of a quaternion (x, y, z, w) of any length."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(quaternion).as_matrix()


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header of a picture.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is no picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the picture {path} does not exist")
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{path} is no readable picture: {error}") from error


def pairs_by_key(
    views: Sequence[ViewEntry], pairs: Iterable[tuple[str, str, float]]
) -> PairTable | None:
    """A table of pairs (key, key, overlap) in any order; those of unknown views are left out."""
    number = {view.key: k for k, view in enumerate(views)}
    found: dict[tuple[int, int], float] = {}
    for first, second, overlap in pairs:
        if first in number and second in number and first != second:
            a, b = sorted((number[first], number[second]))
            found.setdefault((a, b), overlap)
    if not found:
        return None
    shares = np.array(list(found.values()), dtype=np.float32)
    overlap_both: Float32[np.ndarray, "n 2"] = np.stack([shares, shares], -1)
    return PairTable(np.array(list(found), dtype=np.int64), overlap_both)


def first_existing(*paths: Path) -> Path | None:
    """The first path that exists, or None."""
    return next((path for path in paths if path.exists()), None)
