"""Multi-view tracks from dense depth: one surface point, all images that see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..scene import Scene


@dataclass(frozen=True)
class DenseTracks:
    """Points with the images in which they are visible.

    Attributes:
        points: (M, 3) float64 world.
        colors: (M, 3) uint8.
        image: (T,) int, scene index of the image of each observation.
        point: (T,) int, index into `points`, ascending.
        xy: (T, 2) float64, the projection into that image, original pixels.
    """

    points: np.ndarray
    colors: np.ndarray
    image: np.ndarray
    point: np.ndarray
    xy: np.ndarray


def dense_tracks(
    scene: Scene,
    component: int = 0,
    min_confidence: float | None = None,
    max_points: int = 100_000,
    depth_tolerance: float = 0.03,
    min_length: int = 2,
) -> DenseTracks:
    """Sample the depth maps on a grid and look for each point in all other depth maps.

    A point is visible in another image when it projects into it and its depth there differs from
    that image's depth map by less than `depth_tolerance` of itself. Grid cells that an earlier
    point covers are not sampled again, so a surface that many images see gives few, long tracks.

    Args:
        scene: where the depth comes from.
        component: which component.
        min_confidence: None takes the scene's own threshold.
        max_points: sets the spacing of the grid, and bounds the number of points.
        depth_tolerance: relative.
        min_length: tracks seen by fewer images are dropped.
    """
    members = scene.components[component]
    valid = {i: scene.valid(i, min_confidence) for i in members}
    # The more the images overlap, the fewer points a grid gives: it is made finer once to fill the
    # budget.
    step = max(1, int(np.sqrt(sum(int(v.sum()) for v in valid.values()) / max_points)))
    tracks = _on_grid(scene, valid, step, depth_tolerance, min_length)
    finer = max(1, int(step * np.sqrt(len(tracks.points) / max_points)))
    if finer < step:
        tracks = _on_grid(scene, valid, finer, depth_tolerance, min_length)
    return _thinned(tracks, max_points)


def _on_grid(
    scene: Scene, valid: dict[int, np.ndarray], step: int, tolerance: float, min_length: int
) -> DenseTracks:
    """Tracks of the pixels in the middle of every `step` x `step` cell of every image."""
    covered = {i: np.zeros([-(-s // step) for s in v.shape], dtype=bool) for i, v in valid.items()}
    gathered: list[DenseTracks] = []
    for i in valid:
        view = scene.views[i]
        rows, columns = np.nonzero(valid[i][step // 2 :: step, step // 2 :: step])
        free = ~covered[i][rows, columns]
        rows, columns = rows[free] * step + step // 2, columns[free] * step + step // 2
        points = view.world_points(rows, columns)
        own = view.ledger.points_to_original(np.stack([columns + 0.5, rows + 0.5], axis=-1))
        seen = [(np.full(len(points), i), np.arange(len(points)), own)]
        for j in valid:
            if j != i and len(points):
                index, xy, cells = _visible(scene, j, valid[j], points, tolerance)
                seen.append((np.full(len(index), j), index, xy))
                covered[j][cells[0] // step, cells[1] // step] = True
        image, point, xy = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        long_enough = np.bincount(point, minlength=len(points)) >= min_length
        keep = long_enough[point]
        renumbered = (np.cumsum(long_enough) - 1)[point[keep]]
        colors = view.rgb[rows, columns][long_enough]
        gathered.append(DenseTracks(points[long_enough], colors, image[keep], renumbered, xy[keep]))
    return concatenate_tracks(gathered)


def concatenate_tracks(sets: Sequence[DenseTracks]) -> DenseTracks:
    """One set of all points, in turn; at least one set is needed or the result is empty."""
    if not sets:
        none = np.zeros(0, dtype=np.int64)
        points = np.zeros((0, 3))
        return DenseTracks(points, points.astype(np.uint8), none, none, np.zeros((0, 2)))
    offsets = np.cumsum([0, *(len(t.points) for t in sets)])
    return DenseTracks(
        points=np.concatenate([t.points for t in sets]),
        colors=np.concatenate([t.colors for t in sets]),
        image=np.concatenate([t.image for t in sets]),
        point=np.concatenate([t.point + n for t, n in zip(sets, offsets, strict=False)]),
        xy=np.concatenate([t.xy for t in sets]),
    )


def _visible(
    scene: Scene, j: int, valid: np.ndarray, points: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Which points image j sees: indices, positions in original pixels, (rows, columns)."""
    view = scene.views[j]
    camera = view.camera
    assert camera is not None  # members of a component have one
    xy, depth = camera.project(points)
    network = view.ledger.points_to_network(xy)
    height, width = valid.shape
    with np.errstate(invalid="ignore"):
        inside = (depth > 0) & (network >= 0).all(-1) & (network < (width, height)).all(-1)
    index = np.flatnonzero(inside)
    columns, rows = np.floor(network[index]).astype(int).T
    there = view.depth[rows, columns]
    with np.errstate(invalid="ignore"):
        agree = valid[rows, columns] & (np.abs(there - depth[index]) < tolerance * depth[index])
    return index[agree], xy[index[agree]], (rows[agree], columns[agree])


def _thinned(tracks: DenseTracks, max_points: int) -> DenseTracks:
    """At most `max_points`, drawn evenly with a fixed seed; observations sorted by point."""
    count = len(tracks.points)
    chosen = np.ones(count, dtype=bool)
    if count > max_points:
        chosen[:] = False
        chosen[np.random.default_rng(0).choice(count, max_points, replace=False)] = True
    keep = chosen[tracks.point]
    point = (np.cumsum(chosen) - 1)[tracks.point[keep]]
    order = np.lexsort((tracks.image[keep], point))
    return DenseTracks(
        tracks.points[chosen],
        tracks.colors[chosen],
        tracks.image[keep][order],
        point[order],
        tracks.xy[keep][order],
    )
