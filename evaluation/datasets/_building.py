"""What the readers of published data sets share: sizes, numbers in text files, an image's truth."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ...geometry.camera import check_intrinsics, check_rigid, rigid_inverse_array
from ..readers import EvaluationSet, ImageTruth, PairTruth

Found = TypeVar("Found")

_UPRIGHT_SWAPS = (5, 6, 7, 8)  # EXIF orientations that exchange rows and columns
_EXIF_ORIENTATION = 0x0112


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, from its header.

    Raises:
        FileNotFoundError: it does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the data set names {path}, which does not exist")
    with Image.open(path) as image:
        turned = image.getexif().get(_EXIF_ORIENTATION) in _UPRIGHT_SWAPS
        return (image.width, image.height) if turned else (image.height, image.width)


def numbers(text: str | Iterable[str], count: int, where: str) -> np.ndarray:
    """`count` floats of a line or of its parts; a ValueError names the place otherwise."""
    parts = text.split() if isinstance(text, str) else list(text)
    try:
        values = np.array([float(part) for part in parts])
    except ValueError:
        values = np.zeros(0)
    if values.size != count:
        raise ValueError(f"{where}: expected {count} numbers, got {' '.join(parts)[:80]!r}")
    return values


def pose_from_rt(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(4, 4) of a rotation (3, 3) or (9,) and a translation (3,)."""
    pose = np.eye(4)
    pose[:3, :3] = np.asarray(rotation, dtype=np.float64).reshape(3, 3)
    pose[:3, 3] = translation
    return pose


def pose_from_quaternion(wxyz: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(4, 4) of a quaternion (w, x, y, z) and a translation."""
    return pose_from_rt(Rotation.from_quat(wxyz, scalar_first=True).as_matrix(), translation)


def inverse(pose: np.ndarray) -> np.ndarray:
    """Exchange world_from_cam and cam_from_world."""
    return rigid_inverse_array(pose)


def image_truth(
    name: str,
    path: Path,
    K: np.ndarray | None,
    cam_from_world: np.ndarray | None,
    *,
    K_size: tuple[int, int] | None = None,
) -> ImageTruth:
    """What a set knows about an image, checked.

    Args:
        name: unique in its set.
        path: the image file.
        K: (3, 3), pixel centres at half-integers.
        cam_from_world: (4, 4).
        K_size: (height, width) that K was made for; K is scaled to the file's size.

    Raises:
        FileNotFoundError: the image does not exist.
        ValueError: a matrix is wrong, or K cannot be that of an image of this size.
    """
    size = image_size(path)
    if K is not None:
        K = check_intrinsics(K, f"K of {name}")
        if K_size is not None:
            K = np.diag([size[1] / K_size[1], size[0] / K_size[0], 1.0]) @ K
        check_K_fits(K, size, str(path))
    pose = None if cam_from_world is None else check_rigid(cam_from_world, f"the pose of {name}")
    return ImageTruth(name, path, size, K, pose, None, None, None)


def check_K_fits(K: np.ndarray, size: tuple[int, int], where: str) -> None:
    """Raise a ValueError when a principal point says that K belongs to another image size."""
    height, width = size
    share = K[0, 2] / width, K[1, 2] / height
    if not all(0.2 < s < 0.8 for s in share):
        raise ValueError(
            f"{where}: the principal point ({K[0, 2]:.0f}, {K[1, 2]:.0f}) is far from the middle "
            f"of {width}x{height} pixels; the intrinsics belong to another size of this image"
        )


def pair_truth(image1: ImageTruth, image2: ImageTruth, overlap: float | None = None) -> PairTruth:
    """A pair whose relative pose follows from the poses of its images."""
    relative = None
    if image1.cam_from_world is not None and image2.cam_from_world is not None:
        relative = image2.cam_from_world @ rigid_inverse_array(image1.cam_from_world)
    return PairTruth(image1, image2, relative, image1.K, image2.K, None, None, overlap)


def set_of_images(
    name: str,
    folder: Path,
    images: Sequence[ImageTruth],
    units: str,
    *,
    max_pairs: int = 100,
    seed: int = 0,
    overlaps: Mapping[tuple[str, str], float] | None = None,
    truth_files: Sequence[Path] = (),
) -> EvaluationSet:
    """A multi-view set; its pairs are all pairs of images, or a random choice of them.

    Args:
        name: of the set.
        folder: that holds its files.
        images: with poses.
        units: "metric" or "unknown".
        max_pairs: more pairs than that are thinned.
        seed: of the choice.
        overlaps: only these pairs, (name, name) -> share that both see.
        truth_files: that poses and intrinsics come from.
    """
    if len({image.name for image in images}) < len(images):
        raise ValueError(f"{folder}: two images of {name} have the same name")
    by_name = {image.name: image for image in images}
    chosen = list(itertools.combinations(by_name, 2)) if overlaps is None else list(overlaps)
    if len(chosen) > max_pairs:
        kept = np.random.default_rng(seed).choice(len(chosen), max_pairs, replace=False)
        chosen = [chosen[i] for i in sorted(kept)]
    pairs = tuple(
        pair_truth(by_name[a], by_name[b], None if overlaps is None else overlaps[a, b])
        for a, b in chosen
    )
    return EvaluationSet(name, folder, units, by_name, pairs, tuple(truth_files))


def subfolders(root: Path, having: str) -> list[Path]:
    """`root` itself, or its folders (up to two levels down), that hold a file of that pattern."""
    if any(root.glob(having)):
        return [root]
    found = {path.parents[having.count("/")] for path in root.glob(f"*/{having}")}
    found |= {path.parents[having.count("/")] for path in root.glob(f"*/*/{having}")}
    return sorted(found)


def some(sets: list[Found], root: Path, what: str) -> list[Found]:
    """The sets, or a FileNotFoundError that says what was looked for."""
    if not sets:
        raise FileNotFoundError(f"nothing of that layout in {root}: looked for {what}")
    return sets
