"""Pairs of photos whose matches fit each other, but not what the other pairs say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from ..geometry.camera import Camera
from .graph.match_edges import KeyPoints, edges_from_match_graph
from .graph.verification import RelativeEdge, VerificationOptions, verify_edges

_FEWEST_PAIRS = 3  # fewer close no triangle
_LOOK_ALIKES = 0.1  # share of the pairs that must see through surfaces before triangles count


def drop_contradicted(
    database_path: Path,
    keypoints: Sequence[np.ndarray],
    pairs: Sequence[tuple[int, int]],
    max_error_px: float,
    options: VerificationOptions,
    seed: int = 0,
) -> dict[tuple[int, int], str]:
    """Take the pairs that the others refute out of a database of verified matches.

    Relative poses of guessed focal lengths do not close triangles either, so triangles are believed
    only among look-alikes, which a good part of the pairs betrays by seeing through surfaces.

    Args:
        database_path: COLMAP database, in which image i of the photos is image i + 1.
        keypoints: per photo (n, 2) original pixels.
        pairs: those whose matches fit one camera motion.
        max_error_px: inlier threshold, original pixels.
        options: when pairs disagree.
        seed: of the random sampling.

    Returns:
        The pairs that were dropped -> the reason.
    """
    if len(pairs) < _FEWEST_PAIRS:
        return {}
    with pycolmap.Database.open(database_path) as database:
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        used = {image.image_id - 1: image.camera_id for image in database.read_all_images()}
        images = [_key_points(xy, cameras[used[i]]) for i, xy in enumerate(keypoints)]
        matches = {
            (i, j): database.read_two_view_geometry(i + 1, j + 1).inlier_matches for i, j in pairs
        }
        edges = edges_from_match_graph(images, matches, max_error_px, seed)
        verdict = verify_edges(edges, [str(i) for i in range(len(images))], options)
        through = sum(_sees_through(edge, options) for edge in edges)
        if through < max(_FEWEST_PAIRS, _LOOK_ALIKES * len(edges)):
            return {}
        dropped = {(int(r.first), int(r.second)): r.reason for r in verdict.rejected}
        for i, j in dropped:
            database.delete_two_view_geometry(i + 1, j + 1)
    return dropped


def _sees_through(edge: RelativeEdge, options: VerificationOptions) -> bool:
    front = edge.front
    if front is None or front.in_front < options.min_front_points:
        return False
    return front.share > options.front_share


def _key_points(xy: np.ndarray, camera: pycolmap.Camera) -> KeyPoints:
    return KeyPoints(
        xy=xy,
        camera=Camera(
            K=camera.calibration_matrix(),
            cam_from_world=np.eye(4),
            height=camera.height,
            width=camera.width,
        ),
    )
