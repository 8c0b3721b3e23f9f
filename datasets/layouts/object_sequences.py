"""Co3D v2 and WildRGB-D as prepared for training: turns around objects, with masks.

    DIR/selected_seqs_{train,test}.json        {category: {sequence: [frame numbers]}}
    Co3D:       CAT/SEQ/images/frameNNNNNN.{jpg,npz}, depths/frameNNNNNN.jpg.geometric.png,
                masks/frameNNNNNN.png; depth = stored / 65535 * maximum_depth, unit arbitrary
    WildRGB-D:  CAT/SEQ/rgb/NNNNN.jpg, depth/NNNNN.png (mm), masks/, metadata/NNNNN.npz; metres

The .npz hold `camera_pose` (camera-to-world) and `camera_intrinsics` with pixel centres at
integers. What lies outside the mask gets no depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..depth_files import DepthFile
from ..pair_table import PairTable
from ..posed_set import PosedSet, ViewEntry
from ..posed_view import K_from_integer_centres
from ._common import load_json, load_npz, pairs_by_key

GAPS = range(5, 31, 5)
"""Differences of frame positions that the published lists pair."""

_SPLITS = ("train", "test")


def _has_lists(folder: Path) -> bool:
    return any((folder / f"selected_seqs_{split}.json").is_file() for split in _SPLITS)


def detect_co3d(folder: Path) -> bool:
    """Whether there are lists of sequences and Co3D's depth folders."""
    return _has_lists(folder) and next(folder.glob("*/*/depths"), None) is not None


def detect_wildrgbd(folder: Path) -> bool:
    """Whether there are lists of sequences and WildRGB-D's metadata folders."""
    return _has_lists(folder) and next(folder.glob("*/*/metadata"), None) is not None


def read_co3d(folder: Path) -> PosedSet:
    """Read prepared Co3D v2.

    Raises:
        FileNotFoundError: the camera of a listed frame is missing.
        ValueError: a list or a camera cannot be read.
    """

    def view(scene: str, frame: int) -> ViewEntry:
        place, name = folder / scene, f"frame{frame:06d}"
        arrays = load_npz(
            place / "images" / f"{name}.npz",
            ("camera_pose", "camera_intrinsics", "maximum_depth"),
        )
        depth = place / "depths" / f"{name}.jpg.geometric.png"
        return ViewEntry(
            scene=scene,
            name=name,
            image=place / "images" / f"{name}.jpg",
            K=K_from_integer_centres(arrays["camera_intrinsics"]),
            world_from_cam=arrays["camera_pose"].astype(float),
            depth=DepthFile(depth, float(arrays["maximum_depth"]) / 65535),
            mask=place / "masks" / f"{name}.png",
        )

    return _read(folder, "co3d", view)


def read_wildrgbd(folder: Path) -> PosedSet:
    """Read prepared WildRGB-D; errors as of `read_co3d`."""

    def view(scene: str, frame: int) -> ViewEntry:
        place, name = folder / scene, f"{frame:05d}"
        names = ("camera_pose", "camera_intrinsics")
        arrays = load_npz(place / "metadata" / f"{name}.npz", names)
        return ViewEntry(
            scene=scene,
            name=name,
            image=place / "rgb" / f"{name}.jpg",
            K=K_from_integer_centres(arrays["camera_intrinsics"]),
            world_from_cam=arrays["camera_pose"].astype(float),
            depth=DepthFile(place / "depth" / f"{name}.png", 1e-3),
            mask=place / "masks" / f"{name}.png",
        )

    return _read(folder, "wildrgbd", view)


def _read(folder: Path, layout: str, view: Callable[[str, int], ViewEntry]) -> PosedSet:
    views: list[ViewEntry] = []
    splits: dict[str, tuple[str, ...]] = {}
    for split in _SPLITS:
        path = folder / f"selected_seqs_{split}.json"
        if not path.is_file():
            continue
        selected = load_json(path)
        names = []
        for category, sequences in selected.items():
            for sequence, frames in sequences.items():
                scene = f"{category}/{sequence}"
                names.append(scene)
                views += [view(scene, int(frame)) for frame in frames]
        splits[split] = tuple(names)
    unit = "metre" if layout == "wildrgbd" else "arbitrary"
    return PosedSet(folder, layout, unit, tuple(views), splits, _pairs(views))


def _pairs(views: list[ViewEntry]) -> PairTable | None:
    def found() -> Iterator[tuple[str, str, float]]:
        scenes: dict[str, list[str]] = {}
        for view in views:
            scenes.setdefault(view.scene, []).append(view.key)
        for keys in scenes.values():
            for gap in GAPS:
                for first, second in zip(keys, keys[gap:], strict=False):
                    yield first, second, float("nan")

    return pairs_by_key(views, found())
