"""COLMAP: photos with a sparse model (binary or text), and stereo depth maps where there are any.

    DIR/images/...  DIR/sparse/0/{cameras,images,points3D}.{bin,txt}  [DIR/stereo/depth_maps/...]

or one such folder for each scene. Axes and pixel centres are ours. The unit is arbitrary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...geometry.camera import rigid_inverse_array
from ..depth_files import DepthFile
from ..posed_set import PosedSet, ScenePoints, ViewEntry
from ._common import first_existing

_PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")


def model_folder(folder: Path) -> Path | None:
    """Where the model of a scene lies, or None."""
    for place in (folder / "sparse" / "0", folder / "sparse", folder):
        if any((place / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return place
    return None


def scene_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a scene, else the scenes in it."""
    if model_folder(folder) is not None:
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in inside if model_folder(path) is not None]


def detect(folder: Path) -> bool:
    """Whether there is a COLMAP model."""
    return bool(scene_folders(folder))


def read(folder: Path) -> PosedSet:
    """Read one or several COLMAP models of undistorted photos.

    Raises:
        ValueError: a model cannot be read, or has a lens distortion.
    """
    views: list[ViewEntry] = []
    points: dict[str, ScenePoints] = {}
    for scene_folder in scene_folders(folder):
        scene = scene_folder.name
        entries, points[scene] = _read_scene(scene_folder, scene)
        views += entries
    return PosedSet(folder, "colmap", "arbitrary", tuple(views), points=points)


def _read_scene(folder: Path, scene: str) -> tuple[list[ViewEntry], ScenePoints]:
    import pycolmap

    place = model_folder(folder)
    assert place is not None
    try:
        model = pycolmap.Reconstruction(str(place))
    except Exception as error:  # pycolmap raises RuntimeError, IndexError and its own
        raise ValueError(f"{place} is no readable COLMAP model: {error}") from error
    images = first_existing(folder / "images", folder)
    assert images is not None
    entries = []
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        camera = model.camera(image.camera_id)
        cam_from_world = np.eye(4)
        cam_from_world[:3] = image.cam_from_world().matrix()
        depth = first_existing(
            *(folder / "stereo" / "depth_maps" / f"{image.name}.{kind}.bin" for kind in _STEREO)
        )
        entry = ViewEntry(
            scene=scene,
            name=image.name,
            image=images / image.name,
            K=_pinhole(camera, image.name, place),
            world_from_cam=rigid_inverse_array(cam_from_world),
            size=(camera.height, camera.width),
            depth=None if depth is None else DepthFile(depth),
        )
        entries.append(entry)
    entries.sort(key=lambda entry: entry.name)
    return entries, _points(model)


_STEREO = ("geometric", "photometric")


def _pinhole(camera, name: str, place: Path) -> np.ndarray:
    if camera.model.name not in _PINHOLES and np.any(
        np.asarray(camera.params)[
            len(camera.principal_point_idxs()) + len(camera.focal_length_idxs()) :
        ]
    ):
        raise ValueError(
            f"{place}: the camera of {name} is a {camera.model.name} with lens distortion, and "
            "data sets hold pinholes; undistort the photos first: colmap image_undistorter"
        )
    return np.array(camera.calibration_matrix())


def _points(model) -> ScenePoints:
    xyz, point, view, xy = [], [], [], []
    names = {image_id: model.image(image_id) for image_id in model.reg_image_ids()}
    for number, (_, entry) in enumerate(sorted(model.points3D.items())):
        xyz.append(entry.xyz)
        for element in entry.track.elements:
            image = names[element.image_id]
            point.append(number)
            view.append(image.name)
            xy.append(image.points2D[element.point2D_idx].xy)
    return ScenePoints(
        np.array(xyz, dtype=np.float64).reshape(-1, 3),
        np.array(point, dtype=np.int64),
        np.array(view, dtype=np.str_),
        np.array(xy, dtype=np.float64).reshape(-1, 2),
    )
