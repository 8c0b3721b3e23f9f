"""Robust pose from correspondences: pycolmap's minimal solvers and RANSAC, refined and judged here.

Pixels are centred at half-integers, COLMAP's own convention. Every function gives the same answer
for the same input and seed. Too little data is not an exception but an estimate with `success ==
False` that says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pycolmap
import torch
from numpy.typing import ArrayLike, NDArray

from ._epipolar import depths, fit_rotation, inliers, rays, refine, sampson_px
from ._homography import poses_from_homography
from .camera import Float64Array, check_intrinsics
from .transforms import Similarity, weighted_procrustes

BoolArray = NDArray[np.bool_]

# RANSAC looks at no more correspondences than this; all are classified and refined on afterwards.
_MAX_SAMPLED = 5000
# COLMAP's local optimisation sometimes stops next to the answer where few matches are right: below
# this share of inliers, other seeds are tried.
_TRUSTED_SHARE, _MAX_ATTEMPTS = 0.4, 4
# A homography that explains this share of the inliers means a plane or no translation.
_DEGENERATE_SHARE = 0.9
# Main lenses of phones see about 45 to 80 degrees along the longer side.
_FOCAL_PRIOR_LONG_SIDES, _FOCAL_PRIOR_LOG_SIGMA = 0.9, 0.5


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


def pose_from_points(
    xy: ArrayLike,
    xyz: ArrayLike,
    K: ArrayLike,
    height: int,
    width: int,
    max_error_px: float = 4.0,
    min_inliers: int = 6,
    estimate_focal: bool = False,
    seed: int = 0,
) -> PoseEstimate:
    """Find the camera that sees known points at given pixels (PnP).

    Args:
        xy: (N, 2) pixels; rows that are not finite here or in `xyz` count as outliers.
        xyz: (N, 3) points in the world.
        K: (3, 3) intrinsics in pixels of the image.
        height: image height in pixels.
        width: image width in pixels.
        max_error_px: largest reprojection error of an inlier.
        min_inliers: fewest inliers of a pose that is returned, at least 4.
        estimate_focal: estimate one focal length for both axes; only the principal point of K is
            then used.
        seed: of the random sampling.

    Raises:
        ValueError: if shapes or K are wrong or `max_error_px` is not positive.

    Reference: Persson & Nordberg, Lambda Twist P3P, ECCV 2018, inside COLMAP's LO-RANSAC.
    """
    pixels, points = _paired(xy, xyz, (2, 3), ("xy", "xyz"))
    intrinsics = check_intrinsics(K)
    _check_threshold(max_error_px)
    needed = max(int(min_inliers), 4)

    def failed(reason: str) -> PoseEstimate:
        return PoseEstimate(_no_pose(), np.zeros(len(pixels), bool), 0, intrinsics, reason)

    finite: BoolArray = np.all(np.isfinite(np.hstack([pixels, points])), axis=1)
    if finite.sum() < needed:
        return failed(f"needs at least {needed} points, got {int(finite.sum())}")
    camera = _colmap_camera(intrinsics, height, width, estimate_focal)
    # NaN is no inlier of any pose.
    points = np.where(finite[:, None], points, np.nan)
    square = _unskewed(np.where(finite[:, None], pixels, 0), intrinsics)
    # Far from the origin, float64 minimal solvers lose digits.
    origin = np.median(points[finite], axis=0)
    sample = _subset(np.flatnonzero(finite), seed)
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.estimate_focal_length = estimate_focal
    _set_ransac(options.ransac, max_error_px, seed)
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = estimate_focal
    found: dict[str, Any] | None = pycolmap.estimate_and_refine_absolute_pose(
        square[sample], points[sample] - origin, camera, options, refinement
    )
    if found is None:
        return failed(
            f"no pose brings {needed} of {int(finite.sum())} points within {max_error_px:g} px"
        )
    pose = found["cam_from_world"]
    for _ in range(2):
        use = _reprojected_within(pose.matrix(), camera, square, points - origin, max_error_px)
        if use.sum() < needed:
            return failed(
                f"only {int(use.sum())} of {int(finite.sum())} points agree on a pose within "
                f"{max_error_px:g} px, {needed} are needed"
            )
        refined = pycolmap.refine_absolute_pose(
            pose, square, np.where(use[:, None], points - origin, 0), use, camera, refinement
        )
        pose = pose if refined is None else refined["cam_from_world"]
    use = _reprojected_within(pose.matrix(), camera, square, points - origin, max_error_px)
    spread = np.linalg.svd(points[use] - points[use].mean(0), compute_uv=False)
    if use.sum() < needed or spread[1] < 1e-6 * spread[0]:
        return failed("the points that agree lie on one line, which leaves the pose open")
    cam_from_world = np.eye(4)
    cam_from_world[:3] = pose.matrix()
    cam_from_world[:3, 3] -= cam_from_world[:3, :3] @ origin
    if estimate_focal:
        intrinsics = np.array(camera.calibration_matrix(), dtype=np.float64)
    return PoseEstimate(cam_from_world, use, int(use.sum()), intrinsics)


def relative_pose(
    xy1: ArrayLike,
    xy2: ArrayLike,
    K1: ArrayLike,
    K2: ArrayLike,
    size1: tuple[int, int],
    size2: tuple[int, int],
    max_error_px: float = 1.5,
    min_inliers: int = 8,
    seed: int = 0,
) -> RelativePoseEstimate:
    """Find the relative pose of two calibrated views from matched pixels.

    Args:
        xy1: (N, 2) pixels of view 1; rows that are not finite here or in `xy2` count as outliers.
        xy2: (N, 2) pixels of view 2.
        K1: (3, 3) intrinsics of view 1.
        K2: (3, 3) intrinsics of view 2.
        size1: (height, width) of view 1.
        size2: (height, width) of view 2.
        max_error_px: largest Sampson distance of an inlier.
        min_inliers: fewest inliers of a pose that is returned, at least 6.
        seed: of the random sampling.

    Returns:
        The pose with a unit translation, refined on its inliers; see `RelativePoseEstimate.kind`
        for scenes that do not determine it.

    Raises:
        ValueError: if shapes, K or sizes are wrong or `max_error_px` is not positive.

    Reference: Nister, An efficient solution to the five-point relative pose problem, PAMI 2004,
        inside COLMAP's
    LO-RANSAC.
    """
    problem = _TwoViews.make(xy1, xy2, check_intrinsics(K1, "K1"), check_intrinsics(K2, "K2"))
    _check_threshold(max_error_px)
    needed = max(int(min_inliers), 6)
    if len(problem.index) < needed:
        return problem.failed(f"needs at least {needed} matches, got {len(problem.index)}")
    cameras = _colmap_camera(problem.K1, *size1), _colmap_camera(problem.K2, *size2)
    best: tuple[float, Float64Array] | None = None
    for attempt in range(_MAX_ATTEMPTS):
        sample = _subset(np.arange(len(problem.index)), seed + attempt)
        start = problem.essential_ransac(cameras, sample, max_error_px, seed + attempt, 5_000)
        if start is None:
            continue
        pose, _ = problem.polished(start, max_error_px)
        use, cost = problem.inliers(pose, max_error_px)
        if best is None or cost < best[0]:
            best = cost, pose
        if use.mean() > _TRUSTED_SHARE:
            break
    number = 0 if best is None else int(problem.inliers(best[1], max_error_px)[0].sum())
    if best is None or number < needed:
        return problem.failed(
            f"only {number} of {len(problem.index)} matches agree on a relative pose within "
            f"{max_error_px:g} px, {needed} are needed"
        )
    return problem.judged(best[1], max_error_px, seed)


def relative_pose_unknown_focal(
    xy1: ArrayLike,
    xy2: ArrayLike,
    size1: tuple[int, int],
    size2: tuple[int, int],
    max_error_px: float = 1.5,
    min_inliers: int = 10,
    focal_range: tuple[float, float] = (0.3, 4.0),
    seed: int = 0,
) -> RelativePoseEstimate:
    """Find the relative pose and the common focal length of two views from matched pixels.

    Principal points are taken at the image centres, both views to have the same focal length in
    pixels. Two views whose optical axes are parallel, or meet at equal distances, hardly determine
    the focal length; a weak prior (0.9 times the longer side, within a factor of 1.6) then decides.
    So it does for a planar scene.

    Args:
        xy1: (N, 2) pixels of view 1; rows that are not finite here or in `xy2` count as outliers.
        xy2: (N, 2) pixels of view 2.
        size1: (height, width) of view 1.
        size2: (height, width) of view 2.
        max_error_px: largest Sampson distance of an inlier.
        min_inliers: fewest inliers of a pose that is returned, at least 7.
        focal_range: bounds of the focal length in units of the longest side.
        seed: of the random sampling.

    Returns:
        As `relative_pose`, with the focal length in K1 and K2.

    Raises:
        ValueError: if shapes or sizes are wrong, `max_error_px` is not positive or the range is
            empty.
    """
    long_side = max(*_check_size(size1), *_check_size(size2))
    low, high = focal_range
    if not 0 < low <= high:
        raise ValueError(f"focal_range must be two positive factors in order, got {focal_range}")
    _check_threshold(max_error_px)
    prior = _FOCAL_PRIOR_LONG_SIDES * long_side, _FOCAL_PRIOR_LOG_SIGMA
    start = _TwoViews.make(xy1, xy2, _centred_K(prior[0], size1), _centred_K(prior[0], size2))
    needed = max(int(min_inliers), 7)
    if len(start.index) < needed:
        return start.failed(f"needs at least {needed} matches, got {len(start.index)}")

    def at(focal: float) -> _TwoViews:
        return _TwoViews.make(xy1, xy2, _centred_K(focal, size1), _centred_K(focal, size2))

    # Coarse, because the essential matrix of a focal length 20 % off still keeps most inliers.
    sample = _subset(np.arange(len(start.index)), seed, 500)
    trials: list[tuple[float, _TwoViews, Float64Array]] = []
    for focal in np.geomspace(low, high, 10) * long_side:
        problem = at(float(focal))
        cameras = _colmap_camera(problem.K1, *size1), _colmap_camera(problem.K2, *size2)
        pose = problem.essential_ransac(cameras, sample, max_error_px, seed, 1_000)
        if pose is not None:
            trials.append((problem.inliers(pose, max_error_px)[1], problem, pose))
    best: tuple[float, _TwoViews, Float64Array] | None = None
    for _, problem, pose in sorted(trials, key=lambda trial: trial[0])[:3]:
        refined, focal = problem.polished(pose, max_error_px, prior)
        problem = at(float(np.clip(focal, low * long_side, high * long_side)))
        cost = problem.inliers(refined, max_error_px)[1]
        cost += (np.log(focal / prior[0]) / prior[1]) ** 2 / 9
        if best is None or cost < best[0]:
            best = cost, problem, refined
    if best is None or best[1].inliers(best[2], max_error_px)[0].sum() < needed:
        return start.failed(
            f"no relative pose with a focal length of {low:g} to {high:g} long sides agrees with "
            f"{needed} of {len(start.index)} matches within {max_error_px:g} px"
        )
    return best[1].judged(best[2], max_error_px, seed)


def relative_pose_from_pointmaps(
    pointmap_a_in_a: ArrayLike,
    pointmap_a_in_b: ArrayLike,
    confidence_a: ArrayLike | None = None,
    confidence_b: ArrayLike | None = None,
    rounds: int = 10,
) -> PointmapPose:
    """Align two pointmaps of the same pixels, one in each camera's frame.

    Minimises the confidence-weighted sum of distances (not of their squares) by re-weighted
    Procrustes steps, so that a minority of wrong pixels does not count.

    Args:
        pointmap_a_in_a: (..., 3) points of view a in camera a.
        pointmap_a_in_b: (..., 3) the same pixels in camera b.
        confidence_a: (...) weights, None for one each; the weights of a pixel multiply.
        confidence_b: (...) weights.
        rounds: re-weighting steps; 0 is plain least squares.

    Raises:
        ValueError: if shapes differ.
    """
    a = np.asarray(pointmap_a_in_a, dtype=np.float64)
    b = np.asarray(pointmap_a_in_b, dtype=np.float64)
    if a.shape != b.shape or a.shape[-1:] != (3,):
        raise ValueError(
            f"expected two pointmaps (..., 3) of one shape, got {a.shape} and {b.shape}"
        )
    weight = np.ones(a.shape[:-1])
    for name, confidence in (("confidence_a", confidence_a), ("confidence_b", confidence_b)):
        if confidence is not None:
            given = np.asarray(confidence, dtype=np.float64)
            if given.shape != a.shape[:-1]:
                raise ValueError(f"{name} must have shape {a.shape[:-1]}, got {given.shape}")
            weight = weight * given
    use = np.isfinite(a).all(-1) & np.isfinite(b).all(-1) & (weight > 0)
    if use.sum() < 3:
        return PointmapPose(
            _no_pose(), np.nan, np.nan, f"needs at least 3 valid pixels, got {int(use.sum())}"
        )
    source, target, mass = (torch.from_numpy(x[use]) for x in (a, b, weight))
    fit = weighted_procrustes(source, target, mass)
    for _ in range(rounds):
        distance = (fit.apply(source) - target).norm(dim=-1)
        fit = weighted_procrustes(
            source, target, mass / distance.clamp_min(1e-3 * distance.median() + 1e-12)
        )
    distance = (fit.apply(source) - target).norm(dim=-1).numpy()
    size = max(float(np.median(np.linalg.norm(target.numpy(), axis=-1))), 1e-12)
    scale = float(fit.scale)
    if not scale > 1e-9:
        return PointmapPose(_no_pose(), np.nan, np.nan, "the two pointmaps have no shape in common")
    residual = _weighted_median(distance, mass.numpy()) / size
    rigid = Similarity(torch.ones_like(fit.scale), fit.rotation, fit.translation)
    return PointmapPose(rigid.matrix().numpy(), scale, residual)


@dataclass(frozen=True, eq=False)
class _TwoViews:
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
    def make(cls, xy1: ArrayLike, xy2: ArrayLike, K1: Float64Array, K2: Float64Array) -> _TwoViews:
        pixels1, pixels2 = _paired(xy1, xy2, (2, 2), ("xy1", "xy2"))
        index = np.flatnonzero(np.isfinite(pixels1).all(1) & np.isfinite(pixels2).all(1))
        pixels1, pixels2 = pixels1[index], pixels2[index]
        return cls(
            total=len(np.asarray(xy1)),
            index=index,
            xy1=_unskewed(pixels1, K1),
            xy2=_unskewed(pixels2, K2),
            rays1=rays(pixels1, K1),
            rays2=rays(pixels2, K2),
            K1=K1,
            K2=K2,
        )

    def failed(self, reason: str) -> RelativePoseEstimate:
        none = np.zeros(self.total, bool)
        return RelativePoseEstimate(_no_pose(), none, 0, self.K1, self.K2, reason=reason)

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
        _set_ransac(options, max_error_px, seed)
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

    def _with_focal(self, focal: float) -> _TwoViews:
        K1, K2 = self.K1.copy(), self.K2.copy()
        for K in (K1, K2):
            K[0, 0] = K[1, 1] = focal
        return _TwoViews.make(self.xy1, self.xy2, K1, K2)

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
        _set_ransac(options, max_error_px, seed)
        options.max_num_trials = 1_000
        sample = _subset(np.flatnonzero(use), seed, 1000)
        found: dict[str, Any] | None = pycolmap.estimate_homography_matrix(
            self.xy1[sample], self.xy2[sample], options
        )
        if found is None or found["num_inliers"] < _DEGENERATE_SHARE * len(sample):
            return []
        normalised = np.linalg.inv(_without_skew(self.K2)) @ found["H"] @ _without_skew(self.K1)
        return poses_from_homography(normalised, self.rays1[use], self.rays2[use])


def _reprojected_within(
    pose: Float64Array,
    camera: pycolmap.Camera,
    xy: Float64Array,
    points: Float64Array,
    max_error_px: float,
) -> BoolArray:
    """(N,) bool: points in front of the camera that project within the error; NaN is no."""
    in_cam = points @ pose[:, :3].T + pose[:, 3]
    K = camera.calibration_matrix()
    with np.errstate(divide="ignore", invalid="ignore"):
        projected = (in_cam @ K.T)[:, :2] / in_cam[:, 2:]
        error = np.linalg.norm(projected - xy, axis=1)
    return (in_cam[:, 2] > 0) & (error <= max_error_px)


def _colmap_camera(
    K: Float64Array, height: int, width: int, single_focal: bool = False
) -> pycolmap.Camera:
    _check_size((height, width))
    if single_focal:
        # The start of the estimation; the minimal solver does not use it.
        params = [float(max(height, width)), K[0, 2], K[1, 2]]
        return pycolmap.Camera(model="SIMPLE_PINHOLE", width=width, height=height, params=params)
    params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)


def _set_ransac(options: pycolmap.RANSACOptions, max_error_px: float, seed: int) -> None:
    options.max_error = float(max_error_px)
    options.random_seed = int(seed)
    options.num_threads = 1
    options.confidence = 0.9999
    options.min_inlier_ratio = 0.01
    options.min_num_trials = 100
    options.max_num_trials = 20_000


def _subset(index: NDArray[np.intp], seed: int, most: int = _MAX_SAMPLED) -> NDArray[np.intp]:
    """At most `most` entries of `index`, in order, the same for the same seed."""
    if len(index) <= most:
        return index
    return np.sort(np.random.default_rng(seed).choice(index, most, replace=False))


def _without_skew(K: Float64Array) -> Float64Array:
    return np.array([[K[0, 0], 0, K[0, 2]], [0, K[1, 1], K[1, 2]], [0, 0, 1]])


def _unskewed(xy: Float64Array, K: Float64Array) -> Float64Array:
    """Pixels as a camera without skew sees them; pycolmap's pinhole model has none."""
    if K[0, 1] == 0:
        return xy
    return np.stack([xy[:, 0] - K[0, 1] * (xy[:, 1] - K[1, 2]) / K[1, 1], xy[:, 1]], axis=1)


def _centred_K(focal: float, size: tuple[int, int]) -> Float64Array:
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])


def _paired(
    first: ArrayLike, second: ArrayLike, columns: tuple[int, int], names: tuple[str, str]
) -> tuple[Float64Array, Float64Array]:
    arrays = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    for array, count, name in zip(arrays, columns, names, strict=True):
        if array.ndim != 2 or array.shape[1] != count:
            raise ValueError(f"{name} must have shape (N, {count}), got {array.shape}")
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError(
            f"{names[0]} and {names[1]} must pair up, got {len(arrays[0])} and {len(arrays[1])} "
            "rows"
        )
    return arrays


def _check_threshold(max_error_px: float) -> None:
    if not max_error_px > 0:
        raise ValueError(f"max_error_px must be positive, got {max_error_px}")


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"an image size is (height, width) of at least 1, got {size}")
    return size


def _no_pose() -> Float64Array:
    return np.full((4, 4), np.nan)


def _weighted_median(values: Float64Array, weights: Float64Array) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
