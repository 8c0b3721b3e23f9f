"""Photos to a scene with the bundled checkpoint: real photographs, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

import weav3r
from weav3r.inference import pipeline
from weav3r.models import PRESETS, TwoViewModel

SIZE = 256


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return weav3r.load_model("weav3r-small", device="cpu")


@pytest.fixture(scope="module")
def toy(model: TwoViewModel) -> weav3r.Scene:
    return weav3r.reconstruct(weav3r.example_photos()["toy"], model, size=SIZE, progress=False)


def calibration() -> dict:
    file = weav3r.example_photos()["toy"].parent / "calibration.json"
    return json.loads(file.read_text())


def test_a_stereo_pair_gives_two_cameras_and_dense_depth(toy: weav3r.Scene) -> None:
    assert toy.components == [[0, 1]] and toy.report.unregistered == []
    first, second = toy.cameras
    assert first is not None and second is not None
    with Image.open(next(iter(weav3r.example_photos()["toy"].glob("*.jpg")))) as photo:
        assert (first.width, first.height) == photo.size
    assert np.allclose(first.cam_from_world, np.eye(4))
    # the two cameras of the stereo head look the same way
    angle = np.degrees(np.arccos(np.clip((np.trace(second.cam_from_world[:3, :3]) - 1) / 2, -1, 1)))
    assert angle < 4
    for i in range(2):
        depth, confidence = toy.depth(i), toy.confidence(i)
        assert np.isfinite(depth).mean() > 0.99 and (depth > 0).all()
        assert (confidence >= 1).all() and confidence.max() > 2


def test_the_second_stereo_camera_is_to_the_right(toy: weav3r.Scene) -> None:
    second = toy.cameras[1]
    assert second is not None
    truth = np.array(calibration()["cam2_from_cam1"])
    true_center = -truth[:3, :3].T @ truth[:3, 3]
    cosine = second.center @ true_center
    cosine /= np.linalg.norm(second.center) * np.linalg.norm(true_center)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 30


def test_the_same_photos_give_the_same_scene(model: TwoViewModel, toy: weav3r.Scene) -> None:
    again = weav3r.reconstruct(weav3r.example_photos()["toy"], model, size=SIZE, progress=False)
    assert np.array_equal(toy.depth(0), again.depth(0))
    assert np.array_equal(toy.cameras[1].cam_from_world, again.cameras[1].cam_from_world)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["scene.glb", "scene.ply", "scene.npz", "transforms.json", "out"])
def test_every_format_is_written(toy: weav3r.Scene, tmp_path: Path, name: str) -> None:
    toy.save(tmp_path / name)
    assert (tmp_path / name).exists()
    if name == "scene.glb":
        loaded = trimesh.load(tmp_path / name)
        assert len(loaded.geometry) >= 2  # type: ignore[union-attr]
    if name == "scene.npz":
        back = weav3r.Scene.load(tmp_path / name)
        assert np.array_equal(back.depth(1), toy.depth(1))


def test_one_photo_is_enough_for_a_guess(model: TwoViewModel) -> None:
    photo = sorted(weav3r.example_photos()["leuven"].glob("*.jpg"))[0]
    scene = weav3r.reconstruct([photo], model, size=SIZE, progress=False)
    assert len(scene) == 1 and scene.cameras[0] is not None
    assert np.isfinite(scene.depth(0)).all()
    assert any("one photo only" in w for w in scene.report.warnings)


def test_an_unrelated_photo_is_left_out_and_named(model: TwoViewModel, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    photos = [*sorted(weav3r.example_photos()["toy"].glob("*.jpg")), tmp_path / "noise.png"]
    scene = weav3r.reconstruct(photos, model, size=SIZE, progress=False)
    assert scene.components == [[0, 1], [2]]  # with a camera of its own
    assert scene.cameras[2] is not None and np.isfinite(scene.depth(2)).all()
    assert scene.report.unregistered == ["noise.png"]
    assert any("noise.png" in r.second for r in scene.report.rejected)


def test_two_photos_of_different_places_are_not_joined_by_matches(model: TwoViewModel) -> None:
    examples = weav3r.example_photos()
    photos = [sorted(examples[name].glob("*.jpg"))[0] for name in ("living_room", "toy")]
    scene = weav3r.reconstruct(photos, model, size=SIZE, progress=False)
    assert scene.components == [[0], [1]]
    assert len(scene.report.rejected) == 1
    assert scene.report.unregistered == scene.images
    assert any("joined with no other photo" in w for w in scene.report.warnings)
    assert all(camera is not None for camera in scene.cameras)
    assert len(scene.point_cloud(component=1)) > 1000


def test_the_pointmap_road_gives_a_scene_too(model: TwoViewModel) -> None:
    scene = weav3r.reconstruct(
        weav3r.example_photos()["toy"],
        model,
        size=SIZE,
        cameras="pointmaps",
        depth="pointmaps",
        progress=False,
    )
    assert scene.components == [[0, 1]] and scene.report.settings["cameras"] == "pointmaps"
    assert np.isfinite(scene.depth(0)).mean() > 0.99


def test_kept_maps_save_a_second_decoding(
    model: TwoViewModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = weav3r.example_photos()["toy"]
    options = {"cameras": "pointmaps", "depth": "pointmaps", "size": 128, "progress": False}
    decoded = []
    original = pipeline._predict_directed
    monkeypatch.setattr(
        pipeline, "_predict_directed", lambda *a: decoded.append(a[1:]) or original(*a)
    )
    kept = weav3r.reconstruct(photos, model, **options)
    assert decoded == []
    monkeypatch.setattr(pipeline, "OWN_MAPS_BYTES", 0)
    again = weav3r.reconstruct(photos, model, **options)
    assert sorted(decoded) == [(0, 1), (1, 0)]
    for i in range(2):
        np.testing.assert_allclose(kept.depth(i), again.depth(i), rtol=1e-4)


def test_progress_is_reported(model: TwoViewModel) -> None:
    calls: list[tuple[str, int, int]] = []
    weav3r.reconstruct(
        weav3r.example_photos()["toy"],
        model,
        size=128,
        progress=lambda *call: calls.append(call),
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert stages == ["photos", "encode", "decode and match", "cameras", "depth"]
    assert all(done <= total for _, done, total in calls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": "magic"}, "cameras must be one of"),
        ({"depth": "magic"}, "depth must be one of"),
        ({"graph": "magic"}, "magic"),
        ({"size": 0}, "at least two patches of 16 px, got size=0"),
        ({"size": 100_000}, "size=100000 is more than"),
    ],
)
def test_unknown_options_are_named(model: TwoViewModel, options: dict, message: str) -> None:
    options = {"size": SIZE, "progress": False} | options
    with pytest.raises(ValueError, match=message):
        weav3r.reconstruct(weav3r.example_photos()["toy"], model, **options)


def test_matching_refuses_a_size_of_zero(model: TwoViewModel) -> None:
    left, right = sorted(weav3r.example_photos()["toy"].glob("*.jpg"))
    with pytest.raises(ValueError, match="got size=0"):
        weav3r.match(left, right, model, size=0)


def test_a_network_without_descriptors_refuses_the_roads_that_need_them() -> None:
    import dataclasses

    config = dataclasses.replace(
        PRESETS["dust3r-224-linear"],
        encoder_dim=32,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=2,
    )
    small = TwoViewModel(config).eval()
    photos = weav3r.example_photos()["toy"]
    with pytest.raises(ValueError, match="predicts no descriptors"):
        weav3r.reconstruct(photos, small, cameras="matches", progress=False)


def test_match_two_photos(model: TwoViewModel, tmp_path: Path) -> None:
    left, right = sorted(weav3r.example_photos()["toy"].glob("*.jpg"))
    pair = weav3r.match(left, right, model, size=SIZE)
    assert len(pair.matches) > 200
    K = np.array(calibration()["K"])
    pose = pair.relative_pose(K, K)
    assert pose and pose.num_inliers > 0.3 * len(pair.matches)
    # rectified: corresponding points lie on the same row
    inliers = pose.inliers
    assert np.median(np.abs(pair.xy1[inliers, 1] - pair.xy2[inliers, 1])) < 3
    for name in ("m.npz", "m.csv", "new/folder/m.png"):
        pair.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 100
    with pytest.raises(ValueError, match="use .npz, .csv or .png"):
        pair.save(tmp_path / "m.txt")
    with pytest.raises(ValueError, match="both K1 and K2"):
        pair.relative_pose(K1=K)
    assert "matches" in pair.summary()


def test_matching_names_a_bad_photo(model: TwoViewModel, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("this is not a picture")
    good = sorted(weav3r.example_photos()["toy"].glob("*.jpg"))[0]
    with pytest.raises(ValueError, match="bad.jpg"):
        weav3r.match(good, bad, model)
