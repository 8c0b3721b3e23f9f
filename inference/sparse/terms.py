"""The losses of the sparse alignment: residuals, and what they depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .losses import gamma_loss, gamma_weight
from .problem import Cores, Float64Array, Links
from .state import COLUMNS, FOCAL, PRINCIPAL, SIZE, State, cross_matrix, lift

_NEAREST = 1e-3  # depths below are projected from here
_FARTHEST_PX = (-1000.0, 2000.0)  # projections beyond stop here


@dataclass(frozen=True, eq=False)
class Term:
    """One robust loss.

    Attributes:
        kind: "points" compares both points of a match, "pixels" projects one into the other image,
            "regression" compares with what the network predicted.
        links: its rows.
        gamma: of the loss, see `gamma_loss`.
        share: its factor in the objective.
        floor: distances below count as this one in the weights.
        sized: whether predicted points are in the unit of their frame's canonical depth.
    """

    kind: Literal["points", "pixels", "regression"]
    links: Links
    gamma: float
    share: float
    floor: float
    sized: bool = False

    def value(self, state: State, cores: Cores) -> float:
        """The loss, with its factor."""
        total = 0.0
        for _, rows, _ in self.links.by_source():
            distance = np.linalg.norm(residuals(self, state, cores, rows, False).residual, axis=-1)
            total += float(self.links.weight[rows] @ gamma_loss(distance, self.gamma))
        return self.share * total

    def weights(self, residual: Float64Array, rows: slice) -> Float64Array:
        """(n,) factors of the squared residuals that majorise the loss."""
        distance = np.linalg.norm(residual, axis=-1)
        return self.share * self.links.weight[rows] * gamma_weight(distance, self.gamma, self.floor)


@dataclass(frozen=True, eq=False)
class Rows:
    """Residuals of some rows and their derivatives.

    Attributes:
        residual: (n, k).
        by_source, by_target: (n, k, 10) by the parameters of both images.
        by_core: (n, k) by the logarithm of the source's core depth.
    """

    residual: Float64Array
    by_source: Float64Array
    by_target: Float64Array
    by_core: Float64Array


def residuals(term: Term, state: State, cores: Cores, rows: slice, derivatives: bool) -> Rows:
    """Evaluate some rows of a term."""
    links = term.links
    lifted = lift(state, cores, links.source[rows], derivatives)
    if term.kind == "pixels":
        return _projected(links, state, lifted.points, lifted.by_image, lifted.by_core, rows)
    target = links.target.image[rows]
    by_target = np.zeros((len(target), 3, COLUMNS if derivatives else 0))
    if term.kind == "points":
        other = lift(state, cores, links.target[rows], derivatives)
        aim = other.points
        if other.by_image is not None:
            by_target = -other.by_image
    else:
        arm = np.einsum("nij,nj->ni", state.rotation[target], links.aim[rows])
        if term.sized:
            arm = arm * np.exp(state.log_size[target])[:, None]
        aim = arm + state.center[target]
        if derivatives:
            by_target[:, 0, 0] = by_target[:, 1, 1] = by_target[:, 2, 2] = -1.0
            by_target[:, :, 3:6] = cross_matrix(arm)
            if term.sized:
                by_target[:, :, SIZE] = -arm
    by_source = by_target if lifted.by_image is None else lifted.by_image
    return Rows(lifted.points - aim, by_source, by_target, lifted.by_core)


def _projected(
    links: Links,
    state: State,
    points: Float64Array,
    by_image: Float64Array | None,
    by_core: Float64Array,
    rows: slice,
) -> Rows:
    target = links.target.image[rows]
    rotation, focal = state.rotation[target], state.focal[target]
    arm = points - state.center[target]
    local = np.einsum("nji,nj->ni", rotation, arm)
    z = np.maximum(local[:, 2], _NEAREST)
    slope = local[:, :2] / z[:, None]
    free = slope * focal[:, None] + state.principal_px[target]
    pixel = np.clip(free, *_FARTHEST_PX)
    residual = pixel - links.aim[rows]
    if by_image is None:
        none = np.zeros((len(z), 2, 0))
        return Rows(residual, none, none, residual)
    by_local = np.zeros((len(z), 2, 3))
    by_local[:, 0, 0] = by_local[:, 1, 1] = focal / z
    by_local[:, :, 2] = -slope * (focal / z)[:, None] * (local[:, 2] > _NEAREST)[:, None]
    inside = (pixel == free).astype(np.float64)
    by_local *= inside[:, :, None]
    by_point = by_local @ np.swapaxes(rotation, 1, 2)
    by_target = np.zeros((len(z), 2, COLUMNS))
    by_target[:, :, :3] = -by_point
    by_target[:, :, 3:6] = by_point @ cross_matrix(arm)
    by_target[:, :, FOCAL] = slope * focal[:, None] * inside
    extent = state.extent[target] * inside
    at = PRINCIPAL.start
    by_target[:, 0, at], by_target[:, 1, at + 1] = extent[:, 0], extent[:, 1]
    return Rows(
        residual,
        by_point @ by_image,
        by_target,
        np.einsum("nij,nj->ni", by_point, by_core),
    )
