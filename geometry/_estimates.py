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


PoseKind = Literal[
    "general",
    "planar",
    "small_baseline",
    "few_inliers",
    "rotation",
    "too_few_matches",
    "no_common_motion",
]

_CAVEATS = {
    "planar": "one plane explains the matches, which leaves {number} poses possible",
    "small_baseline": "the cameras are too close together for a sure direction of their baseline",
    "few_inliers": "so few matches agree that a wrong pose may fit them, more wrong than it says",
    "rotation": "the camera only turned: the matches show no translation",
}


@dataclass(frozen=True, eq=False)
class RelativePoseEstimate:
    """Pose of a second camera against a first.

    Attributes:
        cam2_from_cam1: (4, 4) with a translation of length 1, or in metres if `metric`; zero if
            `kind` is "rotation"; NaN when the estimation failed.
        inliers: (N,) bool, which matches agree with the pose.
        num_inliers: their number.
        K1: (3, 3) intrinsics of view 1, given or estimated.
        K2: (3, 3) intrinsics of view 2.
        kind: what the matches show.
            - "general": one pose.
            - "planar": one plane explains nearly all matches, and then often two poses do; see
              `alternatives`.
            - "small_baseline": there is parallax, but the direction of the translation is uncertain
              by more than 12 degrees.
            - "few_inliers": one pose, but fewer than 20 matches agree with it: more than chance
              makes, too few to tell a right pose from one that bends to some wrong matches.
            - "rotation": no translation is needed to explain the matches.
            - "too_few_matches": no pose; there are not enough matches to try.
            - "no_common_motion": no pose; no more matches agree than chance would make.
        alternatives: other (4, 4) poses that are possible, best first: those of a planar scene; for
            "rotation" the one whose translation fits the noise best; for "no_common_motion" one
            that chance may have made or the surest matches contradict, if there is one.
        parallax_deg: median angle under which the inliers' rays meet, 0 without translation.
        median_error_px: median Sampson distance of the inliers.
        rotation_std_deg: standard deviation of the rotation about its worst axis.
        direction_std_deg: the same of the translation's direction; 180 when nothing fixes it.
        metric: whether the translation is in metres.
        reason: why there is no pose; empty on success.
    """

    cam2_from_cam1: Float64Array
    inliers: BoolArray
    num_inliers: int
    K1: Float64Array
    K2: Float64Array
    kind: PoseKind = "general"
    alternatives: tuple[Float64Array, ...] = ()
    parallax_deg: float = 0.0
    median_error_px: float = np.nan
    rotation_std_deg: float = np.nan
    direction_std_deg: float = np.nan
    metric: bool = False
    reason: str = ""

    @property
    def success(self) -> bool:
        """Whether there is a pose."""
        return not self.reason

    def __bool__(self) -> bool:
        return self.success

    @property
    def caveat(self) -> str:
        """What the pose leaves open or why there is none; empty if nothing is to be said."""
        if self.reason:
            return self.reason
        if self.kind == "planar" and not self.alternatives:
            return "one plane explains the matches, but only one pose is possible"
        return _CAVEATS.get(self.kind, "").format(number=1 + len(self.alternatives))

    @property
    def best_guess(self) -> Float64Array:
        """The pose that fits best, claimed or not: NaN only where nothing could be tried."""
        unclaimed = self.kind in ("rotation", "no_common_motion") and self.alternatives
        return self.alternatives[0] if unclaimed else self.cam2_from_cam1


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
