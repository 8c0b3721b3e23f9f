"""Mixtures of data sets and batches of one shape."""

from __future__ import annotations

import numpy as np
import pytest

from weav3r.datasets.sampling import (
    Concatenated,
    Repeated,
    Resized,
    ShapedBatches,
    Whole,
    mixture_by_weights,
)


def test_a_resized_mixture_sees_everything_as_evenly_as_possible() -> None:
    mixture = Resized(Whole(10), 25)
    assert len(mixture) == 25 and mixture.num_sources == 1
    counts = np.bincount(mixture.items(4)[:, 1], minlength=10)
    assert set(counts.tolist()) == {2, 3}
    assert (mixture.items(4) != mixture.items(5)).any()
    np.testing.assert_array_equal(mixture.items(4), Resized(Whole(10), 25).items(4))


def test_sources_keep_their_numbers_in_nested_mixtures() -> None:
    inner = Concatenated((Whole(2), Whole(3)))
    mixture = Concatenated((Repeated(inner, 2), Whole(1)))
    assert mixture.num_sources == 3 and len(mixture) == 11
    items = mixture.items(0)
    assert items[:4].tolist() == [[0, 0], [0, 0], [0, 1], [0, 1]]
    assert items[-1].tolist() == [2, 0] and items[4].tolist() == [1, 0]


@pytest.mark.parametrize("size", [0, 1, 99, 1000])
def test_weights_give_shares(size: int) -> None:
    mixture = mixture_by_weights([50, 7, 400], [1.0, 0.0, 3.0], size)
    assert len(mixture) == size == len(mixture.items(3))
    sources = np.bincount(mixture.items(3)[:, 0], minlength=3)
    assert sources[1] == 0 and abs(sources[2] - 0.75 * size) <= 1


def test_wrong_mixtures_are_named() -> None:
    with pytest.raises(ValueError, match="3 weights"):
        mixture_by_weights([1, 2, 3], [1.0, 1.0], 10)
    with pytest.raises(ValueError, match="not all 0"):
        mixture_by_weights([1, 2], [0.0, 0.0], 10)
    with pytest.raises(ValueError, match="cannot take 5 samples of a mixture of 0"):
        Resized(Whole(0), 5)
    with pytest.raises(ValueError, match="times must be at least 1"):
        Repeated(Whole(3), 0)


def test_processes_share_an_epoch_without_overlap() -> None:
    parts = [ShapedBatches(103, 4, 5, rank, world=3) for rank in range(3)]
    indices = [part.indices(7) for part in parts]
    seen = np.concatenate(indices)[:, 0]
    assert sorted(seen.tolist()) == list(range(96))
    for part in parts:
        batches = list(part.batches(7))
        assert len(batches) == len(part) == 8
        for batch in batches:
            assert len(batch) == 4 and len(set(batch[:, 1].tolist())) == 1


def test_wrong_batches_are_named() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ShapedBatches(10, 0)
    with pytest.raises(ValueError, match="rank must be below world=2, got 2"):
        ShapedBatches(10, 1, rank=2, world=2)
