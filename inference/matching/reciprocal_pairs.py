"""Reciprocal matches of one pair from one or both network orders, with confidences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..predict import PairResult
from .gating import Gate
from .reciprocal import PixelMatches, ReciprocalSearch, grid_pixels, merge_pairs


@dataclass(frozen=True)
class DescriptorMaps:
    """What one network order says about both views; descriptors of one order are comparable.

    Attributes:
        descriptors1: of view 1, unit vectors.
        descriptors2: of view 2, unit vectors.
        confidence1: of the descriptors of view 1.
        confidence2: of the descriptors of view 2.
    """

    descriptors1: Float[Tensor, "h1 w1 d"]
    descriptors2: Float[Tensor, "h2 w2 d"]
    confidence1: Float[Tensor, "h1 w1"]
    confidence2: Float[Tensor, "h2 w2"]

    def to(self, device: torch.device | str) -> DescriptorMaps:
        """The same maps on a device."""
        maps = (self.descriptors1, self.descriptors2, self.confidence1, self.confidence2)
        return DescriptorMaps(*(values.to(device) for values in maps))


def match_directed(
    maps: DescriptorMaps, step: int = 8, tolerance_px: float = 0.0, gate: Gate | None = None
) -> PixelMatches:
    """Match one network order, with seeds in both views.

    The confidence of a match is the smaller one of its two pixels.
    """
    matches = _both_ways(maps, step, tolerance_px, gate)
    index1, index2, _ = _merge(matches)
    q1, q2 = _gathered_confidence(maps, index1, index2)
    return PixelMatches(index1, index2, matches[0].size1, matches[0].size2, np.minimum(q1, q2))


def match_symmetric(
    forward: DescriptorMaps,
    backward: DescriptorMaps,
    step: int = 8,
    tolerance_px: float = 0.0,
    gate: Gate | None = None,
) -> PixelMatches:
    """Match both network orders, with seeds in both views.

    The confidence of a match is the geometric mean of its two pixels', from the order that found it
    (from `forward` if both did).

    Args:
        forward: from the network's run on (view 1, view 2).
        backward: from its run on (view 2, view 1), again with view 1 named first.
        step: spacing of the seeds.
        tolerance_px: see `reciprocal_matches`.
        gate: see `ReciprocalSearch`.
    """
    runs = [_both_ways(maps, step, tolerance_px, gate) for maps in (forward, backward)]
    confidences = []
    for maps, found in zip((forward, backward), runs, strict=True):
        for matches in found:
            q1, q2 = _gathered_confidence(maps, matches.index1, matches.index2)
            confidences.append(np.sqrt(q1 * q2))
    index1, index2, first = _merge([matches for found in runs for matches in found])
    size1, size2 = runs[0][0].size1, runs[0][0].size2
    return PixelMatches(index1, index2, size1, size2, np.concatenate(confidences)[first])


def descriptor_maps(result: PairResult) -> tuple[DescriptorMaps, DescriptorMaps]:
    """Both network orders of a predicted pair, for `match_symmetric`.

    Raises:
        ValueError: if the checkpoint predicts no descriptors.
    """
    orders = (
        (result.forward.view1, result.forward.view2),
        (result.backward.view2, result.backward.view1),
    )
    made = []
    for view1, view2 in orders:
        parts = (
            view1.descriptors,
            view2.descriptors,
            view1.descriptor_confidence,
            view2.descriptor_confidence,
        )
        if any(part is None for part in parts):
            raise ValueError(
                "this checkpoint predicts no descriptors; match its pointmaps with "
                "mutual_nearest_points instead"
            )
        made.append(DescriptorMaps(*parts))  # pyright: ignore[reportArgumentType]
    return made[0], made[1]


def _both_ways(
    maps: DescriptorMaps, step: int, tolerance_px: float, gate: Gate | None
) -> list[PixelMatches]:
    search = ReciprocalSearch(maps.descriptors1, maps.descriptors2, gate)
    seeds: list[int | np.ndarray] = [step, step]
    if tolerance_px > 0:
        seeds = [grid_pixels(size, step) for size in search.sizes]
    return [
        search.from_view1(seeds[0], tolerance_px),
        search.from_view2(seeds[1], tolerance_px),
    ]


def _merge(
    found: list[PixelMatches],
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    return merge_pairs(
        np.concatenate([matches.index1 for matches in found]),
        np.concatenate([matches.index2 for matches in found]),
    )


def _gathered_confidence(
    maps: DescriptorMaps, index1: np.ndarray, index2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    q1, q2 = (q.float().flatten().cpu().numpy() for q in (maps.confidence1, maps.confidence2))
    return q1[index1], q2[index2]
