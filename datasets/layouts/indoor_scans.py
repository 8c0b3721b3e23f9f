"""ScanNet++ and ARKitScenes as prepared for training: rooms with metric depth.

    ScanNet++:    DIR/all_metadata.npz; SCENE/images/NAME.jpg, SCENE/depth/NAME.png (mm)
    ARKitScenes:  DIR/{Training,Test}/all_metadata.npz; SCENE/vga_wide/NAME.jpg,
                  SCENE/lowres_depth/NAME.png (mm, a quarter of the photo's size)

all_metadata.npz: `scenes`, `sceneids` and `images` (one entry a photo), `intrinsics`,
`trajectories` (camera-to-world), `pairs` (indices of photos). A trap: ARKitScenes counts pixel
centres at integers, ScanNet++ at half-integers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..depth_files import DepthFile
from ..posed_set import PosedSet, ViewEntry
from ..posed_view import K_from_integer_centres
from ._common import load_npz, pairs_by_key

_ARRAYS = ("scenes", "sceneids", "images", "intrinsics", "trajectories", "pairs")
_ARKIT_SPLITS = {"Training": "train", "Test": "test"}


def detect_scannetpp(folder: Path) -> bool:
    """Whether there are metadata and ScanNet++'s folders."""
    return (folder / "all_metadata.npz").is_file() and next(
        folder.glob("*/images"), None
    ) is not None


def detect_arkitscenes(folder: Path) -> bool:
    """Whether there are ARKitScenes' metadata."""
    return any((folder / name / "all_metadata.npz").is_file() for name in _ARKIT_SPLITS)


def read_scannetpp(folder: Path) -> PosedSet:
    """Read prepared ScanNet++.

    Raises:
        FileNotFoundError: there are no metadata.
        ValueError: they lack an array.
    """
    views, pairs = _read(folder, "", ("images", ".jpg"), ("depth", ".png"), integer_centres=False)
    scenes = tuple(dict.fromkeys(view.scene for view in views))
    return PosedSet(
        folder,
        "scannetpp",
        "metre",
        tuple(views),
        {"train": scenes},
        pairs_by_key(views, pairs),
    )


def read_arkitscenes(folder: Path) -> PosedSet:
    """Read prepared ARKitScenes, both splits; errors as of `read_scannetpp`."""
    views: list[ViewEntry] = []
    pairs: list[tuple[str, str, float]] = []
    splits = {}
    for part, split in _ARKIT_SPLITS.items():
        if not (folder / part / "all_metadata.npz").is_file():
            continue
        own, found = _read(
            folder / part,
            f"{part}/",
            ("vga_wide", ".jpg"),
            ("lowres_depth", ".png"),
            integer_centres=True,
        )
        views, pairs = views + own, pairs + found
        splits[split] = tuple(dict.fromkeys(view.scene for view in own))
    return PosedSet(
        folder, "arkitscenes", "metre", tuple(views), splits, pairs_by_key(views, pairs)
    )


def _read(
    folder: Path,
    prefix: str,
    photos: tuple[str, str],
    depths: tuple[str, str],
    integer_centres: bool,
) -> tuple[list[ViewEntry], list[tuple[str, str, float]]]:
    arrays = load_npz(folder / "all_metadata.npz", _ARRAYS)
    scenes = [str(scene) for scene in arrays["scenes"]]
    views = []
    for number, image in enumerate(arrays["images"]):
        scene, name = scenes[int(arrays["sceneids"][number])], Path(str(image)).stem
        K = arrays["intrinsics"][number].astype(np.float64)
        views.append(
            ViewEntry(
                scene=prefix + scene,
                name=name,
                image=folder / scene / photos[0] / (name + photos[1]),
                K=K_from_integer_centres(K) if integer_centres else K,
                world_from_cam=arrays["trajectories"][number].astype(np.float64),
                depth=DepthFile(folder / scene / depths[0] / (name + depths[1]), 1e-3),
            )
        )
    pairs = [
        (views[int(a)].key, views[int(b)].key, float("nan")) for a, b in arrays["pairs"][:, :2]
    ]
    order = sorted(range(len(views)), key=lambda k: (int(arrays["sceneids"][k]), k))
    return [views[k] for k in order], pairs
