"""Point metrics on clouds with distances known by hand, and against the outside kit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from weav3r.evaluation.point_metrics import (
    cloud_error,
    pointmap_error,
    robust_similarity,
    scene_point_error,
)
from weav3r.evaluation.readers import read_set
from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.scene import Scene, SceneView

ROTATION = Rotation.from_rotvec([0.2, -0.4, 0.1]).as_matrix()


def cloud(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3)) + [0, 0, 4]


def test_accuracy_and_completeness_by_hand() -> None:
    truth = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    estimate = np.array([[0.0, 0.3, 0], [1, 0, 0.1], [np.nan, 0, 0]])
    error = cloud_error(estimate, truth, [0.2, 2.5])
    assert error.accuracy == pytest.approx((0.3 + 0.1) / 2)
    back = [0.3, 0.1, np.hypot(1, 0.1), np.hypot(2, 0.1)]
    assert error.completeness == pytest.approx(np.mean(back))
    assert error.chamfer == pytest.approx((0.2 + np.mean(back)) / 2)
    assert error.f_score == {0.2: pytest.approx(2 * 0.5 * 0.25 / 0.75), 2.5: 1.0}
    nothing = cloud_error(np.zeros((0, 3)), truth, [0.1])
    assert np.isinf(nothing.chamfer) and nothing.f_score == {0.1: 0.0}
    thinned = cloud_error(cloud(50), cloud(50), max_points=20)
    assert thinned.accuracy == 0  # both are thinned alike


def test_a_similarity_survives_many_outliers() -> None:
    source = cloud(200)
    target = 2.5 * source @ ROTATION.T + [1.0, 2, 3]
    target[:80] = cloud(80, seed=1)
    scale, rotation, translation = robust_similarity(source, target)
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(rotation, ROTATION, atol=1e-9)
    np.testing.assert_allclose(translation, [1, 2, 3], atol=1e-8)


def test_points_of_the_same_pixels_with_some_missing() -> None:
    truth = cloud(100)
    estimate = (truth - [1.0, 0, 0]) @ ROTATION / 2
    estimate[:10] = np.nan
    estimate[10:15] += 3.0
    error = pointmap_error(estimate, truth, truth[:, 2])
    assert (error.points, error.missing) == (100, pytest.approx(0.1))
    assert error.scale == pytest.approx(2.0)
    assert error.median == pytest.approx(0, abs=1e-9)
    assert error.inliers[0.01] == pytest.approx(0.85)
    assert error.cloud is not None and set(error.cloud.f_score) == {0.01, 0.02, 0.05, 0.1}
    identity = (1.0, np.eye(3), np.zeros(3))
    shifted = pointmap_error(truth + [0.1, 0, 0], truth, np.full(100, 4.0), similarity=identity)
    assert shifted.median == pytest.approx(0.1)
    assert shifted.inliers == {0.01: 0, 0.02: 0, 0.05: 1, 0.1: 1}
    few = pointmap_error(estimate[:12], truth[:12], truth[:12, 2])
    assert np.isinf(few.median) and few.cloud is None and few.inliers[0.1] == 0


def true_scene(root: Path, scale: float = 1.0) -> Scene:
    """What the truth of the set `wall` looks like as a reconstruction."""
    views = []
    for image in read_set(root, "wall").images.values():
        pose, K, depth = image.cam_from_world, image.K, image.depth()
        if pose is None or K is None or depth is None:
            continue
        pose = pose.copy()
        pose[:3, 3] *= scale
        shape = depth.shape
        views.append(
            SceneView(
                name=image.name,
                path=image.path,
                ledger=Ledger.from_file_size(*shape),
                camera=Camera(K, pose, *shape),
                rgb=np.zeros((*shape, 3), np.uint8),
                depth=np.where(depth > 0, depth * scale, np.nan).astype(np.float32),
                confidence=np.full(shape, 2.0, np.float32),
            )
        )
    return Scene(views)


def test_points_of_a_scene(eval_root: Path) -> None:
    data = read_set(eval_root, "wall")
    error = scene_point_error(data, true_scene(eval_root, scale=0.5))
    assert error is not None and error.missing == 0
    assert error.scale == pytest.approx(2.0, rel=1e-4)
    assert error.inliers[0.01] == 1 and error.median < 1e-4
    assert error.relative_chamfer < 1e-4
    half = true_scene(eval_root)
    half = replace(half, views=[half.views[0], replace(half.views[1], camera=None)], components=[])
    error = scene_point_error(data, half)
    assert error is not None and error.missing == pytest.approx(0.5)
    assert scene_point_error(read_set(eval_root, "strip"), half) is None


def test_the_outside_kit_agrees(evalkit) -> None:
    from importlib import import_module

    kit = import_module("evalkit.points")
    truth = cloud(300)
    estimate = (truth + np.random.default_rng(2).normal(0, 0.05, truth.shape)) @ ROTATION
    estimate[:20] = np.nan
    ours = pointmap_error(estimate, truth, truth[:, 2])
    theirs = kit.pointmap_metrics(estimate, truth, truth[:, 2])
    assert ours.cloud is not None
    assert ours.missing == pytest.approx(theirs["missing"])
    assert ours.scale == pytest.approx(theirs["scale"], rel=5e-3)  # samples differ
    assert ours.median == pytest.approx(theirs["error_median"], rel=0.05)
    assert ours.cloud.chamfer == pytest.approx(theirs["chamfer"], rel=0.02)
    same = (1.0, ROTATION, np.zeros(3))
    ours = pointmap_error(estimate, truth, truth[:, 2], similarity=same)
    theirs = kit.pointmap_metrics(estimate, truth, truth[:, 2], alignment=same)
    assert ours.cloud is not None
    for threshold, share in ours.inliers.items():
        assert share == theirs[f"inliers@{threshold:g}"]
        assert ours.cloud.f_score[threshold] == pytest.approx(theirs[f"fscore@{threshold:g}"])
    assert ours.cloud.accuracy == pytest.approx(theirs["acc_mean"])
    assert ours.cloud.completeness == pytest.approx(theirs["comp_mean"])
