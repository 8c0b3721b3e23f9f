"""Robust pose on synthetic scenes with a known answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from weav3r.geometry._epipolar import depths, essential, fit_rotation, rays, sampson_px
from weav3r.geometry._homography import poses_from_homography
from weav3r.geometry.pose import (
    pose_from_points,
    relative_pose,
    relative_pose_from_pointmaps,
    relative_pose_unknown_focal,
)

SIZE = (480, 640)


@dataclass(frozen=True)
class Scene:
    """Points seen by two cameras, the first at the world's origin."""

    points: np.ndarray
    xy1: np.ndarray
    xy2: np.ndarray
    cam2_from_cam1: np.ndarray
    K: np.ndarray
    right: np.ndarray


def make_scene(
    number: int = 200,
    outliers: float = 0.0,
    noise_px: float = 0.0,
    focal: float = 500.0,
    plane: bool = False,
    baseline: float = 1.0,
    seed: int = 0,
) -> Scene:
    rng = np.random.default_rng(seed)
    points = rng.uniform([-2, -1.5, 4], [2, 1.5, 8], (number, 3))
    if plane:
        points[:, 2] = 5 + 0.4 * points[:, 0] + 0.2 * points[:, 1]
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0.05, -0.2, 0.1]).as_matrix()
    pose[:3, 3] = baseline * np.array([0.8, -0.2, 0.5])
    K = np.array([[focal, 0, 330], [0, 1.02 * focal, 235], [0, 0, 1]])
    in2 = points @ pose[:3, :3].T + pose[:3, 3]
    xy1, xy2 = ((x @ K.T)[:, :2] / x[:, 2:] for x in (points, in2))
    xy1, xy2 = (xy + noise_px * rng.normal(size=xy.shape) for xy in (xy1, xy2))
    wrong = rng.permutation(number)[: int(outliers * number)]
    xy2[wrong] = rng.uniform([0, 0], [640, 480], (len(wrong), 2))
    right = np.ones(number, bool)
    right[wrong] = False
    return Scene(points, xy1, xy2, pose, K, right)


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.linalg.norm(Rotation.from_matrix(a @ b.T).as_rotvec())))


def direction_deg(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def errors_deg(pose: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    return angle_deg(pose[:3, :3], truth[:3, :3]), direction_deg(pose[:3, 3], truth[:3, 3])


@pytest.mark.parametrize("outliers", [0.0, 0.4])
@pytest.mark.parametrize("seed", [0, 1])
def test_pnp_is_exact_on_exact_inliers(outliers: float, seed: int) -> None:
    scene = make_scene(outliers=outliers, seed=seed)
    shift = np.array([1e4, -2e4, 5e3])  # a world far from its origin
    found = pose_from_points(scene.xy2, scene.points + shift, scene.K, *SIZE, max_error_px=2)
    assert found and found.num_inliers == found.inliers.sum()
    assert found.inliers[scene.right].all()
    # Wrong matches within two pixels of the right place hide among 80 of them.
    assert found.num_inliers <= scene.right.sum() + 2
    expected = scene.cam2_from_cam1.copy()
    expected[:3, 3] -= expected[:3, :3] @ shift
    assert angle_deg(found.cam_from_world[:3, :3], expected[:3, :3]) < 0.01
    moved = scene.points @ expected[:3, :3].T + expected[:3, 3]
    assert moved.shape == scene.points.shape
    center, expected_center = (
        -pose[:3, :3].T @ pose[:3, 3] for pose in (found.cam_from_world, expected)
    )
    np.testing.assert_allclose(center, expected_center, atol=2e-3)
    np.testing.assert_array_equal(found.K, scene.K)


def test_pnp_finds_the_focal_length() -> None:
    scene = make_scene(outliers=0.3, noise_px=0.3)
    K = scene.K.copy()
    K[1, 1] = K[0, 0]
    in2 = scene.points @ scene.cam2_from_cam1[:3, :3].T + scene.cam2_from_cam1[:3, 3]
    xy = np.where(scene.right[:, None], (in2 @ K.T)[:, :2] / in2[:, 2:], scene.xy2)
    guess = np.diag([99.0, 99.0, 1.0])
    guess[:2, 2] = K[:2, 2]
    found = pose_from_points(xy, scene.points, guess, *SIZE, estimate_focal=True)
    assert found.K[0, 0] == found.K[1, 1] == pytest.approx(500, rel=0.005)
    assert angle_deg(found.cam_from_world[:3, :3], scene.cam2_from_cam1[:3, :3]) < 0.2


def test_pnp_handles_skew_nan_and_many_points() -> None:
    scene = make_scene(number=6000, noise_px=0.5)
    K = scene.K.copy()
    K[0, 1] = 30.0
    in2 = scene.points @ scene.cam2_from_cam1[:3, :3].T + scene.cam2_from_cam1[:3, 3]
    xy = (in2 @ K.T)[:, :2] / in2[:, 2:]
    points = scene.points.copy()
    xy[0], points[1] = np.nan, np.inf
    found = pose_from_points(xy, points, K, *SIZE)
    np.testing.assert_allclose(found.cam_from_world, scene.cam2_from_cam1, atol=1e-6)
    assert not found.inliers[:2].any() and found.inliers[2:].all()


def test_pnp_says_why_it_fails() -> None:
    scene = make_scene(number=40)
    few = pose_from_points(scene.xy2[:5], scene.points[:5], scene.K, *SIZE)
    assert not few and few.reason == "needs at least 6 points, got 5"
    assert np.isnan(few.cam_from_world).all() and few.num_inliers == 0
    nothing = pose_from_points(np.empty((0, 2)), np.empty((0, 3)), scene.K, *SIZE)
    assert "got 0" in nothing.reason
    rng = np.random.default_rng(0)
    noise = pose_from_points(
        rng.uniform(0, 480, (60, 2)), scene.points[rng.integers(0, 40, 60)], scene.K, *SIZE
    )
    assert not noise.success and noise.reason
    line = np.linspace([-1.0, 0, 4], [1.0, 0.3, 6], 30)
    on_line = pose_from_points((line @ scene.K.T)[:, :2] / line[:, 2:], line, scene.K, *SIZE)
    assert not on_line.success and on_line.reason


@pytest.mark.parametrize(("outliers", "noise_px"), [(0.0, 0.0), (0.4, 0.0), (0.4, 0.5)])
def test_relative_pose_with_outliers(outliers: float, noise_px: float) -> None:
    scene = make_scene(300, outliers, noise_px)
    found = relative_pose(scene.xy1, scene.xy2, scene.K, scene.K, SIZE, SIZE)
    assert found and found.kind == "general" and not found.alternatives
    assert np.linalg.norm(found.cam2_from_cam1[:3, 3]) == pytest.approx(1)
    # Half a pixel of noise at eight degrees of parallax.
    limit = 0.01 if noise_px == 0 else 1.0
    assert max(errors_deg(found.cam2_from_cam1, scene.cam2_from_cam1)) < limit
    assert found.inliers[scene.right].mean() > 0.95
    assert found.num_inliers == found.inliers.sum()
    assert 5 < found.parallax_deg < 20


def test_relative_pose_is_deterministic_and_symmetric() -> None:
    scene = make_scene(200, 0.4, 0.5)
    a, b = (relative_pose(scene.xy1, scene.xy2, scene.K, scene.K, SIZE, SIZE) for _ in range(2))
    np.testing.assert_array_equal(a.cam2_from_cam1, b.cam2_from_cam1)
    np.testing.assert_array_equal(a.inliers, b.inliers)
    back = relative_pose(scene.xy2, scene.xy1, scene.K, scene.K, SIZE, SIZE)
    inverse = np.linalg.inv(scene.cam2_from_cam1)
    assert max(errors_deg(back.cam2_from_cam1, inverse)) < 1.0


def test_relative_pose_of_different_cameras() -> None:
    scene = make_scene(200, 0.3, 0.2)
    K2 = np.diag([2.0, 0.5, 1.0]) @ scene.K
    xy1, xy2 = scene.xy1.copy(), scene.xy2 * [2.0, 0.5]
    xy1[0], xy2[1] = np.nan, np.inf
    found = relative_pose(xy1, xy2, scene.K, K2, SIZE, (240, 1280))
    assert max(errors_deg(found.cam2_from_cam1, scene.cam2_from_cam1)) < 0.5
    assert not found.inliers[:2].any()


def test_a_plane_leaves_two_poses_and_one_is_right() -> None:
    for seed in range(3):
        scene = make_scene(300, 0.3, 0.3, plane=True, seed=seed)
        found = relative_pose(scene.xy1, scene.xy2, scene.K, scene.K, SIZE, SIZE)
        assert found.kind == "planar"
        candidates = (found.cam2_from_cam1, *found.alternatives)
        assert min(max(errors_deg(p, scene.cam2_from_cam1)) for p in candidates) < 3


def test_a_plane_and_some_more_is_not_ambiguous() -> None:
    scene = make_scene(300, 0.0, 0.2, plane=True)
    other = make_scene(60, 0.0, 0.2, seed=5)
    xy1, xy2 = np.concatenate([scene.xy1, other.xy1]), np.concatenate([scene.xy2, other.xy2])
    found = relative_pose(xy1, xy2, scene.K, scene.K, SIZE, SIZE)
    assert found.kind == "general"
    assert max(errors_deg(found.cam2_from_cam1, scene.cam2_from_cam1)) < 1


def test_pure_rotation_is_told() -> None:
    scene = make_scene(300, 0.3, 0.3, baseline=0.0)
    found = relative_pose(scene.xy1, scene.xy2, scene.K, scene.K, SIZE, SIZE)
    assert found.kind == "rotation" and found.parallax_deg == 0
    assert angle_deg(found.cam2_from_cam1[:3, :3], scene.cam2_from_cam1[:3, :3]) < 0.1
    # No direction is better than one that is noise; who needs one can ask for it.
    assert not found.cam2_from_cam1[:3, 3].any() and found.direction_std_deg == 180
    assert np.linalg.norm(found.best_guess[:3, 3]) == pytest.approx(1)
    assert "only turned" in found.caveat


@pytest.mark.parametrize("focal", [350.0, 900.0])
def test_unknown_focal(focal: float) -> None:
    scene = make_scene(250, 0.3, 0.2, focal)
    K = np.array([[focal, 0, 320], [0, focal, 240], [0, 0, 1]])
    offset = (
        rays_to_pixels(rays(scene.xy1, scene.K), K),
        rays_to_pixels(rays(scene.xy2, scene.K), K),
    )
    found = relative_pose_unknown_focal(*offset, SIZE, SIZE)
    assert found and found.K1[0, 0] == pytest.approx(focal, rel=0.05)
    np.testing.assert_array_equal(found.K1, found.K2)
    assert max(errors_deg(found.cam2_from_cam1, scene.cam2_from_cam1)) < 2


def rays_to_pixels(directions: np.ndarray, K: np.ndarray) -> np.ndarray:
    return (directions @ K.T)[:, :2] / directions[:, 2:]


def test_relative_pose_says_why_it_fails() -> None:
    scene = make_scene(40)
    few = relative_pose(scene.xy1[:5], scene.xy2[:5], scene.K, scene.K, SIZE, SIZE)
    assert not few and few.reason == "needs at least 8 matches, got 5"
    assert np.isnan(few.cam2_from_cam1).all() and few.inliers.shape == (5,)
    rng = np.random.default_rng(0)
    noise1, noise2 = rng.uniform(0, 480, (2, 30, 2))
    unrelated = relative_pose(noise1, noise2, scene.K, scene.K, SIZE, SIZE, min_inliers=20)
    assert "matches agree on a relative pose within 1.5 px, 20 are needed" in unrelated.reason
    few = relative_pose_unknown_focal(scene.xy1[:5], scene.xy2[:5], SIZE, SIZE)
    assert few.reason == "needs at least 10 matches, got 5"
    unrelated = relative_pose_unknown_focal(noise1, noise2, SIZE, SIZE, min_inliers=25)
    assert "long sides agrees with 25 of 30 matches" in unrelated.reason
    still = relative_pose(scene.xy1, scene.xy1, scene.K, scene.K, SIZE, SIZE)
    assert still.kind == "rotation"
    assert angle_deg(still.cam2_from_cam1[:3, :3], np.eye(3)) < 1e-4


def test_one_repeated_match_is_not_a_pose() -> None:
    scene = make_scene(1)
    xy1, xy2 = scene.xy1.repeat(20, axis=0), scene.xy2.repeat(20, axis=0)
    found = relative_pose(xy1, xy2, scene.K, scene.K, SIZE, SIZE)
    assert not found.success or found.kind == "rotation"


@pytest.mark.parametrize("rounds", [0, 10])
def test_pose_from_pointmaps(rounds: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform([-1, -1, 2], [1, 1, 4], (8, 10, 3))
    truth = make_scene().cam2_from_cam1
    b = 2.5 * a @ truth[:3, :3].T + truth[:3, 3]
    a[0, 0] = np.nan
    confidence = np.ones((8, 10))
    if rounds:
        b[2:4, :] += rng.normal(size=(2, 10, 3))  # a quarter of the pixels is wrong
    else:
        confidence[5] = 0
        b[5] = 77
    found = relative_pose_from_pointmaps(a, b, confidence, None, rounds=rounds)
    assert found and found.scale == pytest.approx(2.5, abs=0.01)
    assert angle_deg(found.camb_from_cama[:3, :3], truth[:3, :3]) < 0.1
    np.testing.assert_allclose(found.camb_from_cama[:3, 3], truth[:3, 3], atol=0.02)
    assert found.residual < 0.01


def test_pose_from_pointmaps_says_why_it_fails() -> None:
    nothing = relative_pose_from_pointmaps(np.full((4, 3), np.nan), np.ones((4, 3)))
    assert not nothing and nothing.reason == "needs at least 3 valid pixels, got 0"
    flat = relative_pose_from_pointmaps(
        np.random.default_rng(0).normal(size=(9, 3)), np.ones((9, 3))
    )
    assert not flat and "no shape in common" in flat.reason


def test_epipolar_pieces() -> None:
    scene = make_scene(50)
    a, b = rays(scene.xy1, scene.K), rays(scene.xy2, scene.K)
    np.testing.assert_allclose(
        np.einsum("ni,ij,nj->n", b, essential(scene.cam2_from_cam1), a), 0, atol=1e-12
    )
    depth1, depth2, angle = depths(scene.cam2_from_cam1, a, b)
    np.testing.assert_allclose(depth1, np.linalg.norm(scene.points, axis=1))
    assert (depth2 > 0).all() and (angle > 0).all()
    # Sampson's distance of a point moved by d along its epipolar line's normal: about d / sqrt(2).
    shifted = sampson_px(
        scene.cam2_from_cam1, a, rays(scene.xy2 + [0, 1e-3], scene.K), *[scene.K] * 2
    )
    assert (np.abs(shifted) < 1e-3).all() and np.abs(shifted).max() > 1e-4
    turn = Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix()
    turned = a @ turn.T
    turned[:5] += 0.5
    assert angle_deg(fit_rotation(a, turned, 1e-4), turn) < 1e-3


def test_homography_decomposition() -> None:
    scene = make_scene(60, plane=True)
    a, b = rays(scene.xy1, scene.K), rays(scene.xy2, scene.K)
    normal = np.array([-0.4, -0.2, 1.0]) / 5
    H = scene.cam2_from_cam1[:3, :3] + np.outer(scene.cam2_from_cam1[:3, 3], normal)
    for scaled in (H, -3 * H):
        poses = poses_from_homography(scaled, a, b)
        assert len(poses) == 4
        assert min(max(errors_deg(p, scene.cam2_from_cam1)) for p in poses) < 1e-4
    assert poses_from_homography(scene.cam2_from_cam1[:3, :3], a, b) == []


def test_wrong_arguments_are_diagnosed() -> None:
    scene = make_scene(10)
    K = scene.K
    with pytest.raises(ValueError, match=r"xy must have shape \(N, 2\)"):
        pose_from_points(scene.points, scene.points, K, *SIZE)
    with pytest.raises(ValueError, match="must pair up, got 9 and 10 rows"):
        pose_from_points(scene.xy1[:9], scene.points, K, *SIZE)
    with pytest.raises(ValueError, match="K must have shape"):
        pose_from_points(scene.xy1, scene.points, np.eye(4), *SIZE)
    with pytest.raises(ValueError, match="max_error_px must be positive"):
        pose_from_points(scene.xy1, scene.points, K, *SIZE, max_error_px=0)
    with pytest.raises(ValueError, match="image size"):
        pose_from_points(scene.xy1, scene.points, K, 0, 640)
    with pytest.raises(ValueError, match="K2 must have shape"):
        relative_pose(scene.xy1, scene.xy2, K, np.eye(2), SIZE, SIZE)
    with pytest.raises(ValueError, match=r"xy2 must have shape \(N, 2\)"):
        relative_pose(scene.xy1, scene.points, K, K, SIZE, SIZE)
    with pytest.raises(ValueError, match="max_error_px"):
        relative_pose(scene.xy1, scene.xy2, K, K, SIZE, SIZE, max_error_px=-1)
    with pytest.raises(ValueError, match="focal_range"):
        relative_pose_unknown_focal(scene.xy1, scene.xy2, SIZE, SIZE, focal_range=(2, 1))
    with pytest.raises(ValueError, match="image size"):
        relative_pose_unknown_focal(scene.xy1, scene.xy2, (0, 5), SIZE)
    with pytest.raises(ValueError, match="two pointmaps"):
        relative_pose_from_pointmaps(np.ones((4, 3)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="confidence_b must have shape"):
        relative_pose_from_pointmaps(np.ones((4, 3)), np.ones((4, 3)), None, np.ones(3))


@pytest.mark.parametrize("guesses", [(None, None), (480.0, 760.0)])
def test_two_unknown_focals(guesses: tuple[float | None, float | None]) -> None:
    scene = make_scene(250, 0.2, 0.2)
    K1, K2 = (np.array([[f, 0, 320], [0, f, 240], [0, 0, 1]]) for f in (500.0, 800.0))
    xy1 = rays_to_pixels(rays(scene.xy1, scene.K), K1)
    xy2 = rays_to_pixels(rays(scene.xy2, scene.K), K2)
    found = relative_pose_unknown_focal(
        xy1, xy2, SIZE, SIZE, shared=False, guesses_px=guesses, guess_log_sigma=0.1
    )
    assert found and found.K1[0, 0] == pytest.approx(500, rel=0.1)
    assert found.K2[0, 0] == pytest.approx(800, rel=0.1)
    assert errors_deg(found.cam2_from_cam1, scene.cam2_from_cam1)[0] < 3


def test_wrong_guesses_of_focal_lengths_are_diagnosed() -> None:
    scene = make_scene(20)
    with pytest.raises(ValueError, match="guesses of focal lengths"):
        relative_pose_unknown_focal(scene.xy1, scene.xy2, SIZE, SIZE, guesses_px=(-1.0, None))
