"""World points at pixels of a database photo, from a depth map or from the tracks of a model.

A method matches pixels; what lies behind them in the world is answered here, NaN for "unknown".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pycolmap
from scipy.spatial import KDTree

from ...geometry.camera import Camera, rigid_inverse_array
from ...geometry.ledger import Ledger

_SAME_SURFACE = 1.05  # largest over smallest of four depths that may be interpolated


class PixelPoints(Protocol):
    """What lies behind the pixels of one photo."""

    def at(self, xy: np.ndarray) -> np.ndarray:
        """World points (N, 3) float64 at original pixels (N, 2), NaN where unknown."""
        ...


@dataclass(frozen=True)
class DepthPoints:
    """Points of a depth map.

    Attributes:
        camera: in original pixels.
        depth: (h, w) along the camera's axis, NaN or <= 0 where unknown, at any size.
        ledger: between the pixels of `depth` (its network pixels) and the original; None when
            `depth` covers the whole original image.
    """

    camera: Camera
    depth: np.ndarray
    ledger: Ledger | None = None

    def at(self, xy: np.ndarray) -> np.ndarray:
        """World points (N, 3); interpolated inside a surface, the nearest pixel's at an edge."""
        xy = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
        if self.ledger is not None:
            here = np.asarray(self.ledger.points_to_network(xy), dtype=np.float64)
        else:
            height, width = self.depth.shape
            here = xy * [width / self.camera.width, height / self.camera.height]
        return self.camera.unproject(xy, sample_surface(self.depth, here))


def sample_surface(depth: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Depth at positions, without ever mixing two surfaces.

    Args:
        depth: (H, W), NaN or <= 0 where unknown.
        xy: (N, 2) pixels of `depth`, centres at half-integers.

    Returns:
        (N,) float64; NaN outside the map and where the nearest pixel is unknown. Planes come out
        exactly: inverse depth is what is linear in the image.
    """
    height, width = depth.shape
    x, y = xy[:, 0] - 0.5, xy[:, 1] - 0.5
    inside = (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)  # NaN positions, too
    left = np.minimum(np.floor(x).astype(np.int64), max(width - 2, 0))
    top = np.minimum(np.floor(y).astype(np.int64), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    corners = np.stack(
        [depth[top, left], depth[top, right], depth[bottom, left], depth[bottom, right]]
    ).astype(np.float64)
    corners = np.where(np.isfinite(corners) & (corners > 0), corners, np.nan)
    dx, dy = x - left, y - top
    weights = np.stack([(1 - dx) * (1 - dy), dx * (1 - dy), (1 - dx) * dy, dx * dy])
    smooth = corners.max(0) <= _SAME_SURFACE * corners.min(0)  # False with any NaN
    with np.errstate(divide="ignore", invalid="ignore"):
        interpolated = 1.0 / (weights / corners).sum(0)
    nearest = np.take_along_axis(corners, weights.argmax(0)[None], axis=0)[0]
    return np.where(inside, np.where(smooth, interpolated, nearest), np.nan)


@dataclass(frozen=True)
class TrackPoints:
    """Points of a sparse model: a pixel takes the depth of the observed points around it.

    Attributes:
        camera: COLMAP camera of the photo, with its lens distortion.
        cam_from_world: (4, 4).
        xy: (M, 2) pixels of the observed points, as stored.
        xyz: (M, 3) the points in the world.
        radius_px: an observation farther away says nothing about a pixel.
        neighbours: observations that are read together.
    """

    camera: pycolmap.Camera
    cam_from_world: np.ndarray
    xy: np.ndarray
    xyz: np.ndarray
    radius_px: float
    neighbours: int = 4
    _tree: KDTree | None = field(init=False, repr=False, compare=False)
    _depth: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        z = self.xyz @ self.cam_from_world[2, :3] + self.cam_from_world[2, 3]
        front = np.isfinite(self.xy).all(1) & np.isfinite(z) & (z > 0)
        object.__setattr__(self, "_depth", z[front])
        object.__setattr__(self, "_tree", KDTree(self.xy[front]) if front.any() else None)

    def at(self, xy: np.ndarray) -> np.ndarray:
        """World points (N, 3) at the weighted mean inverse depth of the nearest observations."""
        xy = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
        if self._tree is None or not len(xy):
            return np.full((len(xy), 3), np.nan)
        count = min(self.neighbours, len(self._depth))
        far, index = self._tree.query(xy, k=count, distance_upper_bound=self.radius_px)
        far, index = far.reshape(len(xy), count), index.reshape(len(xy), count)
        near = np.isfinite(far)
        depth = np.where(near, self._depth[np.minimum(index, len(self._depth) - 1)], np.nan)
        z = _weighted_inverse_depth(depth, np.where(near, far, np.inf))
        rays = np.asarray(self.camera.cam_from_img(xy), dtype=np.float64).reshape(-1, 2)
        in_cam = np.column_stack([rays, np.ones(len(rays))]) * z[:, None]
        world_from_cam = rigid_inverse_array(self.cam_from_world)
        return in_cam @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]


def _weighted_inverse_depth(depth: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Mean of the neighbours (N, k) on the surface of the nearest one, nearer = heavier."""
    same = np.abs(np.log(depth / depth[:, :1])) < np.log(_SAME_SURFACE)  # False for NaN
    weight = np.where(same, 1.0 / (distance + 0.25) ** 2, 0.0)
    total = np.where(same, weight / np.where(same, depth, 1.0), 0.0).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(same[:, 0], weight.sum(1) / total, np.nan)
