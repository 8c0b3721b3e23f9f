"""Faults that files and numbers show by themselves, before any view is compared with another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from ..layout import files_of
from ..posed_set import PosedSet, ViewEntry
from .findings import Finding

_CENTRAL = 0.12  # principal points lie this near the centre, in shares of the side
_WIDEST_LENS = 0.2  # focal length over the long side; below (136 degrees) no pinhole sees
_SHOWN = 8

Size = tuple[int, int]


def some(names: Sequence[str]) -> tuple[str, ...]:
    """The first few, and how many more there are."""
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return (*names[:_SHOWN], *more)


def picture_sizes(data: PosedSet) -> list[Size | None]:
    """(height, width) of every photo from its header; None where it is missing or unreadable."""
    return [_size(view) for view in data.views]


def _size(view: ViewEntry) -> Size | None:
    try:
        with Image.open(view.image) as image:
            return image.height, image.width
    except OSError:
        return None


def check_files(data: PosedSet, sizes: Sequence[Size | None]) -> Iterator[Finding]:
    """Missing and unreadable files."""
    wanted = [path for view in data.views for path in files_of(view)] + list(data.meshes.values())
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        names = [path.relative_to(data.root).as_posix() for path in missing]
        yield Finding(
            "missing-files",
            "error",
            f"{len(missing)} of {len(wanted)} files that the index names do not exist",
            "restore them, or take their views out of the index",
            some(names),
        )
    broken = [
        view.key
        for view, size in zip(data.views, sizes, strict=True)
        if size is None and view.image.is_file()
    ]
    if broken:
        yield Finding(
            "unreadable",
            "error",
            f"{len(broken)} photos are no readable pictures",
            "copy them again; a download may have been cut off",
            some(broken),
        )
    if all(view.depth is None for view in data.views) and not data.meshes and not data.points:
        yield Finding(
            "no-geometry",
            "error",
            "there are neither depth maps nor meshes nor points",
            "training needs one of them",
        )


def check_poses(data: PosedSet) -> Iterator[Finding]:
    """Poses that are no rigid motions."""
    faults: dict[str, list[str]] = {}
    lost = []
    for view in data.views:
        if not np.isfinite(view.world_from_cam).all():
            lost.append(view.key)
        elif (fault := _pose_fault(view.world_from_cam)) is not None:
            faults.setdefault(fault, []).append(view.key)
    advice = {
        "left-handed-poses": "the determinant is -1, a mirror image: reverse one axis of camera or "
        "world (Unity, Unreal and DirectX count left-handed)",
        "scaled-poses": "divide the 3x3 part by its scale",
        "transposed-poses": "the translation stands in the last row: transpose the matrices",
        "broken-poses": "the 3x3 part must be a rotation, the last row (0, 0, 0, 1)",
    }
    for code, names in faults.items():
        message = f"{len(names)} of {len(data)} poses are no rotations with a translation"
        yield Finding(code, "error", message, advice[code], some(names))
    if lost:
        level = "error" if len(lost) == len(data) else "note"
        message = f"{len(lost)} of {len(data)} views have no pose"
        yield Finding("no-pose", level, message, "they are left out of training", some(lost))


def _pose_fault(pose: np.ndarray) -> str | None:
    if not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6):
        transposed = np.allclose(pose[:, 3], [0, 0, 0, 1], atol=1e-6)
        return "transposed-poses" if transposed else "broken-poses"
    rotation = pose[:3, :3]
    determinant = float(np.linalg.det(rotation))
    scale = abs(determinant) ** (1 / 3)
    unit = rotation / max(scale, 1e-12)
    if np.abs(unit @ unit.T - np.eye(3)).max() > 1e-3:
        return "broken-poses"
    if determinant < 0:
        return "left-handed-poses"
    return "scaled-poses" if abs(scale - 1) > 1e-3 else None


def check_sizes(data: PosedSet, sizes: Sequence[Size | None]) -> Iterator[Finding]:
    """Intrinsics that belong to pictures of another size, and scenes of mixed sizes."""
    wrong: dict[str, list[str]] = {}
    told: dict[str, str] = {}
    mixed: list[str] = []
    for scene, members in data.scenes.items():
        faults = {k: f for k in members if (f := _size_fault(data.views[k], sizes[k])) is not None}
        known = {sizes[k] for k in members if sizes[k] is not None}
        if len(known) > 1 and 0 < len(faults) < len(members):
            common = Counter(sizes[k] for k in members).most_common(1)[0][0]
            odd = [k for k in members if sizes[k] != common]
            mixed += [f"{data.views[k].key}: {_text(sizes[k])}" for k in odd]
            told["mixed"] = f"such as {_text(sizes[odd[0]])} among {_text(common)} in {scene}"
            continue
        for k, (code, text) in faults.items():
            wrong.setdefault(code, []).append(data.views[k].key)
            told.setdefault(code, text)
    if mixed:
        yield Finding(
            "mixed-resolutions",
            "error",
            f"{len(mixed)} photos have another size than their K and the other photos of their "
            f"scene: {told['mixed']}",
            "give each photo the K of its own size, or bring all photos to one size",
            some(mixed),
        )
    advice = {
        "K-size": "multiply the first two rows of K by the ratio of the sizes",
        "K-swapped": "width and height are exchanged, often by an EXIF rotation: turn K or photos",
        "K-values": "K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels",
    }
    for code, names in wrong.items():
        message = f"{len(names)} of {len(data)} photos: {told[code]}"
        yield Finding(code, "error", message, advice[code], some(names))
    if not mixed and not wrong and len(set(sizes) - {None}) > 1:
        counts = Counter(size for size in sizes if size is not None)
        listed = ", ".join(f"{_text(size)} ({n})" for size, n in counts.most_common(4))
        message = f"photos have {len(counts)} sizes, each with its own K: {listed}"
        yield Finding("several-sizes", "note", message)


def _size_fault(view: ViewEntry, size: Size | None) -> tuple[str, str] | None:
    """Code and text of what is wrong with a view's intrinsics for its picture."""
    if size is None:
        return None
    K = view.K
    finite = np.isfinite(K).all()
    if not finite or K[0, 0] <= 0 or K[1, 1] <= 0 or not np.allclose(K[2], [0, 0, 1]):
        return "K-values", f"K is no matrix of a pinhole: {np.round(K, 3).tolist()}"
    if view.size is not None and view.size != size:
        if view.size == (size[1], size[0]):
            return "K-swapped", f"K is for {_text(view.size)}, the photo has {_text(size)}"
        return "K-size", f"K is for {_text(view.size)}, the photo has {_text(size)}"
    factor_y, factor_x = 2 * K[1, 2] / size[0], 2 * K[0, 2] / size[1]
    if max(abs(factor_x - 1), abs(factor_y - 1)) > 2 * _CENTRAL:
        other = f"the principal point ({K[0, 2]:.4g}, {K[1, 2]:.4g}) is the middle of a picture of "
        other += f"{2 * K[0, 2]:.0f}x{2 * K[1, 2]:.0f}, the photo has {_text(size)}"
        swapped = max(abs(2 * K[0, 2] / size[0] - 1), abs(2 * K[1, 2] / size[1] - 1))
        if size[0] != size[1] and swapped <= _CENTRAL:
            return "K-swapped", other
        if abs(factor_x / factor_y - 1) <= _CENTRAL:
            return "K-size", other
        if K[0, 2] > size[1] or K[1, 2] > size[0]:
            return "K-size", other
    if min(K[0, 0], K[1, 1]) < _WIDEST_LENS * max(size):
        return "K-values", (
            f"a focal length of {K[0, 0]:.4g} px in a photo of {_text(size)} sees more than 136 "
            "degrees; it may be in millimetres, or a share of the size"
        )
    return None


def _text(size: Size | None) -> str:
    return "no size" if size is None else f"{size[1]}x{size[0]}"
