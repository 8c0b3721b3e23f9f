"""What a two-view evaluation notes down: settings, one record a pair, summaries of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .match_metrics import THRESHOLDS_PX, MatchSummary
from .pose_metrics import AUC_THRESHOLDS_DEG, Interval, PoseError, PoseSummary

ALL_SETS = "mean of sets"


@dataclass(frozen=True)
class PairSettings:
    """What is common to all methods of a two-view run.

    Attributes:
        max_error_px: threshold of the robust pose, in pixels at a long side of 640.
        thresholds_px: thresholds of the match precisions, in pixels at 640.
        thresholds_deg: where the area under the recall curve ends, in degrees.
        bootstrap_resamples: draws of the confidence intervals; 0 for none.
        confidence_level: of the intervals.
        seed: of the bootstrap (the pose estimator's seed is fixed inside it).
        fold_sign: score translation directions up to sign, as several published tables do.
    """

    max_error_px: float = 1.0
    thresholds_px: tuple[float, ...] = THRESHOLDS_PX
    thresholds_deg: tuple[float, ...] = AUC_THRESHOLDS_DEG
    bootstrap_resamples: int = 1000
    confidence_level: float = 0.95
    seed: int = 0
    fold_sign: bool = False


@dataclass(frozen=True)
class PairRecord:
    """What one method did on one pair.

    Attributes:
        set_name: set of the pair.
        method: name of the method.
        image1: file name of the first image.
        image2: file name of the second image.
        band: how hard the pair is, or None.
        overlap: share of the views that both see, or None.
        negative: True for images of different places that look alike.
        matches: number of matches returned.
        pose_inliers: matches that agree with the robust pose; None without true intrinsics.
        pose_error: None when the pair has no true pose (or is negative).
        cam2_from_cam1: (4, 4) estimated with the true intrinsics, unit translation, or None.
        precision: kind of truth -> summary, see `runner.score_matches`.
        seconds: wall time of the method on this pair; features that it kept from a pair before
            are not paid again.
        cpu_seconds: the same in processor time of all threads, which does not see other load.
        error: text of the exception that the method raised, or None.
    """

    set_name: str
    method: str
    image1: str
    image2: str
    band: str | None
    overlap: float | None
    negative: bool
    matches: int
    pose_inliers: int | None
    pose_error: PoseError | None
    cam2_from_cam1: np.ndarray | None
    precision: Mapping[str, MatchSummary]
    seconds: float
    cpu_seconds: float
    error: str | None = None


@dataclass(frozen=True)
class PrecisionSummary:
    """Mean over pairs of one kind of match precision.

    Attributes:
        pairs: pairs with this kind of truth.
        precision: threshold in pixels at 640 -> mean share of right matches.
        inliers: threshold -> mean number of right matches.
        coverage: mean share of a 16 x 16 grid over image 1 that holds a right match.
    """

    pairs: int
    precision: Mapping[float, float]
    inliers: Mapping[float, float]
    coverage: float


@dataclass(frozen=True)
class NegativeSummary:
    """Pairs that show different places: the fewer matches the better.

    Attributes:
        pairs: number of such pairs.
        mean_matches: mean number of matches.
        mean_pose_inliers: mean number that agree with a robust pose.
        share_with_20_inliers: share of pairs with 20 such matches or more.
    """

    pairs: int
    mean_matches: float
    mean_pose_inliers: float
    share_with_20_inliers: float


@dataclass(frozen=True)
class GroupSummary:
    """One method on one group of pairs (a set, a band, or the mean over sets).

    Attributes:
        method: name of the method.
        group: name of the set or band, or `ALL_SETS`.
        pairs: pairs in the group, negatives not counted.
        errors: pairs on which the method raised an exception.
        pose: None when no pair has a true pose. In the mean over sets the counts are sums and
            everything else is the mean of the sets' numbers.
        auc_intervals: threshold in degrees -> bootstrap interval of the AUC; may be empty.
        mean_matches: mean number of matches.
        precision: kind of truth -> summary.
        negatives: None when the group has no negative pairs.
        mean_seconds: mean wall time a pair.
        mean_cpu_seconds: mean processor time a pair.
    """

    method: str
    group: str
    pairs: int
    errors: int
    pose: PoseSummary | None
    auc_intervals: Mapping[float, Interval]
    mean_matches: float
    precision: Mapping[str, PrecisionSummary]
    negatives: NegativeSummary | None
    mean_seconds: float
    mean_cpu_seconds: float


@dataclass(frozen=True)
class MethodDifference:
    """How much better one method is than another on the same pairs.

    Attributes:
        method: the one.
        other: the other.
        auc: threshold in degrees -> mean over sets of the first's AUC minus the second's.
        intervals: threshold -> bootstrap interval of that difference, pairs drawn together.
    """

    method: str
    other: str
    auc: Mapping[float, float]
    intervals: Mapping[float, Interval]
