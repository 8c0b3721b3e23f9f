"""Errors of localised photos, the recall numbers that papers make of them, and VCRE.

Poses are 4x4 `cam_from_world` in OpenCV axes. A photo without an estimate is never left out: it
enters every number as an infinite error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..geometry.camera import rigid_inverse_array
from .pose_metrics import is_rigid, rotation_error_deg

LOCALIZATION_THRESHOLDS = ((0.05, 5.0), (0.1, 1.0), (0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
"""(units of the map, degrees): 7-Scenes' and the visual localisation benchmarks'."""

VCRE_THRESHOLD_PX = 90.0
_MAP_FREE_SIZE = (720, 540)


@dataclass(frozen=True)
class LocalizationError:
    """Error of one localised photo.

    Attributes:
        position: distance of the camera centres in units of the map; inf when there is no pose.
        rotation_deg: angle between the rotations, in [0, 180]; inf when there is no pose.
    """

    position: float
    rotation_deg: float

    def within(self, position: float, rotation_deg: float) -> bool:
        """Whether both errors are below their thresholds (strictly)."""
        return self.position < position and self.rotation_deg < rotation_deg


NOT_LOCALIZED = LocalizationError(float("inf"), float("inf"))


@dataclass(frozen=True)
class LocalizationSummary:
    """What a list of localisation errors comes to.

    Attributes:
        queries: number of photos.
        failed: how many have no pose.
        median_position: median distance, inf when half of the photos failed.
        median_rotation_deg: median angle.
        recall: (position, degrees) -> share of photos below both.
    """

    queries: int
    failed: int
    median_position: float
    median_rotation_deg: float
    recall: Mapping[tuple[float, float], float]

    def line(self, name: str) -> str:
        """One line as the published tools print it."""
        shares = "  - ".join(
            f"acc@{position:g}m,{degrees:g}deg={100 * share:.3f}"
            for (position, degrees), share in self.recall.items()
        )
        return (
            f"{name}: {self.queries} images - median_pos_error={self.median_position}, "
            f"median_angular_error={self.median_rotation_deg}  - {shares}"
        )


def localization_error(
    cam_from_world: np.ndarray | None, true_cam_from_world: np.ndarray
) -> LocalizationError:
    """Compare an estimated pose with the true one; what is not a rigid transform is a failure."""
    if not is_rigid(cam_from_world):
        return NOT_LOCALIZED
    estimate, truth = (
        np.asarray(pose, np.float64) for pose in (cam_from_world, true_cam_from_world)
    )
    centres = rigid_inverse_array(estimate)[:3, 3], rigid_inverse_array(truth)[:3, 3]
    return LocalizationError(
        position=float(np.linalg.norm(centres[0] - centres[1])),
        rotation_deg=rotation_error_deg(estimate[:3, :3], truth[:3, :3]),
    )


def summarise_localization(
    errors: Sequence[LocalizationError],
    thresholds: Sequence[tuple[float, float]] = LOCALIZATION_THRESHOLDS,
) -> LocalizationSummary:
    """Turn a list of errors into medians and recalls."""
    positions = np.array([error.position for error in errors], dtype=np.float64)
    return LocalizationSummary(
        queries=len(errors),
        failed=int(np.isinf(positions).sum()),
        median_position=_median(positions),
        median_rotation_deg=_median(np.array([error.rotation_deg for error in errors])),
        recall={
            threshold: float(np.mean([error.within(*threshold) for error in errors]))
            if errors
            else float("nan")
            for threshold in thresholds
        },
    )


def virtual_correspondence_error_px(
    cam_from_world: np.ndarray | None,
    true_cam_from_world: np.ndarray,
    K: np.ndarray,
    size: tuple[int, int],
    *,
    reference_size: tuple[int, int] | None = _MAP_FREE_SIZE,
) -> float:
    """How far a virtual object would jump (VCRE): mean reprojection distance of a grid of points.

    The grid is made as the map-free benchmark describes it: 7 x 4 x 7 points, 30 cm apart, from
    1.8 m in front of the TRUE camera, seen with the true and with the estimated pose. Projections
    outside the image move to its edge.

    Args:
        cam_from_world: estimated (4, 4), in metres; None gives inf.
        true_cam_from_world: (4, 4), in metres.
        K: (3, 3) of the query.
        size: (height, width) that K is for.
        reference_size: distances are given in pixels of an image of this (height, width), the
            benchmark's 720 x 540; None keeps those of `size`.

    Returns:
        Pixels; a point behind the estimated camera counts with the image's diagonal.

    Reference: Arnold et al., Map-free Visual Relocalization, ECCV 2022, section 5.
    """
    if not is_rigid(cam_from_world):
        return float("inf")
    grid = virtual_points()
    cam_from_true = np.asarray(cam_from_world, np.float64) @ rigid_inverse_array(
        true_cam_from_world
    )
    moved = grid @ cam_from_true[:3, :3].T + cam_from_true[:3, 3]
    scale = 1.0
    if reference_size is not None:
        scale = max(reference_size) / max(size)
    front = moved[:, 2] > 1e-6
    moved = np.where(front[:, None], moved, 1.0)
    seen, true = (
        np.clip((p @ np.asarray(K).T)[:, :2] / p[:, 2:], 0, [size[1], size[0]])
        for p in (moved, grid)
    )
    distance = np.where(front, np.linalg.norm(seen - true, axis=1), np.hypot(*size))
    return float(scale * distance.mean())


def virtual_points() -> np.ndarray:
    """(196, 3) points of the map-free benchmark in front of a camera, metres."""
    axis = 0.3 * np.arange(7)
    x = axis - axis.mean()
    y = 0.3 * np.arange(4) - 0.45
    z = 1.8 + axis
    return np.stack(np.meshgrid(x, y, z, indexing="ij"), -1).reshape(-1, 3)


def precision_and_auc(
    correct: Sequence[bool] | np.ndarray, confidence: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Share of right answers, and the area under precision over recall ranked by confidence.

    Args:
        correct: (N,) per query; a query without an estimate is False with confidence -inf.
        confidence: (N,) higher is surer; ties count as one step.

    Returns:
        (precision over all queries, average precision in [0, 1]). The area sums precision times
        the gain of recall over the distinct confidences, recall counting right answers among ALL
        queries, so that an untrustworthy confidence cannot be hidden by answering little.
    """
    right = np.asarray(correct, dtype=bool)
    score = np.asarray(confidence, dtype=np.float64)
    if right.shape != score.shape:
        raise ValueError(f"correct {right.shape} and confidence {score.shape} must pair up")
    if right.size == 0:
        return float("nan"), float("nan")
    order = np.argsort(-score, kind="stable")
    right, score = right[order], score[order]
    last = np.r_[score[1:] != score[:-1], True]  # of every group of equal confidence
    hits = np.cumsum(right)[last]
    answered = np.flatnonzero(last) + 1
    recall = np.r_[0.0, hits / right.size]
    return float(right.mean()), float(np.sum(np.diff(recall) * hits / answered))


def _median(values: np.ndarray) -> float:
    if values.size == 0:
        return float("nan")
    ordered = np.sort(values)
    low, high = ordered[(values.size - 1) // 2], ordered[values.size // 2]
    return float(high) if np.isinf(high) else float((low + high) / 2)
