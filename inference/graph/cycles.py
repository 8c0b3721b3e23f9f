"""Triangles of a view graph: do three relative poses agree, and which edge is to blame if not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class EdgeArrays:
    """Relative poses of E edges, all from the lower to the higher image.

    Attributes:
        ends: (E, 2) image indices, first < second.
        rotation: (E, 3, 3) second_from_first.
        translation: (E, 3), in units of the second image's frame.
        scale: (E,) units of the first frame times `scale` are units of the second; NaN where only
            the direction of the translation is known.
        weight: (E,) trust before any check.
    """

    ends: IntArray
    rotation: Float64Array
    translation: Float64Array
    scale: Float64Array
    weight: Float64Array


@dataclass(frozen=True)
class CycleErrors:
    """How far the chain a -> b -> c is from the direct edge a -> c, per triangle (T,).

    Attributes:
        rotation_deg: angle of the rotation left over.
        direction_deg: how far the three baselines are from the sides of a triangle; 0 where the
            lengths are known or a direction is not.
        translation: distance over the perimeter of the triangle (at least `shortest_perimeter`); 0
            where a scale is unknown.
        log_scale: absolute log of the scale left over; 0 where a scale is unknown.
    """

    rotation_deg: Float64Array
    direction_deg: Float64Array
    translation: Float64Array
    log_scale: Float64Array


def find_triangles(num_images: int, ends: IntArray) -> IntArray:
    """All triangles as edge indices (T, 3): the edges ab, bc, ac of images a < b < c."""
    edge = np.full((num_images, num_images), -1, dtype=np.int64)
    edge[ends[:, 0], ends[:, 1]] = edge[ends[:, 1], ends[:, 0]] = np.arange(len(ends))
    joined = edge >= 0
    found = [np.zeros((0, 3), dtype=np.int64)]
    for index, (a, b) in enumerate(ends.tolist()):
        c = b + 1 + np.flatnonzero(joined[a, b + 1 :] & joined[b, b + 1 :])
        found.append(np.stack([np.full(len(c), index), edge[b, c], edge[a, c]], axis=1))
    return np.concatenate(found)


def cycle_errors(
    edges: EdgeArrays, triangles: IntArray, shortest_perimeter: float = 1e-9
) -> CycleErrors:
    """Measure the inconsistency of every triangle."""
    ab, bc, ac = triangles.T
    turn_ab, turn_bc, turn_ac = (edges.rotation[e] for e in (ab, bc, ac))
    left = turn_ac.transpose(0, 2, 1) @ turn_bc @ turn_ab
    rotation = rotation_angles_deg(left)
    scaled = np.asarray(np.isfinite(edges.scale[triangles]).all(axis=1))
    scale = np.where(scaled[:, None], edges.scale[triangles], 1.0)
    log_scale = np.abs(np.log(scale[:, 0] * scale[:, 1] / scale[:, 2]))
    via_b = scale[:, 1, None] * _turn(turn_bc, edges.translation[ab])
    sides = via_b, edges.translation[bc], edges.translation[ac]
    perimeter = sum(np.linalg.norm(side, axis=1) for side in sides)
    gap = np.linalg.norm(sides[0] + sides[1] - sides[2], axis=1)
    translation = np.where(scaled, gap / np.maximum(perimeter, shortest_perimeter), 0.0)
    lengths = np.linalg.norm(edges.translation, axis=1)
    unit = -edges.translation / np.maximum(lengths, 1e-300)[:, None]  # towards the second camera
    known = ~scaled & (lengths[triangles] > 0).all(axis=1)
    towards = (
        _turn(turn_ab.transpose(0, 2, 1), unit[ab]),
        _turn((turn_bc @ turn_ab).transpose(0, 2, 1), unit[bc]),
        _turn(turn_ac.transpose(0, 2, 1), unit[ac]),
    )
    direction = np.where(known, _triangle_gap_deg(*towards), 0.0)
    return CycleErrors(rotation, direction, translation, log_scale)


def rotation_angles_deg(rotations: Float64Array) -> Float64Array:
    """Angles of (..., 3, 3) rotations, exact near 0."""
    skew = rotations - np.swapaxes(rotations, -1, -2)
    sine = np.sqrt((skew**2).sum((-1, -2)) / 8)
    cosine = (np.trace(rotations, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arctan2(sine, cosine))


def blame(
    triangles: IntArray,
    consistent: BoolArray,
    refuted: BoolArray,
    weight: Float64Array,
    largest_share: float,
) -> tuple[list[int], Float64Array, Float64Array]:
    """Drop edges, the worst first, until none is blamed by more triangles than confirm it.

    An inconsistent triangle blames each edge as much as the other two are confirmed elsewhere. A
    consistent triangle with exactly one refuted edge has another wrong one, so it counts as
    inconsistent for the other two; one with a dropped edge otherwise says nothing.

    Args:
        triangles: (T, 3) edge indices.
        consistent: (T,).
        refuted: (E,) edges known to be wrong; they are not returned.
        weight: (E,) of the edges; that of a triangle is its smallest.
        largest_share: of blame in blame and confirmation, above which an edge is dropped.

    Returns:
        (edges dropped, in order; (E,) share of blame when dropped or at the end; (E,) weight of the
        triangles that confirm each edge at the end).
    """
    count = len(refuted)
    mass = weight[triangles].min(axis=1) if len(triangles) else np.zeros(0)
    dropped, known, order = refuted.copy(), refuted.copy(), []
    shares = np.zeros(count)
    while True:
        missing = dropped[triangles].sum(axis=1)
        implied = consistent & (missing == 1) & (known[triangles].sum(axis=1) == 1)
        good = consistent & (missing == 0)
        bad = (~consistent & (missing == 0)) | implied
        confirmed = _per_edge(triangles, mass * good, count)
        against = _per_edge(triangles, mass * bad, count)
        trust = confirmed / np.maximum(confirmed + against, 1e-300)
        trust = np.where(known, 1.0, trust)  # surely wrong: says no more about the others
        others = np.stack([trust[np.delete(triangles, k, 1)].min(axis=1) for k in range(3)], 1)
        blames = (mass * bad)[:, None] * others
        blamed = np.bincount(triangles.reshape(-1), blames.reshape(-1), minlength=count)
        share = blamed / np.maximum(blamed + confirmed, 1e-300)
        shares = np.where(dropped, shares, share)
        candidates = np.flatnonzero(~dropped & (share > largest_share))
        if not len(candidates):
            return order, shares, confirmed
        worst = int(max(candidates, key=lambda e: (share[e], blamed[e], -weight[e], e)))
        dropped[worst] = True
        known[worst] = (implied & (triangles == worst).any(axis=1)).any()
        order.append(worst)


def _per_edge(triangles: IntArray, values: Float64Array, count: int) -> Float64Array:
    total = np.bincount(triangles.reshape(-1), np.repeat(values, 3), minlength=count)
    return total.astype(np.float64)


def _turn(rotations: Float64Array, vectors: Float64Array) -> Float64Array:
    return np.einsum("tij,tj->ti", rotations, vectors)


def _triangle_gap_deg(ab: Float64Array, bc: Float64Array, ac: Float64Array) -> Float64Array:
    """Angle by which unit vectors miss alpha ab + beta bc = gamma ac with positive factors.

    The condition can be read in three ways, one per side; where one is ill-conditioned (two sides
    nearly parallel) another is not, so that the smallest of the three angles counts.
    """
    return np.minimum.reduce(
        [_cone_gap_deg(ac, ab, bc), _cone_gap_deg(ab, ac, -bc), _cone_gap_deg(bc, ac, -ab)]
    )


def _cone_gap_deg(x: Float64Array, u: Float64Array, v: Float64Array) -> Float64Array:
    """Angle between x and the nearest positive combination of u and v; all (T, 3) unit vectors."""

    def angle(p: Float64Array, q: Float64Array) -> Float64Array:
        cross = np.linalg.norm(np.cross(p, q), axis=1)
        return np.degrees(np.arctan2(cross, (p * q).sum(1)))

    normal = np.cross(u, v)
    size = np.linalg.norm(normal, axis=1)
    n = normal / np.maximum(size, 1e-12)[:, None]
    inside = (np.cross(u, x) * n).sum(1) >= 0
    inside &= (np.cross(x, v) * n).sum(1) >= 0
    elevation = np.degrees(np.arcsin(np.clip(np.abs((x * n).sum(1)), 0, 1)))
    edge = np.minimum(angle(x, u), angle(x, v))
    return np.where(inside & (size > 1e-9), elevation, edge)
