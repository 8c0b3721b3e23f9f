"""How many of the matches between two images are right.

Every error is in pixels of an image whose long side has `REFERENCE_LONG_SIDE` = 640 pixels, so that
numbers of images of different sizes compare. Pixel centres are at half-integers. An error is nan
where the truth is unknown and inf where the truth says that no match is possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

REFERENCE_LONG_SIDE = 640.0
THRESHOLDS_PX = (1.0, 3.0, 5.0)
COVERAGE_CELLS = 16


class MatchesLike(Protocol):
    """Anything with matches in pixels of the original images.

    Attributes:
        xy1: (N, 2) positions in image 1, x right, y down, pixel centres at half-integers.
        xy2: (N, 2) the matching positions in image 2.
        confidence: (N,) any scale, higher is surer; or None.
    """

    @property
    def xy1(self) -> np.ndarray: ...
    @property
    def xy2(self) -> np.ndarray: ...
    @property
    def confidence(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class PairMatches:
    """Plain matches of a pair, see `MatchesLike` for the fields."""

    xy1: np.ndarray
    xy2: np.ndarray
    confidence: np.ndarray | None = None


@dataclass(frozen=True)
class MatchSummary:
    """How the matches of one pair compare with one kind of truth.

    Attributes:
        matches: number of matches given.
        checked: how many of them lie where the truth is known.
        inliers: threshold in pixels at 640 -> number of matches with a smaller error.
        precision: threshold -> `inliers / checked`; 0 when nothing could be checked.
        coverage: share of a 16 x 16 grid over image 1 with a match below the middle threshold.
    """

    matches: int
    checked: int
    inliers: Mapping[float, int]
    precision: Mapping[float, float]
    coverage: float


def epipolar_errors_px(
    xy1: np.ndarray,
    xy2: np.ndarray,
    K1: np.ndarray,
    K2: np.ndarray,
    cam2_from_cam1: np.ndarray,
    size1: tuple[int, int],
    size2: tuple[int, int],
) -> np.ndarray:
    """Distance of each match to its true epipolar lines: the larger of both images'.

    Args:
        xy1: (N, 2) pixels of image 1.
        xy2: (N, 2) pixels of image 2.
        K1: (3, 3) intrinsics of image 1; K2 of image 2.
        K2: (3, 3) intrinsics of image 2.
        cam2_from_cam1: true relative pose; the length of its translation does not matter.
        size1: (height, width) of image 1.
        size2: (height, width) of image 2.

    Returns:
        (N,) errors in pixels at a long side of 640.

    Reference: Hartley & Zisserman, Multiple View Geometry, eq. 9.12 and 11.10 (maximum for sum).
    """
    fundamental = fundamental_matrix(K1, K2, cam2_from_cam1)
    points1, points2 = _homogeneous(xy1), _homogeneous(xy2)
    lines2, lines1 = points1 @ fundamental.T, points2 @ fundamental
    residual = np.abs(np.sum(points2 * lines2, axis=1))
    tiny = 1e-15  # an epipole has no line; the error is then as large as the residual says
    distance1 = residual / np.maximum(np.hypot(lines1[:, 0], lines1[:, 1]), tiny)
    distance2 = residual / np.maximum(np.hypot(lines2[:, 0], lines2[:, 1]), tiny)
    return np.maximum(distance1 * reference_scale(size1), distance2 * reference_scale(size2))


def homography_errors_px(
    xy1: np.ndarray, xy2: np.ndarray, H_2from1: np.ndarray, size2: tuple[int, int]
) -> np.ndarray:
    """Distance in image 2 to the point that a true homography gives, (N,) at 640."""
    mapped = _homogeneous(xy1) @ np.asarray(H_2from1, np.float64).T
    in_front = np.abs(mapped[:, 2]) > 1e-12
    target = mapped[:, :2] / np.where(in_front, mapped[:, 2], 1.0)[:, None]
    errors = np.linalg.norm(target - _points(xy2), axis=1) * reference_scale(size2)
    return np.where(in_front, errors, np.inf)


def disparity_errors_px(
    xy1: np.ndarray, xy2: np.ndarray, disparity: np.ndarray, size2: tuple[int, int]
) -> np.ndarray:
    """Distance in image 2 to (x - disparity, y) of a rectified pair, (N,) at 640.

    Args:
        xy1: (N, 2) pixels of the left image, to which `disparity` (H, W) belongs.
        xy2: (N, 2) pixels of the right image.
        disparity: pixels; 0 or less where unknown (the error is nan there).
        size2: (height, width) of the right image.
    """
    xy1, xy2 = _points(xy1), _points(xy2)
    value = _nearest(disparity, xy1)
    target = xy1 - np.stack([value, np.zeros_like(value)], axis=1)
    errors = np.linalg.norm(target - xy2, axis=1) * reference_scale(size2)
    return np.where(value > 0, errors, np.nan)


def depth_errors_px(
    xy1: np.ndarray,
    xy2: np.ndarray,
    depth1: np.ndarray,
    K1: np.ndarray,
    K2: np.ndarray,
    cam2_from_cam1: np.ndarray,
    size2: tuple[int, int],
    depth2: np.ndarray | None = None,
    occlusion_share: float = 0.05,
) -> np.ndarray:
    """Distance in image 2 to the point that image 1's true depth gives, (N,) at 640.

    Args:
        xy1: (N, 2) pixels of image 1.
        xy2: (N, 2) pixels of image 2.
        depth1: (H, W) true z of image 1 at its full size; 0 or less where unknown (error nan).
        K1: (3, 3) intrinsics of image 1.
        K2: (3, 3) intrinsics of image 2.
        cam2_from_cam1: true relative pose in the units of the depth.
        size2: (height, width) of image 2.
        depth2: true z of image 2; points that lie more than `occlusion_share` behind it cannot be
            seen there, so any match of them is wrong (error inf).
        occlusion_share: relative margin of that test.
    """
    xy1, xy2 = _points(xy1), _points(xy2)
    depth = _nearest(depth1, xy1)
    rays = _homogeneous(xy1) @ np.linalg.inv(np.asarray(K1, np.float64)).T
    transform = np.asarray(cam2_from_cam1, np.float64)
    in_cam2 = (rays * depth[:, None]) @ transform[:3, :3].T + transform[:3, 3]
    in_front = in_cam2[:, 2] > 1e-9
    projected = in_cam2 @ np.asarray(K2, np.float64).T
    target = projected[:, :2] / np.where(in_front, projected[:, 2], 1.0)[:, None]
    errors = np.linalg.norm(target - xy2, axis=1) * reference_scale(size2)
    visible = in_front
    if depth2 is not None:
        seen = _nearest(depth2, target)
        visible = visible & ~((seen > 0) & (in_cam2[:, 2] > seen * (1 + occlusion_share)))
    return np.where(depth > 0, np.where(visible, errors, np.inf), np.nan)


def summarise_match_errors(
    errors_px: np.ndarray,
    xy1: np.ndarray,
    size1: tuple[int, int],
    thresholds_px: Sequence[float] = THRESHOLDS_PX,
) -> MatchSummary:
    """Count the matches below each threshold; errors of nan are not counted as checked.

    Args:
        errors_px: (N,) from one of the functions above.
        xy1: (N, 2) positions in image 1, for the coverage.
        size1: (height, width) of image 1.
        thresholds_px: in pixels at 640, rising.
    """
    errors = np.asarray(errors_px, np.float64).ravel()
    checked = int((~np.isnan(errors)).sum())
    inliers = {float(t): int((errors < t).sum()) for t in thresholds_px}
    good = _points(xy1)[errors < thresholds_px[len(thresholds_px) // 2]]
    cells = np.floor(good / np.array([size1[1], size1[0]]) * COVERAGE_CELLS).astype(np.int64)
    cells = np.clip(cells, 0, COVERAGE_CELLS - 1)
    covered = len(np.unique(cells[:, 1] * COVERAGE_CELLS + cells[:, 0]))
    return MatchSummary(
        matches=int(errors.size),
        checked=checked,
        inliers=inliers,
        precision={t: n / checked if checked else 0.0 for t, n in inliers.items()},
        coverage=covered / COVERAGE_CELLS**2,
    )


def fundamental_matrix(K1: np.ndarray, K2: np.ndarray, cam2_from_cam1: np.ndarray) -> np.ndarray:
    """(3, 3) F with `x2^T F x1 = 0` for homogeneous pixels x1, x2 of a true match.

    Reference: Hartley & Zisserman, Multiple View Geometry, eq. 9.2 and 9.12.
    """
    transform = np.asarray(cam2_from_cam1, np.float64)
    x, y, z = transform[:3, 3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    essential = cross @ transform[:3, :3]
    inverse1 = np.linalg.inv(np.asarray(K1, np.float64))
    return np.linalg.inv(np.asarray(K2, np.float64)).T @ essential @ inverse1


def reference_scale(size: tuple[int, int]) -> float:
    """Factor from pixels of an image of (height, width) to pixels at a long side of 640."""
    return REFERENCE_LONG_SIDE / max(size)


def _points(xy: np.ndarray) -> np.ndarray:
    return np.asarray(xy, dtype=np.float64).reshape(-1, 2)


def _homogeneous(xy: np.ndarray) -> np.ndarray:
    points = _points(xy)
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def _nearest(values: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Values (H, W) of the pixels that hold the positions; 0 outside."""
    height, width = values.shape
    column, row = np.floor(xy[:, 0]), np.floor(xy[:, 1])
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column = np.where(inside, column, 0).astype(np.int64)
    row = np.where(inside, row, 0).astype(np.int64)
    return np.where(inside, np.asarray(values, np.float64)[row, column], 0.0)
