"""How surely matches fix the direction of a translation, judged by trying all directions."""

from __future__ import annotations

import numpy as np

from ._epipolar import Float64Array, depths, moved_rotation, sampson_px

_DIRECTIONS = 120  # on a half sphere: about 8 degrees apart
_MAX_MATCHES = 300
# Difference of -2 log likelihood up to which a direction may be the true one: two wrong matches
# that the best pose happens to explain (9 each), and the noise of the others.
_TOLERANCE = 24.0


def direction_spread_deg(
    pose: Float64Array,
    rays1: Float64Array,
    rays2: Float64Array,
    K1: Float64Array,
    K2: Float64Array,
    sigma_px: float,
    crowd: float,
    seed: int,
) -> float:
    """Root mean square angle between the pose's translation and all directions that fit as well.

    The rotation is adjusted for each direction. Little parallax leaves valleys and second minima
    that the curvature at the best direction says nothing of.

    Args:
        pose: the best cam2_from_cam1.
        rays1: (N, 3) inliers.
        rays2: (N, 3).
        K1: intrinsics.
        K2: intrinsics.
        sigma_px: standard deviation of the Sampson distances.
        crowd: matches per independent one.
        seed: of the choice of matches where there are very many.

    Returns:
        0 where no other direction fits; 180 where its sign is open, too.
    """
    if len(rays1) > _MAX_MATCHES:
        rows = np.random.default_rng(seed).choice(len(rays1), _MAX_MATCHES, replace=False)
        # The rest are witnesses, too.
        crowd = max(1.0, crowd * _MAX_MATCHES / len(rays1))
        rays1, rays2 = rays1[rows], rays2[rows]
    best = pose[:3, 3] / np.linalg.norm(pose[:3, 3])
    directions = _half_sphere(_DIRECTIONS)
    sigma = max(sigma_px, 1e-6)

    def cost(direction: Float64Array) -> float:
        return _fitted_cost(pose[:3, :3], direction, rays1, rays2, K1, K2, sigma)

    limit = cost(best) + _TOLERANCE * crowd
    cosines = [abs(float(t @ best)) for t in directions if cost(t) < limit]
    if _sign_is_open(pose, rays1, rays2):
        return 180.0
    angles = np.rad2deg(np.arccos(np.clip(cosines, 0, 1)))
    return float(np.sqrt(np.mean(angles**2))) if len(angles) else 0.0


def _half_sphere(number: int) -> Float64Array:
    """Unit vectors spread evenly (Fibonacci's lattice) over z > 0."""
    k = np.arange(number) + 0.5
    z = k / number
    turn = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1)


def _fitted_cost(
    rotation: Float64Array,
    direction: Float64Array,
    rays1: Float64Array,
    rays2: Float64Array,
    K1: Float64Array,
    K2: Float64Array,
    sigma_px: float,
    rounds: int = 4,
) -> float:
    """Robust -2 log likelihood of a direction with the best rotation near a given one."""
    pose = np.eye(4)
    pose[:3, 3] = direction
    steps = 1e-6 * np.eye(3)

    def residuals(turn: Float64Array) -> Float64Array:
        pose[:3, :3] = moved_rotation(turn) @ rotation
        return sampson_px(pose, rays1, rays2, K1, K2) / sigma_px

    turn, lowest = np.zeros(3), np.inf
    for _ in range(rounds + 1):
        r = residuals(turn)
        cost = float(_robust(r).sum())
        lowest = min(lowest, cost)
        jacobian = np.stack([(residuals(turn + step) - r) / 1e-6 for step in steps], axis=1)
        weighted = jacobian / (1 + r * r / 9)[:, None] ** 2
        turn = turn - np.linalg.solve(weighted.T @ jacobian + 1e-6 * np.eye(3), weighted.T @ r)
    return lowest


def _robust(r: Float64Array) -> Float64Array:
    """Squares near zero; a wrong match costs 9 at most (Geman-McClure)."""
    return r * r / (1 + r * r / 9)


def _sign_is_open(pose: Float64Array, rays1: Float64Array, rays2: Float64Array) -> bool:
    """Whether points lie behind the cameras nearly as often as before them."""
    depth1, depth2, _ = depths(pose, rays1, rays2)
    front = int(((depth1 > 0) & (depth2 > 0)).sum())
    behind = int(((depth1 < 0) & (depth2 < 0)).sum())
    return front < 2 * behind + 3
