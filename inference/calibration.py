"""From confidence to an expected relative error of depth, fitted where the truth is known.

A confidence is a score: higher is surer, but 3 means nothing. An `ErrorTable` turns it into the
expected relative error of a depth, with the one fact about the cameras that decides most: how far a
depth must change before another photo would notice (`depth_steps`).

What is expected is the median: half of the pixels of this confidence have a smaller error
|s d - t| / t, over the pixels that have an estimate d and a true depth t, with one factor s per
group of cameras, the median of t / d weighted by log confidence: without a known distance the scale
of a scene is free, so its error is no part of this number.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ..geometry.camera import Camera
from ..models.two_view import TwoViewModel

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CalibratedRoad = Literal["sweep", "pointmaps", "single"]
"""Where a depth comes from: the two roads of `reconstruct`, or one photo alone."""

LARGEST_ERROR = 1.0
"""Where expected errors end: beyond, a depth says nothing."""

LARGEST_STEP = 1.0
MAX_OTHERS = 8  # photos that are asked how well they see a change of depth
_PROBES = 200


@dataclass(frozen=True)
class ErrorTable:
    """Expected relative error over confidence and depth step, linear in the logarithms of both.

    Attributes:
        confidence: (C,) increasing, > 0.
        depth_step: (S,) increasing, > 0.
        error: (S, C) expected relative error, falling with the confidence and rising with the step.
    """

    confidence: np.ndarray
    depth_step: np.ndarray
    error: np.ndarray

    def __post_init__(self) -> None:
        for name, axis in (("confidence", self.confidence), ("depth_step", self.depth_step)):
            if (
                axis.ndim != 1
                or not len(axis)
                or not (axis > 0).all()
                or (np.diff(axis) <= 0).any()
            ):
                raise ValueError(f"{name} must be positive and increasing, got {axis.tolist()}")
        shape = (len(self.depth_step), len(self.confidence))
        if self.error.shape != shape or not ((self.error >= 0) & (self.error <= 1)).all():
            raise ValueError(f"error must have the shape {shape} and lie in 0..1")

    def __call__(self, confidence: np.ndarray, depth_step: np.ndarray) -> np.ndarray:
        """Look up pixels; beyond the table its border holds.

        Args:
            confidence: any shape, > 0.
            depth_step: the same shape, > 0.

        Returns:
            The expected relative error, float64, NaN where an input is NaN.
        """
        column, right = _position(self.confidence, confidence)
        row, down = _position(self.depth_step, depth_step)
        below = np.minimum(row + 1, len(self.depth_step) - 1)
        beside = np.minimum(column + 1, len(self.confidence) - 1)
        upper = (1 - right) * self.error[row, column] + right * self.error[row, beside]
        lower = (1 - right) * self.error[below, column] + right * self.error[below, beside]
        return (1 - down) * upper + down * lower


def _position(axis: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the knot to the left and the share of the way to the next one."""
    place = np.interp(np.log(np.maximum(values, 1e-12)), np.log(axis), np.arange(len(axis)))
    left = np.floor(np.nan_to_num(place)).astype(np.intp)
    return left, place - left


@dataclass(frozen=True)
class Calibration:
    """What a checkpoint knows about its own errors.

    Attributes:
        roads: where the depth comes from -> its table; a road that is missing is not calibrated.
        fitted_on: what it was fitted on, as plain values: for the reader.
    """

    roads: Mapping[str, ErrorTable]
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        tables = {
            road: {key: np.round(value, 5).tolist() for key, value in asdict(table).items()}
            for road, table in self.roads.items()
        }
        return {"version": FORMAT_VERSION, "roads": tables, "fitted_on": dict(self.fitted_on)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`.

        Raises:
            ValueError: if the data are no calibration, or of a newer version.
        """
        try:
            version = int(data["version"])
            if version > FORMAT_VERSION:
                raise ValueError(f"format {version}, this weav3r reads up to {FORMAT_VERSION}")
            roads = {
                str(road): ErrorTable(
                    *(
                        np.asarray(table[key], dtype=np.float64)
                        for key in ("confidence", "depth_step", "error")
                    )
                )
                for road, table in data["roads"].items()
            }
            return cls(roads, dict(data.get("fitted_on", {})))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a calibration: {error}") from error


def calibration_of(model: TwoViewModel) -> Calibration | None:
    """What a loaded network knows about its errors; None, with a warning, if that is unreadable."""
    if model.calibration is None:
        return None
    try:
        return Calibration.from_dict(model.calibration)
    except ValueError as error:
        logger.warning("%s: %s; errors are not estimated", model.config.name, error)
        return None


def depth_steps(
    camera: Camera, others: list[Camera], depth: np.ndarray, limit: int = MAX_OTHERS
) -> np.ndarray:
    """Relative change of each depth that moves its point by one pixel in the best other photo.

    Args:
        camera: of the photo, at the size of `depth`.
        others: cameras of the other photos at their network sizes.
        depth: (H, W) in world units, NaN where there is none.
        limit: only so many of the others are asked, those that notice most.

    Returns:
        (H, W) float32, at most 1; 1 where no other photo sees the point, NaN without a depth.
        Whether something hides the point from the other photo is not asked.
    """
    height, width = depth.shape
    steps = np.full(depth.size, np.nan, dtype=np.float32)
    index = np.flatnonzero(np.isfinite(depth) & (depth > 0))
    if not len(index):
        return steps.reshape(depth.shape)
    pixels = np.stack([index % width + 0.5, index // width + 0.5], axis=-1)
    points = camera.unproject(pixels, depth.reshape(-1)[index])
    if len(others) > limit:
        probes = points[:: max(1, len(points) // _PROBES)]
        use = [float((1 / _steps_seen_by(camera, other, probes)).sum()) for other in others]
        others = [others[k] for k in np.argsort(use)[::-1][:limit]]
    best = np.full(len(points), LARGEST_STEP)
    for other in others:
        np.minimum(best, _steps_seen_by(camera, other, points), out=best)
    steps[index] = best
    return steps.reshape(height, width)


def _steps_seen_by(camera: Camera, other: Camera, points: np.ndarray) -> np.ndarray:
    """The step (n,) of world points (n, 3) for one other photo.

    Moving a point by a share e of its distance r along the ray turns the other photo's ray to it,
    of length q, by e r sin(a) / q, with a the angle between both rays.
    """
    xy, z = other.project(points)
    here, there = points - camera.center, points - other.center
    r, q = np.linalg.norm(here, axis=-1), np.linalg.norm(there, axis=-1)
    turn = np.linalg.norm(np.cross(here, there), axis=-1) / np.maximum(q**2, 1e-300)  # r sin(a) / q
    seen = (z > 0) & (xy >= 0).all(-1) & (xy[:, 0] < other.width) & (xy[:, 1] < other.height)
    seen &= np.isfinite(r)
    step = 1.0 / np.maximum(turn * other.focal_px, 1e-300)
    return np.where(seen, np.minimum(step, LARGEST_STEP), LARGEST_STEP)
