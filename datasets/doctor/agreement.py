"""How well views agree when pixels of one are carried into another, under a convention.

Depth decides: a pixel's point, seen from the other camera, must lie as deep as the depth there
says. Where there is no depth, triangulated points must project where they were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int

from ..covisibility import ThinView
from ..posed_set import PosedSet
from .conventions import AS_STORED, Convention, conventions
from .findings import Trial
from .probes import Probe, SceneProbes

_WIDTH = 0.02  # of the depth: a pixel off by this much counts a half
_WIDE = 0.2  # the same, while the scale is looked for
_SCALES = np.exp(np.linspace(np.log(5e-4), np.log(2e3), 35))
_USUAL = np.array([1e-3, 2e-4, 1e-2, 0.1, 0.2, 0.5, 2, 5, 10, 100, 1e3, 5e3])
_FINE = np.exp(np.linspace(-0.25, 0.25, 41))
_TELLING = 0.15  # mean agreement of a pair of views that see each other
_CHANCE = 300  # samples of the first look at all conventions
_FINALISTS = 8
_PENALTY = 0.015  # of the score, for each unit of a convention's cost
_POINT_PX = 0.01  # of the width: a point this far off counts a half
_RIVAL = 0.75  # of the best score: readings above it are compared by colour
_CLEARER = 0.15  # of correlation, that decides among these
_NEAR_ONE = 0.03  # a scale this near to 1 is one


@dataclass(frozen=True, eq=False)
class DepthEvidence:
    """Sampled pixels of views with depth, the views they are carried into, and their depth maps.

    Attributes:
        probes: the views.
        poses: stored poses of all views of the scene of each probe.
        source, target: probe numbers of each sample.
        xy: pixel in the source, at the size of its thinned depth.
        z: stored depth there.
    """

    probes: tuple[Probe, ...]
    poses: tuple[Float64[np.ndarray, "n 4 4"], ...]
    source: Int[np.ndarray, " m"]
    target: Int[np.ndarray, " m"]
    xy: Float64[np.ndarray, "m 2"]
    z: Float64[np.ndarray, " m"]

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probe numbers of the pairs of views, and the pair of each sample."""
        count = len(self.probes)
        codes, pair = np.unique(np.asarray(self.source * count + self.target), return_inverse=True)
        return codes // count, codes % count, pair

    def thinned(self, most: int) -> DepthEvidence:
        """Keep at most so many samples, evenly."""
        return self.select(np.unique(np.linspace(0, len(self.z) - 1, most).astype(int)))

    def select(self, rows: np.ndarray) -> DepthEvidence:
        """Keep some samples."""
        fields = (self.source[rows], self.target[rows], self.xy[rows], self.z[rows])
        return DepthEvidence(self.probes, self.poses, *fields)

    def agree(
        self,
        convention: Convention,
        scales: Float64[np.ndarray, " s"],
        width: float | Float64[np.ndarray, " s"] = _WIDTH,
    ) -> tuple[Float64[np.ndarray, "s m"], np.ndarray]:
        """Agreement of each sample at each scale of the depth, 0 to 1, and whether it landed.

        A share `width` of the depth, one for all scales or one for each, counts a half.
        """
        points, K_b = self._carry(convention, scales)
        heights, widths, starts, flat = self._maps(convention)
        xy, inside = _project(points, K_b, np.stack([widths, heights], -1)[self.target])
        cell = xy.astype(np.int64)
        there = flat[starts[self.target] + cell[..., 1] * widths[self.target] + cell[..., 0]]
        if convention.depth in ("distance", "disparity"):
            there = _read_depth(there, _rays(cell + 0.5, K_b), convention)
        landed = inside & (there > 0)
        error = np.where(landed, points[..., 2] / np.where(landed, there, 1) - 1, np.inf)
        return 1 / (1 + (error / np.reshape(width, (-1, 1))) ** 2), landed

    def landing(
        self, convention: Convention, scale: float
    ) -> tuple[Int[np.ndarray, "m 2"], Float64[np.ndarray, " m"], np.ndarray]:
        """Pixel (column, row) and depth of each sample in its target, and whether it is inside."""
        points, K_b = self._carry(convention, np.array([scale]))
        shapes = np.array([probe.thin.depth.shape[::-1] for probe in self.probes])
        xy, inside = _project(points, K_b, shapes[self.target])
        return xy[0].astype(np.int64), points[0, :, 2], inside[0]

    def _carry(
        self, convention: Convention, scales: Float64[np.ndarray, " s"]
    ) -> tuple[Float64[np.ndarray, "s m 3"], Float64[np.ndarray, "m 3 3"]]:
        """Points of the samples in the target's camera, over the scale; NaN where not known."""
        K = np.stack([_intrinsics(probe.thin.K, convention) for probe in self.probes])
        pose = np.stack(
            [_pose_of(convention, p, q.place) for p, q in zip(self.poses, self.probes, strict=True)]
        )
        known = np.all(np.isfinite(pose), axis=(1, 2))
        safe = np.where(known[:, None, None], pose, np.eye(4))
        rays = _rays(self.xy, K[self.source])
        z = _read_depth(self._depth_at_source(convention), rays, convention)
        z = np.where((z > 0) & known[self.source] & known[self.target], z, np.nan)
        first, second, pair = self.pairs
        relative = (_general_inverse(safe)[second] @ safe[first])[pair]
        turned = np.einsum("mij,mj->mi", relative[:, :3, :3], rays * z[:, None])
        return turned + relative[:, :3, 3] / scales[:, None, None], K[self.target]

    def _maps(self, convention: Convention) -> tuple[np.ndarray, ...]:
        """Heights, widths, starts in one flat array, and that array, of all depth maps."""
        depths = [_turned(probe.thin.depth, convention) for probe in self.probes]
        shapes = np.array([d.shape for d in depths])
        starts = np.concatenate([[0], np.cumsum(shapes.prod(1))[:-1]])
        flat = np.concatenate([d.ravel() for d in depths]).astype(np.float64)
        return shapes[:, 0], shapes[:, 1], starts, flat

    def _depth_at_source(self, convention: Convention) -> Float64[np.ndarray, " m"]:
        if convention.depth not in ("upside-down", "mirrored"):
            return self.z
        z = np.empty_like(self.z)
        for k, probe in enumerate(self.probes):
            rows = self.source == k
            column, row = self.xy[rows].astype(np.int64).T
            z[rows] = _turned(probe.thin.depth, convention)[row, column]
        return z


def depth_evidence(scenes: Sequence[SceneProbes]) -> DepthEvidence | None:
    """Collect the samples of some scenes; None without any pair."""
    probes: list[Probe] = []
    poses, source, target, xy, z = [], [], [], [], []
    for scene in scenes:
        first = len(probes)
        probes += scene.probes
        poses += [scene.poses] * len(scene.probes)
        for a, b in np.concatenate([scene.pairs, scene.pairs[:, ::-1]]):
            thin: ThinView = scene.probes[a].thin
            source.append(np.full(len(thin.z), first + a))
            target.append(np.full(len(thin.z), first + b))
            xy.append(thin.xy)
            z.append(thin.z)
    if not source or sum(map(len, source)) == 0:
        return None
    return DepthEvidence(
        tuple(probes),
        tuple(poses),
        np.concatenate(source),
        np.concatenate(target),
        np.concatenate(xy),
        np.concatenate(z),
    )


@dataclass(frozen=True, eq=False)
class PointEvidence:
    """Triangulated points and where photos measured them; one row an observation."""

    poses: Float64[np.ndarray, "n 4 4"]
    K: Float64[np.ndarray, "n 3 3"]
    view: Int[np.ndarray, " m"]
    xyz: Float64[np.ndarray, "m 3"]
    xy: Float64[np.ndarray, "m 2"]
    width: Float64[np.ndarray, " m"]

    def score(self, convention: Convention) -> float:
        """Mean agreement of measured and projected places."""
        count = len(self.poses)
        order = np.arange(count) + convention.shift
        poses = convention.pose(self.poses)[order.clip(0, count - 1)]
        poses = np.where(((order >= 0) & (order < count))[:, None, None], poses, np.nan)
        K = np.stack([_intrinsics(one, convention) for one in self.K])
        pose = poses[self.view]
        points = np.einsum("mji,mj->mi", pose[:, :3, :3], self.xyz - pose[:, :3, 3])
        with np.errstate(divide="ignore", invalid="ignore"):
            projected = points[:, :2] / points[:, 2:]
        projected = projected * K[self.view][:, [0, 1], [0, 1]] + K[self.view][:, :2, 2]
        error = np.linalg.norm(projected - self.xy, axis=1) / (_POINT_PX * self.width)
        error = np.where((points[:, 2] > 0) & np.isfinite(error), error, np.inf)
        return float((1 / (1 + error**2)).mean())


def point_evidence(data: PosedSet, scene: str, most: int = 3000) -> PointEvidence | None:
    """Collect the observations of a scene; None without any."""
    points, members = data.points[scene], data.scenes[scene]
    number = {data.views[k].name: place for place, k in enumerate(members)}
    known = np.flatnonzero(np.isin(points.view, list(number)))
    if len(known) == 0:
        return None
    rows = known[np.unique(np.linspace(0, len(known) - 1, most).astype(int))]
    view = np.array([number[str(name)] for name in points.view[rows]], dtype=np.int64)
    entries = [data.views[k] for k in members]
    width = np.array([2 * entry.K[0, 2] for entry in entries])
    return PointEvidence(
        np.stack([entry.world_from_cam for entry in entries]),
        np.stack([entry.K for entry in entries]),
        view,
        points.xyz[points.point[rows]],
        points.xy[rows],
        width[view],
    )


def try_with_depth(
    evidence: DepthEvidence,
) -> tuple[list[tuple[Convention, Trial]], DepthEvidence]:
    """Try every convention at every scale of the depth.

    Returns:
        The finalists, best first, with a bonus for simplicity; and the evidence of the pairs that
        see each other under at least one of them, on which they are scored.
    """
    few = evidence.thinned(_CHANCE)
    every = list(conventions(_implied_K_scale(evidence)))
    scales, widths = np.append(_SCALES, 1.0), np.append(np.full(len(_SCALES), _WIDE), _WIDTH)
    first = np.stack([few.agree(c, scales, widths)[0].mean(1) for c in every])
    wide, exact = first[:, :-1], first[:, -1]
    best = {0, *np.argsort(-wide.max(1))[:_FINALISTS], *np.argsort(-exact)[:_FINALISTS]}
    half = evidence.thinned(4 * _CHANCE)
    fitted = {k: _best_scale(half, every[k], wide[k]) for k in sorted(best)}
    telling = _telling(evidence, [(every[k], scale) for k, scale in fitted.items()])
    found = [(every[k], _trial(telling, every[k], scale)) for k, scale in fitted.items()]
    found.sort(key=lambda pair: -_value(*pair))
    return _by_colour(telling, found), telling


def _implied_K_scale(evidence: DepthEvidence) -> float:
    """Factor that brings principal points to the middle of the pictures."""
    thin = [probe.thin for probe in evidence.probes]
    return float(np.median([t.depth.shape[1] / max(2 * t.K[0, 2], 1e-9) for t in thin]))


def _best_scale(
    evidence: DepthEvidence, convention: Convention, wide: Float64[np.ndarray, " s"]
) -> float:
    """Scale of the depth at which views agree best: near the best rough ones, or a usual one."""
    near = [1.0, *_SCALES[np.argsort(-wide)[:3]]]
    scales = np.concatenate([_USUAL, *(scale * _FINE for scale in near)])
    means = evidence.agree(convention, scales)[0].mean(1)
    return float(scales[means.argmax()])


def _telling(evidence: DepthEvidence, readings: list[tuple[Convention, float]]) -> DepthEvidence:
    """Keep the pairs that see each other under some reading; others only dilute the scores."""
    _, _, pair = evidence.pairs
    count = np.bincount(pair)
    best = np.zeros(len(count))
    for convention, scale in readings:
        agree = evidence.agree(convention, np.array([scale]))[0][0]
        best = np.maximum(best, np.bincount(pair, agree) / count)
    kept = best >= _TELLING
    return evidence.select(kept[pair]) if kept.sum() >= 3 else evidence


def _trial(evidence: DepthEvidence, convention: Convention, scale: float) -> Trial:
    scales = np.concatenate([[1.0, scale], scale * np.exp(np.linspace(-0.012, 0.012, 9))])
    means = evidence.agree(convention, scales)[0].mean(1)
    best, score = float(scales[means.argmax()]), float(means.max())
    if abs(best - 1) < _NEAR_ONE or means[0] > score - _PENALTY:
        best, score = 1.0, float(means[0])
    return Trial(convention.code, convention.text, best, score)


def _by_colour(
    evidence: DepthEvidence, found: list[tuple[Convention, Trial]]
) -> list[tuple[Convention, Trial]]:
    """Put the reading first whose colours agree, among those whose depth agrees about as well.

    Depth alone cannot tell a mirrored camera from depth maps with reversed rows; photos can.
    """
    best = found[0][1].score
    rivals = [k for k, (_, trial) in enumerate(found) if trial.score > _RIVAL * best]
    if len(rivals) < 2:
        return found
    colours = [colour_agreement(evidence, found[k][0], found[k][1].scale) for k in rivals]
    values = np.nan_to_num(colours, nan=-1)
    winner = rivals[int(values.argmax())]
    if values.max() < values[0] + _CLEARER:
        return found
    return [found[winner], *found[:winner], *found[winner + 1 :]]


def _value(convention: Convention, trial: Trial) -> float:
    cost = convention.cost + (trial.scale != 1)
    return trial.score - _PENALTY * cost


def try_with_points(evidence: PointEvidence) -> list[tuple[Convention, Trial]]:
    """Try every convention; best first, with a bonus for simplicity."""
    found = [
        (c, Trial(c.code, c.text, 1.0, evidence.score(c)))
        for c in conventions(1.0, with_depth=False)
    ]
    return sorted(found, key=lambda pair: -_value(*pair))[:_FINALISTS]


def colour_agreement(
    evidence: DepthEvidence,
    convention: Convention = AS_STORED,
    scale: float = 1.0,
    flip: str = "none",
) -> float:
    """Correlation of brightness between samples and where they land, where the depth agrees.

    Args:
        evidence: of some views.
        convention, scale: how the numbers are read.
        flip: how the photos are turned first: "none", "upside-down", "mirrored" or "half-turn".

    Returns:
        In [-1, 1]; NaN with less than 50 samples, or without any contrast.
    """
    agree, _ = evidence.agree(convention, np.array([scale]))
    rows = np.flatnonzero(agree[0] > 0.5)
    if len(rows) < 50:
        return float("nan")
    axes = {"none": (), "upside-down": (0,), "mirrored": (1,), "half-turn": (0, 1)}[flip]
    grays = [np.flip(probe.gray, axes) for probe in evidence.probes]
    cell, _, _ = evidence.landing(convention, scale)
    places = evidence.xy.astype(np.int64)[rows], cell[rows]
    pairs = np.empty((len(rows), 2))
    for side, number in enumerate((evidence.source[rows], evidence.target[rows])):
        for k in np.unique(number):
            column, row = places[side][number == k].T
            pairs[number == k, side] = grays[k][row, column]
    centred = pairs - pairs.mean(0)
    spread = np.sqrt((centred**2).mean(0))
    if min(spread) < 1:
        return float("nan")
    return float(np.mean(centred[:, 0] * centred[:, 1]) / (spread[0] * spread[1]))


def _pose_of(convention: Convention, poses: np.ndarray, place: int) -> np.ndarray:
    place += convention.shift
    if not 0 <= place < len(poses):
        return np.full((4, 4), np.nan)
    return convention.pose(poses[place : place + 1])[0]


def _general_inverse(poses: np.ndarray) -> np.ndarray:
    """Inverse of poses that may be scaled or mirrored."""
    singular = np.abs(np.linalg.det(poses)) < 1e-12
    safe = np.where(singular[..., None, None], np.eye(4), poses)
    return np.linalg.inv(safe)


def _intrinsics(K: np.ndarray, convention: Convention) -> np.ndarray:
    K = K.copy()
    K[:2] *= convention.K_scale
    K[[0, 1], [0, 1]] *= convention.focal_scale
    if convention.K_swapped:
        K[[0, 1], [0, 1]] = K[[1, 0], [1, 0]]
        K[:2, 2] = K[[1, 0], 2]
    return K


def _turned(depth: np.ndarray, convention: Convention) -> np.ndarray:
    if convention.depth == "upside-down":
        return depth[::-1]
    return depth[:, ::-1] if convention.depth == "mirrored" else depth


def _read_depth(stored: np.ndarray, rays: np.ndarray, convention: Convention) -> np.ndarray:
    if convention.depth == "distance":
        return stored / np.linalg.norm(rays, axis=-1)
    if convention.depth == "disparity":
        return np.where(stored > 0, 1 / np.where(stored > 0, stored, 1), 0)
    return stored


def _rays(xy: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Directions (..., 3) with z = 1 of pixels."""
    directions = (xy - K[..., :2, 2]) / K[..., [0, 1], [0, 1]]
    return np.concatenate([directions, np.ones((*directions.shape[:-1], 1))], -1)


def _project(points: np.ndarray, K: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of camera points and whether they are in the image (width, height); else (0, 0)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xy = points[..., :2] / points[..., 2:] * K[:, [0, 1], [0, 1]] + K[:, :2, 2]
        inside = (points[..., 2] > 0) & np.all((xy >= 0) & (xy < limit), axis=-1)
    return np.where(inside[..., None], xy, 0.0), inside
