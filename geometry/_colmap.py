"""Checked input for pycolmap and its options, the same for every estimator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from .camera import Float64Array

# RANSAC looks at no more correspondences than this; all are classified and refined on afterwards.
_MAX_SAMPLED = 5000


def colmap_camera(
    K: Float64Array, height: int, width: int, single_focal: bool = False
) -> pycolmap.Camera:
    """The pinhole camera of K without its skew, or of its principal point and a free focal."""
    check_size((height, width))
    if single_focal:
        # The start of the estimation; the minimal solver does not use it.
        params = [float(max(height, width)), K[0, 2], K[1, 2]]
        return pycolmap.Camera(model="SIMPLE_PINHOLE", width=width, height=height, params=params)
    params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)


def set_ransac(options: pycolmap.RANSACOptions, max_error_px: float, seed: int) -> None:
    """Set what all estimations share; one thread and a fixed seed make them repeatable."""
    options.max_error = float(max_error_px)
    options.random_seed = int(seed)
    options.num_threads = 1
    options.confidence = 0.9999
    options.min_inlier_ratio = 0.01
    options.min_num_trials = 100
    options.max_num_trials = 20_000


def subset(index: NDArray[np.intp], seed: int, most: int = _MAX_SAMPLED) -> NDArray[np.intp]:
    """At most `most` entries of `index`, in order, the same for the same seed."""
    if len(index) <= most:
        return index
    return np.sort(np.random.default_rng(seed).choice(index, most, replace=False))


def without_skew(K: Float64Array) -> Float64Array:
    """K with its skew set to zero, for pixels treated by `unskewed`."""
    return np.array([[K[0, 0], 0, K[0, 2]], [0, K[1, 1], K[1, 2]], [0, 0, 1]])


def unskewed(xy: Float64Array, K: Float64Array) -> Float64Array:
    """Pixels as a camera without skew sees them; pycolmap's pinhole model has none."""
    if K[0, 1] == 0:
        return xy
    return np.stack([xy[:, 0] - K[0, 1] * (xy[:, 1] - K[1, 2]) / K[1, 1], xy[:, 1]], axis=1)


def paired(
    first: ArrayLike, second: ArrayLike, columns: tuple[int, int], names: tuple[str, str]
) -> tuple[Float64Array, Float64Array]:
    """Two float64 arrays of equally many rows, or a ValueError that names the wrong one."""
    arrays = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    for array, count, name in zip(arrays, columns, names, strict=True):
        if array.ndim != 2 or array.shape[1] != count:
            raise ValueError(f"{name} must have shape (N, {count}), got {array.shape}")
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError(
            f"{names[0]} and {names[1]} must pair up, got {len(arrays[0])} and {len(arrays[1])} "
            "rows"
        )
    return arrays


def check_threshold(max_error_px: float) -> None:
    """Raise unless the threshold is positive."""
    if not max_error_px > 0:
        raise ValueError(f"max_error_px must be positive, got {max_error_px}")


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) or raise."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"an image size is (height, width) of at least 1, got {size}")
    return size


@contextmanager
def quiet_colmap() -> Iterator[None]:
    """Keep COLMAP's own log out of the user's terminal."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before
