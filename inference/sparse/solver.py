"""Levenberg-Marquardt on the reweighted losses of the sparse alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError

from .problem import Cores, Float64Array, IntArray
from .state import FOCAL, PRINCIPAL, SIZE, State
from .system import Normal, build
from .terms import Term

_DAMPING = (1e-9, 1e6)
_FIRST_DAMPING = 1e-3


@dataclass(frozen=True, eq=False)
class Priors:
    """What holds the intrinsics.

    Attributes:
        principal_weight: of the mean over the lenses of the squared distance of the principal
            point, as a share of the image, from the start.
        principal_start: (L, 2) shares.
        focal_weight: of the mean squared distance of the log focal lengths from the start.
        focal_start: (L,) logarithms.
    """

    principal_weight: float
    principal_start: Float64Array
    focal_weight: float
    focal_start: Float64Array

    def value(self, state: State) -> float:
        """Penalty of a state, in the unit of the objective."""
        principal = ((state.principal_point - self.principal_start) ** 2).sum(-1).mean()
        focal = ((state.log_focal - self.focal_start) ** 2).mean()
        return self.principal_weight * float(principal) + self.focal_weight * float(focal)

    def add(self, normal: Normal, state: State, columns: IntArray) -> None:
        """Add the penalties to the normal equations of all parameters that are free."""
        lenses, one = np.unique(state.lens, return_index=True)
        principal = (state.principal_point - self.principal_start)[lenses].T
        focal = (state.log_focal - self.focal_start)[lenses]
        for column, weight, away in (
            (FOCAL, self.focal_weight, focal),
            (PRINCIPAL.start, self.principal_weight, principal[0]),
            (PRINCIPAL.start + 1, self.principal_weight, principal[1]),
        ):
            at, factor = columns[one, column], 2 * weight / len(state.log_focal)
            np.add.at(normal.hessian, (at, at), factor)
            np.add.at(normal.gradient, at, factor * away)


def minimise(
    terms: Sequence[Term],
    state: State,
    cores: Cores,
    columns: IntArray,
    priors: Priors,
    max_steps: int,
    tolerance: float,
) -> tuple[State, list[float]]:
    """Lower the sum of all terms.

    Args:
        terms: the losses.
        state: the start; free core depths change, tied ones do not.
        cores: canonical depths.
        columns: (N, 10) parameter of each column of each image; the largest one is held.
        priors: of the intrinsics.
        max_steps: upper limit.
        tolerance: stop when two steps in a row lower the objective by less than this share.

    Returns:
        The state, and the losses at the start and after every step, without the priors.
    """
    penalised = _objective(terms, state, cores) + priors.value(state)
    losses = [_objective(terms, state, cores)]
    damping, small = _FIRST_DAMPING, 0
    for _ in range(max_steps):
        normal = build(terms, state, cores, columns, state.depth is not None)
        priors.add(normal, state, columns)
        held = [len(normal.gradient) - 1]
        normal.hold(np.concatenate([held, _at_bound(normal, state, columns)]))
        found = None
        while found is None and damping < _DAMPING[1]:
            try:
                step, depth_step = normal.solve(damping, len(cores.depth))
            except LinAlgError:
                damping *= 10
                continue
            moved = state.moved(step, columns, depth_step)
            loss = _objective(terms, moved, cores)
            if loss + priors.value(moved) < penalised:
                found = moved, loss
            else:
                damping *= 4
        if found is None:
            break
        before = penalised
        state, loss = found
        penalised = loss + priors.value(state)
        losses.append(loss)
        damping = max(damping / 5, _DAMPING[0])
        small = small + 1 if before - penalised < tolerance * before else 0
        if small == 2:
            break
    return state, losses


def _objective(terms: Sequence[Term], state: State, cores: Cores) -> float:
    return sum(term.value(state, cores) for term in terms)


def _at_bound(normal: Normal, state: State, columns: IntArray) -> IntArray:
    """Parameters of sizes that would have to fall below their bound."""
    at = columns[:, SIZE]
    return at[(state.log_size <= 0) & (normal.gradient[at] > 0)]
