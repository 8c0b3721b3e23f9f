"""Map-free relocalisation: one reference photo, the metric pose of another, and a confidence."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..inference.localization.map_free import localize_against_photo
from ..inference.localization.result import Localization
from .localization import (
    VCRE_THRESHOLD_PX,
    LocalizationError,
    localization_error,
    precision_and_auc,
    summarise_localization,
    virtual_correspondence_error_px,
)
from .network import NetworkMatcher
from .provenance import describe_environment, describe_method, hash_data, plain
from .readers import EvaluationSet, PairTruth
from .records import ALL_SETS
from .runner import Progress
from .tables import markdown_table, provenance_lines

logger = logging.getLogger(__name__)

MAP_FREE_THRESHOLD = (0.25, 5.0)


@dataclass(frozen=True)
class MapFreeSettings:
    """What is common to all methods of a map-free run.

    Attributes:
        known_intrinsics: both photos come with their true K.
        threshold: (metres, degrees) of a right pose.
        vcre_px: largest virtual correspondence error of a right pose.
        seed: none is drawn; named for the report.
        bootstrap_resamples: likewise.
    """

    known_intrinsics: bool = True
    threshold: tuple[float, float] = MAP_FREE_THRESHOLD
    vcre_px: float = VCRE_THRESHOLD_PX
    seed: int = 0
    bootstrap_resamples: int = 0


@dataclass(frozen=True)
class MapFreeRecord:
    """What one method did with one query.

    Attributes:
        set_name: set of the pair.
        method: name of the method.
        image1: reference photo.
        image2: query.
        pose_error: in metres and degrees.
        vcre_px: virtual correspondence error; inf without a pose.
        confidence: of the pose; 0 without one.
        metric: the method's translation is in metres by its own account.
        cpu_seconds: processor time of the query.
        reason: why there is no pose.
    """

    set_name: str
    method: str
    image1: str
    image2: str
    pose_error: LocalizationError
    vcre_px: float
    confidence: float
    metric: bool
    cpu_seconds: float
    reason: str = ""


@dataclass(frozen=True)
class MapFreeGroup:
    """One method on one set, or on all queries pooled.

    Attributes:
        method: name of the method.
        group: name of the set, or `ALL_SETS` for all queries pooled.
        queries: their number.
        failed: how many have no pose.
        median_position: metres.
        median_rotation_deg: degrees.
        pose_precision, pose_auc: of poses within the threshold.
        vcre_precision, vcre_auc: of poses with a small virtual correspondence error.
        median_vcre_px: pixels.
        mean_cpu_seconds: mean processor time a query.
    """

    method: str
    group: str
    queries: int
    failed: int
    median_position: float
    median_rotation_deg: float
    pose_precision: float
    pose_auc: float
    vcre_precision: float
    vcre_auc: float
    median_vcre_px: float
    mean_cpu_seconds: float


@dataclass(frozen=True)
class MapFreeReport:
    """Result of `evaluate_map_free`; fields as in the other reports."""

    settings: MapFreeSettings
    methods: Mapping[str, Mapping[str, object]]
    environment: Mapping[str, object]
    data_sha256: Mapping[str, str]
    records: tuple[MapFreeRecord, ...]
    sets: tuple[MapFreeGroup, ...]
    overall: tuple[MapFreeGroup, ...]

    def to_json(self) -> str:
        """Everything as JSON; numbers that JSON lacks become "inf" and "nan"."""
        return json.dumps(plain(self), indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Medians, precision and area by set, and how it was made."""
        return _markdown(self)

    def write(self, folder: Path | str) -> tuple[Path, Path, Path]:
        """Write mapfree.json, mapfree.md and mapfree.csv (one line a query) into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "mapfree.json", folder / "mapfree.md", folder / "mapfree.csv"
        paths[0].write_text(self.to_json(), encoding="utf-8")
        paths[1].write_text(self.to_markdown(), encoding="utf-8")
        rows = [_row(record) for record in self.records]
        with open(paths[2], "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return paths


def evaluate_map_free(
    sets: Sequence[EvaluationSet],
    methods: Mapping[str, NetworkMatcher],
    settings: MapFreeSettings | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> MapFreeReport:
    """Localise the second photo of every pair against the first.

    Args:
        sets: metric ones; their pairs are reference and query. Negative pairs are left out.
        methods: checkpoints; a method without depth has no metric pose.
        settings: common to all methods.
        progress: called before each query of each method.

    Raises:
        ValueError: a set is not metric, or there is nothing to do.
    """
    settings = settings or MapFreeSettings()
    wrong = [data.name for data in sets if data.units != "metric"]
    if wrong:
        raise ValueError(f"map-free poses are in metres, sets {wrong} are not")
    chosen = {
        data.name: [p for p in data.pairs if not p.is_negative and p.cam2_from_cam1 is not None]
        for data in sets
    }
    total = sum(map(len, chosen.values())) * len(methods)
    if not total:
        raise ValueError("nothing to localise: give at least one checkpoint and a set with pairs")
    records: list[MapFreeRecord] = []
    for name, method in methods.items():
        for set_name, pairs in chosen.items():
            for pair in pairs:
                if progress is not None:
                    progress(Progress(len(records), total, set_name, name))
                records.append(_localize(name, method, set_name, pair, settings))
    groups = [
        _group([r for r in records if (r.method, r.set_name) == (name, s)], name, s, settings)
        for s in chosen
        for name in methods
    ]
    return MapFreeReport(
        settings=settings,
        methods={name: describe_method(method) for name, method in methods.items()},
        environment=describe_environment(),
        data_sha256=hash_data(sets),
        records=tuple(records),
        sets=tuple(groups),
        overall=tuple(
            _group([r for r in records if r.method == name], name, ALL_SETS, settings)
            for name in methods
        ),
    )


def _localize(
    name: str, method: NetworkMatcher, set_name: str, pair: PairTruth, settings: MapFreeSettings
) -> MapFreeRecord:
    assert pair.cam2_from_cam1 is not None and pair.K2 is not None  # only such pairs are chosen
    start = time.process_time()
    reference, _ = method.encoded(pair.image1.path)
    query, _ = method.encoded(pair.image2.path)
    K1, K2 = (pair.K1, pair.K2) if settings.known_intrinsics else (None, None)
    try:
        found = localize_against_photo(query, reference, method.model, K2, K1, method.options)
    except Exception as caught:  # one bad pair must not end the run
        logger.warning("%s failed on %s, %s: %s", name, set_name, pair.image2.name, caught)
        found = Localization(pair.image2.name, reason=f"{type(caught).__name__}: {caught}")
    return MapFreeRecord(
        set_name=set_name,
        method=name,
        image1=pair.image1.name,
        image2=pair.image2.name,
        pose_error=localization_error(found.cam_from_world, pair.cam2_from_cam1),
        vcre_px=virtual_correspondence_error_px(
            found.cam_from_world, pair.cam2_from_cam1, pair.K2, pair.image2.size
        ),
        confidence=found.confidence,
        metric=found.scale == "metric",
        cpu_seconds=time.process_time() - start,
        reason=found.reason,
    )


def _group(
    records: Sequence[MapFreeRecord], method: str, group: str, settings: MapFreeSettings
) -> MapFreeGroup:
    summary = summarise_localization([r.pose_error for r in records], (settings.threshold,))
    confidence = [r.confidence if np.isfinite(r.vcre_px) else -np.inf for r in records]
    pose = precision_and_auc(
        [r.pose_error.within(*settings.threshold) for r in records], confidence
    )
    vcre = precision_and_auc([r.vcre_px < settings.vcre_px for r in records], confidence)
    errors = np.sort([r.vcre_px for r in records])
    return MapFreeGroup(
        method=method,
        group=group,
        queries=summary.queries,
        failed=summary.failed,
        median_position=summary.median_position,
        median_rotation_deg=summary.median_rotation_deg,
        pose_precision=pose[0],
        pose_auc=pose[1],
        vcre_precision=vcre[0],
        vcre_auc=vcre[1],
        median_vcre_px=float(errors[len(errors) // 2]) if len(errors) else float("nan"),
        mean_cpu_seconds=float(np.mean([r.cpu_seconds for r in records]))
        if records
        else float("nan"),
    )


def _row(record: MapFreeRecord) -> dict[str, object]:
    return {
        "set": record.set_name,
        "method": record.method,
        "reference": record.image1,
        "query": record.image2,
        "position_error_m": record.pose_error.position,
        "rotation_error_deg": record.pose_error.rotation_deg,
        "vcre_px": record.vcre_px,
        "confidence": record.confidence,
        "metric": record.metric,
        "cpu_seconds": record.cpu_seconds,
        "reason": record.reason,
    }


def _markdown(report: MapFreeReport) -> str:
    settings = report.settings
    meters, degrees = settings.threshold
    header = ["set", "method", "queries", "failed", "median error"]
    header += [f"precision / AUC @ {meters:g} m, {degrees:g} deg"]
    header += [f"VCRE < {settings.vcre_px:g} px, precision / AUC", "median VCRE", "CPU s a query"]
    rows = [
        [
            group.group,
            group.method,
            str(group.queries),
            str(group.failed),
            f"{group.median_position:.3f} m, {group.median_rotation_deg:.2f} deg",
            f"{100 * group.pose_precision:.1f} / {100 * group.pose_auc:.1f}",
            f"{100 * group.vcre_precision:.1f} / {100 * group.vcre_auc:.1f}",
            f"{group.median_vcre_px:.0f} px",
            f"{group.mean_cpu_seconds:.2f}",
        ]
        for group in [*report.sets, *report.overall]
    ]
    known = "true" if settings.known_intrinsics else "no"
    text = (
        f"One reference photo, the pose of the query in metres, {known} intrinsics. Precision over "
        "all queries in %; AUC: area under precision over recall, ranked by confidence. The last "
        "lines pool all queries."
    )
    relative = sorted({r.method for r in report.records if not r.metric})
    if relative:
        text += f" The lengths of {', '.join(relative)} are not metres by its own account."
    parts = ["# Map-free relocalisation", text, markdown_table(header, rows), "## How it was made"]
    parts += [
        provenance_lines(report.environment, report.data_sha256, settings, report.methods),
    ]
    return "\n\n".join(parts) + "\n"
