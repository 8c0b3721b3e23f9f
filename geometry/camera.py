"""A pinhole camera with its pose: what every result of the library is expressed in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]

# A float32 rotation that went through a few products is off by about 1e-6; 1e-3 is a typing error.
_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Camera:
    """Pinhole camera in OpenCV axes (x right, y down, z forward).

    Arrays are copied and converted to float64.

    Attributes:
        K: (3, 3) intrinsics in pixels of a height x width image, pixel centres at half-integers.
        cam_from_world: (4, 4) rigid, in units of the world.
        height: image height in pixels.
        width: image width in pixels.

    Raises:
        ValueError: if a shape is wrong, a number is not finite, K is not an upper triangular matrix
            with positive focal lengths, the pose is not rigid, or the size is not positive.
    """

    K: Float64Array
    cam_from_world: Float64Array
    height: int
    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "K", check_intrinsics(self.K))
        object.__setattr__(self, "cam_from_world", check_rigid(self.cam_from_world))
        if int(self.height) != self.height or int(self.width) != self.width:
            raise ValueError(f"image size must be whole pixels, got {self.height}x{self.width}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image size must be positive, got {self.height}x{self.width}")
        object.__setattr__(self, "height", int(self.height))
        object.__setattr__(self, "width", int(self.width))

    @property
    def world_from_cam(self) -> Float64Array:
        """(4, 4) inverse pose."""
        return rigid_inverse_array(self.cam_from_world)

    @property
    def center(self) -> Float64Array:
        """(3,) optical centre in the world."""
        return self.world_from_cam[:3, 3]

    @property
    def focal_px(self) -> float:
        """Mean of the two focal lengths in pixels."""
        return float((self.K[0, 0] + self.K[1, 1]) / 2)

    @property
    def fov_deg(self) -> tuple[float, float]:
        """Full opening angles (vertical, horizontal) in degrees, for a central principal point."""
        vertical = np.rad2deg(2 * np.arctan(self.height / (2 * self.K[1, 1])))
        horizontal = np.rad2deg(2 * np.arctan(self.width / (2 * self.K[0, 0])))
        return float(vertical), float(horizontal)

    def project(self, points: ArrayLike) -> tuple[Float64Array, Float64Array]:
        """Project world points.

        Args:
            points: (..., 3) in the world.

        Returns:
            xy (..., 2) in pixels, NaN for points not in front of the camera, possibly outside the
            image; depth (...,) along the optical axis, in units of the world, also where it is not
            positive.
        """
        world = _last_axis(points, 3, "points")
        in_cam = world @ self.cam_from_world[:3, :3].T + self.cam_from_world[:3, 3]
        depth = in_cam[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            homogeneous = (in_cam @ self.K.T)[..., :2] / np.where(depth > 0, depth, np.nan)[
                ..., None
            ]
        return homogeneous, depth

    def unproject(self, xy: ArrayLike, depth: ArrayLike) -> Float64Array:
        """Lift pixels to world points.

        Args:
            xy: (..., 2) pixels.
            depth: (...,) along the optical axis; values that are not positive give NaN.

        Returns:
            (..., 3) in the world.
        """
        pixels = _last_axis(xy, 2, "xy")
        z = np.asarray(depth, dtype=np.float64)
        z = np.where(z > 0, z, np.nan)
        y = (pixels[..., 1] - self.K[1, 2]) / self.K[1, 1]
        x = (pixels[..., 0] - self.K[0, 2] - self.K[0, 1] * y) / self.K[0, 0]
        in_cam = np.stack(np.broadcast_arrays(x * z, y * z, z), axis=-1)
        world_from_cam = self.world_from_cam
        return in_cam @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]

    def resized(self, height: int, width: int) -> Camera:
        """The camera of the same picture at another size; only K is scaled."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return replace(self, K=scale @ self.K, height=height, width=width)


def rigid_inverse_array(transform: ArrayLike) -> Float64Array:
    """Invert one or many rigid transforms (..., 4, 4) given as arrays."""
    matrix = np.asarray(transform, dtype=np.float64)
    result = np.zeros_like(matrix)
    rotation = np.swapaxes(matrix[..., :3, :3], -1, -2)
    result[..., :3, :3] = rotation
    result[..., :3, 3] = -(rotation @ matrix[..., :3, 3:])[..., 0]
    result[..., 3, 3] = 1
    return result


def check_intrinsics(K: ArrayLike, name: str = "K") -> Float64Array:
    """Return K as a float64 copy, or say what is wrong with it."""
    matrix = np.array(K, dtype=np.float64)
    if matrix.shape != (3, 3):
        raise ValueError(f"{name} must have shape (3, 3), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} has entries that are not finite: {matrix.tolist()}")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise ValueError(
            f"{name} needs positive focal lengths on its diagonal, got {matrix[0, 0]:g} and "
            f"{matrix[1, 1]:g}"
        )
    if matrix[1, 0] != 0 or not np.array_equal(matrix[2], [0, 0, 1]):
        raise ValueError(
            f"{name} must look like [[fx, s, cx], [0, fy, cy], [0, 0, 1]], got {matrix.tolist()}"
        )
    return matrix


def check_rigid(transform: ArrayLike, name: str = "cam_from_world") -> Float64Array:
    """Return a 4x4 rigid transform as a float64 copy, or say what is wrong with it."""
    matrix = np.array(transform, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"{name} must have shape (4, 4), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} has entries that are not finite")
    if not np.allclose(matrix[3], [0, 0, 0, 1], rtol=0, atol=1e-6):
        raise ValueError(f"the last row of {name} must be (0, 0, 0, 1), got {matrix[3].tolist()}")
    rotation = matrix[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > _ROTATION_TOLERANCE:
        raise ValueError(
            f"{name} must hold a rotation, but its rows are not orthonormal (off by {error:.2g}); "
            "a scale belongs into a Similarity"
        )
    if np.linalg.det(rotation) < 0:
        raise ValueError(f"{name} holds a mirror image (determinant -1), expected a rotation")
    return matrix


def _last_axis(values: ArrayLike, size: int, name: str) -> Float64Array:
    array = np.asarray(values, dtype=np.float64)
    if array.shape[-1:] != (size,):
        raise ValueError(f"{name} must have shape (..., {size}), got {array.shape}")
    return array
