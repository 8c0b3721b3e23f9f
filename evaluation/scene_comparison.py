"""Several reconstruction methods on the same scenes, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .scenes import (
    SCENE_THRESHOLDS_DEG,
    Reconstruct,
    ReconstructionReport,
    SceneRecord,
    evaluate_scenes,
)
from .tables import markdown_table

_COLUMNS = (
    *("scene", "method", "registered"),
    *(f"AUC@{threshold:g}" for threshold in SCENE_THRESHOLDS_DEG),
    *("RRA15", "RTA15", "ATE rel.", "focal error", "CPU s"),
)
_EXPLANATION = (
    "AUC in % over ALL pairs of images: an image without a camera fails its pairs. ATE of the "
    "camera centres after a similarity, over the spread of the cameras, and focal error (median of "
    "|f / f_true - 1|): registered images only. CPU seconds of this process, the dense depth "
    "included where a method makes it. The means are over the scenes with three images or more."
)


@dataclass(frozen=True)
class SceneComparison:
    """Result of `compare_scenes`.

    Attributes:
        reports: name of the method -> its report; all have the same scenes in the same order.
    """

    reports: Mapping[str, ReconstructionReport]

    def to_markdown(self) -> str:
        """One line per scene and method, then the means."""
        rows = []
        for records in zip(*(report.records for report in self.reports.values()), strict=True):
            rows += [_row(r, name) for r, name in zip(records, self.reports, strict=True)]
        rows += [_mean_row(report, name) for name, report in self.reports.items()]
        return "\n\n".join(
            ["# Reconstruction of whole scenes", _EXPLANATION, markdown_table(_COLUMNS, rows), ""]
        )

    def write(self, folder: Path | str) -> tuple[Path, ...]:
        """Write comparison.md, and the files of every method's report into METHOD/."""
        folder = Path(folder)
        written: list[Path] = []
        for name, report in self.reports.items():
            written += report.write(folder / Path(name).name)
        table = folder / "comparison.md"
        table.write_text(self.to_markdown(), encoding="utf-8")
        return table, *written


def compare_scenes(
    eval_root: Path | str,
    scenes: Sequence[str] | None,
    methods: Mapping[str, Reconstruct],
    *,
    split: str | None = "dev",
    progress: Callable[[int, int, str], None] | None = None,
) -> SceneComparison:
    """Reconstruct scenes of `scenes.json` by several methods.

    Args:
        eval_root, scenes, split: see `evaluate_scenes`.
        methods: name -> image files to scene.
        progress: called with (scenes done, scenes in all, name of the next) over all methods.

    Raises:
        FileNotFoundError: if scenes.json or a set is not there.
        ValueError: if a name is not in scenes.json.
    """
    reports = {}
    for number, (name, method) in enumerate(methods.items()):

        def say(done: int, total: int, scene: str, before: int = number, name: str = name) -> None:
            if progress is not None:
                progress(before * total + done, len(methods) * total, f"{name}: {scene}")

        reports[name] = evaluate_scenes(eval_root, scenes, method, split=split, progress=say)
    return SceneComparison(reports)


def _row(record: SceneRecord, method: str) -> list[str]:
    return [
        record.scene,
        method,
        f"{record.registered} / {record.images}",
        *_texts(_values(record)),
    ]


def _mean_row(report: ReconstructionReport, method: str) -> list[str]:
    chosen = [record for record in report.records if record.images > 2 and record.pose is not None]
    registered = f"{sum(r.registered for r in chosen)} / {sum(r.images for r in chosen)}"
    columns = np.array([_values(record) for record in chosen]).reshape(len(chosen), -1).T
    means = [float(np.mean(c[np.isfinite(c)])) if np.isfinite(c).any() else np.nan for c in columns]
    return ["**mean**", method, registered, *_texts(means or [np.nan] * (len(_COLUMNS) - 3))]


def _values(record: SceneRecord) -> list[float]:
    pose, path, focal = record.pose, record.trajectory, record.focal
    shares = [np.nan] * (len(SCENE_THRESHOLDS_DEG) + 2)
    if pose is not None:
        shares = [pose.auc[threshold] for threshold in SCENE_THRESHOLDS_DEG]
        shares += [pose.rotation_accuracy_15, pose.direction_accuracy_15]
    return [
        *(100 * share for share in shares),
        np.nan if path is None else path.relative,
        np.nan if focal is None else focal.median_relative,
        record.cpu_seconds,
    ]


def _texts(values: Sequence[float]) -> list[str]:
    digits = [1] * (len(values) - 3) + [4, 4, 0]
    return [
        f"{value:.{places}f}" if np.isfinite(value) else ""
        for value, places in zip(values, digits, strict=True)
    ]
