"""Two images, no optimisation: both cameras and depths straight from the better of two predictions.

The pair is predicted in both orders. The order with the surer pointmaps gives the frame and both
shapes; the other image's camera is found by resection of its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap
import torch
from numpy.typing import ArrayLike

from ...geometry.pointmap import focal_from_pointmap
from .samples import Float64Array, PairMaps

_MAX_ERROR_PX = 5.0


@dataclass(frozen=True, eq=False)
class PairCameras:
    """Cameras and depths of two images, in the unit of the prediction that was used.

    Attributes:
        cam_from_world: (2, 4, 4); one of them is the identity.
        focal_px: (2,) pixels of the maps.
        depth: (H, W) of each image.
        score: (2,) trust in the prediction with each image as the frame; the larger one was used.
    """

    cam_from_world: Float64Array
    focal_px: Float64Array
    depth: tuple[Float64Array, Float64Array]
    score: Float64Array


def align_pair(
    forward: PairMaps,
    backward: PairMaps,
    principal_point_px: ArrayLike | None = None,
    min_confidence: float = 3.0,
    seed: int = 0,
) -> PairCameras:
    """Place two images.

    Args:
        forward: prediction in the frame of the first image.
        backward: of the same images in the frame of the second.
        principal_point_px: (2, 2) of both images, pixel centres at half-integers; the default are
            the image centres.
        min_confidence: pixels of the other image whose best confidence is not higher take no part
            in its resection.
        seed: of the sampling.

    Raises:
        ValueError: the predictions are not of the same two images in both orders.
    """
    if (forward.frame, forward.other) != (backward.other, backward.frame):
        raise ValueError(
            "expected the same pair in both orders, got "
            f"{(forward.frame, forward.other)} and {(backward.frame, backward.other)}"
        )
    both = (forward, backward)
    score = np.array([float(np.prod([np.mean(c) for c in maps.confidences])) for maps in both])
    if principal_point_px is None:
        principal_point_px = [
            (m.confidences[0].shape[1] / 2, m.confidences[0].shape[0] / 2) for m in both
        ]
    principal = np.asarray(principal_point_px, np.float64)
    focal = np.array([_focal(maps, point) for maps, point in zip(both, principal, strict=True)])
    frame = 0 if score[0] > score[1] else 1
    used, unused = both[frame], both[1 - frame]
    points = np.asarray(used.pointmaps[1], np.float64)
    sure = np.maximum(used.confidences[1], unused.confidences[0]) > min_confidence
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1 - frame] = _resect(points, sure, focal[1 - frame], principal[1 - frame], seed)
    depth = [np.zeros(0), np.zeros(0)]
    depth[frame] = np.asarray(used.pointmaps[0], np.float64)[..., 2]
    depth[1 - frame] = points @ poses[1 - frame, 2, :3] + poses[1 - frame, 2, 3]
    return PairCameras(poses, focal, (depth[0], depth[1]), score.astype(np.float64))


def _focal(maps: PairMaps, principal_point: Float64Array) -> float:
    points = torch.from_numpy(np.asarray(maps.pointmaps[0], np.float32))
    return float(focal_from_pointmap(points, None, torch.from_numpy(principal_point).float()))


def _resect(
    points: Float64Array, sure: np.ndarray, focal: float, center: Float64Array, seed: int
) -> Float64Array:
    """Pose of the camera that sees known points at their pixels; the identity if there is none."""
    height, width = sure.shape
    rows, columns = np.nonzero(sure & np.isfinite(points).all(-1))
    camera = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=width, height=height, params=[focal, *center]
    )
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = _MAX_ERROR_PX
    options.ransac.random_seed = seed
    pycolmap.set_random_seed(seed)
    found = pycolmap.estimate_and_refine_absolute_pose(
        np.stack([columns, rows], -1) + 0.5, points[rows, columns], camera, options
    )
    pose = np.eye(4)
    if found is not None:
        pose[:3] = found["cam_from_world"].matrix()
    return pose
