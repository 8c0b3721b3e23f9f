"""Which views see the same places, and the file of mined pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from weav3r.datasets.covisibility import mine_pairs, overlap, scene_overlap, thin
from weav3r.datasets.layouts import open_data_set
from weav3r.datasets.pair_table import PairTable, load_pairs, save_pairs
from weav3r.datasets.posed_set import PosedSet
from weav3r.datasets.posed_view import PosedView

from .made_sets import EXPORTS, Made


@pytest.fixture(scope="module")
def data(made: Made, tmp_path_factory: pytest.TempPathFactory) -> PosedSet:
    folder = tmp_path_factory.mktemp("covisibility")
    EXPORTS["weav3r"](made, folder)
    return open_data_set(folder)


def wall(x: float, size: tuple[int, int] = (40, 60)) -> PosedView:
    """Look at the wall z = 2 from (x, 0, 0), 60 pixels and 2 units wide."""
    K = np.array([[60.0, 0, 30], [0, 60, 20], [0, 0, 1]])
    pose = np.eye(4)
    pose[0, 3] = x
    return PosedView(np.zeros((*size, 3), np.uint8), np.full(size, 2, np.float32), K, pose)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.5])
def test_the_overlap_of_a_wall_is_what_is_left_of_it(shift: float) -> None:
    found = overlap(thin(wall(0), samples=2400), thin(wall(shift), samples=2400))
    assert found == pytest.approx(max(0, 1 - shift / 2), abs=0.02)


def test_thinning_moves_nothing() -> None:
    full, small = thin(wall(0, (41, 61))), thin(wall(0, (41, 61)), long_side=20)
    assert small.depth.shape == (14, 20)
    for view in (full, small):
        points = view.points_in_cam
        pixel = points[:, :2] / points[:, 2:] * 60 + (30, 20)
        np.testing.assert_allclose(pixel % 1, 0.5, atol=1e-9)


def test_mined_pairs_are_those_that_overlap(data: PosedSet) -> None:
    pairs = mine_pairs(data, low=0.3, high=0.9)
    assert len(pairs) > 4
    assert (pairs.worse >= 0.3).all() and (pairs.worse <= 0.9).all()
    scene = [{data.views[k].scene for k in pair} for pair in pairs.index]
    assert all(len(names) == 1 for names in scene)
    members = np.array(data.scenes["room1"])
    matrix = scene_overlap(data, "room1", members)
    inside = np.triu((np.minimum(matrix, matrix.T) >= 0.3), 1).sum()
    assert sum(names == {"room1"} for names in scene) <= inside
    few = mine_pairs(data, low=0.1, high=1.0, per_view=2)
    assert np.bincount(few.index.ravel()).max() <= 2


def test_points_and_depth_agree_about_who_sees_whom(made: Made, tmp_path: Path) -> None:
    EXPORTS["colmap"](made, tmp_path / "points")
    EXPORTS["weav3r"](made, tmp_path / "depth")
    points, depth = (open_data_set(tmp_path / name) for name in ("points", "depth"))
    members = np.arange(8)
    a, b = scene_overlap(points, "room0", members), scene_overlap(depth, "room0", members)
    off = ~np.eye(8, dtype=bool)
    assert np.corrcoef(a[off], b[off])[0, 1] > 0.8


def test_pairs_come_back_from_their_file(data: PosedSet, tmp_path: Path) -> None:
    keys = [view.key for view in data.views]
    pairs = mine_pairs(data)
    save_pairs(pairs, keys, tmp_path / "pairs.npz")
    again = load_pairs(tmp_path / "pairs.npz", keys)
    np.testing.assert_array_equal(again.index, pairs.index)
    np.testing.assert_array_equal(again.overlap, pairs.overlap)
    with pytest.raises(ValueError, match="names 1 views that the data set does not have"):
        load_pairs(tmp_path / "pairs.npz", keys[:-1])
    with pytest.raises(FileNotFoundError, match="weav3r data pairs makes them"):
        load_pairs(tmp_path / "none.npz", keys)
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="holds no pairs"):
        load_pairs(tmp_path / "broken.npz", keys)


def test_wrong_arguments_are_named(data: PosedSet) -> None:
    with pytest.raises(ValueError, match="expected 0 <= low < high <= 1"):
        mine_pairs(data, low=0.5, high=0.4)
    blind = tuple(dataclasses.replace(view, depth=None) for view in data.views)
    with pytest.raises(ValueError, match="has neither depth maps nor a mesh nor points"):
        mine_pairs(dataclasses.replace(data, views=blind))
    with pytest.raises(ValueError, match=r"expected pairs \(n, 2\)"):
        PairTable(np.zeros((3, 3), np.int64), np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"expected overlaps \(3, 2\)"):
        PairTable(np.zeros((3, 2), np.int64), np.zeros((2, 2), np.float32))
