"""What later stages read of a decoded pair, so that the dense prediction itself can go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

from ...models.two_view import ViewPrediction
from ..alignment.pairs import PairSamples, sample_pair
from ..images import View
from ..matching.descriptors import Matches, MatchingOptions, match_pair
from ..predict import PairResult


@dataclass(frozen=True)
class OwnMap:
    """What a pair says of its first image, kept for the dense depth.

    Attributes:
        depth: (H, W) float32, in the pair's own scale.
        confidence: (H, W) float32.
    """

    depth: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class PairEvidence:
    """What is kept of one unordered pair.

    Attributes:
        first, second: indices of the two views, first < second (equal for a single image).
        samples: the directed pairs (first, second) and (second, first) on the sampling grid.
        matches: anchored in the first and in the second image, both with `xy1` in the first; None
            where the cameras do not come from matches.
        own_maps: depth of the first image in (first, second) and of the second in (second, first);
            None where the dense depth does not read them.
    """

    first: int
    second: int
    samples: tuple[PairSamples, PairSamples]
    matches: tuple[Matches, Matches] | None = None
    own_maps: tuple[OwnMap, OwnMap] | None = None


@dataclass(frozen=True)
class PairReader:
    """How a decoded pair is reduced to its evidence.

    Attributes:
        views: all photos.
        matching: options of the matches; None for no matches.
        keeps_maps: whether own maps are kept.
        device: where matches are searched.
    """

    views: Sequence[View]
    matching: MatchingOptions | None
    keeps_maps: bool
    device: torch.device

    def read(self, result: PairResult) -> PairEvidence:
        """Reduce one pair."""
        i, j = result.first, result.second
        matches = maps = None
        if self.keeps_maps:
            maps = own_map(result.forward.view1), own_map(result.backward.view1)
        if self.matching is not None:
            views = self.views[i], self.views[j]
            matches = match_pair(result, *views, self.matching, self.device)
        return PairEvidence(i, j, sample_pair(result), matches, maps)

    def read_all(self, results: Iterable[PairResult]) -> Iterator[PairEvidence]:
        """Reduce pairs one after the other; none is kept while the next is decoded."""
        for result in results:
            evidence = self.read(result)
            del result
            yield evidence


def own_map(view: ViewPrediction, index: int | EllipsisType = ...) -> OwnMap:
    """Copy depth and confidence out of a prediction, so that the rest of it can go."""
    depth, confidence = view.pointmap[index][..., 2], view.confidence[index]
    return OwnMap(depth.float().cpu().numpy().copy(), confidence.float().cpu().numpy().copy())


def evidence_to_tensors(evidence: PairEvidence) -> dict[str, Tensor]:
    """Flatten a pair for storage; which images it is of is left to the key."""
    tensors: dict[str, Tensor] = {}
    for k, sample in enumerate(evidence.samples):
        tensors[f"samples.{k}.points"] = sample.points
        tensors[f"samples.{k}.confidence"] = sample.confidence
        tensors[f"samples.{k}.sizes"] = torch.tensor(sample.sizes)
        tensors[f"samples.{k}.focal_px"] = torch.tensor(sample.focal_px, dtype=torch.float64)
    for k, matches in enumerate(evidence.matches or ()):
        for name in ("xy1", "xy2", "confidence"):
            tensors[f"matches.{k}.{name}"] = torch.from_numpy(getattr(matches, name))
    for k, own in enumerate(evidence.own_maps or ()):
        tensors[f"own_maps.{k}.depth"] = torch.from_numpy(own.depth)
        tensors[f"own_maps.{k}.confidence"] = torch.from_numpy(own.confidence)
    return tensors


def evidence_from_tensors(first: int, second: int, tensors: dict[str, Tensor]) -> PairEvidence:
    """Inverse of `evidence_to_tensors`.

    Raises:
        KeyError: if a tensor is missing.
    """
    samples = []
    for k, (frame, other) in enumerate(((first, second), (second, first))):
        part = {name: tensors[f"samples.{k}.{name}"] for name in ("points", "confidence")}
        (h1, w1), (h2, w2) = tensors[f"samples.{k}.sizes"].tolist()
        focal = float(tensors[f"samples.{k}.focal_px"])
        samples.append(
            PairSamples(frame, other, **part, sizes=((h1, w1), (h2, w2)), focal_px=focal)
        )
    matches = maps = None
    if "matches.0.xy1" in tensors:
        names = ("xy1", "xy2", "confidence")
        parts = [[tensors[f"matches.{k}.{n}"].numpy() for n in names] for k in (0, 1)]
        matches = Matches(*parts[0]), Matches(*parts[1])
    if "own_maps.0.depth" in tensors:
        names = ("depth", "confidence")
        parts = [[tensors[f"own_maps.{k}.{n}"].numpy() for n in names] for k in (0, 1)]
        maps = OwnMap(*parts[0]), OwnMap(*parts[1])
    return PairEvidence(first, second, (samples[0], samples[1]), matches, maps)
