"""Known cameras in the one-call API and on the command line, with real photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import weav3r
from weav3r.cli import app
from weav3r.models import TwoViewModel

SIZE = 192


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return weav3r.load_model("weav3r-small", device="cpu")


def toy() -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Two photos of a stereo head, their K and the pose of the second in metres."""
    folder = weav3r.example_photos()["toy"]
    truth = json.loads((folder.parent / "calibration.json").read_text())
    pose = np.eye(4)
    pose[:3] = np.array(truth["cam2_from_cam1"])[:3]
    return sorted(folder.glob("*.jpg")), np.array(truth["K"]), pose


def test_known_values_of_real_photos_come_back_bit_for_bit(model: TwoViewModel) -> None:
    photos, K, pose = toy()
    with Image.open(photos[0]) as photo:
        depth = np.full((photo.height, photo.width), np.nan, np.float32)
    depth[:50] = 3.25
    mask = np.ones(depth.shape, bool)
    mask[:, -20:] = False
    known = weav3r.Known(
        {
            photos[0].name: weav3r.KnownView(K=K, cam_from_world=np.eye(4), depth=depth),
            photos[1].name: weav3r.KnownView(K=K, cam_from_world=pose, mask=mask),
        },
        metric=True,
    )
    scene = weav3r.reconstruct(photos, model, size=SIZE, known=known, progress=False)
    assert scene.scale == "metric" and scene.components == [[0, 1]]
    for camera, given in zip(scene.cameras, (np.eye(4), pose), strict=True):
        assert camera is not None
        assert np.array_equal(camera.K, K) and np.array_equal(camera.cam_from_world, given)
    top = int(40 * SIZE / max(depth.shape))
    assert (scene.depth(0)[:top] == 3.25).all() and np.isnan(scene.depth(1)[:, -3:]).all()
    used = {"intrinsics": 2, "poses": 2, "depths": 1, "masks": 1, "distances": 0}
    assert scene.report.settings["known"] == {k: v for k, v in used.items() if v}


def test_an_inverse_pose_of_real_photos_is_named(model: TwoViewModel) -> None:
    photos, K, pose = toy()
    known = {
        photos[0].name: {"K": K, "cam_from_world": np.eye(4)},
        photos[1].name: {"K": K, "cam_from_world": np.linalg.inv(pose)},
    }
    with pytest.raises(ValueError, match=r"behind the cameras, but .* world_from_cam; give the"):
        weav3r.reconstruct(photos, model, size=SIZE, known=known, progress=False)


def test_the_command_reads_known_cameras(tmp_path: Path) -> None:
    photos, K, _ = toy()
    wrong = tmp_path / "K.txt"
    np.savetxt(wrong, K.T)
    out = ["-o", str(tmp_path / "scene.ply"), "--quiet", "--size", "64"]
    arguments = ["reconstruct", *map(str, photos), *out]
    result = CliRunner().invoke(app, [*arguments, "--known", str(wrong)])
    assert isinstance(result.exception, ValueError) and "K is transposed" in str(result.exception)
    result = CliRunner().invoke(app, [*arguments, "--focal", "3.5"])
    assert "likely in millimetres" in str(result.exception)
