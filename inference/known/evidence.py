"""Given cameras against what the photos show: wrong conventions that no arithmetic can see.

Matches of two photos whose relative pose is given must meet in space: in front of both cameras and
near both observations. Each usual mistake is undone in turn; where that makes the matches meet and
the given values do not, the mistake is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap

from ...geometry.camera import Camera, rigid_inverse_array
from ..alignment.pairs import PairSamples
from ..images import View
from .conventions import ConventionError, pose_from_vector
from .values import Given

_ENOUGH = 50  # matches, over all pairs, before anything is said
_MOST_PAIRS, _MOST_MATCHES = 60, 400  # looked at
_TOLERANCE_PX, _TOLERANCE_GUESSED_PX = 1.0, 4.0  # median, network pixels
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class PairPoints:
    """Points of two photos that show the same, in original pixels, (n, 2) each."""

    first: int
    second: int
    xy1: np.ndarray
    xy2: np.ndarray


@dataclass(frozen=True)
class _Alternative:
    """A usual mistake: how to undo it, and what to tell.

    `poses` maps image -> (4, 4) to the same without the mistake, `focal` multiplies focal lengths.
    """

    convention: str
    remedy: str
    poses: Callable[[dict[int, np.ndarray]], dict[int, np.ndarray]] | None = None
    focal: float = 1.0


def check_evidence(
    given: Given,
    views: Sequence[View],
    pairs: Sequence[PairPoints],
    focal_guess_px: Sequence[float],
) -> list[str]:
    """Hold given poses, intrinsics and depths against matches.

    Args:
        given: what is known.
        views: the photos.
        pairs: matches between them, with outliers.
        focal_guess_px: of each photo, where no intrinsics are given; original pixels.

    Returns:
        Warnings: doubts that are not strong enough for an error.

    Raises:
        ConventionError: another convention fits far better than the given one.
    """
    warnings = _focal_doubts(given, views, focal_guess_px)
    poses = given.poses
    usable = [p for p in pairs if p.first in poses and p.second in poses and p.first != p.second]
    # Two cameras in one place have no depth to disagree about.
    usable = [_without_outliers(p, views) for p in usable[:_MOST_PAIRS]]
    usable = [p for p in usable if len(p.xy1)]
    if sum(len(p.xy1) for p in usable) < _ENOUGH:
        return warnings
    judge = _Judge(given, views, usable, focal_guess_px)
    miss = judge.miss_px(poses, 1.0)
    best, best_miss = None, miss
    for alternative in _alternatives(given, views):
        changed = alternative.poses(poses) if alternative.poses else poses
        other = judge.miss_px(changed, alternative.focal)
        if other < best_miss:
            best, best_miss = alternative, other
    sure = judge.tolerance_px
    if best is not None and best_miss < 2 * sure and miss > max(3 * best_miss, sure):
        raise ConventionError(
            best.convention,
            f"{_named(views, poses)}: under the given cameras the matches {_missing(miss)}, but "
            f"only by {best_miss:.2g} px if {best.remedy}",
        )
    if best is not None and miss > min(max(1.5 * best_miss, sure), max(3 * best_miss, sure / 5)):
        warnings.append(
            f"under the given cameras the matches {_missing(miss)}, but by {best_miss:.2g} px if "
            f"{best.remedy}; check them"
        )
    elif miss > 4 * sure:
        warnings.append(
            f"under the given cameras the matches {_missing(miss)}, and no usual mistake explains "
            "it; check that they belong to these photos"
        )
    return warnings + judge.depth_doubts(poses)


def _focal_doubts(given: Given, views: Sequence[View], guess_px: Sequence[float]) -> list[str]:
    """A given focal length far from what the network sees, which is right within a factor of 2."""
    found = []
    for i, K in given.intrinsics.items():
        ratio = guess_px[i] / float(np.sqrt(K[0, 0] * K[1, 1]))
        if not 0.4 < ratio < 2.5:
            found.append(
                f"{views[i].name}: the given focal length of {K[0, 0]:.4g} px is far from the "
                f"{guess_px[i]:.4g} px that the network sees; is K for another image size?"
            )
    return found


def _alternatives(given: Given, views: Sequence[View]) -> list[_Alternative]:
    found = [
        _Alternative(
            "inverted pose",
            "they are taken as world_from_cam; give the inverse, x_cam = cam_from_world @ x_world",
            lambda poses: {i: rigid_inverse_array(T) for i, T in poses.items()},
        ),
        _Alternative(
            "opengl",
            "their camera axes are taken as OpenGL's (y up, z backward); reverse the second and "
            "third row of cam_from_world",
            lambda poses: {i: _OPENCV_FROM_OPENGL @ T for i, T in poses.items()},
        ),
        _Alternative(
            "inverted opengl",
            "they are taken as world_from_cam with OpenGL camera axes (NeRF, nerfstudio, Blender); "
            "give diag(1, -1, -1, 1) @ inverse, or the transforms.json itself",
            lambda poses: {
                i: _OPENCV_FROM_OPENGL @ rigid_inverse_array(T) for i, T in poses.items()
            },
        ),
        _Alternative(
            "transposed rotation",
            "their 3x3 part is transposed; transpose it and keep the translation",
            lambda poses: {i: _rotation_transposed(T) for i, T in poses.items()},
        ),
    ]
    vectors = {i: v.vector for i, v in given.views.items() if v.vector is not None}
    if vectors:
        found.append(
            _Alternative(
                "degrees",
                "their rotation vectors are in degrees; multiply them by pi / 180",
                lambda poses: poses | {i: _from_degrees(v) for i, v in vectors.items()},
            )
        )
    if given.intrinsics:
        found += [
            _Alternative(
                "wrong image size",
                f"the focal lengths are multiplied by {factor:g}; K is likely for another image "
                "size",
                focal=factor,
            )
            for factor in (1 / 8, 1 / 4, 1 / 2, 2.0, 4.0, 8.0)
        ]
        long_side = max(max(views[i].ledger.original_size) for i in given.intrinsics)
        found.append(
            _Alternative(
                "focal in mm",
                "the focal lengths are in millimetres of a 36 mm wide sensor; multiply by the long "
                "side in pixels / 36",
                focal=long_side / 36,
            )
        )
    return found


def _rotation_transposed(pose: np.ndarray) -> np.ndarray:
    changed = pose.copy()
    changed[:3, :3] = pose[:3, :3].T
    return changed


def _from_degrees(vector: np.ndarray) -> np.ndarray:
    return pose_from_vector(np.concatenate([np.radians(vector[:3]), vector[3:]]), "")


def _missing(miss_px: float) -> str:
    """Clause for a median distance in network pixels."""
    if np.isinf(miss_px):
        return "meet behind the cameras"
    return f"miss each other by {miss_px:.2g} px (median, at network size)"


class _Judge:
    """How well matches meet under cameras."""

    def __init__(
        self,
        given: Given,
        views: Sequence[View],
        pairs: Sequence[PairPoints],
        focal_guess_px: Sequence[float],
    ) -> None:
        self.given, self.views, self.pairs = given, views, pairs
        self.focal_guess_px = focal_guess_px

    @property
    def tolerance_px(self) -> float:
        """What right cameras may miss by, network pixels; more where intrinsics are guessed."""
        shown = {i for p in self.pairs for i in (p.first, p.second)}
        return _TOLERANCE_PX if shown <= set(self.given.intrinsics) else _TOLERANCE_GUESSED_PX

    def miss_px(self, poses: dict[int, np.ndarray], focal: float) -> float:
        """Median distance between matches and their common points, network pixels.

        Infinite for points that are not in front of both cameras.
        """
        return float(
            np.median(np.concatenate([self._misses(p, poses, focal)[0] for p in self.pairs]))
        )

    def depth_doubts(self, poses: dict[int, np.ndarray]) -> list[str]:
        """Compare the units of given depths and poses.

        Raises:
            ConventionError: they differ by about a thousand.
        """
        ratios = []
        for pair in self.pairs:
            miss, points, angle = self._misses(pair, poses, 1.0)
            for i, xy in ((pair.first, pair.xy1), (pair.second, pair.xy2)):
                depth = self.given.views[i].depth
                if depth is None:
                    continue
                good = (miss < 2 * self.tolerance_px) & (angle > np.radians(1.0))
                column, row = np.floor(xy[good]).astype(int).T
                rows, columns = depth.shape
                there = depth[row.clip(0, rows - 1), column.clip(0, columns - 1)]
                z = points[good] @ poses[i][2, :3] + poses[i][2, 3]
                ratios.append((there / z)[np.isfinite(there)])
        values = np.concatenate(ratios) if ratios else np.zeros(0)
        if len(values) < _ENOUGH // 2:
            return []
        ratio = float(np.median(values))
        if 300 < ratio < 3000 or 1 / 3000 < ratio < 1 / 300:
            deep, other = ("depths", "poses") if ratio > 1 else ("poses", "depths")
            raise ConventionError(
                "millimetres",
                f"{_named(self.views, poses)}: the given depths are {ratio:.4g} times those that "
                f"the given poses lead to: the {deep} are in millimetres and the {other} in "
                f"metres; divide the {deep} by 1000",
            )
        if not 0.8 < ratio < 1.25:
            return [
                f"the given depths are {ratio:.3g} times those that the given poses lead to; give "
                "both in one unit, and depth along the optical axis"
            ]
        return []

    def _misses(
        self, pair: PairPoints, poses: dict[int, np.ndarray], focal: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per match: what it misses by, its point (n, 3) in the world, and its angle in radians."""
        a, b = (self._camera(i, poses[i], focal) for i in (pair.first, pair.second))
        points, angle = midpoints(a, b, pair.xy1, pair.xy2)
        worst = np.zeros(len(points))
        for index, camera, xy in ((pair.first, a, pair.xy1), (pair.second, b, pair.xy2)):
            projected, depth = camera.project(points)
            error = np.linalg.norm(projected - xy, axis=1) / self.views[index].pixel_scale
            worst = np.maximum(worst, np.where(depth > 0, error, np.inf))
        return worst, points, angle

    def _camera(self, index: int, pose: np.ndarray, focal: float) -> Camera:
        entry = self.given.views.get(index)
        height, width = self.views[index].ledger.original_size
        if entry is not None and entry.K is not None:
            K = np.diag([focal, focal, 1.0]) @ entry.K
            K[:2, 2] = entry.K[:2, 2]
        else:
            f = self.focal_guess_px[index]
            K = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])
        return Camera(K=K, cam_from_world=pose, height=height, width=width)


def midpoints(
    a: Camera, b: Camera, xy1: np.ndarray, xy2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """World points (n, 3) nearest to both viewing rays of each match, and the rays' angles."""
    one = np.ones(len(xy1))
    u = a.unproject(xy1.astype(float), one) - a.center
    v = b.unproject(xy2.astype(float), one) - b.center
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    baseline = b.center - a.center
    cosine = (u * v).sum(-1)
    ub, vb = u @ baseline, v @ baseline
    sine2 = np.maximum(1 - cosine**2, 1e-12)
    s = (ub - cosine * vb) / sine2
    t = (cosine * ub - vb) / sine2
    points = 0.5 * (a.center + s[:, None] * u + b.center + t[:, None] * v)
    return points, np.arccos(np.clip(cosine, -1, 1))


def points_of_samples(sample: PairSamples, views: Sequence[View]) -> PairPoints:
    """Where the surer half of the other photo's grid points falls in the pair's own photo."""
    (height, width), (other_height, other_width) = sample.sizes
    points, confidence = sample.points[1].numpy(), sample.confidence[1].numpy()
    grid = round(len(points) ** 0.5)
    rows = np.round(np.linspace(0, other_height - 1, grid)) + 0.5
    columns = np.round(np.linspace(0, other_width - 1, grid)) + 0.5
    x, y = np.meshgrid(columns, rows)
    xy2 = np.stack([x, y], -1).reshape(-1, 2)
    depth = np.maximum(points[:, 2:], 1e-9)
    xy1 = sample.focal_px * points[:, :2] / depth + np.array([width / 2, height / 2])
    inside = (xy1 >= 0).all(-1) & (xy1[:, 0] < width) & (xy1[:, 1] < height)
    keep = inside & (points[:, 2] > 0) & (confidence >= np.median(confidence))
    first, second = views[sample.frame].ledger, views[sample.other].ledger
    return PairPoints(
        sample.frame,
        sample.other,
        np.asarray(first.points_to_original(xy1[keep])),
        np.asarray(second.points_to_original(xy2[keep])),
    )


def _without_outliers(pair: PairPoints, views: Sequence[View]) -> PairPoints:
    """The matches that fit one fundamental matrix, which needs no camera; none if too few do."""
    step = max(1, len(pair.xy1) // _MOST_MATCHES)
    xy1, xy2 = pair.xy1[::step].astype(np.float64), pair.xy2[::step].astype(np.float64)
    options = pycolmap.RANSACOptions()
    options.max_error = 2.0 * max(views[i].pixel_scale for i in (pair.first, pair.second))
    options.random_seed = 0
    found = pycolmap.estimate_fundamental_matrix(xy1, xy2, options) if len(xy1) >= 16 else None
    keep = np.zeros(len(xy1), dtype=bool) if found is None else np.asarray(found["inlier_mask"])
    if keep.sum() < max(16, 0.2 * len(keep)):
        keep[:] = False
    return PairPoints(pair.first, pair.second, xy1[keep], xy2[keep])


def _named(views: Sequence[View], poses: dict[int, np.ndarray], limit: int = 4) -> str:
    names = [views[i].name for i in sorted(poses)]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "poses of " + ", ".join(names[:limit]) + more
