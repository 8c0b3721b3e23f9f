"""Reciprocal matches of one larger pair against the golden vectors, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from weav3r.inference.matching.nearest import nearest_neighbours
from weav3r.inference.matching.reciprocal import (
    PixelMatches,
    ReciprocalSearch,
    merge_pairs,
    reciprocal_matches,
)
from weav3r.inference.matching.reciprocal_pairs import (
    DescriptorMaps,
    match_directed,
    match_symmetric,
)


@pytest.fixture
def file(golden) -> dict[str, np.ndarray]:
    return golden("matching")


def descriptors(file: dict[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(file[f"desc{name}"].astype(np.float32))


def maps(file: dict[str, np.ndarray], view1: str, view2: str) -> DescriptorMaps:
    confidences = [torch.from_numpy(file[f"conf{name}"]) for name in (view1, view2)]
    return DescriptorMaps(descriptors(file, view1), descriptors(file, view2), *confidences)


def assert_same(matches: PixelMatches, file: dict[str, np.ndarray], prefix: str) -> None:
    np.testing.assert_array_equal(matches.pixels1, file[f"{prefix}_xy1"])
    np.testing.assert_array_equal(matches.pixels2, file[f"{prefix}_xy2"])


def test_nearest_neighbours(file) -> None:
    first, second = (descriptors(file, name).flatten(0, 1) for name in ("11", "21"))
    np.testing.assert_array_equal(nearest_neighbours(first, second), file["bf_nn_1to2"])
    np.testing.assert_array_equal(nearest_neighbours(second, first), file["bf_nn_2to1"])


@pytest.mark.parametrize("step", [8, 4, 1])
def test_grid_seeds(file, step: int) -> None:
    matches = reciprocal_matches(descriptors(file, "11"), descriptors(file, "21"), step)
    assert_same(matches, file, f"frnn_S{step}")


@pytest.mark.parametrize("tolerance", [0, 1, 3, 5])
def test_explicit_seeds(file, tolerance: int) -> None:
    seeds = np.stack([file["frnn_init_x"], file["frnn_init_y"]], -1)
    first, second = descriptors(file, "11"), descriptors(file, "21")
    matches = reciprocal_matches(first, second, seeds, tolerance_px=tolerance)
    assert_same(matches, file, f"frnn_init_tol{tolerance}")


def test_basin(file) -> None:
    search = ReciprocalSearch(descriptors(file, "11"), descriptors(file, "21"))
    # The published table has one more entry, which stays unused.
    np.testing.assert_array_equal(search.basin(4), file["frnn_basin_S4"][:-1])
    assert_same(search.from_view1(4), file, "frnn_basin")


@pytest.mark.parametrize(("prefix", "tolerance"), [("nonsym", 0.0), ("nonsym_tol5", 5.0)])
def test_one_network_order(file, prefix: str, tolerance: float) -> None:
    matches = match_directed(maps(file, "11", "21"), tolerance_px=tolerance)
    assert_same(matches, file, prefix)
    np.testing.assert_array_equal(matches.confidence, file[f"{prefix}_conf"])


def test_both_network_orders(file) -> None:
    matches = match_symmetric(maps(file, "11", "21"), maps(file, "12", "22"))
    assert_same(matches, file, "sym")
    assert matches.confidence is not None
    np.testing.assert_allclose(matches.confidence, file["sym_conf"], rtol=1e-6, atol=0)


def test_merging(file) -> None:
    index1, index2, first = merge_pairs(file["merge_idx1"], file["merge_idx2"])
    merged = PixelMatches(index1, index2, (32, 40), (32, 40))
    np.testing.assert_array_equal(merged.pixels1, file["merge_xy1"])
    np.testing.assert_array_equal(merged.pixels2, file["merge_xy2"])
    np.testing.assert_array_equal(first, file["merge_index"])


def test_ties(file) -> None:
    first = torch.from_numpy(file["tie_desc"])
    second = first[[0, 1, 3, 0, 1, 0]]  # the other side of the vectors, which they determine
    for blocks in ("", "_blk2"):
        there, back = nearest_neighbours(first, second), nearest_neighbours(second, first)
        np.testing.assert_array_equal(there, file[f"tie_nnA{blocks}"])
        np.testing.assert_array_equal(back, file[f"tie_nnB{blocks}"])
