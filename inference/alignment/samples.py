"""What the dense alignment keeps of the pointmaps: a strided grid of every map, image by image.

The maps themselves are read once and forgotten, so memory grows with pairs times grid points, not
with pairs times pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
ConfidenceTransform = Literal["log", "sqrt", "m1", "id", "none"]


@dataclass(frozen=True, eq=False)
class PairMaps:
    """What the network says of an ordered pair.

    Attributes:
        frame, other: image indices; both maps are in the camera frame of `frame`.
        pointmaps: (H, W, 3) of `frame` and of `other`, up to one scale; the sizes may differ.
        confidences: (H, W) of each, at least 1.
    """

    frame: int
    other: int
    pointmaps: tuple[NDArray[Any], NDArray[Any]]
    confidences: tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class ImageSamples:
    """All observations of one image on its grid.

    Attributes:
        size: (height, width) of its maps.
        xy: (n, 2) pixel centres of the grid, x and y.
        points: (D, n, 3) float32, one row per pair that shows the image.
        confidence: (D, n) float32; 0 where the point is not finite.
        edge: (D,) index of the pair.
        side: (D,) 0 where the image is the frame of the pair, 1 where it is the other.
    """

    size: tuple[int, int]
    xy: Float64Array
    points: Float32Array
    confidence: Float32Array
    edge: NDArray[np.intp]
    side: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Samples:
    """The observations of all images.

    Attributes:
        pairs: (E, 2) image indices (frame, other).
        score: (E,) product of the mean confidences of the two maps.
        images: per image its observations.
        row: (E, 2) row of every map within the observations of its image.
    """

    pairs: NDArray[np.intp]
    score: Float64Array
    images: list[ImageSamples]
    row: NDArray[np.intp]

    def map_of(self, edge: int, side: int) -> tuple[Float64Array, Float64Array]:
        """Grid points (n, 3) and confidences (n,) of one map."""
        image, row = self.images[self.pairs[edge, side]], self.row[edge, side]
        return image.points[row].astype(np.float64), image.confidence[row].astype(np.float64)


def grid_lines(length: int, count: int) -> NDArray[np.intp]:
    """Indices of at most `count` lines at the middles of equal strips."""
    count = min(count, length)
    return ((np.arange(count) + 0.5) * length / count).astype(np.intp)


def grid_pixels(size: tuple[int, int], grid: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column (n,) of every grid point, row by row."""
    rows, columns = np.meshgrid(grid_lines(size[0], grid), grid_lines(size[1], grid), indexing="ij")
    return rows.ravel(), columns.ravel()


def sample_maps(pairs: Iterable[PairMaps], num_images: int, grid: int) -> Samples:
    """Read every pair once and keep its maps on the grid.

    Args:
        pairs: in any order; a generator may read them from disk.
        num_images: images 0 .. num_images - 1 must all be shown.
        grid: grid lines per side.

    Raises:
        ValueError: an index is out of range, a pair shows one image twice, sizes disagree, or an
            image is in no pair.
    """
    index, scores, slots = [], [], []
    sizes: dict[int, tuple[int, int]] = {}
    maps: list[list[tuple[int, int, Float32Array, Float32Array]]] = [[] for _ in range(num_images)]
    for edge, pair in enumerate(pairs):
        shown = (pair.frame, pair.other)
        if pair.frame == pair.other or not all(0 <= i < num_images for i in shown):
            raise ValueError(f"pair {edge} shows {shown}; expected two of {num_images} images")
        index.append(shown)
        scores.append(float(np.prod([np.mean(c, dtype=np.float64) for c in pair.confidences])))
        slots.append([len(maps[i]) for i in shown])
        for side, i in enumerate(shown):
            points, confidence = pair.pointmaps[side], pair.confidences[side]
            size = confidence.shape
            if points.shape != (*size, 3) or sizes.setdefault(i, size) != size:
                raise ValueError(
                    f"pair {edge}: the maps of image {i} have shapes {points.shape} and {size}; "
                    f"expected (H, W, 3) and (H, W) with one size per image, {sizes.get(i, size)}"
                )
            maps[i].append((edge, side, *_on_grid(points, confidence, grid)))
    missing = [i for i in range(num_images) if not maps[i]]
    if missing:
        raise ValueError(f"images {missing} are in no pair; align connected images only")
    images = [_stacked(maps[i], sizes[i], grid) for i in range(num_images)]
    return Samples(np.array(index), np.array(scores), images, np.array(slots))


def _on_grid(
    points: NDArray[Any], confidence: NDArray[Any], grid: int
) -> tuple[Float32Array, Float32Array]:
    rows, columns = grid_pixels(confidence.shape, grid)  # type: ignore[arg-type]
    kept = points[rows, columns].astype(np.float32)
    sure = confidence[rows, columns].astype(np.float32)
    good = np.isfinite(kept).all(-1) & np.isfinite(sure)
    return np.where(good[:, None], kept, 0), np.where(good, sure, 0)


def _stacked(
    maps: list[tuple[int, int, Float32Array, Float32Array]], size: tuple[int, int], grid: int
) -> ImageSamples:
    rows, columns = grid_pixels(size, grid)
    samples = ImageSamples(
        size=size,
        xy=np.stack([columns, rows], -1).astype(np.float64) + 0.5,
        points=np.stack([m[2] for m in maps]),
        confidence=np.stack([m[3] for m in maps]),
        edge=np.array([m[0] for m in maps]),
        side=np.array([m[1] for m in maps]),
    )
    maps.clear()
    return samples


def confidence_weight(
    confidence: NDArray[Any], transform: ConfidenceTransform
) -> NDArray[np.float64]:
    """Weight of an observation in the objective; a confidence of 0 (no observation) has none.

    Raises:
        ValueError: unknown transform.
    """
    c = np.asarray(confidence, dtype=np.float64)
    if transform == "log":
        weight = np.log(np.maximum(c, 1.0))
    elif transform == "sqrt":
        weight = np.sqrt(c)
    elif transform == "m1":
        weight = np.maximum(c - 1.0, 0.0)
    elif transform in ("id", "none"):
        weight = c
    else:
        raise ValueError(
            f'confidence must be "log", "sqrt", "m1", "id" or "none", got {transform!r}'
        )
    return weight
