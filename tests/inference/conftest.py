"""A small scene with exact depth, whose photos lie on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.images import ImageProblem
from weav3r.inference.report import RejectedPair, SceneReport
from weav3r.inference.scene import Scene, SceneView

NORMAL, OFFSET = np.array([-0.15, 0.1, 1.0]), 4.0
"""The plane that all cameras see: NORMAL . x = OFFSET."""


def _camera(k: int) -> Camera:
    angle = 0.12 * k
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    center = np.array([0.4 * k, 0.05 * k, -0.1 * k])
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = rotation
    cam_from_world[:3, 3] = -rotation @ center
    K = np.array([[230.0 + k, 0, 125 + k], [0, 232.0 + k, 101 - k], [0, 0, 1]])
    return Camera(K=K, cam_from_world=cam_from_world, height=200, width=256)


def _view(k: int, folder: Path) -> SceneView:
    """Photo k: 256x200 upright; number 2 is stored turned, with EXIF orientation 6."""
    stored = (256, 200) if k == 2 else (200, 256)
    ledger = Ledger.from_file_size(*stored, exif_orientation=6 if k == 2 else 1)
    ledger = ledger.cropped(4, 0, 192, 256).resized(48, 64)
    camera = _camera(k)
    rows, columns = np.mgrid[:48, :64]
    xy = ledger.points_to_original(np.stack([columns + 0.5, rows + 0.5], -1))
    rays = camera.unproject(xy, np.ones((48, 64))) - camera.center
    depth = (OFFSET - camera.center @ NORMAL) / (rays @ NORMAL)
    points = camera.unproject(xy, depth)
    rgb = (127 + 100 * np.sin(2 * points)).astype(np.uint8)
    confidence = 1 + 4 * columns / 64
    depth[0, :5] = np.nan
    path = folder / f"photo_{k}.jpg"
    exif = Image.Exif()
    exif[0x0112] = ledger.exif_orientation
    picture = Image.fromarray(rgb).resize((256, 200))
    if k == 2:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    picture.save(path, exif=exif)
    return SceneView(
        name=path.name,
        path=path,
        ledger=ledger,
        camera=camera if k < 4 else None,
        rgb=rgb,
        depth=depth.astype(np.float32),
        confidence=confidence.astype(np.float32),
    )


@pytest.fixture
def plane_scene(tmp_path: Path) -> Scene:
    """Four placed views of a plane and one that is not; photos in tmp_path/photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    views = [_view(k, folder) for k in range(5)]
    report = SceneReport(
        images=[view.name for view in views],
        problems=[
            ImageProblem("x.jpg", "is an empty file"),
            ImageProblem("photo_0.jpg", "has 2 frames; only the first is used", skipped=False),
        ],
        pairs=[(0, 1), (1, 2), (2, 3)],
        rejected=[RejectedPair("photo_3.jpg", "photo_4.jpg", "only 3 of 90 matches fit")],
        components=[[view.name for view in views[:4]]],
        timings_s={"encode": 1.25, "align": 0.5},
        warnings=["few matches"],
        model="weav3r-small",
        settings={"size": 64, "graph": "auto"},
    )
    return Scene(views=views, report=report)
