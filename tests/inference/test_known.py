"""What the user knows: which photo it belongs to, how firmly it holds, and where it comes from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from weav3r.geometry.ledger import Ledger
from weav3r.inference.export.colmap import save_colmap, to_reconstruction
from weav3r.inference.export.nerfstudio import save_nerfstudio
from weav3r.inference.images import View
from weav3r.inference.known.conventions import ConventionError
from weav3r.inference.known.files import read_cameras_json, read_colmap, read_known, read_nerfstudio
from weav3r.inference.known.values import (
    FIXED,
    FREE,
    Known,
    KnownView,
    Trust,
    as_known,
    at_network_size,
    prior,
    resolve,
    with_masks,
)
from weav3r.inference.scene import Scene

HEIGHT, WIDTH = 60, 80
K = np.array([[90.0, 0, 40.5], [0, 91.0, 29.5], [0, 0, 1]])


def view(name: str, mask: torch.Tensor | None = None) -> View:
    ledger = Ledger.from_file_size(HEIGHT, WIDTH).resized(30, 40)
    return View(name, None, torch.zeros(3, 30, 40), ledger, mask=mask)


VIEWS = [view("a.jpg"), view("left/b.jpg"), view("right/b.jpg")]


# -- what belongs to which photo -------------------------------------------------------------------


def test_entries_find_their_photos_by_name() -> None:
    entries = {"photos/a.jpg": {"focal_px": 100}, "left/b.png": {"K": K}, "x.jpg": {"K": K}}
    given = resolve(as_known(entries), VIEWS)
    assert sorted(given.views) == [0, 1]
    assert np.array_equal(given.views[0].K, [[100, 0, 40], [0, 100, 30], [0, 0, 1]])  # type: ignore[arg-type]
    assert np.array_equal(given.views[1].K, K)  # type: ignore[arg-type]
    assert given.warnings == ["known describes photos that are not here: x.jpg"]
    assert given.summary() == {"intrinsics": 2}


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"b.jpg": {"K": K}}, "fits several photos: left/b.jpg, right/b.jpg; add its folder"),
        ({"x.jpg": {"K": K}}, "none of its 1 names is a photo; it has x.jpg, the photos are a.jpg"),
        ({"a.jpg": {"K": K}, "p/a.jpg": {"K": K}}, "two entries describe the photo a.jpg"),
        ({"a.jpg": {"K": K, "focal_px": 3}}, "a.jpg: give K or focal_px, not both"),
        ({"a.jpg": {"focal": 3}}, "a.jpg: focal is unknown; there are focal_px, K, size"),
        ({"a.jpg": {"mask": np.zeros((HEIGHT, WIDTH))}}, "that leaves some pixels"),
        ({"a.jpg": {"mask": np.ones((WIDTH, HEIGHT))}}, "the mask is for swapped width and height"),
        ({"a.jpg": {"K": K, "size": (120, 160)}}, "K is for another image size: about 160x120"),
        (Known(distances={("a.jpg", "z.jpg"): 1.0}), "needs two photos of the set"),
        (Known(distances={("a.jpg", "left/b.jpg"): -1.0}), "must be positive"),
    ],
)
def test_wrong_entries_are_named(known: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(as_known(known), VIEWS)  # type: ignore[arg-type]


def test_what_is_no_knowledge_is_refused() -> None:
    with pytest.raises(TypeError, match="got int"):
        as_known(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a.jpg: expected a KnownView or a dict, got float"):
        as_known({"a.jpg": 1.0})
    with pytest.raises(ValueError, match="must not be negative"):
        Trust(-1.0)
    for sigma in (0.0, math.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            prior(sigma)


def test_a_focal_length_for_all_fills_the_gaps() -> None:
    given = resolve(as_known({"a.jpg": {"K": K}}, focal_px=77.0), VIEWS)
    assert [given.views[i].K[0, 0] for i in range(3)] == [90, 77, 77]  # type: ignore[index]
    assert resolve(as_known(None), VIEWS).views == {}


def test_trust_decides_what_is_fixed_and_what_is_ignored() -> None:
    pose = np.eye(4)
    entry = KnownView(K=K, cam_from_world=pose, intrinsics_trust=prior(3), pose_trust=FREE)
    given = resolve(Known({"a.jpg": entry}), VIEWS)
    assert given.views[0].fixed_K is None and 0 in given.intrinsics and given.poses == {}
    fixed = resolve(Known({"a.jpg": KnownView(cam_from_world=pose)}), VIEWS)
    assert fixed.views[0].pose_trust == FIXED and sorted(fixed.fixed_poses) == [0]
    assert resolve(Known({"a.jpg": KnownView(K=K, intrinsics_trust=FREE)}), VIEWS).views == {}


def test_masks_join_the_transparency_and_leave_something() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, :40] = True
    opaque = torch.zeros(30, 40, dtype=torch.bool)
    opaque[:15] = True
    views = [view("a.jpg", opaque), view("c.jpg")]
    known = {"a.jpg": {"mask": mask}, "c.jpg": {"mask": mask}}
    masked = with_masks(views, resolve(as_known(known), views))
    assert masked[0].mask is not None and masked[1].mask is not None
    assert masked[0].mask.sum() == 15 * 20 and masked[1].mask.sum() == 30 * 20
    nothing = {"a.jpg": {"mask": np.roll(mask, 40, 1)}}
    opaque[:, 20:] = False
    with pytest.raises(ValueError, match="a.jpg: the mask leaves no pixel"):
        with_masks(views, resolve(as_known(nothing), views))


def test_maps_are_taken_at_the_network_s_pixels_unchanged() -> None:
    depth = np.random.default_rng(0).uniform(1, 9, (HEIGHT, WIDTH)).astype(np.float32)
    small = at_network_size(VIEWS[0], depth)
    assert small.shape == (30, 40) and np.isin(small, depth).all()
    assert small[3, 5] == depth[7, 11]  # the pixel centre (11, 7) belongs to the pixel after it


# -- files -----------------------------------------------------------------------------------------


def assert_same_cameras(known: Known, scene: Scene, exact: bool) -> None:
    members = [scene.views[i] for i in scene.components[0]]
    assert len(known.views) == len(members)
    by_stem = {Path(name).stem: entry for name, entry in known.views.items()}
    for member in members:
        entry, camera = by_stem[Path(member.name).stem], member.camera
        assert camera is not None and entry.size == (camera.height, camera.width)
        assert np.array_equal(entry.K, camera.K)
        atol = 0 if exact else 1e-12  # a quaternion, or an inversion, in between
        np.testing.assert_allclose(entry.cam_from_world, camera.cam_from_world, rtol=0, atol=atol)


def test_colmap_models_come_back(plane_scene: Scene, tmp_path: Path) -> None:
    save_colmap(plane_scene, tmp_path / "model", max_points=50)
    assert_same_cameras(read_known(tmp_path / "model"), plane_scene, exact=False)
    text = tmp_path / "text"
    text.mkdir()
    to_reconstruction(plane_scene, max_points=50).write_text(text)
    assert_same_cameras(read_colmap(text), plane_scene, exact=False)


def test_a_distorted_camera_is_refused_with_its_name(plane_scene: Scene, tmp_path: Path) -> None:
    model = to_reconstruction(plane_scene, max_points=20)
    camera = next(iter(model.cameras.values()))
    camera.model = pycolmap.CameraModelId.SIMPLE_RADIAL
    for k1, refused in ((0.0, False), (0.1, True)):
        camera.params = [230.0, 128.0, 100.0, k1]
        model.write(tmp_path)
        if refused:
            with pytest.raises(ValueError, match="SIMPLE_RADIAL with lens .* image_undistorter"):
                read_colmap(tmp_path)
        else:
            assert read_colmap(tmp_path).views


def test_unreadable_colmap_models_are_named(tmp_path: Path) -> None:
    pycolmap.Reconstruction().write(tmp_path)
    with pytest.raises(ValueError, match="without any registered image"):
        read_colmap(tmp_path)
    (tmp_path / "cameras.bin").write_bytes(b"\x09")
    with pytest.raises(ValueError, match="no readable COLMAP model"):
        read_known(tmp_path)


def test_transforms_come_back(plane_scene: Scene, tmp_path: Path) -> None:
    save_nerfstudio(plane_scene, tmp_path / "transforms.json", max_points=10)
    known = read_known(tmp_path)
    assert_same_cameras(known, plane_scene, exact=False)
    given = resolve(known, _views(plane_scene))
    assert len(given.fixed_poses) == 4


def _views(scene: Scene) -> list[View]:
    blank = torch.zeros(3, 48, 64)
    return [View(v.name, v.path, blank, v.ledger) for v in scene.views]


def transforms(tmp_path: Path, **changes: object) -> Path:
    frame = {"file_path": "images/a.jpg", "transform_matrix": np.eye(4).tolist()}
    document = {"fl_x": 90.0, "w": WIDTH, "h": HEIGHT, "frames": [frame]}
    for key, value in changes.items():
        target = frame if key in ("transform_matrix", "mask_path", "depth_file_path") else document
        target[key] = value
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(document))
    return path


def test_shared_intrinsics_masks_and_depths_of_transforms(tmp_path: Path) -> None:
    millimetres = np.full((HEIGHT, WIDTH), 1500, np.uint16)
    Image.fromarray(millimetres).save(tmp_path / "d.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "m.png")
    known = read_nerfstudio(
        transforms(tmp_path, mask_path="m.png", depth_file_path="d.png", scale="metric")
    )
    (entry,) = known.views.values()
    assert np.array_equal(entry.K, [[90, 0, 40], [0, 90, 30], [0, 0, 1]]) and known.metric
    assert entry.mask.all() and np.allclose(entry.depth, 1.5)
    assert np.array_equal(entry.cam_from_world, np.diag([1.0, -1, -1, 1]))
    wide = read_nerfstudio(transforms(tmp_path, fl_x=None, camera_angle_x=math.pi / 2))
    assert next(iter(wide.views.values())).K[0, 0] == pytest.approx(WIDTH / 2)
    bare = read_nerfstudio(transforms(tmp_path, fl_x=None))
    assert next(iter(bare.views.values())).K is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1": 0.1}, "camera model OPENCV with k1, .* undistort"),
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE which is no pinhole"),
        ({"w": None, "frames": []}, "lists no frames"),
        ({"frames": [{}]}, "frame 0 has no file_path"),
        ({"transform_matrix": [[1, 2]]}, "must be 4x4"),
        ({"transform_matrix": "none"}, "must be a matrix of numbers"),
        ({"transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}, "left-handed"),
    ],
)
def test_damaged_transforms_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_nerfstudio(transforms(tmp_path, **changes))


def test_transforms_without_a_size_or_file_are_refused(tmp_path: Path) -> None:
    path = transforms(tmp_path)
    document = json.loads(path.read_text())
    del document["w"]
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="focal length without w, h or cx, cy"):
        read_nerfstudio(path)
    with pytest.raises(FileNotFoundError, match=r"names gone.png, which does not exist"):
        read_nerfstudio(transforms(tmp_path, mask_path="gone.png"))


def test_cameras_json_says_everything(tmp_path: Path) -> None:
    depth = np.full((HEIGHT, WIDTH), 2.5, np.float32)
    np.save(tmp_path / "d.npy", depth)
    np.save(tmp_path / "m.npy", depth > 0)
    document = {
        "metric": True,
        "default": {"focal_px": 95, "intrinsics_sigma": 4},
        "images": {
            "a.jpg": {
                "K": K.tolist(), "size": [HEIGHT, WIDTH], "depth": "d.npy", "mask": "m.npy",
                "cam_from_world": np.eye(4).tolist(), "pose_sigma": 0.1, "depth_sigma": 0.02,
            }
        },
        "distances": [["a.jpg", "left/b.jpg", 1.25]],
    }  # fmt: skip
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(document))
    known = read_known(path)
    given = resolve(known, VIEWS)
    first = given.views[0]
    assert given.metric and given.distances == {(0, 1): 1.25}
    assert first.fixed_K is not None and first.pose_trust.sigma == 0.1
    assert first.depth_trust.sigma == 0.02 and np.array_equal(first.depth, depth)  # type: ignore[arg-type]
    assert given.views[2].intrinsics_trust.sigma == 4
    assert given.summary() == {
        "intrinsics": 3, "poses": 1, "depths": 1, "masks": 1, "distances": 1
    }  # fmt: skip
    assert read_cameras_json(path).source == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no readable JSON"),
        ("[1]", "expected an object, got list"),
        ('{"cameras": 1}', "cameras is unknown; a cameras.json has metric"),
        ('{"distances": [3]}', "distances must be a list"),
        ('{"images": {"a.jpg": {"fov": 3}}}', "a.jpg: fov is unknown"),
        ('{"images": {"a.jpg": {"K": "x"}}}', "K must be a matrix of numbers"),
    ],
)
def test_damaged_cameras_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cameras.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_known(path)


def test_one_K_for_all_photos_from_text_or_json(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "K.txt", K)
    (tmp_path / "K.json").write_text(json.dumps({"K": K.tolist()}))
    for name in ("K.txt", "K.json"):
        given = resolve(read_known(tmp_path / name), VIEWS)
        assert all(np.array_equal(given.views[i].K, K) for i in range(3))  # type: ignore[arg-type]
    (tmp_path / "K.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match="expected the nine numbers of one K"):
        read_known(tmp_path / "K.txt")


def test_missing_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_known(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no known cameras: looked for a COLMAP model"):
        as_known(tmp_path)


def test_a_convention_error_is_a_value_error_with_a_name() -> None:
    error = ConventionError("opengl", "text")
    assert isinstance(error, ValueError) and (error.convention, str(error)) == ("opengl", "text")
