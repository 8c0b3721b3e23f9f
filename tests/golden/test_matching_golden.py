"""Nearest neighbours and reciprocal matches against the golden vectors, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from weav3r.inference.matching.nearest import mutual_nearest_points, nearest_neighbours
from weav3r.inference.matching.reciprocal import ReciprocalSearch, reciprocal_matches
from weav3r.inference.matching.reciprocal_pairs import (
    DescriptorMaps,
    match_directed,
    match_symmetric,
)


@pytest.fixture
def file(golden) -> dict[str, np.ndarray]:
    return golden("fast_nn")


def tensor(file: dict[str, np.ndarray], key: str) -> Tensor:
    return torch.from_numpy(file[key])


def maps(file: dict[str, np.ndarray], *keys: str) -> DescriptorMaps:
    return DescriptorMaps(*(tensor(file, key) for key in keys))


def assert_same(matches, file: dict[str, np.ndarray], prefix: str) -> None:
    np.testing.assert_array_equal(matches.pixels1, file[f"{prefix}/xy1"])
    np.testing.assert_array_equal(matches.pixels2, file[f"{prefix}/xy2"])


@pytest.mark.parametrize("distance", ["dot", "l2"])
def test_nearest_neighbours(file, distance) -> None:
    first, second = (tensor(file, f"desc{k}").flatten(0, 1) for k in (1, 2))
    there = nearest_neighbours(first, second, distance)
    back = nearest_neighbours(second, first, distance)
    np.testing.assert_array_equal(there, file[f"brute/{distance}/nn1to2"])
    np.testing.assert_array_equal(back, file[f"brute/{distance}/nn2to1"])


@pytest.mark.parametrize("step", [2, 4, 8])
def test_grid_seeds(file, step: int) -> None:
    matches = reciprocal_matches(tensor(file, "desc1"), tensor(file, "desc2"), step)
    assert_same(matches, file, f"fast/S{step}")
    if step == 4:
        np.testing.assert_array_equal(matches.index1, file["fast/S4/flat1"])
        np.testing.assert_array_equal(matches.index2, file["fast/S4/flat2"])


def test_basin(file) -> None:
    search = ReciprocalSearch(tensor(file, "desc1"), tensor(file, "desc2"))
    basin = search.basin(4)
    # The published table has one more entry, which stays unused.
    np.testing.assert_array_equal(basin, file["fast/S4_basin/basin"][:-1])
    assert_same(search.from_view1(4), file, "fast/S4_basin")


@pytest.mark.parametrize("tolerance", [3.0, 5.0])
def test_explicit_seeds_with_tolerance(file, tolerance: float) -> None:
    seeds = np.stack([file["fast/init_x"], file["fast/init_y"]], -1)
    first, second = tensor(file, "desc1"), tensor(file, "desc2")
    matches = reciprocal_matches(first, second, seeds, tolerance_px=tolerance)
    assert_same(matches, file, f"fast/init_tol{tolerance:g}")


@pytest.mark.parametrize("tolerance", [0.0, 5.0])
def test_one_network_order(file, tolerance: float) -> None:
    order = maps(file, "desc1", "desc2", "conf1", "conf2")
    matches = match_directed(order, step=4, tolerance_px=tolerance)
    assert_same(matches, file, f"nonsym/tol{tolerance:g}")
    np.testing.assert_array_equal(matches.confidence, file[f"nonsym/tol{tolerance:g}/conf"])


def test_both_network_orders(file) -> None:
    forward = maps(file, "desc1", "desc2", "sym/q11", "sym/q21")
    backward = maps(file, "sym/desc12", "sym/desc22", "sym/q12", "sym/q22")
    matches = match_symmetric(forward, backward, step=4)
    assert_same(matches, file, "sym")
    assert matches.confidence is not None
    np.testing.assert_allclose(matches.confidence, file["sym/conf"], rtol=1e-6, atol=0)


def test_mutual_points(file) -> None:
    found = mutual_nearest_points(file["recip3d/P1"], file["recip3d/P2"])
    np.testing.assert_array_equal(found.mutual2, file["recip3d/mask_in_P2"])
    np.testing.assert_array_equal(found.nearest1, file["recip3d/nn2_in_P1"])
    assert found.mutual2.sum() == file["recip3d/count"]
