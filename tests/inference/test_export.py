"""Every exporter: write, read back with another library, compare; nothing changes the scene."""

import json
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import trimesh
from PIL import Image

from weav3r.inference.export import _files
from weav3r.inference.export.colmap import to_reconstruction
from weav3r.inference.export.glb import gltf_from_opencv, linear_from_srgb
from weav3r.inference.export.nerfstudio import opengl_from_opencv_camera
from weav3r.inference.scene import Scene, Tracks


def snapshot(scene):
    """Everything that an exporter could change, as bytes."""
    parts = [repr(scene.components), json.dumps(scene.report.to_dict())]
    for view in scene.views:
        parts += [view.depth.tobytes(), view.confidence.tobytes(), view.rgb.tobytes()]
        parts += [view.ledger.network_from_original.tobytes()]
        if view.camera is not None:
            parts += [view.camera.K.tobytes(), view.camera.cam_from_world.tobytes()]
    return parts


def read_cloud(path: Path) -> trimesh.PointCloud:
    """A file of points, read by another library."""
    read = trimesh.load(path)
    assert isinstance(read, trimesh.PointCloud)
    return read


def read_glb(path: Path) -> trimesh.Scene:
    """A glTF file, read by another library."""
    read = trimesh.load(path)
    assert isinstance(read, trimesh.Scene)
    return read


@pytest.mark.parametrize("name", ["a.glb", "a.ply", "a.npz", "a.json", "a.html", "folder"])
def test_writing_twice_gives_the_same_files_and_changes_nothing(plane_scene, tmp_path, name):
    before = snapshot(plane_scene)
    contents = []
    for run in ("one", "two"):
        target = tmp_path / run / name
        assert plane_scene.save(target) == target
        files = sorted(p for p in (tmp_path / run).rglob("*") if p.is_file())
        contents.append([(p.relative_to(tmp_path / run), p.read_bytes()) for p in files])
        assert not any(p.name.startswith(".") for p in files)
    if name not in ("a.npz", "folder", "a.json"):  # these hold times or relative paths
        assert contents[0] == contents[1]
    assert [p for p, _ in contents[0]] == [p for p, _ in contents[1]]
    assert snapshot(plane_scene) == before


# -- ply -------------------------------------------------------------------------------------------


def test_ply(plane_scene, tmp_path):
    plane_scene.save(tmp_path / "a.ply")
    read = read_cloud(tmp_path / "a.ply")
    cloud = plane_scene.point_cloud()
    np.testing.assert_array_equal(np.asarray(read.vertices, dtype=np.float32), cloud.points)
    np.testing.assert_array_equal(read.colors[:, :3], cloud.colors)
    raw = (tmp_path / "a.ply").read_bytes()
    header, body = raw.split(b"end_header\n", 1)
    assert b"comment axes: OpenCV, x right, y down, z forward" in header
    assert b"comment unit: arbitrary" in header and b"property float confidence" in header
    assert len(body) == len(cloud) * 31
    assert struct.unpack_from("<f", body, 27)[0] == cloud.confidence[0]


def test_ply_selection(plane_scene, tmp_path):
    plane_scene.scaled(2.0).save(tmp_path / "a.ply", max_points=100, min_confidence=2.0)
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header")[0]
    assert b"element vertex 100\n" in header and b"unit: metres" in header


# -- glb -------------------------------------------------------------------------------------------


def glb_tree(path):
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    (size,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + size]), data[20 + size + 8 :]


def accessor_array(tree, blob, index):
    accessor = tree["accessors"][index]
    view = tree["bufferViews"][accessor["bufferView"]]
    dtype = {5126: "<f4", 5123: "<u2", 5121: "u1"}[accessor["componentType"]]
    columns = {"VEC3": 3, "VEC4": 4}[accessor["type"]]
    start = view["byteOffset"] + accessor.get("byteOffset", 0)
    flat = np.frombuffer(blob, dtype=dtype, count=accessor["count"] * columns, offset=start)
    return flat.reshape(-1, columns)


def test_glb_points_and_colors(plane_scene, tmp_path):
    plane_scene.save(tmp_path / "a.glb", max_points=500)
    cloud = plane_scene.point_cloud(max_points=500)
    tree, blob = glb_tree(tmp_path / "a.glb")
    (points,) = [m for m in tree["meshes"] if m["primitives"][0].get("mode") == 0]
    attributes = points["primitives"][0]["attributes"]
    position = accessor_array(tree, blob, attributes["POSITION"])
    np.testing.assert_allclose(position, cloud.points * [1, -1, -1], atol=1e-6)
    color = accessor_array(tree, blob, attributes["COLOR_0"])
    np.testing.assert_allclose(color[:, :3] / 65535, linear_from_srgb(cloud.colors), atol=1e-5)
    assert (color[:, 3] == 65535).all()
    assert "KHR_materials_unlit" in tree["extensionsUsed"]
    assert tree["asset"]["extras"]["axes"].startswith("glTF (y up")


def test_glb_is_read_by_trimesh_with_one_frustum_per_camera(plane_scene, tmp_path):
    plane_scene.save(tmp_path / "a.glb", camera_size=0.3)
    read = read_glb(tmp_path / "a.glb")
    frusta = {k: g for k, g in read.geometry.items() if k.startswith("camera_")}
    assert len(frusta) == 4 and len(read.geometry) == 5
    for k, camera in enumerate(plane_scene.cameras[:4]):
        (name,) = [n for n in frusta if n.startswith(f"camera_{k}_")]
        distance = np.linalg.norm(frusta[name].vertices - gltf_from_opencv(camera.center), axis=1)
        assert distance.min() < 0.01 and 0.3 < distance.max() < 0.6


def test_glb_frusta_scale_with_the_scene(plane_scene, tmp_path):
    sizes = []
    for factor in (1.0, 100.0):
        plane_scene.scaled(factor).save(tmp_path / "a.glb")
        read = read_glb(tmp_path / "a.glb")
        (frustum,) = [g for k, g in read.geometry.items() if k.startswith("camera_0")]
        sizes.append(frustum.extents.max() / factor)
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-3)


def test_glb_mesh(plane_scene, tmp_path):
    plane_scene.save(tmp_path / "a.glb", mesh=True, cameras=False, max_points=None)
    (mesh,) = read_glb(tmp_path / "a.glb").geometry.values()
    assert len(mesh.faces) == 4 * 2 * (47 * 63 - 5)
    assert len(mesh.vertices) == 4 * (48 * 64 - 5)
    world = gltf_from_opencv(np.asarray(mesh.vertices))
    np.testing.assert_allclose(world @ [-0.15, 0.1, 1.0], 4.0, atol=1e-4)
    facing = mesh.face_normals @ gltf_from_opencv(np.array([0.0, 0, 1]))
    assert (facing < 0).all()  # towards the cameras
    plane_scene.save(tmp_path / "b.glb", mesh=True, cameras=False, max_points=4 * 48 * 64 // 4)
    (coarse,) = read_glb(tmp_path / "b.glb").geometry.values()
    assert len(coarse.vertices) <= 48 * 64


def test_glb_mesh_does_not_bridge_depth_jumps(plane_scene, tmp_path):
    views = list(plane_scene.views)
    depth = views[0].depth.copy()
    depth[:, 32:] *= 2
    views[0] = replace(views[0], depth=depth)
    scene = replace(plane_scene, views=views)
    scene.save(tmp_path / "a.glb", mesh=True, cameras=False, max_points=None)
    (mesh,) = read_glb(tmp_path / "a.glb").geometry.values()
    assert len(mesh.faces) == 4 * 2 * (47 * 63 - 5) - 2 * 47


@pytest.mark.parametrize("max_points", [None, 600])
def test_glb_squares_close_the_surface(plane_scene, tmp_path, max_points):
    plane_scene.save(tmp_path / "a.glb", point_size=1, cameras=False, max_points=max_points)
    (mesh,) = read_glb(tmp_path / "a.glb").geometry.values()
    cloud = plane_scene.point_cloud(max_points=max_points)
    assert len(mesh.vertices) == 4 * len(cloud) and len(mesh.faces) == 2 * len(cloud)
    corners = np.asarray(mesh.vertices).reshape(-1, 4, 3)
    np.testing.assert_allclose(corners.mean(1), gltf_from_opencv(cloud.points), atol=1e-5)
    first = cloud.view == 0  # its camera is the origin, its squares are parallel to the picture
    sides = np.linalg.norm(corners[first, 0] - corners[first, 1], axis=-1)
    wanted = cloud.points[first, 2] / plane_scene.views[0].K_network[0, 0]
    wanted = wanted * np.sqrt(4 * (48 * 64 - 5) / len(cloud))  # fewer points stand for more
    np.testing.assert_allclose(sides, wanted, rtol=1e-3)
    assert np.ptp(corners[first, :, 2], axis=1).max() < 1e-5
    assert (mesh.face_normals[: 2 * int(first.sum()), 2] > 0.99).all()  # towards the camera


@pytest.mark.parametrize("mesh", [False, True])
def test_glb_colors(plane_scene, tmp_path, mesh):
    found = {}
    for color in ("photo", "source", "confidence"):
        plane_scene.save(tmp_path / "a.glb", color=color, mesh=mesh, cameras=False)
        tree, blob = glb_tree(tmp_path / "a.glb")
        attributes = tree["meshes"][0]["primitives"][0]["attributes"]
        found[color] = accessor_array(tree, blob, attributes["COLOR_0"])
    assert len({colors.tobytes() for colors in found.values()}) == 3
    with pytest.raises(ValueError, match="color must be 'photo', 'source' or 'confidence'"):
        plane_scene.save(tmp_path / "a.glb", color="red")
    with pytest.raises(ValueError, match="point_size must be positive"):
        plane_scene.save(tmp_path / "a.glb", point_size=0)


def test_glb_with_nothing_in_it(plane_scene, tmp_path):
    with pytest.raises(ValueError, match="no point reaches min_confidence"):
        plane_scene.save(tmp_path / "a.glb", min_confidence=99, cameras=False)
    assert not list(tmp_path.glob("*.glb"))
    plane_scene.save(tmp_path / "a.glb", min_confidence=99)
    assert len(read_glb(tmp_path / "a.glb").geometry) == 4


# -- npz -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("as_folder", [False, True])
def test_npz_comes_back_equal(plane_scene, tmp_path, as_folder, compressed):
    tracks = Tracks(
        points=np.random.default_rng(0).normal(size=(5, 3)),
        image=np.array([0, 1, 2]),
        point=np.array([4, 4, 1]),
        xy=np.ones((3, 2)),
        error_px=np.zeros(5),
    )
    views = [*plane_scene.views[:3], replace(plane_scene.views[3], path=None), plane_scene.views[4]]
    scene = replace(
        plane_scene,
        views=views,
        components=[[0, 2], [1, 3]],
        tracks=tracks,
        scale="metric",
        min_confidence=1.5,
    )
    if as_folder:
        scene.save(tmp_path / "scene", format="npz", compressed=compressed)
        assert [p.name for p in (tmp_path / "scene").iterdir()] == ["scene.npz"]
        again = Scene.load(tmp_path / "scene")
    else:
        scene.save(tmp_path / "a.npz", compressed=compressed)
        again = Scene.load(str(tmp_path / "a.npz"))
    assert snapshot(again) == snapshot(scene)
    assert again.report == scene.report
    assert (again.scale, again.min_confidence) == ("metric", 1.5)
    assert [(v.name, v.path) for v in again.views] == [(v.name, v.path) for v in scene.views]
    for a, b in zip(again.views, scene.views, strict=True):
        for key in ("stored_size", "original_size", "network_size", "valid_box"):
            assert getattr(a.ledger, key) == getattr(b.ledger, key)
        assert a.ledger.exif_orientation == b.ledger.exif_orientation
    for key in ("points", "image", "point", "xy", "error_px"):
        np.testing.assert_array_equal(getattr(again.tracks, key), getattr(tracks, key))


def test_npz_needs_no_pickle(plane_scene, tmp_path):
    plane_scene.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert data["K"].shape == (5, 3, 3) and data["names"][1] == "photo_1.jpg"
        assert data["depth_00003"].shape == (48, 64)
        assert json.loads(str(data["meta"]))["scale"] == "relative"


def test_npz_that_is_none(plane_scene, tmp_path):
    with pytest.raises(FileNotFoundError, match="no saved scene at .*scene.npz"):
        Scene.load(tmp_path)
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    np.savez(tmp_path / "evil.npz", meta=np.array([{"a": 1}], dtype=object))
    plane_scene.save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:5000])
    for name in ("text", "other", "single", "evil", "cut"):
        with pytest.raises(ValueError, match=f"{name}.npz is not a saved scene, or is damaged"):
            Scene.load(tmp_path / f"{name}.npz")
    meta = {"format": "weav3r-scene", "version": 99}
    np.savez(tmp_path / "new.npz", meta=np.array(json.dumps(meta)))
    with pytest.raises(ValueError, match="written by a newer weav3r"):
        Scene.load(tmp_path / "new.npz")


# -- colmap ----------------------------------------------------------------------------------------


def reprojection_errors(model):
    """Errors recomputed from the model alone, by hand: (number of observations,)."""
    errors = []
    for point_id in model.point3D_ids():
        point = model.point3D(point_id)
        for element in point.track.elements:
            image = model.image(element.image_id)
            camera = model.camera(image.camera_id)
            in_camera = image.cam_from_world() * point.xyz
            fx, fy, cx, cy = camera.params
            xy = np.array([fx, fy]) * in_camera[:2] / in_camera[2] + [cx, cy]
            errors.append(np.linalg.norm(xy - image.points2D[element.point2D_idx].xy))
    return np.array(errors)


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_colmap_model_reads_back(plane_scene, tmp_path, kind):
    plane_scene.save(tmp_path / "out", format="colmap", max_points=1000)
    assert not (tmp_path / "out" / "scene.npz").exists()
    folder = tmp_path / "out" / "sparse" / "0"
    for file in folder.iterdir():
        if file.suffix != f".{kind}":
            file.unlink()
    model = pycolmap.Reconstruction(folder)
    assert model.num_reg_images() == 4
    for i, camera in enumerate(plane_scene.cameras[:4]):
        image = model.image(i + 1)
        read = model.camera(image.camera_id)
        assert image.name == f"photo_{i}.jpg"
        assert (read.model.name, read.height, read.width) == ("PINHOLE", 200, 256)
        np.testing.assert_allclose(read.calibration_matrix(), camera.K, rtol=1e-12)
        pose = image.cam_from_world().matrix()
        np.testing.assert_allclose(pose, camera.cam_from_world[:3], atol=1e-9)
    errors = reprojection_errors(model)
    assert len(errors) > 1000
    assert errors.max() < 0.01
    assert model.compute_mean_reprojection_error() < 0.01
    assert model.compute_mean_track_length() > 2
    lengths = [p.track.length() for p in model.points3D.values()]
    assert min(lengths) >= 2 and max(lengths) == 4
    for point in model.points3D.values():
        assert abs(point.xyz @ [-0.15, 0.1, 1.0] - 4) < 1e-4
        assert np.abs(point.color - (127 + 100 * np.sin(2 * point.xyz))).max() < 2


def test_colmap_tracks_name_each_image_once_and_need_agreeing_depth(plane_scene):
    views = list(plane_scene.views)
    views[3] = replace(views[3], depth=views[3].depth * 1.2)  # sees another surface
    scene = replace(plane_scene, views=views)
    model = to_reconstruction(scene, points="dense", max_points=500)
    for point in model.points3D.values():
        images = [e.image_id for e in point.track.elements]
        assert len(set(images)) == len(images)
        assert 4 not in images
    assert len(to_reconstruction(scene, depth_tolerance=0.5, max_points=500).image(4).points2D) > 0


def test_colmap_point_budget(plane_scene):
    model = to_reconstruction(plane_scene, max_points=150)
    assert 75 < model.num_points3D() <= 150


def test_colmap_shares_equal_cameras(plane_scene):
    views = [
        v if v.camera is None else replace(v, camera=replace(v.camera, K=views_K))
        for v in plane_scene.views
        for views_K in [plane_scene.cameras[0].K]
    ]
    model = to_reconstruction(replace(plane_scene, views=views), max_points=300)
    assert model.num_cameras() == 1 and model.num_reg_images() == 4
    assert reprojection_errors(model).max() < 0.01


def test_colmap_writes_the_measured_tracks(plane_scene):
    points = plane_scene.points(0)[10:14, 20].astype(float)
    image, point, xy = [], [], []
    for i in (0, 1, 2):
        position, _ = plane_scene.cameras[i].project(points)
        image += [i] * 4 + [i]  # the last key point is a second one of the same image
        point += [0, 1, 2, 3, 3]
        xy += [*(position + 0.5), [1.0, 1.0]]
    tracks = Tracks(points, np.array(image), np.array(point), np.array(xy), np.full(4, 0.7))
    scene = replace(plane_scene, tracks=tracks)
    model = to_reconstruction(scene, points="tracks")
    assert model.num_points3D() == 4
    assert [p.track.length() for p in model.points3D.values()] == [3] * 4
    np.testing.assert_allclose(reprojection_errors(model), np.sqrt(0.5), atol=1e-6)
    for p in model.points3D.values():
        assert np.abs(p.color - (127 + 100 * np.sin(2 * p.xyz))).max() < 15
    both = to_reconstruction(scene, points="both", max_points=300)
    dense = to_reconstruction(scene, points="dense", max_points=300)
    assert both.num_points3D() == 4 + dense.num_points3D()
    with pytest.raises(ValueError, match="points must be 'both', 'tracks' or 'dense', got 'all'"):
        to_reconstruction(scene, points="all")  # pyright: ignore[reportArgumentType]


def test_colmap_of_one_image_still_has_points(plane_scene):
    scene = replace(plane_scene, components=[[0, 1, 2], [3]])
    model = to_reconstruction(scene, component=1, max_points=300)
    assert model.num_reg_images() == 1 and model.num_points3D() > 100
    with pytest.raises(ValueError, match="component 2 does not exist"):
        to_reconstruction(scene, component=2)


def test_colmap_names_rotated_photos_or_turns_the_copies(plane_scene, tmp_path):
    plane_scene.save(tmp_path / "a", format="colmap", max_points=100)
    text = (tmp_path / "a" / "sparse" / "0" / "README.txt").read_text()
    assert "photo_2.jpg" in text and "photo_1.jpg" not in text and "OpenCV" in text
    plane_scene.save(tmp_path / "b", format="colmap", copy_images=True, max_points=100)
    assert "photo_2.jpg" not in (tmp_path / "b" / "sparse" / "0" / "README.txt").read_text()
    for k in range(4):
        copy, source = tmp_path / "b" / "images" / f"photo_{k}.jpg", plane_scene.views[k].path
        with Image.open(copy) as picture:
            assert picture.size == (256, 200)
            assert picture.getexif().get(0x0112, 1) == 1
        assert (copy.read_bytes() == source.read_bytes()) == (k != 2)
    assert not (tmp_path / "b" / "images" / "photo_4.jpg").exists()


def test_a_plain_folder_gets_the_model_and_the_scene(plane_scene, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    plane_scene.save(tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
    assert (tmp_path / "out" / "sparse" / "0" / "cameras.bin").exists()
    assert len(Scene.load(tmp_path / "out")) == 5


# -- nerfstudio ------------------------------------------------------------------------------------


def test_nerfstudio_frames_reproject_the_points(plane_scene, tmp_path):
    plane_scene.save(tmp_path / "out" / "transforms.json", copy_images=True)
    document = json.loads((tmp_path / "out" / "transforms.json").read_text())
    assert len(document["frames"]) == 4
    cloud = read_cloud(tmp_path / "out" / document["ply_file_path"])
    expected = plane_scene.point_cloud()
    for k, frame in enumerate(document["frames"]):
        with Image.open(tmp_path / "out" / frame["file_path"]) as picture:
            assert picture.size == (frame["w"], frame["h"])
        # OpenGL camera: x right, y up, looking along -z; written out on its own here
        camera_from_world = np.linalg.inv(frame["transform_matrix"])
        mine = np.asarray(cloud.vertices)[expected.view == k]
        x, y, z = (camera_from_world[:3, :3] @ mine.T) + camera_from_world[:3, 3:]
        assert (z < 0).all()
        u = frame["fl_x"] * x / -z + frame["cx"]
        v = frame["fl_y"] * -y / -z + frame["cy"]
        rows, columns = np.nonzero(plane_scene.valid(k))
        pixels = plane_scene.views[k].ledger.points_to_original(np.stack([columns, rows], -1) + 0.5)
        assert np.abs(np.stack([u, v], -1) - pixels).max() < 0.01


def test_nerfstudio_paths_lead_to_the_photos(plane_scene, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        plane_scene.save(tmp_path / "a" / "b" / "transforms.json")
    document = json.loads((tmp_path / "a" / "b" / "transforms.json").read_text())
    assert document["frames"][1]["file_path"] == "../../photos/photo_1.jpg"
    assert document["exif_rotated_images"] == ["photo_2.jpg"]
    assert "EXIF rotation, which nerfstudio ignores" in caplog.text
    plane_scene.save(tmp_path / "c", format="nerfstudio")
    assert (tmp_path / "c" / "transforms.json").exists()
    assert (tmp_path / "c" / "transforms_points.ply").exists()


def test_opengl_cameras_look_along_minus_z():
    pose = opengl_from_opencv_camera(np.eye(4))
    np.testing.assert_array_equal(pose, np.diag([1, -1, -1, 1]))


# -- files -----------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(plane_scene, tmp_path, monkeypatch):
    target = tmp_path / "a.npz"
    target.write_text("old")

    def fails(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fails)
    with pytest.raises(OSError, match="disk full"):
        plane_scene.save(target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "photos"]


def test_images_of_unwritable_formats_and_arrays_are_named_png(plane_scene):
    view = plane_scene.views[2]
    assert _files.exported_name(view) == "photo_2.jpg"
    assert _files.exported_name(replace(view, name="a/x.heic")) == "a/x.png"
    assert _files.exported_name(replace(plane_scene.views[0], name="a/x.heic")) == "a/x.heic"
    assert _files.exported_name(replace(view, name="image_0001", path=None)) == "image_0001.png"


@pytest.mark.parametrize("name", ["../x.jpg", "/x.jpg", "a/../../x.jpg", "a\\x.jpg"])
def test_names_that_leave_the_folder_are_refused(plane_scene, tmp_path, name):
    views = [replace(plane_scene.views[0], name=name), *plane_scene.views[1:]]
    scene = replace(plane_scene, views=views)
    with pytest.raises(ValueError, match="leads out of the exported folder"):
        scene.save(tmp_path / "out", format="colmap", copy_images=True)
    assert not (tmp_path / "x.jpg").exists()


def test_missing_photos_are_left_out_with_a_warning(plane_scene, tmp_path, caplog):
    plane_scene.views[1].path.unlink()
    with caplog.at_level("WARNING"):
        plane_scene.save(tmp_path / "out", format="colmap", copy_images=True)
    assert "photo_1.jpg: its file is not there" in caplog.text
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


@pytest.mark.parametrize(
    ("name", "format", "match"),
    [
        ("a.obj", None, r"cannot tell the format of 'a.obj' from its suffix; use .*\.glb"),
        ("a.glb", "usd", "unknown format 'usd'; there are glb, ply, npz, nerfstudio, html, colmap"),
        ("photos", "ply", r"is a folder; format 'ply' writes one file, name it \*.ply"),
        ("photos/photo_0.jpg", "colmap", "is a file, but format 'colmap' needs a folder"),
    ],
)
def test_targets_that_make_no_sense(plane_scene, tmp_path, name, format, match):
    with pytest.raises(ValueError, match=match):
        plane_scene.save(tmp_path / name, format)


@pytest.mark.parametrize("name", ["a.glb", "a.ply", "a.json", "folder"])
def test_a_scene_without_cameras_cannot_be_exported(plane_scene, tmp_path, name):
    scene = Scene(views=[replace(v, camera=None) for v in plane_scene.views])
    with pytest.raises(ValueError, match="no image could be placed|does not exist"):
        scene.save(tmp_path / name)


def test_a_format_overrides_the_suffix(plane_scene, tmp_path):
    plane_scene.save(tmp_path / "a.bin", "ply")
    assert (tmp_path / "a.bin").read_bytes().startswith(b"ply\n")


def test_no_warnings_escape(plane_scene, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.glb", "a.ply", "a.npz", "a.json", "folder"):
            plane_scene.save(Path(tmp_path / name))
