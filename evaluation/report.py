"""What an evaluation found: records per pair, summaries per set, and how to write them down.

A report holds all that is needed to trust or repeat it: settings and seeds, the environment, the
sha256 of every data file and what each method says about itself (options, sha256 of its weights).
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..inference.defaults import inference_size
from ..models.two_view import TwoViewModel
from .match_metrics import THRESHOLDS_PX, MatchSummary
from .pose_metrics import (
    AUC_THRESHOLDS_DEG,
    Interval,
    PoseError,
    PoseSummary,
    bootstrap_intervals,
    pose_auc,
    summarise_pose_errors,
)
from .readers import EvaluationSet

NEGATIVE_MATCH_LIMIT = 20
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


@dataclass(frozen=True)
class EvaluationReport:
    """Result of `evaluate_pairs`.

    Attributes:
        settings: of the run.
        methods: name -> what the method says about itself.
        environment: versions, machine, threads, time.
        data_sha256: "SET/FILE" -> sha256 of every data file used.
        records: one a pair and method.
        sets: one a set and method, in the order of the run.
        bands: one a band and method, pairs of all sets pooled.
        overall: one a method: the mean over its sets.
        differences: the first method against each of the others.
    """

    settings: PairSettings
    methods: Mapping[str, Mapping[str, object]]
    environment: Mapping[str, object]
    data_sha256: Mapping[str, str]
    records: tuple[PairRecord, ...]
    sets: tuple[GroupSummary, ...]
    bands: tuple[GroupSummary, ...]
    overall: tuple[GroupSummary, ...]
    differences: tuple[MethodDifference, ...] = ()

    def to_json(self) -> str:
        """Everything as JSON; numbers that JSON lacks become "inf" and "nan"."""
        return json.dumps(plain(self), indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """The tables for people: poses and matches by set, bands, negatives, how it was made."""
        return _markdown(self)

    def write_csv(self, path: Path | str) -> None:
        """One line a pair and method, for a spreadsheet."""
        rows = [_flat(record) for record in self.records]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    def write(self, folder: Path | str) -> tuple[Path, Path, Path]:
        """Write report.json, report.md and pairs.csv into a folder (made if it is missing)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "report.json", folder / "report.md", folder / "pairs.csv"
        paths[0].write_text(self.to_json(), encoding="utf-8")
        paths[1].write_text(self.to_markdown(), encoding="utf-8")
        self.write_csv(paths[2])
        return paths


def build_report(
    records: Sequence[PairRecord],
    methods: Mapping[str, object],
    sets: Sequence[EvaluationSet],
    settings: PairSettings,
) -> EvaluationReport:
    """Summarise records; `methods` are asked for their `description`."""
    names = list(methods)
    set_names = [data.name for data in sets]
    bands = sorted({r.band for r in records if r.band and not r.negative})
    by_set = {
        (name, group): summarise_records(
            [r for r in records if r.method == name and r.set_name == group], name, group, settings
        )
        for group in set_names
        for name in names
    }
    by_band = [
        summarise_records(
            [r for r in records if r.method == name and r.band == band], name, band, settings
        )
        for band in bands
        for name in names
    ]
    overall = [
        _mean_of_sets(
            [by_set[name, group] for group in set_names],
            [[r for r in records if (r.method, r.set_name) == (name, g)] for g in set_names],
            name,
            settings,
        )
        for name in names
    ]
    return EvaluationReport(
        settings=settings,
        methods={name: describe_method(method) for name, method in methods.items()},
        environment=describe_environment(),
        data_sha256=hash_data(sets),
        records=tuple(records),
        sets=tuple(by_set.values()),
        bands=tuple(by_band),
        overall=tuple(overall),
        differences=tuple(_differences(records, names, settings)),
    )


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


def describe_method(method: object) -> dict[str, object]:
    """What a method says about itself, and the hash of its weights if it holds a network.

    A method may have an attribute `description` (a mapping of plain values); one with an attribute
    `model` that is a torch module gets the sha256 of its weights and the number of its parameters.
    """
    described: dict[str, object] = {"kind": type(method).__name__}
    described.update(getattr(method, "description", {}))
    model = getattr(method, "model", None)
    if isinstance(model, TwoViewModel):
        described.setdefault("size", getattr(method, "size", None) or inference_size(model))
    if isinstance(model, torch.nn.Module):
        described["parameters"] = sum(p.numel() for p in model.parameters())
        described["weights_sha256"] = hash_weights(model)
        described["device"] = str(next(model.parameters()).device)
    return described


def hash_weights(model: torch.nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of a module's weights, sorted by name.

    The same weights give the same hash whatever file they came from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe_environment() -> dict[str, object]:
    """Versions, machine and thread counts that a number may depend on."""
    packages = {}
    for name in ("weav3r", "numpy", "torch", "pycolmap", "pillow", "scipy"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "packages": packages,
    }


def hash_data(sets: Sequence[EvaluationSet]) -> dict[str, str]:
    """ "SET/FILE" -> sha256 of every data file of the sets."""
    return {
        f"{data.name}/{path.relative_to(data.folder).as_posix()}": sha256_of_file(path)
        for data in sets
        for path in data.data_files
    }


def sha256_of_file(path: Path | str) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """Turn dataclasses, arrays and numbers into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells are used as they are."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


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


def _differences(
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


def _mean_of_sets(
    summaries: Sequence[GroupSummary],
    records: Sequence[Sequence[PairRecord]],
    method: str,
    settings: PairSettings,
) -> GroupSummary:
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


def _flat(record: PairRecord) -> dict[str, object]:
    error = record.pose_error
    row: dict[str, object] = {
        "set": record.set_name,
        "method": record.method,
        "image1": record.image1,
        "image2": record.image2,
        "band": record.band or "",
        "overlap": "" if record.overlap is None else record.overlap,
        "matches": record.matches,
        "pose_inliers": "" if record.pose_inliers is None else record.pose_inliers,
        "rotation_error_deg": "" if error is None else error.rotation_deg,
        "direction_error_deg": "" if error is None else error.direction_deg,
        "error_deg": "" if error is None else error.combined_deg,
    }
    for kind, summary in record.precision.items():
        row[f"{kind}_checked"] = summary.checked
        for threshold, share in summary.precision.items():
            row[f"{kind}_precision@{threshold:g}"] = share
        row[f"{kind}_coverage"] = summary.coverage
    row["seconds"] = record.seconds
    row["cpu_seconds"] = record.cpu_seconds
    row["error"] = record.error or ""
    return row


def _markdown(report: EvaluationReport) -> str:
    settings = report.settings
    degrees = "/".join(f"{t:g}" for t in settings.thresholds_deg)
    level = f"{100 * settings.confidence_level:g} %"
    parts = [
        "# Two-view evaluation",
        f"Relative pose from matches with the true intrinsics, one robust estimator for all "
        f"methods ({settings.max_error_px:g} px at a long side of 640). AUC in %, of the larger of "
        f"the rotation and the direction error; failures count. Interval: {level} bootstrap "
        "interval over pairs. Precision: share of matches within so many pixels (at 640) of both "
        "true epipolar lines.",
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
    parts += ["## How it was made", _provenance(report)]
    return "\n\n".join(parts) + "\n"


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


def _provenance(report: EvaluationReport) -> str:
    packages = cast("dict[str, str]", report.environment.get("packages", {}))
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    digest = functools.reduce(
        lambda state, item: hashlib.sha256(f"{state}{item[0]}{item[1]}".encode()).hexdigest(),
        sorted(report.data_sha256.items()),
        "",
    )
    lines = [
        f"- {report.environment.get('time_utc')}, Python {report.environment.get('python')}, "
        f"{report.environment.get('platform')}; {versions}",
        f"- {len(report.data_sha256)} data files, sha256 over all of them {digest[:16]} (each in "
        "report.json)",
        f"- bootstrap seed {report.settings.seed}, {report.settings.bootstrap_resamples} resamples",
    ]
    for name, description in report.methods.items():
        said = ", ".join(f"{key} {value}" for key, value in description.items()) or "no description"
        lines.append(f"- {name}: {said}")
    return "\n".join(lines)


def _percent(auc: Mapping[float, float]) -> str:
    return "/".join(f"{100 * value:.1f}" for value in auc.values())


def _shares(precision: Mapping[float, float]) -> str:
    return "/".join(f"{value:.2f}" for value in precision.values())


def _key(key: object) -> str:
    return f"{key:g}" if isinstance(key, float) else str(key)
