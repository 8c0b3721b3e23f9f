"""What `weav3r evaluate` does with sets of images: two views, localisation, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .cli_models import prepare_model

if TYPE_CHECKING:
    from .evaluation.localization_report import LocalizationReport
    from .evaluation.localization_sets import LocalizationSet
    from .evaluation.map_free import MapFreeReport
    from .evaluation.readers import EvaluationSet
    from .evaluation.report import EvaluationReport
    from .evaluation.runner import Progress

TASKS = ("pairs", "localization", "mapfree")


@dataclass(frozen=True)
class SetRun:
    """What is to be measured.

    Attributes:
        root: folder of the data set.
        layout: of the data set, see `weav3r.evaluation.datasets.LAYOUTS`.
        tasks: of `TASKS`.
        sets: names, or None for all.
        methods: names, see `weav3r.evaluation.methods.make_method`.
        size: long side of the checkpoints' input; None takes their best.
        device: of the checkpoints.
        top_k: photos of a map that a query is matched with.
        unknown_focal: localise without the true intrinsics.
    """

    root: Path
    layout: str
    tasks: tuple[str, ...]
    sets: list[str] | None
    methods: tuple[str, ...]
    size: int | None
    device: str
    top_k: int
    unknown_focal: bool


AnyReport: TypeAlias = "EvaluationReport | LocalizationReport | MapFreeReport"
Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def check_run(run: SetRun) -> None:
    """Raise a ValueError before any long work if the names make no sense."""
    from .evaluation.datasets import LAYOUTS, MAP_LAYOUTS, PAIR_LAYOUTS
    from .evaluation.methods import is_checkpoint

    unknown = [task for task in run.tasks if task not in TASKS]
    if unknown or not run.tasks:
        raise ValueError(f"--tasks {','.join(run.tasks)}: there are {', '.join(TASKS)}")
    if run.layout not in LAYOUTS:
        raise ValueError(f"--layout {run.layout}: there are {', '.join(LAYOUTS)}")
    if "mapfree" in run.tasks and not any(map(is_checkpoint, run.methods)):
        raise ValueError("--tasks mapfree: it takes a checkpoint, other methods know no depth")
    if run.layout in MAP_LAYOUTS and run.tasks != ("localization",):
        raise ValueError(f"--layout {run.layout} has no pairs; give --tasks localization")
    if run.layout in PAIR_LAYOUTS and "localization" in run.tasks:
        raise ValueError(f"--layout {run.layout} has no map with queries; give --tasks pairs")


def evaluate_sets(run: SetRun, stage: Stage) -> list[AnyReport]:
    """Measure; one report a task, in the order of the tasks."""
    from .evaluation.localization_runner import LocalizationSettings, evaluate_localization
    from .evaluation.map_free import MapFreeSettings, evaluate_map_free
    from .evaluation.methods import is_checkpoint, make_method, split_matcher
    from .evaluation.network import NetworkMatcher
    from .evaluation.runner import evaluate_pairs

    check_run(run)
    for name in filter(is_checkpoint, run.methods):
        prepare_model(split_matcher(name)[0])
    maps = _maps(run) if "localization" in run.tasks else []
    methods = {name: make_method(name, device=run.device, size=run.size) for name in run.methods}
    networks = {name: m for name, m in methods.items() if isinstance(m, NetworkMatcher)}
    reports: list[AnyReport] = []
    for task in run.tasks:
        with _counted(stage, task) as show:
            if task == "pairs":
                reports.append(
                    evaluate_pairs(run.root, run.sets, methods, layout=run.layout, progress=show)
                )
            elif task == "mapfree":
                mapfree = MapFreeSettings(known_intrinsics=not run.unknown_focal)
                reports.append(evaluate_map_free(_metric(run), networks, mapfree, progress=show))
            else:
                ranker = next(iter(networks.values()), None) or NetworkMatcher(device=run.device)
                settings = LocalizationSettings(
                    top_k=run.top_k, known_intrinsics=not run.unknown_focal
                )
                reports.append(
                    evaluate_localization(maps, methods, ranker, settings, progress=show)
                )
    return reports


def _metric(run: SetRun) -> list[EvaluationSet]:
    from .evaluation.datasets import read_pair_sets

    found = read_pair_sets(run.root, run.layout, run.sets)
    return [data for data in found if data.units == "metric"] if run.sets is None else found


def _maps(run: SetRun) -> Sequence[LocalizationSet]:
    from .evaluation.datasets import read_maps
    from .evaluation.localization_sets import localizable, split_for_localization
    from .evaluation.readers import list_sets, read_set

    if run.layout != "plain":
        return read_maps(run.root, run.layout, run.sets)
    names = list_sets(run.root) if run.sets is None else run.sets
    loaded = [read_set(run.root, name) for name in names]
    if run.sets is None or "pairs" in run.tasks:  # of the named ones, those that can be cut
        loaded = [data for data in loaded if localizable(data)]
    if not loaded:
        raise ValueError(
            f"no set of {run.root} can be cut into a map and queries: that takes metres, poses and "
            "depth for all images"
        )
    return [split_for_localization(data) for data in loaded]


class _counted:
    """A runner's progress as a stage of the terminal's."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage, self._name = stage, name
        self._open: AbstractContextManager[Callable[[int], None]] | None = None
        self._advance: Callable[[int], None] | None = None
        self._shown = 0

    def __enter__(self) -> Callable[[Progress], None]:
        return self._show

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)

    def _show(self, state: Progress) -> None:
        if self._advance is None:
            self._open = self._stage(self._name, state.total)
            self._advance = self._open.__enter__()
        self._advance(state.done - self._shown)
        self._shown = state.done
