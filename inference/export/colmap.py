"""COLMAP models, binary and text: cameras, poses and points with multi-view tracks."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pycolmap

from ._files import copy_upright, exported_name, rotated_images, written_at_once
from ._tracks import DenseTracks, concatenate_tracks, dense_tracks

if TYPE_CHECKING:
    from ...geometry.camera import Camera
    from ..scene import Scene

MODEL_FOLDER = Path("sparse") / "0"
"""Where the model lies in the exported folder, as COLMAP and the splatting tools expect it."""

PointSource = Literal["both", "tracks", "dense"]


def save_colmap(
    scene: Scene,
    folder: Path,
    *,
    component: int = 0,
    points: PointSource = "both",
    min_confidence: float | None = None,
    max_points: int = 100_000,
    depth_tolerance: float = 0.03,
    copy_images: bool = False,
) -> Path:
    """Write sparse/0/{cameras,images,points3D,...}.{bin,txt} with a README.txt into a folder.

    Args:
        scene: what to write.
        folder: made when it does not exist; other files in it stay.
        component: which component.
        points: "tracks" writes the measured key points of the alignment, "dense" points sampled
            from the depth maps whose observations are their projections, cross-checked in depth
            (good to start splatting from; a bundle adjustment learns nothing from them).
        min_confidence: of the dense points; None takes the scene's own threshold.
        max_points: budget of the dense points.
        depth_tolerance: relative difference of depth up to which an image counts as a witness.
        copy_images: copy the photos to images/, upright.
    """
    model = to_reconstruction(
        scene,
        component=component,
        points=points,
        min_confidence=min_confidence,
        max_points=max_points,
        depth_tolerance=depth_tolerance,
    )
    views = [scene.views[i] for i in scene.components[component]]
    if copy_images:
        for view in views:
            copy_upright(view, folder / "images")
    target = folder / MODEL_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".colmap-") as temporary:
        model.write_binary(temporary)
        model.write_text(temporary)
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, target / file.name)
    with written_at_once(target / "README.txt") as readme:
        rotated = [] if copy_images else rotated_images(views)
        readme.write_text(_readme(scene, rotated), encoding="utf-8")
    return folder


def to_reconstruction(
    scene: Scene,
    *,
    component: int = 0,
    points: PointSource = "both",
    min_confidence: float | None = None,
    max_points: int = 100_000,
    depth_tolerance: float = 0.03,
) -> pycolmap.Reconstruction:
    """One component as a pycolmap reconstruction; arguments as in `save_colmap`.

    Image i of the scene has the id i + 1. PINHOLE cameras in original pixels; images with equal
    intrinsics share one. COLMAP's axes and pixel convention are the scene's own.

    Raises:
        ValueError: unknown `points`, or the component does not exist.
    """
    if points not in ("both", "tracks", "dense"):
        raise ValueError(f"points must be 'both', 'tracks' or 'dense', got {points!r}")
    if not 0 <= component < len(scene.components):
        raise ValueError(
            f"component {component} does not exist; the scene has {len(scene.components)}"
        )
    members = scene.components[component]
    sets = []
    if points != "dense":
        sets += _measured_tracks(scene, component)
    if points != "tracks":
        shortest = min(2, len(members))
        sets.append(
            dense_tracks(scene, component, min_confidence, max_points, depth_tolerance, shortest)
        )
    tracks = concatenate_tracks(sets)
    model = pycolmap.Reconstruction()
    camera_ids: dict[tuple[float, ...], int] = {}
    for i in members:
        camera = scene.cameras[i]
        assert camera is not None  # members of a component have one
        key = (*camera.K.ravel().tolist(), camera.width, camera.height)
        if key not in camera_ids:
            camera_ids[key] = i + 1
            model.add_camera_with_trivial_rig(_pinhole(camera, i + 1))
        image = pycolmap.Image(
            name=exported_name(scene.views[i]),
            keypoints=tracks.xy[tracks.image == i],
            camera_id=camera_ids[key],
            image_id=i + 1,
        )
        _add_image(model, image, camera_ids[key], pycolmap.Rigid3d(camera.cam_from_world[:3]))
    _add_points(model, tracks)
    model.update_point_3d_errors()
    return model


def _pinhole(camera: Camera, camera_id: int) -> pycolmap.Camera:
    K = camera.K
    return pycolmap.Camera(
        camera_id=camera_id,
        model="PINHOLE",
        width=camera.width,
        height=camera.height,
        params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    )


def _add_image(
    model: pycolmap.Reconstruction, image: pycolmap.Image, rig_id: int, pose: pycolmap.Rigid3d
) -> None:
    """Like `add_image_with_trivial_frame`, also for a camera that several images share."""
    frame = pycolmap.Frame(frame_id=image.image_id, rig_id=rig_id)
    image.frame_id = frame.frame_id
    frame.add_data_id(image.data_id)
    model.add_frame(frame)
    model.add_image(image)
    model.frame(frame.frame_id).rig_from_world = pose
    model.register_frame(frame.frame_id)


def _add_points(model: pycolmap.Reconstruction, tracks: DenseTracks) -> None:
    """Add points; the n-th observation of an image in `tracks` is its n-th key point."""
    keypoint = np.empty(len(tracks.image), dtype=np.int64)
    for i in np.unique(tracks.image):
        mine = np.flatnonzero(tracks.image == i)
        keypoint[mine] = np.arange(len(mine))
    starts = np.searchsorted(tracks.point, np.arange(len(tracks.points) + 1)).tolist()
    images, keypoints = (tracks.image + 1).tolist(), keypoint.tolist()
    for n, (start, end) in enumerate(itertools.pairwise(starts)):
        elements = [pycolmap.TrackElement(images[k], keypoints[k]) for k in range(start, end)]
        model.add_point3D(tracks.points[n], pycolmap.Track(elements), tracks.colors[n])


def _measured_tracks(scene: Scene, component: int) -> list[DenseTracks]:
    """The alignment's own sparse points of a component, each image at most once per track."""
    if scene.tracks is None:
        return []
    inside = np.isin(scene.tracks.image, scene.components[component])
    image, point = scene.tracks.image[inside], scene.tracks.point[inside]
    xy = scene.tracks.xy[inside]
    _, first = np.unique(np.stack([point, image]), axis=1, return_index=True)
    image, point, xy = image[first], point[first], xy[first]
    used, number = np.unique(point, return_inverse=True)
    colors = np.zeros((len(used), 3), dtype=np.uint8)
    for i in scene.components[component]:
        view = scene.views[i]
        mine = image == i
        column, row = np.floor(view.ledger.points_to_network(xy[mine])).astype(int).T
        height, width = view.depth.shape
        rgb = view.rgb[row.clip(0, height - 1), column.clip(0, width - 1)]
        colors[number[mine]] = rgb
    return [DenseTracks(scene.tracks.points[used], colors, image, number, xy)]


def _readme(scene: Scene, rotated: list[str]) -> str:
    unit = "metres" if scene.scale == "metric" else "arbitrary (relative scale)"
    lines = [
        "COLMAP model written by weav3r, in sparse/0, as .bin and as .txt.",
        "Camera axes: OpenCV (x right, y down, z forward). World: that of the first camera.",
        f"Unit: {unit}. Intrinsics are in pixels of the original, upright photos.",
    ]
    if rotated:
        lines += [
            "",
            "These files rely on their EXIF rotation; turn them upright before use, or export with",
            "copy_images=True:",
            *(f"  {name}" for name in rotated),
        ]
    return "\n".join(lines) + "\n"
