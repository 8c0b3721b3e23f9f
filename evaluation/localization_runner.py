"""Localise the queries of sets with any two-view method and score the poses.

A method matches two image files; the photos of the map to match with, the points behind them, the
robust pose and the metrics are the same code for every method.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..inference.localization.localizer import (
    Correspondences,
    LocalizerOptions,
    localization_from_points,
)
from ..inference.localization.pose import MIN_INLIERS
from ..inference.localization.result import Localization
from .localization import (
    LOCALIZATION_THRESHOLDS,
    NOT_LOCALIZED,
    LocalizationError,
    localization_error,
)
from .localization_report import LocalizationReport, build_localization_report
from .localization_sets import LocalizationQuery, LocalizationSet
from .match_metrics import reference_scale
from .runner import PairMethod, Progress, checked_matches

logger = logging.getLogger(__name__)


class Ranker(Protocol):
    """What chooses the photos of the map that a query is matched with."""

    def rank(
        self, queries: Sequence[Path], database: Sequence[Path], count: int
    ) -> list[list[int]]:
        """For each query the indices of the `count` most similar photos, best first."""
        ...


@dataclass(frozen=True)
class LocalizationSettings:
    """What is common to all methods of a localisation run.

    Attributes:
        top_k: photos of the map that each query is matched with.
        known_intrinsics: queries come with their true K; otherwise a focal length is estimated.
        max_error_px: largest reprojection error of an inlier, in pixels at a long side of 640.
        min_inliers: fewest inliers of a pose.
        thresholds: (units of the map, degrees) of the recalls.
        bootstrap_resamples: draws of the confidence intervals; 0 for none.
        confidence_level: of the intervals.
        seed: of the bootstrap and of the robust pose.
    """

    top_k: int = 5
    known_intrinsics: bool = True
    max_error_px: float = 4.0
    min_inliers: int = MIN_INLIERS
    thresholds: tuple[tuple[float, float], ...] = LOCALIZATION_THRESHOLDS
    bootstrap_resamples: int = 1000
    confidence_level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class LocalizationRecord:
    """What one method did with one query.

    Attributes:
        set_name: set of the query.
        method: name of the method.
        query: name of the query.
        references: photos of the map that it was matched with, most similar first.
        matches: matches with all of them.
        points: how many of these had a known point behind them.
        inliers: how many agree with the pose.
        pose_error: None when the query's true pose is unknown.
        position_sigma: standard deviation that the pose claims, units of the map; nan on failure.
        rotation_sigma_deg: the same of the rotation.
        confidence: of the pose, 0 on failure.
        cam_from_world: (4, 4), or None.
        seconds: wall time of matching and pose; features that a method kept are not paid again.
        cpu_seconds: the same in processor time of all threads.
        reason: why there is no pose.
        error: text of the exceptions that the method raised, or None.
    """

    set_name: str
    method: str
    query: str
    references: tuple[str, ...]
    matches: int
    points: int
    inliers: int
    pose_error: LocalizationError | None
    position_sigma: float
    rotation_sigma_deg: float
    confidence: float
    cam_from_world: np.ndarray | None
    seconds: float
    cpu_seconds: float
    reason: str = ""
    error: str | None = None


def evaluate_localization(
    sets: Sequence[LocalizationSet],
    methods: Mapping[str, PairMethod],
    ranker: Ranker,
    settings: LocalizationSettings | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> LocalizationReport:
    """Localise every query of every set with every method.

    Args:
        sets: maps with queries.
        methods: name -> method, the same as in `evaluate_pairs`.
        ranker: finds the similar photos, once for all methods; sets that list them are not asked.
        settings: common to all methods.
        progress: called before each query of each method.

    Raises:
        ValueError: if there is nothing to do.
    """
    settings = settings or LocalizationSettings()
    if not methods or not any(data.queries for data in sets):
        raise ValueError("nothing to localise: give at least one method and one set with queries")
    references = [_references(data, ranker, settings.top_k) for data in sets]
    total = sum(len(data.queries) for data in sets) * len(methods)
    records: list[LocalizationRecord] = []
    for name, method in methods.items():
        for data, chosen in zip(sets, references, strict=True):
            for query, indices in zip(data.queries, chosen, strict=True):
                if progress is not None:
                    progress(Progress(len(records), total, data.name, name))
                records.append(_localize(name, method, data, query, indices, settings))
    return build_localization_report(records, methods, ranker, sets, settings)


def _references(data: LocalizationSet, ranker: Ranker, count: int) -> list[list[int]]:
    paths = [photo.path for photo in data.database.photos]
    listed = data.references
    if listed is not None:
        index = {photo.name: i for i, photo in enumerate(data.database.photos)}
        return [
            [index[name] for name in listed.get(query.name, ()) if name in index][:count]
            for query in data.queries
        ]
    known = [path for path in paths if path is not None]
    if len(known) < len(paths):
        raise ValueError(f"{data.name}: photos of the map without a file cannot be ranked")
    return ranker.rank([query.path for query in data.queries], known, count)


def _localize(
    name: str,
    method: PairMethod,
    data: LocalizationSet,
    query: LocalizationQuery,
    references: Sequence[int],
    settings: LocalizationSettings,
) -> LocalizationRecord:
    start, cpu_start = time.perf_counter(), time.process_time()
    xy, xyz, confidence, errors = [np.zeros((0, 2))], [np.zeros((0, 3))], [np.zeros(0)], []
    for index in references:
        photo = data.database.photos[index]
        try:
            assert photo.path is not None  # `_references` has checked it
            matches = checked_matches(method(photo.path, query.path))
        except Exception as caught:  # one bad pair must not end the run
            errors.append(f"{photo.name}: {type(caught).__name__}: {caught}")
            logger.warning("%s failed on %s, %s: %s", name, data.name, query.name, errors[-1])
            continue
        xy.append(matches.xy2)
        xyz.append(photo.points.at(matches.xy1))
        given = matches.confidence
        confidence.append(np.zeros(len(matches.xy2)) if given is None else np.asarray(given))
    names = tuple(data.database.photos[i].name for i in references)
    found = _pooled(np.concatenate(xy), np.concatenate(xyz), np.concatenate(confidence))
    answer = _solve(query, found, names, data.database.metric, settings)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    truth = query.cam_from_world
    return LocalizationRecord(
        set_name=data.name,
        method=name,
        query=query.name,
        references=names,
        matches=found.matches,
        points=len(found.xy),
        inliers=answer.num_inliers,
        pose_error=None
        if truth is None
        else localization_error(answer.cam_from_world, truth)
        if answer
        else NOT_LOCALIZED,
        position_sigma=answer.position_sigma,
        rotation_sigma_deg=answer.rotation_sigma_deg,
        confidence=answer.confidence,
        cam_from_world=answer.cam_from_world,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        reason=answer.reason,
        error="; ".join(errors) or None,
    )


def _pooled(xy: np.ndarray, xyz: np.ndarray, confidence: np.ndarray) -> Correspondences:
    known = np.isfinite(xyz).all(axis=1)
    order = np.argsort(-confidence[known], kind="stable")
    return Correspondences(xy[known][order], xyz[known][order], len(xy))


def _solve(
    query: LocalizationQuery,
    found: Correspondences,
    references: tuple[str, ...],
    metric: bool,
    settings: LocalizationSettings,
) -> Localization:
    known = settings.known_intrinsics
    return localization_from_points(
        query.name,
        query.size,
        found,
        query.K if known else None,
        camera=query.camera if known else None,
        references=references,
        metric=metric,
        max_error_px=settings.max_error_px / reference_scale(query.size),
        options=LocalizerOptions(min_inliers=settings.min_inliers, seed=settings.seed),
    )
