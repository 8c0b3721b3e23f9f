"""Run two-view methods over evaluation sets and score their matches and relative poses.

A method gets two image files and returns matches in original pixels; everything after that (robust
relative pose with the true intrinsics, metrics) is the same code for every method.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..geometry.pose import relative_pose
from .datasets import read_pair_sets
from .match_metrics import (
    THRESHOLDS_PX,
    MatchesLike,
    MatchSummary,
    PairMatches,
    depth_errors_px,
    disparity_errors_px,
    epipolar_errors_px,
    homography_errors_px,
    reference_scale,
    summarise_match_errors,
)
from .pose_metrics import FAILED, PoseError, relative_pose_error
from .predictions import PredictionWriter
from .readers import EvaluationSet, PairTruth
from .records import PairRecord, PairSettings
from .report import EvaluationReport, build_report

logger = logging.getLogger(__name__)


class PairMethod(Protocol):
    """A two-view method.

    It may have an attribute `description`, a mapping of plain values (options, sha256 of weights)
    that the report writes down.
    """

    def __call__(self, path1: Path, path2: Path, /) -> MatchesLike:
        """Match two image files, in pixels of the original images, centres at half-integers."""
        ...


@dataclass(frozen=True)
class RobustPose:
    """What the common robust estimator makes of a pair's matches.

    Attributes:
        cam2_from_cam1: (4, 4) with a unit translation, or None when there is no estimate.
        inliers: (N,) bool, the matches that agree with it.
    """

    cam2_from_cam1: np.ndarray | None
    inliers: np.ndarray


PoseEstimator = Callable[
    [np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[int, int], tuple[int, int], float],
    RobustPose,
]
"""(xy1, xy2, K1, K2, size1, size2, max_error_px) -> RobustPose."""


@dataclass(frozen=True)
class Progress:
    """Passed to the progress callback before each pair.

    Attributes:
        done: pairs finished.
        total: pairs of the run, over all methods.
        set_name: set of the pair that comes next.
        method: method that comes next.
    """

    done: int
    total: int
    set_name: str
    method: str


def evaluate_pairs(
    eval_root: Path | str,
    sets: Sequence[str] | None,
    methods: Mapping[str, PairMethod],
    settings: PairSettings | None = None,
    *,
    layout: str = "plain",
    estimator: PoseEstimator | None = None,
    max_pairs: int | None = None,
    predictions: Path | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> EvaluationReport:
    """Run methods over the listed pairs of sets.

    Args:
        eval_root: folder with the sets, see `readers.read_set`.
        sets: names of the sets; a set without pairs is an error. None: all that have pairs.
        methods: name -> method.
        settings: common to all methods.
        layout: of the data set on disk, see `datasets.PAIR_LAYOUTS`.
        estimator: robust relative pose; the library's own by default.
        max_pairs: only the first pairs of each set, for a quick look.
        predictions: folder for matches and poses as files, METHOD/SET/ each (see `predictions`);
            None writes none.
        progress: called before each pair of each method.

    Returns:
        The report; a pair on which a method raised an error counts as a failure and carries the
        error's text.

    Raises:
        FileNotFoundError: if a set is not there.
        ValueError: if there is nothing to do.
    """
    settings = settings or PairSettings()
    estimator = estimator or robust_relative_pose
    if not methods:
        raise ValueError("methods is empty; give at least one, for example {'sift': SiftMethod()}")
    loaded = read_pair_sets(eval_root, layout, sets)
    total = sum(len(data.pairs[:max_pairs]) for data in loaded) * len(methods)
    records: list[PairRecord] = []
    for (name, method), data in itertools.product(methods.items(), loaded):
        writer = (
            None if predictions is None else PredictionWriter(Path(predictions, name, data.name))
        )
        for pair in data.pairs[:max_pairs]:
            if progress is not None:
                progress(Progress(len(records), total, data.name, name))
            run = _run_method(name, method, data, pair)
            record = _score(name, data, pair, run, settings, estimator)
            if writer is not None:
                writer.add_pair(record.image1, record.image2, run.matches, record.cam2_from_cam1)
            records.append(record)
        if writer is not None:
            writer.close()
    return build_report(records, methods, loaded, settings)


def robust_relative_pose(
    xy1: np.ndarray,
    xy2: np.ndarray,
    K1: np.ndarray,
    K2: np.ndarray,
    size1: tuple[int, int],
    size2: tuple[int, int],
    max_error_px: float,
) -> RobustPose:
    """Relative pose from matches and true intrinsics by the library's robust estimator.

    A pose that the estimator does not claim, because chance could have made it, is scored all the
    same, as benchmarks of the field do; it has no inliers.

    Args:
        xy1: (N, 2) pixels of image 1; xy2 of image 2.
        xy2: (N, 2) pixels of image 2.
        K1: (3, 3) intrinsics; K2 of image 2.
        K2: (3, 3) intrinsics of image 2.
        size1: (height, width) of image 1.
        size2: (height, width) of image 2.
        max_error_px: inlier threshold in pixels at a long side of 640: positions and intrinsics of
            both images are scaled to that size first, so that it means the same in both.
    """
    scale1, scale2 = reference_scale(size1), reference_scale(size2)
    estimate = relative_pose(
        np.asarray(xy1, np.float64) * scale1,
        np.asarray(xy2, np.float64) * scale2,
        np.diag([scale1, scale1, 1.0]) @ K1,
        np.diag([scale2, scale2, 1.0]) @ K2,
        _scaled(size1),
        _scaled(size2),
        max_error_px,
    )
    guess = estimate.best_guess
    return RobustPose(guess if np.isfinite(guess).all() else None, estimate.inliers)


@dataclass(frozen=True)
class _Run:
    """What a method returned on a pair, what it took, and the text of its error if it had one."""

    matches: PairMatches
    seconds: float
    cpu_seconds: float
    error: str | None


def _run_method(name: str, method: PairMethod, data: EvaluationSet, pair: PairTruth) -> _Run:
    start, cpu_start = time.perf_counter(), time.process_time()
    matches, error = PairMatches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0)), None
    try:
        matches = checked_matches(method(pair.image1.path, pair.image2.path))
    except Exception as caught:  # one bad pair must not end the run
        error = f"{type(caught).__name__}: {caught}"
        names = f"{pair.image1.name} {pair.image2.name}"
        logger.warning("%s failed on %s, %s: %s", name, data.name, names, error)
    return _Run(matches, time.perf_counter() - start, time.process_time() - cpu_start, error)


def _score(
    method_name: str,
    data: EvaluationSet,
    pair: PairTruth,
    run: _Run,
    settings: PairSettings,
    estimator: PoseEstimator,
) -> PairRecord:
    xy1, xy2 = run.matches.xy1, run.matches.xy2
    pose, pose_error = _score_pose(pair, xy1, xy2, settings, estimator)
    inliers = None if pose is None else pose.inliers
    return PairRecord(
        set_name=data.name,
        method=method_name,
        image1=pair.image1.name,
        image2=pair.image2.name,
        band=pair.band,
        overlap=pair.overlap,
        negative=pair.is_negative,
        matches=len(xy1),
        pose_inliers=None if inliers is None else int(inliers.sum()),
        pose_error=pose_error,
        cam2_from_cam1=None if pose is None else pose.cam2_from_cam1,
        precision=score_matches(pair, xy1, xy2, inliers, settings.thresholds_px),
        seconds=run.seconds,
        cpu_seconds=run.cpu_seconds,
        error=run.error,
    )


def _score_pose(
    pair: PairTruth,
    xy1: np.ndarray,
    xy2: np.ndarray,
    settings: PairSettings,
    estimator: PoseEstimator,
) -> tuple[RobustPose | None, PoseError | None]:
    if pair.K1 is None or pair.K2 is None:
        return None, None
    pose = estimator(
        xy1, xy2, pair.K1, pair.K2, pair.image1.size, pair.image2.size, settings.max_error_px
    )
    if pair.is_negative or pair.cam2_from_cam1 is None:
        return pose, None
    if pose.cam2_from_cam1 is None:
        return pose, FAILED
    return pose, relative_pose_error(
        pose.cam2_from_cam1, pair.cam2_from_cam1, fold_sign=settings.fold_sign
    )


def score_matches(
    pair: PairTruth,
    xy1: np.ndarray,
    xy2: np.ndarray,
    inliers: np.ndarray | None = None,
    thresholds_px: tuple[float, ...] = THRESHOLDS_PX,
) -> dict[str, MatchSummary]:
    """Compare matches with every kind of truth that the pair has.

    Args:
        pair: the truth.
        xy1: (N, 2) pixels of image 1; xy2 of image 2.
        xy2: (N, 2) pixels of image 2.
        inliers: (N,) bool of the robust pose; adds the key `epipolar_inliers`, the epipolar
            precision of these matches only.
        thresholds_px: in pixels at 640.

    Returns:
        Kind of truth (`epipolar`, `depth`, `homography`, `disparity`, `epipolar_inliers`) ->
        summary; empty for a negative pair. Without any match a precision is 0: a failure counts.
    """
    if pair.is_negative:
        return {}
    size1, size2 = pair.image1.size, pair.image2.size
    errors: dict[str, np.ndarray] = {}
    if pair.cam2_from_cam1 is not None and pair.K1 is not None and pair.K2 is not None:
        geometry = pair.K1, pair.K2, pair.cam2_from_cam1
        errors["epipolar"] = epipolar_errors_px(xy1, xy2, *geometry, size1, size2)
        depth = pair.image1.depth()
        if depth is not None:
            errors["depth"] = depth_errors_px(
                xy1, xy2, depth, *geometry, size2, pair.image2.depth()
            )
    if pair.H_2from1 is not None:
        errors["homography"] = homography_errors_px(xy1, xy2, pair.H_2from1, size2)
    disparity = pair.image1.disparity()
    if disparity is not None:
        errors["disparity"] = disparity_errors_px(xy1, xy2, disparity, size2)
    summaries = {
        kind: summarise_match_errors(values, xy1, size1, thresholds_px)
        for kind, values in errors.items()
    }
    if inliers is not None and "epipolar" in errors:
        summaries["epipolar_inliers"] = summarise_match_errors(
            errors["epipolar"][inliers], xy1[inliers], size1, thresholds_px
        )
    return summaries


def checked_matches(matches: MatchesLike) -> PairMatches:
    """What a method returned, or a ValueError that says what is wrong with it."""
    xy1, xy2 = np.asarray(matches.xy1, np.float64), np.asarray(matches.xy2, np.float64)
    if xy1.ndim != 2 or xy1.shape[1] != 2 or xy1.shape != xy2.shape:
        raise ValueError(
            f"a method must return xy1 and xy2 of one shape (N, 2), got {xy1.shape}, {xy2.shape}"
        )
    if not (np.isfinite(xy1).all() and np.isfinite(xy2).all()):
        raise ValueError("a method returned match positions that are not finite")
    return PairMatches(xy1, xy2, matches.confidence)


def _scaled(size: tuple[int, int]) -> tuple[int, int]:
    scale = reference_scale(size)
    return round(size[0] * scale), round(size[1] * scale)
