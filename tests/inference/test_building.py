"""A building with four equal fronts comes out with every camera on its own side, by either road."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.alignment.pairs import GRID, PairSamples
from weav3r.inference.cameras import Work, solve_cameras
from weav3r.inference.images import View
from weav3r.inference.matching.descriptors import Matches
from weav3r.inference.progress import make_progress
from weav3r.inference.sfm import MatchGraph, SfmResult, reconstruct_from_matches
from weav3r.models import TwoViewModel

_spec = importlib.util.spec_from_file_location("building", Path(__file__).with_name("building.py"))
assert _spec is not None and _spec.loader is not None
building = importlib.util.module_from_spec(_spec)
sys.modules["building"] = building  # dataclasses look their module up
_spec.loader.exec_module(building)

HEIGHT, WIDTH = 48, 64
SCALE = 10  # original pixels per pixel of the exact depth


def view(index: int) -> View:
    ledger = Ledger.from_file_size(SCALE * HEIGHT, SCALE * WIDTH).resized(HEIGHT * 5, WIDTH * 5)
    return View(f"{index:02d}.jpg", None, torch.zeros(3, HEIGHT * 5, WIDTH * 5), ledger)


def pairs() -> dict[tuple[int, int], int]:
    """All pairs that a matcher finds -> the view that the second is taken for."""
    return {(i, j): j for i, j in building.true_pairs()} | building.mistaken_pairs()


def matches(photos: list, i: int, j: int, taken: int, rng: np.random.Generator) -> Matches:
    """Points of photo i that lie in photo j where they would if it were the one it is taken for."""
    seen = photos[i]
    rows, columns = np.nonzero(np.isfinite(seen.depth))
    chosen = (rows % 3 == 1) & (columns % 3 == 1)  # anchors
    rows, columns = rows[chosen], columns[chosen]
    own = np.stack([columns, rows], -1) + 0.5
    points = seen.camera.unproject(own, seen.depth[rows, columns])
    xy, depth = building.camera(taken, HEIGHT, WIDTH).project(points)
    inside = (depth > 0) & (xy >= 0).all(-1) & (xy < (WIDTH, HEIGHT)).all(-1)
    own, xy, depth = own[inside], xy[inside], depth[inside]
    column, row = xy.astype(int).T
    alike = np.abs(photos[j].depth[row, column] / depth - 1) < 0.03
    other = SCALE * xy[alike] + rng.normal(0, 0.5, (int(alike.sum()), 2))
    own = (SCALE * own[alike]).astype(np.float32)
    return Matches(own, other.astype(np.float32), np.ones(len(own), np.float32))


def graph_of(photos: list) -> MatchGraph:
    rng, graph = np.random.default_rng(0), MatchGraph(building.VIEWS)
    for (i, j), taken in sorted(pairs().items()):
        graph.add(i, j, matches(photos, i, j, taken, rng))
        back = (i + j - taken) % building.VIEWS  # what i is taken for, seen from j
        graph.add(i, j, matches(photos, j, i, back, rng).swapped())
    return graph


def angles_to_truth_deg(cameras: dict[int, Camera]) -> np.ndarray:
    """Rotations of the cameras against the truth, after the best common turn."""
    left = [
        building.camera(i).cam_from_world[:3, :3].T @ c.cam_from_world[:3, :3]
        for i, c in sorted(cameras.items())
    ]
    u, _, vt = np.linalg.svd(np.sum(left, axis=0))
    common = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    cosine = [(np.trace(common.T @ r) - 1) / 2 for r in left]
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.fixture(scope="module")
def photos() -> list:
    return [building.photo(k, HEIGHT, WIDTH) for k in range(building.VIEWS)]


@pytest.fixture(scope="module")
def by_matches(photos: list) -> SfmResult:
    focal = 0.9 * WIDTH * SCALE * 1.08  # the guess is 8 % off
    views = [view(k) for k in range(building.VIEWS)]
    return reconstruct_from_matches(views, graph_of(photos), [focal] * building.VIEWS)


def test_matches_of_equal_fronts_are_refused_and_named(by_matches: SfmResult) -> None:
    refused = {pair: v.reason for pair, v in by_matches.pairs.items() if not v.accepted}
    assert set(refused) >= set(building.mistaken_pairs())
    kept = set(by_matches.pairs) - set(refused)
    assert len(kept) > 0.9 * len(building.true_pairs())
    assert all(refused.values())
    assert any("in front of surfaces" in reason for reason in refused.values())


def test_matches_put_every_camera_on_its_own_side(by_matches: SfmResult) -> None:
    assert [len(m.cameras) for m in by_matches.models] == [building.VIEWS]
    assert angles_to_truth_deg(by_matches.models[0].cameras).max() < 5


def samples(photos: list) -> list[PairSamples]:
    """Exact pointmaps of every pair, both ways, each in a unit of its own; the sky is unsure."""
    rows, columns = (np.linspace(0, n - 1, GRID).round().astype(int) for n in (HEIGHT, WIDTH))
    maps, sure = [], []
    for photo in photos:
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        depth = np.where(np.isfinite(photo.depth), photo.depth, 20.0)
        local = np.stack([x - WIDTH / 2, y - HEIGHT / 2], -1) / photo.camera.focal_px
        points = depth[..., None] * np.concatenate([local, np.ones((*depth.shape, 1))], -1)
        maps.append(points[rows][:, columns].reshape(-1, 3))
        sure.append(np.where(np.isfinite(photo.depth), 5.0, 1.0)[rows][:, columns].reshape(-1))
    rng, found = np.random.default_rng(0), []
    for (i, j), taken in sorted(pairs().items()):
        second_from_first = (
            building.camera(taken).cam_from_world @ building.camera(i).world_from_cam
        )
        for frame, other, pose in (
            (i, j, np.linalg.inv(second_from_first)),
            (j, i, second_from_first),
        ):
            moved = maps[other] @ pose[:3, :3].T + pose[:3, 3]
            points = rng.uniform(0.5, 2.0) * np.stack([maps[frame], moved])
            found.append(
                PairSamples(
                    frame,
                    other,
                    torch.from_numpy(points),
                    torch.from_numpy(np.stack([sure[frame], sure[other]])),
                    ((HEIGHT, WIDTH), (HEIGHT, WIDTH)),
                    photos[frame].camera.focal_px,
                )
            )
    return found


@pytest.mark.slow
def test_pointmaps_put_every_camera_on_its_own_side(photos: list) -> None:
    ledger = Ledger.from_file_size(HEIGHT, WIDTH)
    views = [
        View(f"{k:02d}.jpg", None, torch.zeros(3, HEIGHT, WIDTH), ledger)
        for k in range(building.VIEWS)
    ]
    work = Work(
        cast(TwoViewModel, None),  # the solvers ask no network
        views,
        [],
        sorted(pairs()),
        samples=samples(photos),
        focal_votes_px=[[photos[0].camera.focal_px] for _ in views],
    )
    with make_progress(False) as show:
        solution = solve_cameras(work, False, None, show)
    assert {(int(r.first[:2]), int(r.second[:2])) for r in work.rejected} == set(
        building.mistaken_pairs()
    )
    assert solution.components == [list(range(building.VIEWS))]
    assert angles_to_truth_deg(solution.cameras).max() < 1
