"""The photos that a query is compared with, and what is known of the world behind their pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap
import torch

from ..images import View, load_images
from ..scene import Scene, SceneView
from .pixel_points import DepthPoints, PixelPoints, TrackPoints

_TRACK_RADIUS_SHARE = 0.012  # of the long side: 12 px of a photo of 1000
_PHOTO_FOLDERS = ("images", "photos", ".")


@dataclass(frozen=True)
class DatabasePhoto:
    """One posed photo of a map.

    Attributes:
        name: unique in the database.
        path: the photo; None when only `stored` is at hand.
        points: what lies behind its original pixels.
        stored: the photo at network size as a scene keeps it, used when the file is gone or the
            network works at that size anyway.
    """

    name: str
    path: Path | None
    points: PixelPoints
    stored: View | None = None

    def view(self, size: int, patch_size: int) -> View:
        """The photo for the network.

        Raises:
            FileNotFoundError: the file is gone and nothing was stored in its place.
            ValueError: it cannot be used.
        """
        if self.stored is not None and (max(self.stored.size) == size or not self._exists()):
            return self.stored
        if self.path is None or not self._exists():
            raise FileNotFoundError(
                f"photo {self.name} of the map is not at {self.path}; give the folder that holds "
                "the photos of the map now (photos=..., --photos)"
            )
        loaded = load_images([self.path], size=size, patch_size=patch_size)
        return replace(loaded.views[0], name=self.name)

    def _exists(self) -> bool:
        return self.path is not None and self.path.is_file()


@dataclass(frozen=True)
class Database:
    """Posed photos with known points behind their pixels, all in one world frame.

    Attributes:
        photos: at least one.
        metric: the unit of the world is the metre.
        source: what it was made from, for messages.
    """

    photos: tuple[DatabasePhoto, ...]
    metric: bool = False
    source: str = "database"

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError(f"{self.source} holds no posed photo to localise against")

    def __len__(self) -> int:
        return len(self.photos)


DatabaseSource = Database | Scene | str | os.PathLike[str]


def open_database(source: DatabaseSource, photos: str | os.PathLike[str] | None = None) -> Database:
    """Make a database from whatever `weav3r.localize(scene=...)` takes.

    Args:
        source: a `Scene`; a scene.npz or a folder with one; a COLMAP model folder (binary or text,
            also with sparse/0 in it); a `Database`.
        photos: folder of the photos; default: where the scene was made from, for a COLMAP model
            the folder images/ beside it.

    Raises:
        FileNotFoundError: there is nothing there, or a photo of a COLMAP model is missing.
        ValueError: it is no map, or holds no camera.
    """
    if isinstance(source, Database):
        return source
    folder = None if photos is None else Path(photos)
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of photos")
    if isinstance(source, Scene):
        return database_from_scene(source, folder)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no map at {path}")
    if path.is_file() or (path / "scene.npz").is_file():
        return database_from_scene(Scene.load(path), folder, source=str(path))
    for model in (path, path / "sparse" / "0", path / "sparse"):
        if any((model / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
            return database_from_colmap(model, folder)
    raise ValueError(
        f"{path} is no map: looked for scene.npz (weav3r reconstruct -o {path}/) and for a COLMAP "
        "model (images.bin or .txt, also in sparse/0)"
    )


def database_from_scene(
    scene: Scene,
    photos: Path | None = None,
    *,
    component: int = 0,
    min_confidence: float | None = None,
    source: str = "scene",
) -> Database:
    """A reconstruction as a map.

    Args:
        scene: from `weav3r.reconstruct` or `Scene.load`.
        photos: folder of the photos, when they moved.
        component: which component; the others live in frames of their own.
        min_confidence: depths below are left out; None takes the scene's own threshold.
        source: for messages.

    Raises:
        ValueError: the scene holds no camera, or the component does not exist.
    """
    if not scene.components:
        raise ValueError(f"{source} holds no camera: no photo of it could be placed")
    if not 0 <= component < len(scene.components):
        raise ValueError(
            f"component {component} does not exist; {source} has {len(scene.components)}"
        )
    found = []
    for index in scene.components[component]:
        view = scene.views[index]
        assert view.camera is not None  # a scene checks that its components have cameras
        depth = np.where(scene.valid(index, min_confidence), view.depth, np.nan)
        path = view.path
        if photos is not None:
            path = _find_photo(photos, view.name if path is None else path.name)
        found.append(
            DatabasePhoto(
                view.name, path, DepthPoints(view.camera, depth, view.ledger), _stored_view(view)
            )
        )
    return Database(tuple(found), scene.scale == "metric", source)


def database_from_colmap(
    model_folder: Path, photos: Path | None = None, *, min_track_length: int = 2
) -> Database:
    """A COLMAP model as a map: its tracks are the points, its photos are read from disk.

    Lens distortions are respected. COLMAP does not record units: the result is not metric.

    Args:
        model_folder: with cameras, images and points3D, binary or text.
        photos: folder in which the names of the images are looked up; default: images/ or photos/
            beside the model, or up to three folders above it.
        min_track_length: points seen by fewer images are left out.

    Raises:
        FileNotFoundError: a photo is missing; the message says where it was looked for.
        ValueError: the model cannot be read or has no registered image.
    """
    try:
        model = pycolmap.Reconstruction(str(model_folder))
    except Exception as error:  # pycolmap raises RuntimeError, IndexError and its own
        raise ValueError(f"{model_folder} is no readable COLMAP model: {error}") from error
    names = [model.image(i).name for i in model.reg_image_ids()]
    if not names:
        raise ValueError(f"{model_folder} is a COLMAP model without any registered image")
    root = photos or _photo_folder(model_folder, names[0])
    found = []
    for image_id in sorted(model.reg_image_ids(), key=lambda i: model.image(i).name):
        image = model.image(image_id)
        path = _find_photo(root, image.name)
        if path is None:
            raise FileNotFoundError(
                f"{model_folder} has {image.name}, which is not in {root}; give the folder of its "
                "photos (photos=..., --photos)"
            )
        found.append(DatabasePhoto(image.name, path, _tracks(model, image, min_track_length)))
    return Database(tuple(found), source=str(model_folder))


def _tracks(
    model: pycolmap.Reconstruction, image: pycolmap.Image, min_track_length: int
) -> TrackPoints:
    camera = model.camera(image.camera_id)
    observed = [
        (point.xy, model.point3D(point.point3D_id))
        for point in image.points2D
        if point.has_point3D()
    ]
    kept = [(xy, p.xyz) for xy, p in observed if p.track.length() >= min_track_length]
    pose = np.eye(4)
    pose[:3] = image.cam_from_world().matrix()
    return TrackPoints(
        camera=camera,
        cam_from_world=pose,
        xy=np.array([xy for xy, _ in kept], dtype=np.float64).reshape(-1, 2),
        xyz=np.array([xyz for _, xyz in kept], dtype=np.float64).reshape(-1, 3),
        radius_px=track_radius_px((camera.height, camera.width)),
    )


def track_radius_px(size: tuple[int, int]) -> float:
    """How far a track of a model of this (height, width) speaks for the pixels around it."""
    return _TRACK_RADIUS_SHARE * max(size)


def _stored_view(view: SceneView) -> View:
    image = torch.from_numpy(view.rgb.copy()).permute(2, 0, 1).float() / 255
    return View(view.name, view.path, (image - 0.5) / 0.5, view.ledger)


def _photo_folder(model_folder: Path, name: str) -> Path:
    """The folder, beside the model or above it, that holds a photo of that name."""
    above: Sequence[Path] = (model_folder, *model_folder.absolute().parents[:3])
    for folder in above:
        for place in _PHOTO_FOLDERS:
            if _find_photo(folder / place, name) is not None:
                return folder / place
    raise FileNotFoundError(
        f"the photos of {model_folder} were not found: {name} is in no folder images/ or photos/ "
        "beside it; give their folder (photos=..., --photos)"
    )


def _find_photo(folder: Path, name: str) -> Path | None:
    """A photo by its name in the map, or by its bare file name; never outside the folder."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        name = Path(name).name
    for candidate in (folder / name, folder / Path(name).name):
        if candidate.is_file():
            return candidate.absolute()
    return None
