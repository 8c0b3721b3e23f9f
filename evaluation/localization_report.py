"""Summaries, tables and files of a localisation run."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .localization import LocalizationError, LocalizationSummary, summarise_localization
from .localization_sets import LocalizationSet
from .pose_metrics import Interval, bootstrap_intervals
from .provenance import describe_environment, describe_method, hash_data, plain
from .records import ALL_SETS
from .tables import markdown_table, provenance_lines

if TYPE_CHECKING:
    from .localization_runner import LocalizationRecord, LocalizationSettings


@dataclass(frozen=True)
class LocalizationGroup:
    """One method on one set, or the mean over sets.

    Attributes:
        method: name of the method.
        group: name of the set, or `ALL_SETS`.
        summary: in the mean over sets the counts are sums, the rest the mean of the sets' numbers.
        intervals: (position, degrees) -> bootstrap interval of the recall; may be empty.
        mean_inliers: mean number of inliers a query.
        within_two_sigma: share of the localised queries whose position lies within two of the
            standard deviations that the pose itself claims.
        mean_cpu_seconds: mean processor time a query.
        errors: queries on which the method raised an exception.
    """

    method: str
    group: str
    summary: LocalizationSummary
    intervals: Mapping[tuple[float, float], Interval]
    mean_inliers: float
    within_two_sigma: float
    mean_cpu_seconds: float
    errors: int


@dataclass(frozen=True)
class LocalizationReport:
    """Result of `evaluate_localization`.

    Attributes:
        settings: of the run.
        methods: name -> what the method says about itself.
        retrieval: what chose the photos to match with says about itself.
        environment: versions, machine, threads, time.
        protocols: set -> where map and queries come from.
        data_sha256: "SET/FILE" -> sha256 of every data file used.
        records: one a query and method.
        sets: one a set and method.
        overall: one a method: the mean over its sets.
    """

    settings: LocalizationSettings
    methods: Mapping[str, Mapping[str, object]]
    retrieval: Mapping[str, object]
    environment: Mapping[str, object]
    protocols: Mapping[str, str]
    data_sha256: Mapping[str, str]
    records: tuple[LocalizationRecord, ...]
    sets: tuple[LocalizationGroup, ...]
    overall: tuple[LocalizationGroup, ...]

    def to_json(self) -> str:
        """Everything as JSON; numbers that JSON lacks become "inf" and "nan"."""
        return json.dumps(plain(self), indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Recall and medians by set, and how it was made."""
        return _markdown(self)

    def write(self, folder: Path | str) -> tuple[Path, Path, Path]:
        """Write localization.json, .md and .csv (one line a query and method) into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = (
            folder / "localization.json",
            folder / "localization.md",
            folder / "localization.csv",
        )
        paths[0].write_text(self.to_json(), encoding="utf-8")
        paths[1].write_text(self.to_markdown(), encoding="utf-8")
        rows = [_row(record) for record in self.records]
        with open(paths[2], "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return paths


def build_localization_report(
    records: Sequence[LocalizationRecord],
    methods: Mapping[str, object],
    ranker: object,
    sets: Sequence[LocalizationSet],
    settings: LocalizationSettings,
) -> LocalizationReport:
    """Summarise records; methods and ranker are asked for their `description`."""
    groups = {
        (name, data.name): _group(
            [r for r in records if (r.method, r.set_name) == (name, data.name)],
            *(name, data.name, settings),
        )
        for data in sets
        for name in methods
    }
    return LocalizationReport(
        settings=settings,
        methods={name: describe_method(method) for name, method in methods.items()},
        retrieval=describe_method(ranker),
        environment=describe_environment(),
        protocols={data.name: data.protocol for data in sets},
        data_sha256=hash_data(sets),
        records=tuple(records),
        sets=tuple(groups.values()),
        overall=tuple(
            _mean_group([groups[name, data.name] for data in sets], records, name, settings)
            for name in methods
        ),
    )


def _errors(records: Sequence[LocalizationRecord]) -> list[LocalizationError]:
    return [r.pose_error for r in records if r.pose_error is not None]


def _group(
    records: Sequence[LocalizationRecord], method: str, group: str, settings: LocalizationSettings
) -> LocalizationGroup:
    errors = _errors(records)
    ratios = [
        r.pose_error.position / r.position_sigma
        for r in records
        if r.pose_error is not None and r.cam_from_world is not None
    ]
    return LocalizationGroup(
        method=method,
        group=group,
        summary=summarise_localization(errors, settings.thresholds),
        intervals=_intervals([errors], settings),
        mean_inliers=_mean([r.inliers for r in records]),
        within_two_sigma=_mean([ratio < 2 for ratio in ratios]),
        mean_cpu_seconds=_mean([r.cpu_seconds for r in records]),
        errors=sum(r.error is not None for r in records),
    )


def _mean_group(
    groups: Sequence[LocalizationGroup],
    records: Sequence[LocalizationRecord],
    method: str,
    settings: LocalizationSettings,
) -> LocalizationGroup:
    summaries = [group.summary for group in groups if group.summary.queries]
    by_set = [
        _errors([r for r in records if (r.method, r.set_name) == (method, group.group)])
        for group in groups
    ]
    return LocalizationGroup(
        method=method,
        group=ALL_SETS,
        summary=LocalizationSummary(
            queries=sum(s.queries for s in summaries),
            failed=sum(s.failed for s in summaries),
            median_position=_mean([s.median_position for s in summaries]),
            median_rotation_deg=_mean([s.median_rotation_deg for s in summaries]),
            recall={t: _mean([s.recall[t] for s in summaries]) for t in settings.thresholds},
        ),
        intervals=_intervals(by_set, settings),
        mean_inliers=_mean([group.mean_inliers for group in groups]),
        within_two_sigma=_mean(
            [g.within_two_sigma for g in groups if not np.isnan(g.within_two_sigma)]
        ),
        mean_cpu_seconds=_mean([group.mean_cpu_seconds for group in groups]),
        errors=sum(group.errors for group in groups),
    )


def _intervals(
    groups: Sequence[Sequence[LocalizationError]], settings: LocalizationSettings
) -> dict[tuple[float, float], Interval]:
    if settings.bootstrap_resamples <= 0 or not any(groups):
        return {}
    hits = [
        np.array([[error.within(*t) for t in settings.thresholds] for error in group], dtype=float)
        for group in groups
    ]
    drawn = bootstrap_intervals(
        hits,
        lambda sample: sample.mean(axis=0),
        resamples=settings.bootstrap_resamples,
        level=settings.confidence_level,
        seed=settings.seed,
    )
    return dict(zip(settings.thresholds, drawn, strict=True))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _row(record: LocalizationRecord) -> dict[str, object]:
    error = record.pose_error
    return {
        "set": record.set_name,
        "method": record.method,
        "query": record.query,
        "references": " ".join(record.references),
        "matches": record.matches,
        "points": record.points,
        "inliers": record.inliers,
        "position_error": "" if error is None else error.position,
        "rotation_error_deg": "" if error is None else error.rotation_deg,
        "position_sigma": record.position_sigma,
        "rotation_sigma_deg": record.rotation_sigma_deg,
        "confidence": record.confidence,
        "seconds": record.seconds,
        "cpu_seconds": record.cpu_seconds,
        "reason": record.reason,
        "error": record.error or "",
    }


def _markdown(report: LocalizationReport) -> str:
    settings = report.settings
    known = "with the true intrinsics" if settings.known_intrinsics else "with an unknown focal"
    thresholds = [f"{p:g} m, {d:g} deg" for p, d in settings.thresholds]
    level = f"{100 * settings.confidence_level:g} %"
    header = [
        "set",
        "method",
        "queries",
        "failed",
        "median error",
        "recall @ " + " / ".join(thresholds),
    ]
    header += [f"interval @ {thresholds[len(thresholds) // 2]}", "inliers", "CPU s a query"]
    rows = []
    for group in [*report.sets, *report.overall]:
        summary, intervals = group.summary, list(group.intervals.values())
        middle = intervals[len(intervals) // 2] if intervals else None
        rows.append(
            [
                group.group,
                group.method,
                str(summary.queries),
                str(summary.failed),
                f"{summary.median_position:.3f} m, {summary.median_rotation_deg:.2f} deg",
                " / ".join(f"{100 * share:.0f}" for share in summary.recall.values()),
                "-" if middle is None else f"{100 * middle.low:.0f} .. {100 * middle.high:.0f}",
                f"{group.mean_inliers:.0f}",
                f"{group.mean_cpu_seconds:.2f}",
            ]
        )
    return (
        "\n\n".join(
            [
                "# Localisation",
                f"Queries {known}, each matched with the {settings.top_k} photos of the map that "
                "look most like it (the same for all methods); points behind the matches, PnP with "
                f"LO-RANSAC at {settings.max_error_px:g} px (long side 640). Recall in %, failures "
                f"count; interval: {level} bootstrap over queries.",
                markdown_table(header, rows),
                "\n".join(f"- {name}: {text}" for name, text in report.protocols.items()),
                "## How it was made",
                provenance_lines(report.environment, report.data_sha256, settings, report.methods)
                + "\n- retrieval: "
                + ", ".join(f"{key} {value}" for key, value in report.retrieval.items()),
            ]
        )
        + "\n"
    )
