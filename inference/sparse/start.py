"""Start of the sparse alignment: images placed along the chain by their matched points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..alignment.state import procrustes
from .chain import Chain
from .problem import Cores, Float64Array, SparseMatches
from .state import State, lift

_ROUNDS = 30  # of reweighting


def place_along(
    chain: Chain, matches: Sequence[SparseMatches], state: State, cores: Cores
) -> State:
    """Place every image by a robust similarity to its parent.

    Args:
        chain: order of the images.
        matches: of all pairs.
        state: intrinsics; poses and sizes are overwritten.
        cores: canonical depths.

    Returns:
        The state with the root's camera at the identity, and the smallest size at one.

    Raises:
        ValueError: a child shares no matches with any image before it.
    """
    table = {(m.first, m.second): m for m in matches}
    count = len(state.center)
    scale, rotation, center = (
        np.ones(count),
        np.tile(np.eye(3), (count, 1, 1)),
        np.zeros((count, 3)),
    )
    local = State(
        rotation=rotation.copy(),
        center=center.copy(),
        lens=state.lens,
        log_focal=state.log_focal,
        principal_point=state.principal_point,
        log_size=np.zeros(count),
        depth=None,
        extent=state.extent,
    )
    placed = [chain.root]
    for parent, child in chain.edges:
        best = parent if _between(table, parent, child) else _best_placed(table, placed, child)
        own, theirs, weight = _shared(table, best, child, local, cores)
        s, r, t = _robust_similarity(own, theirs, weight)
        scale[child] = scale[best] * s
        rotation[child] = rotation[best] @ r
        center[child] = scale[best] * rotation[best] @ t + center[best]
        placed.append(child)
    unit = scale.min()
    return State(
        rotation=rotation,
        center=center / unit,
        lens=state.lens,
        log_focal=state.log_focal,
        principal_point=state.principal_point,
        log_size=np.log(scale / unit),
        depth=None,
        extent=state.extent,
    )


def _between(table: dict[tuple[int, int], SparseMatches], i: int, j: int) -> SparseMatches | None:
    return table.get((i, j)) or table.get((j, i))


def _best_placed(table: dict[tuple[int, int], SparseMatches], placed: list[int], child: int) -> int:
    """The placed image that shares most with the child."""
    shared = {i: found for i in placed if (found := _between(table, i, child)) is not None}
    if not shared:
        raise ValueError(f"image {child} shares no matches with the images before it")
    return max(shared, key=lambda i: (len(shared[i].confidence), -i))


def _shared(
    table: dict[tuple[int, int], SparseMatches],
    parent: int,
    child: int,
    local: State,
    cores: Cores,
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Matched points of the child and of the parent, in their own cameras, with weights."""
    found = table.get((parent, child))
    if found is not None:
        theirs, own = found.xy1, found.xy2
    else:
        found = table[(child, parent)]
        theirs, own = found.xy2, found.xy1
    points = [
        lift(local, cores, cores.pixels(image, xy), False).points
        for image, xy in ((child, own), (parent, theirs))
    ]
    return points[0], points[1], found.confidence


def _robust_similarity(
    source: Float64Array, target: Float64Array, weight: Float64Array
) -> tuple[float, Float64Array, Float64Array]:
    """Similarity of least weighted distances, relative to the targets' depth."""
    trust = weight / np.maximum(np.linalg.norm(target, axis=-1), 1e-12)
    current = trust
    scale, rotation, shift = procrustes(source, target, current)
    for _ in range(_ROUNDS):
        distance = np.linalg.norm(scale * source @ rotation.T + shift - target, axis=-1)
        floor = max(1e-3 * float(np.median(distance)), 1e-12)
        current = trust / np.maximum(distance, floor)
        scale, rotation, shift = procrustes(source, target, current)
    return float(scale), rotation, shift
