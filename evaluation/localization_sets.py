"""What localisation is measured on: a map of photos with known points, queries with known poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from ..geometry.camera import Camera
from ..inference.localization.database import Database, DatabasePhoto, track_radius_px
from ..inference.localization.pixel_points import DepthPoints, PixelPoints, TrackPoints
from .readers import EvaluationSet, ImageTruth


@dataclass(frozen=True)
class LocalizationQuery:
    """A photo to be localised.

    Attributes:
        name: unique in its set.
        path: the photo.
        size: (height, width) of the upright photo.
        K: (3, 3) true intrinsics, or None.
        cam_from_world: (4, 4) true pose; None where the benchmark keeps it secret.
        camera: COLMAP camera with a lens distortion, which K leaves out; or None.
    """

    name: str
    path: Path
    size: tuple[int, int]
    K: np.ndarray | None
    cam_from_world: np.ndarray | None
    camera: pycolmap.Camera | None = None


@dataclass(frozen=True)
class LocalizationSet:
    """A map and its queries, in one world frame.

    Attributes:
        name: of the set.
        folder: that `data_files` are named relative to.
        database: the map.
        queries: the photos to be localised.
        protocol: one sentence: where the points of the map come from and which photos are queries.
        data_files: every file that a number depends on.
        references: names of the photos of the map to compare a query with, by its name, where the
            benchmark lists them; else photos are retrieved.
    """

    name: str
    folder: Path
    database: Database
    queries: tuple[LocalizationQuery, ...]
    protocol: str
    data_files: tuple[Path, ...]
    references: dict[str, tuple[str, ...]] | None = None


def localizable(data: EvaluationSet, query_every: int = 4) -> bool:
    """Whether a set of the plain layout can be cut into a map and queries."""
    posed = _posed(data)
    mapped = [image for image in posed if image.depth_path or image.sparse_depth_path]
    return data.units == "metric" and len(posed) == len(mapped) and len(posed) > query_every


def split_for_localization(data: EvaluationSet, query_every: int = 4) -> LocalizationSet:
    """Cut a set of the plain layout into a map and queries.

    Every `query_every`-th posed image, beginning in the middle of the first group, is a query; the
    others are the map. Their points are the set's dense depth, or the tracks of its triangulated
    points.

    Raises:
        ValueError: the set lacks poses, depth, metres or images.
    """
    if not localizable(data, query_every):
        raise ValueError(
            f"set {data.name} cannot be cut into a map and queries: that takes metres, poses and "
            f"depth for all images, and more than {query_every} of them"
        )
    posed = _posed(data)
    queries = posed[query_every // 2 :: query_every]
    asked = {image.name for image in queries}
    photos = tuple(
        DatabasePhoto(image.name, image.path, image_points(image))
        for image in posed
        if image.name not in asked
    )
    kind = "dense depth" if posed[0].depth_path else "triangulated points"
    return LocalizationSet(
        name=data.name,
        folder=data.folder,
        database=Database(photos, metric=True, source=data.name),
        queries=tuple(_query(image) for image in queries),
        protocol=f"every {query_every}th image is a query, the others with their {kind} are the "
        f"map; {len(photos)} photos, {len(queries)} queries",
        data_files=data.data_files,
    )


def image_points(image: ImageTruth) -> PixelPoints:
    """What a posed image with depth knows about the world behind its pixels."""
    assert image.K is not None and image.cam_from_world is not None  # only posed images are asked
    camera = Camera(image.K, image.cam_from_world, *image.size)
    dense = image.depth()
    if dense is not None:
        return DepthPoints(camera, dense)
    sparse = image.sparse_depth()
    if sparse is None:
        raise ValueError(f"{image.name} has neither dense nor sparse depth")
    height, width = image.size
    K = image.K
    return TrackPoints(
        camera=pycolmap.Camera(
            model="PINHOLE",
            width=width,
            height=height,
            params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
        ),
        cam_from_world=image.cam_from_world,
        xy=sparse.xy,
        xyz=camera.unproject(sparse.xy, sparse.depth),
        radius_px=track_radius_px(image.size),
    )


def _posed(data: EvaluationSet) -> Sequence[ImageTruth]:
    return [
        image
        for image in data.images.values()
        if image.cam_from_world is not None and image.K is not None
    ]


def _query(image: ImageTruth) -> LocalizationQuery:
    return LocalizationQuery(image.name, image.path, image.size, image.K, image.cam_from_world)
