"""Epipolar residuals, triangulation signs and robust refinement of a relative pose (numpy)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


def rays(xy: Float64Array, K: Float64Array) -> Float64Array:
    """Viewing rays (N, 3) with z = 1 of pixels (N, 2)."""
    y = (xy[:, 1] - K[1, 2]) / K[1, 1]
    x = (xy[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    return np.stack([x, y, np.ones_like(x)], axis=1)


def essential(pose: Float64Array) -> Float64Array:
    """Essential matrix E of cam2_from_cam1 with `rays2 . E rays1 = 0`."""
    x, y, z = pose[:3, 3]
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ pose[:3, :3]


def sampson_px(
    pose: Float64Array, rays1: Float64Array, rays2: Float64Array, K1: Float64Array, K2: Float64Array
) -> Float64Array:
    """Signed Sampson distances (N,) in pixels.

    Reference: Hartley & Zisserman, Multiple View Geometry, eq. 11.9.
    """
    E = essential(pose)
    line2 = rays1 @ E.T  # (N, 3)
    line1 = rays2 @ E
    algebraic = (rays2 * line2).sum(1)
    gradient = (
        (line1[:, 0] / K1[0, 0]) ** 2
        + (line1[:, 1] / K1[1, 1]) ** 2
        + (line2[:, 0] / K2[0, 0]) ** 2
        + (line2[:, 1] / K2[1, 1]) ** 2
    )
    return algebraic / np.sqrt(np.maximum(gradient, 1e-30))


def depths(
    pose: Float64Array, rays1: Float64Array, rays2: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Depths (N,) in both views by midpoint triangulation, and the angles (N,) between the rays.

    Angles are in degrees; at zero angle the depths are large and their sign is that of the noise.
    """
    a = rays1 / np.linalg.norm(rays1, axis=1, keepdims=True) @ pose[:3, :3].T
    b = rays2 / np.linalg.norm(rays2, axis=1, keepdims=True)
    cosine = (a * b).sum(1)
    sine_squared = np.maximum((_cross(a, b) ** 2).sum(1), 1e-18)
    a_t, b_t = a @ pose[:3, 3], b @ pose[:3, 3]
    depth1 = (cosine * b_t - a_t) / sine_squared
    depth2 = (b_t - cosine * a_t) / sine_squared
    return depth1, depth2, np.rad2deg(np.arctan2(np.sqrt(sine_squared), cosine))


def _cross(a: Float64Array, b: Float64Array) -> Float64Array:
    """Row-wise cross product, several times faster than numpy's for (N, 3)."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def inliers(
    pose: Float64Array,
    rays1: Float64Array,
    rays2: Float64Array,
    K1: Float64Array,
    K2: Float64Array,
    max_error_px: float,
) -> tuple[NDArray[np.bool_], float]:
    """Matches (N,) within the error and in front of both cameras; the truncated squared cost."""
    error = np.abs(sampson_px(pose, rays1, rays2, K1, K2))
    depth1, depth2, angle = depths(pose, rays1, rays2)
    # A point at infinity has no side: with almost parallel rays noise decides about the sign.
    noise_deg = np.rad2deg(max_error_px * (1 / K1[0, 0] + 1 / K2[0, 0]))
    front = ((depth1 > 0) & (depth2 > 0)) | (angle < noise_deg)
    use = (error < max_error_px) & front
    cost = np.where(use, (error / max_error_px) ** 2, 1.0).sum()
    return use, float(cost)


def refine(
    pose: Float64Array,
    xy1: Float64Array,
    xy2: Float64Array,
    K1: Float64Array,
    K2: Float64Array,
    scale_px: float,
    focal_prior: tuple[float, float] | None = None,
) -> tuple[Float64Array, float]:
    """Minimise a Cauchy loss of the Sampson distances over the pose, or over pose and focal length.

    Args:
        pose: cam2_from_cam1 to start from.
        xy1: (N, 2) matched pixels of view 1, outliers removed as far as known.
        xy2: (N, 2) of view 2.
        K1: intrinsics of view 1.
        K2: intrinsics of view 2.
        scale_px: error at which a match starts to lose its say.
        focal_prior: (focal in pixels, standard deviation of its logarithm) turns on the refinement
            of the focal length, whose start is K1's and replaces those of both.

    Returns:
        cam2_from_cam1 with unit translation, and the focal length (that of K1 if it was not
        refined).
    """
    rotation = pose[:3, :3]
    translation = pose[:3, 3] / np.linalg.norm(pose[:3, 3])
    # Two directions on the unit sphere of translations.
    tangent = np.linalg.svd(translation[None])[2][1:]
    start = float(K1[0, 0])
    rays1, rays2 = rays(xy1, K1), rays(xy2, K2)

    def moved(x: Float64Array) -> Float64Array:
        result = np.eye(4)
        result[:3, :3] = _rotation(x[:3]) @ rotation
        result[:3, 3] = translation + x[3:5] @ tangent
        result[:3, 3] /= np.linalg.norm(result[:3, 3])
        return result

    def with_focal(K: Float64Array, focal: float) -> Float64Array:
        return np.array([[focal, 0, K[0, 2]], [0, focal, K[1, 2]], [0, 0, 1]])

    def residuals(x: Float64Array) -> Float64Array:
        if focal_prior is None:
            return sampson_px(moved(x), rays1, rays2, K1, K2) / scale_px
        focal = start * np.exp(x[5])
        k1, k2 = with_focal(K1, focal), with_focal(K2, focal)
        data = sampson_px(moved(x), rays(xy1, k1), rays(xy2, k2), k1, k2) / scale_px
        return np.append(data, np.log(focal / focal_prior[0]) / focal_prior[1])

    solution = _minimise_cauchy(residuals, 5 if focal_prior is None else 6)
    focal = start if focal_prior is None else float(start * np.exp(solution[5]))
    return moved(solution), focal


def fit_rotation(rays1: Float64Array, rays2: Float64Array, noise_rad: float) -> Float64Array:
    """Rotation (3, 3) that turns the rays of view 1 into those of view 2, robust to outliers."""
    a = rays1 / np.linalg.norm(rays1, axis=1, keepdims=True)
    b = rays2 / np.linalg.norm(rays2, axis=1, keepdims=True)
    weight = np.ones(len(a))
    rotation = np.eye(3)
    for _ in range(15):
        left, _, right = np.linalg.svd((weight[:, None] * b).T @ a)
        rotation = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
        error = np.linalg.norm(a @ rotation.T - b, axis=1)
        scale = max(noise_rad, float(np.median(error)))
        weight = 1 / (1 + (error / scale) ** 2) ** 2
    return rotation


def _minimise_cauchy(
    residuals: Callable[[Float64Array], Float64Array], unknowns: int, rounds: int = 20
) -> Float64Array:
    """Minimise `sum log(1 + r(x)^2)` from x = 0 by re-weighted Levenberg-Marquardt steps.

    For a handful of unknowns this takes a fifth of the time of scipy's least_squares.
    """
    x = np.zeros(unknowns)
    r = residuals(x)
    cost = np.log1p(r * r).sum()
    damping = 1e-4
    for _ in range(rounds):
        jacobian = np.stack(
            [(residuals(x + step) - r) / 1e-7 for step in 1e-7 * np.eye(unknowns)], axis=1
        )
        weighted = jacobian / (1 + r * r)[:, None]
        normal, gradient = weighted.T @ jacobian, weighted.T @ r
        for _ in range(8):
            damped = normal + np.diag(damping * normal.diagonal() + 1e-12)
            step = -np.linalg.solve(damped, gradient)
            new_r = residuals(x + step)
            new_cost = np.log1p(new_r * new_r).sum()
            if new_cost < cost:
                break
            damping *= 10
        else:
            return x
        converged = cost - new_cost < 1e-6 * cost
        x, r, cost, damping = x + step, new_r, new_cost, damping / 10
        if converged:
            break
    return x


def _rotation(vector: Float64Array) -> Float64Array:
    """Rotation matrix of a rotation vector in radians (Rodrigues)."""
    angle = float(np.sqrt(vector @ vector))
    x, y, z = vector
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sine, cosine = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.eye(3) + sine * skew + cosine * skew @ skew
