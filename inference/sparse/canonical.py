"""Canonical view of an image: what all its pairs say of its own depth, in one pointmap.

The pointmaps of an image are streamed into weighted sums, so that none of them is kept. Depth is
split into a coarse grid of core depths, which the solver may change, and the depth of every pixel
relative to the core of its block, which it may not: matches anywhere in a block hang on its core.

Reference: Duisterhof et al., "MASt3R-SfM: a Fully-Integrated Solution for Unconstrained
Structure-from-Motion", 3DV 2025, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...geometry.pointmap import focal_from_pointmap

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]

_FOCAL_SHARES = (0.5, 3.5)  # of a 60 degree lens


@dataclass(frozen=True, eq=False)
class Anchors:
    """Where pixels of an image hang.

    Attributes:
        core: (n,) index into the image's core depths.
        offset: (n,) depth of the pixel relative to its core.
    """

    core: NDArray[np.intp]
    offset: Float64Array


@dataclass(frozen=True, eq=False)
class CanonicalView:
    """Depth of one image, as its pairs agree on it.

    Attributes:
        size: (height, width) in network pixels.
        subsample: side of a block in pixels.
        relative_depth: (H, W) float32, depth of each pixel over that of its block's centre.
        confidence: (H, W) float32.
        core_depth: (rows, columns) float64 depth at the centres of the blocks.
        focal_px: that fits the stacked pointmap best.
        pointmap: (H, W, 3) float32, the weighted mean in the image's own camera.
    """

    size: tuple[int, int]
    subsample: int
    relative_depth: Float32Array
    confidence: Float32Array
    core_depth: Float64Array
    focal_px: float
    pointmap: Float32Array

    @property
    def core_xy(self) -> Float64Array:
        """(n, 2) pixel centres of the core depths, row by row."""
        rows, columns = self.core_depth.shape
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        centre = self.subsample // 2
        return np.stack([x, y], -1).reshape(-1, 2) * float(self.subsample) + centre + 0.5

    def anchors(self, xy: NDArray[Any]) -> Anchors:
        """Hang pixels on the core depths.

        Args:
            xy: (n, 2) positions; each takes the pixel that it lies in.
        """
        x = np.clip(np.floor(xy[:, 0]).astype(np.intp), 0, self.size[1] - 1)
        y = np.clip(np.floor(xy[:, 1]).astype(np.intp), 0, self.size[0] - 1)
        rows, columns = self.core_depth.shape
        row = np.minimum(y // self.subsample, rows - 1)
        column = np.minimum(x // self.subsample, columns - 1)
        half = self.subsample // 2
        centre = self.relative_depth[row * self.subsample + half, column * self.subsample + half]
        offset = self.relative_depth[y, x].astype(np.float64) / centre
        return Anchors(row * columns + column, offset)


class CanonicalStack:
    """Weighted sums over the pointmaps of one image; memory does not grow with their number.

    Args:
        size: (height, width) of the pointmaps, both larger than half a block.
        subsample: side of a block in pixels.
        metric: pointmaps share one unit. If not, each is brought to that of the first by the
            median ratio of their depths.
    """

    def __init__(self, size: tuple[int, int], subsample: int = 8, metric: bool = True) -> None:
        if min(size) <= subsample // 2:
            raise ValueError(f"blocks of {subsample} pixels do not fit into an image of {size}")
        self.size, self.subsample, self.metric = size, subsample, metric
        self.count = 0
        self._mass, self._mass2, self._angle, self._radius = np.zeros((4, *size), np.float32)
        self._points = np.zeros((*size, 3), np.float32)
        self._first: Float32Array | None = None
        self._row, self._column = (_centres(n, subsample) for n in size)

    def add(self, pointmap: NDArray[Any], confidence: NDArray[Any]) -> None:
        """Add what one pair says of the image.

        Args:
            pointmap: (H, W, 3) in the camera frame of the image.
            confidence: (H, W), at least 1.
        """
        if pointmap.shape != (*self.size, 3) or confidence.shape != self.size:
            raise ValueError(
                f"expected maps of {self.size}, got {pointmap.shape} and {confidence.shape}"
            )
        finite = np.isfinite(pointmap).all(-1) & np.isfinite(confidence)
        points = np.where(finite[..., None], pointmap, 0).astype(np.float32)
        if not self.metric:
            points *= self._ratio(points[..., 2])
        weight = np.where(finite, confidence - 0.999, 0).astype(np.float32)
        centre = points[self._row][:, self._column]
        radius = np.hypot(*np.moveaxis(points[..., :2] - centre[..., :2], -1, 0))
        radius = np.maximum(radius, 1e-8)
        near = np.maximum(centre[..., 2], np.finfo(np.float32).eps)
        self._mass += weight
        self._mass2 += weight * weight
        self._points += weight[..., None] * points
        self._angle += weight * np.arctan((points[..., 2] - near) / radius)
        self._radius += radius
        self.count += 1

    def finish(self, principal_point: NDArray[Any] | None = None) -> CanonicalView:
        """The canonical view.

        Args:
            principal_point: (2,) in pixels whose centres are at half-integers; the default is the
                middle of the image.

        Raises:
            ValueError: nothing was added.
        """
        if self.count == 0:
            raise ValueError("an image that is in no pair has no canonical view")
        mass = np.maximum(self._mass, 1e-12)
        points, confidence = self._points / mass[..., None], self._mass2 / mass
        depth = points[self._row][:, self._column, 2]
        typical = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
        depth = np.maximum(depth, 1e-3 * typical)
        slope = np.tan(self._angle / mass)
        relative = np.maximum(1 + (self._radius / self.count) * slope / depth, 1e-3)
        rows, columns = (range(self.subsample // 2, n, self.subsample) for n in self.size)
        principal = None if principal_point is None else torch.as_tensor(principal_point).float()
        focal = focal_from_pointmap(
            torch.from_numpy(points)[None], None, principal, focal_range=_FOCAL_SHARES
        )
        return CanonicalView(
            size=self.size,
            subsample=self.subsample,
            relative_depth=relative.astype(np.float32),
            confidence=confidence.astype(np.float32, copy=False),
            core_depth=depth[np.ix_(rows, columns)].astype(np.float64),
            focal_px=float(focal[0]),
            pointmap=points.astype(np.float32, copy=False),
        )

    def _ratio(self, depth: Float32Array) -> float:
        if self._first is None:
            self._first = depth
            return 1.0
        good = (depth > 0) & (self._first > 0)
        return float(np.median(self._first[good] / depth[good])) if good.any() else 1.0


def _centres(length: int, subsample: int) -> NDArray[np.intp]:
    """For every pixel along an axis, that at the centre of its block."""
    half = subsample // 2
    last = (length - 1 - half) // subsample * subsample + half
    return np.minimum(np.arange(length) // subsample * subsample + half, last)
