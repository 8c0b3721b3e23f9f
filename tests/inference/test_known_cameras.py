"""Known values in the solvers: they are held, they help, and they come back bit for bit."""

from __future__ import annotations

import importlib.util
import itertools
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.geometry.transforms import weighted_procrustes
from weav3r.inference.alignment.pairs import GRID, PairSamples
from weav3r.inference.cameras import Solution, Work, solve_cameras
from weav3r.inference.dense import DepthMap
from weav3r.inference.images import View
from weav3r.inference.known.cameras import with_known_depth
from weav3r.inference.known.conventions import ConventionError
from weav3r.inference.known.values import (
    Known,
    KnownView,
    as_known,
    masked_matches,
    masked_samples,
    prior,
    resolve,
    with_masks,
)
from weav3r.inference.matching.descriptors import Matches
from weav3r.inference.progress import make_progress
from weav3r.inference.sfm import MatchGraph


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


surface = _load("surface")
HEIGHT, WIDTH, FOCAL, COUNT = 120, 160, 150.0, 5
NAMES = [f"{k}.jpg" for k in range(COUNT)]
# A world that is no camera's own, in a unit that the alignment would not find by itself.
WORLD = np.array([[0, -1, 0, 2.0], [1, 0, 0, -1], [0, 0, 1, 4], [0, 0, 0, 1]])


def moved(camera: Camera) -> Camera:
    pose = camera.cam_from_world @ np.linalg.inv(WORLD)
    return Camera(K=camera.K, cam_from_world=pose, height=HEIGHT, width=WIDTH)


TRUTH = [moved(c) for c in surface.surface_cameras(COUNT, HEIGHT, WIDTH, FOCAL)]


@cache
def depths() -> list[np.ndarray]:
    own = surface.surface_cameras(COUNT, HEIGHT, WIDTH, FOCAL)
    return [surface.surface_depth(camera).astype(np.float32) for camera in own]


def make_views() -> list[View]:
    ledger = Ledger.from_file_size(HEIGHT, WIDTH)
    return [View(name, None, torch.zeros(3, HEIGHT, WIDTH), ledger) for name in NAMES]


def seen_points(i: int, step: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 2) on a grid of photo i, and their world points."""
    x, y = np.meshgrid(np.arange(6, WIDTH, step) + 0.5, np.arange(6, HEIGHT, step) + 0.5)
    xy = np.stack([x, y], -1).reshape(-1, 2)
    z = depths()[i][xy[:, 1].astype(int), xy[:, 0].astype(int)]
    return xy, TRUTH[i].unproject(xy, z)


def anchored_matches(i: int, j: int, noise_px: float) -> Matches:
    rng = np.random.default_rng(31 * i + j)
    xy1, points = seen_points(i)
    xy2 = TRUTH[j].project(points)[0] + rng.normal(0, noise_px, xy1.shape)
    inside = ((xy2 > 0) & (xy2 < [WIDTH, HEIGHT])).all(-1)
    a, b = xy1[inside].astype(np.float32), xy2[inside].astype(np.float32)
    return Matches(a, b, np.ones(len(a), np.float32))


def grid_points(i: int) -> np.ndarray:
    rows = np.round(np.linspace(0, HEIGHT - 1, GRID)).astype(int)
    columns = np.round(np.linspace(0, WIDTH - 1, GRID)).astype(int)
    x, y = np.meshgrid(columns, rows)
    xy = np.stack([x, y], -1).reshape(-1, 2)
    return TRUTH[i].unproject(xy + 0.5, depths()[i][xy[:, 1], xy[:, 0]])


def directed_samples(i: int, j: int, noise: float) -> PairSamples:
    """Pointmaps on the grid in the frame of photo i, times 0.3, bent as a network would."""
    rng = np.random.default_rng(17 * i + j)
    pose = TRUTH[i].cam_from_world
    points = [p @ pose[:3, :3].T + pose[:3, 3] for p in (grid_points(i), grid_points(j))]
    bend = 1 + noise * rng.normal(0, 1, 3)
    noisy = [0.3 * p * bend * (1 + noise * rng.normal(0, 1, (len(p), 1))) for p in points]
    confidence = torch.full((2, GRID * GRID), 5.0, dtype=torch.float64)
    size = (HEIGHT, WIDTH)
    stacked = torch.from_numpy(np.stack(noisy))
    return PairSamples(i, j, stacked, confidence, (size, size), FOCAL * float(bend[0]))


def make_work(known: Known | dict | None, road: str, noise: float) -> Work:
    views = make_views()
    given = resolve(as_known(known), views)
    views = with_masks(views, given)
    pairs = list(itertools.combinations(range(COUNT), 2))
    votes = [[FOCAL * 1.1] for _ in views]
    work = Work(None, views, [], pairs, focal_votes_px=votes, given=given)  # type: ignore[arg-type]
    if road == "matches":
        work.graph = MatchGraph(COUNT)
        for i, j in pairs:
            forward = anchored_matches(i, j, noise)
            work.graph.add(i, j, forward)
            work.graph.add(i, j, anchored_matches(j, i, noise).swapped())
            work.matches[(i, j)] = forward
    else:
        both = [(*p,) for p in pairs] + [(j, i) for i, j in pairs]
        work.samples = [directed_samples(i, j, noise) for i, j in both]
    return work


def solve(known: Known | dict | None, road: str = "matches", noise: float = 0.5) -> Solution:
    return solve_work(make_work(known, road, noise))


def solve_work(work: Work) -> Solution:
    with make_progress(False) as show:
        return solve_cameras(work, True, None, show)


def facts(*kinds: str, views: tuple[int, ...] = tuple(range(COUNT))) -> dict[str, KnownView]:
    """What is known of some photos: "K", "pose", "depth"."""
    return {
        NAMES[i]: KnownView(
            K=TRUTH[i].K if "K" in kinds else None,
            cam_from_world=TRUTH[i].cam_from_world if "pose" in kinds else None,
            depth=depths()[i] if "depth" in kinds else None,
        )
        for i in views
    }


def errors(work: Work) -> tuple[float, float, float]:
    """Of focal lengths, of camera centres over the depth, and of depths; up to a similarity."""
    solution = solve_work(work)
    assert solution.components == [list(range(COUNT))]
    cameras = solution.cameras
    focal = max(abs(cameras[i].focal_px / FOCAL - 1) for i in range(COUNT))
    own = torch.from_numpy(np.stack([cameras[i].center for i in range(COUNT)]))
    true = torch.from_numpy(np.stack([c.center for c in TRUTH]))
    fit = weighted_procrustes(own, true, torch.ones(COUNT, dtype=torch.float64))
    pose = float((fit.apply(own) - true).norm(dim=-1).mean()) / 3.0
    maps = with_known_depth(sparse_maps(solution), work.given, work.views)
    ratio = np.concatenate([(maps[i].depth / depths()[i]).ravel() for i in range(COUNT)])
    ratio = ratio[np.isfinite(ratio)]
    return focal, pose, float(np.median(np.abs(ratio / np.median(ratio) - 1)))


def sparse_maps(solution: Solution) -> dict[int, DepthMap]:
    maps = {}
    for i, (xy, z) in solution.anchors.items():
        depth = np.full((HEIGHT, WIDTH), np.nan, np.float32)
        depth[xy[:, 1].astype(int), xy[:, 0].astype(int)] = z
        maps[i] = DepthMap(depth, np.ones_like(depth))
    return maps


@pytest.mark.parametrize(("road", "noise"), [("matches", 0.5), ("pointmaps", 0.03)])
def test_errors_fall_as_more_is_known(road: str, noise: float) -> None:
    steps = ((), ("K",), ("K", "pose"), ("K", "pose", "depth"))
    found = np.array([errors(make_work(facts(*kinds), road, noise)) for kinds in steps])
    total = found.sum(1)
    assert (np.diff(total) < 0).all()
    # what is known is exact; what is left does not get worse, up to the noise of single points
    assert (found[1:, 0] == 0).all() and (found[2:, 1] < 1e-12).all() and found[3, 2] == 0
    assert (found[1:] <= 1.01 * found[:-1]).all()
    assert found[0, 0] > 0.01 and found[0, 1] > 0.0005


@pytest.mark.parametrize("road", ["matches", "pointmaps"])
def test_fixed_values_come_back_bit_for_bit(road: str) -> None:
    turn = np.array([[np.cos(1e-3), np.sin(1e-3), 0], [-np.sin(1e-3), np.cos(1e-3), 0], [0, 0, 1]])
    off = 4e-4 * np.pi * turn @ np.arange(3)  # poses that are a little off are held all the same
    poses = [c.cam_from_world.copy() for c in TRUTH]
    poses[1][:3, 3] += off
    K = TRUTH[2].K * np.array([[1.003], [0.998], [1.0]])
    known = {
        name: KnownView(K=K if i == 2 else TRUTH[i].K, cam_from_world=poses[i])
        for i, name in enumerate(NAMES)
    }
    solution = solve(known, road, 0.4 if road == "matches" else 0.01)
    for i in range(COUNT):
        camera = solution.cameras[i]
        assert np.array_equal(camera.cam_from_world, poses[i])
        assert np.array_equal(camera.K, K if i == 2 else TRUTH[i].K)


@pytest.mark.parametrize("road", ["matches", "pointmaps"])
def test_two_of_five_views_put_all_into_the_given_world(road: str) -> None:
    solution = solve(facts("K", "pose", views=(1, 3)), road, 0.3 if road == "matches" else 0.005)
    assert solution.components == [list(range(COUNT))] and not solution.metric
    for i in (1, 3):
        assert np.array_equal(solution.cameras[i].cam_from_world, TRUTH[i].cam_from_world)
    for i in (0, 2, 4):
        # of depth 3; pointmaps hardly tell a longer focal length from a more distant camera
        off = np.linalg.norm(solution.cameras[i].center - TRUTH[i].center)
        assert off < (0.05 if road == "matches" else 0.1)
    depth = sparse_maps(solution)[0].depth / depths()[0]
    assert np.nanmedian(depth) == pytest.approx(1, abs=0.03)


def test_one_pose_turns_the_world_and_a_distance_gives_the_unit() -> None:
    known = Known(
        {NAMES[2]: KnownView(cam_from_world=TRUTH[2].cam_from_world)},
        metric=True,
        distances={(NAMES[0], NAMES[4]): float(np.linalg.norm(TRUTH[0].center - TRUTH[4].center))},
    )
    solution = solve(known, noise=0.2)
    assert solution.metric
    assert np.array_equal(solution.cameras[2].cam_from_world, TRUTH[2].cam_from_world)
    for i in range(COUNT):
        assert np.linalg.norm(solution.cameras[i].center - TRUTH[i].center) < 0.1


def test_a_depth_map_gives_the_unit() -> None:
    known = {NAMES[0]: KnownView(depth=depths()[0] * np.float32(2.0))}
    solution = solve(known, noise=0.2)
    assert np.allclose(solution.cameras[0].cam_from_world, np.eye(4))
    apart = np.linalg.norm(solution.cameras[4].center)
    truly = np.linalg.norm(TRUTH[4].center - TRUTH[0].center)
    assert apart == pytest.approx(2 * truly, rel=0.05)


def test_a_photo_without_matches_is_placed_by_its_pose() -> None:
    work = make_work(facts("K", "pose"), "matches", 0.3)
    assert work.graph is not None
    kept = MatchGraph(COUNT)
    for (i, j), matches in work.matches.items():
        if 4 not in (i, j):
            kept.add(i, j, matches)
    work.graph = kept
    work.matches = {pair: m for pair, m in work.matches.items() if 4 not in pair}
    solution = solve_work(work)
    assert solution.components == [list(range(COUNT))]
    assert np.array_equal(solution.cameras[4].cam_from_world, TRUTH[4].cam_from_world)
    depth = sparse_maps(solution)[4].depth / depths()[4]
    assert np.nanmedian(depth) == pytest.approx(1, abs=0.05)
    assert len(solution.shared[(0, 4)]) > 50


@pytest.mark.parametrize("road", ["matches", "pointmaps"])
def test_wrong_poses_are_named_on_both_roads(road: str) -> None:
    known = {
        name: KnownView(K=c.K, cam_from_world=c.world_from_cam)
        for name, c in zip(NAMES, TRUTH, strict=True)
    }
    with pytest.raises(ConventionError, match="world_from_cam; give the inverse"):
        solve(known, road, 0.3 if road == "matches" else 0.005)


def test_prior_poses_turn_the_world_but_may_move() -> None:
    shifted = [c.cam_from_world.copy() for c in TRUTH]
    for pose, step in zip(shifted, (0.05, -0.04, 0.03, -0.05, 0.04), strict=True):
        pose[:3, 3] += step
    known = {
        name: KnownView(K=TRUTH[0].K, cam_from_world=pose, pose_trust=prior(0.05))
        for name, pose in zip(NAMES, shifted, strict=True)
    }
    solution = solve(known, noise=0.2)
    off = [np.linalg.norm(solution.cameras[i].center - TRUTH[i].center) for i in range(COUNT)]
    assert np.mean(off) < 0.06 and solution.components == [list(range(COUNT))]
    assert not np.array_equal(solution.cameras[0].cam_from_world, shifted[0])


def test_fixed_depth_is_kept_and_a_prior_is_averaged() -> None:
    views = make_views()
    given = depths()[0].copy()
    given[:, :40] = np.nan
    found = DepthMap(depths()[0] * np.float32(1.1), np.full((HEIGHT, WIDTH), 2.0, np.float32))
    fixed = resolve(Known({NAMES[0]: KnownView(depth=given)}), views)
    result = with_known_depth({0: found}, fixed, views)[0]
    assert np.array_equal(result.depth[:, 40:], given[:, 40:])
    assert np.array_equal(result.depth[:, :40], found.depth[:, :40])
    assert (result.confidence[:, 40:] == 10).all() and (result.confidence[:, :40] == 2).all()
    loose = resolve(Known({NAMES[0]: KnownView(depth=given, depth_trust=prior(0.1))}), views)
    between = with_known_depth({0: found}, loose, views)[0].depth[:, 40:] / depths()[0][:, 40:]
    assert 1.02 < between.min() and between.max() < 1.09
    alone = with_known_depth({}, fixed, views)[0]
    assert np.array_equal(alone.depth, given, equal_nan=True)


def test_masked_pixels_count_neither_in_matches_nor_in_samples() -> None:
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:, :80] = False
    work = make_work({NAMES[0]: {"mask": mask}}, "matches", 0.0)
    matches = anchored_matches(0, 1, 0.0)
    kept = masked_matches(matches, work.views[0], work.views[1])
    assert 0 < len(kept) < len(matches) and (kept.xy1[:, 0] >= 80).all()
    assert masked_matches(matches, work.views[1], work.views[2]) is matches
    sample = directed_samples(0, 1, 0.0)
    weak = masked_samples(sample, work.views).confidence
    assert (weak[0].reshape(GRID, GRID)[:, :20] < 1).all() and (weak[1] == 5).all()
    untouched = directed_samples(1, 2, 0.0)
    assert masked_samples(untouched, work.views) is untouched


def test_a_prior_focal_length_counts_by_its_sigma() -> None:
    focals = []
    for sigma in (0.01, 1.0, 1000.0):
        known = {name: KnownView(focal_px=155.0, intrinsics_trust=prior(sigma)) for name in NAMES}
        focals.append(solve(known, noise=0.7).cameras[0].focal_px)
    assert focals[0] == pytest.approx(155, abs=0.01) and 151 < focals[1] < 154.95
    assert focals[2] == pytest.approx(FOCAL, abs=2)  # what the photos alone say
