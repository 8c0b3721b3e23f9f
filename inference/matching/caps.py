"""Which tiles of descriptors can hold the one most similar to a query, without comparing all.

Neighbouring pixels have similar directions: four of them lie in a narrow cap around their mean. No
pixel of a cap is nearer to a query than the angle to the middle of the cap less the cap's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE = 2
_ROUNDING = 1e-6


class TileCaps:
    """The caps of 2x2 pixels of square tiles.

    Args:
        bank: (tiles * side^2, D) descriptors, tile by tile, each row by row.
        side: of a tile in pixels, even.

    Attributes:
        middle: (tiles * caps, D) unit vectors, tile by tile.
        per_tile: caps of a tile.
    """

    def __init__(self, bank: Tensor, side: int) -> None:
        count, dim = side // _SIDE, bank.shape[1]
        cells = bank.view(-1, count, _SIDE, count, _SIDE, dim).transpose(2, 3)
        cells = cells.reshape(-1, _SIDE * _SIDE, dim)
        self.per_tile = count * count
        self.middle = F.normalize(cells.mean(1), dim=-1)
        length = cells.double().norm(dim=-1)
        cosine = torch.einsum("cpd,cd->cp", cells.double(), self.middle.double())
        cosine = torch.where(length > 0, cosine / length, 1.0).amin(1)
        widest = cosine.view(-1, self.per_tile).amin(1).clamp(-1, 1)
        self._angle = widest.acos() + _ROUNDING

    def can_hold(self, nearest_middle: Tensor, at_least: Tensor, roundoff: float) -> Tensor:
        """Which tiles can hold a pixel of at least some cosine with a query.

        Args:
            nearest_middle: (tiles, N) largest cosine of a query with the caps' middles.
            at_least: (N,) cosine.
            roundoff: of the float32 products that `nearest_middle` was made with.

        Returns:
            (tiles, N) bool.
        """
        angle = at_least.double().clamp(-1, 1).acos()
        floor = torch.outer(self._angle.cos().float(), angle.cos().float())
        floor -= torch.outer(self._angle.sin().float(), angle.sin().float())
        floor -= 4 * (self.middle.shape[1] + 2) * roundoff + _ROUNDING
        # Beyond a right angle the sum of both may pass the straight one: no bound.
        wide, far = self._angle > torch.pi / 2, angle > torch.pi / 2
        if wide.any() or far.any():
            floor[wide[:, None] | far] = -torch.inf
        return nearest_middle >= floor
