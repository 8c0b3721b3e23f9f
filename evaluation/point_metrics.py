"""How far reconstructed points are from true ones: at the same pixels, and as clouds.

Everything is after one similarity for a whole scene, in units of the truth and as a share of its
median depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from ..geometry.camera import Camera
from ..inference.scene import Scene
from .pose_metrics import fit_similarity
from .readers import EvaluationSet

POINT_THRESHOLDS = (0.01, 0.02, 0.05, 0.1)
_MAX_CLOUD_POINTS = 100_000
_POINTS_AN_IMAGE = 5000
_FEWEST_POINTS = 10

Similarity = tuple[float, np.ndarray, np.ndarray]
"""Scale, rotation (3, 3), translation (3,): target = scale * rotation @ source + translation."""


@dataclass(frozen=True)
class CloudError:
    """Distances between two point clouds.

    Attributes:
        accuracy: mean distance of an estimated point to the nearest true one.
        completeness: mean distance of a true point to the nearest estimated one.
        chamfer: mean of the two.
        f_score: threshold (a length) -> harmonic mean of the shares of points nearer than that.
    """

    accuracy: float
    completeness: float
    chamfer: float
    f_score: Mapping[float, float]


@dataclass(frozen=True)
class PointmapError:
    """Estimated against true points at the same pixels.

    Attributes:
        points: number of true points.
        missing: share of them without an estimate; it counts as a miss.
        scale: of the similarity from the estimate to the truth.
        median: median distance, inf where half is missing.
        median_relative: median distance as a share of the true depth.
        inliers: threshold -> share of points whose distance is below that share of the depth.
        cloud: the same as clouds; its thresholds are shares of `median_depth`.
        median_depth: of the true points in their own views.
    """

    points: int
    missing: float
    scale: float
    median: float
    median_relative: float
    inliers: Mapping[float, float]
    cloud: CloudError | None
    median_depth: float

    @property
    def relative_chamfer(self) -> float:
        """Chamfer distance as a share of the median depth; inf without enough points."""
        return float("inf") if self.cloud is None else self.cloud.chamfer / self.median_depth


def cloud_error(
    estimate: np.ndarray,
    truth: np.ndarray,
    thresholds: Sequence[float] = (),
    *,
    max_points: int = _MAX_CLOUD_POINTS,
    seed: int = 0,
) -> CloudError:
    """Compare two clouds (N, 3) and (M, 3) in one frame; rows that are not finite are left out.

    Larger clouds are thinned to `max_points` at random. Without a point in either cloud the
    distances are infinite.
    """
    source, target = (_thinned(points, max_points, seed) for points in (estimate, truth))
    if not len(source) or not len(target):
        inf = float("inf")
        return CloudError(inf, inf, inf, {float(t): 0.0 for t in thresholds})
    there = np.asarray(KDTree(target).query(source)[0])
    back = np.asarray(KDTree(source).query(target)[0])
    scores = {}
    for threshold in thresholds:
        precision, recall = float((there < threshold).mean()), float((back < threshold).mean())
        both = precision + recall
        scores[float(threshold)] = 2 * precision * recall / both if both > 0 else 0.0
    accuracy, completeness = float(there.mean()), float(back.mean())
    return CloudError(accuracy, completeness, (accuracy + completeness) / 2, scores)


def pointmap_error(
    estimate: np.ndarray,
    truth: np.ndarray,
    depth: np.ndarray,
    thresholds: Sequence[float] = POINT_THRESHOLDS,
    *,
    similarity: Similarity | None = None,
) -> PointmapError:
    """Compare points of the same pixels.

    Args:
        estimate: (N, 3); rows that are not finite are missing.
        truth: (N, 3) true points of all images of a scene in one frame.
        depth: (N,) true depth of each point in its own view, > 0.
        thresholds: shares of the depth.
        similarity: from the estimate's frame to the truth's; None fits it robustly.
    """
    found = np.asarray(np.isfinite(estimate).all(axis=1))
    missing = float(1 - found.mean()) if len(found) else 1.0
    median_depth = float(np.median(depth)) if len(depth) else float("nan")
    if found.sum() < _FEWEST_POINTS:
        inf, none = float("inf"), {float(t): 0.0 for t in thresholds}
        return PointmapError(len(truth), missing, float("nan"), inf, inf, none, None, median_depth)
    if similarity is None:
        similarity = robust_similarity(estimate[found], truth[found])
    scale, rotation, translation = similarity
    aligned = scale * estimate[found] @ rotation.T + translation
    distance = np.full(len(truth), np.inf)
    distance[found] = np.linalg.norm(aligned - truth[found], axis=1)
    relative = distance / depth
    cloud = cloud_error(aligned, truth, [t * median_depth for t in thresholds])
    shares = dict(zip(map(float, thresholds), cloud.f_score.values(), strict=True))
    return PointmapError(
        points=len(truth),
        missing=missing,
        scale=scale,
        median=_median(distance),
        median_relative=_median(relative),
        inliers={float(t): float((relative < t).mean()) for t in thresholds},
        cloud=CloudError(cloud.accuracy, cloud.completeness, cloud.chamfer, shares),
        median_depth=median_depth,
    )


def robust_similarity(
    source: np.ndarray, target: np.ndarray, *, samples: int = 300, seed: int = 0
) -> Similarity:
    """Similarity between corresponding points (N, 3) of which up to half may be wrong.

    The least median of distances over minimal samples, then least squares on what lies within three
    robust standard deviations, until it settles.

    Reference: Rousseeuw, Least Median of Squares Regression, JASA 1984.
    """
    generator = np.random.default_rng(seed)
    few = generator.choice(len(source), min(len(source), 2000), replace=False)
    best = fit_similarity(source, target)
    cost = float(np.median(_distances(best, source[few], target[few])))
    for _ in range(samples):
        chosen = generator.choice(few, min(4, len(few)), replace=False)
        if np.ptp(source[chosen], axis=0).max() <= 0:
            continue
        candidate = fit_similarity(source[chosen], target[chosen])
        median = float(np.median(_distances(candidate, source[few], target[few])))
        if median < cost:
            best, cost = candidate, median
    for _ in range(8):
        distance = _distances(best, source, target)
        limit = max(3 * 1.4826 * float(np.median(distance)), float(np.quantile(distance, 0.5)))
        near = distance <= limit
        best = fit_similarity(source[near], target[near])
    return best


def scene_point_error(data: EvaluationSet, scene: Scene) -> PointmapError | None:
    """Points of a scene's largest component against a set's depth; None if the set has none.

    Up to 5000 pixels an image, drawn evenly. An image that is not in the component is missing.
    """
    placed = set(scene.components[0]) if scene.components else set()
    index = {
        view.path.name if view.path is not None else view.name: i
        for i, view in enumerate(scene.views)
    }
    estimates, truths, depths = [], [], []
    for name, image in data.images.items():
        if image.K is None or image.cam_from_world is None:
            continue
        dense, sparse = image.depth(), image.sparse_depth()
        if dense is not None:
            rows, columns = np.nonzero(dense > 0)
            xy, depth = np.stack([columns, rows], 1) + 0.5, dense[rows, columns].astype(np.float64)
        elif sparse is not None:
            xy, depth = sparse.xy, sparse.depth
        else:
            continue
        kept = np.random.default_rng(0).permutation(len(depth))[:_POINTS_AN_IMAGE]
        xy, depth = xy[kept], depth[kept]
        camera = Camera(image.K, image.cam_from_world, *image.size)
        truths.append(camera.unproject(xy, depth))
        depths.append(depth)
        number = index.get(name)
        if number is None or number not in placed:
            estimates.append(np.full((len(depth), 3), np.nan))
        else:
            estimates.append(_scene_points(scene, number, xy))
    if not truths:
        return None
    estimate, truth, depth = (np.concatenate(parts) for parts in (estimates, truths, depths))
    return pointmap_error(estimate, truth, depth)


def _scene_points(scene: Scene, number: int, xy: np.ndarray) -> np.ndarray:
    """World points of a placed view at original pixels, the nearest pixel's."""
    points = scene.points(number, min_confidence=0.0)
    inner = np.asarray(scene.views[number].ledger.points_to_network(xy), dtype=np.float64)
    columns, rows = np.floor(inner).astype(np.int64).T
    height, width = points.shape[:2]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = np.full((len(xy), 3), np.nan)
    found[inside] = points[rows[inside], columns[inside]]
    return found


def _distances(similarity: Similarity, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    scale, rotation, translation = similarity
    return np.linalg.norm(scale * source @ rotation.T + translation - target, axis=1)


def _thinned(points: np.ndarray, most: int, seed: int) -> np.ndarray:
    kept = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    kept = kept[np.isfinite(kept).all(axis=1)]
    if len(kept) > most:
        kept = kept[np.random.default_rng(seed).choice(len(kept), most, replace=False)]
    return kept


def _median(values: np.ndarray) -> float:
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high) if np.isinf(high) else float((low + high) / 2)
