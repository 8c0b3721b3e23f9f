"""Counter-based random numbers: one independent, reproducible stream per scene of a batch.

A number is a hash of (seed, scene index, stream name, position in the stream). Nothing depends on
which other scenes share the batch or on the device, and there is no state to save.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_GOLDEN32 = 0x61C88647  # 2**32 divided by the squared golden ratio; below 2**31
_CHUNK = 1024


def hash32(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Mix 32-bit values held in int64; a bijection with good avalanche.

    Both multipliers are below 2**31, so no product leaves the int64 range.

    Reference: C. Wellons, "Prospecting for Hash Functions" (2018), the two-round 32-bit family.
    """
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK32
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK32
    return x ^ (x >> 15)


class SceneRandom:
    """A stream of random numbers for each of `B` scenes.

    Draws advance all streams alike, so the k-th number of a scene is always the same one. `fork`
    gives independent streams, so that a draw added to one part of the generator leaves the others
    alone.
    """

    def __init__(self, low: Int[Tensor, " b"], high: Int[Tensor, " b"]) -> None:
        self._low = low
        self._high = high
        self._position = 0
        self._buffer_start = 0
        self._buffer = torch.zeros(low.shape[0], 0, device=low.device)

    @classmethod
    def from_indices(cls, seed: int, indices: Int[Tensor, " b"]) -> SceneRandom:
        """Make the streams of scenes `indices` of the data set `seed`."""
        indices = indices.to(torch.int64)
        seed_low, seed_high = seed & _MASK32, (seed >> 32) & _MASK32
        salt = hash32(torch.full_like(indices, seed_low ^ 0x3C6EF372))
        low = hash32((indices & _MASK32) ^ salt)
        high = hash32(((indices >> 32) & _MASK32) ^ seed_high ^ 0x5BE0CD19)
        low = hash32((low + high * 3) & _MASK32)
        high = hash32((high ^ low ^ seed_low ^ 0x1F83D9AB) & _MASK32)
        return cls(low, high)

    @property
    def batch_size(self) -> int:
        """Number of scenes."""
        return self._low.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return self._low.device

    def fork(self, name: str) -> SceneRandom:
        """Make streams that are independent of these and of every fork with another name."""
        word = zlib.crc32(name.encode())
        low = hash32(self._low ^ word)
        high = hash32(self._high ^ hash32(low ^ 0x2545F491))
        return SceneRandom(low, high)

    def select(self, rows: Int[Tensor, " n"]) -> SceneRandom:
        """Keep only some scenes; their streams go on from the start of the stream."""
        return SceneRandom(self._low[rows], self._high[rows])

    def _hash_range(self, start: int, count: int) -> Int[Tensor, "b n"]:
        index = torch.arange(start, start + count, device=self.device) * _GOLDEN32
        words = hash32((self._low[:, None] + index) & _MASK32)  # (B, n)
        return hash32(words ^ self._high[:, None])

    def _unit(self, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        """Draw from [0, 1); numbers are made many at a time, since small steps are slow."""
        count = math.prod(shape)
        start, end = self._position, self._position + count
        if end > self._buffer_start + self._buffer.shape[1]:
            words = self._hash_range(start, max(count, _CHUNK))
            self._buffer = (words >> 8).to(torch.float32) * 2.0**-24
            self._buffer_start = start
        self._position = end
        numbers = self._buffer[:, start - self._buffer_start : end - self._buffer_start]
        return numbers.reshape(self.batch_size, *shape)

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "b ..."]:
        """Draw from [low, high)."""
        value = self._unit(shape)
        if high - low != 1.0:
            value = value * (high - low)
        return value if low == 0.0 else value + low

    def log_uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "b ..."]:
        """Draw so that the logarithm is uniform."""
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Draw standard normals (Box-Muller)."""
        radius = torch.sqrt(-2.0 * torch.log(1.0 - self.uniform(0.0, 1.0, *shape)))
        return radius * torch.cos(self.uniform(0.0, 2.0 * math.pi, *shape))

    def rough_normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Draw bell-shaped numbers of unit variance, bounded by 3.4, at the cost of one hash.

        The sum of the four bytes of a word; meant for image noise.
        """
        words = self._hash_range(self._position, math.prod(shape))
        self._position += math.prod(shape)
        pairs = (words & 0x00FF00FF) + ((words >> 8) & 0x00FF00FF)
        total = (pairs & 0xFFFF) + (pairs >> 16)
        # the variance of a uniform byte is (256**2 - 1) / 12
        scale = 1.0 / math.sqrt(4.0 * (256.0**2 - 1.0) / 12.0)
        return ((total.to(torch.float32) - 510.0) * scale).reshape(self.batch_size, *shape)

    def integers(self, high: int, *shape: int) -> Int[Tensor, "b ..."]:
        """Draw from {0, ..., high - 1}; high is at most 2**24."""
        return (self._unit(shape) * high).to(torch.int64)

    def chance(self, probability: float | Tensor, *shape: int) -> Bool[Tensor, "b ..."]:
        """Draw True with the given probability (a tensor must broadcast to `(B, *shape)`)."""
        return self._unit(shape) < probability

    def choice(self, weights: Sequence[float], *shape: int) -> Int[Tensor, "b ..."]:
        """Draw indices with probabilities proportional to `weights`."""
        edges = _inner_edges(tuple(weights), self.device)
        return torch.bucketize(self._unit(shape).contiguous(), edges, right=True)


@lru_cache(maxsize=256)
def _inner_edges(weights: tuple[float, ...], device: torch.device) -> Float[Tensor, " n"]:
    """Where [0, 1) is cut into one interval for each weight."""
    total = float(sum(weights))
    return torch.tensor([e / total for e in accumulate(weights)][:-1], device=device)
