"""The view graph that `verify_edges` judges, from matches alone.

Every pair gives a relative pose, and with it depths of the matched points up to a scale. All pairs
of an image see the same key points of it, so their depths fit together into one sparse depth map
per image. What one image sees, placed into another by the pair that joins them, must not lie in
front of what that other one sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ...geometry.camera import Camera, Float64Array
from ...geometry.pose import RelativePoseEstimate, relative_pose
from .cycles import IntArray
from .front_evidence import FrontEvidence, ObservedDepth, front_evidence
from .verification import RelativeEdge
from .view_graph import edge_from_matches

_SAMPLE = 300  # matches of a pair that its relative pose is estimated from
_MIN_PARALLAX_DEG = 2.0  # rays that meet at less give no depth
_MIN_COMMON = 12  # points that fix the scale between two sets of depths
_NEARBY = 0.02  # of the long side: key points at most this far apart have one depth
_MOST_POINTS = 4000  # of an image that are held against another
_TOLERANCE = 0.1  # share of the depth by which a point must be nearer than a surface


@dataclass(frozen=True, eq=False)
class KeyPoints:
    """The key points of an image.

    Attributes:
        xy: (n, 2) original pixels.
        camera: at the identity, with the intrinsics known or guessed.
    """

    xy: NDArray[np.float32]
    camera: Camera

    def points(self, depth: Float64Array) -> Float64Array:
        """Points (n, 3) at the given depths (n,), camera frame."""
        return self.camera.unproject(self.xy.astype(float), depth)

    def rays(self, rows: IntArray) -> Float64Array:
        """Viewing rays (m, 3) with z = 1 of some key points, camera frame."""
        return self.camera.unproject(self.xy[rows].astype(float), np.ones(len(rows)))


@dataclass(frozen=True, eq=False)
class _PairDepth:
    """Depths of the matched points of a pair, for a baseline of length one.

    Attributes:
        rows: (n, 2) key points in the two images.
        depth: (n, 2) z in the two cameras.
    """

    rows: IntArray
    depth: Float64Array


def edges_from_match_graph(
    images: Sequence[KeyPoints],
    matches: Mapping[tuple[int, int], NDArray[np.integer]],
    max_error_px: float,
    seed: int = 0,
) -> list[RelativeEdge]:
    """Turn verified matches into edges with negative evidence.

    Args:
        images: all images.
        matches: (i, j) -> (n, 2) rows of key points of i and j that fit one camera motion.
        max_error_px: inlier threshold, original pixels.
        seed: of the random sampling.

    Returns:
        One edge for each pair with a relative pose; its trust is its number of matches.
    """
    edges: list[RelativeEdge] = []
    depths: dict[tuple[int, int], _PairDepth] = {}
    for (i, j), found in sorted(matches.items()):
        rows = np.asarray(found, dtype=np.int64)
        estimate = _estimate(images[i], images[j], rows, max_error_px, seed)
        edge = edge_from_matches(i, j, estimate)
        if edge is not None:
            edges.append(replace(edge, weight=float(len(rows))))
            if edge.translation.any():
                depths[(i, j)] = _pair_depth(images[i], images[j], rows, estimate.cam2_from_cam1)
    own = [_own_depth(i, len(image.xy), depths) for i, image in enumerate(images)]
    return [_with_front(edge, images, own, depths, matches) for edge in edges]


def _estimate(
    first: KeyPoints, second: KeyPoints, rows: IntArray, max_error_px: float, seed: int
) -> RelativePoseEstimate:
    if len(rows) > _SAMPLE:
        rows = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:_SAMPLE])]
    a, b = first.camera, second.camera
    sizes = (a.height, a.width), (b.height, b.width)
    xy1, xy2 = first.xy[rows[:, 0]], second.xy[rows[:, 1]]
    return relative_pose(xy1, xy2, a.K, b.K, *sizes, max_error_px, seed=seed)


def _pair_depth(
    first: KeyPoints, second: KeyPoints, rows: IntArray, second_from_first: Float64Array
) -> _PairDepth:
    """Closest points of the rays of matched pixels; those that hardly meet are left out."""
    u = first.rays(rows[:, 0])
    v = second.rays(rows[:, 1]) @ second_from_first[:3, :3]
    baseline = -second_from_first[:3, :3].T @ second_from_first[:3, 3]
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    ub, vb = u @ baseline, v @ baseline
    determinant = np.maximum(uu * vv - uv**2, 1e-12)
    depth = np.stack([ub * vv - vb * uv, ub * uv - vb * uu], axis=1) / determinant[:, None]
    angle = np.degrees(np.arctan2(np.sqrt(determinant), uv))
    good = (depth > 0).all(axis=1) & (angle >= _MIN_PARALLAX_DEG)
    return _PairDepth(rows[good], depth[good])


def _own_depth(
    image: int, count: int, depths: Mapping[tuple[int, int], _PairDepth]
) -> Float64Array:
    """What all pairs of an image say of the depths (count,) of its key points; NaN for nothing.

    The pair with most points comes first, each further one is scaled to those before it; then the
    median of each point counts, so that a minority of wrong pairs does not.
    """
    parts: list[tuple[IntArray, Float64Array]] = []
    for (i, j), pair in sorted(depths.items()):
        if image in (i, j):
            side = int(image == j)
            parts.append((pair.rows[:, side], pair.depth[:, side]))
    parts.sort(key=lambda part: -len(part[0]))
    logs, total, seen = [], np.zeros(count), np.zeros(count)
    for rows, depth in parts:
        log = np.full(count, np.nan)
        log[rows] = np.log(depth)
        common = np.flatnonzero((seen > 0) & np.isfinite(log))
        if logs and len(common) < _MIN_COMMON:
            continue
        if logs:
            log -= np.median(log[common] - total[common] / seen[common])
        known = np.isfinite(log)
        total[known] += log[known]
        seen[known] += 1
        logs.append(log)
    own = np.full(count, np.nan)
    own[seen > 0] = np.exp(total[seen > 0] / seen[seen > 0])
    often = np.flatnonzero(seen > 2)
    if len(often):
        own[often] = np.exp(np.nanmedian(np.stack([log[often] for log in logs]), axis=0))
    return own


def _depth_at(image: KeyPoints, own: Float64Array, rows: IntArray) -> Float64Array:
    """Own depth of key points, that of the nearest known one nearby where nothing else is known."""
    known = np.flatnonzero(np.isfinite(own))
    if not len(known):
        return np.full(len(rows), np.nan)
    reach = _NEARBY * max(image.camera.height, image.camera.width)
    distance, nearest = KDTree(image.xy[known]).query(image.xy[rows])
    return np.where(distance <= reach, own[known[nearest]], np.nan)


def _with_front(
    edge: RelativeEdge,
    images: Sequence[KeyPoints],
    own: Sequence[Float64Array],
    depths: Mapping[tuple[int, int], _PairDepth],
    matches: Mapping[tuple[int, int], NDArray[np.integer]],
) -> RelativeEdge:
    """Hold what each of two images sees against the other, in the scale of their pair."""
    key = edge.first, edge.second
    pair = depths.get(key)
    if pair is not None:
        known = [own[k][pair.rows[:, side]] for side, k in enumerate(key)]
        depth = pair.depth
    else:  # taken from one place: the scales follow from the points that both see
        rows = np.asarray(matches[key], dtype=np.int64)
        known = [_depth_at(images[k], own[k], rows[:, side]) for side, k in enumerate(key)]
        turned = images[edge.first].rays(rows[:, 0]) @ edge.rotation[2]
        depth = np.stack([known[0], known[0] * turned], axis=1)
    placed = []
    for side, image in enumerate(key):
        ratio = depth[:, side] / known[side]
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio) < _MIN_COMMON:
            return edge
        points = images[image].points(own[image] * np.median(ratio))
        points = points[np.isfinite(points).all(axis=1)]
        placed.append(points[:: len(points) // _MOST_POINTS + 1])
    in_second = placed[0] @ edge.rotation.T + edge.translation
    in_first = (placed[1] - edge.translation) @ edge.rotation
    front = FrontEvidence(0, 0)
    for side, seen in ((0, in_first), (1, in_second)):
        observed = ObservedDepth.from_points(images[key[side]].camera, placed[side])
        front += front_evidence(observed, seen, _TOLERANCE)
    return replace(edge, front=front)
