"""nerfstudio's transforms.json with a point cloud, for NeRF and Gaussian splatting."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._files import copy_upright, exported_name, rotated_images, written_at_once
from .ply import ply_comments, write_ply

if TYPE_CHECKING:
    from ..scene import Scene, SceneView

logger = logging.getLogger(__name__)


def save_nerfstudio(
    scene: Scene,
    path: Path,
    *,
    copy_images: bool = False,
    max_points: int | None = 500_000,
    component: int = 0,
    **selection: Any,
) -> Path:
    """Write transforms.json, and <stem>_points.ply beside it.

    Cameras have OpenGL axes (x right, y up, z backward), as nerfstudio wants them; the world frame,
    also that of the points, is the scene's own. Intrinsics are per image, in original pixels.

    Args:
        scene: what to write.
        path: the .json file.
        copy_images: copy the photos to "images/" beside it, turned upright where the file relies
            on an EXIF rotation (nerfstudio does not apply it). Otherwise the entries lead to the
            photos where they are, relative to `path`.
        max_points: budget of the point cloud.
        component: which component.
        **selection: `min_confidence`, `voxel`, `masks` of `Scene.point_cloud`.
    """
    cloud = scene.point_cloud(max_points=max_points, component=component, **selection)
    views = [scene.views[i] for i in scene.components[component]]
    if copy_images:
        for view in views:
            copy_upright(view, path.parent / "images")
    elif rotated_images(views):
        logger.warning(
            "these photos rely on their EXIF rotation, which nerfstudio ignores; save with "
            "copy_images=True: %s",
            ", ".join(rotated_images(views)),
        )
    points_path = path.with_name(f"{path.stem}_points.ply")
    write_ply(points_path, cloud, ply_comments(scene))
    document = {
        "camera_model": "OPENCV",
        "axes": "cameras OpenGL (x right, y up, z backward); world OpenCV of the first camera",
        "scale": scene.scale,
        "exif_rotated_images": [] if copy_images else rotated_images(views),
        "ply_file_path": points_path.name,
        "frames": [_frame(view, path.parent, copy_images) for view in views],
    }
    with written_at_once(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def opengl_from_opencv_camera(world_from_cam: np.ndarray) -> np.ndarray:
    """Camera-to-world with the camera's y and z axes reversed, the world as it was."""
    return world_from_cam @ np.diag([1.0, -1.0, -1.0, 1.0])


def _frame(view: SceneView, folder: Path, copied: bool) -> dict[str, Any]:
    camera = view.camera
    assert camera is not None  # members of a component have one
    return {
        "file_path": f"images/{exported_name(view)}" if copied else _relative(view, folder),
        "fl_x": float(camera.K[0, 0]),
        "fl_y": float(camera.K[1, 1]),
        "cx": float(camera.K[0, 2]),
        "cy": float(camera.K[1, 2]),
        "w": camera.width,
        "h": camera.height,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "transform_matrix": opengl_from_opencv_camera(camera.world_from_cam).tolist(),
    }


def _relative(view: SceneView, folder: Path) -> str:
    if view.path is None:
        return f"images/{exported_name(view)}"
    try:
        return Path(os.path.relpath(view.path, folder.absolute())).as_posix()
    except ValueError:  # another drive
        return view.path.as_posix()
