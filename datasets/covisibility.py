"""Which photos of a scene see the same places, from their depth or their common points."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from .pair_table import PairTable
from .posed_set import PosedSet, ScenePoints
from .posed_view import PosedView

logger = logging.getLogger(__name__)

_THIN_PX = 192  # long side of the depth maps that are compared
_SAMPLES = 400  # pixels of a view that are looked for in the others
_TOLERANCE = 0.03  # of the depth; a slanted surface differs by this much within a thinned pixel


@dataclass(frozen=True, eq=False)
class ThinView:
    """A view at a stride, with some of its pixels.

    Attributes:
        K: intrinsics at the size of `depth`.
        world_from_cam: pose.
        depth: z, 0 where unknown.
        xy: (n, 2) sampled pixels with depth, centres at half-integers.
        z: their depth.
    """

    K: Float64[np.ndarray, "3 3"]
    world_from_cam: Float64[np.ndarray, "4 4"]
    depth: Float32[np.ndarray, "h w"]
    xy: Float64[np.ndarray, "n 2"]
    z: Float64[np.ndarray, " n"]

    @property
    def points_in_cam(self) -> Float64[np.ndarray, "n 3"]:
        """The sampled points in the camera frame."""
        rays = np.stack([*((self.xy - self.K[:2, 2]) / self.K[[0, 1], [0, 1]]).T, self.z * 0 + 1])
        return (rays * self.z).T


def thin(view: PosedView, long_side: int = _THIN_PX, samples: int = _SAMPLES) -> ThinView:
    """Keep every k-th pixel of the depth and spread samples over those that are known."""
    step = max(1, round(max(view.size) / long_side))
    start = step // 2
    depth = np.where(view.valid, view.depth, 0)[start::step, start::step].astype(np.float32)
    K = view.K.copy()
    K[:2] /= step
    K[:2, 2] = (view.K[:2, 2] - start - 0.5) / step + 0.5
    known = np.flatnonzero(depth)
    chosen = known[np.linspace(0, len(known) - 1, min(samples, len(known))).astype(np.int64)]
    row, column = chosen // depth.shape[1], chosen % depth.shape[1]
    xy = np.stack([column, row], -1) + 0.5
    return ThinView(K, view.world_from_cam, depth, xy, depth[row, column].astype(np.float64))


def project(
    points: Float[np.ndarray, "*n 3"], K: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> tuple[Float64[np.ndarray, "*n 2"], Bool[np.ndarray, "*n"]]:
    """Pixels of points of the camera frame, and which of them lie in the image."""
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = points[..., :2] / points[..., 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
        inside = (points[..., 2] > 0) & np.all((xy >= 0) & (xy < (size[1], size[0])), axis=-1)
    return np.where(inside[..., None], xy, 0.0), inside


def overlap(first: ThinView, second: ThinView) -> float:
    """Share of the first view's known pixels that the second one sees."""
    if len(first.z) == 0:
        return 0.0
    a, b = first.world_from_cam, second.world_from_cam
    rotation = b[:3, :3].T @ a[:3, :3]
    offset = b[:3, :3].T @ (a[:3, 3] - b[:3, 3])
    points = first.points_in_cam @ rotation.T + offset
    xy, inside = project(points, second.K, (second.depth.shape[0], second.depth.shape[1]))
    there = second.depth[xy[:, 1].astype(np.int64), xy[:, 0].astype(np.int64)]
    seen = inside & (np.abs(there - points[:, 2]) < _TOLERANCE * points[:, 2])
    return float(seen.mean())


def overlap_by_depth(views: list[ThinView]) -> Float32[np.ndarray, "n n"]:
    """`overlap` of every pair of views; 1 on the diagonal."""
    matrix = np.eye(len(views), dtype=np.float32)
    for i, first in enumerate(views):
        for j, second in enumerate(views):
            if i != j and _may_see(first, second):
                matrix[i, j] = overlap(first, second)
    return matrix


def _may_see(first: ThinView, second: ThinView) -> bool:
    """False for poses that are unknown."""
    return bool(np.isfinite(first.world_from_cam).all() & np.isfinite(second.world_from_cam).all())


def overlap_by_points(points: ScenePoints, names: list[str]) -> Float32[np.ndarray, "n n"]:
    """Share of the points that one view sees which another one sees too."""
    from scipy.sparse import coo_matrix

    number = {name: k for k, name in enumerate(names)}
    view = np.array([number.get(str(name), -1) for name in points.view], dtype=np.int64)
    known = view >= 0
    shape = len(names), len(points.xyz)
    entries = np.ones(int(known.sum())), (view[known], points.point[known])
    seen = coo_matrix(entries, shape=shape).tocsr()
    seen.data[:] = 1  # a point counts once, however often it was measured
    common = np.asarray((seen @ seen.T).todense())
    return (common / np.maximum(common.diagonal()[:, None], 1)).astype(np.float32)


def scene_overlap(
    data: PosedSet, scene: str, indices: Int[np.ndarray, " n"]
) -> Float32[np.ndarray, "n n"]:
    """Covisibility of some views of a scene, from depth where they have it, else from points.

    Raises:
        ValueError: the scene has neither depth nor points.
    """
    entries = [data.views[k] for k in indices]
    if any(entry.depth is not None for entry in entries) or scene in data.meshes:
        return overlap_by_depth([thin(data.load(int(k))) for k in indices])
    if scene in data.points:
        return overlap_by_points(data.points[scene], [entry.name for entry in entries])
    raise ValueError(f"scene {scene} of {data.root} has neither depth maps nor a mesh nor points")


def mine_pairs(
    data: PosedSet,
    low: float = 0.1,
    high: float = 0.98,
    max_views: int = 300,
    per_view: int = 40,
    seed: int = 0,
    progress: Callable[[str, int], None] | None = None,
) -> PairTable:
    """Find the pairs of every scene whose views see enough of each other, and not all.

    Args:
        data: with depth, meshes or points.
        low, high: bounds of the smaller one of both overlaps.
        max_views: views of a scene that are compared; more are thinned evenly.
        per_view: partners kept of each view, at random, so that long scenes do not drown others.
        seed: of that choice.
        progress: told each scene and how many pairs it gave.

    Raises:
        ValueError: bounds out of order, or a scene without any geometry.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"expected 0 <= low < high <= 1, got {low} and {high}")
    rows, shares = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.float32)]
    for number, (scene, members) in enumerate(data.scenes.items()):
        if len(members) > max_views:
            logger.info("scene %s: %d of %d views are paired", scene, max_views, len(members))
        indices = np.array(members)[_evenly(len(members), max_views)]
        matrix = scene_overlap(data, scene, indices)
        first, second = np.nonzero(np.triu(np.minimum(matrix, matrix.T) >= low, 1))
        worse = np.minimum(matrix[first, second], matrix[second, first])
        keep = np.flatnonzero(worse <= high)
        keep = _limit(
            first[keep], second[keep], per_view, np.random.default_rng([seed, number]), keep
        )
        first, second = first[keep], second[keep]
        rows.append(np.stack([indices[first], indices[second]], -1))
        shares.append(np.stack([matrix[first, second], matrix[second, first]], -1))
        if progress is not None:
            progress(scene, len(keep))
    return PairTable(np.concatenate(rows), np.concatenate(shares))


def _evenly(count: int, most: int) -> Int[np.ndarray, " n"]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _limit(
    first: Int[np.ndarray, " n"],
    second: Int[np.ndarray, " n"],
    per_view: int,
    rng: np.random.Generator,
    rows: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " m"]:
    """Of `rows`, at random, as many pairs as leave no view with more than `per_view`."""
    used: dict[int, int] = {}
    kept = []
    for k in rng.permutation(len(rows)):
        a, b = int(first[k]), int(second[k])
        if max(used.get(a, 0), used.get(b, 0)) < per_view:
            used[a], used[b] = used.get(a, 0) + 1, used.get(b, 0) + 1
            kept.append(rows[k])
    return np.sort(np.array(kept, dtype=np.int64))
