"""Poses hidden in a homography."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


def poses_from_homography(
    homography: Float64Array, rays1: Float64Array, rays2: Float64Array
) -> list[Float64Array]:
    """Decompose a calibrated homography into its possible camera motions.

    Args:
        homography: (3, 3) with `rays2 ~ homography @ rays1`, up to scale.
        rays1: (N, 3) viewing rays of view 1, used to drop planes behind the camera.
        rays2: (N, 3) the same of view 2, used for the sign of the homography.

    Returns:
        Up to four cam2_from_cam1 (4, 4) with unit translation, those with more points in front of
        the plane's camera first; empty for a pure rotation.

    Reference: Ma, Soatto, Kosecka, Sastry, An Invitation to 3-D Vision, algorithm 5.2.
    """
    H = homography / np.linalg.svd(homography, compute_uv=False)[1]
    if np.median(np.einsum("ni,ij,nj->n", rays2, H, rays1)) < 0:
        H = -H
    eigenvalues, V = np.linalg.eigh(H.T @ H)
    smallest, _, largest = eigenvalues
    if largest - smallest < 1e-9:
        return []
    v3, v2, v1 = V.T
    if np.linalg.det(np.stack([v1, v2, v3])) < 0:
        v2 = -v2
    spread = np.sqrt(largest - smallest)
    a = np.sqrt(max(1 - smallest, 0.0)) / spread * v1
    b = np.sqrt(max(largest - 1, 0.0)) / spread * v3
    found: list[tuple[float, Float64Array]] = []
    for u in (a + b, a - b):
        normal = np.cross(v2, u)
        frame = np.stack([v2, u, normal], axis=1)
        moved = np.stack([H @ v2, H @ u, np.cross(H @ v2, H @ u)], axis=1)
        left, _, right = np.linalg.svd(moved @ frame.T)
        rotation = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
        translation = (H - moved @ frame.T) @ normal
        length = np.linalg.norm(translation)
        if length < 1e-9:
            continue
        for sign in (1.0, -1.0):
            pose = np.eye(4)
            pose[:3, :3] = rotation
            pose[:3, 3] = sign * translation / length
            found.append((float(np.mean(rays1 @ (sign * normal) > 0)), pose))
    found.sort(key=lambda item: -item[0])
    return [pose for _, pose in found]
