"""Depth maps in files, and of meshes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from weav3r.datasets.depth_files import DepthFile
from weav3r.datasets.exr import read_exr, write_exr
from weav3r.datasets.mesh_depth import read_mesh, render_depth

# 3x2 pixels, channels Y (half) and Z (float), no compression; made by hand after the file layout.
EXR_NONE = (
    "762f310102000000"
    "6368616e6e656c730063686c6973740025000000"
    "590001000000000000000100000001000000"
    "5a0002000000000000000100000001000000"
    "00"
    "636f6d7072657373696f6e00636f6d7072657373696f6e000100000000"
    "6461746157696e646f7700626f78326900100000000000000000000000" + "0200000001000000" + "00"
)


def depth_map(height: int = 21, width: int = 34) -> np.ndarray:
    rng = np.random.default_rng(0)
    depth = np.linspace(1, 5, height * width).reshape(height, width)
    return (depth + 0.01 * rng.random((height, width))).astype(np.float32)


@pytest.mark.parametrize("size", [(21, 34), (16, 8), (1, 5), (40, 3)])
def test_exr_comes_back(size: tuple[int, int], tmp_path: Path) -> None:
    depth = depth_map(*size)
    write_exr(tmp_path / "a.exr", depth)
    np.testing.assert_array_equal(read_exr(tmp_path / "a.exr"), depth)


def test_exr_with_two_channels_and_no_compression(tmp_path: Path) -> None:
    head = bytes.fromhex(EXR_NONE)
    start = len(head)
    z = np.arange(6, dtype="<f4").reshape(2, 3)
    y = z.astype("<f2") / 2
    rows = [np.array([n, 18], "<i4").tobytes() + y[n].tobytes() + z[n].tobytes() for n in range(2)]
    table = np.array([start + 16, start + 16 + len(rows[0])], "<u8").tobytes()
    (tmp_path / "a.exr").write_bytes(head + table + b"".join(rows))
    np.testing.assert_array_equal(read_exr(tmp_path / "a.exr"), z / 2)


def test_exr_says_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "a.exr"
    write_exr(path, depth_map())
    good = path.read_bytes()
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="is no OpenEXR file"):
        read_exr(path)
    path.write_bytes(good[:4] + b"\2\2" + good[6:])
    with pytest.raises(ValueError, match="tiled or deep"):
        read_exr(path)
    at = good.index(b"compression\0compression\0") + 28
    path.write_bytes(good[:at] + b"\4" + good[at + 1 :])
    with pytest.raises(ValueError, match="the compression PIZ is not understood"):
        read_exr(path)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_exr(path)
    path.write_bytes(good.replace(b"dataWindow", b"dataWindoW"))
    with pytest.raises(ValueError, match="its header lacks dataWindow"):
        read_exr(path)


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    depth = depth_map()
    np.save(tmp_path / "a.npy", depth[..., None])
    np.savez(tmp_path / "a.npz", other=depth * 2, depth=depth)
    write_exr(tmp_path / "a.exr", depth)
    head = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n-1.0\n".encode()
    (tmp_path / "a.pfm").write_bytes(head + depth[::-1].astype("<f4").tobytes())
    (tmp_path / "b.pfm").write_bytes(head.replace(b"-", b"") + depth[::-1].astype(">f4").tobytes())
    head = f"{depth.shape[1]}&{depth.shape[0]}&1&".encode()
    (tmp_path / "a.bin").write_bytes(head + depth.astype("<f4").tobytes())
    for name in ("a.npy", "a.npz", "a.exr", "a.pfm", "b.pfm", "a.bin"):
        np.testing.assert_array_equal(DepthFile(tmp_path / name).read(), depth, err_msg=name)
    Image.fromarray((depth * 1000).astype(np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_allclose(DepthFile(tmp_path / "a.png", 1e-3).read(), depth, atol=1e-3)


def test_unknown_far_and_sky(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0, np.nan, np.inf], [-2, 30, 0]]))
    read = DepthFile(tmp_path / "a.npy", scale=2, far=50).read()
    np.testing.assert_array_equal(read, [[2, 0, 0], [-4, 0, 0]])


def test_wrong_files_are_named(tmp_path: Path) -> None:
    for name, data, message in (
        ("a.npy", b"x", "is no readable depth map"),
        ("a.npz", b"x", "is no readable depth map"),
        ("a.png", b"x", "is no readable depth map"),
        ("a.pfm", b"PF\n2 2\n-1\n", "no portable float map with one channel"),
        ("b.pfm", b"Pf\n2 2\n-1\n1234", "expected 2x2 numbers, found 1"),
        ("a.bin", b"2&2&3&", "is no depth map of COLMAP"),
        ("b.bin", b"2&2&1&1234", "expected 2x2 numbers, found 1"),
        ("a.tif", b"", "a depth map is one of"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            DepthFile(tmp_path / name).read()
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"a depth map has shape \(H, W\)"):
        DepthFile(tmp_path / "c.png").read()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        DepthFile(tmp_path / "none.npy").read()


K = np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])


def test_a_ball_is_as_deep_as_it_should_be(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=1.0)
    ball.apply_translation([0.3, -0.2, 4])
    ball.export(tmp_path / "ball.ply")
    mesh = read_mesh(tmp_path / "ball.ply")
    depth = render_depth(mesh, K, np.eye(4), (60, 80))
    y, x = np.mgrid[:60, :80] + 0.5
    rays = np.stack([(x - 40) / 60, (y - 30) / 60, np.ones((60, 80))], -1)
    centre = np.array([0.3, -0.2, 4])
    a, b = (rays**2).sum(-1), rays @ centre
    root = b**2 - a * (centre @ centre - 1)
    truth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 0)
    both = (depth > 0) & (truth > 0)
    assert ((depth > 0) != (truth > 0)).mean() < 0.01
    steep = root[both] < 0.05
    np.testing.assert_allclose(depth[both][~steep], truth[both][~steep], atol=4e-3)


def test_walls_around_the_camera_are_cut_and_the_nearer_one_wins(tmp_path: Path) -> None:
    room = trimesh.creation.box(extents=(6, 4, 10))
    screen = trimesh.creation.box(extents=(1, 1, 0.01))
    screen.apply_translation([0, 0, 2])
    trimesh.util.concatenate([room, screen]).export(tmp_path / "room.obj")
    pose = np.eye(4)
    pose[2, 3] = -1.0
    depth = render_depth(read_mesh(tmp_path / "room.obj"), K, pose, (60, 80))
    assert (depth > 0).all()  # inside a closed room, also where walls pass the camera
    np.testing.assert_allclose(depth[30, 40], 2.995, atol=1e-4)
    np.testing.assert_allclose(depth[15, 40], 6.0, atol=1e-4)
    floor = 2 / ((59.5 - 30) / 60)
    np.testing.assert_allclose(depth[59, 40], floor, rtol=1e-4)


def test_what_is_no_mesh_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_mesh(tmp_path / "none.ply")
    (tmp_path / "a.ply").write_bytes(b"no mesh")
    with pytest.raises(ValueError, match="is no readable mesh"):
        read_mesh(tmp_path / "a.ply")
    trimesh.PointCloud([[0, 0, 0], [1, 1, 1]]).export(tmp_path / "b.ply")
    with pytest.raises(ValueError, match="holds no triangle"):
        read_mesh(tmp_path / "b.ply")
