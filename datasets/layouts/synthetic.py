"""Rendered sets: Habitat and StaticThings3D as prepared for training, and TartanAir as published.

    Habitat:         DIR/Habitat_SIZE_scenes_SPLIT.txt lists stems (else they are looked for);
                     STEM_{1..5}.jpeg, STEM_N_depth.exr, STEM_N_camera_params.json; metres
    StaticThings3D:  DIR/staticthings_pairs.npy, rows (A|B|C, sequence, l|r, frame, l|r, frame);
                     TRAIN/A/NNNN/{left,right}/FFFF_{clean,final}.jpg, FFFF.exr, FFFF.npz
    TartanAir:       ENV/{Easy,Hard}/PNNN/image_left/NNNNNN_left.png,
                     depth_left/NNNNNN_left_depth.npy, pose_left.txt (tx ty tz qx qy qz qw,
                     camera-to-world, axes x forward, y right, z down); metres

Habitat and StaticThings3D count pixel centres at integers. TartanAir's camera sees 90 degrees, and
its principal point is the middle of the photo.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..depth_files import DepthFile
from ..posed_set import PosedSet, ViewEntry
from ..posed_view import K_from_integer_centres
from ._common import (
    load_json,
    load_npy,
    load_npz,
    load_numbers,
    pairs_by_key,
    picture_size,
    rigid,
    rotation_xyzw,
)

FAR_THINGS = 200.0
"""Depth beyond which StaticThings3D shows its backdrop, not a thing."""

_FROM_NED = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # columns: x right, y down, z forward
_SIDES = {"l": "left", "r": "right"}


def detect_habitat(folder: Path) -> bool:
    """Whether there are Habitat's lists or cameras."""
    return bool(_habitat_lists(folder)) or next(_habitat_stems(folder), None) is not None


def detect_staticthings(folder: Path) -> bool:
    """Whether there is its list of pairs."""
    return (folder / "staticthings_pairs.npy").is_file()


def detect_tartanair(folder: Path) -> bool:
    """Whether there are TartanAir's trajectories."""
    return bool(_tartanair_folders(folder))


def read_habitat(folder: Path) -> PosedSet:
    """Read prepared Habitat renderings; views without a finite pose are left out.

    Every set of five views is a scene; the first is paired with the others.

    Raises:
        FileNotFoundError: the camera of a listed view is missing.
        ValueError: a camera cannot be read.
    """
    lists = _habitat_lists(folder)
    splits: dict[str, tuple[str, ...]] = {}
    for path, split in lists:
        stems = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
        splits[split] = (*splits.get(split, ()), *stems)
    stems = dict.fromkeys(sum(splits.values(), ())) or dict.fromkeys(_habitat_stems(folder))
    views: list[ViewEntry] = []
    pairs = []
    for stem in stems:
        own = [view for n in range(1, 6) if (view := _habitat_view(folder, stem, n)) is not None]
        pairs += [(own[0].key, other.key, float("nan")) for other in own[1:]]
        views += own
    return PosedSet(folder, "habitat", "metre", tuple(views), splits, pairs_by_key(views, pairs))


def _habitat_lists(folder: Path) -> list[tuple[Path, str]]:
    paths = sorted(folder.glob("Habitat_*_scenes_*.txt"))
    return [(path, path.stem.rsplit("_", 1)[1]) for path in paths]


def _habitat_stems(folder: Path):
    for path in sorted(folder.rglob("*_1_camera_params.json")):
        yield path.relative_to(folder).as_posix().removesuffix("_1_camera_params.json")


def _habitat_view(folder: Path, stem: str, number: int) -> ViewEntry | None:
    path = folder / f"{stem}_{number}"
    camera = load_json(path.with_name(path.name + "_camera_params.json"))
    try:
        rotation, translation = (np.array(camera[k], float) for k in ("R_cam2world", "t_cam2world"))
        K = np.array(camera["camera_intrinsics"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}_camera_params.json: {error!r}") from error
    pose = rigid(rotation, translation)
    if not np.isfinite(pose).all():
        return None
    return ViewEntry(
        scene=stem,
        name=str(number),
        image=path.with_name(path.name + ".jpeg"),
        K=K_from_integer_centres(K),
        world_from_cam=pose,
        depth=DepthFile(path.with_name(path.name + "_depth.exr")),
    )


def read_staticthings(folder: Path) -> PosedSet:
    """Read prepared StaticThings3D, its clean pass; errors as of `read_habitat`."""
    rows = load_npy(folder / "staticthings_pairs.npy").tolist()
    wanted: dict[tuple[str, str], ViewEntry] = {}
    pairs = []
    for row in rows:
        letter, sequence, side1, frame1, side2, frame2 = (
            v.decode() if isinstance(v, bytes) else str(v) for v in row
        )
        scene = f"{letter}/{int(sequence):04d}"
        keys = []
        for side, frame in ((side1, frame1), (side2, frame2)):
            place = f"{_SIDES[side]}/{int(frame):04d}"
            if (scene, place) not in wanted:
                wanted[scene, place] = _staticthings_view(folder, scene, place)
            keys.append(f"{scene}/{place}")
        pairs.append((keys[0], keys[1], float("nan")))
    views = tuple(wanted[key] for key in sorted(wanted))
    return PosedSet(folder, "staticthings", "arbitrary", views, pairs=pairs_by_key(views, pairs))


def _staticthings_view(folder: Path, scene: str, place: str) -> ViewEntry:
    stem = folder / "TRAIN" / scene / place
    camera = load_npz(stem.with_suffix(".npz"), ("intrinsics", "cam2world"))
    return ViewEntry(
        scene=scene,
        name=place,
        image=stem.with_name(f"{stem.name}_clean.jpg"),
        K=K_from_integer_centres(camera["intrinsics"]),
        world_from_cam=camera["cam2world"].astype(np.float64),
        depth=DepthFile(stem.with_suffix(".exr"), far=FAR_THINGS),
    )


def read_tartanair(folder: Path) -> PosedSet:
    """Read TartanAir's left cameras.

    Raises:
        FileNotFoundError: a photo or the list of poses is missing.
        ValueError: the poses and the photos are not equally many.
    """
    views = []
    for place in _tartanair_folders(folder):
        poses = load_numbers(place / "pose_left.txt", 7)
        photos = sorted((place / "image_left").glob("*_left.png"))
        if len(photos) != len(poses):
            raise ValueError(f"{place}: {len(photos)} photos and {len(poses)} poses")
        scene = place.relative_to(folder).as_posix()
        for photo, pose in zip(photos, poses, strict=True):
            height, width = picture_size(photo)
            K = np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]])
            world_from_cam = rigid(rotation_xyzw(pose[3:]) @ _FROM_NED, pose[:3])
            depth = place / "depth_left" / f"{photo.stem}_depth.npy"
            views.append(
                ViewEntry(
                    scene if scene != "." else place.name,
                    photo.stem,
                    photo,
                    K,
                    world_from_cam,
                    depth=DepthFile(depth),
                )
            )
    return PosedSet(folder, "tartanair", "metre", tuple(views))


def _tartanair_folders(folder: Path) -> list[Path]:
    paths = [
        p
        for pattern in ("", "*/", "*/*/", "*/*/*/")
        for p in folder.glob(f"{pattern}pose_left.txt")
    ]
    return sorted(path.parent for path in paths)
