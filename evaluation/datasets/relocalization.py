"""Localisation benchmarks: 7-Scenes, Cambridge Landmarks, Aachen Day-Night, map-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from ...datasets.depth_files import DepthFile
from ...geometry.camera import Camera, check_rigid
from ...inference.localization.database import Database, DatabasePhoto, database_from_colmap
from ...inference.localization.pixel_points import DepthPoints
from ..localization_sets import LocalizationQuery, LocalizationSet
from ..readers import EvaluationSet
from ._building import (
    image_size,
    image_truth,
    inverse,
    numbers,
    pair_truth,
    pose_from_quaternion,
    some,
    subfolders,
)

SEVEN_SCENES_K = np.array([[525.0, 0, 320.0], [0, 525.0, 240.0], [0, 0, 1]])
"""Of the colour camera, as the benchmark's page states it; it never calibrated the camera."""

_SEVEN_SCENES_SIZE = (480, 640)
_NO_DEPTH_MM = 65535
_REGISTERED, _RAW = ".depth.proj.png", ".depth.png"
_MAP_EVERY = 10  # a Kinect at 30 Hz: neighbouring frames show the same
_QUERIES_EVERY = 10


class SevenScenesPoints:
    """Points of a 7-Scenes frame; the depth is read when it is asked for.

    Attributes:
        path: depth in millimetres, registered to the colour image.
        camera: of the colour image.
    """

    def __init__(self, path: Path, camera: Camera) -> None:
        self.path = path
        self.camera = camera

    def at(self, xy: np.ndarray) -> np.ndarray:
        """World points (N, 3), NaN where the sensor saw nothing."""
        stored = DepthFile(self.path).read()
        depth = np.where(stored >= _NO_DEPTH_MM, 0, stored) * np.float32(1e-3)
        return DepthPoints(self.camera, depth).at(xy)


def read_seven_scenes(root: Path) -> list[LocalizationSet]:
    """7-Scenes: SCENE/{TrainSplit.txt, TestSplit.txt, seq-01/frame-000000.{color,depth,pose}.*}.

    Pose files hold world_from_cam, depths are millimetres with 65535 for "unknown". The raw depth
    belongs to the depth camera (f = 585), not to the colour image; .depth.proj.png, registered to
    it, is used, and a scene without it refused. Every tenth frame of either split is used.
    """
    sets = []
    for scene in subfolders(root, "TrainSplit.txt"):
        frames = {split: _seven_scenes_frames(scene, split) for split in ("Train", "Test")}
        photos = []
        for stem in frames["Train"][::_MAP_EVERY]:
            depth = scene / f"{stem}{_REGISTERED}"
            if not depth.is_file():
                raise FileNotFoundError(
                    f"{scene} has no {stem}{_REGISTERED}: the benchmark's own {_RAW} is not "
                    "registered to the colour images; render the registered depth first"
                )
            image = image_truth(
                f"{stem}.color.png",
                scene / f"{stem}.color.png",
                SEVEN_SCENES_K,
                _seven_scenes_pose(scene, stem),
                K_size=_SEVEN_SCENES_SIZE,
            )
            assert image.K is not None and image.cam_from_world is not None  # given above
            camera = Camera(image.K, image.cam_from_world, *image.size)
            photos.append(DatabasePhoto(image.name, image.path, SevenScenesPoints(depth, camera)))
        queries = []
        for stem in frames["Test"][::_QUERIES_EVERY]:
            path = scene / f"{stem}.color.png"
            name, pose = f"{stem}.color.png", _seven_scenes_pose(scene, stem)
            image = image_truth(name, path, SEVEN_SCENES_K, pose, K_size=_SEVEN_SCENES_SIZE)
            queries.append(LocalizationQuery(name, path, image.size, image.K, pose))
        poses = [*frames["Train"][::_MAP_EVERY], *frames["Test"][::_QUERIES_EVERY]]
        sets.append(
            LocalizationSet(
                name=f"7scenes_{scene.name}",
                folder=scene,
                database=Database(tuple(photos), metric=True, source=str(scene)),
                queries=tuple(queries),
                protocol=f"every {_MAP_EVERY}th frame of the training sequences with registered "
                f"depth is the map, every {_QUERIES_EVERY}th of the test sequences a query; the "
                "benchmark's nominal intrinsics",
                data_files=tuple(
                    [p.path for p in photos if p.path is not None]
                    + [q.path for q in queries]
                    + [scene / f"{stem}.pose.txt" for stem in poses]
                ),
            )
        )
    return some(sets, root, "SCENE/TrainSplit.txt")


def _seven_scenes_frames(scene: Path, split: str) -> list[str]:
    stems = []
    for line in (scene / f"{split}Split.txt").read_text().split():
        folder = scene / f"seq-{int(line.removeprefix('sequence')):02d}"
        found = sorted(path.name.removesuffix(".pose.txt") for path in folder.glob("*.pose.txt"))
        stems += [f"{folder.name}/{stem}" for stem in found]
    return stems


def _seven_scenes_pose(scene: Path, stem: str) -> np.ndarray:
    path = scene / f"{stem}.pose.txt"
    return inverse(check_rigid(numbers(path.read_text(), 16, str(path)).reshape(4, 4), str(path)))


def read_cambridge(root: Path) -> list[LocalizationSet]:
    """Cambridge Landmarks: SCENE/{dataset_test.txt, photos in seqN/} with a COLMAP model.

    A line of dataset_test.txt, after three header lines, is: name, camera centre, quaternion wxyz
    of the ROTATION of cam_from_world (so the two halves follow different conventions). The model of
    the training images lies in model_train/ or sparse/0/, the cameras of the queries, with their
    lens distortion, in query_list_with_intrinsics.txt (name MODEL width height parameters...).
    Metres.
    """
    sets = []
    for scene in subfolders(root, "dataset_test.txt"):
        truth = {}
        for line in (scene / "dataset_test.txt").read_text().splitlines()[3:]:
            if line.strip():
                name, *rest = line.split()
                values = numbers(rest, 7, f"{scene / 'dataset_test.txt'}: {name}")
                pose = pose_from_quaternion(values[3:], np.zeros(3))
                pose[:3, 3] = -pose[:3, :3] @ values[:3]
                truth[name] = pose
        cameras = _query_cameras([scene / "query_list_with_intrinsics.txt"])
        unknown = sorted(set(cameras) - set(truth))
        if unknown:
            raise ValueError(f"{scene}: dataset_test.txt has no pose of {unknown[:3]}")
        sets.append(
            _colmap_set(f"cambridge_{scene.name}", scene, _model(scene), scene, cameras, truth)
        )
    return some(sets, root, "SCENE/dataset_test.txt")


def read_aachen(root: Path) -> list[LocalizationSet]:
    """Aachen Day-Night: 3D-models/.../ (a COLMAP model), images/images_upright/, queries/*.txt.

    Query lists hold the cameras with their lens distortion. The poses of the queries are secret:
    errors are not scored here, the poses are written for the benchmark's server. Metres.
    """
    folder = root / "images" / "images_upright"
    lists = sorted((root / "queries").glob("*_with_intrinsics.txt"))
    models = sorted((root / "3D-models").glob("**/points3D.bin"))
    if not folder.is_dir() or not lists or not models:
        raise FileNotFoundError(
            f"{root} is no Aachen Day-Night: looked for images/images_upright, "
            "queries/*_with_intrinsics.txt and 3D-models/**/points3D.bin"
        )
    cameras = _query_cameras(lists)
    return [_colmap_set("aachen", root, models[-1].parent, folder, cameras, {})]


def _colmap_set(
    name: str,
    folder: Path,
    model: Path,
    photos: Path,
    cameras: dict[str, pycolmap.Camera],
    truth: dict[str, np.ndarray],
) -> LocalizationSet:
    database = database_from_colmap(model, photos)
    queries = []
    for query, camera in cameras.items():
        path = photos / query
        size = image_size(path)
        if size != (camera.height, camera.width):
            camera.rescale(size[1], size[0])
        K = np.array(camera.calibration_matrix())
        pinhole = camera.model.name in ("PINHOLE", "SIMPLE_PINHOLE")
        pose = truth.get(query)
        lens = None if pinhole else camera
        queries.append(LocalizationQuery(query, path, size, K, pose, lens))
    files = [p.path for p in database.photos if p.path is not None]
    return LocalizationSet(
        name=name,
        folder=folder,
        database=Database(database.photos, metric=True, source=name),
        queries=tuple(queries),
        protocol=f"the {len(files)} images of the COLMAP model with its tracks are the map, the "
        f"{len(queries)} photos of the query lists the queries",
        data_files=(*files, *(query.path for query in queries)),
    )


def _model(scene: Path) -> Path:
    for folder in (scene / "model_train", scene / "sparse" / "0", scene / "sparse"):
        if any((folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
            return folder
    raise FileNotFoundError(f"{scene} has no COLMAP model in model_train/ or sparse/0/")


def _query_cameras(lists: Sequence[Path]) -> dict[str, pycolmap.Camera]:
    cameras = {}
    for file in lists:
        if not file.is_file():
            raise FileNotFoundError(f"no list of queries {file}")
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if not line.strip():
                continue
            name, model, width, height, *parameters = line.split()
            try:
                cameras[name] = pycolmap.Camera(
                    model=model,
                    width=int(width),
                    height=int(height),
                    params=[float(p) for p in parameters],
                )
            except Exception as error:  # pycolmap raises several kinds
                raise ValueError(f"{file}:{number}: no COLMAP camera: {error}") from error
    return cameras


def read_map_free(root: Path) -> list[EvaluationSet]:
    """Map-free: SCENE/{intrinsics.txt, poses.txt, seq0/frame_00000.jpg, seq1/frame_*.jpg}.

    Lines are `frame fx fy cx cy width height` and `frame qw qx qy qz tx ty tz` of cam_from_world in
    metres, with the reference photo seq0/frame_00000.jpg as the world. The pairs are the reference
    with every tenth frame of seq1; other frames of seq0 are not used, as the benchmark demands.
    """
    sets = []
    for scene in subfolders(root, "intrinsics.txt"):
        intrinsics = _by_frame(scene / "intrinsics.txt", 6)
        poses = _by_frame(scene / "poses.txt", 7)
        names = [n for n in sorted(poses) if n in intrinsics]
        reference = next((n for n in names if n.startswith("seq0/")), None)
        queries = [n for n in names if n.startswith("seq1/")][::_QUERIES_EVERY]
        if reference is None or not queries:
            raise ValueError(f"{scene}: no pose of a frame of seq0 or of seq1")
        images = {}
        for name in (reference, *queries):
            fx, fy, cx, cy, width, height = intrinsics[name]
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
            pose = pose_from_quaternion(poses[name][:4], poses[name][4:])
            size = int(height), int(width)
            images[name] = image_truth(name, scene / name, K, pose, K_size=size)
        pairs = tuple(pair_truth(images[reference], images[name]) for name in queries)
        truth = scene / "intrinsics.txt", scene / "poses.txt"
        sets.append(EvaluationSet(f"mapfree_{scene.name}", scene, "metric", images, pairs, truth))
    return some(sets, root, "SCENE/intrinsics.txt")


def _by_frame(path: Path, count: int) -> dict[str, np.ndarray]:
    rows = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        name, *rest = line.split() or [""]
        if name and not name.startswith("#"):
            rows[name] = numbers(rest, count, f"{path}:{number}")
    return rows
