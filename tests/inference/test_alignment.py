"""Cameras from pointmaps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from weav3r.geometry.camera import Camera
from weav3r.inference.alignment.pairs import AlignmentOptions, align_pairs, sample_pair
from weav3r.inference.predict import PairResult
from weav3r.models import PairPrediction, ViewPrediction

_spec = importlib.util.spec_from_file_location("surface", Path(__file__).with_name("surface.py"))
assert _spec and _spec.loader
surface = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(surface)


def view_prediction(
    camera: Camera, frame: Camera, scale: float, noise: float, rng
) -> ViewPrediction:
    world = surface.surface_points(camera)
    local = world @ frame.cam_from_world[:3, :3].T + frame.cam_from_world[:3, 3]
    local = local * scale * (1 + noise * rng.normal(size=(*local.shape[:2], 1)))
    pointmap = torch.from_numpy(local).float()
    return ViewPrediction(pointmap, torch.full(pointmap.shape[:2], 8.0), None, None)


def pair_results(cameras: list[Camera], pairs, noise: float = 0.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    results = []
    for i, j in pairs:
        a, b = cameras[i], cameras[j]
        s, t = rng.uniform(0.3, 3.0, 2)
        results.append(
            PairResult(
                i,
                j,
                PairPrediction(
                    view_prediction(a, a, s, noise, rng), view_prediction(b, a, s, noise, rng)
                ),
                PairPrediction(
                    view_prediction(b, b, t, noise, rng), view_prediction(a, b, t, noise, rng)
                ),
            )
        )
    return results


def aligned(cameras, pairs, noise=0.0, **options):
    samples = [s for r in pair_results(cameras, pairs, noise) for s in sample_pair(r)]
    return align_pairs(samples, len(cameras), AlignmentOptions(**options))


def centre_error(result, cameras: list[Camera]) -> float:
    """Largest distance of the camera centres after removing the scale, over their spread."""
    first = cameras[result.images[0]]
    truth = np.array(
        [(first.cam_from_world @ np.append(cameras[i].center, 1))[:3] for i in result.images]
    )
    found = np.array([-m[:3, :3].T @ m[:3, 3] for m in result.cam_from_world])
    scale = (truth * found).sum() / (found * found).sum()
    return float(
        np.linalg.norm(scale * found - truth, axis=1).max() / np.linalg.norm(np.ptp(truth, axis=0))
    )


ALL_PAIRS = [(i, j) for i in range(4) for j in range(i + 1, 4)]


def test_exact_pointmaps_give_exact_cameras() -> None:
    cameras = surface.surface_cameras(4)
    (result,) = aligned(cameras, ALL_PAIRS)
    assert result.images == [0, 1, 2, 3]
    assert np.allclose(result.cam_from_world[0], np.eye(4), atol=1e-9)
    assert np.allclose(result.focal_px, 75.0, rtol=1e-3)
    assert centre_error(result, cameras) < 1e-3
    assert max(result.residuals.values()) < 1e-3


def test_a_chain_of_pairs_is_enough() -> None:
    cameras = surface.surface_cameras(4)
    (result,) = aligned(cameras, [(0, 1), (1, 2), (2, 3)])
    assert centre_error(result, cameras) < 5e-3


def test_different_focal_lengths_are_told_apart() -> None:
    cameras = surface.surface_cameras(3)
    wide = surface.surface_cameras(3, focal=55.0)[1]
    cameras[1] = wide
    (result,) = aligned(cameras, [(0, 1), (0, 2), (1, 2)])
    assert np.allclose(result.focal_px, [75, 55, 75], rtol=2e-3)


def test_noise_averages_out() -> None:
    cameras = surface.surface_cameras(4)
    (result,) = aligned(cameras, ALL_PAIRS, noise=0.02)
    assert centre_error(result, cameras) < 0.03
    assert np.allclose(result.focal_px, 75.0, rtol=0.03)


def test_shared_focal_is_one_number() -> None:
    cameras = surface.surface_cameras(3)
    (result,) = aligned(cameras, [(0, 1), (0, 2), (1, 2)], noise=0.01, shared_focal=True)
    assert np.ptp(np.log(result.focal_px)) < 0.02


def test_unconnected_images_are_different_components() -> None:
    cameras = surface.surface_cameras(6)
    found = aligned(cameras, [(0, 1), (1, 2), (3, 4)])
    assert [r.images for r in found] == [[0, 1, 2], [3, 4]]


def test_repeated_runs_give_the_same_bits() -> None:
    cameras = surface.surface_cameras(3)
    a, b = (aligned(cameras, [(0, 1), (1, 2)], noise=0.01)[0] for _ in range(2))
    assert np.array_equal(a.cam_from_world, b.cam_from_world)
    assert np.array_equal(a.focal_px, b.focal_px)


def test_nothing_to_align() -> None:
    assert align_pairs([], 3) == []


def test_confidence_of_one_everywhere_still_gives_cameras() -> None:
    cameras = surface.surface_cameras(2)
    samples = [s for r in pair_results(cameras, [(0, 1)]) for s in sample_pair(r)]
    unsure = [
        type(s)(s.frame, s.other, s.points, torch.ones_like(s.confidence), s.sizes, s.focal_px)
        for s in samples
    ]
    (result,) = align_pairs(unsure, 2)
    assert result.focal_px == pytest.approx([75.0, 75.0], rel=1e-2)
