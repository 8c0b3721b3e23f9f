"""From records of pairs to the numbers of a set, of a band and over all sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .pose_metrics import (
    Interval,
    PoseSummary,
    bootstrap_intervals,
    pose_auc,
    summarise_pose_errors,
)
from .records import (
    ALL_SETS,
    GroupSummary,
    MethodDifference,
    NegativeSummary,
    PairRecord,
    PairSettings,
    PrecisionSummary,
)

NEGATIVE_MATCH_LIMIT = 20


def summarise_records(
    records: Sequence[PairRecord], method: str, group: str, settings: PairSettings
) -> GroupSummary:
    """Summarise one method's records of one group of pairs."""
    positives = [r for r in records if not r.negative]
    negatives = [r for r in records if r.negative]
    errors = [r.pose_error for r in positives if r.pose_error is not None]
    return GroupSummary(
        method=method,
        group=group,
        pairs=len(positives),
        errors=sum(r.error is not None for r in records),
        pose=summarise_pose_errors(errors, settings.thresholds_deg) if errors else None,
        auc_intervals=_auc_intervals([_combined(positives)], settings) if errors else {},
        mean_matches=_mean([r.matches for r in positives]),
        precision=_mean_precision(positives),
        negatives=_summarise_negatives(negatives) if negatives else None,
        mean_seconds=_mean([r.seconds for r in records]),
        mean_cpu_seconds=_mean([r.cpu_seconds for r in records]),
    )


def method_differences(
    records: Sequence[PairRecord], names: Sequence[str], settings: PairSettings
) -> list[MethodDifference]:
    """The first method against each of the others, pair by pair."""
    errors = {
        name: {
            (r.set_name, r.image1, r.image2): r.pose_error.combined_deg
            for r in records
            if r.method == name and r.pose_error is not None
        }
        for name in names
    }
    found = []
    for other in names[1:]:
        both = [key for key in errors[names[0]] if key in errors[other]]
        groups = [
            np.array([(errors[names[0]][k], errors[other][k]) for k in both if k[0] == set_name])
            for set_name in dict.fromkeys(key[0] for key in both)
        ]
        if groups:
            found.append(_difference(names[0], other, groups, settings))
    return found


def mean_of_sets(
    summaries: Sequence[GroupSummary],
    records: Sequence[Sequence[PairRecord]],
    method: str,
    settings: PairSettings,
) -> GroupSummary:
    """One method over all sets: the mean of the sets' numbers, intervals from all their pairs."""
    poses = [summary.pose for summary in summaries if summary.pose is not None]
    kinds = dict.fromkeys(kind for summary in summaries for kind in summary.precision)
    negatives = [r for group in records for r in group if r.negative]
    groups = [_combined([r for r in group if not r.negative]) for group in records]
    return GroupSummary(
        method=method,
        group=ALL_SETS,
        pairs=sum(summary.pairs for summary in summaries),
        errors=sum(summary.errors for summary in summaries),
        pose=_mean_pose(poses) if poses else None,
        auc_intervals=_auc_intervals(groups, settings) if poses else {},
        mean_matches=_mean([summary.mean_matches for summary in summaries]),
        precision={
            kind: _mean_of_precisions([s.precision[kind] for s in summaries if kind in s.precision])
            for kind in kinds
        },
        negatives=_summarise_negatives(negatives) if negatives else None,
        mean_seconds=_mean([summary.mean_seconds for summary in summaries]),
        mean_cpu_seconds=_mean([summary.mean_cpu_seconds for summary in summaries]),
    )


def _combined(records: Sequence[PairRecord]) -> np.ndarray:
    return np.array([r.pose_error.combined_deg for r in records if r.pose_error is not None])


def _auc_intervals(groups: Sequence[np.ndarray], settings: PairSettings) -> dict[float, Interval]:
    if settings.bootstrap_resamples <= 0:
        return {}
    intervals = bootstrap_intervals(
        groups,
        lambda errors: list(pose_auc(errors, settings.thresholds_deg).values()),
        resamples=settings.bootstrap_resamples,
        level=settings.confidence_level,
        seed=settings.seed,
    )
    return dict(zip(settings.thresholds_deg, intervals, strict=True))


def _difference(
    method: str, other: str, groups: Sequence[np.ndarray], settings: PairSettings
) -> MethodDifference:
    thresholds = settings.thresholds_deg

    def gain(errors: np.ndarray) -> np.ndarray:
        ours, theirs = (pose_auc(errors[:, i], thresholds) for i in (0, 1))
        return np.array([ours[t] - theirs[t] for t in thresholds])

    intervals: dict[float, Interval] = {}
    if settings.bootstrap_resamples > 0:
        drawn = bootstrap_intervals(
            groups,
            gain,
            resamples=settings.bootstrap_resamples,
            level=settings.confidence_level,
            seed=settings.seed,
        )
        intervals = dict(zip(thresholds, drawn, strict=True))
    mean = np.mean([gain(group) for group in groups], axis=0)
    gains = {t: float(value) for t, value in zip(thresholds, mean, strict=True)}
    return MethodDifference(method, other, gains, intervals)


def _mean_pose(poses: Sequence[PoseSummary]) -> PoseSummary:
    return PoseSummary(
        pairs=sum(pose.pairs for pose in poses),
        failed=sum(pose.failed for pose in poses),
        auc={t: _mean([pose.auc[t] for pose in poses]) for t in poses[0].auc},
        rotation_accuracy_15=_mean([pose.rotation_accuracy_15 for pose in poses]),
        direction_accuracy_15=_mean([pose.direction_accuracy_15 for pose in poses]),
        maa_30=_mean([pose.maa_30 for pose in poses]),
        median_rotation_deg=_mean([pose.median_rotation_deg for pose in poses]),
        median_direction_deg=_mean([pose.median_direction_deg for pose in poses]),
    )


def _mean_precision(records: Sequence[PairRecord]) -> dict[str, PrecisionSummary]:
    kinds = dict.fromkeys(kind for record in records for kind in record.precision)
    summaries = {}
    for kind in kinds:
        found = [record.precision[kind] for record in records if kind in record.precision]
        thresholds = list(found[0].precision)
        summaries[kind] = PrecisionSummary(
            pairs=len(found),
            precision={t: _mean([m.precision[t] for m in found]) for t in thresholds},
            inliers={t: _mean([m.inliers[t] for m in found]) for t in thresholds},
            coverage=_mean([m.coverage for m in found]),
        )
    return summaries


def _mean_of_precisions(summaries: Sequence[PrecisionSummary]) -> PrecisionSummary:
    thresholds = list(summaries[0].precision)
    return PrecisionSummary(
        pairs=sum(summary.pairs for summary in summaries),
        precision={t: _mean([s.precision[t] for s in summaries]) for t in thresholds},
        inliers={t: _mean([s.inliers[t] for s in summaries]) for t in thresholds},
        coverage=_mean([s.coverage for s in summaries]),
    )


def _summarise_negatives(records: Sequence[PairRecord]) -> NegativeSummary:
    inliers = [record.pose_inliers or 0 for record in records]
    return NegativeSummary(
        pairs=len(records),
        mean_matches=_mean([record.matches for record in records]),
        mean_pose_inliers=_mean(inliers),
        share_with_20_inliers=_mean([count >= NEGATIVE_MATCH_LIMIT for count in inliers]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
