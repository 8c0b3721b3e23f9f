"""Unknowns of the sparse alignment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .problem import Cores, Float64Array, IntArray, Pixels

COLUMNS = 10  # shift, turn, log focal, principal point, log size of an image
FOCAL, PRINCIPAL, SIZE = 6, slice(7, 9), 9


@dataclass(frozen=True, eq=False)
class State:
    """Cameras and depths.

    Attributes:
        rotation: (N, 3, 3) world_from_cam.
        center: (N, 3) camera centres in the world.
        lens: (N,) which intrinsics an image has.
        log_focal: (L,) of pixels.
        principal_point: (L, 2) as a share of (width, height).
        log_size: (N,) of the scale of each image's canonical depth; at least 0, so that the scene
            cannot shrink to nothing.
        depth: (P,) core depths in the world's unit; None ties them to the canonical ones: when the
            focal length changes, the relief stays and its distance follows.
        extent: (N, 2) width and height in pixels.
    """

    rotation: Float64Array
    center: Float64Array
    lens: IntArray
    log_focal: Float64Array
    principal_point: Float64Array
    log_size: Float64Array
    depth: Float64Array | None
    extent: Float64Array

    @property
    def focal(self) -> Float64Array:
        """(N,) pixels."""
        return np.exp(self.log_focal[self.lens])

    @property
    def principal_px(self) -> Float64Array:
        """(N, 2) pixels."""
        return self.principal_point[self.lens] * self.extent

    def core_depth(self, cores: Cores) -> Float64Array:
        """(P,) depths in the world's unit."""
        if self.depth is not None:
            return self.depth
        moved = cores.typical * (self.focal / cores.focal - 1.0)
        size = np.exp(self.log_size)
        return size[cores.image] * (cores.depth + moved[cores.image])

    def moved(self, step: Float64Array, columns: IntArray, depth_step: Float64Array) -> State:
        """After a step.

        Args:
            step: (K,) of the cameras' parameters, a zero at the end for those that are held.
            columns: (N, 10) parameter of each column of each image.
            depth_step: (P,) of the logarithms of free depths.
        """
        by_image = step[columns]
        log_focal, principal = self.log_focal.copy(), self.principal_point.copy()
        log_focal[self.lens] = self.log_focal[self.lens] + np.clip(by_image[:, FOCAL], -0.5, 0.5)
        principal[self.lens] = self.principal_point[self.lens] + by_image[:, PRINCIPAL]
        turn = Rotation.from_rotvec(by_image[:, 3:6]).as_matrix()
        size = self.log_size + np.clip(by_image[:, SIZE], -1, 1)
        depth = self.depth
        if depth is not None:
            depth = depth * np.exp(np.clip(depth_step, -1, 1))
        return replace(
            self,
            rotation=turn @ self.rotation,
            center=self.center + by_image[:, :3],
            log_focal=log_focal,
            principal_point=principal,
            log_size=np.maximum(size, 0.0),
            depth=depth,
        )


@dataclass(frozen=True, eq=False)
class Lifted:
    """World points of some pixels and how they depend on their image.

    Attributes:
        points: (n, 3).
        depth: (n,) in the camera.
        by_image: (n, 3, 10) derivatives by the image's parameters.
        by_core: (n, 3) by the logarithm of the core depth.
    """

    points: Float64Array
    by_image: NDArray[np.float64] | None
    by_core: Float64Array


def lift(state: State, cores: Cores, pixels: Pixels, derivatives: bool) -> Lifted:
    """Bring pixels to the world.

    Args:
        state: cameras and depths.
        cores: canonical depths.
        pixels: n pixels.
        derivatives: whether `by_image` is wanted.
    """
    image, lens = pixels.image, state.lens[pixels.image]
    focal, size = state.focal[image], np.exp(state.log_size[image])
    core = state.core_depth(cores)[pixels.core]
    bulge = pixels.lift * cores.focal[image] / focal
    depth = core * (1.0 + bulge)
    slope = (pixels.xy - state.principal_point[lens] * state.extent[image]) / focal[:, None]
    camera = np.concatenate([slope * depth[:, None], depth[:, None]], -1)
    rotation = state.rotation[image]
    arm = np.einsum("nij,nj->ni", rotation, camera)
    points = arm + state.center[image]
    if not derivatives:
        return Lifted(points, None, arm)
    by = np.zeros((len(depth), 3, COLUMNS))
    by[:, 0, 0] = by[:, 1, 1] = by[:, 2, 2] = 1.0
    by[:, :, 3:6] = -cross_matrix(arm)
    by_depth = -core * bulge
    if state.depth is None:  # the distance follows the focal length
        by_depth = by_depth + size * cores.typical[image] * focal / cores.focal[image] * (1 + bulge)
        by[:, :, SIZE] = arm
    ray = np.concatenate([slope, np.ones_like(depth)[:, None]], -1)
    by_focal = by_depth[:, None] * ray
    by_focal[:, :2] -= camera[:, :2]
    by[:, :, FOCAL] = np.einsum("nij,nj->ni", rotation, by_focal)
    reach = -(depth / focal)[:, None] * state.extent[image]
    by[:, :, PRINCIPAL] = rotation[:, :, :2] * reach[:, None]
    return Lifted(points, by, arm)


def cross_matrix(v: Float64Array) -> Float64Array:
    """(n, 3, 3) matrices of the cross product with (n, 3) vectors."""
    matrix = np.zeros((*v.shape, 3))
    x, y, z = v.T
    matrix[:, 0, 1], matrix[:, 0, 2], matrix[:, 1, 2] = -z, y, -x
    matrix[:, 1, 0], matrix[:, 2, 0], matrix[:, 2, 1] = z, -y, x
    return matrix
