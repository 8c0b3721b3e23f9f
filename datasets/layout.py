"""Weav3R's own layout of a data set on disk: one folder, one small index; see README.md here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..geometry.camera import check_intrinsics, check_rigid
from .depth_files import DEPTH_SUFFIXES, DepthFile
from .pair_table import load_pairs, save_pairs
from .posed_set import PosedSet, ScenePoints, ViewEntry, nan_pose

FORMAT = "weav3r-dataset"
VERSION = 1
INDEX, VIEWS, PAIRS = "dataset.json", "views.jsonl", "pairs.npz"
_UNITS = ("metre", "arbitrary")
_VIEW_KEYS = {"scene", "name", "image", "size", "K", "world_from_cam", "depth", "mask", "time_s"}
_REQUIRED = ("scene", "name", "image", "size", "K", "world_from_cam")


def read_layout(folder: Path, strict: bool = True) -> PosedSet:
    """Read the index of a data set in our layout.

    Args:
        folder: holds dataset.json and views.jsonl.
        strict: also check that every file exists and every camera is one. The doctor reads
            without it, to find all faults.

    Raises:
        FileNotFoundError: the index, or (strict) a file that it names, does not exist.
        ValueError: the index does not say what it should; the message names the line.
    """
    folder = Path(folder)
    document = _read_index(folder)
    views = tuple(_read_views(folder, strict))
    scenes = dict.fromkeys(view.scene for view in views)
    splits = {str(k): tuple(map(str, v)) for k, v in document.get("splits", {}).items()}
    for split, names in splits.items():
        unknown = sorted(set(names) - set(scenes))
        if unknown:
            raise ValueError(f"{folder / INDEX}: split {split} names unknown scenes: {unknown}")
    if len(sum(splits.values(), ())) > len(set(sum(splits.values(), ()))):
        raise ValueError(f"{folder / INDEX}: a scene is in two splits, or twice in one")
    files = {kind: _scene_files(document, kind, folder, scenes) for kind in ("points", "meshes")}
    found = PosedSet(
        folder,
        "weav3r",
        document["unit"],
        views,
        splits,
        points={scene: read_points(path) for scene, path in files["points"].items()},
        meshes=files["meshes"],
    )
    if strict:
        _check_files(found)
    if not (folder / PAIRS).is_file():
        return found
    return found.with_pairs(load_pairs(folder / PAIRS, [view.key for view in views]))


def write_layout(
    source: PosedSet,
    folder: Path,
    splits: Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PosedSet:
    """Copy a data set of any layout into a folder of ours; files keep their bytes.

    Args:
        source: what to copy.
        folder: made; must not hold anything yet.
        splits: scenes of each split; None takes those of the source, and without any keeps every
            tenth scene for "val" when there are at least two scenes.
        progress: told the number of views written and their total.

    Returns:
        The copy, read again strictly.

    Raises:
        FileExistsError: the folder is not empty.
        FileNotFoundError: a file of the source is missing.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(len(source)):
        lines.append(json.dumps(_copy_view(source, number, folder)))
        if progress is not None:
            progress(number + 1, len(source))
    (folder / VIEWS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    chosen = dict(splits) if splits is not None else dict(source.splits) or _split(source)
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "unit": source.unit,
        "from": source.layout,
        "splits": {name: list(scenes) for name, scenes in chosen.items()},
    }
    for scene, points in source.points.items():
        path = f"points/{_safe(scene)}.npz"
        _write_points(points, folder / path)
        document.setdefault("points", {})[scene] = path
    for scene, mesh in source.meshes.items():
        path = f"meshes/{_safe(scene)}{mesh.suffix}"
        _copy(mesh, folder / path)
        document.setdefault("meshes", {})[scene] = path
    (folder / INDEX).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if source.pairs is not None:
        save_pairs(source.pairs, [view.key for view in source.views], folder / PAIRS)
    return read_layout(folder)


def read_points(path: Path) -> ScenePoints:
    """Read a scene's points: .npz with `xyz`, and `point`, `view`, `xy` of the observations.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the points {path} do not exist")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = [arrays[name] for name in ("xyz", "point", "view", "xy")]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} holds no points: {error}") from error
    xyz, point, view, xy = values
    return ScenePoints(xyz.astype(np.float64), point.astype(np.int64), view, xy.astype(np.float64))


def _write_points(points: ScenePoints, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    view = points.view.astype(np.str_)
    np.savez_compressed(path, xyz=points.xyz, point=points.point, view=view, xy=points.xy)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no data set of ours: it has no {INDEX}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no readable JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'{path}: expected "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise ValueError(f"{path}: version {document.get('version')!r}, this reads {VERSION}")
    known = {"format", "version", "unit", "from", "splits", "points", "meshes"}
    unknown = sorted(set(document) - known)
    if unknown:
        raise ValueError(f"{path}: unknown entries {unknown}; known are {sorted(known)}")
    if document.get("unit") not in _UNITS:
        raise ValueError(f"{path}: unit must be one of {_UNITS}, got {document.get('unit')!r}")
    for name in ("splits", "points", "meshes"):
        if not isinstance(document.get(name, {}), dict):
            raise ValueError(f"{path}: {name} must be an object, got {document[name]!r}")
    return document


def _read_views(folder: Path, strict: bool) -> Iterator[ViewEntry]:
    path = folder / VIEWS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {VIEWS}, the list of its photos")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: no readable JSON: {error}") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, got {type(entry).__name__}")
        yield _view(entry, folder, where, strict)


def _view(entry: dict[str, Any], folder: Path, where: str, strict: bool) -> ViewEntry:
    missing = [key for key in _REQUIRED if key not in entry]
    unknown = sorted(set(entry) - _VIEW_KEYS)
    if missing or unknown:
        raise ValueError(f"{where}: missing entries {missing}, unknown entries {unknown}")
    try:
        K = np.array(entry["K"], dtype=np.float64)
        height, width = (int(v) for v in entry["size"])
        pose = entry["world_from_cam"]
        world_from_cam = nan_pose() if pose is None else np.array(pose, dtype=np.float64)
        time_s = None if entry.get("time_s") is None else float(entry["time_s"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    if K.shape != (3, 3) or world_from_cam.shape != (4, 4):
        raise ValueError(
            f"{where}: expected K (3, 3) and world_from_cam (4, 4), got {K.shape} and "
            f"{world_from_cam.shape}"
        )
    if strict:
        check_intrinsics(K, f"{where}: K")
        if pose is not None:
            check_rigid(world_from_cam, f"{where}: world_from_cam")
    return ViewEntry(
        scene=str(entry["scene"]),
        name=str(entry["name"]),
        image=_inside(folder, entry["image"], where),
        K=K,
        world_from_cam=world_from_cam,
        size=(height, width),
        depth=_depth(entry.get("depth"), folder, where),
        mask=None if entry.get("mask") is None else _inside(folder, entry["mask"], where),
        time_s=time_s,
    )


def _depth(entry: Any, folder: Path, where: str) -> DepthFile | None:
    if entry is None:
        return None
    entry = {"file": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or "file" not in entry or set(entry) - {"file", "scale", "far"}:
        raise ValueError(f"{where}: depth must be a file, or an object with file, scale and far")
    path = _inside(folder, entry["file"], where)
    if path.suffix.lower() not in DEPTH_SUFFIXES:
        raise ValueError(f"{where}: a depth map is one of {', '.join(DEPTH_SUFFIXES)}, got {path}")
    far = entry.get("far")
    return DepthFile(path, float(entry.get("scale", 1.0)), None if far is None else float(far))


def _scene_files(
    document: dict[str, Any], kind: str, folder: Path, scenes: Mapping[str, None]
) -> dict[str, Path]:
    given = document.get(kind, {})
    unknown = sorted(set(given) - set(scenes))
    if unknown:
        raise ValueError(f"{folder / INDEX}: {kind} of unknown scenes: {unknown}")
    return {scene: _inside(folder, path, kind) for scene, path in given.items()}


def _inside(folder: Path, path: Any, where: str) -> Path:
    """A file of the data set; paths are relative, with slashes, and stay inside the folder."""
    relative = PurePosixPath(str(path))
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"{where}: {path} must be a path relative to and inside the data set")
    return folder / relative


def _check_files(found: PosedSet) -> None:
    wanted = [path for view in found.views for path in files_of(view)] + list(found.meshes.values())
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{found.root} lacks {len(missing)} files, such as {missing[0]}; weav3r data check "
            "lists them"
        )


def files_of(view: ViewEntry) -> list[Path]:
    """Every file that a view names."""
    depth = None if view.depth is None else view.depth.path
    return [path for path in (view.image, depth, view.mask) if path is not None]


def _copy_view(source: PosedSet, number: int, folder: Path) -> dict[str, Any]:
    from PIL import Image

    view = source.views[number]
    place = f"{_safe(view.scene)}/{_safe(view.name)}"
    entry: dict[str, Any] = {"scene": view.scene, "name": view.name}
    suffix = view.image.suffix.lower()
    entry["image"] = f"images/{place.removesuffix(suffix)}{suffix}"
    _copy(view.image, folder / entry["image"])
    size = view.size
    if size is None:
        with Image.open(view.image) as image:
            size = image.height, image.width
    entry["size"] = list(size)
    entry["K"] = view.K.tolist()
    known = bool(np.isfinite(view.world_from_cam).all())
    entry["world_from_cam"] = view.world_from_cam.tolist() if known else None
    if view.depth is not None:
        path = f"depth/{place}{view.depth.path.suffix.lower()}"
        _copy(view.depth.path, folder / path)
        entry["depth"] = {"file": path, "scale": view.depth.scale}
        if view.depth.far is not None:
            entry["depth"]["far"] = view.depth.far
    if view.mask is not None:
        entry["mask"] = f"masks/{place}{view.mask.suffix.lower()}"
        _copy(view.mask, folder / entry["mask"])
    if view.time_s is not None:
        entry["time_s"] = view.time_s
    return entry


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _safe(name: str) -> str:
    """A name as a relative path that stays where it is put."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    return "/".join(parts) or "_"


def _split(source: PosedSet) -> dict[str, list[str]]:
    scenes = list(source.scenes)
    held_out = set(scenes[9::10] or scenes[-1:]) if len(scenes) > 1 else set()
    if not held_out:
        return {}
    return {
        "train": [scene for scene in scenes if scene not in held_out],
        "val": [scene for scene in scenes if scene in held_out],
    }
