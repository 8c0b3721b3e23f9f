"""How far photos agree with themselves: what can be said of a result without any ground truth.

Agreement is no proof: symmetric buildings agree with wrong cameras. Disagreement is one: rotations
around a triangle that do not close cannot all be right. A pair's score is the geometric mean of
three shares: matches that fit one camera motion, matches that matching the other way round repeats,
and exp(-g / 5 deg) for the gap g of its triangles. Of a network without descriptors the first two
are replaced by exp(-p / 0.1) for the gap p between the pointmaps of the two directions of decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from ..geometry.pose import RelativePoseEstimate, relative_pose, relative_pose_from_pointmaps
from ..inference.cleaning import Surface, land
from ..inference.graph.cycles import EdgeArrays, cycle_errors, find_triangles, rotation_angles_deg
from ..inference.images import View
from ..inference.job.evidence import PairEvidence
from ..inference.matching.descriptors import Matches, merge_matches
from ..inference.scene import Scene

GOOD, DOUBTFUL = 0.5, 0.3
"""Scores from which a pair counts as good, and as doubtful; below it is bad."""

AGREES_WITHIN = 0.05
"""Relative difference of depth up to which two photos see the same surface."""

_NEAR_NETWORK_PX = 8.0  # between matches of both directions that are one; anchors are 4 or 6 apart
_CYCLE_DEG = 5.0
_POINTMAP_GAP = 0.1
_MIN_MATCHES = 20
_QUANTILE = 0.25  # of a pair's triangles: the others may be at fault for the rest


@dataclass(frozen=True)
class PairScore:
    """What speaks for and against a pair of photos.

    Attributes:
        first, second: names of the photos.
        matches: found between them, both directions together.
        one_motion: share of the matches that fits one motion of the camera; None, like the next
            one, for a network without descriptors.
        both_directions: share that matching the other way round repeats.
        fit_px: median distance of the fitting ones to their epipolar lines, at a long side of 640.
        cycle_rotation_deg, cycle_direction_deg: what is left over around the pair's triangles of
            photos (the best quarter of them), None without any.
        pointmap_rotation_deg: between the rotation from matches and that from the regressed
            pointmaps.
        pointmap_gap: distance of the two directions' pointmaps after alignment, over the distance
            from the camera.
        caveat: what the pair's geometry leaves open, e.g. that the camera only turned.
        together: whether both photos are in one group of the reconstruction.
        score: 0 to 1, see the module.
    """

    first: str
    second: str
    matches: int
    one_motion: float | None
    both_directions: float | None
    fit_px: float | None
    cycle_rotation_deg: float | None
    cycle_direction_deg: float | None
    pointmap_rotation_deg: float | None
    pointmap_gap: float | None
    caveat: str
    together: bool
    score: float


@dataclass(frozen=True)
class PhotoScore:
    """What speaks for and against the place of a photo.

    Attributes:
        name: of the photo.
        group: number of its group in the reconstruction, None when it has no place.
        good_pairs: pairs with a score of at least `GOOD`.
        pairs: pairs that were compared.
        tracks: points of the sparse model that it observes.
        reprojection_px: their median distance from where they were measured, at a long side of 640.
        depth_agreement: share of the points of the other photos that lie where this photo has its
            own depth, within 5 %; points that it cannot see are left out.
        depth_gap: median relative difference of these depths.
        expected_error: median expected relative error of its depths, None when not calibrated.
    """

    name: str
    group: int | None
    good_pairs: int
    pairs: int
    tracks: int
    reprojection_px: float | None
    depth_agreement: float | None
    depth_gap: float | None
    expected_error: float | None


@dataclass(frozen=True)
class _Measured:
    """One pair before its triangles are looked at; `pose` is from matches, else from pointmaps."""

    first: int
    second: int
    matches: int
    one_motion: float | None
    both: float | None
    estimate: RelativePoseEstimate | None
    pose: np.ndarray | None
    turn_deg: float | None
    gap: float | None
    unit: float


def score_pairs(
    views: Sequence[View], evidence: Sequence[PairEvidence], scene: Scene
) -> list[PairScore]:
    """Score every pair that was decoded.

    Args:
        views: the photos.
        evidence: of pairs of two different photos.
        scene: the reconstruction; its intrinsics are used, where a photo has a camera.
    """
    intrinsics = [_intrinsics(view, scene, i) for i, view in enumerate(views)]
    measured = [_measure(views, pair, intrinsics) for pair in evidence if pair.first != pair.second]
    cycles = _cycles(len(views), measured)
    group = {i: k for k, members in enumerate(scene.components) for i in members}
    scores = []
    for pair in measured:
        cycle = cycles.get((pair.first, pair.second))
        shares = _shares(pair)
        if cycle is not None:
            shares.append(float(np.exp(-max(cycle) / _CYCLE_DEG)))
        fit = pair.estimate.median_error_px / pair.unit if pair.estimate else None
        scores.append(
            PairScore(
                first=views[pair.first].name,
                second=views[pair.second].name,
                matches=pair.matches,
                one_motion=pair.one_motion,
                both_directions=pair.both,
                fit_px=fit,
                cycle_rotation_deg=None if cycle is None else cycle[0],
                cycle_direction_deg=None if cycle is None else cycle[1],
                pointmap_rotation_deg=pair.turn_deg,
                pointmap_gap=pair.gap,
                caveat="" if pair.estimate is None else pair.estimate.caveat,
                together=group.get(pair.first, -1) == group.get(pair.second, -2),
                score=float(np.prod(shares) ** (1 / len(shares))),
            )
        )
    return scores


def _shares(pair: _Measured) -> list[float]:
    """Factors of the score, each 0 to 1."""
    if pair.one_motion is None or pair.both is None:
        return [0.0 if pair.gap is None else float(np.exp(-pair.gap / _POINTMAP_GAP))]
    if pair.matches < _MIN_MATCHES:
        return [0.0]
    return [pair.one_motion, pair.both]


def _intrinsics(view: View, scene: Scene, i: int) -> np.ndarray:
    camera = scene.cameras[i]
    if camera is not None:
        return camera.K
    height, width = view.ledger.original_size
    focal = view.exif_focal_px or 1.2 * max(height, width)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def _measure(
    views: Sequence[View], pair: PairEvidence, intrinsics: Sequence[np.ndarray]
) -> _Measured:
    i, j = pair.first, pair.second
    sizes = views[i].ledger.original_size, views[j].ledger.original_size
    found, both, estimate, share = 0, None, None, None
    if pair.matches is not None:
        scales = views[i].pixel_scale, views[j].pixel_scale
        both = repeated(*pair.matches, scales[0], scales[1])
        joined = merge_matches(*pair.matches)
        found = len(joined)
        guess = relative_pose(
            *(joined.xy1, joined.xy2, intrinsics[i], intrinsics[j], *sizes),
            max_error_px=1.5 * max(scales),
        )
        estimate = guess if guess else None
        share = guess.num_inliers / max(found, 1) if guess else 0.0
    pose, turn, gap = _pointmaps(pair, estimate)
    if pair.matches is not None:
        pose = None if estimate is None else estimate.cam2_from_cam1
    unit = max(*sizes[0], *sizes[1]) / 640
    return _Measured(i, j, found, share, both, estimate, pose, turn, gap, unit)


def repeated(forward: Matches, backward: Matches, scale1: float, scale2: float) -> float:
    """Share of the matches of either direction that have a companion from the other one.

    Args:
        forward, backward: of one pair, both with `xy1` in the first photo.
        scale1, scale2: original pixels per network pixel of the two photos.
    """
    if not len(forward) or not len(backward):
        return 0.0
    unit = _NEAR_NETWORK_PX * np.array([scale1, scale1, scale2, scale2])
    points = [np.concatenate([m.xy1, m.xy2], axis=1) / unit for m in (forward, backward)]
    found = 0
    for own, other in (points, points[::-1]):
        distance, _ = KDTree(other).query(own, p=np.inf, distance_upper_bound=1.0)
        found += int(np.isfinite(distance).sum())
    return found / (len(forward) + len(backward))


def _pointmaps(
    pair: PairEvidence, estimate: RelativePoseEstimate | None
) -> tuple[np.ndarray | None, float | None, float | None]:
    """Pose from the pointmaps, its rotation against that of the matches, gap of both directions."""
    ahead, back = pair.samples
    poses = [
        relative_pose_from_pointmaps(
            *(own.points[0].numpy(), other.points[1].numpy()),
            *(own.confidence[0].numpy(), other.confidence[1].numpy()),
        )
        for own, other in ((ahead, back), (back, ahead))
    ]
    if not all(poses):
        return None, None, None
    gap = float(np.mean([pose.residual for pose in poses]))
    found = poses[0].camb_from_cama
    if estimate is None:
        return found, None, gap
    turn = found[:3, :3].T @ estimate.cam2_from_cam1[:3, :3]
    return found, float(rotation_angles_deg(turn)), gap


def _cycles(
    num_images: int, measured: Sequence[_Measured]
) -> dict[tuple[int, int], tuple[float, float]]:
    """(rotation, direction) in degrees left over around each pair's triangles, where it has any."""
    used = [(m, m.pose) for m in measured if m.pose is not None]
    if not used:
        return {}
    ends = np.array([(m.first, m.second) for m, _ in used], dtype=np.int64)
    poses = np.stack([pose for _, pose in used])
    moved = np.array([m.estimate is None or m.estimate.kind != "rotation" for m, _ in used])
    edges = EdgeArrays(
        ends=ends,
        rotation=poses[:, :3, :3],
        translation=poses[:, :3, 3] * moved[:, None],
        scale=np.full(len(used), np.nan),
        weight=np.ones(len(used)),
    )
    triangles = find_triangles(num_images, ends)
    errors = cycle_errors(edges, triangles)
    result = {}
    for k, (m, _) in enumerate(used):
        mine = (triangles == k).any(axis=1)
        if mine.any():
            both = (
                np.quantile(e[mine], _QUANTILE) for e in (errors.rotation_deg, errors.direction_deg)
            )
            turn, direction = map(float, both)
            result[(m.first, m.second)] = turn, direction
    return result


def score_photos(scene: Scene, pairs: Sequence[PairScore]) -> list[PhotoScore]:
    """Score the place of every photo of a scene."""
    group = {i: k for k, members in enumerate(scene.components) for i in members}
    own: Mapping[str, list[PairScore]] = {name: [] for name in scene.images}
    for pair in pairs:
        own[pair.first].append(pair)
        own[pair.second].append(pair)
    scores = []
    for i, name in enumerate(scene.images):
        distance = _reprojection_px(scene, i)
        agreement, gap = _depth_agreement(scene, i)
        error = None if scene.cameras[i] is None else scene.expected_error(i)
        shown = scene.valid(i)
        scores.append(
            PhotoScore(
                name=name,
                group=group.get(i),
                good_pairs=sum(pair.score >= GOOD for pair in own[name]),
                pairs=len(own[name]),
                tracks=len(distance),
                reprojection_px=float(np.median(distance)) if len(distance) else None,
                depth_agreement=agreement,
                depth_gap=gap,
                expected_error=(
                    float(np.median(error[shown])) if error is not None and shown.any() else None
                ),
            )
        )
    return scores


def _reprojection_px(scene: Scene, i: int) -> np.ndarray:
    """Distances (n,) of the tracks of a photo, at a long side of 640."""
    tracks, camera = scene.tracks, scene.cameras[i]
    if tracks is None or camera is None:
        return np.zeros(0)
    mine = tracks.image == i
    xy, depth = camera.project(tracks.points[tracks.point[mine]])
    distance = np.linalg.norm(xy - tracks.xy[mine], axis=-1)[depth > 0]
    return distance * 640 / max(camera.height, camera.width)


def _depth_agreement(scene: Scene, i: int) -> tuple[float | None, float | None]:
    """How the depths of the other photos of the group compare with those of one photo."""
    members = next((group for group in scene.components if i in group), [])
    others = [k for k in members if k != i]
    if not others:
        return None, None
    own = _surface(scene, i)
    relative = []
    for k in others:
        landing = land(_surface(scene, k), own)
        difference = landing.depth / landing.seen - 1
        relative.append(difference[difference <= 5 * AGREES_WITHIN])  # the rest may be hidden
    gaps = np.abs(np.concatenate(relative))
    if not len(gaps):
        return None, None
    return float((gaps <= AGREES_WITHIN).mean()), float(np.median(gaps))


def _surface(scene: Scene, i: int) -> Surface:
    depth = np.where(scene.valid(i), scene.views[i].depth, np.nan)
    return Surface(scene.network_camera(i), depth, scene.confidence(i))
