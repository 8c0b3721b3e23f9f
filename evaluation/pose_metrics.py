"""Errors of relative and absolute camera poses, and the numbers that papers make of them.

Numpy in, numbers out. Poses are 4x4 `cam_from_world` or `cam2_from_cam1` in OpenCV axes. A pair or
an image without an estimate is never left out: it enters every number as an infinite error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.camera import rigid_inverse_array

AUC_THRESHOLDS_DEG = (5.0, 10.0, 20.0)


@dataclass(frozen=True)
class PoseError:
    """Error of one relative pose.

    Attributes:
        rotation_deg: angle between the two rotations, in [0, 180]; inf when there is no estimate.
        direction_deg: angle between the two translation directions, in [0, 180]; inf when there is
            no estimate, nan where the true baseline is too short for a direction.
    """

    rotation_deg: float
    direction_deg: float

    @property
    def combined_deg(self) -> float:
        """The larger of both errors; the rotation's alone where the direction is undefined."""
        if np.isnan(self.direction_deg):
            return self.rotation_deg
        return max(self.rotation_deg, self.direction_deg)


FAILED = PoseError(float("inf"), float("inf"))


@dataclass(frozen=True)
class PoseSummary:
    """What a list of pose errors comes to.

    Attributes:
        pairs: number of errors summarised.
        failed: how many of them are infinite.
        auc: threshold in degrees -> area under the recall curve, in [0, 1].
        rotation_accuracy_15: share of pairs with a rotation error below 15 degrees (RRA@15).
        direction_accuracy_15: share of pairs with a direction error below 15 degrees (RTA@15).
        maa_30: mean over 1..30 degrees of the share of pairs below (mAA@30).
        median_rotation_deg: median rotation error, inf when half of the pairs failed.
        median_direction_deg: median direction error over the pairs that have a direction.
    """

    pairs: int
    failed: int
    auc: Mapping[float, float]
    rotation_accuracy_15: float
    direction_accuracy_15: float
    maa_30: float
    median_rotation_deg: float
    median_direction_deg: float


@dataclass(frozen=True)
class TrajectoryError:
    """Error of a scene's camera centres after a similarity fit.

    Attributes:
        images: number of images with a true pose.
        registered: how many of them have an estimate.
        rmse: root mean square distance in the truth's units; nan below three registered images.
        relative: `rmse` over the root mean square distance of all true centres to their mean.
        median_rotation_deg: median rotation error after the fit.
        scale: factor from the estimate's units to the truth's.
    """

    images: int
    registered: int
    rmse: float
    relative: float
    median_rotation_deg: float
    scale: float


@dataclass(frozen=True)
class Interval:
    """A bootstrap confidence interval: `low <= high` at the given `level` (0.95 = 95 %)."""

    low: float
    high: float
    level: float


def is_rigid(transform: np.ndarray | None, tolerance: float = 1e-2) -> bool:
    """Tell whether a value is a finite 4x4 with a proper rotation block."""
    if transform is None:
        return False
    transform = np.asarray(transform, dtype=np.float64)
    if transform.shape != (4, 4) or not np.isfinite(transform).all():
        return False
    rotation = transform[:3, :3]
    orthogonal = np.abs(rotation @ rotation.T - np.eye(3)).max() < tolerance
    return bool(orthogonal and np.linalg.det(rotation) > 0)


def rotation_error_deg(rotation_a: np.ndarray, rotation_b: np.ndarray) -> float:
    """Angle between two 3x3 rotations in degrees, accurate for tiny angles too.

    The arc tangent of (sine, cosine) is used because the arc cosine of the trace alone loses all
    digits below about 1e-6 degrees.
    """
    delta = np.asarray(rotation_a, dtype=np.float64) @ np.asarray(rotation_b, dtype=np.float64).T
    axis = delta[[2, 0, 1], [1, 2, 0]] - delta[[1, 2, 0], [2, 0, 1]]
    return float(np.degrees(np.arctan2(np.linalg.norm(axis), np.trace(delta) - 1.0)))


def direction_error_deg(vector_a: ArrayLike, vector_b: ArrayLike) -> float:
    """Angle between two 3-vectors in degrees; 180 when either has no direction."""
    vector_a, vector_b = np.asarray(vector_a, np.float64), np.asarray(vector_b, np.float64)
    norms = np.linalg.norm(vector_a), np.linalg.norm(vector_b)
    if not np.isfinite(norms).all() or min(norms) < 1e-12:
        return 180.0
    unit_a, unit_b = vector_a / norms[0], vector_b / norms[1]
    # Kahan's form: exact near 0 and near 180 degrees, where the arc cosine is not.
    half = np.arctan2(np.linalg.norm(unit_a - unit_b), np.linalg.norm(unit_a + unit_b))
    return float(np.degrees(2.0 * half))


def relative_pose_error(
    estimate: np.ndarray | None,
    truth: np.ndarray,
    *,
    fold_sign: bool = False,
    min_baseline: float = 0.0,
) -> PoseError:
    """Compare an estimated relative pose with the true one.

    Args:
        estimate: `cam2_from_cam1` with a translation of any length, or None for a failure. A
            matrix that is not a rigid transform counts as a failure.
        truth: true `cam2_from_cam1`.
        fold_sign: score the translation up to its sign, in [0, 90], as several published tables do.
        min_baseline: length of the true translation up to which its direction is not scored.
    """
    if not is_rigid(estimate):
        return FAILED
    estimate, truth = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)
    rotation = rotation_error_deg(estimate[:3, :3], truth[:3, :3])
    if np.linalg.norm(truth[:3, 3]) <= min_baseline:
        return PoseError(rotation, float("nan"))
    direction = direction_error_deg(estimate[:3, 3], truth[:3, 3])
    return PoseError(rotation, min(direction, 180.0 - direction) if fold_sign else direction)


def pose_auc(
    errors_deg: Sequence[float] | np.ndarray,
    thresholds_deg: Sequence[float] = AUC_THRESHOLDS_DEG,
) -> dict[float, float]:
    """Area under the recall curve up to each threshold, over the threshold.

    The curve joins (0, 0) and the points (i-th smallest error, i / n) by straight lines and is held
    from the last error below the threshold; exact, no histogram (SuperGlue's evaluation).

    Args:
        errors_deg: one error a pair, inf for a failure.
        thresholds_deg: where the curve ends, in degrees.

    Returns:
        threshold -> area in [0, 1]; nan for an empty list.

    Raises:
        ValueError: if an error is nan: nobody could tell a failure from a missing truth.
    """
    errors = np.sort(np.asarray(errors_deg, dtype=np.float64).ravel())
    if np.isnan(errors).any():
        raise ValueError("errors_deg holds nan; give inf for a failed pair")
    if errors.size == 0:
        return {float(t): float("nan") for t in thresholds_deg}
    areas = {}
    for threshold in thresholds_deg:
        below = errors[errors < threshold]
        recall = np.arange(1, below.size + 1) / errors.size
        xs = np.concatenate([[0.0], below, [threshold]])
        ys = np.concatenate([[0.0], recall, recall[-1:] if below.size else [0.0]])
        areas[float(threshold)] = float(np.sum(np.diff(xs) * (ys[1:] + ys[:-1])) / 2 / threshold)
    return areas


def share_below(errors: Sequence[float] | np.ndarray, threshold: float) -> float:
    """Share of errors strictly below a threshold; nan entries (no truth) are left out."""
    values = np.asarray(errors, dtype=np.float64)
    values = values[~np.isnan(values)]
    return float((values < threshold).mean()) if values.size else float("nan")


def mean_average_accuracy(errors_deg: Sequence[float] | np.ndarray, up_to_deg: int = 30) -> float:
    """Mean over the whole degrees 1..`up_to_deg` of the share of errors below (mAA)."""
    values = np.asarray(errors_deg, dtype=np.float64)
    if values.size == 0:
        return float("nan")
    return float(np.mean([(values < degree).mean() for degree in range(1, up_to_deg + 1)]))


def summarise_pose_errors(
    errors: Sequence[PoseError], thresholds_deg: Sequence[float] = AUC_THRESHOLDS_DEG
) -> PoseSummary:
    """Turn a list of pose errors into the usual numbers."""
    combined = np.array([error.combined_deg for error in errors], dtype=np.float64)
    rotation = np.array([error.rotation_deg for error in errors], dtype=np.float64)
    direction = np.array([error.direction_deg for error in errors], dtype=np.float64)
    directed = direction[~np.isnan(direction)]
    return PoseSummary(
        pairs=len(errors),
        failed=int(np.isinf(combined).sum()),
        auc=pose_auc(combined, thresholds_deg),
        rotation_accuracy_15=share_below(rotation, 15.0),
        direction_accuracy_15=share_below(direction, 15.0),
        maa_30=mean_average_accuracy(combined),
        median_rotation_deg=_median(rotation),
        median_direction_deg=_median(directed),
    )


def all_pair_errors(
    estimated: Mapping[str, np.ndarray | None],
    truth: Mapping[str, np.ndarray | None],
    *,
    fold_sign: bool = False,
    min_baseline_share: float = 1e-3,
) -> dict[tuple[str, str], PoseError]:
    """Relative pose errors of all image pairs of a scene.

    Args:
        estimated: image name -> `cam_from_world` or None; names that are missing count as None.
        truth: image name -> true `cam_from_world`; images without one are left out.
        fold_sign: see `relative_pose_error`.
        min_baseline_share: pairs whose true baseline is at most this share of the largest one
            score their rotation only.
    """
    names = [name for name, pose in truth.items() if is_rigid(pose)]
    true = {name: np.asarray(truth[name], np.float64) for name in names}
    centres = np.array([_centre(true[name]) for name in names]).reshape(-1, 3)
    extent = np.linalg.norm(centres[:, None] - centres[None], axis=-1).max(initial=0.0)
    errors = {}
    for first, second in itertools.combinations(names, 2):
        pose1, pose2 = estimated.get(first), estimated.get(second)
        relative = None
        if is_rigid(pose1) and is_rigid(pose2):
            relative = np.asarray(pose2, np.float64) @ rigid_inverse_array(np.asarray(pose1))
        errors[first, second] = relative_pose_error(
            relative,
            true[second] @ rigid_inverse_array(true[first]),
            fold_sign=fold_sign,
            min_baseline=min_baseline_share * extent,
        )
    return errors


def trajectory_error(
    estimated: Mapping[str, np.ndarray | None], truth: Mapping[str, np.ndarray | None]
) -> TrajectoryError:
    """Error of the camera centres after the best similarity on the registered images.

    Args:
        estimated: image name -> `cam_from_world` or None.
        truth: image name -> true `cam_from_world`.

    Reference: Sturm et al., A Benchmark for the Evaluation of RGB-D SLAM Systems, sec. V (with a
    free scale).
    """
    names = [name for name, pose in truth.items() if is_rigid(pose)]
    registered = [name for name in names if is_rigid(estimated.get(name))]
    if len(registered) < 3:
        nan = float("nan")
        return TrajectoryError(len(names), len(registered), nan, nan, nan, nan)
    source = np.array([_centre(estimated[name]) for name in registered])
    target = np.array([_centre(truth[name]) for name in registered])
    scale, rotation, translation = fit_similarity(source, target)
    distances = np.linalg.norm(scale * source @ rotation.T + translation - target, axis=1)
    rmse = float(np.sqrt(np.mean(distances**2)))
    centres = np.array([_centre(truth[name]) for name in names])
    spread = float(np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean()))
    angles = [
        rotation_error_deg(
            np.asarray(estimated[name])[:3, :3] @ rotation.T, np.asarray(truth[name])[:3, :3]
        )
        for name in registered
    ]
    return TrajectoryError(
        images=len(names),
        registered=len(registered),
        rmse=rmse,
        relative=rmse / spread if spread > 0 else float("nan"),
        median_rotation_deg=_median(np.array(angles)),
        scale=scale,
    )


def relative_focal_error(K: np.ndarray, true_K: np.ndarray) -> float:
    """`|f / f_true - 1|` with f the mean of fx and fy."""
    focal = np.trace(np.asarray(K, np.float64)[:2, :2])
    return float(abs(focal / np.trace(np.asarray(true_K, np.float64)[:2, :2]) - 1.0))


def fit_similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Least-squares similarity `target ~ scale * rotation @ source + translation`, points (N, 3).

    Reference: Umeyama, Least-squares estimation of transformation parameters, eq. 40-42.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred_source, centred_target = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(centred_target.T @ centred_source)
    sign = np.array([1.0, 1.0, -1.0 if np.linalg.det(u @ vt) < 0 else 1.0])
    rotation = (u * sign) @ vt
    energy = float((centred_source**2).sum())
    scale = float((singular * sign).sum() / energy) if energy > 0 else 1.0
    return scale, rotation, target_mean - scale * rotation @ source_mean


def bootstrap_intervals(
    groups: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], Sequence[float] | np.ndarray],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Percentile bootstrap of the mean over groups of some statistics.

    Pairs are drawn anew with replacement inside each group (a set of images), the statistics are
    taken per group and averaged, as the mean of sets in a table is. With one group this is the
    plain bootstrap over its pairs. A group of one pair cannot vary: it makes the interval too
    narrow rather than too wide.

    Args:
        groups: per group the values of its pairs, (N,) or (N, C); empty groups are left out.
        statistic: maps the resampled values of one group to one number or K.
        resamples: number of draws.
        level: probability that an interval covers, in (0, 1).
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        One interval a statistic; a single one of nan without any group.

    Reference: Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    groups = [np.asarray(group) for group in groups if len(group)]
    if not groups:
        return [Interval(float("nan"), float("nan"), level)]
    generator = np.random.default_rng(seed)
    draws = np.array(
        [
            np.mean(
                [
                    np.atleast_1d(statistic(group[generator.integers(0, len(group), len(group))]))
                    for group in groups
                ],
                axis=0,
            )
            for _ in range(resamples)
        ]
    )  # (resamples, K)
    tail = (1 - level) / 2
    lows, highs = np.quantile(draws, [tail, 1 - tail], axis=0)
    return [Interval(float(low), float(high), level) for low, high in zip(lows, highs, strict=True)]


def _centre(cam_from_world: np.ndarray | None) -> np.ndarray:
    return rigid_inverse_array(np.asarray(cam_from_world))[:3, 3]


def _median(values: np.ndarray) -> float:
    # np.median of [1, inf] would be nan-free but warns on inf - inf for even counts.
    if values.size == 0:
        return float("nan")
    ordered = np.sort(values)
    low, high = ordered[(values.size - 1) // 2], ordered[values.size // 2]
    return float(high) if np.isinf(high) else float((low + high) / 2)
