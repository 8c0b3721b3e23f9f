"""Waymo's perception recordings as prepared for training: five cameras of a car, LiDAR depth.

    DIR/waymo_pairs.npz (`scenes`, `frames`, `pairs`: scene, photo, photo)
    DIR/RECORD/FRAME.{jpg,exr,npz}   with `intrinsics`, `cam2world`; FRAME is "time_camera"

Metres, camera-to-world, pixel centres at integers. The depth is sparse: one pixel in a hundred.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..depth_files import DepthFile
from ..posed_set import PosedSet, ViewEntry
from ..posed_view import K_from_integer_centres
from ._common import load_npz, pairs_by_key


def detect(folder: Path) -> bool:
    """Whether there is its list of pairs."""
    return (folder / "waymo_pairs.npz").is_file()


def read(folder: Path) -> PosedSet:
    """Read prepared Waymo recordings.

    Raises:
        FileNotFoundError: the list or the camera of a listed photo is missing.
        ValueError: one of them cannot be read.
    """
    arrays = load_npz(folder / "waymo_pairs.npz", ("scenes", "frames", "pairs"))
    scenes, frames = ([str(v) for v in arrays[name]] for name in ("scenes", "frames"))
    rows = [tuple(int(v) for v in row) for row in arrays["pairs"]]
    views = []
    for scene, frame in sorted({(row[0], row[k]) for row in rows for k in (1, 2)}):
        stem = folder / scenes[scene] / frames[frame]
        camera = load_npz(stem.with_name(stem.name + ".npz"), ("intrinsics", "cam2world"))
        views.append(
            ViewEntry(
                scene=scenes[scene],
                name=frames[frame],
                image=stem.with_name(stem.name + ".jpg"),
                K=K_from_integer_centres(camera["intrinsics"]),
                world_from_cam=camera["cam2world"].astype(np.float64),
                depth=DepthFile(stem.with_name(stem.name + ".exr")),
            )
        )
    keys = (
        (f"{scenes[s]}/{frames[a]}", f"{scenes[s]}/{frames[b]}", float("nan")) for s, a, b in rows
    )
    return PosedSet(folder, "waymo", "metre", tuple(views), pairs=pairs_by_key(views, keys))
