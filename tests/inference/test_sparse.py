"""Sparse alignment on a generated surface: derivatives, exact recovery, options, errors."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from weav3r.geometry.camera import Camera
from weav3r.inference.alignment.pair import align_pair
from weav3r.inference.alignment.samples import PairMaps
from weav3r.inference.sparse.align import SparseAlignment, SparseOptions, align_sparse
from weav3r.inference.sparse.canonical import CanonicalStack, CanonicalView
from weav3r.inference.sparse.chain import make_chain
from weav3r.inference.sparse.losses import gamma_loss, gamma_weight
from weav3r.inference.sparse.problem import (
    Cores,
    Regression,
    SparseMatches,
    match_links,
    projection_links,
    regression_links,
)
from weav3r.inference.sparse.state import COLUMNS, State
from weav3r.inference.sparse.system import build
from weav3r.inference.sparse.terms import Term, residuals

_spec = importlib.util.spec_from_file_location("surface", Path(__file__).with_name("surface.py"))
assert _spec is not None and _spec.loader is not None
surface = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(surface)

HEIGHT, WIDTH, FOCAL = 48, 64, 60.0


@pytest.fixture(scope="module")
def cameras() -> list[Camera]:
    return surface.surface_cameras(4, HEIGHT, WIDTH, FOCAL, spread=0.8)


def pointmap(camera: Camera, scale: float = 1.0) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    depth = scale * surface.surface_depth(camera)
    slope = np.stack([x - WIDTH / 2, y - HEIGHT / 2], -1) / FOCAL
    return np.concatenate([slope * depth[..., None], depth[..., None]], -1)


def canonical(camera: Camera, scale: float = 1.0, bend: float = 0.0) -> CanonicalView:
    """Canonical view of exact maps, on request in another unit and bent along the rows."""
    stack = CanonicalStack((HEIGHT, WIDTH))
    wrong = scale * (1 + bend * np.linspace(-1, 1, HEIGHT)[:, None, None])
    stack.add(pointmap(camera) * wrong, np.full((HEIGHT, WIDTH), 3.0))
    return stack.finish()


def exact_matches(cameras: list[Camera]) -> list[SparseMatches]:
    """Pixels on a grid of one image and where the other shows the same points."""
    found = []
    y, x = np.mgrid[2:HEIGHT:4, 2:WIDTH:4] + 0.5
    for i, j in itertools.combinations(range(len(cameras)), 2):
        depth = surface.surface_depth(cameras[i])[y.astype(int), x.astype(int)].ravel()
        xy = np.stack([x, y], -1).reshape(-1, 2)
        other, _ = cameras[j].project(cameras[i].unproject(xy, depth))
        inside = (other > 1).all(-1) & (other < [WIDTH - 1, HEIGHT - 1]).all(-1)
        xy1, xy2 = xy[inside], np.asarray(other[inside])
        found.append(SparseMatches(i, j, xy1, xy2, np.ones(len(xy1))))
    return found


def centre_error(found: SparseAlignment, cameras: list[Camera]) -> float:
    """Largest distance of the centres after the best similarity, over their extent."""
    centers = np.linalg.inv(found.cam_from_world)[:, :3, 3]
    truth = np.stack([c.center for c in cameras])
    a, b = centers - centers.mean(0), truth - truth.mean(0)
    rotation = sum(
        c.cam_from_world[:3, :3].T @ pose[:3, :3]
        for c, pose in zip(cameras, found.cam_from_world, strict=True)
    )
    u, _, vt = np.linalg.svd(rotation)
    a = a @ (u @ vt).T
    residual = (a * b).sum() / (a * a).sum() * a - b
    return float(np.linalg.norm(residual, axis=-1).max() / np.linalg.norm(b, axis=-1).max())


def test_exact_input_is_solved_exactly(cameras: list[Camera]) -> None:
    views = [canonical(c, scale) for c, scale in zip(cameras, (1.0, 1.3, 0.8, 1.1), strict=True)]
    found = align_sparse(views, exact_matches(cameras))
    # a match hangs on the relief of the pixel that it lies in, so nothing is exact to the last bit
    assert centre_error(found, cameras) < 0.01
    assert np.allclose(found.focal_px, FOCAL, rtol=0.01)
    assert found.depth_scale.min() == pytest.approx(1.0)
    assert np.allclose(found.depth_scale * [1.0, 1.3, 0.8, 1.1], 1.3, rtol=0.01)


def test_free_depths_mend_bent_pointmaps(cameras: list[Camera]) -> None:
    views, matches = [canonical(c, bend=0.08) for c in cameras], exact_matches(cameras)
    stiff = align_sparse(views, matches, options=SparseOptions(free_depth=False))
    free = align_sparse(views, matches)
    assert centre_error(free, cameras) < 0.5 * centre_error(stiff, cameras)
    assert free.fine_loss[-1] < 0.5 * stiff.fine_loss[-1]
    scale = np.median(free.core_depth[0] / views[0].core_depth)
    bent = views[0].core_depth * scale
    rows, columns = (np.floor(views[0].core_xy).astype(int).T)[::-1]
    truth = surface.surface_depth(cameras[0])[rows, columns].reshape(bent.shape) * scale
    inner = np.s_[1:-1, 1:-1]
    assert np.abs(free.core_depth[0] / truth - 1)[inner].max() < 0.03
    assert np.abs(bent / truth - 1)[inner].max() > 0.04


def test_known_and_shared_focals_are_kept(cameras: list[Camera]) -> None:
    views, matches = [canonical(c, bend=0.05) for c in cameras], exact_matches(cameras)
    few = SparseOptions(coarse_steps=5, fine_steps=5)
    known = np.array([61.0, np.nan, np.nan, np.nan])
    found = align_sparse(views, matches, options=few, known_focal_px=known)
    assert found.focal_px[0] == pytest.approx(61.0, rel=1e-12)
    assert len(set(found.focal_px[1:])) == 3
    found = align_sparse(views, matches, options=few, lens=[0, 0, 1, 1])
    assert found.focal_px[0] == found.focal_px[1] != found.focal_px[2] == found.focal_px[3]
    found = align_sparse(views, matches, options=replace(few, shared_intrinsics=True))
    assert len(set(found.focal_px)) == 1
    found = align_sparse(views, matches, options=few, lens=[0] * 4, known_focal_px=known)
    assert np.allclose(found.focal_px, 61.0, rtol=1e-12)
    found = align_sparse(views, matches, options=replace(few, free_principal_point=False))
    assert np.array_equal(found.principal_point_px, np.tile([32.0, 24.0], (4, 1)))


def test_unmatched_pairs_lean_on_regression(cameras: list[Camera]) -> None:
    views, matches = [canonical(c) for c in cameras], exact_matches(cameras)
    regressions = []
    for i, j in itertools.permutations(range(4), 2):
        xy = views[i].core_xy
        depth = surface.surface_depth(cameras[i])[tuple(np.floor(xy).astype(int).T[::-1])]
        world = cameras[i].unproject(xy, depth)
        points = world @ cameras[j].cam_from_world[:3, :3].T + cameras[j].cam_from_world[:3, 3]
        regressions.append(Regression(i, j, xy, points, np.ones(len(xy))))
    options = SparseOptions(matching_threshold=2.0)  # none is that sure
    found = align_sparse(views, matches, regressions, options)
    assert centre_error(found, cameras) < 0.005


def state_of(cameras: list[Camera], tied: bool, cores: Cores) -> State:
    """A state near the truth, but not at it."""
    rng = np.random.default_rng(0)
    pose = np.stack([np.linalg.inv(c.cam_from_world) for c in cameras])
    turn = Rotation.from_rotvec(rng.normal(0, 0.02, (len(cameras), 3))).as_matrix()
    return State(
        rotation=turn @ pose[:, :3, :3],
        center=pose[:, :3, 3] + rng.normal(0, 0.05, (len(cameras), 3)),
        lens=np.arange(4),
        log_focal=np.log([58.0, 63.0, 61.0, 59.0]),
        principal_point=np.array([[0.52, 0.49], [0.5, 0.5], [0.47, 0.51], [0.5, 0.5]]),
        log_size=np.array([0.1, 0.05, 0.2, 0.15]),
        depth=None if tied else cores.depth * np.exp(rng.normal(0, 0.05, len(cores.depth))),
        extent=np.tile([64.0, 48.0], (4, 1)),
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["points", "pixels", "regression"])
def test_derivatives(
    cameras: list[Camera], kind: Literal["points", "pixels", "regression"], tied: bool
) -> None:
    views, matches = [canonical(c, bend=0.1) for c in cameras], exact_matches(cameras)
    cores = Cores.of_views(views)
    links: dict[str, Any] = {
        "points": match_links(cores, matches[:1]),
        "pixels": projection_links(cores, matches[:1]),
        "regression": regression_links(
            cores, [Regression(0, 1, views[0].core_xy, np.ones((48, 3)), np.ones(48))]
        ),
    }
    term = Term(kind, links[kind], 1.0, 1.0, 1e-6, sized=True)
    state = state_of(cameras, tied, cores)
    source, target, rows = term.links.groups[0]
    found = residuals(term, state, cores, rows, True)
    columns = np.full((4, COLUMNS), 2 * COLUMNS)
    columns[source], columns[target] = np.arange(COLUMNS), COLUMNS + np.arange(COLUMNS)
    for k in range(2 * COLUMNS):
        step = np.zeros(2 * COLUMNS + 1)
        step[k] = 1e-6
        ends = [
            residuals(
                *(term, state.moved(s * step, columns, np.zeros(len(cores.depth))), cores),
                *(rows, False),
            ).residual
            for s in (1, -1)
        ]
        analytic = found.by_source if k < COLUMNS else found.by_target
        numeric = (ends[0] - ends[1]) / 2e-6
        # central differences: the third derivative times the squared step
        assert np.allclose(analytic[..., k % COLUMNS], numeric, rtol=1e-4, atol=1e-4), k


def test_eliminated_depths_give_the_step_of_the_full_system(cameras: list[Camera]) -> None:
    views, matches = [canonical(c, bend=0.1) for c in cameras], exact_matches(cameras)
    cores = Cores.of_views(views)
    term = Term("pixels", projection_links(cores, matches), 0.5, 1.0, 1e-3)
    columns = np.arange(4 * COLUMNS).reshape(4, COLUMNS)
    columns[0] = columns[:, 9] = 4 * COLUMNS
    normal = build([term, term], state_of(cameras, False, cores), cores, columns, True)
    normal.hold(np.array([4 * COLUMNS]))
    step, depth_step = normal.solve(0.1, len(cores.depth))
    count, cut = 4 * COLUMNS + 1, len(cores.depth)
    full, right = np.zeros((count + cut, count + cut)), np.zeros(count + cut)
    full[:count, :count], right[:count] = normal.hessian, -normal.gradient
    for block in normal.blocks:
        at = count + np.arange(block.cores.start, block.cores.stop)
        full[at, at], right[at] = block.hessian, -block.gradient
        np.add.at(full, (at[:, None], block.parameters[None]), block.coupling)
        np.add.at(full, (block.parameters[:, None], at[None]), block.coupling.T)
    k = np.arange(len(full))
    full[k, k] *= 1.1
    used = np.flatnonzero(full[k, k] > 0)
    expected = np.zeros(len(full))
    expected[used] = np.linalg.solve(full[np.ix_(used, used)], right[used])
    # the elimination adds 1e-10 to every diagonal entry
    assert np.allclose(step, expected[:count], rtol=1e-5, atol=1e-9)
    assert np.allclose(depth_step, expected[count:], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5])
def test_the_weight_has_the_gradient_of_the_loss(gamma: float) -> None:
    distance = np.array([0.01, 0.3, 2.0, 30.0])
    slope = (gamma_loss(distance + 1e-6, gamma) - gamma_loss(distance - 1e-6, gamma)) / 2e-6
    assert np.allclose(gamma_weight(distance, gamma, 1e-9) * distance, slope, rtol=1e-6)
    assert gamma_weight(np.zeros(1), gamma, 0.1) == gamma_weight(np.full(1, 0.1), gamma, 0.1)


def test_stacks_do_not_depend_on_the_units_of_the_pairs(cameras: list[Camera]) -> None:
    stack = CanonicalStack((HEIGHT, WIDTH), metric=False)
    for scale in (1.0, 2.5, 0.4):
        stack.add(pointmap(cameras[0], scale), np.full((HEIGHT, WIDTH), 2.0))
    view = stack.finish()
    assert np.allclose(view.pointmap, pointmap(cameras[0]), rtol=1e-4)
    assert view.focal_px == pytest.approx(FOCAL, rel=1e-4)


def test_pixels_that_are_no_number_have_no_say(cameras: list[Camera]) -> None:
    stack, broken = CanonicalStack((HEIGHT, WIDTH)), pointmap(cameras[0])
    broken[3, 5] = np.nan
    for points in (broken, pointmap(cameras[0])):
        stack.add(points, np.full((HEIGHT, WIDTH), 2.0))
    assert np.allclose(stack.finish().pointmap, pointmap(cameras[0]), rtol=1e-4)


def test_chains() -> None:
    scores = np.array([[0, 5, 1, 0], [5, 0, 9, 2], [1, 9, 0, 7], [0, 2, 7, 0.0]])
    assert make_chain(scores, "mst").edges == [(1, 2), (1, 0), (2, 3)]
    star = make_chain(scores, "star")
    assert star.root == 2 and sorted(star.edges) == [(2, 0), (2, 1), (2, 3)]
    assert make_chain(np.zeros((1, 1))).edges == []
    with pytest.raises(ValueError, match="do not connect"):
        make_chain(np.diag([1.0, 1.0], 2) + np.diag([1.0, 1.0], -2), "mst")
    with pytest.raises(ValueError, match='"ward", "mst" or "star"'):
        make_chain(scores, "line")  # type: ignore[arg-type]


def test_errors(cameras: list[Camera]) -> None:
    views, matches = [canonical(c) for c in cameras[:2]], exact_matches(cameras[:2])
    with pytest.raises(ValueError, match="blocks of 8 pixels"):
        CanonicalStack((4, 64))
    with pytest.raises(ValueError, match="expected maps of"):
        CanonicalStack((48, 64)).add(np.zeros((4, 4, 3)), np.ones((4, 4)))
    with pytest.raises(ValueError, match="in no pair"):
        CanonicalStack((48, 64)).finish()
    with pytest.raises(ValueError, match="known_focal_px must have one value per image"):
        align_sparse(views, matches, known_focal_px=[1.0])
    with pytest.raises(ValueError, match="lens must have one number per image"):
        align_sparse(views, matches, lens=[0])
    with pytest.raises(ValueError, match="shares no matches"):
        align_sparse(views, [])
    maps = pointmap(cameras[0]), pointmap(cameras[1])
    pair = PairMaps(0, 1, maps, (np.ones((48, 64)), np.ones((48, 64))))
    with pytest.raises(ValueError, match="in both orders"):
        align_pair(pair, pair)


def test_a_pair_without_sure_pixels_gets_no_pose(cameras: list[Camera]) -> None:
    maps, low = (pointmap(cameras[0]), pointmap(cameras[1])), np.ones((48, 64))
    forward = PairMaps(0, 1, maps, (low, low))
    found = align_pair(forward, replace(forward, frame=1, other=0))
    assert np.array_equal(found.cam_from_world, np.tile(np.eye(4), (2, 1, 1)))
