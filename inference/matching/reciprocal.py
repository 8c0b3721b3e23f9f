"""Reciprocal matches of dense descriptors, exactly as MASt3R's fast matching finds them.

Seeds of one view walk to their nearest neighbour in the other view and back until they stay where
they are. Every pixel is looked up at most once, whatever the number of seeds and rounds, and the
look-ups are exact (see `nearest`). Pixels are counted from 0 here and named by their flat
row-major index or by (column, row); `xy1` and `xy2` of a result are their centres, at half-integers
as everywhere else.

Reference: Leroy et al., Grounding Image Matching in 3D with MASt3R, ECCV 2024, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int
from numpy.typing import ArrayLike
from torch import Tensor

from .gating import Gate, GateTrust
from .nearest import DescriptorTiles

_ROUNDS = 10
_UNKNOWN, _NOWHERE = -2, -1


@dataclass(frozen=True)
class PixelMatches:
    """Pairs of pixels, sorted by their index in view 1 and then in view 2, none twice.

    Attributes:
        index1: flat row-major index in view 1.
        index2: flat row-major index in view 2.
        size1: (height, width) of view 1.
        size2: (height, width) of view 2.
        confidence: higher is surer; None where it was not asked for.
    """

    index1: Int[np.ndarray, " n"]
    index2: Int[np.ndarray, " n"]
    size1: tuple[int, int]
    size2: tuple[int, int]
    confidence: Float32[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.index1)

    @property
    def pixels1(self) -> Int[np.ndarray, "n 2"]:
        """(column, row) in view 1, counted from 0."""
        return np.stack([self.index1 % self.size1[1], self.index1 // self.size1[1]], -1)

    @property
    def pixels2(self) -> Int[np.ndarray, "n 2"]:
        """(column, row) in view 2, counted from 0."""
        return np.stack([self.index2 % self.size2[1], self.index2 // self.size2[1]], -1)

    @property
    def xy1(self) -> Float32[np.ndarray, "n 2"]:
        """Pixel centres in view 1, at half-integers."""
        return self.pixels1.astype(np.float32) + 0.5

    @property
    def xy2(self) -> Float32[np.ndarray, "n 2"]:
        """Pixel centres in view 2, at half-integers."""
        return self.pixels2.astype(np.float32) + 0.5

    def inside(self, border: int = 3) -> PixelMatches:
        """Drop matches less than `border` pixels from the edge of either view."""
        keep = np.ones(len(self), dtype=bool)
        for pixels, size in ((self.pixels1, self.size1), (self.pixels2, self.size2)):
            limit = np.array([size[1], size[0]]) - border
            keep &= ((pixels >= border) & (pixels < limit)).all(-1)
        confidence = None if self.confidence is None else self.confidence[keep]
        return PixelMatches(
            self.index1[keep], self.index2[keep], self.size1, self.size2, confidence
        )


class ReciprocalSearch:
    """Nearest neighbours between two descriptor maps, each looked up once and remembered.

    Args:
        descriptors1: (H1, W1, D) of view 1, finite; the dot product is the similarity.
        descriptors2: (H2, W2, D) of view 2, on the same device.
        gate: where geometry expects each pixel in the other view, see `Gate`; None compares with
            every pixel.

    Raises:
        ValueError: if a map is not (H, W, D), empty or not finite, the channels differ, or the
            gate is for other sizes.
    """

    def __init__(
        self, descriptors1: Tensor, descriptors2: Tensor, gate: Gate | None = None
    ) -> None:
        self._tiles = DescriptorTiles(descriptors1), DescriptorTiles(descriptors2)
        dims = [tiles.rows.shape[1] for tiles in self._tiles]
        if dims[0] != dims[1]:
            raise ValueError(f"both views need the same channels, got {dims[0]} and {dims[1]}")
        self.sizes = self._tiles[0].size, self._tiles[1].size
        if gate is not None and gate.sizes != self.sizes:
            raise ValueError(
                f"the gate is for views of {gate.sizes}, the descriptors are {self.sizes}"
            )
        self._gate = gate
        self._trust: dict[int, GateTrust] = {}
        self._memo = tuple(
            torch.full((len(tiles.rows),), _UNKNOWN, device=descriptors1.device)
            for tiles in self._tiles
        )

    @property
    def looked_up(self) -> tuple[int, int]:
        """How many pixels of view 1 and of view 2 were looked up so far."""
        first, second = (int((memo != _UNKNOWN).sum()) for memo in self._memo)
        return first, second

    def in_view2(self, index1: Tensor) -> Tensor:
        """Nearest pixels in view 2 of pixels of view 1, flat indices; -1 where gated out."""
        return self._look_up(0, index1)

    def in_view1(self, index2: Tensor) -> Tensor:
        """Nearest pixels in view 1 of pixels of view 2, flat indices; -1 where gated out."""
        return self._look_up(1, index2)

    def from_view1(
        self, seeds: int | ArrayLike | Tensor = 8, tolerance_px: float = 0.0
    ) -> PixelMatches:
        """Match seeds of view 1; see `reciprocal_matches`."""
        index1, index2 = self._walk(0, seeds, tolerance_px)
        return self._matches(index1, index2)

    def from_view2(
        self, seeds: int | ArrayLike | Tensor = 8, tolerance_px: float = 0.0
    ) -> PixelMatches:
        """Match seeds of view 2; the result still names view 1 first and is sorted by it."""
        index2, index1 = self._walk(1, seeds, tolerance_px)
        return self._matches(index1, index2)

    def basin(self, seeds: int | ArrayLike | Tensor = 8) -> Int[np.ndarray, " pixels1"]:
        """Where each pixel of view 1 moves to within one round, -1 for those never visited.

        The seeds walk as in `from_view1`; following the table from a seed leads to its match.
        """
        basin = torch.full((len(self._tiles[0].rows),), -1, device=self._tiles[0].rows.device)
        self._walk(0, seeds, 0.0, basin)
        return basin.cpu().numpy()

    def _look_up(self, view: int, index: Tensor) -> Tensor:
        memo = self._memo[view]
        missing = index[memo[index] == _UNKNOWN].unique()
        if len(missing):
            own, other = self._tiles[view], self._tiles[1 - view]
            queries = own.rows[missing]
            if self._gate is None:
                memo[missing] = other.nearest(queries)
            else:
                if view not in self._trust:
                    self._trust[view] = self._gate.measure(view, missing, own.rows, other)
                trust = self._trust[view]
                memo[missing] = self._gate.nearest(view, missing, queries, other, trust)
        return memo[index]

    def _walk(
        self,
        view: int,
        seeds: int | ArrayLike | Tensor,
        tolerance_px: float,
        basin: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Flat indices of the matched pixels in `view` and in the other one."""
        size, device = self.sizes[view], self._memo[view].device
        if tolerance_px < 0:
            raise ValueError(f"tolerance_px must not be negative, got {tolerance_px}")
        if isinstance(seeds, int):
            if tolerance_px != 0:
                raise ValueError(
                    "a tolerance needs explicit seeds: give the pixels (n, 2) instead of a step, "
                    "for example grid_pixels(size, step)"
                )
            start, rounds = grid_pixels(size, seeds), _ROUNDS
        else:
            start, rounds = _check_pixels(seeds, size), 1
        flat = torch.from_numpy(np.unique(start[:, 1] * size[1] + start[:, 0])).to(device)
        there: Callable[[Tensor], Tensor] = self.in_view2 if view == 0 else self.in_view1
        back: Callable[[Tensor], Tensor] = self.in_view1 if view == 0 else self.in_view2
        own, other, active = _converge(flat, there, back, rounds, basin)
        if tolerance_px > 0:
            columns, rows = own % size[1] - flat % size[1], own // size[1] - flat // size[1]
            near = (columns.square() + rows.square()).double().sqrt() < tolerance_px
            keep = near & (own >= 0) & (other >= 0)
            return flat[keep], other[keep]
        keep = ~active & (own >= 0) & (other >= 0)
        return own[keep], other[keep]

    def _matches(self, index1: Tensor, index2: Tensor) -> PixelMatches:
        first, second, _ = merge_pairs(index1.cpu().numpy(), index2.cpu().numpy())
        return PixelMatches(first, second, *self.sizes)


def reciprocal_matches(
    descriptors1: Tensor,
    descriptors2: Tensor,
    seeds: int | ArrayLike | Tensor = 8,
    tolerance_px: float = 0.0,
    gate: Gate | None = None,
) -> PixelMatches:
    """Match seeds of view 1 with view 2 by walking between nearest neighbours.

    Args:
        descriptors1: (H1, W1, D), finite; unit vectors make the nearest also the closest.
        descriptors2: (H2, W2, D) on the same device.
        seeds: a step: the grid of every `step`-th pixel, beginning at `step // 2`, walks for at
            most ten rounds; or (n, 2) integer pixels (column, row), which walk for one round.
        tolerance_px: with explicit seeds, keep a seed that returns to less than this distance from
            where it began, and report the seed itself. 0 keeps only seeds that arrive at a pair of
            pixels that are each other's nearest, and reports that pair.
        gate: see `ReciprocalSearch`.

    Raises:
        ValueError: as `ReciprocalSearch`, for a step below 1, seeds outside the image, a negative
            tolerance or a tolerance together with a step.
    """
    return ReciprocalSearch(descriptors1, descriptors2, gate).from_view1(seeds, tolerance_px)


def grid_pixels(size: tuple[int, int], step: int) -> Int[np.ndarray, "n 2"]:
    """(column, row) of every `step`-th pixel of a view (height, width), from `step // 2` on."""
    if step < 1:
        raise ValueError(f"the step between seeds must be at least 1 pixel, got {step}")
    rows, columns = (np.arange(step // 2, length, step) for length in size)
    grid = np.meshgrid(columns, rows, indexing="xy")
    return np.stack(grid, -1).reshape(-1, 2)


def merge_pairs(
    index1: Int[np.ndarray, " n"], index2: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Unique pairs sorted by `index1` then `index2`, and where each occurred first."""
    pairs, first = np.unique(np.stack([index1, index2], -1), axis=0, return_index=True)
    return pairs[:, 0], pairs[:, 1], first


def _converge(
    seeds: Tensor,
    there: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], Tensor],
    rounds: int,
    basin: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk the seeds; returns where they are in both views (-1: lost) and which still moved."""
    own, other = seeds.clone(), torch.full_like(seeds, _NOWHERE)
    active = torch.ones_like(seeds, dtype=torch.bool)
    for _ in range(rounds):
        who = active.nonzero()[:, 0]
        if len(who) == 0:
            break
        arrived = there(own[who])
        moved = (arrived != other[who]) if basin is None else torch.ones_like(active[who])
        other[who] = arrived
        active[who] = moved & (arrived >= 0)
        who = active.nonzero()[:, 0]
        returned = back(other[who])
        if basin is not None:
            basin[own[who]] = returned
        active[who] = (returned != own[who]) & (returned >= 0)
        own[who] = returned
    return own, other, active


def _check_pixels(seeds: ArrayLike | Tensor, size: tuple[int, int]) -> np.ndarray:
    given = seeds.cpu().numpy() if isinstance(seeds, Tensor) else np.asarray(seeds)
    if given.ndim != 2 or given.shape[1] != 2 or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"expected seeds (n, 2) of integer pixels (column, row), got {given.dtype} "
            f"{given.shape}"
        )
    if len(given) and ((given < 0).any() or (given >= [size[1], size[0]]).any()):
        raise ValueError(f"seeds must lie inside the image of height x width {size[0]}x{size[1]}")
    return given.astype(np.int64)
