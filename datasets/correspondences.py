"""Pixels of two posed views that show the same point, from depth, and random wrong pairs.

The published matching loss trains on these. Pixels are counted from 0 and given as (column, row):
they index arrays. For the procedural scenes, whose surfaces are known, `procedural.correspondence`
also tells what is hidden.

Reference: Leroy et al., Grounding Image Matching in 3D with MASt3R, ECCV 2024, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .posed_view import PosedView

Pixels = Int[np.ndarray, "n 2"]


@dataclass(frozen=True, eq=False)
class PixelPairs:
    """Pairs of pixels (column, row), counted from 0.

    Attributes:
        pixels1: in view 1.
        pixels2: in view 2.
        valid: True for pairs that show the same point, False for random wrong ones.
    """

    pixels1: Int[np.ndarray, "n 2"]
    pixels2: Int[np.ndarray, "n 2"]
    valid: Bool[np.ndarray, " n"]


def reciprocal_pixels(
    view1: PosedView, view2: PosedView, both_valid: bool = False
) -> tuple[Pixels, Pixels]:
    """Find the pixels of view 1 that come back to themselves by way of view 2.

    Each pixel's point is projected into the other view, to the nearest pixel, or the nearest one of
    the border when it falls outside. Points behind something nearer are found too.

    Args:
        view1: with depth and pose.
        view2: the same.
        both_valid: keep only pairs with a known depth at both ends; the published loaders keep all.

    Returns:
        (n, 2) pixels of view 1 in row-major order and (n, 2) of view 2.
    """
    there = _nearest_pixel(view1.pointmap_world, view2)
    back = _nearest_pixel(view2.pointmap_world, view1)
    index1 = np.flatnonzero(back[there] == np.arange(len(there)))
    index2 = there[index1]
    if both_valid:
        keep = view1.valid.ravel()[index1] & view2.valid.ravel()[index2]
        index1, index2 = index1[keep], index2[keep]
    return _pixels(index1, view1.size), _pixels(index2, view2.size)


def sample_pixel_pairs(
    matches: tuple[Pixels, Pixels],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    count: int,
    negative_share: float,
    rng: np.random.Generator,
) -> PixelPairs:
    """Draw pairs for the matching loss: true ones first, then wrong ones.

    Wrong pairs join pixels that no match uses, drawn in each view by itself. Where there are not
    enough of one kind, the other one fills up.

    Args:
        matches: all true pairs, none twice, as `reciprocal_pixels` gives them.
        sizes: (height, width) of both views.
        count: how many pairs.
        negative_share: of them are wrong, in [0, 1].
        rng: source of randomness.

    Raises:
        ValueError: if the share is out of range or there are too few pixels.
    """
    if not 0 <= negative_share <= 1:
        raise ValueError(f"negative_share must be in [0, 1], got {negative_share}")
    index = [p[:, 1] * size[1] + p[:, 0] for p, size in zip(matches, sizes, strict=True)]
    unused = []
    for flat, size in zip(index, sizes, strict=True):
        free = np.ones(size[0] * size[1], dtype=bool)
        free[flat] = False
        unused.append(free)
    available = len(index[0])
    positives = min(available, int(count * (1 - negative_share)))
    negatives = min(count - positives, *(int(free.sum()) for free in unused))
    positives = count - negatives
    if positives > available:
        raise ValueError(
            f"{count} pairs were asked for, but there are only {available} matches and {negatives} "
            "unmatched pixels; ask for fewer"
        )
    chosen = np.arange(available)
    if positives < available:
        chosen = rng.permutation(available)[:positives]
    drawn = []
    for flat, free, size in zip(index, unused, sizes, strict=True):
        wrong = np.zeros(0, dtype=np.int64)
        if negatives > 0:
            wrong = rng.choice(len(free), negatives, replace=False, p=free / free.sum())
        drawn.append(_pixels(np.concatenate([flat[chosen], wrong]), size))
    return PixelPairs(drawn[0], drawn[1], np.arange(count) < positives)


def _nearest_pixel(points: Float[np.ndarray, "h w 3"], view: PosedView) -> Int[np.ndarray, " n"]:
    """Flat index of the pixel of `view` nearest to where each point projects."""
    rotation, centre = view.world_from_cam[:3, :3], view.world_from_cam[:3, 3]
    in_cam = (points.reshape(-1, 3) - centre) @ rotation
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = (in_cam @ view.K.T)[:, :2] / in_cam[:, 2:]
    # A point in the plane of the camera has no pixel; the corner takes it, as any other would do.
    pixels = np.rint(np.nan_to_num(xy - 0.5, nan=0.0))
    height, width = view.size
    column, row = pixels[:, 0].clip(0, width - 1), pixels[:, 1].clip(0, height - 1)
    return (row * width + column).astype(np.int64)


def _pixels(index: Int[np.ndarray, " n"], size: tuple[int, int]) -> Pixels:
    return np.stack([index % size[1], index // size[1]], -1)
