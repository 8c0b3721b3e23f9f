"""Normals of depth maps and of fused clouds, on scenes with exact geometry."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from weav3r.geometry.camera import Camera
from weav3r.inference.normals import depth_normals

PLANE = np.array([-0.15, 0.1, 1.0])  # of `plane_scene`


def angles_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.rad2deg(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


def sphere(height: int = 60, width: int = 80) -> tuple[Camera, np.ndarray, np.ndarray]:
    """A camera that looks at a unit sphere, the depth, and the true normals in the world."""
    K = np.array([[90.0, 2, 40], [0, 95, 30], [0, 0, 1]])
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    cam_from_world[:3, 3] = 0.1, -0.2, 3
    y, x = np.mgrid[:height, :width] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    center = cam_from_world[:3, 3]
    a, b = (rays**2).sum(-1), rays @ center
    root = b**2 - a * (center @ center - 1)
    depth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.nan)
    normals = (rays * depth[..., None] - center) @ cam_from_world[:3, :3]
    return Camera(K, cam_from_world, height, width), depth, normals


def test_a_plane_has_its_normal_to_rounding(plane_scene) -> None:
    towards = -PLANE / np.linalg.norm(PLANE)
    for i in range(4):
        normals = plane_scene.normals(i)
        known = np.isfinite(normals).all(-1)
        assert known.sum() > 0.9 * plane_scene.valid(i).sum()
        assert angles_deg(normals[known], towards).max() < 0.1
        np.testing.assert_allclose(np.linalg.norm(normals[known], axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(("noise", "worst_deg"), [(0.0, 5.0), (0.002, 12.0)])
def test_a_sphere_has_its_normals(noise: float, worst_deg: float) -> None:
    camera, depth, truth = sphere()
    depth = depth * (1 + noise * np.random.default_rng(0).standard_normal(depth.shape))
    normals = depth_normals(camera, depth)
    known = np.isfinite(normals).all(-1)
    error = angles_deg(normals[known], truth[known])
    assert known.sum() > 0.7 * np.isfinite(depth).sum()
    assert np.median(error) < worst_deg / 2 and np.quantile(error, 0.9) < worst_deg


def test_no_normal_mixes_two_surfaces() -> None:
    camera = Camera(np.array([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]]), np.eye(4), 30, 40)
    depth = np.full((30, 40), 2.0)
    depth[:, 20:] = 3.0
    depth[5, 5] = np.nan
    depth[12:15, 30:33] = np.nan
    depth[13, 31] = 3.0
    depth[20:, 3] = np.nan
    normals = depth_normals(camera, depth)
    known = np.asarray(np.isfinite(normals).all(-1))
    assert angles_deg(normals[known], np.array([0, 0, -1.0])).max() < 0.01
    assert not known[5, 5] and known[20, 19] and known[20, 20]


def test_a_lonely_point_looks_at_its_camera(plane_scene) -> None:
    mask = np.zeros((48, 64), bool)
    mask[20, 30] = True
    scene = plane_scene
    scene.views[0].depth[14:27, 24:37] = np.nan
    scene.views[0].depth[20, 30] = 4.0
    cloud = scene.point_cloud(
        masks=[mask, *[np.zeros((48, 64), bool)] * (len(scene) - 1)], normals=True
    )
    assert len(cloud) == 1 and cloud.normals is not None
    to_camera = scene.cameras[0].center - cloud.points[0]
    np.testing.assert_allclose(cloud.normals[0], to_camera / np.linalg.norm(to_camera), atol=1e-6)


@pytest.mark.parametrize("voxel", [None, 0.3])
def test_the_fused_cloud_lies_on_the_surface(plane_scene, voxel) -> None:
    cloud = plane_scene.point_cloud(voxel=voxel, max_points=500, normals=True)
    assert len(cloud) <= 500 and cloud.normals is not None
    assert np.abs(cloud.points @ PLANE - 4.0).max() < 1e-4
    assert angles_deg(cloud.normals, -PLANE / np.linalg.norm(PLANE)).max() < 10
    assert plane_scene.point_cloud(voxel=voxel).normals is None


def test_ply_holds_the_normals(plane_scene, tmp_path) -> None:
    plane_scene.save(tmp_path / "a.ply")
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header")[0]
    assert b"property float nx\nproperty float ny\nproperty float nz" in header
    read = trimesh.load(tmp_path / "a.ply", process=False)
    raw = read.metadata["_ply_raw"]["vertex"]["data"]
    stored = np.stack([raw[name] for name in ("nx", "ny", "nz")], -1).reshape(-1, 3)
    cloud = plane_scene.point_cloud(normals=True)
    assert cloud.normals is not None
    np.testing.assert_array_equal(stored, cloud.normals)
    plane_scene.save(tmp_path / "b.ply", normals=False)
    assert b"nx" not in (tmp_path / "b.ply").read_bytes().split(b"end_header")[0]
