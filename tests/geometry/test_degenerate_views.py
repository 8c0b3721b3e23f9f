"""Two views that do not determine a pose: named, and never a wrong pose in silence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from weav3r.geometry._evidence import log10_false_alarms, witnesses
from weav3r.geometry.pose import RelativePoseEstimate, relative_pose, relative_pose_unknown_focal

SIZE = (480, 640)
K = np.array([[500.0, 0, 330], [0, 510, 235], [0, 0, 1]])


def views(
    seed: int,
    number: int = 120,
    baseline: float = 1.0,
    outliers: float = 0.25,
    plane: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy pixels (half a pixel) of random points in two random views, and the true motion."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-2, -1.5, 4], [2, 1.5, 8], (number, 3))
    if plane:
        points[:, 2] = 5 + points[:, :2] @ rng.uniform(-0.5, 0.5, 2)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(rng.uniform(-0.2, 0.2, 3)).as_matrix()
    direction = rng.normal(size=3)
    pose[:3, 3] = baseline * direction / np.linalg.norm(direction)
    in2 = points @ pose[:3, :3].T + pose[:3, 3]
    xy1, xy2 = ((x @ K.T)[:, :2] / x[:, 2:] for x in (points, in2))
    xy1, xy2 = (xy + 0.5 * rng.normal(size=xy.shape) for xy in (xy1, xy2))
    wrong = rng.permutation(number)[: int(outliers * number)]
    xy2[wrong] = rng.uniform([0, 0], [640, 480], (len(wrong), 2))
    return xy1, xy2, pose


def rotation_error_deg(found: np.ndarray, true: np.ndarray) -> float:
    turn = Rotation.from_matrix(found[:3, :3] @ true[:3, :3].T)
    return float(np.rad2deg(np.linalg.norm(turn.as_rotvec())))


def direction_error_deg(found: np.ndarray, true: np.ndarray) -> float:
    a, b = (t[:3, 3] / np.linalg.norm(t[:3, 3]) for t in (found, true))
    return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def solve(xy1: np.ndarray, xy2: np.ndarray) -> RelativePoseEstimate:
    return relative_pose(xy1, xy2, K, K, SIZE, SIZE)


@pytest.mark.parametrize("number", [15, 60, 300])
def test_photos_without_overlap_give_no_pose(number: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        xy1, xy2 = rng.uniform([0, 0], [640, 480], (2, number, 2))
        found = solve(xy1, xy2)
        assert not found and found.kind == "no_common_motion" and found.caveat == found.reason
        assert np.isnan(found.cam2_from_cam1).all() and not found.inliers.any()
        if number >= 60:  # whoever wants what fits best may have it
            assert np.isfinite(found.best_guess).all()


def test_no_overlap_with_unknown_focal() -> None:
    xy1, xy2 = np.random.default_rng(0).uniform([0, 0], [640, 480], (2, 60, 2))
    found = relative_pose_unknown_focal(xy1, xy2, SIZE, SIZE)
    assert not found and found.kind == "no_common_motion"


def test_fifteen_matches_are_believed_only_if_they_agree() -> None:
    for seed in range(8):
        xy1, xy2, true = views(seed, 15, outliers=0.0)
        found = solve(xy1, xy2)
        if found:
            assert found.kind != "general" and found.caveat
            assert rotation_error_deg(found.best_guess, true) < 6
        xy1, xy2, true = views(seed, 15, outliers=0.6)
        found = solve(xy1, xy2)
        assert not found and found.kind == "no_common_motion"


def test_too_few_matches() -> None:
    xy1, xy2, _ = views(0, 7)
    assert solve(xy1, xy2).kind == "too_few_matches"
    assert relative_pose_unknown_focal(xy1, xy2, SIZE, SIZE).kind == "too_few_matches"


def test_pure_rotation_never_gives_a_sure_direction() -> None:
    kinds = []
    for seed in range(10):
        xy1, xy2, true = views(seed, baseline=0.0)
        found = solve(xy1, xy2)
        assert found.kind in ("rotation", "small_baseline")
        assert rotation_error_deg(found.cam2_from_cam1, true) < 1.5
        assert found.direction_std_deg > 12
        kinds.append(found.kind)
    assert kinds.count("rotation") >= 7


@pytest.mark.parametrize("baseline", [0.02, 0.1, 0.3])
def test_a_small_baseline_is_called_so_or_right(baseline: float) -> None:
    for seed in range(8):
        xy1, xy2, true = views(seed, baseline=baseline)
        found = solve(xy1, xy2)
        assert found and rotation_error_deg(found.cam2_from_cam1, true) < 2.5
        if found.kind in ("general", "planar"):
            assert direction_error_deg(found.cam2_from_cam1, true) < 20


def test_the_true_pose_of_a_plane_is_among_those_named() -> None:
    for seed in range(8):
        xy1, xy2, true = views(seed, plane=True)
        found = solve(xy1, xy2)
        if found.kind == "small_baseline":
            continue
        candidates = (found.cam2_from_cam1, *found.alternatives)
        errors = [
            max(rotation_error_deg(p, true), direction_error_deg(p, true)) for p in candidates
        ]
        assert found.kind == "planar" or errors[0] < 5
        # Half a pixel of noise on 90 points of a plane leaves some directions this open.
        assert min(errors) < 20


def test_general_views_are_sure_and_right() -> None:
    for seed in range(6):
        xy1, xy2, true = views(seed)
        found = solve(xy1, xy2)
        assert found and rotation_error_deg(found.cam2_from_cam1, true) < 2
        assert found.kind != "general" or direction_error_deg(found.cam2_from_cam1, true) < 8
        assert 0.1 < found.median_error_px < 0.8 and found.rotation_std_deg < 2


def test_evidence_counts_places_not_matches() -> None:
    xy = np.repeat([[5.0, 5.0], [305.0, 205.0]], [50, 2], axis=0)
    agree = np.repeat([True, False], [50, 2])
    assert witnesses(xy, agree, SIZE) == (2, 1)
    assert witnesses(xy[:0], agree[:0], SIZE) == (0, 0)
    # 5 of 10 random matches lie on some model by construction; 10 of 10 at 1 % do not.
    assert log10_false_alarms(10, 5, 5, 10, 0.01) == np.inf
    assert log10_false_alarms(10, 10, 5, 10, 0.01) == pytest.approx(
        np.log10(10 * 5) + np.log10(252) - 10
    )
