"""RGB-D sequences with time stamps, as the TUM benchmark has them.

    DIR/rgb.txt  DIR/depth.txt  DIR/groundtruth.txt  [DIR/intrinsics.txt]   (or one folder a scene)

rgb.txt and depth.txt list "time file"; groundtruth.txt "time tx ty tz qx qy qz qw", the pose
camera-to-world. Depth is 16 bit, 5000 a metre. Photos take the nearest depth map, and a pose
interpolated between the two around them. intrinsics.txt holds "fx fy cx cy" or K, pixel centres at
integers, as the benchmark counts them; without it, the calibration of freiburg1, 2 or 3 by the
folder's name, or the benchmark's default.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from ..depth_files import DepthFile
from ..posed_set import PosedSet, ViewEntry
from ..posed_view import K_from_integer_centres
from ._common import load_numbers, rigid

DEPTH_PER_METRE = 5000.0
MAX_DEPTH_GAP_S = 0.02  # between a photo and its depth map
MAX_POSE_GAP_S = 0.1  # between the two poses around a photo
_CALIBRATIONS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
    "": (525.0, 525.0, 319.5, 239.5),
}


def scene_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a sequence, else the sequences in it."""
    if (folder / "rgb.txt").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/rgb.txt"))


def detect(folder: Path) -> bool:
    """Whether there is a list of photos with time stamps."""
    return bool(scene_folders(folder))


def read(folder: Path) -> PosedSet:
    """Read RGB-D sequences; photos without a depth map or a pose at their time are left out.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a list does not hold what it should, or nothing fits together in time.
    """
    views: list[ViewEntry] = []
    for scene in scene_folders(folder):
        entries = _read_scene(scene)
        if not entries:
            raise ValueError(
                f"{scene}: no photo has a depth map within {MAX_DEPTH_GAP_S} s and poses around it "
                f"within {MAX_POSE_GAP_S} s; are the time stamps in seconds?"
            )
        views += entries
    return PosedSet(folder, "rgbd", "metre", tuple(views))


def _read_scene(folder: Path) -> list[ViewEntry]:
    photos, depths = _read_list(folder / "rgb.txt"), _read_list(folder / "depth.txt")
    poses = load_numbers(folder / "groundtruth.txt", 8)
    poses = poses[np.argsort(poses[:, 0], kind="stable")]
    depth_times = np.array([time for time, _ in depths])
    K = _intrinsics(folder)
    entries = []
    for time, name in photos:
        pose = pose_at(poses, time)
        nearest = int(np.abs(depth_times - time).argmin())
        if pose is None or abs(depth_times[nearest] - time) > MAX_DEPTH_GAP_S:
            continue
        depth = DepthFile(folder / depths[nearest][1], 1 / DEPTH_PER_METRE)
        photo = folder / name
        entries.append(ViewEntry(folder.name, photo.stem, photo, K, pose, depth=depth, time_s=time))
    return entries


def pose_at(poses: Float[np.ndarray, "n 8"], time_s: float) -> Float64[np.ndarray, "4 4"] | None:
    """Pose at a time: position linear, rotation spherical between the neighbours; None in gaps.

    Args:
        poses: rows of time, position and quaternion (x, y, z, w), by time.
        time_s: when.
    """
    from scipy.spatial.transform import Rotation, Slerp

    after = int(np.searchsorted(poses[:, 0], time_s))
    if after < len(poses) and poses[after, 0] == time_s:
        return rigid(Rotation.from_quat(poses[after, 4:]).as_matrix(), poses[after, 1:4])
    if not 0 < after < len(poses):
        return None
    a, b = poses[after - 1], poses[after]
    if b[0] - a[0] > MAX_POSE_GAP_S:
        return None
    rotation = Slerp([a[0], b[0]], Rotation.from_quat([a[4:], b[4:]]))(time_s).as_matrix()
    return rigid(rotation, a[1:4] + (time_s - a[0]) / (b[0] - a[0]) * (b[1:4] - a[1:4]))


def _read_list(path: Path) -> list[tuple[float, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            time, name = words
            found.append((float(time), name))
        except ValueError as error:
            raise ValueError(f'{path}, line {number}: expected "time file"') from error
    if not found:
        raise ValueError(f"{path} lists no file")
    return found


def _intrinsics(folder: Path) -> Float64[np.ndarray, "3 3"]:
    path = folder / "intrinsics.txt"
    if path.is_file():
        numbers = load_numbers(path).ravel()
        if numbers.size == 9:
            return K_from_integer_centres(numbers.reshape(3, 3))
        if numbers.size != 4:
            raise ValueError(f"{path}: expected fx fy cx cy, or the 9 numbers of K")
        fx, fy, cx, cy = numbers
    else:
        name = next((n for n in _CALIBRATIONS if n and n in folder.name), "")
        fx, fy, cx, cy = _CALIBRATIONS[name]
    return K_from_integer_centres(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
