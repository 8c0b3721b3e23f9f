"""What the page shows of a finished run: files made from its stored scene when they are asked for.

Nothing here runs the reconstruction again. All files lie in the folder of the run, and go with it.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ..inference.correspondence import Correspondence
from ..inference.export.glb import gltf_from_opencv
from ..inference.export.html import camera_plans
from ..inference.export.npz import SCENE_FILE
from ..inference.observer import EarlyDepth
from ..inference.pictures import (
    PointColor,
    beside,
    confidence_picture,
    depth_picture,
    normals_picture,
)
from ..inference.scene import Scene
from ..inference.two_view import match
from ..models.two_view import TwoViewModel
from .job import PHOTOS, with_photos

MapKind = Literal["depth", "confidence", "normals"]
Drawing = Literal["squares", "points", "surfaces"]
Format = Literal["glb", "ply", "npz", "colmap", "transforms", "nerfstudio", "report"]

CHECKPOINT = "checkpoint.txt"
"""Name of the file that names the checkpoint of a run."""

MAX_SHOWN = 100_000
"""Points of a scene that a browser gets."""

_RAISED_DEG, _BACK = 10.0, 1.6  # the view starts above and behind the first camera
_VIEWS_KEPT = 4  # GLB files of one run, the last ones that were shown
_JPEG_QUALITY = 90
_LINE_SCALE = 2  # the picture of the matches against the network's pixels


@dataclass(frozen=True)
class ViewOptions:
    """Which points are shown, and how.

    Attributes:
        drawing: "squares" (points with a size), "points" (as thin as the browser draws them) or
            "surfaces".
        color: see `pictures.point_colors`.
        point_size: width of the squares; 1 closes the surfaces.
        min_confidence: points below are left out; None: the scene's own threshold.
        max_error: points with a larger expected error, as a share of their depth, are left out.
        consistent: leave out points in front of what other photos saw more surely.
        sky: leave out what looks like sky.
        max_distance: leave out what is farther away than so many median depths of its photo.
        component: which group of photos.
    """

    drawing: Drawing = "squares"
    color: PointColor = "photo"
    point_size: float = 1.0
    min_confidence: float | None = None
    max_error: float | None = None
    consistent: bool = True
    sky: bool = False
    max_distance: float | None = 4.0
    component: int = 0


@dataclass(frozen=True)
class ShownScene:
    """A file for the viewer.

    Attributes:
        file: GLB.
        shown: points or corners in it.
        kept: points that the filters leave.
        total: points with a depth.
        orbit: (longitude, latitude, radius) in degrees and scene units around the middle of what is
            in the file, from which it is seen much as the first photo saw it.
    """

    file: Path
    shown: int
    kept: int
    total: int
    orbit: tuple[float, float, float]


class Results:
    """A stored scene and what is made of it.

    Args:
        folder: of the run.

    Raises:
        FileNotFoundError: the folder holds no scene.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scene = Scene.load(folder / SCENE_FILE)
        self.checkpoint = (folder / CHECKPOINT).read_text(encoding="utf-8")
        self._lock = threading.Lock()

    # -- points ------------------------------------------------------------------------------------

    @cached_property
    def _consistent(self) -> list[np.ndarray | None]:
        return self.scene.masks(consistent=True)

    @cached_property
    def _no_sky(self) -> list[np.ndarray | None]:
        return self.scene.masks(consistent=False, sky=True)

    def masks(self, options: ViewOptions) -> list[np.ndarray | None]:
        """Join the filters of a choice; the slow ones are made once."""
        with self._lock:
            parts = [
                self.scene.masks(
                    consistent=False,
                    max_error=options.max_error,
                    max_distance=options.max_distance,
                )
            ]
            parts += [self._consistent] if options.consistent else []
            parts += [self._no_sky] if options.sky else []
        return [_all_of(masks) for masks in zip(*parts, strict=True)]

    def view(self, options: ViewOptions) -> ShownScene:
        """Make the file that the viewer shows; a choice that was shown before is there at once.

        Raises:
            ValueError: the scene holds no camera, or an option makes no sense.
        """
        scene, masks = self.scene, self.masks(options)
        members = scene.components[options.component] if scene.components else []
        total = sum(int(scene.views[i].valid.sum()) for i in members)
        kept = 0
        for i in members:
            keep, mask = scene.valid(i, options.min_confidence), masks[i]
            kept += int((keep if mask is None else keep & mask).sum())
        name = hashlib.sha256(repr(options).encode()).hexdigest()[:12]
        file = self.folder / f"view-{name}.glb"
        if not file.exists():
            scene.save(
                file,
                max_points=MAX_SHOWN,
                mesh=options.drawing == "surfaces",
                point_size=options.point_size if options.drawing == "squares" else None,
                color=options.color,
                component=options.component,
                min_confidence=options.min_confidence,
                masks=masks,
            )
            views = sorted(self.folder.glob("view-*.glb"), key=lambda f: f.stat().st_mtime)
            for old in views[:-_VIEWS_KEPT]:
                old.unlink(missing_ok=True)
        return ShownScene(file, min(kept, MAX_SHOWN), kept, total, self._orbit(options, masks))

    def _orbit(
        self, options: ViewOptions, masks: list[np.ndarray | None]
    ) -> tuple[float, float, float]:
        """Where the first camera of a group is, seen from the middle of the box of its points."""
        component = options.component
        cloud = self.scene.point_cloud(
            options.min_confidence, MAX_SHOWN, masks=masks, component=component
        )
        cameras = [self.scene.cameras[i] for i in self.scene.components[component]]
        centers = np.array([camera.center for camera in cameras if camera is not None])
        everything = gltf_from_opencv(np.concatenate([cloud.points, centers]))
        middle = (everything.min(0) + everything.max(0)) / 2
        away = gltf_from_opencv(centers[0]) - middle
        distance = float(np.linalg.norm(away))
        if distance < 1e-9:
            return 90.0, 75.0, self.scene.extent(component)
        longitude = float(np.degrees(np.arctan2(away[2], away[0])))
        latitude = float(np.degrees(np.arccos(away[1] / distance)))
        return longitude, max(latitude - _RAISED_DEG, 5.0), _BACK * distance

    # -- maps --------------------------------------------------------------------------------------

    def maps(self, kind: MapKind) -> list[tuple[Path, str]]:
        """(file, caption) of each photo beside its depth, confidence or normals."""
        return [(self._map(i, kind), name) for i, name in enumerate(self.scene.images)]

    def _map(self, index: int, kind: MapKind) -> Path:
        file = self.folder / "maps" / f"{index:03d}-{kind}.jpg"
        if not file.exists():
            scene, valid = self.scene, self.scene.valid(index)
            if kind == "depth":
                picture = depth_picture(scene.depth(index), valid)
            elif kind == "confidence":
                picture = confidence_picture(scene.confidence(index), scene.views[index].valid)
            elif scene.views[index].camera is None:
                picture = depth_picture(np.full(valid.shape, np.nan))
            else:
                K = scene.network_camera(index).K
                picture = normals_picture(scene.depth(index), K, valid)
            _save_beside(file, scene.colors(index), picture)
        return file

    # -- matches -----------------------------------------------------------------------------------

    def match(self, left: str, right: str, model: TwoViewModel) -> Correspondence:
        """Match two photos of the scene, or read what was matched before.

        Raises:
            KeyError: there is no such photo.
            ValueError: both are the same.
        """
        i, j = self.scene.index(left), self.scene.index(right)
        if i == j:
            raise ValueError("choose two different photos")
        file = self.folder / "pairs" / f"{i}-{j}.npz"
        if file.exists():
            return Correspondence.load(file)
        first, second = (self.folder / PHOTOS / self.scene.images[k] for k in (i, j))
        size = self.scene.report.settings.get("size")
        pair = match(first, second, model, size=size if isinstance(size, int) else None)
        cameras = self.scene.cameras[i], self.scene.cameras[j]
        together = any(i in group and j in group for group in self.scene.components)
        K1, K2 = (None if c is None or not together else c.K for c in cameras)
        found = Correspondence.of(pair, K1, K2)
        file.parent.mkdir(exist_ok=True)
        found.save(file)
        return found

    def matches_picture(
        self, found: Correspondence, marked: tuple[tuple[float, float], tuple[float, float]] | None
    ) -> Path:
        """Draw two photos and their matches."""
        key = hashlib.sha256(repr((found.names, marked)).encode()).hexdigest()[:12]
        file = self.folder / "pairs" / f"{key}.jpg"
        file.parent.mkdir(exist_ok=True)
        found.picture(scale=_LINE_SCALE, marked=marked).save(file, quality=_JPEG_QUALITY)
        return file

    @staticmethod
    def point_in_left(x: int, y: int) -> tuple[float, float]:
        """Network pixels of a click on the picture of the matches."""
        return (x + 0.5) / _LINE_SCALE, (y + 0.5) / _LINE_SCALE

    def point_text(
        self,
        found: Correspondence,
        here: tuple[float, float],
        there: tuple[float, float, float],
    ) -> str:
        """Say in original pixels what `Correspondence.find` found."""
        ledgers = [self.scene.views[self.scene.index(name)].ledger for name in found.names]
        (x1, y1), (x2, y2) = (
            ledger.points_to_original(np.array(xy))
            for ledger, xy in zip(ledgers, (here, there[:2]), strict=True)
        )
        sure = "sure" if there[2] > 0.5 else "unsure" if there[2] > 0.05 else "a guess"
        return f"Pixel ({x1:.0f}, {y1:.0f}) is ({x2:.0f}, {y2:.0f}) in the right photo: {sure}."

    # -- files -------------------------------------------------------------------------------------

    @cached_property
    def plans(self) -> str:
        """HTML: where the photos were taken."""
        return camera_plans(self.scene)

    def report_page(self) -> Path:
        """Write the report as a page."""
        file = self.folder / "report.html"
        return file if file.exists() else self.scene.save(file)

    def download(self, format: Format, options: ViewOptions) -> Path:
        """Write a file to take away.

        Args:
            format: which; GLB and PLY hold the points that `options` choose, the others all.
            options: what is shown.

        Raises:
            ValueError: the format is unknown, or there is nothing to write.
        """
        folder = self.folder / "downloads"
        folder.mkdir(exist_ok=True)
        chosen = {
            "component": options.component,
            "min_confidence": options.min_confidence,
        }
        if format == "glb":
            masks = self.masks(options)
            mesh = options.drawing == "surfaces"
            return self.scene.save(
                folder / "scene.glb", mesh=mesh, color=options.color, masks=masks, **chosen
            )
        if format == "ply":
            return self.scene.save(folder / "scene.ply", masks=self.masks(options), **chosen)
        if format == "npz":
            return self.scene.save(folder / "scene.npz", compressed=True)
        if format == "report":
            return self.report_page()
        if format not in ("colmap", "transforms", "nerfstudio"):
            raise ValueError(f"there is no download {format!r}")
        kind = "colmap" if format == "colmap" else "nerfstudio"
        if not (folder / f"{kind}.zip").exists():
            self._archive(kind, folder)
        return folder / ("transforms.json" if format == "transforms" else f"{kind}.zip")

    def _archive(self, kind: str, folder: Path) -> None:
        """Write a format that comes with its photos, as an archive."""
        made = self.folder / kind
        with_photos(self.scene, self.folder).save(made, format=kind, copy_images=True)
        if kind == "nerfstudio":
            shutil.copyfile(made / "transforms.json", folder / "transforms.json")
        shutil.make_archive(str(folder / kind), "zip", made)
        shutil.rmtree(made)


class ResultsCache:
    """The last used results stay in memory, the others are read again.

    Args:
        count: how many.
    """

    def __init__(self, count: int = 3) -> None:
        self.count = count
        self._kept: OrderedDict[Path, Results] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, folder: Path) -> Results | None:
        """Results in a folder; None where there are none."""
        with self._lock:
            if folder in self._kept and (folder / SCENE_FILE).exists():
                self._kept.move_to_end(folder)
                return self._kept[folder]
            self._kept.pop(folder, None)
            try:
                found = Results(folder)
            except FileNotFoundError:
                return None
            self._kept[folder] = found
            while len(self._kept) > self.count:
                self._kept.popitem(last=False)
            return found

    def forget(self, folder: Path) -> None:
        """Let go of a folder that is deleted."""
        with self._lock:
            self._kept.pop(folder, None)


def early_map(early: EarlyDepth, folder: Path) -> Path:
    """Draw a photo beside its depth while the work goes on; a file in `folder`."""
    kind = "depth-swept" if early.final else "depth-guess"
    file = folder / "maps" / f"{early.index:03d}-{kind}.jpg"
    return _save_beside(file, early.rgb, depth_picture(early.depth))


def _save_beside(file: Path, photo: np.ndarray, picture: np.ndarray) -> Path:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(beside(photo, picture)).save(file, quality=_JPEG_QUALITY)
    return file


def _all_of(masks: tuple[np.ndarray | None, ...]) -> np.ndarray | None:
    known = [mask for mask in masks if mask is not None]
    return np.logical_and.reduce(known) if known else None
