"""Published lists of image pairs with ground truth: ScanNet-1500, MegaDepth-1500."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..readers import EvaluationSet, ImageTruth, K_from_integer_centres, PairTruth
from ._building import image_truth, inverse, numbers, pair_truth, pose_from_rt
from ._object_arrays import load_objects

SUPERGLUE_LIST = "scannet_test_pairs_with_gt.txt"
GLUE_FACTORY_LIST = "pairs_calibrated.txt"
_SCANNET_K_SIZE = (480, 640)


def read_scannet1500(root: Path) -> list[EvaluationSet]:
    """ScanNet-1500 in either published layout.

    * A list with ground truth, scannet_test_pairs_with_gt.txt (38 columns: two names, two EXIF
      turns, K1, K2, T_2from1), images below the folder. K belongs to the size of the images there.
    * test.npz (`name` (N, 4): scene, subscene, two frames) and intrinsics.npz with folders
      sceneSSSS_SS/{color,pose}: pose files hold world_from_cam, K is that of 640 x 480.

    Both count pixel centres at integers, as ScanNet's calibration does; translations are metres.
    """
    if (root / SUPERGLUE_LIST).is_file():
        return [_read_superglue(root)]
    if not (root / "test.npz").is_file():
        raise FileNotFoundError(
            f"{root} is no ScanNet-1500: looked for {SUPERGLUE_LIST} and test.npz"
        )
    return [_read_loftr_scannet(root)]


def _read_superglue(root: Path) -> EvaluationSet:
    pairs: list[PairTruth] = []
    images: dict[str, ImageTruth] = {}
    for number, line in enumerate((root / SUPERGLUE_LIST).read_text().splitlines(), 1):
        parts = line.split()
        where = f"{root / SUPERGLUE_LIST}:{number}"
        if not parts:
            continue
        if len(parts) != 38:
            raise ValueError(f"{where}: expected 38 columns, got {len(parts)}")
        if parts[2] != "0" or parts[3] != "0":
            raise ValueError(f"{where}: turned images are not understood, got {parts[2:4]}")
        values = numbers(parts[4:], 34, where)
        both = []
        for name, K in ((parts[0], values[:9]), (parts[1], values[9:18])):
            path = _inside(root, name)
            both.append(image_truth(name, path, K_from_integer_centres(K.reshape(3, 3)), None))
            images[name] = both[-1]
        pair = pair_truth(both[0], both[1])
        pairs.append(replace(pair, cam2_from_cam1=values[18:].reshape(4, 4)))
    return EvaluationSet(
        "scannet1500", root, "metric", images, tuple(pairs), (root / SUPERGLUE_LIST,)
    )


def _read_loftr_scannet(root: Path) -> EvaluationSet:
    with np.load(root / "test.npz", allow_pickle=False) as arrays:
        rows = arrays["name"]
    intrinsics: Mapping[str, np.ndarray] = {}
    if (root / "intrinsics.npz").is_file():
        with np.load(root / "intrinsics.npz", allow_pickle=False) as arrays:
            intrinsics = {key: arrays[key] for key in arrays.files}
    images: dict[str, ImageTruth] = {}
    truth_files = [root / "test.npz", *root.glob("intrinsics.npz")]

    def image(scene: str, frame: int) -> ImageTruth:
        name = f"{scene}/color/{frame}.jpg"
        if name not in images:
            folder = root / scene
            K_file = folder / "intrinsic" / "intrinsic_depth.txt"  # as for 640 x 480
            if scene in intrinsics:
                K = intrinsics[scene]
            else:
                K = numbers(K_file.read_text(), 16, str(K_file)).reshape(4, 4)
            pose_file = folder / "pose" / f"{frame}.txt"
            truth_files.append(pose_file)
            world_from_cam = numbers(pose_file.read_text(), 16, str(pose_file)).reshape(4, 4)
            images[name] = image_truth(
                name,
                root / name,
                K_from_integer_centres(K[:3, :3]),
                inverse(world_from_cam),
                K_size=_SCANNET_K_SIZE,
            )
        return images[name]

    pairs = []
    for scene_id, sub_id, first, second in rows.tolist():
        scene = f"scene{scene_id:04d}_{sub_id:02d}"
        pairs.append(pair_truth(image(scene, first), image(scene, second)))
    return EvaluationSet("scannet1500", root, "metric", images, tuple(pairs), tuple(truth_files))


def read_megadepth1500(root: Path) -> list[EvaluationSet]:
    """MegaDepth-1500 in either published layout.

    * pairs_calibrated.txt (32 columns: two names, K1, K2, R, t of cam2_from_cam1), images in
      images/ or below the folder: one set.
    * SCENE_LOW_HIGH.npz files with `image_paths`, `intrinsics`, `poses` (cam_from_world) and
      `pair_infos`, here or in megadepth_test_1500_scene_info/: one set a file. They hold Python
      objects; only plain numbers, strings and arrays of them are read.

    Translations have no unit; pixel centres are at half-integers (COLMAP).
    """
    if (root / GLUE_FACTORY_LIST).is_file():
        return [_read_glue_factory(root)]
    files = sorted(root.glob("00*_0*.npz")) or sorted(
        (root / "megadepth_test_1500_scene_info").glob("00*_0*.npz")
    )
    if not files:
        raise FileNotFoundError(
            f"{root} is no MegaDepth-1500: looked for {GLUE_FACTORY_LIST} and for scene files such "
            "as 0015_0.1_0.3.npz"
        )
    return [_read_scene_info(root, file) for file in files]


def _read_glue_factory(root: Path) -> EvaluationSet:
    folder = root / "images" if (root / "images").is_dir() else root
    images: dict[str, ImageTruth] = {}
    pairs = []
    for number, line in enumerate((root / GLUE_FACTORY_LIST).read_text().splitlines(), 1):
        parts = line.split()
        where = f"{root / GLUE_FACTORY_LIST}:{number}"
        if not parts:
            continue
        if len(parts) != 32:
            raise ValueError(f"{where}: expected 32 columns, got {len(parts)}")
        values = numbers(parts[2:], 30, where)
        both = [
            image_truth(name, _inside(folder, name), K.reshape(3, 3), None)
            for name, K in ((parts[0], values[:9]), (parts[1], values[9:18]))
        ]
        images.update({image.name: image for image in both})
        pose = pose_from_rt(values[18:27], values[27:])
        pairs.append(replace(pair_truth(both[0], both[1]), cam2_from_cam1=pose))
    return EvaluationSet(
        "megadepth1500", root, "unknown", images, tuple(pairs), (root / GLUE_FACTORY_LIST,)
    )


def _read_scene_info(root: Path, file: Path) -> EvaluationSet:
    arrays = load_objects(file)
    paths, intrinsics, poses = (arrays[key] for key in ("image_paths", "intrinsics", "poses"))
    images: dict[str, ImageTruth] = {}
    pairs = []
    for info in arrays["pair_infos"]:
        (i, j), overlap = info[0], float(info[1])
        for k in (i, j):
            name = str(paths[k])
            if name not in images:
                images[name] = image_truth(name, _inside(root, name), intrinsics[k], poses[k])
        pairs.append(pair_truth(images[str(paths[i])], images[str(paths[j])], overlap))
    return EvaluationSet(
        f"megadepth1500_{file.stem}", root, "unknown", images, tuple(pairs), (file,)
    )


def _inside(folder: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{folder}: {name!r} leads outside the data set's folder")
    return folder / name
