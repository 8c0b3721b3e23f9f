"""Exact nearest neighbours among the pixels of a descriptor map, by blocked matrix products.

The similarity of two descriptors is their dot product, accumulated over the channels in order with
one rounding to float32 a step; equal similarities go to the pixel that comes first in row-major
order. A matrix product may round otherwise, so it only selects tiles of pixels that can hold the
answer; the similarity by its definition decides among them. The answer therefore depends neither on
the block sizes nor on the library or device that multiplies. On processors, bounds spare most of
the products where descriptors change little from pixel to pixel (see `caps`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike
from scipy.spatial import KDTree
from torch import Tensor

from .caps import TileCaps

_TILE = (8, 8)
_TILE_OF_LIST = (1, 64)  # of a map of one row
_TILE_PIXELS = 64
_BLOCK_QUERIES = {"cpu": 256, "cuda": 4096}
# Similarities at once: on the CPU they should stay in the second-level cache.
_BLOCK_SIMILARITIES = {"cpu": 2**18, "cuda": 2**27}
# Above this share of tiles that bounds leave open, comparing all is as fast.
_OPEN_SHARE = 0.08
_GROUP = 16  # queries of one tile that are multiplied together
# By the name of the precision that torch is told to multiply float32 matrices with.
_ROUNDOFF = {"ieee": 2.0**-24, "highest": 2.0**-24, "tf32": 2.0**-10, "high": 2.0**-10}
_WORST_ROUNDOFF = 2.0**-7  # bfloat16


@dataclass(frozen=True)
class TilePairs:
    """Which tiles each query is compared with.

    Attributes:
        query: (P,) int64, position of the query.
        tile: (P,) int64, index of the tile.
    """

    query: Tensor
    tile: Tensor


class DescriptorTiles:
    """A descriptor map cut into tiles of 64 pixels, ready to be searched.

    Args:
        descriptors: (H, W, D), compared in float32.

    Attributes:
        size: (height, width) of the map.
        tile: (height, width) of a tile.
        grid: how many tiles there are (down, across), indexed row by row.
        pixel: (tiles, 64) flat row-major indices of the pixels of each tile.
        rows: (H * W, D) descriptors of all pixels.
        bank: (tiles * 64, D) descriptors in the order of the tiles.

    Raises:
        ValueError: if the map has other axes, is empty or not finite.
    """

    def __init__(self, descriptors: Tensor) -> None:
        if descriptors.ndim != 3 or 0 in descriptors.shape:
            raise ValueError(
                f"expected a descriptor map (H, W, D), got shape {tuple(descriptors.shape)}"
            )
        if not bool(descriptors.isfinite().all()):
            raise ValueError("descriptors must be finite, got NaN or infinity")
        self.size = (descriptors.shape[0], descriptors.shape[1])
        self.tile = _TILE_OF_LIST if self.size[0] == 1 else _TILE
        self.grid, self.pixel = _tile_pixels(self.size, self.tile, descriptors.device)
        self.rows = descriptors.detach().to(torch.float32).flatten(0, 1)  # (H * W, D)
        self.bank = self.rows[self.pixel].reshape(-1, self.rows.shape[1])  # (tiles * 64, D)
        self._longest = self.rows.norm(dim=1).amax()

    def nearest(self, queries: Tensor) -> Tensor:
        """Find the most similar pixel of the whole map for each query.

        Args:
            queries: (N, D).

        Returns:
            (N,) int64, flat row-major indices.
        """
        block = _BLOCK_QUERIES.get(queries.device.type, 256)
        if len(queries) == 0:
            return torch.zeros(0, dtype=torch.int64, device=queries.device)
        found: list[Tensor] = []
        bounded = queries.device.type == "cpu" and self.tile == _TILE
        for part in queries.split(block):
            pairs = self._open_pairs(part) if bounded else None
            if pairs is not None:
                found.append(self.nearest_within(part, pairs))
                continue
            bounded = False
            with torch.autocast(queries.device.type, enabled=False):
                maxima = self._tile_maxima(part, self.bank, _TILE_PIXELS)  # (tiles, n)
            enough = maxima.amax(0) - self._slack(part)
            tile, query = (maxima >= enough).nonzero(as_tuple=True)
            found.append(self._decide(part, TilePairs(query, tile)))
        return torch.cat(found)

    def nearest_within(self, queries: Tensor, pairs: TilePairs) -> Tensor:
        """Find the most similar pixel among the tiles that each query is paired with.

        Args:
            queries: (N, D).
            pairs: what is compared with what.

        Returns:
            (N,) int64, flat row-major indices; -1 for queries without any tile.
        """
        with torch.autocast(queries.device.type, enabled=False):
            maxima = self._pair_maxima(queries, pairs)
        best = queries.new_full((len(queries),), -torch.inf)
        best = best.scatter_reduce(0, pairs.query, maxima, "amax")
        keep = maxima >= (best - self._slack(queries))[pairs.query]
        return self._decide(queries, TilePairs(pairs.query[keep], pairs.tile[keep]))

    def _slack(self, queries: Tensor) -> Tensor:
        """(N,) how far two tiles' products may be out of order because of rounding."""
        unit = _roundoff(queries.device.type)
        # Each way of computing a dot product is off by at most (D + 2) units of |q| |x|; two ways
        # for each of two values.
        terms = 4 * (self.rows.shape[1] + 2) * unit
        return terms * queries.norm(dim=1) * self._longest

    @cached_property
    def _caps(self) -> TileCaps:
        return TileCaps(self.bank, _TILE[0])

    def _open_pairs(self, queries: Tensor) -> TilePairs | None:
        """Pairs of queries and tiles that bounds leave open; None if there are too many."""
        caps, length = self._caps, queries.norm(dim=1)
        units = queries / length.clamp_min(1e-30)[:, None]
        with torch.autocast(queries.device.type, enabled=False):
            middle = self._tile_maxima(units, caps.middle, caps.per_tile)
            likely = self.bank.view(-1, _TILE_PIXELS, queries.shape[1])[middle.max(0).indices]
            similar = torch.einsum("nd,nkd->nk", queries, likely).amax(1) - self._slack(queries)
        at_least = similar.double() / (length.double() * self._longest).clamp_min(1e-30)
        can = caps.can_hold(middle, at_least, _roundoff(queries.device.type))
        if can.sum() > _OPEN_SHARE * can.numel():
            return None
        tile, query = can.nonzero(as_tuple=True)
        return TilePairs(query, tile)

    def _tile_maxima(self, queries: Tensor, bank: Tensor, per_tile: int) -> Tensor:
        """(tiles, N) largest product of each query with a tile's rows of the bank."""
        count, tiles = len(queries), len(self.pixel)
        limit = _BLOCK_SIMILARITIES.get(queries.device.type, 2**18)
        step = max(1, limit // (per_tile * count)) * per_tile
        maxima = queries.new_empty(tiles, count)
        columns = queries.T.contiguous()
        for start in range(0, len(bank), step):
            products = bank[start : start + step] @ columns
            first = start // per_tile
            products = products.view(-1, per_tile, count)
            torch.amax(products, 1, out=maxima[first : first + len(products)])
        return maxima

    def _pair_maxima(self, queries: Tensor, pairs: TilePairs) -> Tensor:
        """(P,) largest product of each pair of a query and a tile."""
        tiles = len(self.pixel)
        tile, order = pairs.tile.sort()
        count = torch.bincount(tile, minlength=tiles)
        groups = (count + _GROUP - 1) // _GROUP
        place = torch.arange(len(tile), device=tile.device) - (count.cumsum(0) - count)[tile]
        slot = (groups.cumsum(0) - groups)[tile] * _GROUP + place
        group_tile = torch.repeat_interleave(torch.arange(tiles, device=tile.device), groups)
        # Slots that no pair fills repeat the first query; nobody reads them.
        group_query = pairs.query.new_zeros(len(group_tile) * _GROUP)
        group_query[slot] = pairs.query[order]
        bank = self.bank.view(tiles, _TILE_PIXELS, -1)
        limit = _BLOCK_SIMILARITIES.get(queries.device.type, 2**18)
        step = max(1, limit // (_TILE_PIXELS * _GROUP))
        found = queries.new_empty(len(group_tile), _GROUP)
        for start in range(0, len(group_tile), step):
            stop = min(start + step, len(group_tile))
            left = queries[group_query[start * _GROUP : stop * _GROUP]]
            left = left.view(stop - start, _GROUP, -1)
            right = bank[group_tile[start:stop]].transpose(1, 2)
            found[start:stop] = torch.bmm(left, right).amax(2)
        maxima = queries.new_empty(len(tile))
        maxima[order] = found.flatten()[slot]
        return maxima

    def _decide(self, queries: Tensor, pairs: TilePairs) -> Tensor:
        """Choose by the similarity of the definition; ties go to the first pixel."""
        pixel = self.pixel[pairs.tile]  # (P, 64)
        value = similarity(queries[pairs.query][:, None], self.rows[pixel])
        best = queries.new_full((len(queries),), -torch.inf)
        best = best.scatter_reduce(0, pairs.query, value.amax(1), "amax")
        none = len(self.rows)
        first = torch.where(value == best[pairs.query][:, None], pixel, none).amin(1)
        found = torch.full((len(queries),), none, device=queries.device)
        found = found.scatter_reduce(0, pairs.query, first, "amin")
        return torch.where(found < none, found, -1)


def nearest_neighbours(
    queries: Tensor, database: Tensor, distance: Literal["dot", "l2"] = "dot"
) -> Tensor:
    """Find the nearest row of `database` for each row of `queries`, exactly and in bounded memory.

    Args:
        queries: (N, D) float32, finite.
        database: (M, D), finite.
        distance: "dot" is the largest dot product, "l2" the smallest Euclidean distance.

    Returns:
        (N,) int64; ties go to the first row.
    """
    if distance == "l2":
        # |q - x|^2 = |q|^2 - 2 (q.x - |x|^2 / 2): an extra channel turns it into a dot product.
        queries = torch.cat([queries, queries.new_ones(len(queries), 1)], -1)
        half = database.double().square().sum(-1, keepdim=True).div(-2).to(database.dtype)
        database = torch.cat([database, half], -1)
    elif distance != "dot":
        raise ValueError(f'distance must be "dot" or "l2", got {distance!r}')
    return DescriptorTiles(database[None]).nearest(queries.to(torch.float32))


@dataclass(frozen=True)
class MutualPoints:
    """Points of two clouds that are each other's nearest.

    Attributes:
        mutual2: for each point of cloud 2, whether its nearest point of cloud 1 has it as nearest.
        nearest1: for each point of cloud 2, the index of its nearest point in cloud 1.
    """

    mutual2: Bool[np.ndarray, " m"]
    nearest1: Int[np.ndarray, " m"]


def mutual_nearest_points(points1: ArrayLike, points2: ArrayLike) -> MutualPoints:
    """Match two point clouds (N, 3) and (M, 3) of one frame: mutual nearest neighbours.

    Raises:
        ValueError: if a cloud is empty, not (n, 3) or not finite.
    """
    first, second = np.asarray(points1), np.asarray(points2)
    for name, points in (("points1", first), ("points2", second)):
        if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
            raise ValueError(f"expected {name} (n, 3) with n > 0, got shape {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError(f"{name} must be finite; select the valid points first")
    nearest1 = np.asarray(KDTree(first).query(second)[1])
    nearest2 = np.asarray(KDTree(second).query(first)[1])
    return MutualPoints(nearest2[nearest1] == np.arange(len(second)), nearest1)


def _roundoff(device: str) -> float:
    """Unit of the rounding of float32 matrix products on a device (type), as torch is set up."""
    backend = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    name = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if name == "none":  # follows the setting for everything
        name = getattr(torch.backends, "fp32_precision", "none")
        name = "ieee" if name == "none" else name
    if name is None:  # before torch 2.9
        name = torch.get_float32_matmul_precision()
    return _ROUNDOFF.get(name, _WORST_ROUNDOFF)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Dot product over the last axis, one fused multiply-add a channel, each rounded to float32.

    The product of two float32 numbers is exact in float64, so the result is the same on every
    device and for every shape.
    """
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for x, y in zip(a.double().unbind(-1), b.double().unbind(-1), strict=True):
        total = (x * y + total).float().double()
    return total.float()


def _tile_pixels(
    size: tuple[int, int], tile: tuple[int, int], device: torch.device
) -> tuple[tuple[int, int], Tensor]:
    """(rows, columns) of tiles, and the flat pixel indices of each tile, (tiles, 64).

    Tiles that reach over the border repeat its pixels.
    """
    rows, columns = -(-size[0] // tile[0]), -(-size[1] // tile[1])
    y = torch.arange(rows * tile[0], device=device).clamp_max(size[0] - 1)
    x = torch.arange(columns * tile[1], device=device).clamp_max(size[1] - 1)
    y, x = y.view(rows, 1, tile[0], 1), x.view(1, columns, 1, tile[1])
    return (rows, columns), (y * size[1] + x).reshape(rows * columns, _TILE_PIXELS)
