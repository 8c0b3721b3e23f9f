"""Robust pose from correspondences: pycolmap's minimal solvers and RANSAC, refined and judged here.

Pixels are centred at half-integers, COLMAP's own convention. Every function gives the same answer
for the same input and seed. Too little data is not an exception but an estimate with `success ==
False` that says why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pycolmap
import torch
from numpy.typing import ArrayLike

from ._colmap import (
    check_size,
    check_threshold,
    colmap_camera,
    paired,
    set_ransac,
    subset,
    unskewed,
)
from ._epipolar import FocalPriors
from ._estimates import BoolArray, PointmapPose, PoseEstimate, RelativePoseEstimate, no_pose
from ._evidence import witnesses
from ._two_views import TwoViews
from ._verdict import judge
from .camera import Float64Array, check_intrinsics
from .transforms import Similarity, weighted_procrustes

__all__ = [
    "PointmapPose",
    "PoseEstimate",
    "RelativePoseEstimate",
    "pose_from_points",
    "relative_pose",
    "relative_pose_from_pointmaps",
    "relative_pose_unknown_focal",
]

# COLMAP's local optimisation sometimes stops next to the answer where few matches are right: below
# this share of inliers, other seeds are tried.
_TRUSTED_SHARE, _MAX_ATTEMPTS = 0.4, 4
# Main lenses of phones see about 45 to 80 degrees along the longer side.
_FOCAL_PRIOR_LONG_SIDES, _FOCAL_PRIOR_LOG_SIGMA = 0.9, 0.5


def pose_from_points(
    xy: ArrayLike,
    xyz: ArrayLike,
    K: ArrayLike,
    height: int,
    width: int,
    max_error_px: float = 4.0,
    min_inliers: int = 6,
    estimate_focal: bool = False,
    seed: int = 0,
) -> PoseEstimate:
    """Find the camera that sees known points at given pixels (PnP).

    Args:
        xy: (N, 2) pixels; rows that are not finite here or in `xyz` count as outliers.
        xyz: (N, 3) points in the world.
        K: (3, 3) intrinsics in pixels of the image.
        height: image height in pixels.
        width: image width in pixels.
        max_error_px: largest reprojection error of an inlier.
        min_inliers: fewest inliers of a pose that is returned, at least 4.
        estimate_focal: estimate one focal length for both axes; only the principal point of K is
            then used.
        seed: of the random sampling.

    Raises:
        ValueError: if shapes or K are wrong or `max_error_px` is not positive.

    Reference: Persson & Nordberg, Lambda Twist P3P, ECCV 2018, inside COLMAP's LO-RANSAC.
    """
    pixels, points = paired(xy, xyz, (2, 3), ("xy", "xyz"))
    intrinsics = check_intrinsics(K)
    check_threshold(max_error_px)
    needed = max(int(min_inliers), 4)

    def failed(reason: str) -> PoseEstimate:
        return PoseEstimate(no_pose(), np.zeros(len(pixels), bool), 0, intrinsics, reason)

    finite: BoolArray = np.all(np.isfinite(np.hstack([pixels, points])), axis=1)
    if finite.sum() < needed:
        return failed(f"needs at least {needed} points, got {int(finite.sum())}")
    camera = colmap_camera(intrinsics, height, width, estimate_focal)
    # NaN is no inlier of any pose.
    points = np.where(finite[:, None], points, np.nan)
    square = unskewed(np.where(finite[:, None], pixels, 0), intrinsics)
    # Far from the origin, float64 minimal solvers lose digits.
    origin = np.median(points[finite], axis=0)
    sample = subset(np.flatnonzero(finite), seed)
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.estimate_focal_length = estimate_focal
    set_ransac(options.ransac, max_error_px, seed)
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = estimate_focal
    found: dict[str, Any] | None = pycolmap.estimate_and_refine_absolute_pose(
        square[sample], points[sample] - origin, camera, options, refinement
    )
    if found is None:
        return failed(
            f"no pose brings {needed} of {int(finite.sum())} points within {max_error_px:g} px"
        )
    pose = found["cam_from_world"]
    for _ in range(2):
        use = _reprojected_within(pose.matrix(), camera, square, points - origin, max_error_px)
        if use.sum() < needed:
            return failed(
                f"only {int(use.sum())} of {int(finite.sum())} points agree on a pose within "
                f"{max_error_px:g} px, {needed} are needed"
            )
        refined = pycolmap.refine_absolute_pose(
            pose, square, np.where(use[:, None], points - origin, 0), use, camera, refinement
        )
        pose = pose if refined is None else refined["cam_from_world"]
    use = _reprojected_within(pose.matrix(), camera, square, points - origin, max_error_px)
    spread = np.linalg.svd(points[use] - points[use].mean(0), compute_uv=False)
    if use.sum() < needed or spread[1] < 1e-6 * spread[0]:
        return failed("the points that agree lie on one line, which leaves the pose open")
    cam_from_world = np.eye(4)
    cam_from_world[:3] = pose.matrix()
    cam_from_world[:3, 3] -= cam_from_world[:3, :3] @ origin
    if estimate_focal:
        intrinsics = np.array(camera.calibration_matrix(), dtype=np.float64)
    return PoseEstimate(cam_from_world, use, int(use.sum()), intrinsics)


def relative_pose(
    xy1: ArrayLike,
    xy2: ArrayLike,
    K1: ArrayLike,
    K2: ArrayLike,
    size1: tuple[int, int],
    size2: tuple[int, int],
    max_error_px: float = 1.5,
    min_inliers: int = 8,
    seed: int = 0,
) -> RelativePoseEstimate:
    """Find the relative pose of two calibrated views from matched pixels.

    Args:
        xy1: (N, 2) pixels of view 1; rows that are not finite here or in `xy2` count as outliers.
        xy2: (N, 2) pixels of view 2.
        K1: (3, 3) intrinsics of view 1.
        K2: (3, 3) intrinsics of view 2.
        size1: (height, width) of view 1.
        size2: (height, width) of view 2.
        max_error_px: largest Sampson distance of an inlier.
        min_inliers: fewest inliers of a pose that is returned, at least 6.
        seed: of the random sampling.

    Returns:
        The pose with a unit translation, refined on its inliers; see `RelativePoseEstimate.kind`
        for scenes that do not determine it. Where no more matches agree than chance would make, or
        too few are given, there is none.

    Raises:
        ValueError: if shapes, K or sizes are wrong or `max_error_px` is not positive.

    Reference: Nister, An efficient solution to the five-point relative pose problem, PAMI 2004,
        inside COLMAP's
    LO-RANSAC.
    """
    intrinsics = check_intrinsics(K1, "K1"), check_intrinsics(K2, "K2")
    problem = TwoViews.make(xy1, xy2, *intrinsics, size1, size2)
    check_threshold(max_error_px)
    needed = max(int(min_inliers), 6)
    if len(problem.index) < needed:
        return problem.failed(
            "too_few_matches", f"needs at least {needed} matches, got {len(problem.index)}"
        )
    best: tuple[float, Float64Array] | None = None
    for attempt in range(_MAX_ATTEMPTS):
        sample = subset(np.arange(len(problem.index)), seed + attempt)
        start = problem.essential_ransac(sample, max_error_px, seed + attempt, 5_000)
        if start is None:
            continue
        pose, _ = problem.polished(start, max_error_px)
        use, cost = problem.inliers(pose, max_error_px)
        if best is None or cost < best[0]:
            best = cost, pose
        if use.mean() > _TRUSTED_SHARE:
            break
    number = 0 if best is None else int(problem.inliers(best[1], max_error_px)[0].sum())
    if best is None or number < needed:
        return problem.failed(
            "no_common_motion",
            f"only {number} of {len(problem.index)} matches agree on a relative pose within "
            f"{max_error_px:g} px, {needed} are needed",
        )
    return judge(problem, best[1], max_error_px, seed)


def relative_pose_unknown_focal(
    xy1: ArrayLike,
    xy2: ArrayLike,
    size1: tuple[int, int],
    size2: tuple[int, int],
    max_error_px: float = 1.5,
    min_inliers: int = 10,
    focal_range: tuple[float, float] = (0.3, 4.0),
    seed: int = 0,
    shared: bool = True,
    guesses_px: tuple[float | None, float | None] = (None, None),
    guess_log_sigma: float = 0.25,
) -> RelativePoseEstimate:
    """Find the relative pose and the focal lengths of two views from matched pixels.

    Principal points are taken at the image centres. Two views whose optical axes are parallel, or
    meet at equal distances, hardly determine the focal length; a weak prior (0.9 times the longer
    side, within a factor of 1.6, or the guess) then decides. So it does for a planar scene, and two
    focal lengths always need it.

    Args:
        xy1: (N, 2) pixels of view 1; rows that are not finite here or in `xy2` count as outliers.
        xy2: (N, 2) pixels of view 2.
        size1: (height, width) of view 1.
        size2: (height, width) of view 2.
        max_error_px: largest Sampson distance of an inlier.
        min_inliers: fewest inliers of a pose that is returned, at least 7.
        focal_range: bounds of the focal length in units of the longest side.
        seed: of the random sampling.
        shared: both views have the same focal length in pixels.
        guesses_px: what is believed of each focal length, from EXIF or a network.
        guess_log_sigma: standard deviation of the logarithm of the guesses.

    Returns:
        As `relative_pose`, with the focal lengths in K1 and K2.

    Raises:
        ValueError: if shapes or sizes are wrong, `max_error_px` is not positive, the range is
            empty or a guess is not positive.
    """
    long_side = max(*check_size(size1), *check_size(size2))
    low, high = focal_range
    if not 0 < low <= high:
        raise ValueError(f"focal_range must be two positive factors in order, got {focal_range}")
    if not all(guess is None or guess > 0 for guess in guesses_px) or not guess_log_sigma > 0:
        raise ValueError(
            "guesses of focal lengths and their deviation must be positive, got "
            f"{guesses_px}, {guess_log_sigma}"
        )
    check_threshold(max_error_px)
    priors = _focal_priors((size1, size2), guesses_px, guess_log_sigma, shared)
    K1, K2 = _centred_K(priors.px[0], size1), _centred_K(priors.px[1], size2)
    start = TwoViews.make(xy1, xy2, K1, K2, size1, size2)
    needed = max(int(min_inliers), 7)
    if len(start.index) < needed:
        return start.failed(
            "too_few_matches", f"needs at least {needed} matches, got {len(start.index)}"
        )
    focal_trials = _focal_trials(priors, low * long_side, high * long_side)
    # Neighbouring matches err alike: without this, thousands of them drown what is believed.
    crowd = len(start.index) / witnesses(start.xy1, np.ones(len(start.index), bool), size1)[0]
    sigma1, sigma2 = (sigma / crowd**0.5 for sigma in priors.log_sigma)
    priors = replace(priors, log_sigma=(sigma1, sigma2))
    sample = subset(np.arange(len(start.index)), seed, 500)
    trials: list[tuple[float, TwoViews, Float64Array]] = []
    for focals in focal_trials:
        problem = start.with_focals(*focals)
        pose = problem.essential_ransac(sample, max_error_px, seed, 1_000)
        if pose is not None:
            trials.append((problem.inliers(pose, max_error_px)[1], problem, pose))
    best: tuple[float, TwoViews, Float64Array] | None = None
    for _, problem, pose in sorted(trials, key=lambda trial: trial[0])[:3]:
        refined, problem = problem.polished(pose, max_error_px, priors)
        found = np.array([problem.K1[0, 0], problem.K2[0, 0]])
        focal1, focal2 = np.clip(found, low * long_side, high * long_side)
        problem = problem.with_focals(float(focal1), float(focal2))
        cost = problem.inliers(refined, max_error_px)[1]
        cost += float((priors.residuals((focal1, focal2)) ** 2).mean()) / 9
        if best is None or cost < best[0]:
            best = cost, problem, refined
    if best is None or best[1].inliers(best[2], max_error_px)[0].sum() < needed:
        return start.failed(
            "no_common_motion",
            f"no relative pose with a focal length of {low:g} to {high:g} long sides agrees with "
            f"{needed} of {len(start.index)} matches within {max_error_px:g} px",
        )
    return judge(best[1], best[2], max_error_px, seed, priors)


def _focal_priors(
    sizes: tuple[tuple[int, int], tuple[int, int]],
    guesses_px: tuple[float | None, float | None],
    guess_log_sigma: float,
    shared: bool,
) -> FocalPriors:
    """What is believed of both focal lengths before looking at matches."""
    long_sides = [max(size) for size in sizes]
    known = [guess for guess in guesses_px if guess is not None]
    if shared:
        focal = _FOCAL_PRIOR_LONG_SIDES * max(long_sides)
        focal = float(np.exp(np.mean(np.log(known)))) if known else focal
        sigma = guess_log_sigma if known else _FOCAL_PRIOR_LOG_SIGMA
        # Both residuals are the same number: together they weigh as much as one.
        return FocalPriors((focal, focal), (sigma * 2**0.5, sigma * 2**0.5), shared=True)
    focals, sigmas = [], []
    for guess, side in zip(guesses_px, long_sides, strict=True):
        focals.append(_FOCAL_PRIOR_LONG_SIDES * side if guess is None else float(guess))
        sigmas.append(_FOCAL_PRIOR_LOG_SIGMA if guess is None else guess_log_sigma)
    return FocalPriors((focals[0], focals[1]), (sigmas[0], sigmas[1]), shared=False)


def _focal_trials(priors: FocalPriors, low: float, high: float) -> list[tuple[float, float]]:
    """Focal lengths to start from.

    Coarse, because the essential matrix of a focal length 20 % off still keeps most inliers.
    """
    if priors.shared:
        return [(float(f), float(f)) for f in np.geomspace(low, high, 10)]
    factors = np.exp(np.multiply.outer((-1.5, 0.0, 1.5), priors.log_sigma))
    grid = np.clip(factors * np.array(priors.px), low, high)
    return [(float(f1), float(f2)) for f1 in grid[:, 0] for f2 in grid[:, 1]]


def relative_pose_from_pointmaps(
    pointmap_a_in_a: ArrayLike,
    pointmap_a_in_b: ArrayLike,
    confidence_a: ArrayLike | None = None,
    confidence_b: ArrayLike | None = None,
    rounds: int = 10,
) -> PointmapPose:
    """Align two pointmaps of the same pixels, one in each camera's frame.

    Minimises the confidence-weighted sum of distances (not of their squares) by re-weighted
    Procrustes steps, so that a minority of wrong pixels does not count.

    Args:
        pointmap_a_in_a: (..., 3) points of view a in camera a.
        pointmap_a_in_b: (..., 3) the same pixels in camera b.
        confidence_a: (...) weights, None for one each; the weights of a pixel multiply.
        confidence_b: (...) weights.
        rounds: re-weighting steps; 0 is plain least squares.

    Raises:
        ValueError: if shapes differ.
    """
    a = np.asarray(pointmap_a_in_a, dtype=np.float64)
    b = np.asarray(pointmap_a_in_b, dtype=np.float64)
    if a.shape != b.shape or a.shape[-1:] != (3,):
        raise ValueError(
            f"expected two pointmaps (..., 3) of one shape, got {a.shape} and {b.shape}"
        )
    weight = np.ones(a.shape[:-1])
    for name, confidence in (("confidence_a", confidence_a), ("confidence_b", confidence_b)):
        if confidence is not None:
            given = np.asarray(confidence, dtype=np.float64)
            if given.shape != a.shape[:-1]:
                raise ValueError(f"{name} must have shape {a.shape[:-1]}, got {given.shape}")
            weight = weight * given
    use = np.isfinite(a).all(-1) & np.isfinite(b).all(-1) & (weight > 0)
    if use.sum() < 3:
        return PointmapPose(
            no_pose(), np.nan, np.nan, f"needs at least 3 valid pixels, got {int(use.sum())}"
        )
    source, target, mass = (torch.from_numpy(x[use]) for x in (a, b, weight))
    fit = weighted_procrustes(source, target, mass)
    for _ in range(rounds):
        distance = (fit.apply(source) - target).norm(dim=-1)
        fit = weighted_procrustes(
            source, target, mass / distance.clamp_min(1e-3 * distance.median() + 1e-12)
        )
    distance = (fit.apply(source) - target).norm(dim=-1).numpy()
    size = max(float(np.median(np.linalg.norm(target.numpy(), axis=-1))), 1e-12)
    scale = float(fit.scale)
    if not scale > 1e-9:
        return PointmapPose(no_pose(), np.nan, np.nan, "the two pointmaps have no shape in common")
    residual = _weighted_median(distance, mass.numpy()) / size
    rigid = Similarity(torch.ones_like(fit.scale), fit.rotation, fit.translation)
    return PointmapPose(rigid.matrix().numpy(), scale, residual)


def _reprojected_within(
    pose: Float64Array,
    camera: pycolmap.Camera,
    xy: Float64Array,
    points: Float64Array,
    max_error_px: float,
) -> BoolArray:
    """(N,) bool: points in front of the camera that project within the error; NaN is no."""
    in_cam = points @ pose[:, :3].T + pose[:, 3]
    K = camera.calibration_matrix()
    with np.errstate(divide="ignore", invalid="ignore"):
        projected = (in_cam @ K.T)[:, :2] / in_cam[:, 2:]
        error = np.linalg.norm(projected - xy, axis=1)
    return (in_cam[:, 2] > 0) & (error <= max_error_px)


def _centred_K(focal: float, size: tuple[int, int]) -> Float64Array:
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])


def _weighted_median(values: Float64Array, weights: Float64Array) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
