"""Reconstruct whole sets of images and compare cameras, focal lengths and depth with the truth."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..inference.pipeline import reconstruct
from ..inference.scene import Scene
from ..models.loading import load_model
from ..models.two_view import TwoViewModel
from .depth_metrics import Alignment, DepthError, depth_error, resize_nearest, sample_depth
from .point_metrics import PointmapError, scene_point_error
from .pose_metrics import (
    Interval,
    PoseSummary,
    TrajectoryError,
    all_pair_errors,
    bootstrap_intervals,
    relative_focal_error,
    summarise_pose_errors,
    trajectory_error,
)
from .predictions import write_scene_predictions
from .provenance import describe_environment, describe_method, hash_data, plain
from .readers import EvaluationScene, EvaluationSet, read_scenes, read_set
from .tables import markdown_table

logger = logging.getLogger(__name__)

SCENE_THRESHOLDS_DEG = (5.0, 10.0, 30.0)
ALIGNMENTS: tuple[Alignment, ...] = ("none", "median", "scale", "scale_shift")
_POOLED_PIXELS = 20_000

Reconstruct = Callable[[list[Path]], Scene]
"""Image files -> scene, `weav3r.reconstruct` with its options bound."""


@dataclass(frozen=True)
class FocalSummary:
    """Focal lengths of a scene.

    Attributes:
        images: images with true intrinsics.
        estimated: how many of them have an estimate.
        median_relative: median of |f / f_true - 1| over these.
        within_5_percent: share of all images within 5 %; a missing estimate is a miss.
    """

    images: int
    estimated: int
    median_relative: float
    within_5_percent: float


@dataclass(frozen=True)
class DepthSummary:
    """Depth of a scene.

    Attributes:
        truth: "dense" or "sparse" (triangulated points).
        images: images with a true depth.
        estimated: how many of them have an estimate; the means are over these.
        by_image: alignment -> mean over images of the errors, each image aligned on its own.
        scene_median: errors of all images pooled after one common factor.
    """

    truth: str
    images: int
    estimated: int
    by_image: Mapping[str, DepthError]
    scene_median: DepthError | None


@dataclass(frozen=True)
class SceneRecord:
    """What came of one scene.

    Attributes:
        scene: name of the scene.
        set_name: set that holds its images.
        images: number of images.
        registered: images with a camera in the largest component.
        components: number of components.
        pose: over all pairs of images with a true pose; None when fewer than two have one.
        trajectory: camera centres after a similarity; None likewise.
        focal: None when the set has no intrinsics.
        depth: None when the set has no depth, or nothing was estimated.
        points: the largest component's points after a similarity; None when the set has no depth.
        seconds: wall time of the reconstruction.
        timings_s: seconds per stage, of the scene's own report.
        warnings: sentences of the scene's own report.
        settings: options that the scene's own report names.
        error: text of the exception that the reconstruction raised, or None.
        cpu_seconds: of this process, while the method ran.
    """

    scene: str
    set_name: str
    images: int
    registered: int
    components: int
    pose: PoseSummary | None
    trajectory: TrajectoryError | None
    focal: FocalSummary | None
    depth: DepthSummary | None
    seconds: float
    timings_s: Mapping[str, float] | None = None
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, object] | None = None
    error: str | None = None
    points: PointmapError | None = None
    cpu_seconds: float = float("nan")


@dataclass(frozen=True)
class ReconstructionReport:
    """Result of `evaluate_scenes`.

    Attributes:
        method: what the method says about itself.
        environment: versions, machine, threads, time.
        data_sha256: "SET/FILE" -> sha256 of every data file used.
        records: one a scene.
        auc_intervals: threshold in degrees -> bootstrap interval over SCENES of the mean AUC.
    """

    method: Mapping[str, object]
    environment: Mapping[str, object]
    data_sha256: Mapping[str, str]
    records: tuple[SceneRecord, ...]
    auc_intervals: Mapping[float, Interval]

    def to_json(self) -> str:
        """Everything as JSON; numbers that JSON lacks become "inf" and "nan"."""
        return json.dumps(plain(self), indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """A table with one line a scene and the mean."""
        return _markdown(self)

    def write(self, folder: Path | str) -> tuple[Path, Path, Path]:
        """Write scenes.json, scenes.md and scenes.csv into a folder (made if it is missing)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "scenes.json", folder / "scenes.md", folder / "scenes.csv"
        paths[0].write_text(self.to_json(), encoding="utf-8")
        paths[1].write_text(self.to_markdown(), encoding="utf-8")
        with open(paths[2], "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            writer.writerows(_cells(record) for record in self.records)
        return paths


class SceneMethod:
    """A checkpoint as a reconstruction method: image files in, `Scene` out."""

    def __init__(
        self,
        model: TwoViewModel | str | Path = "weav3r-small",
        *,
        device: str = "auto",
        **options: Any,
    ) -> None:
        """Load the model once.

        Args:
            model: a loaded model, a bundled name, a folder or a .safetensors file.
            device: where it runs; ignored for a loaded model.
            options: passed on to `reconstruct`.
        """
        self.model = model if isinstance(model, TwoViewModel) else load_model(model, device=device)
        self.options = options

    @property
    def description(self) -> Mapping[str, object]:
        """What a report writes down about this method."""
        return {key: str(value) for key, value in self.options.items()}

    def __call__(self, paths: list[Path]) -> Scene:
        """Reconstruct image files."""
        return reconstruct(paths, self.model, **{"progress": False, **self.options})


def evaluate_scenes(
    eval_root: Path | str,
    scenes: Sequence[str] | None,
    method: Reconstruct,
    *,
    split: str | None = "dev",
    predictions: Path | str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> ReconstructionReport:
    """Reconstruct scenes of `scenes.json` and score them.

    Args:
        eval_root: folder with scenes.json and the sets.
        scenes: names of scenes; None takes all with true poses or depth.
        method: image files -> scene, for example a `SceneMethod`.
        split: only scenes of this split when `scenes` is None.
        predictions: folder for cameras and depth as files, SCENE/ each (see `predictions`).
        progress: called with (scenes done, scenes in all, name of the next).

    Returns:
        The report; a scene whose reconstruction raised an error counts as a complete failure in
        the pose numbers and carries the error's text.

    Raises:
        FileNotFoundError: if scenes.json or a set is not there.
        ValueError: if a name is not in scenes.json.
    """
    chosen = _choose(eval_root, scenes, split)
    records = []
    for done, (scene, data) in enumerate(chosen):
        if progress is not None:
            progress(done, len(chosen), scene.name)
        folder = None if predictions is None else Path(predictions) / scene.name
        records.append(_evaluate_scene(scene, data, method, folder))
    return ReconstructionReport(
        method=describe_method(method),
        environment=describe_environment(),
        data_sha256=hash_data([data for _, data in chosen]),
        records=tuple(records),
        auc_intervals=_intervals(records),
    )


def score_scene(
    data: EvaluationSet, scene: Scene
) -> tuple[PoseSummary | None, TrajectoryError | None, FocalSummary | None, DepthSummary | None]:
    """Compare a scene with a set's truth; images are matched by file name.

    Only the largest component has poses here: the others live in frames of their own.
    """
    index = {_file_name(scene, i): i for i in range(len(scene.views))}
    placed = set(scene.components[0]) if scene.components else set()
    poses: dict[str, np.ndarray | None] = {}
    for name, i in index.items():
        camera = scene.cameras[i]
        poses[name] = camera.cam_from_world if camera is not None and i in placed else None
    pose, trajectory = _score_poses(data, poses)
    return pose, trajectory, _score_focals(data, scene, index), _score_depth(data, scene, index)


def _choose(
    eval_root: Path | str, names: Sequence[str] | None, split: str | None
) -> list[tuple[EvaluationScene, EvaluationSet]]:
    listed = {scene.name: scene for scene in read_scenes(eval_root)}
    if names is not None:
        unknown = sorted(set(names) - set(listed))
        if unknown:
            raise ValueError(f"scenes.json has no scene {unknown}; it has {list(listed)}")
        wanted = [listed[name] for name in names]
    else:
        wanted = [scene for scene in listed.values() if split is None or scene.split == split]
    chosen = []
    for scene in wanted:
        data = read_set(eval_root, scene.set_name)
        data = data if scene.images is None else data.subset(scene.images)
        has_depth = any(i.depth_path or i.sparse_depth_path for i in data.images.values())
        if names is not None or has_depth or len(_true_poses(data)) > 1:
            chosen.append((scene, data))
    return chosen


def _evaluate_scene(
    scene: EvaluationScene, data: EvaluationSet, method: Reconstruct, folder: Path | None
) -> SceneRecord:
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        found = method([image.path for image in data.images.values()])
    except Exception as error:  # one bad scene must not end the run
        text = f"{type(error).__name__}: {error}"
        logger.warning("reconstruction of %s failed: %s", scene.name, text)
        pose, trajectory = _score_poses(data, {})
        return SceneRecord(
            scene=scene.name,
            set_name=data.name,
            images=len(data.images),
            registered=0,
            components=0,
            pose=pose,
            trajectory=trajectory,
            focal=None,
            depth=None,
            seconds=time.perf_counter() - start,
            error=text,
            cpu_seconds=time.process_time() - cpu_start,
        )
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    if folder is not None:
        write_scene_predictions(folder, found, seconds=seconds)
    pose, trajectory, focal, depth = score_scene(data, found)
    return SceneRecord(
        scene=scene.name,
        set_name=data.name,
        images=len(data.images),
        registered=_joined(found),
        components=len(found.components),
        pose=pose,
        trajectory=trajectory,
        focal=focal,
        depth=depth,
        seconds=seconds,
        timings_s=dict(found.report.timings_s),
        warnings=tuple(found.report.warnings),
        settings=dict(found.report.settings),
        points=scene_point_error(data, found),
        cpu_seconds=cpu_seconds,
    )


def _joined(scene: Scene) -> int:
    """Images in the largest component; one image alone is registered with nothing."""
    largest = len(scene.components[0]) if scene.components else 0
    return largest if largest > 1 or len(scene) == 1 else 0


def _intervals(records: Sequence[SceneRecord]) -> dict[float, Interval]:
    rows = [list(r.pose.auc.values()) for r in records if r.pose is not None]
    if not rows:
        return {}
    intervals = bootstrap_intervals([np.array(rows)], lambda sample: sample.mean(axis=0))
    return dict(zip(SCENE_THRESHOLDS_DEG, intervals, strict=True))


def _true_poses(data: EvaluationSet) -> dict[str, np.ndarray]:
    return {n: i.cam_from_world for n, i in data.images.items() if i.cam_from_world is not None}


def _score_poses(
    data: EvaluationSet, poses: Mapping[str, np.ndarray | None]
) -> tuple[PoseSummary | None, TrajectoryError | None]:
    truth = _true_poses(data)
    if len(truth) < 2:
        return None, None
    errors = list(all_pair_errors(poses, truth).values())
    return summarise_pose_errors(errors, SCENE_THRESHOLDS_DEG), trajectory_error(poses, truth)


def _score_focals(
    data: EvaluationSet, scene: Scene, index: Mapping[str, int]
) -> FocalSummary | None:
    truth = {name: image.K for name, image in data.images.items() if image.K is not None}
    if not truth:
        return None
    errors = []
    for name, true_K in truth.items():
        camera = scene.cameras[index[name]] if name in index else None
        if camera is not None:
            errors.append(relative_focal_error(camera.K, true_K))
    return FocalSummary(
        images=len(truth),
        estimated=len(errors),
        median_relative=float(np.median(errors)) if errors else float("nan"),
        within_5_percent=sum(error < 0.05 for error in errors) / len(truth),
    )


def _score_depth(
    data: EvaluationSet, scene: Scene, index: Mapping[str, int]
) -> DepthSummary | None:
    errors: dict[str, list[DepthError]] = {alignment: [] for alignment in ALIGNMENTS}
    pooled: list[np.ndarray] = []
    pooled_truth: list[np.ndarray] = []
    kind, images, estimated = "sparse", 0, 0
    for name, image in data.images.items():
        dense, sparse = image.depth(), image.sparse_depth()
        if dense is None and sparse is None:
            continue
        images += 1
        if name not in index or not scene.views[index[name]].valid.any():
            continue
        estimated += 1
        depth = scene.depth(index[name], original=True)
        if dense is not None:
            kind = "dense"
            values, truth = resize_nearest(depth, dense.shape)[dense > 0], dense[dense > 0]
        else:
            assert sparse is not None
            values, truth = sample_depth(depth, sparse.xy), sparse.depth
        for alignment in ALIGNMENTS:
            error = depth_error(values, truth, alignment)
            if error is not None:
                errors[alignment].append(error)
        few = np.random.default_rng(0).permutation(len(truth))[:_POOLED_PIXELS]
        pooled.append(values[few])
        pooled_truth.append(truth[few])
    if not estimated:
        return None
    return DepthSummary(
        truth=kind,
        images=images,
        estimated=estimated,
        by_image={name: _mean_depth_error(found) for name, found in errors.items() if found},
        scene_median=depth_error(np.concatenate(pooled), np.concatenate(pooled_truth), "median"),
    )


def _mean_depth_error(errors: Sequence[DepthError]) -> DepthError:
    return DepthError(
        pixels=sum(error.pixels for error in errors),
        missing=float(np.mean([error.missing for error in errors])),
        abs_rel=float(np.mean([error.abs_rel for error in errors])),
        delta_1=float(np.mean([error.delta_1 for error in errors])),
        rmse_log=_finite_mean([error.rmse_log for error in errors]),
    )


def _file_name(scene: Scene, i: int) -> str:
    view = scene.views[i]
    return view.path.name if view.path is not None else view.name


def _finite_mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


_EXPLANATION = (
    "AUC in % over ALL pairs of images (an image without a camera fails its pairs). ATE of the "
    "camera centres after a similarity, in the set's units and over the spread of the cameras, "
    "registered images only. Depth: mean over images after median alignment; a pixel without an "
    "estimate counts as an error of 1. AbsRel scene: one factor for all images. The mean is over "
    "the scenes that have the number."
)
_COLUMNS = (
    "scene",
    "registered",
    "images",
    "AUC@5",
    "AUC@10",
    "AUC@30",
    "RRA15",
    "RTA15",
    "ATE",
    "ATE rel.",
    "focal error",
    "depth truth",
    "AbsRel median",
    "delta1",
    "AbsRel scene",
    "missing",
    "points 5 %",
    "chamfer rel.",
    "seconds",
    "error",
)


def _cells(record: SceneRecord) -> list[str]:
    pose, path, focal, depth = record.pose, record.trajectory, record.focal, record.depth
    nan, points = float("nan"), record.points
    cells = [record.scene, str(record.registered), str(record.images)]
    auc = [nan] * 3 if pose is None else [100 * pose.auc[t] for t in SCENE_THRESHOLDS_DEG]
    cells += [_number(value, 1) for value in auc]
    cells += [
        _number(nan if pose is None else 100 * pose.rotation_accuracy_15, 1),
        _number(nan if pose is None else 100 * pose.direction_accuracy_15, 1),
        _number(nan if path is None else path.rmse, 4),
        _number(nan if path is None else path.relative, 4),
        _number(nan if focal is None else focal.median_relative, 4),
        "" if depth is None else f"{depth.truth} {depth.estimated}/{depth.images}",
    ]
    median = None if depth is None else depth.by_image.get("median")
    pooled = None if depth is None else depth.scene_median
    cells += [
        _number(nan if median is None else median.abs_rel, 4),
        _number(nan if median is None else median.delta_1, 3),
        _number(nan if pooled is None else pooled.abs_rel, 4),
        _number(nan if median is None else median.missing, 3),
        _number(nan if points is None else 100 * points.inliers[0.05], 1),
        _number(nan if points is None else points.relative_chamfer, 4),
        _number(record.seconds, 1),
        record.error or "",
    ]
    return cells


def _interval_line(intervals: Mapping[float, Interval]) -> str:
    texts = [f"AUC@{t:g} {100 * i.low:.1f} .. {100 * i.high:.1f}" for t, i in intervals.items()]
    return "95 % bootstrap intervals of the means over scenes: " + ", ".join(texts) + "."


def _number(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _markdown(report: ReconstructionReport) -> str:
    rows = [_cells(record) for record in report.records]
    columns = list(zip(*rows, strict=True))
    mean = ["**mean**"]
    for name, column in zip(_COLUMNS[1:], columns[1:], strict=True):
        if name in ("depth truth", "error"):
            mean.append("")
            continue
        numbers = [float(cell) for cell in column if cell not in ("", "inf")]
        mean.append(f"{np.mean(numbers):.4g}" if numbers else "")
    return (
        "\n\n".join(
            [
                "# Reconstruction of whole scenes",
                _EXPLANATION,
                markdown_table(_COLUMNS, [*rows, mean]),
                _interval_line(report.auc_intervals),
                f"{report.environment.get('time_utc')}, {report.environment.get('platform')}, "
                f"{len(report.data_sha256)} data files (sha256 in scenes.json).",
            ]
        )
        + "\n"
    )
