"""Final polish: bundle adjustment of given cameras together with tracks of the matches.

Whatever road placed the cameras, the verified matches are triangulated with them, and cameras and
points are adjusted together. This gives cameras as exact as COLMAP's, and tracks to export.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap

from ..geometry._colmap import quiet_colmap
from ..geometry.camera import Camera
from .images import View
from .known.sfm import bundle_adjuster
from .known.values import Given
from .sfm import (
    MatchGraph,
    SfmOptions,
    SparseModel,
    sparse_model,
    verify_pairs,
    write_database,
)

_ROUNDS = 3
_MAX_ERRORS_NETWORK_PX = (4.0, 2.0, 1.5)  # of points that stay, round by round
_MIN_ANGLE_DEG = 0.5


def polish_cameras(
    views: Sequence[View],
    graph: MatchGraph,
    cameras: Mapping[int, Camera],
    components: Sequence[Sequence[int]],
    options: SfmOptions | None = None,
    given: Given | None = None,
) -> list[SparseModel]:
    """Adjust cameras and triangulated tracks together.

    Args:
        views: the photos.
        graph: matches between them.
        cameras: image -> camera in original pixels.
        components: images of each component; each is adjusted in its own frame.
        options: of the verification, see `SfmOptions`.
        given: what is known; it is held.

    Returns:
        One model per component that has enough points, in the order of `components`. An image that
        sees too few of the points is not among the cameras of its model.
    """
    options, given = options or SfmOptions(), given or Given()
    keypoints, pairs = graph.finish()
    typical = [1.2 * max(view.ledger.original_size) for view in views]
    focals = [_focal(cameras[i]) if i in cameras else f for i, f in enumerate(typical)]
    models = []
    with quiet_colmap(), tempfile.TemporaryDirectory(prefix="weav3r-polish-") as name:
        folder = Path(name)
        path = folder / "database.db"
        write_database(path, views, keypoints, pairs, focals, options, given)
        verify_pairs(path, folder, views, pairs, options)
        for members in components:
            part = {i: cameras[i] for i in members if i in cameras}
            if len(part) > 1:
                # where focal lengths drift away, as with two photos side by side, they are held
                model = _adjusted(path, folder, part, views, options, given, False)
                model = model or _adjusted(path, folder, part, views, options, given, True)
                if model is not None:
                    models.append(model)
    return models


def _focal(camera: Camera) -> float:
    return float(np.sqrt(camera.K[0, 0] * camera.K[1, 1]))


def _adjusted(
    database_path: Path,
    folder: Path,
    cameras: Mapping[int, Camera],
    views: Sequence[View],
    options: SfmOptions,
    given: Given,
    hold_focals: bool,
) -> SparseModel | None:
    """Triangulate, adjust, filter, again; None where half of the points get lost."""
    model = _start(database_path, cameras, given)
    settings = pycolmap.IncrementalPipelineOptions()
    settings.min_num_matches = options.min_inliers
    settings.extract_colors = False
    settings.num_threads = options.threads
    settings.random_seed = options.seed
    settings.triangulation.ignore_two_view_tracks = False
    settings.triangulation.min_angle = _MIN_ANGLE_DEG
    settings.mapper.filter_min_tri_angle = _MIN_ANGLE_DEG
    scale = max(views[i].pixel_scale for i in cameras)
    target = folder / "polished"
    target.mkdir(exist_ok=True)
    held = [camera.camera_id for camera in model.cameras.values()] if hold_focals else []
    for limit in _MAX_ERRORS_NETWORK_PX:
        settings.mapper.filter_max_reproj_error = limit * scale
        settings.triangulation.complete_max_reproj_error = limit * scale
        settings.triangulation.merge_max_reproj_error = limit * scale
        model = pycolmap.triangulate_points(
            model, database_path, folder, target, options=settings, refine_intrinsics=False
        )
        most = max(2 * options.min_inliers, model.num_points3D())
        for last in (False, True):
            bundle_adjuster(model, given, held).solve()
            if not last:
                manager = pycolmap.ObservationManager(model)
                manager.filter_all_points3D(limit * scale, _MIN_ANGLE_DEG)
            if 2 * model.num_points3D() < most:
                return None
    model.update_point_3d_errors()
    found = sparse_model(model)
    # the others stayed where they were, in another frame than the rest
    seen = {i for i, (xy, _) in found.observations.items() if len(xy) >= options.min_inliers}
    return replace(found, cameras={i: c for i, c in found.cameras.items() if i in seen})


def _start(
    database_path: Path, cameras: Mapping[int, Camera], given: Given
) -> pycolmap.Reconstruction:
    """A model of the database's photos at their poses, without points."""
    model = pycolmap.Reconstruction()
    focals: dict[int, list[float]] = {}
    with pycolmap.Database.open(database_path) as database:
        for camera in database.read_all_cameras():
            model.add_camera(camera)
        for rig in database.read_all_rigs():
            model.add_rig(rig)
        for frame in database.read_all_frames():
            placed = cameras.get(frame.frame_id - 1)
            if placed is not None:
                frame.rig_from_world = pycolmap.Rigid3d(placed.cam_from_world[:3])
            model.add_frame(frame)
        for image in database.read_all_images():
            keypoints = database.read_keypoints(image.image_id)[:, :2]
            image.points2D = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in keypoints])
            model.add_image(image)
            index = image.image_id - 1
            if index in cameras and index not in given.intrinsics:
                focals.setdefault(image.camera_id, []).append(_focal(cameras[index]))
    for camera_id, found in focals.items():
        camera = model.camera(camera_id)
        params = camera.params.copy()
        params[camera.focal_length_idxs()] = float(np.median(found))
        camera.params = params.tolist()
    for index in sorted(cameras):
        model.register_frame(index + 1)
    return model
