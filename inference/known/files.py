"""Known cameras from files: COLMAP, nerfstudio's transforms.json, cameras.json, K.txt."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from PIL import Image

from ...geometry.camera import rigid_inverse_array
from .values import Known, KnownView, Trust, known_view, prior

_PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
_DISTORTED = {"SIMPLE_RADIAL": 3, "RADIAL": 3, "OPENCV": 4}  # model -> first distortion parameter
_DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


def read_known(path: Path) -> Known:
    """Read what is known from a file or folder.

    Args:
        path: a COLMAP model folder (binary or text; also a folder with sparse/0 in it), a
            nerfstudio transforms.json or a folder that holds one, a cameras.json (see
            `read_cameras_json`), or a text file with the nine numbers of one K for all photos.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is none of these, damaged, or has a lens distortion.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        for folder in (path, path / "sparse" / "0", path / "sparse"):
            if any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
                return read_colmap(folder)
        for name in ("transforms.json", "cameras.json"):
            if (path / name).is_file():
                return read_known(path / name)
        raise ValueError(
            f"{path} holds no known cameras: looked for a COLMAP model (cameras.bin or .txt, also "
            "in sparse/0), transforms.json and cameras.json"
        )
    if path.suffix.lower() != ".json":
        return _read_K_text(path)
    document = _load_json(path)
    return _from_nerfstudio(document, path) if "frames" in document else _from_json(document, path)


def read_colmap(folder: Path) -> Known:
    """Intrinsics and poses of all registered images of a COLMAP model, fixed.

    Raises:
        ValueError: it cannot be read, has no registered image, or a camera has a distortion.
    """
    try:
        model = pycolmap.Reconstruction(str(folder))
    except Exception as error:  # pycolmap raises RuntimeError, IndexError and its own
        raise ValueError(f"{folder} is no readable COLMAP model: {error}") from error
    views = {}
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        camera = model.camera(image.camera_id)
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().matrix()
        views[image.name] = KnownView(
            K=_colmap_K(camera, image.name, folder),
            size=(camera.height, camera.width),
            cam_from_world=pose,
        )
    if not views:
        raise ValueError(f"{folder} is a COLMAP model without any registered image")
    return Known(views, source=str(folder))


def _colmap_K(camera: pycolmap.Camera, name: str, folder: Path) -> np.ndarray:
    model = camera.model.name
    if model in _PINHOLES:
        return np.array(camera.calibration_matrix())
    first = _DISTORTED.get(model)
    if first is not None and not np.any(np.asarray(camera.params)[first:]):
        return np.array(camera.calibration_matrix())
    raise ValueError(
        f"{folder}: the camera of {name} is a {model} with lens distortion, and only pinholes are "
        "understood; undistort the photos first (colmap image_undistorter) and give the model that "
        "it writes, with the undistorted photos"
    )


def read_nerfstudio(path: Path) -> Known:
    """Intrinsics, poses, masks and depth of a transforms.json, fixed.

    Poses are turned from OpenGL camera-to-world to `cam_from_world`; the world stays as it is.
    Depth files are .npy, or 16-bit images in units of `depth_unit_scale_factor` (0.001).

    Raises:
        FileNotFoundError: it, a mask or a depth file does not exist.
        ValueError: it is damaged, a lens is distorted, or a matrix is missing.
    """
    return _from_nerfstudio(_load_json(path), path)


def _from_nerfstudio(document: Mapping[str, Any], path: Path) -> Known:
    views = {}
    for number, frame in enumerate(document["frames"]):
        if not isinstance(frame, Mapping) or "file_path" not in frame:
            raise ValueError(f"{path}: frame {number} has no file_path")
        name = str(frame["file_path"])
        both = {**document, **frame}
        views[name] = replace(
            _nerfstudio_intrinsics(both, f"{path}: {name}"),
            cam_from_world=_nerfstudio_pose(frame.get("transform_matrix"), f"{path}: {name}"),
            mask=_read_mask(path, frame.get("mask_path")),
            depth=_read_depth(
                path, frame.get("depth_file_path"), both.get("depth_unit_scale_factor", 1e-3)
            ),
        )
    if not views:
        raise ValueError(f"{path} lists no frames")
    return Known(views, metric=document.get("scale") == "metric", source=str(path))


def _nerfstudio_pose(matrix: Any, label: str) -> np.ndarray | None:
    """`cam_from_world` in OpenCV axes of an OpenGL camera-to-world matrix."""
    if matrix is None:
        return None
    world_from_cam = _numbers(matrix, "transform_matrix", label)
    if world_from_cam.shape == (3, 4):
        world_from_cam = np.vstack([world_from_cam, [0.0, 0.0, 0.0, 1.0]])
    if world_from_cam.shape != (4, 4):
        raise ValueError(f"{label}: transform_matrix must be 4x4, got {world_from_cam.shape}")
    from .conventions import check_pose

    world_from_cam = check_pose(world_from_cam, f"{label} (transform_matrix)")
    return rigid_inverse_array(world_from_cam @ np.diag([1.0, -1.0, -1.0, 1.0]))


def _nerfstudio_intrinsics(frame: Mapping[str, Any], label: str) -> KnownView:
    model = str(frame.get("camera_model", "OPENCV"))
    distorted = [key for key in _DISTORTION_KEYS if frame.get(key)]
    if model not in ("OPENCV", *_PINHOLES) or distorted:
        what = f"with {', '.join(distorted)}" if distorted else "which is no pinhole"
        raise ValueError(
            f"{label}: camera model {model} {what}, and only pinholes without distortion are "
            "understood; undistort the photos first (ns-process-data, colmap image_undistorter)"
        )
    size = (int(frame["h"]), int(frame["w"])) if "w" in frame and "h" in frame else None
    fx, fy = frame.get("fl_x"), frame.get("fl_y", frame.get("fl_x"))
    if fx is None and "camera_angle_x" in frame and size is not None:
        fx = fy = size[1] / (2 * math.tan(float(frame["camera_angle_x"]) / 2))
    if fx is None or fy is None:
        return KnownView(size=size)
    if size is None and not ("cx" in frame and "cy" in frame):
        raise ValueError(f"{label}: focal length without w, h or cx, cy")
    height, width = size or (0, 0)
    cx, cy = frame.get("cx", width / 2), frame.get("cy", height / 2)
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
    return KnownView(K=K, size=size)


def read_cameras_json(path: Path) -> Known:
    """Read a cameras.json.

        {"metric": true,
         "default": {"focal_px": 1200},
         "images": {"a.jpg": {"K": [[...]], "cam_from_world": [[...]], "size": [h, w],
                              "depth": "a_depth.npy", "mask": "a_mask.png",
                              "pose_sigma": 0.05, "intrinsics_sigma": 10, "depth_sigma": 0.02}},
         "distances": [["a.jpg", "b.jpg", 1.25]]}

    Every entry may be left out; a value without a sigma is fixed.

    Raises:
        FileNotFoundError: it, a mask or a depth file does not exist.
        ValueError: it is damaged or has an unknown entry.
    """
    return _from_json(_load_json(path), path)


def _from_json(document: Mapping[str, Any], path: Path) -> Known:
    unknown = sorted(set(document) - {"metric", "default", "images", "distances"})
    if unknown and set(document) <= {"K", "focal_px", "size", "intrinsics_sigma"}:
        return Known(default=_json_view(document, path, "K"), source=str(path))
    if unknown:
        raise ValueError(
            f"{path}: {', '.join(unknown)} is unknown; a cameras.json has metric, default, images "
            "and distances, a transforms.json has frames"
        )
    default = document.get("default")
    try:
        distances = {(str(a), str(b)): float(d) for a, b, d in document.get("distances", [])}
    except (TypeError, ValueError):
        raise ValueError(f"{path}: distances must be a list of [name, name, number]") from None
    return Known(
        views={
            str(name): _json_view(entry, path, str(name))
            for name, entry in document.get("images", {}).items()
        },
        default=None if default is None else _json_view(default, path, "default"),
        metric=bool(document.get("metric", False)),
        distances=distances,
        source=str(path),
    )


def _json_view(entry: Mapping[str, Any], path: Path, name: str) -> KnownView:
    values = dict(entry)
    for kind in ("intrinsics", "pose", "depth"):
        sigma = values.pop(f"{kind}_sigma", None)
        if sigma is not None:
            values[f"{kind}_trust"] = Trust(0.0) if float(sigma) == 0 else prior(float(sigma))
    for key in ("K", "cam_from_world"):
        if values.get(key) is not None:
            values[key] = _numbers(values[key], key, f"{path}: {name}")
    if values.get("size") is not None:
        values["size"] = tuple(int(v) for v in values["size"])
    scale = values.pop("depth_unit", 1e-3)
    values["depth"] = _read_depth(path, values.get("depth"), scale)
    values["mask"] = _read_mask(path, values.get("mask"))
    return known_view(values, f"{path}: {name}")


def _read_K_text(path: Path) -> Known:
    try:
        numbers = np.array([float(v) for v in path.read_text().replace(",", " ").split()])
    except (UnicodeDecodeError, ValueError):
        numbers = np.zeros(0)
    if numbers.size != 9:
        raise ValueError(
            f"{path} is no file of known cameras: expected the nine numbers of one K, a "
            "transforms.json, a cameras.json or a COLMAP folder"
        )
    return Known(default=KnownView(K=numbers.reshape(3, 3)), source=str(path))


def _load_json(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no readable JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise ValueError(f"{path}: expected an object, got {type(document).__name__}")
    return document


def _numbers(value: Any, key: str, label: str) -> np.ndarray:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{label}: {key} must be a matrix of numbers") from None


def _beside(path: Path, name: Any) -> Path:
    file = path.parent / str(name)
    if not file.is_file():
        raise FileNotFoundError(f"{path} names {name}, which does not exist")
    return file


def _read_mask(path: Path, name: Any) -> np.ndarray | None:
    if name is None:
        return None
    return read_mask(_beside(path, name))


def read_mask(file: Path) -> np.ndarray:
    """Read a mask (H, W) bool: an .npy file as it is, of a picture what is lighter than grey."""
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False).astype(bool)
    with Image.open(file) as image:
        return np.asarray(image.convert("L")) > 127


def _read_depth(path: Path, name: Any, unit: float) -> np.ndarray | None:
    """Depth of an .npy file as it is, of an image in multiples of `unit`."""
    if name is None:
        return None
    file = _beside(path, name)
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False)
    with Image.open(file) as image:
        return np.asarray(image).astype(np.float64) * float(unit)
