"""One photo with its camera and depth, as data sets on disk hold it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8


@dataclass(frozen=True, eq=False)
class PosedView:
    """A photo of a static scene; axes are OpenCV's, pixel centres at half-integers.

    Attributes:
        image: RGB.
        depth: z along the camera axis in the data set's unit; 0 where unknown, negative in the sky.
        K: intrinsics in pixels at the size of `image`, without skew.
        world_from_cam: camera pose; NaN where unknown.
    """

    image: UInt8[np.ndarray, "h w 3"]
    depth: Float32[np.ndarray, "h w"]
    K: Float64[np.ndarray, "3 3"]
    world_from_cam: Float64[np.ndarray, "4 4"]

    def __post_init__(self) -> None:
        expected = {"depth": self.size, "K": (3, 3), "world_from_cam": (4, 4)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"expected {name} {shape} for an image of {self.size[0]}x{self.size[1]}, "
                    f"got {getattr(self, name).shape}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def valid(self) -> Bool[np.ndarray, "h w"]:
        """True where the depth is known and positive."""
        return np.isfinite(self.depth) & (self.depth > 0)

    @property
    def pointmap_in_cam(self) -> Float[np.ndarray, "h w 3"]:
        """The 3D point of each pixel in the camera frame; only `valid` ones mean anything."""
        height, width = self.size
        x = (np.arange(width) + 0.5 - self.K[0, 2]) / self.K[0, 0]
        y = (np.arange(height) + 0.5 - self.K[1, 2]) / self.K[1, 1]
        z = self.depth.astype(np.float64)
        return np.stack([x * z, y[:, None] * z, z], -1)

    @property
    def pointmap_world(self) -> Float[np.ndarray, "h w 3"]:
        """The 3D point of each pixel in the world; only `valid` ones mean anything."""
        return self.pointmap_in_cam @ self.world_from_cam[:3, :3].T + self.world_from_cam[:3, 3]


def K_from_integer_centres(K: Float[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """Convert intrinsics that count pixel centres at integers (OpenCV, the published data)."""
    moved = np.array(K, dtype=np.float64)
    moved[:2, 2] += 0.5
    return moved


def K_to_integer_centres(K: Float[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """Convert our intrinsics to those that count pixel centres at integers."""
    moved = np.array(K, dtype=np.float64)
    moved[:2, 2] -= 0.5
    return moved
