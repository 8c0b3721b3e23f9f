"""From a folder of posed photos to a checkpoint that is better on them, and a report that says so.

The folder is checked, pairs are mined, some scenes are held out, a recipe is chosen from the
hardware, the network is trained with some procedural scenes mixed in so that it does not forget,
and both checkpoints are scored on the held-out scenes and on fresh procedural ones.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets.covisibility import mine_pairs
from ..datasets.doctor import check_data_set
from ..datasets.layouts import open_data_set
from ..datasets.pair_table import PairTable, save_pairs
from ..datasets.posed_scenes import PairSource, PosedScenes
from ..datasets.posed_set import PosedSet
from ..models.card import Provenance
from ..models.two_view import TwoViewModel
from .config import Recipe, load_recipe, recipe_to_dict
from .data import ProceduralFactory, SceneSource
from .engine import train
from .finetune_report import write_report
from .network import build_model
from .runtime import choose_device
from .throughput import measure_peak
from .validation import Sample, Validator

logger = logging.getLogger(__name__)

DEFAULT_MINUTES = 25.0
_PIXELS = {"cpu": 16_000, "cuda": 90_000}  # of a training image
_HELD_OUT = 0.2  # share of the photos of a single scene
_REHEARSAL_SEED = 888_000_001


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning gave.

    Attributes:
        folder: of the new checkpoint, for `load_model`.
        report: HTML page with numbers and pictures.
        before, after: scores of the old and the new checkpoint by data set ("held out",
            "procedural"), see `Validator.run`.
        steps: optimiser steps done.
        seconds: of the whole call.
    """

    folder: Path
    report: Path
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]
    steps: int
    seconds: float

    def change(self, name: str) -> float:
        """Relative change of the mean pointmap error on a data set; negative is better."""
        old, new = (pointmap_error(scores[name]) for scores in (self.before, self.after))
        return new / old - 1


@dataclass(frozen=True)
class MixedScenes:
    """Makes scenes of a data set mixed with procedural ones, for `train`; see `SceneFactory`.

    Attributes:
        data: pairs to train on.
        rehearsal: share of procedural scenes.
        procedural: their generator.
    """

    data: PairSource
    rehearsal: float
    procedural: ProceduralFactory

    def __call__(
        self, height: int, width: int, views: int, seed: int, overlap: tuple[float, float]
    ) -> SceneSource:
        sources: list[Any] = [self.data]
        weights = [1.0]
        if self.rehearsal > 0:
            sources.append(self.procedural(height, width, views, seed, (0.15, 0.95)))
            weights = [1 - self.rehearsal, self.rehearsal]
        return PosedScenes(sources, weights, height, width, views, seed)


def finetune(
    data: str | Path,
    output: str | Path,
    model: str = "weav3r-small",
    *,
    layout: str | None = None,
    minutes: float = DEFAULT_MINUTES,
    adapt: str = "all",
    rehearsal: float = 0.5,
    device: str = "auto",
    check: bool = True,
    overrides: Sequence[str] = (),
) -> FinetuneResult:
    """Adapt a checkpoint to a data set.

    Args:
        data: folder in our layout or one that `weav3r data import` knows, with depth.
        output: new folder; gets `model/` (checkpoint with model card), `report.html`, `run/`
            (logs, optimiser state) and `pairs.npz`. A killed run goes on there.
        model: what to start from.
        layout: of `data`; None = by its looks.
        minutes: wall-clock length of the training; checks and scores come on top.
        adapt: "all", "after_encoder", "heads" or "lora", see `choose_trained`.
        rehearsal: share of procedural scenes among the training scenes, in [0, 1).
        device: "auto", "cpu", "cuda", ...
        check: refuse data that the doctor finds faulty.
        overrides: of the recipe, `["optimizer.learning_rate=1e-4"]`.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the data has a fault (named), too few pairs, or an option makes no sense.
    """
    start = time.perf_counter()
    if not 0 <= rehearsal < 1:
        raise ValueError(f"rehearsal must be at least 0 and below 1, got {rehearsal}")
    output = Path(output)
    if check:
        _refuse_faulty(Path(data), layout)
    found = open_data_set(Path(data), layout)
    output.mkdir(parents=True, exist_ok=True)
    pairs = found.pairs if found.pairs is not None else _mined(found, output)
    training, held_out = split_pairs(found, pairs)
    place = choose_device(device)
    recipe = choose_recipe(training.data, model, place, adapt, overrides)
    procedural = ProceduralFactory(
        recipe.data.textures, features=recipe.data.features, panoramas=recipe.data.panoramas
    )
    judge = _Judge(recipe, {"held out": MixedScenes(held_out, 0.0, procedural)}, procedural, place)
    network = build_model(recipe)
    before = judge.scores(network)
    old_samples = judge.samples(network)
    quiet = dataclasses.replace(recipe.validation, scenes=0)  # scored here, before and after
    result = train(
        dataclasses.replace(recipe, validation=quiet),
        minutes,
        output=output / "run",
        decay=True,
        device=device,
        make_scenes=MixedScenes(training, rehearsal, procedural),
    )
    tuned = build_model(dataclasses.replace(recipe, init=str(result.weights)))
    after = judge.scores(tuned)
    tuned.provenance = _provenance(network, found, before, after)
    tuned.save_pretrained(output / "model")
    report = write_report(
        output / "report.html",
        found.root.name,
        {"before": before, "after": after},
        old_samples,
        judge.samples(tuned),
        _facts(found, training, held_out, result.step, minutes, recipe),
    )
    seconds = time.perf_counter() - start
    return FinetuneResult(output / "model", report, before, after, result.step, seconds)


def pointmap_error(scores: Mapping[str, float]) -> float:
    """Mean normalised point error of both views, see `Validator.run`."""
    return (scores["e1"] + scores["e2"]) / 2


def split_pairs(data: PosedSet, pairs: PairTable) -> tuple[PairSource, PairSource]:
    """Divide pairs into those to train on and those held out.

    The data set's own splits count ("train", and "val" or "test"). Without them the last tenth of
    the scenes is held out; of a single scene the last fifth of the photos.

    Raises:
        ValueError: if either part would have no pairs.
    """
    data = data.with_pairs(pairs)
    held_scenes = next((set(data.splits[s]) for s in ("val", "test") if data.splits.get(s)), None)
    scenes = list(data.scenes)
    if held_scenes is None and len(scenes) > 1:
        held_scenes = set(scenes[-max(1, len(scenes) // 10) :])
    if held_scenes is not None:
        held_views = {i for scene in held_scenes for i in data.scenes[scene]}
    else:
        members = data.scenes[scenes[0]]
        held_views = set(members[-max(2, math.ceil(_HELD_OUT * len(members))) :])
    inside = np.isin(pairs.index, list(held_views))
    parts = []
    held = inside.all(axis=1), inside.any(axis=1)
    for name, rows in (
        ("training", np.flatnonzero(~held[1])),
        ("held-out", np.flatnonzero(held[0])),
    ):
        if len(rows) == 0:
            raise ValueError(
                f"{data.root} has no {name} pairs: {len(pairs)} pairs of {len(data)} photos in "
                f"{len(scenes)} scenes; add photos, or mine pairs of less overlap"
            )
        parts.append(PairSource(data, pairs.select(rows)))
    return parts[0], parts[1]


def choose_recipe(
    data: PosedSet,
    model: str,
    device: torch.device,
    adapt: str = "all",
    overrides: Sequence[str] = (),
) -> Recipe:
    """Fill in the recipe `finetune` for a data set and a device.

    Image sizes follow the shape of most photos, their area the device; the batch follows the memory
    of a GPU; bfloat16 is taken where it is measurably faster.

    Args:
        overrides: win over what is chosen.
    """
    sizes = [v.size for v in data.views if v.size is not None]
    ratio = float(np.median([width / height for height, width in sizes])) if sizes else 4 / 3
    area = _PIXELS["cuda" if device.type == "cuda" else "cpu"]
    fast = device.type == "cuda" or measure_peak(device, torch.bfloat16) > 1.3 * measure_peak(
        device, torch.float32
    )
    scenes = 4
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        scenes = int(np.clip(memory / 2**30 / 2, 4, 32))
    chosen = [
        f"init={model}",
        f"adapt.train={adapt}",
        f"data.sizes={[list(_size(ratio, area * f)) for f in (1.0, 1.5)]}",
        f"data.scenes={scenes}",
        f"optimizer.precision={'bfloat16' if fast else 'float32'}",
    ]
    return load_recipe("finetune", [*chosen, *overrides])


def _size(ratio: float, area: float) -> tuple[int, int]:
    """(height, width) in whole patches of 16 pixels, of about this shape and area."""
    ratio = min(max(ratio, 1 / 3), 3.0)
    height = math.sqrt(area / ratio)
    return max(64, 16 * round(height / 16)), max(64, 16 * round(height * ratio / 16))


class _Judge:
    """Scores checkpoints on held-out and on procedural scenes, always the same ones."""

    def __init__(
        self,
        recipe: Recipe,
        made: Mapping[str, MixedScenes],
        procedural: ProceduralFactory,
        device: torch.device,
    ) -> None:
        self.device = device
        general = dataclasses.replace(
            recipe,
            validation=dataclasses.replace(
                recipe.validation, seed=_REHEARSAL_SEED, overlap=(0.2, 0.9)
            ),
        )
        self.validators = {k: Validator(recipe, v, device) for k, v in made.items()}
        self.validators["procedural"] = Validator(general, procedural, device)

    def scores(self, model: TwoViewModel) -> dict[str, dict[str, float]]:
        model = model.to(self.device).eval()
        return {name: v.run(model) for name, v in self.validators.items()}

    def samples(self, model: TwoViewModel) -> dict[str, list[Sample]]:
        model = model.to(self.device).eval()
        return {name: v.samples(model) for name, v in self.validators.items()}


def _refuse_faulty(folder: Path, layout: str | None) -> None:
    diagnosis = check_data_set(folder, layout)
    faults = [f"{f.message}. {f.advice}".strip() for f in diagnosis.findings if f.level == "error"]
    if faults:
        raise ValueError(
            f"{folder} has faults: {'; '.join(faults)}. Look at `weav3r data check {folder}`, or "
            "go on all the same with check=False (--no-check)"
        )
    for finding in diagnosis.findings:
        if finding.level == "warning":
            logger.warning("%s: %s", folder, finding.message)


def _mined(data: PosedSet, output: Path) -> PairTable:
    pairs = mine_pairs(data, progress=lambda scene, n: logger.info("%s: %d pairs", scene, n))
    save_pairs(pairs, [view.key for view in data.views], output / "pairs.npz")
    return pairs


def _provenance(
    network: TwoViewModel,
    data: PosedSet,
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
) -> Provenance:
    known = network.provenance or Provenance()
    metrics = {
        f"{name}, mean pointmap error (before: {pointmap_error(before[name]):.3f})": (
            f"{pointmap_error(scores):.3f}"
        )
        for name, scores in after.items()
    }
    trained = f"{known.training_data} Fine-tuned on {data.root.name} ({len(data)} photos).".strip()
    return dataclasses.replace(known, metrics=metrics, training_data=trained)


def _facts(
    data: PosedSet,
    training: PairSource,
    held_out: PairSource,
    steps: int,
    minutes: float,
    recipe: Recipe,
) -> dict[str, str]:
    plain = recipe_to_dict(recipe)
    return {
        "data": f"{len(data)} photos, {len(data.scenes)} scenes, layout {data.layout}",
        "pairs": f"{len(training.pairs)} to train on, {len(held_out.pairs)} held out",
        "training": f"{steps} steps in {minutes:g} minutes, {plain['adapt']['train']} weights",
        "image sizes": ", ".join(f"{w}x{h}" for h, w in recipe.data.sizes),
        "started from": str(recipe.init),
        "precision": recipe.optimizer.precision,
    }
