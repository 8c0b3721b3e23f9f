"""Unknowns of the dense alignment: cameras, one depth per grid point, one similarity per pair."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .samples import Float64Array

BASE_SCALE = 0.5  # geometric mean of the pairs' scales: what makes objectives comparable


@dataclass(frozen=True, eq=False)
class State:
    """Cameras, depths and pair similarities.

    Attributes:
        rotation: (N, 3, 3) world_from_cam.
        center: (N, 3) camera centres in the world.
        focal: (N,) pixels.
        principal_point: (N, 2) pixels.
        depth: per image (n,) depth of its grid points.
        pair_scale, pair_rotation, pair_translation: (E,), (E, 3, 3), (E, 3); a pair's points are
            at `scale * rotation @ x + translation` in the world.
    """

    rotation: Float64Array
    center: Float64Array
    focal: Float64Array
    principal_point: Float64Array
    depth: list[Float64Array]
    pair_scale: Float64Array
    pair_rotation: Float64Array
    pair_translation: Float64Array

    def rays(self, v: int, xy: Float64Array) -> Float64Array:
        """(n, 3) viewing rays of image v in its camera, with unit z."""
        ratio = (xy - self.principal_point[v]) / self.focal[v]
        return np.concatenate([ratio, np.ones_like(ratio[:, :1])], -1)

    def world_points(self, v: int, xy: Float64Array) -> Float64Array:
        """(n, 3) current points of image v's grid."""
        camera = self.rays(v, xy) * self.depth[v][:, None]
        return camera @ self.rotation[v].T + self.center[v]

    def transformed(self, scale: float, rotation: Float64Array, translation: Float64Array) -> State:
        """The same scene after `x -> scale * rotation @ x + translation` of the world."""
        return replace(
            self,
            rotation=rotation @ self.rotation,
            center=scale * self.center @ rotation.T + translation,
            depth=[scale * d for d in self.depth],
            pair_scale=scale * self.pair_scale,
            pair_rotation=rotation @ self.pair_rotation,
            pair_translation=scale * self.pair_translation @ rotation.T + translation,
        )

    def at_base_scale(self) -> State:
        """The same scene with the geometric mean of the pairs' scales at `BASE_SCALE`."""
        gauge = BASE_SCALE / float(np.exp(np.log(self.pair_scale).mean()))
        return self.transformed(gauge, np.eye(3), np.zeros(3))


def procrustes(
    source: Float64Array, target: Float64Array, weight: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Weighted similarities of (..., n, 3) points: scale (...,), rotation, translation (..., 3).

    Reference: Umeyama, PAMI 1991, eqs. 40-43.
    """
    weight = weight / np.maximum(weight.sum(-1, keepdims=True), 1e-300)
    mean_source = np.einsum("...n,...ni->...i", weight, source)
    mean_target = np.einsum("...n,...ni->...i", weight, target)
    a, b = source - mean_source[..., None, :], target - mean_target[..., None, :]
    weighted = a * weight[..., None]
    u, singular, vt = np.linalg.svd(np.swapaxes(b, -1, -2) @ weighted)
    singular[..., 2] *= np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    u[..., 2] *= np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)[..., None]
    rotation = u @ vt
    spread = np.maximum((weighted * a).sum((-1, -2)), 1e-300)
    scale = np.maximum(singular.sum(-1) / spread, 1e-12)
    moved = scale[..., None] * np.einsum("...ij,...j->...i", rotation, mean_source)
    return scale, rotation, mean_target - moved


def rotations_from_vectors(vectors: Float64Array) -> NDArray[np.float64]:
    """(N, 3) rotation vectors in radians to (N, 3, 3)."""
    return Rotation.from_rotvec(vectors).as_matrix()
