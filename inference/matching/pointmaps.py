"""Matches from the pointmaps of a pair alone, for checkpoints without descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from ...models.two_view import ViewPrediction
from ..predict import PairResult
from .nearest import mutual_nearest_points
from .reciprocal import merge_pairs


@dataclass(frozen=True)
class PointMatches:
    """Matches in network pixels, centres at half-integers.

    Attributes:
        xy1: pixel centres in view 1.
        xy2: positions in view 2.
        confidence: geometric mean of the two points' confidences.
    """

    xy1: Float[np.ndarray, "n 2"]
    xy2: Float[np.ndarray, "n 2"]
    confidence: Float[np.ndarray, " n"]


def match_pointmaps(
    result: PairResult, step: int = 4, border: int = 3, subpixel: bool = True
) -> PointMatches:
    """Match pixels whose 3D points are each other's nearest, in either network order.

    Args:
        result: of the pair; points that are not finite are left out.
        step: the surest match in each square of so many pixels of view 1 is kept.
        border: matches closer to the border of either view are dropped, pixels.
        subpixel: let the tangent plane at the point of view 2 say where between its pixels the
            point of view 1 lies.
    """
    orders = (
        (result.forward.view1, result.forward.view2),
        (result.backward.view2, result.backward.view1),
    )
    found = [_mutual(view1, view2, border, subpixel) for view1, view2 in orders]
    index1, index2, xy2, confidence = (np.concatenate(parts) for parts in zip(*found, strict=True))
    index1, index2, first = merge_pairs(index1, index2)
    xy2, confidence = xy2[first], confidence[first]
    width1 = result.forward.view1.pointmap.shape[1]
    column, row = index1 % width1, index1 // width1
    surest = np.argsort(-confidence, kind="stable")
    cell = (row // step) * width1 + column // step
    keep = surest[np.unique(cell[surest], return_index=True)[1]]
    xy1 = np.stack([column, row], -1) + 0.5
    return PointMatches(xy1[keep], xy2[keep], confidence[keep])


def _mutual(
    view1: ViewPrediction, view2: ViewPrediction, border: int, subpixel: bool
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], np.ndarray, np.ndarray]:
    """Flat pixels of mutual neighbours, positions in view 2, and confidences."""
    maps = [view.pointmap.float().cpu().numpy().astype(np.float64) for view in (view1, view2)]
    usable = [np.flatnonzero(_usable(pointmap, border)) for pointmap in maps]
    points1, points2 = (m.reshape(-1, 3)[use] for m, use in zip(maps, usable, strict=True))
    if len(points1) == 0 or len(points2) == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty, np.zeros((0, 2)), np.zeros(0)
    mutual = mutual_nearest_points(points1, points2)
    near1, near2 = mutual.nearest1[mutual.mutual2], np.flatnonzero(mutual.mutual2)
    index1, index2 = usable[0][near1], usable[1][near2]
    width2 = maps[1].shape[1]
    column, row = index2 % width2, index2 // width2
    xy2 = np.stack([column, row], -1) + 0.5
    if subpixel:
        xy2 = xy2 + _tangent_offsets(maps[1], row, column, points1[near1])
    confidence = np.sqrt(_flat(view1.confidence)[index1] * _flat(view2.confidence)[index2])
    return index1, index2, xy2, confidence


def _tangent_offsets(
    pointmap: np.ndarray, row: np.ndarray, column: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """(N, 2) offsets (x, y) in [-0.5, 0.5] from a pixel to where its tangent plane meets a point.

    0 where the neighbours determine no plane.
    """
    height, width = pointmap.shape[:2]
    left, right = np.maximum(column - 1, 0), np.minimum(column + 1, width - 1)
    above, below = np.maximum(row - 1, 0), np.minimum(row + 1, height - 1)
    across = (pointmap[row, right] - pointmap[row, left]) / np.maximum(right - left, 1)[:, None]
    down = (pointmap[below, column] - pointmap[above, column]) / np.maximum(below - above, 1)[
        :, None
    ]
    gap = target - pointmap[row, column]
    aa, bb, ab = (across**2).sum(-1), (down**2).sum(-1), (across * down).sum(-1)
    ga, gb = (gap * across).sum(-1), (gap * down).sum(-1)
    determinant = aa * bb - ab**2
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = np.stack([ga * bb - gb * ab, gb * aa - ga * ab], -1) / determinant[:, None]
    plane = (determinant > 1e-6 * aa * bb) & np.isfinite(offset).all(-1)
    return np.where(plane[:, None], np.clip(offset, -0.5, 0.5), 0.0)


def _usable(pointmap: np.ndarray, border: int) -> np.ndarray:
    """(H, W) finite points that keep off the border."""
    usable = np.zeros(pointmap.shape[:2], dtype=bool)
    inner = slice(border, pointmap.shape[0] - border), slice(border, pointmap.shape[1] - border)
    usable[inner] = np.isfinite(pointmap[inner]).all(-1)
    return usable


def _flat(confidence: Tensor) -> np.ndarray:
    return confidence.float().flatten().cpu().numpy()
