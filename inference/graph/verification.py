"""Which pairs of a view graph are believed: cycles that close, and surfaces that may be seen.

Look-alikes (four equal fronts of a building, two doors of one kind) give pairs whose matches agree
with each other but not with the rest. Two kinds of evidence tell them apart: relative poses around
triangles of images must close, and no image may see something in front of a surface that another
one confidently observed. A pair that fails is dropped and named; groups of images that nothing
believable joins stay separate.

Reference: Zach, Klopschitz & Pollefeys, "Disambiguating Visual Relations Using Loop Constraints",
CVPR 2010.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..report import RejectedPair
from .cycles import (
    BoolArray,
    CycleErrors,
    EdgeArrays,
    Float64Array,
    IntArray,
    blame,
    cycle_errors,
    find_triangles,
    rotation_angles_deg,
)
from .front_evidence import FrontEvidence
from .kinds import connected_components


@dataclass(frozen=True, eq=False)
class RelativeEdge:
    """What a pair of images says about their relative pose.

    Attributes:
        first, second: image indices.
        rotation: (3, 3) second_from_first.
        translation: (3,) of second_from_first, in units of the second image's frame. Without a
            scale only its direction counts; zeros mean that it is unknown.
        scale: units of the first image's frame times `scale` are units of the second's. None when
            the pair knows no lengths.
        weight: trust in the pair before any check, e.g. its number of matches.
        front: what one image saw in front of the other's surfaces, when that was looked at.
        slack: share of the depth by which the pair's own evidence disagrees with itself; lengths
            and positions that differ by three times this are no contradiction.
    """

    first: int
    second: int
    rotation: Float64Array
    translation: Float64Array
    scale: float | None = None
    weight: float = 1.0
    front: FrontEvidence | None = None
    slack: float = 0.0


@dataclass(frozen=True)
class VerificationOptions:
    """When pairs disagree.

    Attributes:
        rotation_deg: largest rotation left over around a triangle.
        direction_deg: the same of the directions of the baselines, where lengths are unknown.
        translation: the same of the position, over the perimeter of the triangle.
        log_scale: the same of the logarithm of the scale.
        shortest_perimeter: perimeters count with at least this length, in units of the images'
            frames: noise of short baselines is no contradiction.
        largest_blame: share of blaming triangles above which a pair is dropped.
        front_share: share of points seen in front of observed surfaces above which a pair is
            dropped.
        min_front_points: fewest points in front that refute a pair.
        min_agreeing: pairs that must agree to join two groups without a closed triangle.
    """

    rotation_deg: float = 10.0
    direction_deg: float = 25.0
    translation: float = 0.25
    log_scale: float = 0.35
    shortest_perimeter: float = 0.2
    largest_blame: float = 0.5
    front_share: float = 0.1
    min_front_points: int = 20
    min_agreeing: int = 3


@dataclass(frozen=True)
class Verification:
    """The verdict on a view graph.

    Attributes:
        kept: (first, second) of the pairs that are believed, in the order given.
        rejected: pairs that are not, with the reason, in the order given.
        components: images joined by kept pairs, largest first; lone images too.
        confirmed: kept pairs that at least one closed triangle confirms.
    """

    kept: list[tuple[int, int]]
    rejected: list[RejectedPair]
    components: list[list[int]]
    confirmed: list[tuple[int, int]]


def verify_edges(
    edges: Sequence[RelativeEdge],
    names: Sequence[str],
    options: VerificationOptions | None = None,
) -> Verification:
    """Drop the pairs of a view graph that contradict the others or what was seen.

    A pair that no triangle holds is kept, unless it joins two groups of three photos or more, each
    held together by closed triangles, and too few others join them in the same way.

    Args:
        edges: at most one per pair of images.
        names: of all images; their number is that of the images.
        options: see `VerificationOptions`.

    Raises:
        ValueError: an image that does not exist, a pair given twice or of an image with itself.
    """
    options = options or VerificationOptions()
    arrays = _as_arrays(edges, len(names))
    reasons: dict[int, str] = {}
    refuted = np.zeros(len(edges), dtype=bool)
    for index, edge in enumerate(edges):
        front = edge.front
        if front is None or front.in_front < options.min_front_points:
            continue
        if front.share > options.front_share:
            refuted[index] = True
            reasons[index] = (
                f"{front.in_front} of {front.checked} points would lie in front of surfaces that "
                "the other photo sees"
            )
    triangles = find_triangles(len(names), arrays.ends)
    errors = cycle_errors(arrays, triangles, options.shortest_perimeter)
    slack = np.array([edge.slack for edge in edges])[triangles].max(axis=1, initial=0.0)
    consistent = _consistent(errors, 3 * slack, options)
    order, share, confirmed = blame(
        triangles, consistent, refuted, arrays.weight, options.largest_blame
    )
    for index in order:
        reasons[index] = _cycle_reason(index, share[index], triangles, consistent, errors)
    believed = np.ones(len(edges), dtype=bool)
    believed[list(reasons)] = False
    reasons |= _contradict_groups(arrays, believed, confirmed > 0, len(names), options)
    pairs = [(edge.first, edge.second) for edge in edges]
    kept = [index for index in range(len(edges)) if index not in reasons]
    return Verification(
        kept=[pairs[index] for index in kept],
        rejected=[
            RejectedPair(names[pairs[index][0]], names[pairs[index][1]], reasons[index])
            for index in sorted(reasons)
        ],
        components=connected_components(len(names), [pairs[index] for index in kept]),
        confirmed=[pairs[index] for index in kept if confirmed[index] > 0],
    )


def _as_arrays(edges: Sequence[RelativeEdge], num_images: int) -> EdgeArrays:
    ends, rotations, translations, scales = [], [], [], []
    for edge in edges:
        if edge.first == edge.second or not all(
            0 <= image < num_images for image in (edge.first, edge.second)
        ):
            raise ValueError(
                f"edge ({edge.first}, {edge.second}) must join two of the {num_images} images"
            )
        rotation = np.asarray(edge.rotation, dtype=float)
        translation = np.asarray(edge.translation, dtype=float)
        scale = np.nan if edge.scale is None else edge.scale
        if edge.first > edge.second:
            rotation = rotation.T
            translation = -rotation @ translation / (1.0 if edge.scale is None else scale)
            scale = 1.0 / scale
        ends.append((min(edge.first, edge.second), max(edge.first, edge.second)))
        rotations.append(rotation)
        translations.append(translation)
        scales.append(scale)
    if len(set(ends)) != len(ends):
        twice = next(end for end in ends if ends.count(end) > 1)
        raise ValueError(f"edge {twice} is given twice; give each pair of images once")
    return EdgeArrays(
        ends=np.array(ends, dtype=np.int64).reshape(-1, 2),
        rotation=np.array(rotations, dtype=float).reshape(-1, 3, 3),
        translation=np.array(translations, dtype=float).reshape(-1, 3),
        scale=np.array(scales, dtype=float),
        weight=np.array([edge.weight for edge in edges], dtype=float),
    )


def _consistent(
    errors: CycleErrors, slack: Float64Array, options: VerificationOptions
) -> BoolArray:
    return (
        (errors.rotation_deg <= options.rotation_deg)
        & (errors.direction_deg <= options.direction_deg)
        & (errors.translation <= options.translation + slack)
        & (errors.log_scale <= options.log_scale + slack)
    )


def _cycle_reason(
    edge: int, share: float, triangles: IntArray, consistent: BoolArray, errors: CycleErrors
) -> str:
    """Say how far the triangles with an edge that was voted out are from closing."""
    mine = (triangles == edge).any(axis=1)
    wrong = mine & ~consistent
    if not wrong.any():
        return "it agrees with a pair that cannot be right"
    angle = float(np.median(errors.rotation_deg[wrong]))
    parts = [f"{angle:.0f} degrees of rotation are left over"]
    direction = float(np.median(errors.direction_deg[wrong]))
    if direction > 0:
        parts.append(f"directions miss by {direction:.0f} degrees")
    position = float(np.median(errors.translation[wrong]))
    if position > 0:
        parts.append(f"positions by {100 * position:.0f} % of the way")
    return (
        f"{wrong.sum()} of {mine.sum()} triangles with other photos do not close: "
        + ", ".join(parts)
        + f" ({100 * share:.0f} % blame)"
    )


def _contradict_groups(
    edges: EdgeArrays,
    believed: BoolArray,
    confirmed: BoolArray,
    num_images: int,
    options: VerificationOptions,
) -> dict[int, str]:
    """Reasons against unconfirmed edges within and between groups of confirmed ones."""
    sure = np.flatnonzero(believed & confirmed)
    group_of, turn = _group_rotations(edges, sure, num_images)
    sizes = np.bincount(group_of[group_of >= 0], minlength=1)
    reasons: dict[int, str] = {}
    between: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in np.flatnonzero(believed & ~confirmed).tolist():
        i, j = edges.ends[index]
        first, second = int(group_of[i]), int(group_of[j])
        if first < 0 or second < 0:
            continue
        if first == second:
            left = turn[j].T @ edges.rotation[index] @ turn[i]
            angle = float(rotation_angles_deg(left))
            if angle > 3 * options.rotation_deg:
                reasons[index] = f"the way over other pairs differs by {angle:.0f} degrees"
        else:
            between[min(first, second), max(first, second)].append(index)
    for (first, second), joining in between.items():
        agreeing = _largest_agreement(edges, joining, group_of, turn, first, options.rotation_deg)
        for index in joining:
            if len(agreeing) < options.min_agreeing or index not in agreeing:
                reasons[index] = (
                    f"of {len(joining)} pairs that join groups of {sizes[first]} and "
                    f"{sizes[second]} photos too few agree with it"
                )
    return reasons


def _group_rotations(
    edges: EdgeArrays, sure: IntArray, num_images: int
) -> tuple[IntArray, Float64Array]:
    """Group number (-1 = none) and rotation image_from_group, along shortest ways."""
    group_of = np.full(num_images, -1, dtype=np.int64)
    turn = np.tile(np.eye(3), (num_images, 1, 1))
    neighbours: dict[int, list[tuple[int, Float64Array]]] = defaultdict(list)
    for index in sure.tolist():
        i, j = edges.ends[index].tolist()
        neighbours[i].append((j, edges.rotation[index]))
        neighbours[j].append((i, edges.rotation[index].T))
    number = 0
    for start in sorted(neighbours):
        if group_of[start] >= 0:
            continue
        group_of[start] = number
        queue = [start]
        for i in queue:
            for j, rotation in neighbours[i]:
                if group_of[j] < 0:
                    group_of[j], turn[j] = number, rotation @ turn[i]
                    queue.append(j)
        number += 1
    return group_of, turn


def _largest_agreement(
    edges: EdgeArrays,
    joining: list[int],
    group_of: IntArray,
    turn: Float64Array,
    first: int,
    tolerance_deg: float,
) -> list[int]:
    """The edges between two groups that give most alike rotations of one group to the other."""
    rotations = []
    for index in joining:
        i, j = edges.ends[index]
        between = turn[j].T @ edges.rotation[index] @ turn[i]
        rotations.append(between if group_of[i] == first else between.T)
    stacked = np.stack(rotations)
    angles = rotation_angles_deg(np.swapaxes(stacked, 1, 2)[:, None] @ stacked[None])
    alike = angles <= tolerance_deg
    best = int(alike.sum(axis=1).argmax())
    return [index for index, agrees in zip(joining, alike[best], strict=True) if agrees]
