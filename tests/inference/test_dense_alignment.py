"""Dense global alignment on an analytic surface."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from weav3r.inference.alignment.dense import (
    DenseOptions,
    align_dense,
    align_samples,
    fuse_depth,
    observation_weights,
)
from weav3r.inference.alignment.known import KnownInputs, priors_of
from weav3r.inference.alignment.samples import PairMaps, confidence_weight, sample_maps
from weav3r.inference.alignment.solver import Solver, solve
from weav3r.inference.alignment.start import focal_votes, start_from_tree
from weav3r.inference.alignment.state import rotations_from_vectors

_spec = importlib.util.spec_from_file_location("surface", Path(__file__).with_name("surface.py"))
assert _spec and _spec.loader
surface = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(surface)

FOCALS = (75.0, 60.0, 82.0, 70.0)
COMPLETE = [(i, j) for i in range(4) for j in range(4) if i != j]


def scene(focals=FOCALS, spread=1.0):
    cameras = surface.surface_cameras(len(focals), 30, 40, spread=spread)
    return [
        replace(c, K=np.diag([f / 2, f / 2, 1.0]) + _centre())
        for c, f in zip(cameras, focals, strict=True)
    ]


def _centre():
    return np.array([[0, 0, 20.0], [0, 0, 15.0], [0, 0, 0]])


def maps_of(cameras, pairs, noise=0.0, seed=0):
    """Pairs with an error along the rays of the image, smooth and white, and a random scale."""
    rng = np.random.default_rng(seed)
    surfaces = [surface.surface_points(c) for c in cameras]
    found = []
    for i, j in pairs:
        frame, scale, points = cameras[i], rng.uniform(0.3, 3.0), []
        for camera, world in ((cameras[i], surfaces[i]), (cameras[j], surfaces[j])):
            row, column = np.mgrid[: camera.height, : camera.width] / 20
            wave = np.cos(row * rng.normal() + column * rng.normal() + rng.uniform(0, 6))
            error = noise * (wave + 0.5 * rng.normal(size=wave.shape))
            world = camera.center + (world - camera.center) * (1 + error)[..., None]
            local = world @ frame.cam_from_world[:3, :3].T + frame.cam_from_world[:3, 3]
            points.append((scale * local).astype(np.float32))
        confidence = [rng.uniform(2, 9, p.shape[:2]).astype(np.float32) for p in points]
        found.append(PairMaps(i, j, (points[0], points[1]), (confidence[0], confidence[1])))
    return found


def errors(result, cameras):
    """Largest rotation (rad), centre (share of their spread) and focal (share) errors."""
    truth = np.stack([c.cam_from_world for c in cameras])
    found = result.cam_from_world
    to_first = truth @ np.linalg.inv(truth[0])
    ours = found @ np.linalg.inv(found[0])
    a = -np.einsum("vji,vj->vi", to_first[:, :3, :3], to_first[:, :3, 3])
    b = -np.einsum("vji,vj->vi", ours[:, :3, :3], ours[:, :3, 3])
    centre = np.linalg.norm(b * (a * b).sum() / (b * b).sum() - a, axis=1).max()
    turn = np.linalg.norm(to_first[:, :3, :3] - ours[:, :3, :3], axis=(1, 2)).max() / 2**0.5
    focal = np.abs(result.focal_px / [c.K[0, 0] for c in cameras] - 1).max()
    return turn, centre / np.linalg.norm(np.ptp(a, axis=0)), focal


def shown(pairs, image):
    return [
        (e, p.pointmaps[side], p.confidences[side])
        for e, p in enumerate(pairs)
        for side in (0, 1)
        if (p.frame, p.other)[side] == image
    ]


@pytest.mark.parametrize("evidence", [True, False])
def test_exact_maps_with_different_focals_stay_exact(evidence) -> None:
    cameras, pairs = scene(), maps_of(scene(), COMPLETE)
    result = align_dense(pairs, 4, DenseOptions(focal_evidence=evidence))
    assert max(errors(result, cameras)) < 1e-5
    assert result.residual.max() < 1e-5
    ratio = [
        fuse_depth(result, v, shown(pairs, v)).depth / surface.surface_depth(c)
        for v, c in enumerate(cameras)
    ]
    assert np.ptp(np.stack(ratio)) / np.mean(ratio) < 1e-4


def test_a_perturbed_start_comes_back() -> None:
    cameras, samples = scene(), sample_maps(maps_of(scene(), COMPLETE), 4, 20)
    inputs = KnownInputs.from_arrays([(30, 40)] * 4)
    state = start_from_tree(samples, inputs.principal_point, np.array(FOCALS) / 2)
    rng = np.random.default_rng(0)
    turn = rotations_from_vectors(rng.normal(0, 0.05, (4, 3)))
    bad = replace(
        state,
        rotation=turn @ state.rotation,
        center=state.center + rng.normal(0, 0.05, (4, 3)),
        focal=state.focal * [1.1, 0.9, 1.05, 0.95],
    )
    priors = priors_of(inputs, bad, samples, None, shared_focal=False)
    solver = Solver(samples, observation_weights(samples, "log"), priors, l1=True)
    found, objective, _ = solve(solver, bad, 100, 1e-9)
    assert objective[-1] < 1e-4 * objective[0]
    np.testing.assert_allclose(found.focal, [c.K[0, 0] for c in cameras], rtol=1e-4)


def test_noise_averages_out_and_the_objective_falls() -> None:
    cameras, pairs = scene(), maps_of(scene(), COMPLETE, noise=0.01)
    result = align_dense(pairs, 4)
    turn, centre, focal = errors(result, cameras)
    assert turn < 0.01 and centre < 0.02 and focal < 0.01
    assert all(np.diff(result.objective) <= 0)
    again = align_dense(iter(pairs), 4)
    assert np.array_equal(result.cam_from_world, again.cam_from_world)
    assert np.array_equal(result.focal_px, again.focal_px)
    a, b = (fuse_depth(r, 2, shown(pairs, 2)).depth for r in (result, again))
    assert np.array_equal(a, b)


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("confidence", ["log", "sqrt", "m1", "id", "none"])
def test_every_objective_is_minimised(distance, confidence) -> None:
    cameras, pairs = scene(), maps_of(scene(), COMPLETE, noise=0.005)
    options = DenseOptions(distance=distance, confidence=confidence, grid=20)
    result = align_dense(pairs, 4, options)
    assert max(errors(result, cameras)) < 0.02
    assert result.objective[-1] < 0.95 * result.objective[0]


@pytest.mark.parametrize("known_depth", [True, False])
def test_gradients_match_finite_differences(known_depth) -> None:
    samples = sample_maps(maps_of(scene(), COMPLETE, noise=0.02), 4, 10)
    inputs = KnownInputs.from_arrays(
        [(30, 40)] * 4, principal_point_sigma_px=1.0, focal_sigma_px=1.0
    )
    votes = focal_votes(samples, inputs.principal_point)
    state = start_from_tree(samples, inputs.principal_point, 1.02 * votes.median)
    priors = priors_of(inputs, state, samples, votes, shared_focal=False)
    if known_depth:
        priors = replace(priors, depth=list(state.depth))
    solver = Solver(samples, observation_weights(samples, "log"), priors, l1=known_depth)
    solver.calibrate(state)
    normal, best = solver.normal_equations(state)
    rng = np.random.default_rng(1)
    pair, image = rng.normal(size=normal.pair_gradient.shape), rng.normal(size=(4, 13))
    if known_depth:
        image[:, 9:] = 0
    strength = solver.prior_strength(normal.objective)
    slope = (normal.pair_gradient * pair).sum() + (normal.image_gradient * image).sum()
    values = []
    for h in (1e-6, -1e-6):
        moved = solver.normal_equations(solver.moved(best, h * pair, h * image))[0]
        values.append(moved.objective + strength * moved.penalty)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_shared_focal_is_one_number_and_optimal() -> None:
    cameras = scene((70.0,) * 4)
    pairs = maps_of(cameras, COMPLETE, noise=0.01)
    options = DenseOptions(shared_focal=True, focal_evidence=False, tolerance=1e-9)
    result = align_dense(pairs, 4, options)
    assert np.ptp(result.focal_px) == 0
    assert result.focal_px[0] == pytest.approx(35.0, rel=0.01)
    for share in (0.998, 1.002):
        fixed = align_dense(pairs, 4, options, known_focal_px=share * result.focal_px)
        assert fixed.objective[-1] > result.objective[-1]


def test_fixed_values_come_back_bit_for_bit() -> None:
    cameras, pairs = scene(), maps_of(scene(), COMPLETE, noise=0.01)
    poses = np.stack([c.cam_from_world for c in cameras])
    focal = np.array([c.K[0, 0] for c in cameras])
    depth = [surface.surface_depth(c) for c in cameras]
    centre = []
    for known in (
        {"known_focal_px": focal},
        {"known_focal_px": focal, "known_cam_from_world": poses},
        {"known_focal_px": focal, "known_cam_from_world": poses, "known_depth": depth},
    ):
        result = align_dense(pairs, 4, **known)  # pyright: ignore
        assert np.array_equal(result.focal_px, focal)
        centre.append(errors(result, cameras)[1])
    assert np.array_equal(result.cam_from_world, poses)
    x, y = result.grid_xy[0].astype(int).T
    assert np.array_equal(result.grid_depth[0], depth[0][y, x])
    assert centre[0] > 1e-4 > centre[1]


def test_some_known_poses_fix_the_frame_and_the_scale() -> None:
    cameras, pairs = scene(), maps_of(scene(), COMPLETE, noise=0.003)
    poses = np.stack([c.cam_from_world for c in cameras])
    poses[1] = poses[3] = np.nan
    result = align_dense(pairs, 4, known_cam_from_world=poses)
    assert np.array_equal(result.cam_from_world[[0, 2]], poses[[0, 2]])
    np.testing.assert_allclose(result.cam_from_world[1], cameras[1].cam_from_world, atol=0.02)
    median = np.median(result.grid_depth[1])
    assert median == pytest.approx(np.median(surface.surface_depth(cameras[1])), rel=0.02)
    poses[2] = np.nan
    one = align_dense(pairs, 4, known_cam_from_world=poses)
    assert np.array_equal(one.cam_from_world[0], poses[0])
    assert max(errors(one, cameras)) < 0.02


def test_known_depth_sets_the_scale() -> None:
    cameras, pairs = scene(), maps_of(scene(), COMPLETE, noise=0.003)
    depth = surface.surface_depth(cameras[2])
    depth[:, ::2] = 0
    result = align_dense(pairs, 4, known_depth=[None, None, depth, None])
    median = np.median(surface.surface_depth(cameras[0]))
    assert np.median(result.grid_depth[0]) == pytest.approx(median, rel=0.02)


def test_firmer_priors_pull_more() -> None:
    cameras, pairs = scene(), maps_of(scene(), COMPLETE, noise=0.01)
    options = DenseOptions(focal_evidence=False)
    wrong = 1.05 * np.array([c.K[0, 0] for c in cameras])
    found = [
        align_dense(pairs, 4, options, known_focal_px=wrong, focal_sigma_px=s).focal_px[1]
        for s in (np.inf, 1.0, 0.05, 0.0)
    ]
    assert found == sorted(found) and found[-1] == wrong[1] and found[1] > found[0] + 1e-3
    poses = np.stack([c.cam_from_world for c in cameras])
    poses[:, :3, 3] += 0.1 * poses[:, :3, 0]
    near = align_dense(pairs, 4, options, known_cam_from_world=poses, center_sigma=1e-3)
    np.testing.assert_allclose(centres(near.cam_from_world), centres(poses), atol=5e-3)


def centres(poses):
    return -np.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3])


def test_principal_point_with_a_prior() -> None:
    cameras = [replace(c, K=c.K + [[0, 0, 1.5], [0, 0, -1.0], [0, 0, 0]]) for c in scene()]
    pairs = maps_of(cameras, COMPLETE)
    fixed = align_dense(pairs, 4)
    free = align_dense(pairs, 4, principal_point_sigma_px=5.0)
    np.testing.assert_allclose(free.principal_point_px, [[21.5, 14.0]] * 4, atol=0.05)
    assert errors(fixed, cameras)[1] > 10 * errors(free, cameras)[1]
    assert np.array_equal(free.K[0, :2, 2], free.principal_point_px[0])


def test_a_long_chain_and_mixed_sizes() -> None:
    cameras = scene((70.0,) * 12, spread=0.4)
    cameras[5] = replace(cameras[5], width=44, height=26)
    cameras[5] = replace(cameras[5], K=np.array([[35.0, 0, 22], [0, 35, 13], [0, 0, 1]]))
    pairs = [(i, j) for i in range(12) for j in (i + 1, i + 2) if j < 12]
    pairs += [(j, i) for i, j in pairs]
    result = align_dense(maps_of(cameras, pairs), 12)
    assert max(errors(result, cameras)) < 1e-4
    noisy = align_dense(maps_of(cameras, pairs, noise=0.005), 12)
    assert noisy.options.max_sweeps > len(noisy.objective)


def test_an_image_that_is_never_the_frame_is_resected() -> None:
    cameras = scene()
    pairs = maps_of(cameras, [(0, 1), (1, 0), (0, 2), (1, 2)])
    focal = [np.nan, np.nan, cameras[2].K[0, 0]]
    result = align_dense(pairs, 3, known_focal_px=focal)
    assert max(errors(result, cameras[:3])) < 1e-3


def test_pixels_without_a_point_count_for_nothing() -> None:
    cameras, pairs = scene(), maps_of(scene(), COMPLETE)
    for pair in pairs:
        pair.pointmaps[0][:5] = np.nan
        pair.pointmaps[1][:5] = np.nan
    result = align_dense(pairs, 4)
    assert max(errors(result, cameras)) < 1e-4
    fused = fuse_depth(result, 0, shown(pairs, 0))
    assert np.isnan(fused.depth[:5]).all() and np.isfinite(fused.depth[5:]).all()
    assert (fused.confidence[5:] > 1).all()


def test_confidence_of_one_everywhere_still_gives_cameras() -> None:
    cameras = scene()
    pairs = [
        PairMaps(p.frame, p.other, p.pointmaps, tuple(np.ones_like(c) for c in p.confidences))
        for p in maps_of(cameras, COMPLETE)
    ]
    result = align_dense(pairs, 4, DenseOptions(max_sweeps=20))
    assert max(errors(result, cameras)) < 1e-4
    assert np.isfinite(fuse_depth(result, 0, shown(pairs, 0)).depth).all()


def test_blocks_of_rows_change_nothing(monkeypatch) -> None:
    pairs = maps_of(scene(), COMPLETE, noise=0.01)
    result = align_dense(pairs, 4)
    whole = fuse_depth(result, 1, shown(pairs, 1)).depth
    monkeypatch.setattr("weav3r.inference.alignment.dense._ROWS_AT_ONCE", 600)
    np.testing.assert_allclose(fuse_depth(result, 1, shown(pairs, 1)).depth, whole, rtol=1e-5)


def test_errors_name_what_is_wrong() -> None:
    cameras = scene()
    pairs = maps_of(cameras, COMPLETE)
    with pytest.raises(ValueError, match="2 groups"):
        align_dense(maps_of(cameras, [(0, 1), (2, 3)]), 4)
    with pytest.raises(ValueError, match=r"images \[3\] are in no pair"):
        align_dense(maps_of(cameras, [(0, 1), (1, 2)]), 4)
    with pytest.raises(ValueError, match="expected two of 3 images"):
        align_dense(pairs, 3)
    with pytest.raises(ValueError, match="expected two of 4 images"):
        align_dense([replace(pairs[0], other=pairs[0].frame)], 4)
    cut = replace(pairs[1], confidences=(np.ones((3, 3)), np.ones((3, 3))))
    with pytest.raises(ValueError, match="one size per image"):
        align_dense([pairs[0], cut], 4)
    with pytest.raises(ValueError, match="maps of pairs that show image 3"):
        fuse_depth(align_dense(pairs, 4), 3, [(0, *shown(pairs, 0)[0][1:])])
    with pytest.raises(ValueError, match="known_focal_px must have shape"):
        align_dense(pairs, 4, known_focal_px=[1.0])
    with pytest.raises(ValueError, match="center_sigma must be a number"):
        align_dense(pairs, 4, center_sigma=-1.0)
    with pytest.raises(ValueError, match="known_depth must be 4 maps"):
        align_dense(pairs, 4, known_depth=[None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "l3"}, 'distance must be "l1" or "l2"'),
        ({"confidence": "exp"}, "confidence must be"),
        ({"grid": 2}, "grid must be at least 4"),
    ],
)
def test_options_are_checked(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        DenseOptions(**change)


def test_confidence_weights() -> None:
    confidence = np.array([0.0, 1.0, 4.0])
    np.testing.assert_allclose(confidence_weight(confidence, "log"), [0, 0, np.log(4)])
    np.testing.assert_allclose(confidence_weight(confidence, "sqrt"), [0, 1, 2])
    np.testing.assert_allclose(confidence_weight(confidence, "m1"), [0, 0, 3])
    np.testing.assert_allclose(confidence_weight(confidence, "id"), confidence)


def test_samples_can_be_aligned_again() -> None:
    samples = sample_maps(maps_of(scene(), COMPLETE, noise=0.01), 4, 45)
    a, b = align_samples(samples), align_dense(maps_of(scene(), COMPLETE, noise=0.01), 4)
    assert np.array_equal(a.cam_from_world, b.cam_from_world)
