"""nerfstudio: photos with a transforms.json, as its own tools and many capture apps write it.

    DIR/transforms.json  DIR/images/...  [DIR/depth/...]     (or one such folder for each scene)

Poses are camera-to-world with OpenGL axes; they are turned. Pixel centres are ours. Depth files
count `depth_unit_scale_factor` (0.001: millimetres).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..depth_files import DepthFile
from ..posed_set import PosedSet, ViewEntry
from ._common import load_json, picture_size

_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def scene_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a scene, else the scenes in it."""
    if (folder / "transforms.json").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/transforms.json"))


def detect(folder: Path) -> bool:
    """Whether there is a transforms.json."""
    return bool(scene_folders(folder))


def read(folder: Path) -> PosedSet:
    """Read one or several transforms.json of undistorted photos.

    The unit is the metre if a document says `"scale": "metric"` or has depth files.

    Raises:
        ValueError: a document does not say what it should, or has a lens distortion.
    """
    views: list[ViewEntry] = []
    metric = True
    for scene in scene_folders(folder):
        path = scene / "transforms.json"
        document = load_json(path)
        if not isinstance(document, Mapping) or not isinstance(document.get("frames"), list):
            raise ValueError(f"{path}: expected an object with a list of frames")
        entries = [
            _view({**document, **frame}, scene, f"{path}: frame {number}")
            for number, frame in enumerate(document["frames"])
        ]
        metric &= document.get("scale") == "metric" or any(e.depth is not None for e in entries)
        views += sorted(entries, key=lambda entry: entry.name)
    return PosedSet(folder, "nerfstudio", "metre" if metric else "arbitrary", tuple(views))


def _view(frame: Mapping[str, Any], folder: Path, where: str) -> ViewEntry:
    distorted = [key for key in _DISTORTION if frame.get(key)]
    if distorted or "FISHEYE" in str(frame.get("camera_model", "")):
        raise ValueError(
            f"{where}: the lens is distorted ({', '.join(distorted) or frame['camera_model']}), "
            "and data sets hold pinholes; undistort the photos first"
        )
    try:
        image = folder / str(frame["file_path"])
        matrix = np.array(frame["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected file_path and transform_matrix: {error!r}") from error
    if matrix.shape not in ((4, 4), (3, 4)):
        raise ValueError(f"{where}: transform_matrix must be 4x4, got {matrix.shape}")
    if not image.suffix:
        image = image.with_suffix(".png")
    size = (int(frame["h"]), int(frame["w"])) if "h" in frame and "w" in frame else None
    depth = frame.get("depth_file_path")
    return ViewEntry(
        scene=folder.name,
        name=Path(str(frame["file_path"])).stem,
        image=image,
        K=_intrinsics(frame, size or picture_size(image), where),
        world_from_cam=np.vstack([matrix[:3], [0, 0, 0, 1]]) @ _OPENCV_FROM_OPENGL,
        size=size,
        depth=None
        if depth is None
        else DepthFile(folder / str(depth), float(frame.get("depth_unit_scale_factor", 1e-3))),
    )


def _intrinsics(frame: Mapping[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    height, width = size
    fx = frame.get("fl_x")
    if fx is None and "camera_angle_x" in frame:
        fx = width / (2 * math.tan(float(frame["camera_angle_x"]) / 2))
    if fx is None:
        raise ValueError(f"{where}: neither fl_x nor camera_angle_x")
    fy = frame.get("fl_y", fx)
    cx, cy = frame.get("cx", width / 2), frame.get("cy", height / 2)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
