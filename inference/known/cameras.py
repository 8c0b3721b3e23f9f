"""A solution brought into the world that the user gave, with every fixed value put back exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...geometry.camera import Camera
from ..dense import DepthMap
from ..images import View
from ..scene import Tracks
from .values import Given, at_network_size

if TYPE_CHECKING:
    from ..cameras import Solution

_SURE = 10.0  # confidence of a depth that was given; a swept one reaches it at most
_ANCHOR_GRID = 24  # samples per side of a given depth map that fix a photo's scale


@dataclass(frozen=True, eq=False)
class Placement:
    """Similarity from a component's own frame to the given world: x -> scale R x + t.

    Attributes:
        rotation: (3, 3).
        translation: (3,).
        scale: positive.
        in_given_world: frame and unit are those of given poses.
        scaled: the unit is that of given values.
    """

    rotation: np.ndarray
    translation: np.ndarray
    scale: float
    in_given_world: bool
    scaled: bool

    def points(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) points in the given world."""
        return self.scale * points @ self.rotation.T + self.translation

    def camera(self, camera: Camera) -> Camera:
        """The camera in the given world."""
        pose = np.eye(4)
        pose[:3, :3] = camera.cam_from_world[:3, :3] @ self.rotation.T
        pose[:3, 3] = self.scale * camera.cam_from_world[:3, 3] - pose[:3, :3] @ self.translation
        return replace(camera, cam_from_world=pose)


def apply_known(
    solution: Solution, given: Given, views: Sequence[View], focal_guess_px: Sequence[float]
) -> Solution:
    """Move every component into the given world and unit; fixed values replace the found ones.

    Components that share a given world become one, and photos with a fixed pose that were not
    placed, or that observe nothing, join it with the points that lie before them.

    Args:
        solution: in frames of its own.
        given: what is known.
        views: the photos.
        focal_guess_px: for photos that are placed by their given pose alone, without intrinsics.
    """
    if not given.views and not given.distances:
        return solution
    cameras, anchors, shared = dict(solution.cameras), dict(solution.anchors), {}
    point_moves: list[tuple[list[int], Placement]] = []
    scaled, together, apart = [], [], []
    for members in solution.components:
        placement = place(members, solution, given, views)
        scaled.append(placement.scaled)
        (together if placement.in_given_world else apart).append(members)
        point_moves.append((members, placement))
        for i in members:
            cameras[i] = _with_fixed(placement.camera(cameras[i]), given, i)
            anchors[i] = (anchors[i][0], anchors[i][1] * placement.scale)
        for (i, j), points in solution.shared.items():
            if i in members:
                shared[(i, j)] = placement.points(points)
    joined = sorted(i for members in together for i in members)
    if len(joined) > 1:
        left_out = sorted(set(given.fixed_poses) - set(cameras))
        for i in left_out:
            cameras[i] = given_camera(i, given, views, focal_guess_px)
        joined = sorted({*joined, *left_out})
        bare = [i for i in joined if i not in anchors or not len(anchors[i][1])]
        _add_seen(bare, joined, cameras, anchors, shared, views)
    groups = [group for group in (joined, *apart) if group]
    for i, entry in given.views.items():
        if entry.depth is not None and i in anchors:
            anchors[i] = _depth_anchors(views[i], entry.depth)
    return replace(
        solution,
        cameras=cameras,
        anchors=anchors,
        shared=shared,
        components=sorted(groups, key=lambda group: (-len(group), group[0])),
        tracks=_moved_tracks(solution, point_moves),
        metric=given.metric and bool(scaled) and all(scaled),
    )


def place(
    members: Sequence[int], solution: Solution, given: Given, views: Sequence[View]
) -> Placement:
    """The similarity that brings a component to the given poses, distances and depths.

    Poses set the frame, and the unit where two or more are apart; fixed ones go before priors.
    Otherwise distances between cameras set the unit, or else depths.
    """
    cameras = solution.cameras
    poses = {i: T for i, T in given.fixed_poses.items() if i in members}
    if not poses:
        poses = {i: T for i, T in given.poses.items() if i in members}
    scale = _scale_from_distances(members, cameras, given)
    scale = _scale_from_depths(members, solution, given, views) if scale is None else scale
    if not poses:
        return Placement(np.eye(3), np.zeros(3), scale or 1.0, False, scale is not None)
    order = sorted(poses)
    turn = sum(poses[i][:3, :3].T @ cameras[i].cam_from_world[:3, :3] for i in order)
    u, _, vt = np.linalg.svd(turn)
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    own = np.stack([cameras[i].center for i in order]) @ rotation.T
    there = np.stack([-poses[i][:3, :3].T @ poses[i][:3, 3] for i in order])
    own_spread, spread = own - own.mean(0), there - there.mean(0)
    measure = float((own_spread**2).sum())
    from_poses = float((own_spread * spread).sum()) / measure if measure > 1e-18 else 0.0
    known_unit = len(order) > 1 and from_poses > 0 and float((spread**2).sum()) > 0
    used = from_poses if known_unit else scale or 1.0
    translation = there.mean(0) - used * own.mean(0)
    return Placement(rotation, translation, used, known_unit, known_unit or scale is not None)


def _scale_from_distances(
    members: Sequence[int], cameras: Mapping[int, Camera], given: Given
) -> float | None:
    ratios = []
    for (i, j), distance in given.distances.items():
        if i in members and j in members:
            measured = float(np.linalg.norm(cameras[i].center - cameras[j].center))
            if measured > 0:
                ratios.append(distance / measured)
    return float(np.median(ratios)) if ratios else None


def _scale_from_depths(
    members: Sequence[int], solution: Solution, given: Given, views: Sequence[View]
) -> float | None:
    """Median ratio of given depths to those found at the same pixels."""
    ratios = []
    for i in members:
        entry = given.views.get(i)
        if entry is None or entry.depth is None:
            continue
        xy, found = solution.anchors[i]
        xy = np.asarray(views[i].ledger.points_to_original(xy))
        column, row = np.floor(xy).astype(int).T
        rows, columns = entry.depth.shape
        there = entry.depth[row.clip(0, rows - 1), column.clip(0, columns - 1)]
        good = np.isfinite(there) & (found > 0)
        ratios.append(there[good] / found[good])
    values = np.concatenate(ratios) if ratios else np.zeros(0)
    return float(np.median(values)) if len(values) else None


def _with_fixed(camera: Camera, given: Given, index: int) -> Camera:
    entry = given.views.get(index)
    if entry is None:
        return camera
    K = camera.K if entry.fixed_K is None else entry.fixed_K
    pose = camera.cam_from_world if entry.fixed_pose is None else entry.fixed_pose
    return replace(camera, K=K, cam_from_world=pose)


def given_camera(
    index: int, given: Given, views: Sequence[View], focal_guess_px: Sequence[float]
) -> Camera:
    """The camera of a photo with a given pose, whose intrinsics may be a guess."""
    entry = given.views[index]
    height, width = views[index].ledger.original_size
    f = focal_guess_px[index]
    guess = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])
    K = guess if entry.K is None else entry.K
    assert entry.cam_from_world is not None
    return Camera(K=K, cam_from_world=entry.cam_from_world, height=height, width=width)


def _add_seen(
    added: Sequence[int],
    group: Sequence[int],
    cameras: Mapping[int, Camera],
    anchors: dict[int, tuple[np.ndarray, np.ndarray]],
    shared: dict[tuple[int, int], np.ndarray],
    views: Sequence[View],
) -> None:
    """Give photos that no match placed the points of the others that lie before them."""
    if not added:
        return
    old = [i for i in group if i not in added]
    by_view = {i: [p for pair, p in shared.items() if i in pair] or [np.zeros((0, 3))] for i in old}
    cloud = {i: np.concatenate(parts) for i, parts in by_view.items()}
    for new in added:
        everything = np.concatenate(list(cloud.values()))
        xy, depth = cameras[new].project(everything)
        seen = _inside(cameras[new], xy, depth)
        anchors[new] = (np.asarray(views[new].ledger.points_to_network(xy[seen])), depth[seen])
        for i in old:
            xy, depth = cameras[new].project(cloud[i])
            points = cloud[i][_inside(cameras[new], xy, depth)]
            shared[(min(i, new), max(i, new))] = points


def _inside(camera: Camera, xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
    inside = (xy >= 0).all(-1) & (xy[:, 0] < camera.width) & (xy[:, 1] < camera.height)
    return (depth > 0) & inside


def _depth_anchors(view: View, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = view.size
    rows = np.round(np.linspace(0, height - 1, _ANCHOR_GRID)).astype(int)
    columns = np.round(np.linspace(0, width - 1, _ANCHOR_GRID)).astype(int)
    values = at_network_size(view, depth)[rows][:, columns]
    x, y = np.meshgrid(columns + 0.5, rows + 0.5)
    good = np.isfinite(values)
    return np.stack([x[good], y[good]], -1), values[good].astype(np.float64)


def _moved_tracks(
    solution: Solution, moves: Sequence[tuple[list[int], Placement]]
) -> Tracks | None:
    tracks = solution.tracks
    if tracks is None:
        return None
    points = tracks.points.copy()
    for members, placement in moves:
        used = np.unique(tracks.point[np.isin(tracks.image, members)])
        points[used] = placement.points(tracks.points[used])
    return replace(tracks, points=points)


def with_known_depth(
    maps: Mapping[int, DepthMap], given: Given, views: Sequence[View]
) -> dict[int, DepthMap]:
    """Dense depths with the given ones in their place, pixel by pixel.

    Fixed depths are taken as they are. A prior of relative sigma s is averaged with the found depth
    by inverse variances; that of the found depth is what the differences of both leave over.
    """
    result = dict(maps)
    for i, entry in given.views.items():
        if entry.depth is None:
            continue
        known = at_network_size(views[i], entry.depth)
        empty = np.full(known.shape, np.nan, dtype=np.float32)
        found = maps.get(i, DepthMap(empty, np.ones_like(empty)))
        depth = known
        if not entry.depth_trust.fixed:
            depth = _fused(known, found.depth, entry.depth_trust.sigma)
        there = np.isfinite(known)
        result[i] = DepthMap(
            np.where(there, depth, found.depth).astype(np.float32),
            np.where(there, np.maximum(found.confidence, _SURE), found.confidence),
        )
    return result


def _fused(known: np.ndarray, found: np.ndarray, sigma: float) -> np.ndarray:
    both = np.isfinite(known) & np.isfinite(found) & (found > 0)
    if not both.any():
        return known
    difference = np.log(found[both] / known[both])
    spread2 = (1.4826 * float(np.median(np.abs(difference)))) ** 2
    found2 = max(spread2 - sigma**2, 0.1 * sigma**2)
    weight = found2 / (found2 + sigma**2)  # of the given depth
    fused = known.copy()
    fused[both] = known[both] * np.exp((1 - weight) * difference)
    return fused
