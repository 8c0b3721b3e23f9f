"""The result of a reconstruction: cameras, dense depth, points, and how to save them.

World frame: OpenCV axes (x right, y down, z forward) of the first registered camera of each
component, whose `cam_from_world` is the identity. Units are metres where `scale == "metric"`,
otherwise arbitrary but one per component. Cameras and key points are in ORIGINAL, upright image
pixels; the dense maps are stored at network size and resampled on demand.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..geometry.camera import Camera
from ..geometry.ledger import Ledger
from .calibration import Calibration, ErrorTable, depth_steps
from .report import SceneReport


@dataclass(frozen=True)
class SceneView:
    """One image of a scene.

    Attributes:
        name: unique in the scene.
        path: the photo, None when it was given as an array.
        ledger: between network pixels, the upright original and the stored file.
        camera: in ORIGINAL upright pixels; None when the image could not be placed.
        rgb: (H, W, 3) uint8, network size.
        depth: (H, W) float32, z along the camera axis in scene units, NaN where invalid.
        confidence: (H, W) float32, > 1, higher is surer.
    """

    name: str
    path: Path | None
    ledger: Ledger
    camera: Camera | None
    rgb: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray

    def __post_init__(self) -> None:
        size = tuple(self.ledger.network_size)
        shapes = {"rgb": (*size, 3), "depth": size, "confidence": size}
        for key, shape in shapes.items():
            if getattr(self, key).shape != shape:
                raise ValueError(
                    f"{self.name}: {key} must have the shape {shape} of the ledger's network size, "
                    f"got {getattr(self, key).shape}"
                )
        camera, original = self.camera, tuple(self.ledger.original_size)
        if camera is not None and (camera.height, camera.width) != original:
            raise ValueError(
                f"{self.name}: the camera is for {camera.height}x{camera.width} pixels, the "
                f"original image has {original[0]}x{original[1]}; use ledger.K_to_original"
            )

    @property
    def valid(self) -> np.ndarray:
        """(H, W) bool: pixels with a depth."""
        return np.isfinite(self.depth) & (self.depth > 0)

    @property
    def K_network(self) -> np.ndarray:
        """(3, 3) intrinsics in network pixels."""
        return np.asarray(self.ledger.K_to_network(_placed(self).K), dtype=np.float64)

    def world_points(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(n, 3) float64 world points of the network pixels (rows (n,), columns (n,))."""
        xy = np.stack([columns + 0.5, rows + 0.5], axis=-1)
        xy = self.ledger.points_to_original(xy)
        return _placed(self).unproject(xy, self.depth[rows, columns])


@dataclass(frozen=True)
class PointCloud:
    """Coloured points of one component.

    Attributes:
        points: (N, 3) float32, world frame.
        colors: (N, 3) uint8.
        confidence: (N,) float32.
        view: (N,) int32, the image a point comes from.
        normals: (N, 3) float32 unit vectors, towards the camera's side; None if not asked for.
    """

    points: np.ndarray
    colors: np.ndarray
    confidence: np.ndarray
    view: np.ndarray
    normals: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Tracks:
    """Sparse points with the measured key points that see them.

    Attributes:
        points: (M, 3) float64, world frame of the component of the images that see them.
        image: (T,) int, image of each observation.
        point: (T,) int, index into `points`.
        xy: (T, 2) float64, original upright pixels.
        error_px: (M,) float64, mean reprojection error.
    """

    points: np.ndarray
    image: np.ndarray
    point: np.ndarray
    xy: np.ndarray
    error_px: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Cameras and dense geometry of a set of photos; see the module for frames and units.

    Attributes:
        views: one per loaded image, in the order of loading.
        components: groups of image indices that share a world frame, largest first; two components
            have nothing to do with each other. Images without a camera are in none.
        scale: "metric" when units are metres.
        report: what happened.
        tracks: sparse points of the alignment, when it made some.
        min_confidence: threshold used wherever none is given.
        calibration: what the checkpoint knows about its errors; None when nobody fitted one.
    """

    views: list[SceneView]
    components: list[list[int]] = field(default_factory=list)
    scale: Literal["metric", "relative"] = "relative"
    report: SceneReport = field(default_factory=SceneReport)
    tracks: Tracks | None = None
    min_confidence: float = 1.0
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        registered = [i for i, view in enumerate(self.views) if view.camera is not None]
        if not self.components and registered:
            object.__setattr__(self, "components", [registered])
        listed = sorted(i for group in self.components for i in group)
        if listed != registered:
            raise ValueError(
                f"components must hold each image with a camera exactly once: {registered} have a "
                f"camera, the components hold {listed}"
            )
        if self.scale not in ("metric", "relative"):
            raise ValueError(f"scale must be 'metric' or 'relative', got {self.scale!r}")

    def __len__(self) -> int:
        return len(self.views)

    def __repr__(self) -> str:
        placed = sum(map(len, self.components))
        groups = "" if len(self.components) < 2 else f" in {len(self.components)} components"
        return f"Scene({placed} of {len(self)} images placed{groups}, scale={self.scale!r})"

    # -- per image ---------------------------------------------------------------------------------

    @cached_property
    def images(self) -> list[str]:
        """Names of the images."""
        return [view.name for view in self.views]

    @property
    def cameras(self) -> list[Camera | None]:
        """Cameras in original pixels; None for images that could not be placed."""
        return [view.camera for view in self.views]

    def index(self, image: int | str) -> int:
        """Index of an image given by index (negative counts from the end) or name.

        Raises:
            IndexError: no such index.
            KeyError: no such name.
        """
        if isinstance(image, str):
            if image not in self.images:
                raise KeyError(f"no image {image!r} in this scene; it has {', '.join(self.images)}")
            return self.images.index(image)
        if not -len(self) <= image < len(self):
            raise IndexError(f"image {image} does not exist; the scene has {len(self)}")
        return int(image) % len(self)

    def depth(self, image: int | str, original: bool = False) -> np.ndarray:
        """(H, W) float32 depth along the camera axis, NaN where invalid.

        Args:
            image: index or name.
            original: at the size of the original image instead of the network's. Nearest
                neighbour, so that no depth between two surfaces is made up.
        """
        view = self.views[self.index(image)]
        depth = np.where(view.valid, view.depth, np.nan).astype(np.float32)
        return _to_original(view.ledger, depth, "nearest") if original else depth

    def confidence(self, image: int | str, original: bool = False) -> np.ndarray:
        """(H, W) float32 confidence, > 1; NaN outside the part the network saw."""
        view = self.views[self.index(image)]
        if original:
            return _to_original(view.ledger, view.confidence, "bilinear")
        return view.confidence.copy()

    def depth_steps(self, image: int | str) -> np.ndarray:
        """(H, W) float32: by which share a depth must change to move its point one pixel elsewhere.

        Of the other photos of the component the one counts that notices most; 1 where none sees
        the point, NaN without a depth. Small where the photos were taken far apart.

        Raises:
            ValueError: the image has no camera.
        """
        i = self.index(image)
        members = next((group for group in self.components if i in group), [i])
        others = [self.network_camera(k) for k in members if k != i]
        return depth_steps(self.network_camera(i), others, self.depth(i))

    def expected_error(self, image: int | str, original: bool = False) -> np.ndarray | None:
        """(H, W) float32 expected relative error of each depth, NaN where there is none.

        The median of |estimate - truth| / truth that pixels of this confidence and `depth_steps`
        had on the photos of the calibration: half of such depths are nearer to the truth. One
        factor for the whole component was taken out first, so the error of an unknown scale is
        not in it.

        Args:
            image: index or name.
            original: at the size of the original image.

        Returns:
            None when the checkpoint is not calibrated for the way this depth was made.

        Raises:
            ValueError: the image has no camera.
        """
        i = self.index(image)
        table = self._error_table(i)
        if table is None:
            return None
        view = self.views[i]
        error = table(view.confidence, self.depth_steps(i)).astype(np.float32)
        return _to_original(view.ledger, error, "nearest") if original else error

    def _error_table(self, i: int) -> ErrorTable | None:
        if self.calibration is None:
            return None
        alone = not any(i in group and len(group) > 1 for group in self.components)
        road = "single" if alone else str(self.report.settings.get("depth"))
        return self.calibration.roads.get(road)

    def colors(self, image: int | str, original: bool = False) -> np.ndarray:
        """(H, W, 3) uint8 RGB; with `original` the network's pixels enlarged, not the photo."""
        view = self.views[self.index(image)]
        if not original:
            return view.rgb.copy()
        enlarged = _to_original(view.ledger, view.rgb.astype(np.float32), "bilinear")
        return np.nan_to_num(enlarged, nan=0.0).round().clip(0, 255).astype(np.uint8)

    def points(
        self, image: int | str, min_confidence: float | None = None, original: bool = False
    ) -> np.ndarray:
        """(H, W, 3) float32 world points, NaN where invalid or below the confidence.

        Args:
            image: index or name.
            min_confidence: None takes the scene's own threshold.
            original: at the size of the original image.

        Raises:
            ValueError: the image has no camera.
        """
        view = self.views[self.index(image)]
        keep = self.valid(image, min_confidence)
        points = np.full((*keep.shape, 3), np.nan, dtype=np.float32)
        rows, columns = np.nonzero(keep)
        points[rows, columns] = view.world_points(rows, columns)
        if not original:
            return points
        depth = _to_original(view.ledger, np.where(keep, view.depth, np.nan), "nearest")
        camera = _placed(view)
        y, x = np.mgrid[: camera.height, : camera.width] + 0.5
        return np.asarray(camera.unproject(np.stack([x, y], -1), depth), dtype=np.float32)

    def normals(self, image: int | str) -> np.ndarray:
        """(H, W, 3) float32 unit normals in the world, on the camera's side; see `depth_normals`.

        Raises:
            ValueError: the image has no camera.
        """
        from .normals import depth_normals

        i = self.index(image)
        return depth_normals(self.network_camera(i), self.depth(i))

    def valid(self, image: int | str, min_confidence: float | None = None) -> np.ndarray:
        """(H, W) bool at network size: pixels with a depth and enough confidence."""
        view = self.views[self.index(image)]
        threshold = self.min_confidence if min_confidence is None else min_confidence
        return view.valid & (view.confidence >= threshold)

    def masks(
        self,
        consistent: bool = True,
        sky: bool = False,
        tolerance: float | None = None,
        max_error: float | None = None,
        max_distance: float | None = None,
    ) -> list[np.ndarray | None]:
        """Make masks for `point_cloud` and the exporters: True = use; see `cleaning`.

        Args:
            consistent: leave out points in front of what another photo of the component saw more
                surely.
            sky: leave out pixels that look like sky.
            tolerance: of `consistent`, as a share of the depth; None measures it.
            max_error: leave out pixels whose `expected_error` is larger, e.g. 0.05.
            max_distance: leave out pixels farther away than so many times the median of their
                photo, e.g. 4.

        Returns:
            Per image (H, W) bool at network size, or None for all pixels.

        Raises:
            ValueError: `max_error` for a scene whose checkpoint is not calibrated, or a
                `max_distance` that is not positive.
        """
        from .cleaning import Surface, consistency_masks, joined, near_mask, sky_mask

        found = []
        if consistent:
            for members in self.components:
                surfaces = {
                    i: Surface(self.network_camera(i), self.views[i].depth, self.confidence(i))
                    for i in members
                }
                found.append(consistency_masks(surfaces, tolerance))
        if sky:
            found.append({i: ~sky_mask(view.rgb) for i, view in enumerate(self.views)})
        if max_error is not None:
            placed = [i for group in self.components for i in group]
            found.append({i: self._surer_than(i, max_error) for i in placed})
        if max_distance is not None:
            found.append({i: near_mask(v.depth, max_distance) for i, v in enumerate(self.views)})
        return joined(found, len(self))

    def _surer_than(self, i: int, max_error: float) -> np.ndarray:
        error = self.expected_error(i)
        if error is None:
            raise ValueError(
                "max_error needs a calibrated checkpoint, and this scene's has no calibration for "
                f"depth={self.report.settings.get('depth')!r}; `weav3r reliability --fit` makes one"
            )
        return error <= max_error

    def network_camera(self, i: int) -> Camera:
        view = self.views[i]
        height, width = view.depth.shape
        return Camera(view.K_network, _placed(view).cam_from_world, height, width)

    # -- the whole ---------------------------------------------------------------------------------

    def point_cloud(
        self,
        min_confidence: float | None = None,
        max_points: int | None = None,
        voxel: float | None = None,
        masks: Sequence[np.ndarray | None] | None = None,
        component: int = 0,
        normals: bool = False,
    ) -> PointCloud:
        """Gather the points of one component.

        Args:
            min_confidence: None takes the scene's own threshold.
            max_points: keep at most this many, drawn evenly and repeatably.
            voxel: edge length in scene units; the points of a voxel are averaged, weighted by
                confidence, before `max_points` applies.
            masks: per image, (H, W) bool at network size, True = use; None = use all.
            component: which component.
            normals: also the normals of the surface; points whose neighbours determine none look at
                their camera.

        Raises:
            ValueError: a mask of a wrong size, a voxel <= 0, or a component that does not exist.
        """
        if max_points is not None and max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {max_points}")
        if voxel is not None and not voxel > 0:
            raise ValueError(f"voxel must be a positive length, got {voxel}")
        members = self._component(component)
        flat = [np.flatnonzero(self._keep(i, min_confidence, masks)) for i in members]
        total = sum(map(len, flat))
        if max_points is not None and voxel is None and total > max_points:
            flat = _draw(flat, total, max_points)
        cloud = _gather(self.views, members, flat)
        if normals:
            cloud = replace(cloud, normals=self._normals_at(members, flat, cloud))
        if voxel is None:
            return cloud
        cloud = _voxelise(cloud, voxel)
        if max_points is not None and len(cloud) > max_points:
            (rows,) = _draw([np.arange(len(cloud))], len(cloud), max_points)
            cloud = _take(cloud, rows)
        return cloud

    def _normals_at(
        self, members: Sequence[int], flat: Sequence[np.ndarray], cloud: PointCloud
    ) -> np.ndarray:
        found = [self.normals(i).reshape(-1, 3)[f] for i, f in zip(members, flat, strict=True)]
        normals = np.concatenate(found)
        centers = np.zeros((len(self), 3))
        for i in members:
            centers[i] = _placed(self.views[i]).center
        none = np.isnan(normals[:, 0])
        normals[none] = _unit(centers[cloud.view[none]] - cloud.points[none])
        return normals

    def extent(self, component: int = 0) -> float:
        """Size of a component: from its cameras and the bulk (5..95 %) of its points."""
        cloud = self.point_cloud(max_points=20_000, component=component)
        centers = [_placed(self.views[i]).center for i in self._component(component)]
        boxes = [np.ptp(np.stack(centers), axis=0)] if centers else []
        if len(cloud):
            boxes.append(np.subtract(*np.percentile(cloud.points, [95, 5], axis=0)))
        size = float(max((np.linalg.norm(box) for box in boxes), default=0.0))
        return size if size > 0 else 1.0

    def scaled(self, factor: float, metric: bool = True) -> Scene:
        """The same scene with every length times `factor`, e.g. known distance / measured one.

        Args:
            factor: positive.
            metric: mark the result as metric.

        Raises:
            ValueError: `factor` is not positive and finite.
        """
        if not (np.isfinite(factor) and factor > 0):
            raise ValueError(f"the scale factor must be positive and finite, got {factor}")
        views = []
        for view in self.views:
            camera = view.camera
            if camera is not None:
                pose = camera.cam_from_world.copy()
                pose[:3, 3] *= factor
                camera = replace(camera, cam_from_world=pose)
            depth = (view.depth * factor).astype(np.float32)
            views.append(replace(view, camera=camera, depth=depth))
        tracks = self.tracks and replace(self.tracks, points=self.tracks.points * factor)
        scale = "metric" if metric else self.scale
        return replace(self, views=views, tracks=tracks, scale=scale)

    # -- files -------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], format: str | None = None, **options: Any) -> Path:
        """Write the scene; the suffix picks the format. The scene itself is never changed.

        .glb: points and cameras for viewers (`export.glb`); .ply: points (`export.ply`); .npz:
        everything, to be loaded again (`export.npz`); .json: nerfstudio (`export.nerfstudio`);
        .html: the report as a page (`export.html`); a folder: "colmap", "npz" or "nerfstudio", by
        default a COLMAP model and scene.npz.

        Args:
            path: file or folder; parent folders are made, existing files replaced at once.
            format: overrides the suffix.
            **options: see the exporter.

        Returns:
            The file or folder written.

        Raises:
            ValueError: the suffix or format is unknown, or the scene holds no camera.
        """
        from .export import save_scene

        return save_scene(self, Path(path), format, **options)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scene:
        """Load what `save` wrote as .npz: the file, or a folder with scene.npz in it.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: the file is not a saved scene.
        """
        from .export.npz import load_npz

        return load_npz(Path(path))

    def _component(self, component: int) -> list[int]:
        if not self.components:
            raise ValueError("the scene holds no camera: no image could be placed")
        if not 0 <= component < len(self.components):
            raise ValueError(
                f"component {component} does not exist; the scene has {len(self.components)}"
            )
        return self.components[component]

    def _keep(
        self, i: int, min_confidence: float | None, masks: Sequence[np.ndarray | None] | None
    ) -> np.ndarray:
        keep = self.valid(i, min_confidence)
        mask = masks[i] if masks is not None else None
        if mask is None:
            return keep
        if mask.shape != keep.shape:
            raise ValueError(
                f"mask {i} must have the network size {keep.shape} of its image, got {mask.shape}"
            )
        return keep & mask.astype(bool)


def _placed(view: SceneView) -> Camera:
    if view.camera is None:
        raise ValueError(f"{view.name} has no camera: it could not be placed in the scene")
    return view.camera


def _to_original(
    ledger: Ledger, array: np.ndarray, mode: Literal["nearest", "bilinear"]
) -> np.ndarray:
    return np.asarray(ledger.map_to_original(array, mode), dtype=np.float32)


def _draw(flat: list[np.ndarray], total: int, count: int) -> list[np.ndarray]:
    """Choose `count` of all entries evenly at random (fixed seed), order kept."""
    chosen = np.sort(np.random.default_rng(0).choice(total, count, replace=False))
    ends = np.cumsum([len(f) for f in flat])
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    return [f[p - (e - len(f))] for f, p, e in zip(flat, parts, ends, strict=True)]


def _gather(
    views: Sequence[SceneView], members: Sequence[int], flat: Sequence[np.ndarray]
) -> PointCloud:
    points, colors, confidence, index = [], [], [], []
    for i, pixels in zip(members, flat, strict=True):
        rows, columns = np.divmod(pixels, views[i].depth.shape[1])
        points.append(views[i].world_points(rows, columns).astype(np.float32))
        colors.append(views[i].rgb[rows, columns])
        confidence.append(views[i].confidence[rows, columns].astype(np.float32))
        index.append(np.full(len(pixels), i, dtype=np.int32))
    return PointCloud(*(np.concatenate(a) for a in (points, colors, confidence, index)))


def _take(cloud: PointCloud, rows: np.ndarray) -> PointCloud:
    return PointCloud(
        cloud.points[rows],
        cloud.colors[rows],
        cloud.confidence[rows],
        cloud.view[rows],
        None if cloud.normals is None else cloud.normals[rows],
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) float32 of length 1; the null vector becomes the z axis."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.where(length > 1e-12, vectors / np.maximum(length, 1e-12), [0.0, 0.0, 1.0])
    return unit.astype(np.float32)


def _voxelise(cloud: PointCloud, voxel: float) -> PointCloud:
    """Confidence-weighted means in each voxel; best confidence and its image."""
    if not len(cloud):
        return cloud
    cells = np.floor(cloud.points.astype(np.float64) / voxel).astype(np.int64)
    order = np.lexsort((-cloud.confidence, cells[:, 2], cells[:, 1], cells[:, 0]))
    cells = cells[order]
    first = np.flatnonzero(np.r_[True, (cells[1:] != cells[:-1]).any(axis=1)])
    weight = cloud.confidence[order].astype(np.float64)[:, None]
    total = np.add.reduceat(weight, first)
    points = np.add.reduceat(cloud.points[order] * weight, first) / total
    colors = np.add.reduceat(cloud.colors[order] * weight, first) / total
    best = order[first]
    normals = cloud.normals
    if normals is not None:
        normals = _unit(np.add.reduceat(normals[order] * weight, first))
    return PointCloud(
        points.astype(np.float32),
        colors.round().astype(np.uint8),
        cloud.confidence[best],
        cloud.view[best],
        normals,
    )
