"""Many images of one scene with poses: CO3D, RealEstate10K, ETH3D, DTU, IMC, Strecha."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from ...geometry.camera import check_intrinsics
from ..readers import EvaluationSet, ImageTruth, K_from_integer_centres
from ._building import (
    image_size,
    image_truth,
    inverse,
    numbers,
    pose_from_rt,
    set_of_images,
    some,
    subfolders,
)

IMAGES_A_SEQUENCE = 10
IMC_MIN_COVISIBILITY = 0.1
_PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")


def read_co3d(root: Path) -> list[EvaluationSet]:
    """CO3D v2: CATEGORY/frame_annotations.jgz and the frames it names; one set a sequence.

    Ten frames a sequence, evenly spread. Poses are PyTorch3D's (x right-to-left, y up, row vectors:
    x_cam = x_world R + T) and are turned to OpenCV axes. Intrinsics are in PyTorch3D's normalised
    coordinates, isotropic or not, of image edges (so pixel centres are at half-integers). No unit.
    """
    sets = []
    for folder in subfolders(root, "frame_annotations.jgz"):
        annotations = folder / "frame_annotations.jgz"
        with gzip.open(annotations, "rt", encoding="utf-8") as file:
            frames: list[dict[str, Any]] = json.load(file)
        sequences: dict[str, list[dict[str, Any]]] = {}
        for frame in frames:
            path = folder.parent / frame["image"]["path"]
            if path.is_file():  # the data set is often unpacked in part
                sequences.setdefault(frame["sequence_name"], []).append(frame)
        for name, found in sorted(sequences.items()):
            found.sort(key=lambda frame: frame["frame_number"])
            images = [_co3d_image(folder.parent, frame) for frame in _spread(found)]
            label = f"co3d_{folder.name}_{name}"
            sets.append(set_of_images(label, folder, images, "unknown", truth_files=[annotations]))
    return some(sets, root, "CATEGORY/frame_annotations.jgz with images")


def _co3d_image(root: Path, frame: dict[str, Any]) -> ImageTruth:
    view, (height, width) = frame["viewpoint"], frame["image"]["size"]
    axes = np.diag([-1.0, -1.0, 1.0])
    pose = pose_from_rt(
        axes @ np.asarray(view["R"], np.float64).T, axes @ np.asarray(view["T"], np.float64)
    )
    half = np.array([width, height]) / 2.0
    kind = view.get("intrinsics_format", "ndc_norm_image_bounds")
    if kind == "ndc_isotropic":
        scale = np.full(2, half.min())
    elif kind == "ndc_norm_image_bounds":
        scale = half
    else:
        raise ValueError(f"{frame['image']['path']}: intrinsics_format {kind!r} is unknown")
    focal = np.asarray(view["focal_length"], np.float64) * scale
    center = half - np.asarray(view["principal_point"], np.float64) * scale
    K = np.array([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1]])
    path = root / frame["image"]["path"]
    return image_truth(path.name, path, K, pose, K_size=(height, width))


def read_realestate10k(root: Path) -> list[EvaluationSet]:
    """RealEstate10K: ID.txt (also in cameras/test/) and frames/ID/TIMESTAMP.png or .jpg.

    Ten frames a clip, evenly spread. A line is: timestamp, fx fy cx cy as shares of width and
    height (of image edges), two zeros, [R | t] of cam_from_world. No unit.
    """
    sets = []
    texts = [*root.glob("*.txt"), *root.glob("cameras/*/*.txt"), *root.glob("cameras/*.txt")]
    for text in sorted(texts):
        lines = text.read_text(encoding="utf-8").splitlines()
        if not lines or not lines[0].startswith("http"):
            continue
        frames = _realestate_frames(root, text.stem)
        if frames is None:
            continue
        found = []
        for line in lines[1:]:
            stamp, *rest = line.split()
            paths = [frames / f"{stamp}{suffix}" for suffix in (".png", ".jpg")]
            path = next((p for p in paths if p.is_file()), None)
            if path is not None:
                found.append((path, numbers(rest, 18, f"{text}: {stamp}")))
        images = []
        for path, values in _spread(found):
            height, width = image_size(path)
            fx, fy, cx, cy = values[:4] * [width, height, width, height]
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
            Rt = values[6:].reshape(3, 4)
            images.append(image_truth(path.name, path, K, pose_from_rt(Rt[:, :3], Rt[:, 3])))
        if len(images) > 1:
            sets.append(
                set_of_images(f"re10k_{text.stem}", root, images, "unknown", truth_files=[text])
            )
    return some(sets, root, "ID.txt with the frames in frames/ID/")


def _realestate_frames(root: Path, clip: str) -> Path | None:
    places = [root / "frames" / clip, *sorted(root.glob(f"frames/*/{clip}"))]
    return next((place for place in places if place.is_dir()), None)


def read_eth3d(root: Path) -> list[EvaluationSet]:
    """ETH3D high-resolution, undistorted: SCENE/dslr_calibration_undistorted (a COLMAP model).

    Images in SCENE/images/. cam_from_world in metres, pixel centres at half-integers. The model of
    the distorted images (dslr_calibration_jpg) is refused: its lens is no pinhole.
    """
    sets = []
    for scene in subfolders(root, "dslr_calibration_undistorted/cameras.txt"):
        calibration = scene / "dslr_calibration_undistorted"
        model = pycolmap.Reconstruction(str(calibration))
        images = []
        for image_id in sorted(model.reg_image_ids(), key=lambda i: model.image(i).name):
            image = model.image(image_id)
            camera = model.camera(image.camera_id)
            if camera.model.name not in _PINHOLES:
                raise ValueError(f"{scene}: {image.name} is no pinhole but {camera.model.name}")
            pose = np.eye(4)
            pose[:3] = image.cam_from_world().matrix()
            images.append(
                image_truth(
                    image.name,
                    scene / "images" / image.name,
                    np.array(camera.calibration_matrix()),
                    pose,
                    K_size=(camera.height, camera.width),
                )
            )
        sets.append(
            set_of_images(
                f"eth3d_{scene.name}",
                scene,
                images,
                "metric",
                truth_files=[calibration / "cameras.txt", calibration / "images.txt"],
            )
        )
    return some(sets, root, "SCENE/dslr_calibration_undistorted/cameras.txt")


def read_dtu(root: Path) -> list[EvaluationSet]:
    """DTU in the layout of the multi-view stereo networks: SCAN/images/ and SCAN/cams/*_cam.txt.

    A camera file holds "extrinsic" (cam_from_world, millimetres: turned to metres), "intrinsic" (of
    the images there, centres at integers) and a depth range. Intrinsics of the quarter-size
    training files do not fit full images and are refused.
    """
    sets = []
    for scan in subfolders(root, "cams/*_cam.txt"):
        images, used = [], []
        for text in sorted((scan / "cams").glob("*_cam.txt")):
            stem = text.name.removesuffix("_cam.txt")
            paths = [scan / "images" / f"{stem}{suffix}" for suffix in (".jpg", ".png")]
            path = next((p for p in paths if p.is_file()), None)
            if path is None:
                continue
            words = text.read_text().split()
            try:
                start = words.index("extrinsic") + 1, words.index("intrinsic") + 1
            except ValueError:
                raise ValueError(f"{text}: no words extrinsic and intrinsic") from None
            pose = numbers(words[start[0] : start[0] + 16], 16, str(text)).reshape(4, 4)
            pose[:3, 3] *= 1e-3
            K = numbers(words[start[1] : start[1] + 9], 9, str(text)).reshape(3, 3)
            images.append(image_truth(path.name, path, K_from_integer_centres(K), pose))
            used.append(text)
        if images:
            sets.append(set_of_images(f"dtu_{scan.name}", scan, images, "metric", truth_files=used))
    return some(sets, root, "SCAN/cams/00000000_cam.txt")


def read_imc(root: Path) -> list[EvaluationSet]:
    """Image Matching Challenge 2022: SCENE/{calibration.csv, pair_covisibility.csv, images/}.

    calibration.csv has image_id, camera_intrinsics (9), rotation_matrix (9) and translation_vector
    (3) of cam_from_world; pixel centres at half-integers (COLMAP). scaling_factors.csv beside the
    scenes, where it is, turns translations to metres. Pairs with a covisibility of 0.1 or more.
    """
    sets = []
    scales = {row["scene"]: float(row["scaling_factor"]) for row in _imc_scales(root)}
    for scene in subfolders(root, "calibration.csv"):
        images = []
        scale = scales.get(scene.name)
        for row in _rows(scene / "calibration.csv"):
            where = f"{scene / 'calibration.csv'}: {row['image_id']}"
            K = numbers(row["camera_intrinsics"], 9, where).reshape(3, 3)
            pose = pose_from_rt(
                numbers(row["rotation_matrix"], 9, where),
                numbers(row["translation_vector"], 3, where) * (scale or 1.0),
            )
            path = scene / "images" / f"{row['image_id']}.jpg"
            if path.is_file():
                images.append(image_truth(path.name, path, check_intrinsics(K, where), pose))
        units = "unknown" if scale is None else "metric"
        covisible = _imc_pairs(scene, {image.name for image in images})
        label = f"imc_{scene.name}"
        sets.append(
            set_of_images(
                label,
                scene,
                images,
                units,
                overlaps=covisible,
                truth_files=[
                    p
                    for p in (scene / "calibration.csv", scene / "pair_covisibility.csv")
                    if p.is_file()
                ],
            )
        )
    return some(sets, root, "SCENE/calibration.csv")


def _imc_scales(root: Path) -> list[dict[str, str]]:
    for file in (root / "scaling_factors.csv", root.parent / "scaling_factors.csv"):
        if file.is_file():
            return _rows(file)
    return []


def _imc_pairs(scene: Path, names: set[str]) -> dict[tuple[str, str], float] | None:
    file = scene / "pair_covisibility.csv"
    if not file.is_file():
        return None
    pairs = {}
    for row in _rows(file):
        first, _, second = row["pair"].partition("-")
        key, covisibility = (f"{first}.jpg", f"{second}.jpg"), float(row["covisibility"])
        if covisibility >= IMC_MIN_COVISIBILITY and names.issuperset(key):
            pairs[key] = covisibility
    return pairs


def read_strecha(root: Path) -> list[EvaluationSet]:
    """Strecha's benchmark: IMAGE beside IMAGE.camera, also in SCENE/urd/ or SCENE/images/.

    A .camera file holds K (3 lines, centres at integers), the distortion (zeros: the images are
    undistorted), R of world_from_cam (3 lines), the camera's centre in metres, and width height.
    """
    sets = []
    for folder in subfolders(root, "*.camera"):
        images = []
        for text in sorted(folder.glob("*.camera")):
            path = text.with_suffix("")
            values = numbers(text.read_text(), 26, str(text))
            if np.any(values[9:12]):
                raise ValueError(f"{text}: a distortion of {values[9:12].tolist()}, expected none")
            world_from_cam = pose_from_rt(values[12:21], values[21:24])
            K = K_from_integer_centres(values[:9].reshape(3, 3))
            size = int(values[25]), int(values[24])
            images.append(image_truth(path.name, path, K, inverse(world_from_cam), K_size=size))
        scene = folder.parent if folder.name in ("urd", "images") else folder
        sets.append(
            set_of_images(
                f"strecha_{scene.name}",
                folder,
                images,
                "metric",
                truth_files=sorted(folder.glob("*.camera")),
            )
        )
    return some(sets, root, "IMAGE.camera beside the images")


def _spread(items: Sequence[Any]) -> list[Any]:
    """At most ten items, evenly spread, the first and the last among them."""
    if len(items) <= IMAGES_A_SEQUENCE:
        return list(items)
    index = np.linspace(0, len(items) - 1, IMAGES_A_SEQUENCE).round().astype(int)
    return [items[i] for i in index]


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
