"""How far a depth map is from the truth, after the alignment that its unknown scale asks for.

A pixel with a true depth and no estimate is never left out: it counts as an error of 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Alignment = Literal["none", "median", "scale", "scale_shift"]
MIN_PIXELS = 20


@dataclass(frozen=True)
class DepthError:
    """Errors of one depth map, or of many pooled.

    Attributes:
        pixels: number of pixels with a true depth.
        missing: share of them without an estimate.
        abs_rel: mean of |estimate - truth| / truth, 1 where there is no estimate.
        delta_1: share of pixels whose ratio to the truth is within 1.25 either way.
        rmse_log: root mean square of the log ratio over the pixels with an estimate.
    """

    pixels: int
    missing: float
    abs_rel: float
    delta_1: float
    rmse_log: float


def depth_error(
    depth: np.ndarray, truth: np.ndarray, alignment: Alignment = "median"
) -> DepthError | None:
    """Compare depths with the truth at the same pixels.

    Args:
        depth: estimates of any shape; nan, 0 or negative where there is none.
        truth: true depths of the same shape; nan, 0 or negative where unknown.
        alignment: "none"; "median" (ratio of the medians); "scale" and "scale_shift" (least squares
            of the relative residual).

    Returns:
        The errors, or None when fewer than 20 pixels have a true depth.

    Raises:
        ValueError: if the shapes differ or the alignment is unknown.

    Reference: Eigen et al., Depth Map Prediction from a Single Image, sec. 3.2 and 4.2.
    """
    depth = np.asarray(depth, np.float64)
    truth = np.asarray(truth, np.float64)
    if depth.shape != truth.shape:
        raise ValueError(f"depth and truth must have one shape, got {depth.shape}, {truth.shape}")
    known = np.isfinite(truth) & (truth > 0)
    depth, truth = depth[known], truth[known]
    if truth.size < MIN_PIXELS:
        return None
    given = np.isfinite(depth) & (depth > 0)
    missing = float(1 - given.mean())
    if given.sum() < MIN_PIXELS:
        return DepthError(truth.size, missing, 1.0, 0.0, float("nan"))
    aligned = np.full(truth.shape, np.nan)
    aligned[given] = align_depth(depth[given], truth[given], alignment)
    good = np.isfinite(aligned) & (aligned > 0)  # a shift can make depths negative
    relative = np.ones(truth.shape)
    relative[good] = np.abs(aligned[good] - truth[good]) / truth[good]
    log_ratio = np.log(aligned[good] / truth[good])
    return DepthError(
        pixels=truth.size,
        missing=missing,
        abs_rel=float(relative.mean()),
        delta_1=float((np.abs(log_ratio) < np.log(1.25)).sum() / truth.size),
        rmse_log=float(np.sqrt((log_ratio**2).mean())),
    )


def align_depth(depth: np.ndarray, truth: np.ndarray, alignment: Alignment) -> np.ndarray:
    """Depths (N,) brought to the truth (N,), all positive; see `depth_error`."""
    if alignment == "none":
        return depth
    if alignment == "median":
        return depth * (np.median(truth) / np.median(depth))
    ratio = depth / truth
    if alignment == "scale":
        return depth * (ratio.sum() / (ratio**2).sum())
    if alignment == "scale_shift":
        design = np.stack([ratio, 1 / truth], axis=1)
        normal = design.T @ design
        if np.linalg.cond(normal) > 1e14:  # a constant estimate: scale and shift are one
            return align_depth(depth, truth, "scale")
        scale, shift = np.linalg.solve(normal, design.sum(0))
        return scale * depth + shift
    raise ValueError(f"alignment must be none, median, scale or scale_shift, got {alignment!r}")


def sample_depth(depth: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Bilinear values of a depth map at positions.

    Args:
        depth: (H, W); nan, 0 or negative where unknown.
        xy: (N, 2) pixels of the map, centres at half-integers; outside the edge counts.

    Returns:
        (N,) depths from the corners that have one; nan where these hold less than half the weight.
    """
    height, width = depth.shape
    values = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float64)
    x = np.clip(np.asarray(xy, np.float64)[:, 0] - 0.5, 0, width - 1)
    y = np.clip(np.asarray(xy, np.float64)[:, 1] - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    total, weight = np.zeros(len(x)), np.zeros(len(x))
    for row, column, share in (
        (top, left, (1 - (x - left)) * (1 - (y - top))),
        (top, right, (x - left) * (1 - (y - top))),
        (bottom, left, (1 - (x - left)) * (y - top)),
        (bottom, right, (x - left) * (y - top)),
    ):
        corner = values[row, column]
        known = ~np.isnan(corner)
        total += np.where(known, corner, 0.0) * share
        weight += np.where(known, share, 0.0)
    return np.where(weight >= 0.5, total / np.maximum(weight, 0.5), np.nan)


def resize_nearest(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depth map (H, W) at another (height, width) by the nearest pixel."""
    if depth.shape == tuple(size):
        return depth
    rows = ((np.arange(size[0]) + 0.5) * depth.shape[0] / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * depth.shape[1] / size[1]).astype(np.int64)
    return depth[rows][:, columns]
