"""Dense depth from descriptors and from pointmaps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from weav3r.inference.dense import (
    DepthMap,
    check_consistency,
    choose_neighbours,
    depth_range,
    pointmap_depth,
    semi_global,
    sweep_depth,
)

_spec = importlib.util.spec_from_file_location("surface", Path(__file__).with_name("surface.py"))
assert _spec and _spec.loader
surface = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(surface)


@pytest.fixture(scope="module")
def swept() -> tuple:
    cameras = surface.surface_cameras(3, spread=0.6)
    descriptors = [surface.surface_descriptors(c) for c in cameras]
    maps = {}
    for i, camera in enumerate(cameras):
        others = [j for j in range(3) if j != i]
        maps[i] = sweep_depth(
            camera,
            [cameras[j] for j in others],
            [(descriptors[i], descriptors[j]) for j in others],
            near=1.8,
            far=6.0,
        )
    return cameras, maps


def test_sweep_finds_the_surface(swept: tuple) -> None:
    cameras, maps = swept
    truth = surface.surface_depth(cameras[1])
    error = np.abs(maps[1].depth / truth - 1)
    assert np.median(error) < 0.015
    assert (error[5:-5, 10:-10] < 0.03).mean() > 0.95
    assert (maps[1].confidence >= 1).all() and np.median(maps[1].confidence) > 4


def test_neighbours_agree_about_a_correct_surface_and_not_about_a_wrong_one(swept: tuple) -> None:
    cameras, maps = swept
    by_index = dict(enumerate(cameras))
    neighbours = {0: [1, 2], 1: [0, 2], 2: [0, 1]}
    shares = check_consistency(maps, by_index, neighbours)
    assert (shares[1][5:-5, 10:-10] > 0.5).mean() > 0.9
    spoiled = dict(maps)
    spoiled[1] = DepthMap(maps[1].depth * 0.7, maps[1].confidence)
    assert (check_consistency(spoiled, by_index, neighbours)[1] > 0.5).mean() < 0.02


def test_smoothing_fills_a_row_without_evidence() -> None:
    rng = np.random.default_rng(0)
    cost = np.ones((12, 16, 8), np.float32)
    cost[..., 3] = 0.2
    cost[5] = 0.6 + 0.01 * rng.random((16, 8))
    assert (semi_global(cost, 0.05, 0.6).argmin(-1) == 3).all()


def test_neighbours_need_parallax() -> None:
    cameras = dict(enumerate(surface.surface_cameras(3)))
    cameras[3] = cameras[0]  # the same place: no parallax with image 0
    points = surface.surface_points(cameras[1])[::6, ::6].reshape(-1, 3)
    shared = {(i, j): points for i in range(4) for j in range(i + 1, 4)}
    assert choose_neighbours(cameras, shared, count=2)[0] == [2, 1]


def test_pointmap_depths_are_scaled_to_the_anchors_and_averaged() -> None:
    truth = np.linspace(2, 4, 48).reshape(6, 8)
    rows, columns = np.array([0, 3, 5]), np.array([1, 4, 7])
    fused = pointmap_depth(
        [truth * 0.5, truth * 3.0],
        [np.full((6, 8), 5.0), np.full((6, 8), 2.0)],
        (rows, columns, truth[rows, columns]),
    )
    assert np.allclose(fused.depth, truth, rtol=1e-5)
    assert (fused.confidence == 5.0).all()
    with pytest.raises(ValueError, match="without any pair"):
        pointmap_depth([], [], (rows, columns, truth[rows, columns]))


def test_depth_range_covers_the_sparse_depths() -> None:
    near, far = depth_range(np.linspace(1, 3, 100))
    assert near < 1 and far > 3
