"""Which samples an epoch sees: mixtures of data sets, their size, and batches of one shape.

Everything here is indices. A mixture says for each position of an epoch which source and which
item of it comes there; it depends on the seed and the epoch only, never on what was drawn before,
so a run can be resumed anywhere. The orders are the published loaders', number for number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_SEED = 777


class Mixture(ABC):
    """Samples of one or several numbered sources."""

    @property
    @abstractmethod
    def num_sources(self) -> int:
        """How many sources there are."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples an epoch has."""

    @abstractmethod
    def items(self, epoch: int) -> Int[np.ndarray, "n 2"]:
        """(source, item of it) at each position of an epoch."""


@dataclass(frozen=True)
class Whole(Mixture):
    """Every item of one source, in order."""

    count: int  # of items

    @property
    def num_sources(self) -> int:
        """One."""
        return 1

    def __len__(self) -> int:
        """The number of items."""
        return self.count

    def items(self, epoch: int) -> Int[np.ndarray, "n 2"]:
        """Items 0, 1, 2, ... of source 0."""
        del epoch
        return np.stack([np.zeros(self.count, dtype=np.int64), np.arange(self.count)], -1)


@dataclass(frozen=True)
class Repeated(Mixture):
    """Every sample of a mixture several times in a row (`times * mixture` of the recipes)."""

    mixture: Mixture
    times: int

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"times must be at least 1, got {self.times}")

    @property
    def num_sources(self) -> int:
        """Those of the mixture."""
        return self.mixture.num_sources

    def __len__(self) -> int:
        """The mixture's length, `times` as long."""
        return self.times * len(self.mixture)

    def items(self, epoch: int) -> Int[np.ndarray, "n 2"]:
        """Position i holds the mixture's sample `i // times`."""
        return self.mixture.items(epoch).repeat(self.times, axis=0)


@dataclass(frozen=True)
class Resized(Mixture):
    """A fixed number of samples an epoch, another choice each time (`size @ mixture`).

    The mixture is shuffled, repeated as often as needed and cut.
    """

    mixture: Mixture
    size: int
    seed: int = _SEED

    def __post_init__(self) -> None:
        if self.size < 0 or (self.size > 0 and len(self.mixture) == 0):
            raise ValueError(f"cannot take {self.size} samples of a mixture of {len(self.mixture)}")

    @property
    def num_sources(self) -> int:
        """Those of the mixture."""
        return self.mixture.num_sources

    def __len__(self) -> int:
        """The size."""
        return self.size

    def items(self, epoch: int) -> Int[np.ndarray, "n 2"]:
        """The samples of one epoch."""
        order = np.random.default_rng(epoch + self.seed).permutation(len(self.mixture))
        return self.mixture.items(epoch)[np.resize(order, self.size)]


@dataclass(frozen=True)
class Concatenated(Mixture):
    """One mixture after the other; sources are numbered on."""

    parts: tuple[Mixture, ...]

    @property
    def num_sources(self) -> int:
        """Those of all parts."""
        return sum(part.num_sources for part in self.parts)

    def __len__(self) -> int:
        """The length of all parts."""
        return sum(len(part) for part in self.parts)

    def items(self, epoch: int) -> Int[np.ndarray, "n 2"]:
        """The samples of all parts."""
        found: list[np.ndarray] = [np.zeros((0, 2), dtype=np.int64)]
        first = 0
        for part in self.parts:
            found.append(part.items(epoch) + np.array([first, 0]))
            first += part.num_sources
        return np.concatenate(found)


def mixture_by_weights(
    lengths: Sequence[int], weights: Sequence[float], size: int, seed: int = _SEED
) -> Concatenated:
    """Mix sources in given shares, with a fixed number of samples an epoch.

    Args:
        lengths: items of each source.
        weights: share of each source, of any sum.
        size: samples an epoch; shares are rounded so that they add up to it.
        seed: of the choice of items.

    Raises:
        ValueError: if weights are negative, all zero, or not one for each source.
    """
    share = np.asarray(weights, dtype=np.float64)
    if share.shape != (len(lengths),) or not (share >= 0).all() or not share.sum() > 0:
        raise ValueError(
            f"expected {len(lengths)} weights, not negative and not all 0, got {list(weights)}"
        )
    edges = np.rint(np.concatenate([[0], share.cumsum()]) / share.sum() * size).astype(int)
    sizes = np.diff(edges).tolist()
    parts = [Resized(Whole(n), k, seed) for n, k in zip(lengths, sizes, strict=True)]
    return Concatenated(tuple(parts))


@dataclass(frozen=True)
class ShapedBatches:
    """Batches in which all samples share one resolution, drawn anew for each batch.

    Attributes:
        length: samples of an epoch; what does not fill a batch of all processes is left out.
        batch_size: samples of a batch of one process.
        num_resolutions: how many resolutions there are to choose from.
        rank: this process.
        world: the number of processes; each gets its own run of batches.
        seed: of the order and the resolutions.
    """

    length: int
    batch_size: int
    num_resolutions: int = 1
    rank: int = 0
    world: int = 1
    seed: int = _SEED

    def __post_init__(self) -> None:
        if min(self.batch_size, self.num_resolutions, self.world) < 1 or self.length < 0:
            raise ValueError(f"sizes must be positive, got {self}")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be below world={self.world}, got {self.rank}")

    def __len__(self) -> int:
        """Batches of an epoch of one process."""
        return self.length // (self.batch_size * self.world)

    def indices(self, epoch: int) -> Int[np.ndarray, "n 2"]:
        """(sample, resolution) of everything that this process sees in an epoch, in order."""
        batches = len(self) * self.world
        rng = np.random.default_rng(epoch + self.seed)
        order = rng.permutation(batches * self.batch_size)
        resolution = rng.integers(self.num_resolutions, size=batches).repeat(self.batch_size)
        own = len(self) * self.batch_size
        return np.stack([order, resolution], -1)[self.rank * own : (self.rank + 1) * own]

    def batches(self, epoch: int) -> Iterator[Int[np.ndarray, "b 2"]]:
        """The same, batch by batch."""
        indices = self.indices(epoch)
        for start in range(0, len(indices), self.batch_size):
            yield indices[start : start + self.batch_size]
