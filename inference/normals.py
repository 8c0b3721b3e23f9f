"""Surface normals from depth maps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from ..geometry.camera import Camera

_FEWEST = 6
_JUMP, _WIDEST_JUMP = 0.04, 0.12


def depth_normals(
    camera: Camera, depth: Float[np.ndarray, "h w"], radius: int = 4
) -> Float32[np.ndarray, "h w 3"]:
    """Fit a plane to the surface around each pixel.

    A plane is a linear function of the pixel in inverse depth. It is fitted by least squares to 5x5
    pixels spread over a square; those whose depth differs by more than 4 % for each pixel of
    distance, or 12 %, are of another surface and left out.

    Args:
        camera: at the size of `depth`.
        depth: z, NaN or <= 0 where unknown.
        radius: half the side of the square, pixels; wider averages more of the noise of the depth.

    Returns:
        Unit vectors in the world that point to the camera's side of the surface; NaN without depth
        or where fewer than six neighbours, or only neighbours on one line, are left.
    """
    height, width = depth.shape
    known = np.isfinite(depth) & (depth > 0)
    inverse = np.where(known, 1 / np.where(known, depth, 1), np.nan).astype(np.float64)
    padded = np.pad(inverse, radius, constant_values=np.nan)
    moments = np.zeros((height, width, 3, 3))
    right = np.zeros((height, width, 3))
    half = (radius + 1) // 2
    span = sorted({-radius, -half, 0, half, radius})
    for down, across in [(i, j) for i in span for j in span]:
        rows = slice(radius + down, radius + down + height)
        there = padded[rows, radius + across : radius + across + width]
        jump = min(_JUMP * max(1, abs(down), abs(across)), _WIDEST_JUMP)
        near = np.abs(there / inverse - 1) <= jump
        term = np.array([across, down, 1.0])
        moments += near[..., None, None] * np.outer(term, term)
        right += np.where(near, there, 0)[..., None] * term
    count = moments[..., 2, 2]
    spread = np.linalg.det(moments) / np.maximum(count, 1) ** 3
    good = known & (count > _FEWEST) & (spread > 0.05)
    slope = np.linalg.solve(moments[good], right[good][..., None])[..., 0]
    rows, columns = np.nonzero(good)
    slope[:, 2] -= slope[:, 0] * (columns + 0.5) + slope[:, 1] * (rows + 0.5)
    # 1/z = slope . (u, v, 1) = slope . K (x/z, y/z, 1), so K^T slope . (x, y, z) = 1: the plane.
    away = slope @ camera.K @ camera.cam_from_world[:3, :3]
    normals = np.full((height, width, 3), np.nan, np.float32)
    normals[good] = -away / np.linalg.norm(away, axis=1, keepdims=True)
    return normals
