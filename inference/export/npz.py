"""NPZ: the whole scene in one file that numpy reads without pickle, and the way back."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...geometry.camera import Camera
from ...geometry.ledger import Ledger
from ._files import written_at_once

if TYPE_CHECKING:
    from ..scene import Scene

SCENE_FILE = "scene.npz"
"""Name of the file in a scene folder."""

FORMAT_VERSION = 1
_TRACK_FIELDS = ("points", "image", "point", "xy", "error_px")


def save_npz(scene: Scene, path: Path, *, compressed: bool = False) -> Path:
    """Write everything a scene holds.

    Arrays, for N images (OpenCV axes, pixel centres at half-integers):
        names, paths (N,) str; has_camera (N,) bool; K (N, 3, 3) in original pixels;
        cam_from_world (N, 4, 4); original_size, stored_size, network_size (N, 2) as height, width;
        exif_orientation (N,); network_from_original (N, 3, 3); valid_box (N, 4); component (N,), -1
        for none; depth_<i> (H, W) float32 with NaN, confidence_<i> float32, rgb_<i> uint8, all
        three at network size; expected_error_<i> float32 likewise, where the checkpoint is
        calibrated; tracks_<field>, if there are any; meta: JSON with the scale, the report, the
        calibration and the version.

    Args:
        scene: what to write.
        path: the file.
        compressed: smaller and slower.
    """
    views = scene.views
    component = np.full(len(views), -1, dtype=np.int64)
    for number, group in enumerate(scene.components):
        component[group] = number
    meta = {
        "format": "weav3r-scene",
        "version": FORMAT_VERSION,
        "scale": scene.scale,
        "min_confidence": scene.min_confidence,
        "report": scene.report.to_dict(),
        "calibration": None if scene.calibration is None else scene.calibration.to_dict(),
    }
    arrays: dict[str, Any] = {
        "meta": np.array(json.dumps(meta, default=str)),
        "names": np.array([v.name for v in views], dtype=np.str_),
        "paths": np.array(["" if v.path is None else str(v.path) for v in views], dtype=np.str_),
        "has_camera": np.array([v.camera is not None for v in views], dtype=bool),
        "K": np.array([np.eye(3) if v.camera is None else v.camera.K for v in views]),
        "cam_from_world": np.array(
            [np.eye(4) if v.camera is None else v.camera.cam_from_world for v in views]
        ),
        "component": component,
    }
    for key in _LEDGER_FIELDS:
        arrays[key] = np.array([getattr(v.ledger, key) for v in views])
    for i, view in enumerate(views):
        arrays[f"depth_{i:05d}"] = view.depth.astype(np.float32)
        arrays[f"confidence_{i:05d}"] = view.confidence.astype(np.float32)
        arrays[f"rgb_{i:05d}"] = view.rgb
        error = None if view.camera is None else scene.expected_error(i)
        if error is not None:
            arrays[f"expected_error_{i:05d}"] = error
    if scene.tracks is not None:
        arrays |= {f"tracks_{key}": getattr(scene.tracks, key) for key in _TRACK_FIELDS}
    write = np.savez_compressed if compressed else np.savez
    with written_at_once(path) as temporary, temporary.open("wb") as file:
        write(file, **arrays)
    return path


_LEDGER_FIELDS = (
    "stored_size",
    "exif_orientation",
    "original_size",
    "network_size",
    "network_from_original",
    "valid_box",
)


def load_npz(path: Path) -> Scene:
    """Read what `save_npz` wrote; `path` is the file or a folder that holds scene.npz.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a scene, is damaged, or comes from a newer version.
    """
    file = path / SCENE_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no saved scene at {file}; scene.save('{SCENE_FILE}') makes one")
    try:
        # numpy leaves a damaged file open when it opens it itself
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            data = {key: archive[key] for key in archive.files}
        meta = json.loads(str(data["meta"][()]))
        if meta["format"] != "weav3r-scene":
            raise KeyError("format")
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"{file} is not a saved scene, or is damaged ({error})") from None
    if meta["version"] > FORMAT_VERSION:
        raise ValueError(
            f"{file} was written by a newer weav3r (format {meta['version']}, this one reads up to "
            f"{FORMAT_VERSION}); upgrade weav3r"
        )
    return _to_scene(data, meta)


def _to_scene(data: dict[str, np.ndarray], meta: dict[str, Any]) -> Scene:
    from ..calibration import Calibration
    from ..report import SceneReport
    from ..scene import Scene, SceneView, Tracks

    views = []
    for i, name in enumerate(data["names"].tolist()):
        ledger = _ledger(data, i)
        camera = None
        if data["has_camera"][i]:
            height, width = ledger.original_size
            camera = Camera(data["K"][i], data["cam_from_world"][i], height, width)
        path = str(data["paths"][i])
        views.append(
            SceneView(
                name=name,
                path=Path(path) if path else None,
                ledger=ledger,
                camera=camera,
                rgb=data[f"rgb_{i:05d}"],
                depth=data[f"depth_{i:05d}"],
                confidence=data[f"confidence_{i:05d}"],
            )
        )
    component = data["component"]
    groups = [np.flatnonzero(component == k).tolist() for k in range(component.max(initial=-1) + 1)]
    stated = meta.get("calibration")
    tracks = None
    if "tracks_points" in data:
        tracks = Tracks(**{key: data[f"tracks_{key}"] for key in _TRACK_FIELDS})
    return Scene(
        views=views,
        components=groups,
        scale=meta["scale"],
        report=SceneReport.from_dict(meta["report"]),
        tracks=tracks,
        min_confidence=float(meta["min_confidence"]),
        calibration=Calibration.from_dict(stated) if stated else None,
    )


def _ledger(data: dict[str, np.ndarray], i: int) -> Ledger:
    def pair(key: str) -> tuple[int, int]:
        height, width = data[key][i].tolist()
        return int(height), int(width)

    top, left, bottom, right = data["valid_box"][i].tolist()
    return Ledger(
        stored_size=pair("stored_size"),
        exif_orientation=int(data["exif_orientation"][i]),
        original_size=pair("original_size"),
        network_size=pair("network_size"),
        network_from_original=data["network_from_original"][i],
        valid_box=(top, left, bottom, right),
    )
