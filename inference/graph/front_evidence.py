"""Negative evidence: points that would lie in front of a surface that another image sees.

Had they been there, the other image would have seen them. Points behind its surfaces say nothing:
they may be hidden.

Reference: Heinly, Dunn & Frahm, "Correcting for Duplicate Scene Structure in Sparse 3D
Reconstruction", ECCV 2014, for the use of conflicting observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import minimum_filter

from ...geometry.camera import Camera, Float64Array

_SPARSE_CELLS = 32  # along the longer side of an image, for sparse depths


@dataclass(frozen=True)
class FrontEvidence:
    """How many points were compared with an observed surface, and how many lie before it."""

    checked: int
    in_front: int

    @property
    def share(self) -> float:
        """Share of the points in front; 0 where nothing could be compared."""
        return self.in_front / max(self.checked, 1)

    def __add__(self, other: FrontEvidence) -> FrontEvidence:
        return FrontEvidence(self.checked + other.checked, self.in_front + other.in_front)


@dataclass(frozen=True, eq=False)
class ObservedDepth:
    """The surfaces that one image sees.

    Attributes:
        depth: (H, W) z, NaN or not positive where nothing is confidently seen.
        K: (3, 3) intrinsics at the size of `depth`, pixel centres at half-integers.
    """

    depth: Float64Array
    K: Float64Array

    @classmethod
    def from_points(cls, camera: Camera, points: ArrayLike) -> ObservedDepth:
        """Coarse depth from the sparse world points that a camera observes, the nearest per cell.

        Args:
            camera: the camera.
            points: (n, 3) world points that it observes.
        """
        xy, depth = camera.project(points)
        cell = max(camera.height, camera.width) / _SPARSE_CELLS
        height, width = (max(1, round(side / cell)) for side in (camera.height, camera.width))
        scaled = camera.resized(height, width)
        grid = np.full((height, width), np.inf)
        inside = ((xy >= 0) & (xy < (camera.width, camera.height))).all(axis=1)  # NaN is not
        column, row = (xy[inside] * (width, height) / (camera.width, camera.height)).astype(int).T
        np.minimum.at(grid, (row, column), depth[inside])
        return cls(np.where(np.isfinite(grid), grid, np.nan), scaled.K)


def front_evidence(
    observed: ObservedDepth, points: ArrayLike, tolerance: float = 0.1
) -> FrontEvidence:
    """Count the points that lie in front of the surfaces that an image sees.

    A point is compared with the nearest surface around its pixel (3 x 3), so that slopes and
    outlines do not count.

    Args:
        observed: what the image sees.
        points: (n, 3) in its camera frame, confidently seen by another image.
        tolerance: share of the depth by which a point must be nearer than the surface.
    """
    points = np.asarray(points, dtype=float)
    points = points[np.isfinite(points).all(axis=1) & (points[:, 2] > 0)]
    height, width = observed.depth.shape
    xy = points @ observed.K.T
    xy = xy[:, :2] / xy[:, 2:]
    inside = ((xy >= 0) & (xy < (width, height))).all(axis=1)
    column, row = xy[inside].astype(int).T
    seen = np.isfinite(observed.depth) & (observed.depth > 0)
    nearest = minimum_filter(np.where(seen, observed.depth, np.inf), 3, mode="nearest")
    compared = seen[row, column]
    surface = nearest[row, column][compared]
    in_front = points[inside, 2][compared] < (1 - tolerance) * surface
    return FrontEvidence(int(compared.sum()), int(in_front.sum()))


def camera_front_evidence(
    cameras: tuple[Camera, Camera],
    points: tuple[ArrayLike, ArrayLike],
    tolerance: float = 0.1,
) -> FrontEvidence:
    """Negative evidence against two posed cameras, from the sparse points that each observes.

    Args:
        cameras: in one world frame.
        points: per camera (n, 3) world points that it observes.
        tolerance: see `front_evidence`.
    """
    total = FrontEvidence(0, 0)
    for own, other in ((0, 1), (1, 0)):
        observed = ObservedDepth.from_points(cameras[own], points[own])
        pose = cameras[own].cam_from_world
        seen = np.asarray(points[other], dtype=float) @ pose[:3, :3].T + pose[:3, 3]
        total += front_evidence(observed, seen, tolerance)
    return total
