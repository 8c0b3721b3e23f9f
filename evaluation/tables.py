"""Markdown tables of a two-view evaluation."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from .records import GroupSummary

if TYPE_CHECKING:
    from .report import EvaluationReport


def pair_tables(report: EvaluationReport) -> str:
    """Poses and matches by set, by band, negatives, and how it was made."""
    settings = report.settings
    degrees = "/".join(f"{t:g}" for t in settings.thresholds_deg)
    level = f"{100 * settings.confidence_level:g} %"
    parts = [
        "# Two-view evaluation",
        f"Relative pose from matches with the true intrinsics, one robust estimator for all "
        f"methods ({settings.max_error_px:g} px at a long side of 640). AUC in %, of the larger of "
        "the rotation and the direction error; failures count, and a pose that the estimator "
        f"doubts is scored all the same. Interval: {level} bootstrap interval over pairs. "
        "Precision: share of matches within so many pixels (at 640) of both true epipolar lines.",
        _pose_table(report, [*report.sets, *report.overall], "set", degrees),
    ]
    if report.differences:
        parts += [_difference_table(report, degrees)]
    if report.bands:
        parts += ["## By overlap, pairs of all sets pooled"]
        parts += [_pose_table(report, report.bands, "band", degrees)]
    truth = _truth_rows(report)
    if truth:
        pixels = "/".join(f"{t:g}" for t in settings.thresholds_px)
        header = ["set", "method", "truth", f"precision @{pixels} px", "right @3 px", "coverage"]
        parts += ["## Against the true point", markdown_table(header, truth)]
    negative = [
        [
            s.group,
            s.method,
            str(s.negatives.pairs),
            f"{s.negatives.mean_matches:.1f}",
            f"{s.negatives.mean_pose_inliers:.1f}",
            f"{100 * s.negatives.share_with_20_inliers:.0f} %",
        ]
        for s in report.sets
        if s.negatives is not None
    ]
    if negative:
        header = ["set", "method", "pairs", "matches", "pose inliers", "20 inliers or more"]
        parts += ["## Negative pairs (different places that look alike: fewer is better)"]
        parts += [markdown_table(header, negative)]
    parts += [
        "## How it was made",
        provenance_lines(report.environment, report.data_sha256, report.settings, report.methods),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells are used as they are."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _pose_table(
    report: EvaluationReport, summaries: Sequence[GroupSummary], what: str, degrees: str
) -> str:
    pixels = "/".join(f"{t:g}" for t in report.settings.thresholds_px)
    first = f"{report.settings.thresholds_deg[0]:g}"
    header = [what, "method", "pairs", f"AUC@{degrees}", f"AUC@{first} interval", "RRA15 / RTA15"]
    header += ["matches", f"precision @{pixels} px", "CPU s a pair", "failed"]
    rows = []
    for summary in summaries:
        pose, epipolar = summary.pose, summary.precision.get("epipolar")
        interval = next(iter(summary.auc_intervals.values()), None)
        rows.append(
            [
                summary.group,
                summary.method,
                str(summary.pairs),
                "-" if pose is None else _percent(pose.auc),
                "-"
                if interval is None
                else f"{100 * interval.low:.1f} .. {100 * interval.high:.1f}",
                "-"
                if pose is None
                else f"{100 * pose.rotation_accuracy_15:.0f} / "
                f"{100 * pose.direction_accuracy_15:.0f}",
                f"{summary.mean_matches:.0f}",
                "-" if epipolar is None else _shares(epipolar.precision),
                f"{summary.mean_cpu_seconds:.2f}",
                "-" if pose is None else str(pose.failed),
            ]
        )
    return markdown_table(header, rows)


def _difference_table(report: EvaluationReport, degrees: str) -> str:
    rows = []
    for difference in report.differences:
        row = [
            f"{difference.method} - {difference.other}",
            "/".join(f"{100 * value:+.1f}" for value in difference.auc.values()),
        ]
        row += [f"{100 * i.low:+.1f} .. {100 * i.high:+.1f}" for i in difference.intervals.values()]
        rows.append(row)
    header = ["difference, mean of sets", f"AUC@{degrees}"]
    header += [f"AUC@{t:g} interval" for t in report.differences[0].intervals]
    return markdown_table(header, rows)


def _truth_rows(report: EvaluationReport) -> list[list[str]]:
    rows = []
    for summary in report.sets:
        for kind in ("depth", "disparity", "homography"):
            found = summary.precision.get(kind)
            if found is not None:
                middle = list(found.inliers.values())[len(found.inliers) // 2]
                shares = _shares(found.precision)
                coverage = f"{100 * found.coverage:.0f} %"
                row = [summary.group, summary.method, kind, shares, f"{middle:.0f}", coverage]
                rows.append(row)
    return rows


class _Drawn(Protocol):
    @property
    def seed(self) -> int: ...
    @property
    def bootstrap_resamples(self) -> int: ...


def provenance_lines(
    environment: Mapping[str, object],
    data_sha256: Mapping[str, str],
    settings: _Drawn,
    methods: Mapping[str, Mapping[str, object]],
) -> str:
    """What it takes to repeat a report, as a Markdown list."""
    packages = cast("dict[str, str]", environment.get("packages", {}))
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    digest = functools.reduce(
        lambda state, item: hashlib.sha256(f"{state}{item[0]}{item[1]}".encode()).hexdigest(),
        sorted(data_sha256.items()),
        "",
    )
    lines = [
        f"- {environment.get('time_utc')}, Python {environment.get('python')}, "
        f"{environment.get('platform')}; {versions}",
        f"- {len(data_sha256)} data files, sha256 over all of them {digest[:16]} (each in the JSON "
        "file)",
        f"- bootstrap seed {settings.seed}, {settings.bootstrap_resamples} resamples",
    ]
    for name, description in methods.items():
        said = ", ".join(f"{key} {value}" for key, value in description.items()) or "no description"
        lines.append(f"- {name}: {said}")
    return "\n".join(lines)


def _percent(auc: Mapping[float, float]) -> str:
    return "/".join(f"{100 * value:.1f}" for value in auc.values())


def _shares(precision: Mapping[float, float]) -> str:
    return "/".join(f"{value:.2f}" for value in precision.values())
