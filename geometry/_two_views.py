"""The matches of two calibrated views and everything that is tried on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from ._colmap import check_size, colmap_camera, paired, set_ransac, unskewed
from ._epipolar import FocalPriors, inliers, rays, refine, sampson_px, with_focal
from ._estimates import BoolArray, PoseKind, RelativePoseEstimate, no_pose
from .camera import Float64Array


@dataclass(frozen=True, eq=False)
class TwoViews:
    """Finite matches of two pinhole views.

    Attributes:
        total: number of matches given.
        index: (M,) rows of the finite ones among them.
        xy1: (M, 2) pixels without skew.
        xy2: (M, 2).
        rays1: (M, 3).
        rays2: (M, 3).
        K1: intrinsics.
        K2: intrinsics.
        size1: (height, width).
        size2: (height, width).
    """

    total: int
    index: NDArray[np.intp]
    xy1: Float64Array
    xy2: Float64Array
    rays1: Float64Array
    rays2: Float64Array
    K1: Float64Array
    K2: Float64Array
    size1: tuple[int, int]
    size2: tuple[int, int]

    @classmethod
    def make(
        cls,
        xy1: ArrayLike,
        xy2: ArrayLike,
        K1: Float64Array,
        K2: Float64Array,
        size1: tuple[int, int],
        size2: tuple[int, int],
    ) -> TwoViews:
        """Keep the finite ones of the matches (N, 2)."""
        pixels1, pixels2 = paired(xy1, xy2, (2, 2), ("xy1", "xy2"))
        index = np.flatnonzero(np.isfinite(pixels1).all(1) & np.isfinite(pixels2).all(1))
        pixels1, pixels2 = pixels1[index], pixels2[index]
        return cls(
            total=len(np.asarray(xy1)),
            index=index,
            xy1=unskewed(pixels1, K1),
            xy2=unskewed(pixels2, K2),
            rays1=rays(pixels1, K1),
            rays2=rays(pixels2, K2),
            K1=K1,
            K2=K2,
            size1=check_size(size1),
            size2=check_size(size2),
        )

    def failed(self, kind: PoseKind, reason: str) -> RelativePoseEstimate:
        """The answer when there is none."""
        none = np.zeros(self.total, bool)
        return RelativePoseEstimate(no_pose(), none, 0, self.K1, self.K2, kind, reason=reason)

    def essential_ransac(
        self,
        sample: NDArray[np.intp],
        max_error_px: float,
        seed: int,
        max_trials: int,
    ) -> Float64Array | None:
        """cam2_from_cam1 of the essential matrix with most inliers among `sample`."""
        options = pycolmap.RANSACOptions()
        set_ransac(options, max_error_px, seed)
        options.max_num_trials = max_trials
        cameras = colmap_camera(self.K1, *self.size1), colmap_camera(self.K2, *self.size2)
        found: dict[str, Any] | None = pycolmap.estimate_essential_matrix(
            self.xy1[sample], self.xy2[sample], *cameras, options
        )
        if found is None:
            return None
        pose = np.eye(4)
        pose[:3] = found["cam2_from_cam1"].matrix()
        length = np.linalg.norm(pose[:3, 3])
        if not np.isfinite(pose).all() or length < 1e-12:
            return None
        pose[:3, 3] /= length
        return pose

    def inliers(self, pose: Float64Array, max_error_px: float) -> tuple[BoolArray, float]:
        """See `_epipolar.inliers`."""
        return inliers(pose, self.rays1, self.rays2, self.K1, self.K2, max_error_px)

    def polished(
        self,
        pose: Float64Array,
        max_error_px: float,
        priors: FocalPriors | None = None,
        widths: tuple[float, ...] = (4.0, 2.0, 1.0, 1.0),
    ) -> tuple[Float64Array, TwoViews]:
        """The best of the pose (and focal lengths) and its refinements on ever closer matches."""
        problem, now = self, pose
        best = problem.inliers(pose, max_error_px)[1], pose, problem
        for width in widths:
            use, _ = problem.inliers(now, width * max_error_px)
            # Five numbers of the pose and perhaps two focal lengths, and one match to judge.
            if use.sum() < (7 if priors is None else 8):
                break
            error = np.abs(
                sampson_px(now, problem.rays1[use], problem.rays2[use], problem.K1, problem.K2)
            )
            # The noise among the inliers, so that outliers near them do not move exact matches.
            scale = max(2 * float(np.median(error)), 1e-3 * max_error_px)
            if priors is not None:
                # Lenses distort by a fraction of a pixel, and all matches alike: where that is all
                # they say of the focal length, what is believed decides.
                scale = max(scale, 0.5 * max_error_px)
            now, focals = refine(
                now, self.xy1[use], self.xy2[use], problem.K1, problem.K2, scale, priors
            )
            if priors is not None:
                problem = problem.with_focals(*focals)
            cost = problem.inliers(now, max_error_px)[1]
            if cost < best[0] or width == 1.0 and cost < 1.02 * best[0]:
                best = cost, now, problem
        return best[1], best[2]

    def with_focals(self, focal1: float, focal2: float) -> TwoViews:
        """The same matches seen with other focal lengths."""
        K1, K2 = with_focal(self.K1, focal1), with_focal(self.K2, focal2)
        return replace(self, K1=K1, K2=K2, rays1=rays(self.xy1, K1), rays2=rays(self.xy2, K2))
