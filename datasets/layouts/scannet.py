"""ScanNet's sequences as its own exporter unpacks them, and captures stored in the same way.

    DIR/color/N.jpg  DIR/depth/N.png  DIR/pose/N.txt  DIR/intrinsic/intrinsic_color.txt

or one such folder for each scene. Poses are camera-to-world with OpenCV axes; lost frames hold
-inf. Depth is in millimetres and smaller than the photo. Pixel centres are taken to be at integers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..depth_files import DepthFile
from ..posed_set import PosedSet, ViewEntry, nan_pose
from ..posed_view import K_from_integer_centres
from ._common import load_numbers


def scene_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a scene, else the scenes in it."""
    if (folder / "pose").is_dir() and (folder / "color").is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/pose") if (path.parent / "color").is_dir())


def detect(folder: Path) -> bool:
    """Whether there are the folders of an unpacked scene."""
    return bool(scene_folders(folder))


def read(folder: Path) -> PosedSet:
    """Read unpacked scenes.

    Raises:
        FileNotFoundError: the intrinsics are missing.
        ValueError: a text file does not hold a matrix.
    """
    views: list[ViewEntry] = []
    for scene in scene_folders(folder):
        K = load_numbers(scene / "intrinsic" / "intrinsic_color.txt")
        if K.shape[0] < 3 or K.shape[1] < 3:
            raise ValueError(f"{scene}/intrinsic/intrinsic_color.txt: expected a 4x4 or 3x3 matrix")
        K = K_from_integer_centres(K[:3, :3])
        poses = {path.stem: path for path in (scene / "pose").glob("*.txt")}
        for name in sorted(poses, key=_by_number):
            pose = load_numbers(poses[name], 4)
            image = scene / "color" / f"{name}.jpg"
            if not image.is_file() and image.with_suffix(".png").is_file():
                image = image.with_suffix(".png")
            views.append(
                ViewEntry(
                    scene=scene.name,
                    name=name,
                    image=image,
                    K=K,
                    world_from_cam=pose if np.isfinite(pose).all() else nan_pose(),
                    depth=DepthFile(scene / "depth" / f"{name}.png", 1e-3),
                )
            )
    return PosedSet(folder, "scannet", "metre", tuple(views))


def _by_number(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdigit() else (1 << 60, name)
