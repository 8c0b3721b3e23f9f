"""What the robust pose functions return: an answer, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .camera import Float64Array

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PoseEstimate:
    """Pose of one camera against known points.

    Attributes:
        cam_from_world: (4, 4); NaN when the estimation failed.
        inliers: (N,) bool, which correspondences agree with the pose.
        num_inliers: their number.
        K: (3, 3) intrinsics, those given or those estimated.
        reason: why there is no pose; empty on success.
    """

    cam_from_world: Float64Array
    inliers: BoolArray
    num_inliers: int
    K: Float64Array
    reason: str = ""

    @property
    def success(self) -> bool:
        """Whether there is a pose."""
        return not self.reason

    def __bool__(self) -> bool:
        return self.success


@dataclass(frozen=True, eq=False)
class RelativePoseEstimate:
    """Pose of a second camera against a first, up to scale.

    Attributes:
        cam2_from_cam1: (4, 4) with a translation of length 1; NaN when the estimation failed.
        inliers: (N,) bool, which matches agree with the pose.
        num_inliers: their number.
        K1: (3, 3) intrinsics of view 1, given or estimated.
        K2: (3, 3) intrinsics of view 2.
        kind: "general"; "planar" when one plane explains nearly all matches: then two poses explain
            them almost equally well; "rotation" when no translation is needed: then the direction
            of the one given is noise.
        alternatives: other (4, 4) poses that a planar scene leaves possible, best first.
        parallax_deg: median angle under which the inliers' rays meet, 0 on failure.
        reason: why there is no pose; empty on success.
    """

    cam2_from_cam1: Float64Array
    inliers: BoolArray
    num_inliers: int
    K1: Float64Array
    K2: Float64Array
    kind: Literal["general", "planar", "rotation"] = "general"
    alternatives: tuple[Float64Array, ...] = ()
    parallax_deg: float = 0.0
    reason: str = ""

    @property
    def success(self) -> bool:
        """Whether there is a pose."""
        return not self.reason

    def __bool__(self) -> bool:
        return self.success


@dataclass(frozen=True, eq=False)
class PointmapPose:
    """Pose of camera b against camera a from two pointmaps of the same pixels.

    Attributes:
        camb_from_cama: (4, 4) rigid, translation in units of camera b's pointmap; NaN when the
            estimation failed.
        scale: units of a times `scale` are units of b.
        residual: confidence-weighted median distance after alignment, relative to the median
            distance from camera b: below about 0.05 the two maps agree.
        reason: why there is no pose; empty on success.
    """

    camb_from_cama: Float64Array
    scale: float
    residual: float
    reason: str = ""

    @property
    def success(self) -> bool:
        """Whether there is a pose."""
        return not self.reason

    def __bool__(self) -> bool:
        return self.success


def no_pose() -> Float64Array:
    """The (4, 4) matrix of NaN that stands for a failure."""
    return np.full((4, 4), np.nan)
