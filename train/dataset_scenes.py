"""Scenes of the data sets that a recipe names, mixed by weight."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ..datasets.layouts import open_data_set
from ..datasets.posed_scenes import EndlessScenes, PairSource, PosedScenes
from ..datasets.posed_set import PosedSet
from .config import DatasetConfig
from .data import ProceduralFactory, SceneSource

logger = logging.getLogger(__name__)

PROCEDURAL: Literal["procedural"] = "procedural"


@dataclass(frozen=True)
class DatasetFactory:
    """Makes sources of a mixture; picklable, so that worker processes can make their own.

    Attributes:
        parts: data sets and their shares.
        procedural: the generator, for parts that name it.
        epoch_scenes: scenes between two shuffles.
        held_out: take the validation splits.
    """

    parts: tuple[DatasetConfig, ...]
    procedural: ProceduralFactory
    epoch_scenes: int
    held_out: bool = False

    @functools.cached_property
    def _opened(self) -> Mapping[str, PosedSet]:
        paths = dict.fromkeys(part.path for part in self.parts if part.path != PROCEDURAL)
        return {path: open_data_set(Path(path).expanduser()) for path in paths}

    def __call__(
        self, height: int, width: int, views: int, seed: int, overlap: tuple[float, float]
    ) -> SceneSource:
        sources: list[PairSource | EndlessScenes] = []
        for part in self.parts:
            if part.path == PROCEDURAL:
                made = self.procedural(height, width, views, seed, overlap)
                sources.append(cast(EndlessScenes, made))
            else:
                data = self._opened[part.path]
                sources.append(PairSource.of(data, self._split(part, data), overlap))
        weights: Sequence[float] = [part.weight for part in self.parts]
        return PosedScenes(sources, weights, height, width, views, seed, self.epoch_scenes)

    def _split(self, part: DatasetConfig, data: PosedSet) -> str | None:
        """The split that is asked for, or the usual one of the data set."""
        wanted = part.held_out if self.held_out else part.train
        if wanted is not None:
            return wanted
        usual = ("val", "test") if self.held_out else ("train",)
        found = next((split for split in usual if data.splits.get(split)), None)
        if found is None and self.held_out:
            logger.warning("%s has no scenes held out; it is validated on all", part.path)
        return found
