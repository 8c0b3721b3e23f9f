"""The matches of two calibrated views and everything that is tried on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from ._colmap import paired, set_ransac, subset, unskewed, without_skew
from ._epipolar import depths, fit_rotation, inliers, rays, refine, sampson_px
from ._estimates import BoolArray, RelativePoseEstimate, no_pose
from ._homography import poses_from_homography
from .camera import Float64Array

# A homography that explains this share of the inliers means a plane or no translation.
_DEGENERATE_SHARE = 0.9


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
    """

    total: int
    index: NDArray[np.intp]
    xy1: Float64Array
    xy2: Float64Array
    rays1: Float64Array
    rays2: Float64Array
    K1: Float64Array
    K2: Float64Array

    @classmethod
    def make(cls, xy1: ArrayLike, xy2: ArrayLike, K1: Float64Array, K2: Float64Array) -> TwoViews:
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
        )

    def failed(self, reason: str) -> RelativePoseEstimate:
        """The answer when there is none."""
        none = np.zeros(self.total, bool)
        return RelativePoseEstimate(no_pose(), none, 0, self.K1, self.K2, reason=reason)

    def essential_ransac(
        self,
        cameras: tuple[pycolmap.Camera, pycolmap.Camera],
        sample: NDArray[np.intp],
        max_error_px: float,
        seed: int,
        max_trials: int,
    ) -> Float64Array | None:
        """cam2_from_cam1 of the essential matrix with most inliers among `sample`."""
        options = pycolmap.RANSACOptions()
        set_ransac(options, max_error_px, seed)
        options.max_num_trials = max_trials
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
        focal_prior: tuple[float, float] | None = None,
        widths: tuple[float, ...] = (4.0, 2.0, 1.0, 1.0),
    ) -> tuple[Float64Array, float]:
        """The best of the pose (and focal length) and its refinements on ever closer matches."""
        focal, problem, now = float(self.K1[0, 0]), self, pose
        best = problem.inliers(pose, max_error_px)[1], pose, focal
        for width in widths:
            use, _ = problem.inliers(now, width * max_error_px)
            # Five numbers of the pose and perhaps one focal length, and one match to judge.
            if use.sum() < 7:
                break
            error = np.abs(
                sampson_px(now, problem.rays1[use], problem.rays2[use], problem.K1, problem.K2)
            )
            # The noise among the inliers, so that outliers near them do not move exact matches.
            scale = max(2 * float(np.median(error)), 1e-3 * max_error_px)
            now, focal = refine(
                now, self.xy1[use], self.xy2[use], problem.K1, problem.K2, scale, focal_prior
            )
            if focal_prior is not None:
                problem = problem._with_focal(focal)
            cost = problem.inliers(now, max_error_px)[1]
            if cost < best[0] or width == 1.0 and cost < 1.02 * best[0]:
                best = cost, now, focal
        return best[1], best[2]

    def _with_focal(self, focal: float) -> TwoViews:
        K1, K2 = self.K1.copy(), self.K2.copy()
        for K in (K1, K2):
            K[0, 0] = K[1, 1] = focal
        return TwoViews.make(self.xy1, self.xy2, K1, K2)

    def judged(self, pose: Float64Array, max_error_px: float, seed: int) -> RelativePoseEstimate:
        """Tell general, planar and rotation-only views apart and choose among the planar poses."""
        use, _ = self.inliers(pose, max_error_px)
        kind: Literal["general", "planar", "rotation"] = "general"
        others: tuple[Float64Array, ...] = ()
        noise = max_error_px / float(self.K2[0, 0])
        rotation = fit_rotation(self.rays1[use], self.rays2[use], noise)
        turned = self.rays1 @ rotation.T @ self.K2.T
        shift = np.linalg.norm(turned[:, :2] / turned[:, 2:] - self.xy2, axis=1)
        still = (shift < max_error_px) & (turned[:, 2] > 0)
        if (still & use).sum() >= _DEGENERATE_SHARE * use.sum():
            kind = "rotation"
            pose = pose.copy()
            pose[:3, :3] = rotation
            use = still
        else:
            candidates = self._planar_poses(use, max_error_px, seed)
            if candidates:
                kind = "planar"
                polished = [
                    self.polished(p, max_error_px, widths=(2.0, 1.0))[0]
                    for p in (pose, *candidates)
                ]
                polished = sorted(polished, key=lambda p: self.inliers(p, max_error_px)[1])
                pose = polished[0]
                use, _ = self.inliers(pose, max_error_px)
                others = tuple(
                    p
                    for i, p in enumerate(polished[1:], start=1)
                    if self.inliers(p, max_error_px)[0].sum() >= _DEGENERATE_SHARE * use.sum()
                    and all(np.abs(p - q).max() > 1e-3 for q in polished[:i])
                )
        every = np.zeros(self.total, bool)
        every[self.index[use]] = True
        angle = depths(pose, self.rays1[use], self.rays2[use])[2]
        return RelativePoseEstimate(
            cam2_from_cam1=pose,
            inliers=every,
            num_inliers=int(use.sum()),
            K1=self.K1,
            K2=self.K2,
            kind=kind,
            alternatives=others,
            parallax_deg=float(np.median(angle)) if kind != "rotation" else 0.0,
        )

    def _planar_poses(self, use: BoolArray, max_error_px: float, seed: int) -> list[Float64Array]:
        """Poses of the homography that explains the inliers, none if none does."""
        options = pycolmap.RANSACOptions()
        set_ransac(options, max_error_px, seed)
        options.max_num_trials = 1_000
        sample = subset(np.flatnonzero(use), seed, 1000)
        found: dict[str, Any] | None = pycolmap.estimate_homography_matrix(
            self.xy1[sample], self.xy2[sample], options
        )
        if found is None or found["num_inliers"] < _DEGENERATE_SHARE * len(sample):
            return []
        normalised = np.linalg.inv(without_skew(self.K2)) @ found["H"] @ without_skew(self.K1)
        return poses_from_homography(normalised, self.rays1[use], self.rays2[use])
