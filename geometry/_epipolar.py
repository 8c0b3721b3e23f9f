"""Epipolar residuals, triangulation signs and robust refinement of a relative pose (numpy)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class FocalPriors:
    """What is believed of two unknown focal lengths; turns on their refinement.

    Attributes:
        px: the two focal lengths in pixels.
        log_sigma: standard deviations of their logarithms.
        shared: whether both are one number; the priors are then averaged.
    """

    px: tuple[float, float]
    log_sigma: tuple[float, float]
    shared: bool

    def residuals(self, focals: tuple[float, float]) -> Float64Array:
        """(2,) deviations in standard deviations."""
        return np.log(np.divide(focals, self.px)) / np.array(self.log_sigma)


class Parameters:
    """A relative pose, and perhaps focal lengths, as small changes of a start.

    Rotation vector (3), direction of the translation on its sphere (2), log focal lengths (0 to 2).
    """

    def __init__(
        self,
        pose: Float64Array,
        xy1: Float64Array,
        xy2: Float64Array,
        K1: Float64Array,
        K2: Float64Array,
        priors: FocalPriors | None = None,
    ) -> None:
        self.pose, self.K1, self.K2, self.priors = pose, K1, K2, priors
        self.xy1, self.xy2 = xy1, xy2
        self.rays1, self.rays2 = rays(xy1, K1), rays(xy2, K2)
        self.translation = pose[:3, 3] / np.linalg.norm(pose[:3, 3])
        # Two directions on the unit sphere of translations.
        self.tangent = np.linalg.svd(self.translation[None])[2][1:]
        self.number = 5 if priors is None else 6 if priors.shared else 7

    def moved(self, x: Float64Array) -> Float64Array:
        """cam2_from_cam1 with unit translation."""
        result = np.eye(4)
        result[:3, :3] = moved_rotation(x[:3]) @ self.pose[:3, :3]
        result[:3, 3] = self.translation + x[3:5] @ self.tangent
        result[:3, 3] /= np.linalg.norm(result[:3, 3])
        return result

    def focals(self, x: Float64Array) -> tuple[float, float]:
        """Focal lengths of both views."""
        start = float(self.K1[0, 0]), float(self.K2[0, 0])
        if self.priors is None:
            return start
        return start[0] * float(np.exp(x[5])), start[1] * float(np.exp(x[-1]))

    def distances(self, x: Float64Array) -> Float64Array:
        """Sampson distances (N,) in pixels."""
        if self.priors is None:
            return sampson_px(self.moved(x), self.rays1, self.rays2, self.K1, self.K2)
        k1, k2 = (with_focal(K, f) for K, f in zip((self.K1, self.K2), self.focals(x), strict=True))
        return sampson_px(self.moved(x), rays(self.xy1, k1), rays(self.xy2, k2), k1, k2)

    def residuals(self, x: Float64Array, scale_px: float) -> Float64Array:
        """Distances in units of `scale_px`, and those of the focal lengths from their priors."""
        data = self.distances(x) / scale_px
        if self.priors is None:
            return data
        # The priors count as a match or two, whatever the noise of the matches.
        return np.append(data, self.priors.residuals(self.focals(x)))


def with_focal(K: Float64Array, focal: float) -> Float64Array:
    """K with another focal length for both axes and no skew."""
    return np.array([[focal, 0, K[0, 2]], [0, focal, K[1, 2]], [0, 0, 1]])


def refine(
    pose: Float64Array,
    xy1: Float64Array,
    xy2: Float64Array,
    K1: Float64Array,
    K2: Float64Array,
    scale_px: float,
    priors: FocalPriors | None = None,
) -> tuple[Float64Array, tuple[float, float]]:
    """Minimise a Cauchy loss of the Sampson distances over the pose, perhaps over focal lengths.

    Args:
        pose: cam2_from_cam1 to start from.
        xy1: (N, 2) matched pixels of view 1, outliers removed as far as known.
        xy2: (N, 2) of view 2.
        K1: intrinsics of view 1.
        K2: intrinsics of view 2.
        scale_px: error at which a match starts to lose its say.
        priors: turn on the refinement of the focal lengths, which start from K1 and K2.

    Returns:
        cam2_from_cam1 with unit translation, and the two focal lengths (those of K1 and K2 if they
        were not refined).
    """
    problem = Parameters(pose, xy1, xy2, K1, K2, priors)
    believed = 0 if priors is None else 2
    solution = _minimise_cauchy(lambda x: problem.residuals(x, scale_px), problem.number, believed)
    return problem.moved(solution), problem.focals(solution)


def pose_covariance(
    pose: Float64Array,
    xy1: Float64Array,
    xy2: Float64Array,
    K1: Float64Array,
    K2: Float64Array,
    sigma_px: float,
    priors: FocalPriors | None = None,
) -> Float64Array:
    """Covariance (5, 5) of the rotation vector (3) and of the direction of the translation (2).

    Radians; that of the direction is in the plane at right angles to it. Unknown focal lengths are
    eliminated.

    Args:
        pose: the refined cam2_from_cam1.
        xy1: (N, 2) inliers.
        xy2: (N, 2).
        K1: intrinsics.
        K2: intrinsics.
        sigma_px: standard deviation of the Sampson distances.
        priors: of focal lengths that were estimated.
    """
    problem = Parameters(pose, xy1, xy2, K1, K2, priors)
    sigma = max(sigma_px, 1e-3)  # nobody measures better, and exact matches must not divide by 0
    zero = np.zeros(problem.number)
    start = problem.residuals(zero, sigma)
    steps = 1e-6 * np.eye(problem.number)
    jacobian = np.stack([(problem.residuals(x, sigma) - start) / 1e-6 for x in steps], axis=1)
    information, axes = np.linalg.eigh(jacobian.T @ jacobian)
    # A direction that nothing fixes gets a variance of about (180 degrees)^2.
    covariance = (axes / np.maximum(information, 0.1)) @ axes.T
    return np.asarray(covariance[:5, :5], dtype=np.float64)


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
    residuals: Callable[[Float64Array], Float64Array],
    unknowns: int,
    quadratic: int = 0,
    rounds: int = 20,
) -> Float64Array:
    """Minimise `sum log(1 + r(x)^2)` from x = 0 by re-weighted Levenberg-Marquardt steps.

    The last `quadratic` residuals count with their squares. For a handful of unknowns this takes a
    fifth of the time of scipy's least_squares.
    """

    def total(r: Float64Array) -> float:
        robust = len(r) - quadratic
        return float(np.log1p(r[:robust] ** 2).sum() + (r[robust:] ** 2).sum())

    x = np.zeros(unknowns)
    r = residuals(x)
    cost = total(r)
    damping = 1e-4
    for _ in range(rounds):
        jacobian = np.stack(
            [(residuals(x + step) - r) / 1e-7 for step in 1e-7 * np.eye(unknowns)], axis=1
        )
        weight = 1 / (1 + r * r)
        weight[len(r) - quadratic :] = 1
        weighted = jacobian * weight[:, None]
        normal, gradient = weighted.T @ jacobian, weighted.T @ r
        for _ in range(8):
            damped = normal + np.diag(damping * normal.diagonal() + 1e-12)
            step = -np.linalg.solve(damped, gradient)
            new_r = residuals(x + step)
            new_cost = total(new_r)
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


def moved_rotation(vector: Float64Array) -> Float64Array:
    """Rotation matrix of a rotation vector in radians (Rodrigues)."""
    angle = float(np.sqrt(vector @ vector))
    x, y, z = vector
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sine, cosine = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.eye(3) + sine * skew + cosine * skew @ skew
