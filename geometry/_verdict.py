"""What two views show: a pose, a plane, a rotation, too little parallax, or nothing in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pycolmap

from ._colmap import set_ransac, subset, without_skew
from ._direction import direction_spread_deg
from ._epipolar import FocalPriors, depths, fit_rotation, pose_covariance, sampson_px
from ._estimates import BoolArray, PoseKind, RelativePoseEstimate
from ._evidence import line_chance, log10_false_alarms, point_chance, robust_sigma, witnesses
from ._homography import poses_from_homography
from ._two_views import TwoViews
from .camera import Float64Array

# A rotation or homography that explains this share of the inliers means a plane or no translation.
_DEGENERATE_SHARE = 0.9
# One false pose in a thousand pairs of photos that have nothing in common.
_LOG10_FALSE_ALARMS = -3.0
# A point that moved in two dimensions is as likely as a Sampson distance, of one dimension, within
# this factor of it.
_TWO_DIMENSIONS = 1.77
# Shifts that a rotation leaves, in units of those that the noise would leave: below the first no
# translation is seen; below the second its direction is looked at closely.
_NO_PARALLAX, _AMPLE_PARALLAX = 1.5, 12.0
_UNSURE_DIRECTION_DEG = 12.0
# Of nine rendered pairs with 15 matches one had 13 agree with a pose that was 40 degrees off.
_FEW_INLIERS = 20


def judge(
    problem: TwoViews,
    pose: Float64Array,
    max_error_px: float,
    seed: int,
    priors: FocalPriors | None = None,
) -> RelativePoseEstimate:
    """Tell general, planar, short and absent baselines apart, and agreement from chance.

    Args:
        problem: the matches with the intrinsics of the pose.
        pose: the refined cam2_from_cam1.
        max_error_px: largest Sampson distance of an inlier.
        seed: of the random sampling.
        priors: of the focal lengths if they were estimated.
    """
    use, _ = problem.inliers(pose, max_error_px)
    rotation, still, parallax = _as_rotation(problem, pose, use, max_error_px)
    turned_only = (still & use).sum() >= _DEGENERATE_SHARE * use.sum()
    if turned_only and parallax < _NO_PARALLAX:
        if _by_chance(problem, still, max_error_px, "rotation"):
            return _nothing(problem, still, max_error_px, pose)
        return _turned(problem, pose, rotation, still, max_error_px)
    kind: PoseKind = "general"
    others: tuple[Float64Array, ...] = ()
    candidates = [] if turned_only else _planar_poses(problem, use, max_error_px, seed)
    if candidates:
        kind = "planar"
        pose, others = _best_planar(problem, [pose, *candidates], max_error_px)
        use, _ = problem.inliers(pose, max_error_px)
    if _by_chance(problem, use, max_error_px, kind, 0 if priors is None else 1):
        return _nothing(problem, use, max_error_px, pose)
    error = sampson_px(pose, problem.rays1[use], problem.rays2[use], problem.K1, problem.K2)
    sigma = robust_sigma(error)
    turn_deg, direction_deg = _spread(problem, pose, use, sigma, priors)
    if parallax < _AMPLE_PARALLAX:
        rays = problem.rays1[use], problem.rays2[use]
        crowd = _crowd(problem, use)
        tried = direction_spread_deg(pose, *rays, problem.K1, problem.K2, sigma, crowd, seed)
        direction_deg = max(direction_deg, tried)
    if kind == "general" and direction_deg > _UNSURE_DIRECTION_DEG:
        kind = "small_baseline"
    if kind == "general" and use.sum() < _FEW_INLIERS:
        kind = "few_inliers"
    angle = depths(pose, problem.rays1[use], problem.rays2[use])[2]
    return RelativePoseEstimate(
        cam2_from_cam1=pose,
        inliers=_every(problem, use),
        num_inliers=int(use.sum()),
        K1=problem.K1,
        K2=problem.K2,
        kind=kind,
        alternatives=others,
        parallax_deg=float(np.median(angle)),
        median_error_px=float(np.median(np.abs(error))),
        rotation_std_deg=turn_deg,
        direction_std_deg=min(direction_deg, 180.0),
    )


def _as_rotation(
    problem: TwoViews, pose: Float64Array, use: BoolArray, max_error_px: float
) -> tuple[Float64Array, BoolArray, float]:
    """The best rotation alone, the matches it explains, and the parallax it leaves.

    Parallax is the median shift of the inliers, in units of the one that noise would leave.
    """
    rays1, rays2 = problem.rays1[use], problem.rays2[use]
    rotation = fit_rotation(rays1, rays2, max_error_px / float(problem.K2[0, 0]))
    turned = problem.rays1 @ rotation.T @ problem.K2.T
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.linalg.norm(turned[:, :2] / turned[:, 2:] - problem.xy2, axis=1)
    still = (shift < _TWO_DIMENSIONS * max_error_px) & (turned[:, 2] > 0)
    if not use.any():
        return rotation, still, np.inf
    sigma = robust_sigma(sampson_px(pose, rays1, rays2, problem.K1, problem.K2))
    # A shift is the difference of two noisy points in two axes: its median is 1.67 sigma.
    expected = max(1.67 * sigma, 1e-3 * max_error_px)
    return rotation, still, float(np.median(shift[use])) / expected


def _turned(
    problem: TwoViews,
    pose: Float64Array,
    rotation: Float64Array,
    still: BoolArray,
    max_error_px: float,
) -> RelativePoseEstimate:
    """The camera did not move: a pose without translation."""
    guess, found = pose.copy(), np.eye(4)
    guess[:3, :3] = found[:3, :3] = rotation
    rays1, rays2 = problem.rays1[still], problem.rays2[still]
    unit = rays2 / np.linalg.norm(rays2, axis=1, keepdims=True)
    error = sampson_px(guess, rays1, rays2, problem.K1, problem.K2)
    noise = max(robust_sigma(error), 1e-3 * max_error_px) / float(problem.K2[0, 0])
    information = (len(unit) * np.eye(3) - unit.T @ unit) / _crowd(problem, still)
    variance = 2 * noise**2 / max(float(np.linalg.eigvalsh(information)[0]), 1e-12)
    return RelativePoseEstimate(
        cam2_from_cam1=found,
        inliers=_every(problem, still),
        num_inliers=int(still.sum()),
        K1=problem.K1,
        K2=problem.K2,
        kind="rotation",
        alternatives=(guess,),
        median_error_px=float(np.median(np.abs(error))),
        rotation_std_deg=float(np.rad2deg(np.sqrt(variance))),
        direction_std_deg=180.0,
    )


def _by_chance(
    problem: TwoViews, use: BoolArray, max_error_px: float, kind: PoseKind, unknown_focals: int = 0
) -> bool:
    """Whether random matches would agree as well with some pose."""
    counts = []
    for xy, size in ((problem.xy1, problem.size1), (problem.xy2, problem.size2)):
        number, agreeing = witnesses(xy, use, size)
        line = max(line_chance(max_error_px, s) for s in (problem.size1, problem.size2))
        point = point_chance(_TWO_DIMENSIONS * max_error_px, problem.size2)
        alarms = log10_false_alarms(
            number, agreeing, 5 + unknown_focals, 10 ** (1 + unknown_focals), line
        )
        if kind == "rotation":
            alarms = log10_false_alarms(number, agreeing, 2, 1, point)
        elif kind == "planar":
            planar = int(_DEGENERATE_SHARE * agreeing)
            alarms = min(alarms, log10_false_alarms(number, planar, 4, 1, point))
        counts.append(alarms)
    return max(counts) > _LOG10_FALSE_ALARMS


def _nothing(
    problem: TwoViews, use: BoolArray, max_error_px: float, pose: Float64Array
) -> RelativePoseEstimate:
    answer = problem.failed(
        "no_common_motion",
        f"only {int(use.sum())} of {len(problem.index)} matches agree on a relative pose within "
        f"{max_error_px:g} px, no more than chance would make: the photos may not overlap",
    )
    return replace(answer, alternatives=(pose,))


def _crowd(problem: TwoViews, use: BoolArray) -> float:
    """Matches per independent one."""
    counts = [
        witnesses(xy[use], np.ones(int(use.sum()), bool), size)[0]
        for xy, size in ((problem.xy1, problem.size1), (problem.xy2, problem.size2))
    ]
    return max(1.0, float(use.sum()) / max(min(counts), 1))


def _spread(
    problem: TwoViews,
    pose: Float64Array,
    use: BoolArray,
    sigma_px: float,
    priors: FocalPriors | None,
) -> tuple[float, float]:
    """Standard deviations in degrees of the rotation and of the translation's direction."""
    sigma = sigma_px * np.sqrt(_crowd(problem, use))
    covariance = pose_covariance(
        pose, problem.xy1[use], problem.xy2[use], problem.K1, problem.K2, sigma, priors
    )
    parts = covariance[:3, :3], covariance[3:, 3:]
    turn, direction = (
        float(np.rad2deg(np.sqrt(max(np.linalg.eigvalsh(part)[-1], 0.0)))) for part in parts
    )
    return min(turn, 180.0), direction


def _planar_poses(
    problem: TwoViews, use: BoolArray, max_error_px: float, seed: int
) -> list[Float64Array]:
    """Poses of the homography that explains the inliers, none if none does."""
    options = pycolmap.RANSACOptions()
    set_ransac(options, _TWO_DIMENSIONS * max_error_px, seed)
    options.max_num_trials = 1_000
    sample = subset(np.flatnonzero(use), seed, 1000)
    if len(sample) < 4:
        return []
    found: dict[str, Any] | None = pycolmap.estimate_homography_matrix(
        problem.xy1[sample], problem.xy2[sample], options
    )
    if found is None or found["num_inliers"] < _DEGENERATE_SHARE * len(sample):
        return []
    normalised = np.linalg.inv(without_skew(problem.K2)) @ found["H"] @ without_skew(problem.K1)
    return poses_from_homography(normalised, problem.rays1[use], problem.rays2[use])


def _best_planar(
    problem: TwoViews, candidates: list[Float64Array], max_error_px: float
) -> tuple[Float64Array, tuple[Float64Array, ...]]:
    """The best of the poses that a plane leaves, and the others that explain as much."""
    polished = [problem.polished(p, max_error_px, widths=(2.0, 1.0))[0] for p in candidates]
    polished = sorted(polished, key=lambda p: problem.inliers(p, max_error_px)[1])
    number = problem.inliers(polished[0], max_error_px)[0].sum()
    return polished[0], tuple(
        p
        for i, p in enumerate(polished[1:], start=1)
        if problem.inliers(p, max_error_px)[0].sum() >= _DEGENERATE_SHARE * number
        and all(np.abs(p - q).max() > 1e-3 for q in polished[:i])
    )


def _every(problem: TwoViews, use: BoolArray) -> BoolArray:
    """The mask over the finite matches as one over all that were given."""
    every = np.zeros(problem.total, bool)
    every[problem.index[use]] = True
    return every
