"""Pairs of photos that see enough of each other, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int


@dataclass(frozen=True, eq=False)
class PairTable:
    """Pairs of views of one scene, each once.

    Attributes:
        index: views of each pair, as indices into the data set, first < second.
        overlap: share of the first view that the second one sees, and the other way round; NaN
            where the source does not say.
    """

    index: Int[np.ndarray, "n 2"]
    overlap: Float32[np.ndarray, "n 2"]

    def __post_init__(self) -> None:
        if self.index.ndim != 2 or self.index.shape[1] != 2:
            raise ValueError(f"expected pairs (n, 2), got {self.index.shape}")
        if self.overlap.shape != self.index.shape:
            raise ValueError(
                f"expected overlaps {self.index.shape} as the pairs, got {self.overlap.shape}"
            )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.index)

    @property
    def worse(self) -> Float32[np.ndarray, " n"]:
        """The smaller overlap of each pair."""
        return self.overlap.min(1)

    def select(self, rows: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> PairTable:
        """Keep some pairs."""
        return PairTable(self.index[rows], self.overlap[rows])


def save_pairs(pairs: PairTable, keys: Sequence[str], path: Path) -> None:
    """Write pairs as .npz: `views` (their keys), `index` into these, `overlap`."""
    used, index = np.unique(pairs.index, return_inverse=True)
    np.savez_compressed(
        path,
        views=np.array([keys[k] for k in used], dtype=np.str_),
        index=index.reshape(-1, 2).astype(np.int32),
        overlap=pairs.overlap.astype(np.float32),
    )


def load_pairs(path: Path, keys: Sequence[str]) -> PairTable:
    """Read what `save_pairs` wrote.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is damaged, or names views that the data set does not have.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the pairs {path} do not exist; weav3r data pairs makes them")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            views, index = arrays["views"].tolist(), arrays["index"].astype(np.int64)
            overlap = arrays["overlap"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} holds no pairs: {error}") from error
    number = {key: k for k, key in enumerate(keys)}
    unknown = [view for view in views if view not in number]
    if unknown:
        raise ValueError(
            f"{path} names {len(unknown)} views that the data set does not have, such as "
            f"{unknown[0]}; mine the pairs again"
        )
    if index.size and not 0 <= index.min() <= index.max() < len(views):
        raise ValueError(f"{path}: pairs point outside its {len(views)} views")
    table = np.array([number[view] for view in views], dtype=np.int64)
    return PairTable(table[index].reshape(-1, 2), overlap)
