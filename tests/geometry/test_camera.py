"""The pinhole camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weav3r.geometry.camera import Camera, check_intrinsics, rigid_inverse_array
from weav3r.geometry.pointmap import project, unproject
from weav3r.geometry.transforms import look_at, transform_points

K = np.array([[500.0, 2.0, 300.0], [0, 510.0, 250.0], [0, 0, 1]])


def camera(seed: int = 0) -> Camera:
    generator = torch.Generator().manual_seed(seed)
    center, target = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return Camera(K=K, cam_from_world=look_at(center, target).numpy(), height=480, width=640)


def test_hand_case() -> None:
    simple = Camera(
        np.array([[100, 0, 50], [0, 100, 40], [0, 0, 1.0]]), np.eye(4), height=80, width=100
    )
    xy, depth = simple.project([[0, 0, 2], [1, 0, 2], [0, 1, -1]])
    np.testing.assert_array_equal(xy, [[50, 40], [100, 40], [np.nan, np.nan]])
    np.testing.assert_array_equal(depth, [2, 2, -1])
    assert simple.focal_px == 100
    assert simple.fov_deg[1] == pytest.approx(53.13, abs=0.01)


@given(st.integers(0, 10**6))
def test_projection_round_trip_and_torch_agree(seed: int) -> None:
    cam = camera(seed)
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, [640, 480], (6, 2))
    depth = rng.uniform(0.1, 10, 6)
    points = cam.unproject(xy, depth)
    back, back_depth = cam.project(points)
    np.testing.assert_allclose(back, xy, atol=1e-9)
    np.testing.assert_allclose(back_depth, depth, atol=1e-10)
    np.testing.assert_allclose(cam.center, cam.world_from_cam[:3, 3])
    in_cam = transform_points(torch.from_numpy(cam.cam_from_world), torch.from_numpy(points))
    torch_xy, torch_depth = project(in_cam, torch.from_numpy(K))
    np.testing.assert_allclose(torch_xy.numpy(), back, atol=1e-9)
    np.testing.assert_allclose(torch_depth.numpy(), depth)
    lifted = unproject(torch_xy, torch_depth, torch.from_numpy(K))
    np.testing.assert_allclose(lifted.numpy(), in_cam.numpy())


def test_unproject_needs_positive_depth() -> None:
    points = camera().unproject([[10, 10], [10, 10]], [0.0, 2.0])
    assert np.isnan(points[0]).all() and np.isfinite(points[1]).all()


def test_resizing_only_scales_the_intrinsics() -> None:
    cam = camera()
    half = cam.resized(240, 1280)
    np.testing.assert_allclose(half.K[0], 2 * K[0])
    np.testing.assert_allclose(half.K[1], K[1] / 2)
    np.testing.assert_array_equal(half.cam_from_world, cam.cam_from_world)
    assert (half.height, half.width) == (240, 1280)
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(half.project(points)[0], cam.project(points)[0] * [2, 0.5])


def test_arrays_are_copied() -> None:
    pose = np.eye(4)
    cam = Camera(K=K, cam_from_world=pose, height=4, width=4)
    pose[0, 3] = 7
    assert cam.center[0] == 0
    assert cam.K.dtype == np.float64


def test_inverse_of_a_stack_of_poses() -> None:
    poses = np.stack([camera(i).cam_from_world for i in range(3)])
    np.testing.assert_allclose(
        poses @ rigid_inverse_array(poses), np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-12
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": np.eye(4)}, r"K must have shape \(3, 3\)"),
        ({"K": np.full((3, 3), np.nan)}, "not finite"),
        ({"K": np.diag([-1.0, 1, 1])}, "positive focal"),
        ({"K": K.T}, "must look like"),
        ({"cam_from_world": np.eye(3)}, r"cam_from_world must have shape \(4, 4\)"),
        ({"cam_from_world": np.full((4, 4), np.nan)}, "not finite"),
        ({"cam_from_world": np.ones((4, 4))}, "last row"),
        ({"cam_from_world": np.diag([2.0, 2, 2, 1])}, "not orthonormal"),
        ({"cam_from_world": np.diag([1.0, 1, -1, 1])}, "mirror image"),
        ({"height": 0}, "positive"),
        ({"width": 3.5}, "whole pixels"),
    ],
)
def test_wrong_values_are_diagnosed(change: dict, message: str) -> None:
    values = {"K": K, "cam_from_world": np.eye(4), "height": 4, "width": 4, **change}
    with pytest.raises(ValueError, match=message):
        Camera(**values)


def test_wrong_arguments_are_diagnosed() -> None:
    with pytest.raises(ValueError, match=r"points must have shape \(..., 3\)"):
        camera().project(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"xy must have shape \(..., 2\)"):
        camera().unproject(np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(ValueError, match="K1 must have shape"):
        check_intrinsics(np.eye(2), "K1")
