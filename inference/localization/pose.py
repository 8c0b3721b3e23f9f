"""From matches to known points to a pose with a covariance and a confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...geometry._estimates import PoseEstimate, no_pose
from ...geometry._evidence import log10_false_alarms, point_chance
from ...geometry.pose import pose_from_points

MIN_INLIERS = 12
_GRID = 16  # cells along either side of the photo
_CELLS_OF_HALF_CONFIDENCE = 16
_LOG10_FALSE_ALARMS = -1.0


@dataclass(frozen=True, eq=False)
class SolvedPose:
    """A pose against known points.

    Attributes:
        estimate: the pose, its inliers, K, or the reason why there is none.
        covariance: (6, 6), see `Localization.covariance`; None on failure.
        confidence: see `Localization.confidence`.
        focal: where K comes from.
    """

    estimate: PoseEstimate
    covariance: np.ndarray | None
    confidence: float
    focal: Literal["given", "estimated"]


def solve_pose(
    xy: np.ndarray,
    xyz: np.ndarray,
    size: tuple[int, int],
    K: np.ndarray | None = None,
    *,
    max_error_px: float = 4.0,
    min_inliers: int = MIN_INLIERS,
    seed: int = 0,
) -> SolvedPose:
    """Find the camera that sees known points at given pixels.

    Args:
        xy: (N, 2) original pixels.
        xyz: (N, 3) world points.
        size: (height, width) of the original photo.
        K: (3, 3) intrinsics; None estimates one focal length, principal point at the centre.
        max_error_px: largest reprojection error of an inlier.
        min_inliers: fewest inliers of a pose that is returned.
        seed: of the random sampling.
    """
    height, width = size
    centred = np.array([[1.0, 0, width / 2], [0, 1.0, height / 2], [0, 0, 1]])
    estimate = pose_from_points(
        xy,
        xyz,
        centred if K is None else K,
        height,
        width,
        max_error_px=max_error_px,
        min_inliers=min_inliers,
        estimate_focal=K is None,
        seed=seed,
    )
    focal: Literal["given", "estimated"] = "estimated" if K is None else "given"
    if not estimate:
        return SolvedPose(estimate, None, 0.0, focal)
    if _by_chance(xy, estimate.inliers, max_error_px, size, free_focal=K is None):
        reason = (
            f"only {estimate.num_inliers} of {len(xy)} points agree on a pose within "
            f"{max_error_px:g} px, no more than chance would make"
        )
        missing = PoseEstimate(no_pose(), np.zeros(len(xy), bool), 0, estimate.K, reason)
        return SolvedPose(missing, None, 0.0, focal)
    use = estimate.inliers
    pixels, points = np.asarray(xy, np.float64)[use], np.asarray(xyz, np.float64)[use]
    cells = occupied_cells(pixels, size)
    covariance = pose_covariance(
        pixels, points, estimate.K, estimate.cam_from_world, cells, free_focal=K is None
    )
    return SolvedPose(estimate, covariance, confidence_of(cells), focal)


def _by_chance(
    xy: np.ndarray,
    inliers: np.ndarray,
    max_error_px: float,
    size: tuple[int, int],
    *,
    free_focal: bool,
) -> bool:
    """Whether wrong matches would agree as well with some pose.

    A cell of the photo is one witness, however many matches it holds, because dense matching errs
    in patches.
    """
    found = np.asarray(xy, dtype=np.float64)
    finite = np.isfinite(found).all(axis=1)
    cells = occupied_cells(found[finite], size)
    single = point_chance(max_error_px, size)
    chance = 1.0 - (1.0 - single) ** (finite.sum() / max(cells, 1))
    agreeing = occupied_cells(found[inliers], size)
    sample = 4 if free_focal else 3
    alarms = log10_false_alarms(cells, agreeing, sample, 4, float(chance))
    return alarms > _LOG10_FALSE_ALARMS


def occupied_cells(xy: np.ndarray, size: tuple[int, int]) -> int:
    """How many cells of a 16 x 16 grid over a photo of (height, width) hold one of the pixels."""
    cell = np.floor(xy / [size[1], size[0]] * _GRID).astype(np.int64).clip(0, _GRID - 1)
    return len(np.unique(cell[:, 1] * _GRID + cell[:, 0]))


def confidence_of(cells: int) -> float:
    """Confidence of a pose whose inliers fill so many cells."""
    return cells / (cells + _CELLS_OF_HALF_CONFIDENCE)


def pose_covariance(
    xy: np.ndarray,
    xyz: np.ndarray,
    K: np.ndarray,
    cam_from_world: np.ndarray,
    independent: int,
    *,
    free_focal: bool = False,
) -> np.ndarray:
    """Covariance (6, 6) of a pose by first-order propagation of its residuals.

    Args:
        xy: (N, 2) pixels of the inliers.
        xyz: (N, 3) their points.
        K: (3, 3).
        cam_from_world: (4, 4).
        independent: how many independent measurements the inliers amount to, at most N.
        free_focal: one focal length was estimated, too; its uncertainty is part of the pose's.

    Returns:
        Of (rotation vector, translation) of a motion that multiplies `cam_from_world` from the
        left.

    Reference: Hartley & Zisserman, Multiple View Geometry, sec. 5.2.
    """
    in_cam = xyz @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    x, y, z = in_cam.T
    fx, fy = K[0, 0], K[1, 1]
    zero = np.zeros_like(x)
    by_point = np.stack(
        [
            np.stack([fx / z, K[0, 1] / z, -(fx * x + K[0, 1] * y) / z**2], -1),
            np.stack([zero, fy / z, -fy * y / z**2], -1),
        ],
        axis=1,
    )  # (N, 2, 3)
    by_rotation = np.stack(
        [
            np.stack([zero, z, -y], -1),
            np.stack([-z, zero, x], -1),
            np.stack([y, -x, zero], -1),
        ],
        axis=1,
    )  # (N, 3, 3), rows = coordinates of omega x point
    columns = [by_point @ by_rotation, by_point]
    if free_focal:
        columns.append(np.stack([x / z, y / z], -1)[..., None])
    jacobian = np.concatenate(columns, axis=-1).reshape(2 * len(x), -1)
    predicted = in_cam @ K.T
    residuals = predicted[:, :2] / predicted[:, 2:] - xy
    unknowns = jacobian.shape[1]
    variance = (residuals**2).sum() / max(2 * len(x) - unknowns, 1)
    information = jacobian.T @ jacobian / max(variance, 1e-12)
    shared = len(x) / max(min(independent, len(x)), 1)
    return np.linalg.pinv(information, hermitian=True)[:6, :6] * shared
