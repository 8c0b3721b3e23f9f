"""What an evaluation found: records per pair, summaries per set, and how to write them down.

A report holds all that is needed to trust or repeat it: settings and seeds, the environment, the
sha256 of every data file and what each method says about itself (options, sha256 of its weights).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .provenance import describe_environment, describe_method, hash_data, plain
from .readers import EvaluationSet
from .records import GroupSummary, MethodDifference, PairRecord, PairSettings
from .summaries import mean_of_sets, method_differences, summarise_records
from .tables import pair_tables


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
        return pair_tables(self)

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
        mean_of_sets(
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
        differences=tuple(method_differences(records, names, settings)),
    )


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
