"""Do pixels that promise an error of 5 % have one? Predicted against observed error, by bins."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ..inference.calibration import (
    LARGEST_ERROR,
    CalibratedRoad,
    Calibration,
    ErrorTable,
    calibration_of,
)
from ..inference.defaults import inference_defaults
from ..models.two_view import TwoViewModel
from .error_fit import fit_table, scene_weights
from .error_samples import (
    PROCEDURAL_SEED,
    ErrorSamples,
    collect_errors,
    procedural_scenes,
    set_scenes,
    weighted_median,
)

logger = logging.getLogger(__name__)

BINS = 10
MIN_SCENES = 8  # that a table is fitted to: fewer say little of the next one
HELD_OUT, REAL, FITTED = "procedural, held out", "photos", "procedural, fitted on"


@dataclass(frozen=True)
class ReliabilityBin:
    """Pixels of similar predicted error.

    Attributes:
        predicted: median of their expected errors.
        observed: median of their errors.
        mean: of their errors, each cut at 1.
        pixels: their number.
    """

    predicted: float
    observed: float
    mean: float
    pixels: int


@dataclass(frozen=True)
class Reliability:
    """How well predicted errors fit observed ones.

    Attributes:
        bins: of equal numbers of pixels, by rising predicted error.
        calibration_error: mean over the bins of |predicted - observed|, weighted by pixels
            (expected calibration error, in units of relative error).
        covered: share of the pixels whose error is below the predicted one; 0.5 is right.
        rank_correlation: Spearman's, between the predicted error and the observed one of a pixel.
        within: share of the pixels with a predicted error below 5 % whose error is below 10 %, and
            the share of all pixels that they are.
    """

    bins: tuple[ReliabilityBin, ...]
    calibration_error: float
    covered: float
    rank_correlation: float
    within: tuple[float, float]


@dataclass(frozen=True)
class ReliabilityGroup:
    """One kind of scenes by one road to depth.

    Attributes:
        name: what kind of scenes.
        road: "sweep", "pointmaps" or "single".
        scenes: their names.
        before: of the plain confidence, read as error = k / confidence with the one k that is
            right for half of the pixels of the fitted scenes.
        after: of the calibration; None where there is none.
        median_error: of all pixels.
    """

    name: str
    road: str
    scenes: tuple[str, ...]
    before: Reliability
    after: Reliability | None
    median_error: float


@dataclass(frozen=True)
class ReliabilityReport:
    """Result of `measure_reliability`.

    Attributes:
        model: name of the network.
        groups: kinds of scenes and roads.
        settings: options of the run.
        calibration: that was measured, newly fitted or the checkpoint's own; None without.
        fitted: whether it was fitted in this run.
    """

    model: str
    groups: tuple[ReliabilityGroup, ...]
    settings: Mapping[str, Any]
    calibration: Calibration | None
    fitted: bool

    def to_json(self) -> str:
        """Everything as JSON."""
        data = {
            "model": self.model,
            "fitted": self.fitted,
            "settings": dict(self.settings),
            "groups": [asdict(group) for group in self.groups],
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
        }
        return json.dumps(data, indent=1) + "\n"

    def write(self, folder: Path | str) -> tuple[Path, Path]:
        """Write reliability.json and reliability.html into a folder (made if it is missing)."""
        from .reliability_page import reliability_page

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "reliability.json", folder / "reliability.html"
        paths[0].write_text(self.to_json(), encoding="utf-8")
        paths[1].write_text(reliability_page(self), encoding="utf-8")
        return paths

    def summary(self) -> str:
        """One line a group."""
        lines = []
        for group in self.groups:
            after = "not calibrated"
            if group.after is not None:
                share, of_all = group.after.within
                after = (
                    f"{group.after.calibration_error:.3f} calibrated ({group.after.covered:.0%} "
                    f"below the expected error, 50 % would be right), rank correlation "
                    f"{group.after.rank_correlation:.2f}; {of_all:.0%} of the pixels promise less "
                    f"than 5 %, {share:.0%} of these are within 10 %"
                )
            lines.append(
                f"{group.name}, {group.road} ({len(group.scenes)} scenes, median error "
                f"{group.median_error:.3f}): calibration error "
                f"{group.before.calibration_error:.3f} as it is, {after}"
            )
        return "\n".join(lines)


def reliability(predicted: np.ndarray, samples: ErrorSamples, bins: int = BINS) -> Reliability:
    """Compare predicted errors with observed ones; every scene counts the same.

    Args:
        predicted: (N,) expected error of each pixel.
        samples: the pixels.
        bins: number of groups of equal weight, fewer where predictions are equal.

    Raises:
        ValueError: without any pixel.
    """
    if not len(samples):
        raise ValueError("no pixel with an estimate and a true depth")
    error = np.minimum(samples.error, LARGEST_ERROR).astype(np.float64)
    weight = scene_weights(samples)
    order = np.argsort(predicted, kind="stable")
    cumulated = np.cumsum(weight[order])
    levels = np.arange(1, bins) / bins * cumulated[-1]
    edges = np.unique(predicted[order][np.searchsorted(cumulated, levels)])
    place = np.searchsorted(edges, predicted, side="left")
    found, gap = [], 0.0
    for k in np.unique(place):
        inside = place == k
        promised = weighted_median(predicted[inside], weight[inside])
        seen = weighted_median(error[inside], weight[inside])
        gap += float(weight[inside].sum()) * abs(promised - seen)
        mean = float(np.average(error[inside], weights=weight[inside]))
        found.append(ReliabilityBin(promised, seen, mean, int(inside.sum())))
    varied = np.ptp(predicted) > 0 and np.ptp(error) > 0
    ranks = rankdata(predicted), rankdata(error)
    rank = float(np.corrcoef(*ranks)[0, 1]) if varied else 0.0
    good = predicted < 0.05
    share = float(np.average(error[good] < 0.1, weights=weight[good])) if good.any() else 0.0
    covered = float(weight[error <= predicted].sum())
    return Reliability(tuple(found), gap, covered, rank, (share, float(weight[good].sum())))


def measure_reliability(
    model: TwoViewModel,
    eval_root: Path | str | None = None,
    *,
    fit: bool = False,
    scenes: int = 24,
    held_out: int = 8,
    sets: Sequence[str] | None = None,
    max_photos: int = 4,
    roads: Sequence[CalibratedRoad] | None = None,
    seed: int = PROCEDURAL_SEED,
    textures: Path | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> ReliabilityReport:
    """Measure, and on request fit, how the confidence of a checkpoint predicts its errors.

    Args:
        model: the network.
        eval_root: folder with sets of photos with true depth, only ever measured on; None: none.
        fit: fit a new calibration on `scenes` procedural scenes; otherwise the checkpoint's own is
            measured.
        scenes: procedural scenes to fit on.
        held_out: further ones to measure on.
        sets: of `eval_root`; None: all that have a depth.
        max_photos: of each set.
        roads: to depth; None: that of the checkpoint by default, and "single".
        seed: of the procedural scenes.
        textures: for them, see `datasets.textures.default_bank`.
        progress: called with a line before each scene.
        **options: of `reconstruct`.

    Raises:
        ValueError: nothing to measure on, or nothing could be reconstructed.
    """
    if not held_out and eval_root is None and not fit:
        raise ValueError("nothing to measure: give a folder with sets, or held-out scenes")
    if roads is None:
        roads = (inference_defaults(model).depth, "single")
    drawn: dict[str, dict[str, ErrorSamples]] = {}
    if fit:
        source = procedural_scenes(scenes, 0, seed, textures)
        drawn[FITTED] = collect_errors(source, model, roads, progress, **options)
    if held_out:
        source = procedural_scenes(held_out, scenes, seed, textures)
        drawn[HELD_OUT] = collect_errors(source, model, roads, progress, **options)
    if eval_root is not None:
        real = set_scenes(eval_root, sets, max_photos)
        drawn[REAL] = collect_errors(real, model, roads, progress, **options)
    settings = {"seed": seed, "scenes": scenes, "held_out": held_out, "max_photos": max_photos}
    calibration = calibration_of(model)
    if fit:
        calibration = fit_calibration(drawn[FITTED], {**settings, "model": model.config.name})
    groups = reliability_groups(drawn, calibration)
    return ReliabilityReport(model.config.name, groups, settings, calibration, fit)


def fit_calibration(
    samples: Mapping[str, ErrorSamples], fitted_on: Mapping[str, Any]
) -> Calibration:
    """Fit a table for every road with eight scenes or more; the log names the others.

    Args:
        samples: road -> pixels.
        fitted_on: noted in the result.

    Raises:
        ValueError: no road has enough scenes.
    """
    counts = {road: len(np.unique(found.scene)) for road, found in samples.items()}
    few = [road for road, count in counts.items() if count < MIN_SCENES]
    if len(few) == len(counts):
        raise ValueError(
            f"a calibration needs {MIN_SCENES} scenes that could be reconstructed, got "
            f"{max(counts.values(), default=0)}; give more scenes"
        )
    if few:
        logger.warning("not calibrated, fewer than %d scenes: %s", MIN_SCENES, ", ".join(few))
    noted = {**fitted_on, "scenes": {road: counts[road] for road in counts if road not in few}}
    tables = {road: fit_table(found) for road, found in samples.items() if road not in few}
    return Calibration(tables, noted)


def reliability_groups(
    drawn: Mapping[str, Mapping[str, ErrorSamples]], calibration: Calibration | None
) -> tuple[ReliabilityGroup, ...]:
    """Measure every kind of scenes (name -> road -> pixels) before and after calibration."""
    groups = []
    for name, by_road in drawn.items():
        for road, samples in by_road.items():
            if not len(samples):
                continue
            reference = drawn.get(FITTED, by_road)[road]
            table = None if calibration is None else calibration.roads.get(road)
            groups.append(_group(name, road, samples, reference, table))
    if not groups:
        raise ValueError("no scene with a true depth could be reconstructed")
    return tuple(groups)


def _group(
    name: str, road: str, samples: ErrorSamples, reference: ErrorSamples, table: ErrorTable | None
) -> ReliabilityGroup:
    weight = scene_weights(reference)
    error = np.minimum(reference.error, LARGEST_ERROR)
    k = weighted_median(error * reference.confidence, weight)
    plain = np.minimum(k / samples.confidence.astype(np.float64), LARGEST_ERROR)
    after = None
    if table is not None:
        after = reliability(table(samples.confidence, samples.depth_step), samples)
    observed = np.minimum(samples.error, LARGEST_ERROR)
    used = tuple(samples.scenes[k] for k in np.unique(samples.scene))
    return ReliabilityGroup(
        name=name,
        road=road,
        scenes=used,
        before=reliability(plain, samples),
        after=after,
        median_error=weighted_median(observed, scene_weights(samples)),
    )
