"""Sweeps of the dense alignment: reweighted Gauss-Newton on cameras, pairs and depths together.

Every sweep does two exact minimisations of the same weighted squares. Depths first: along each
viewing ray the best depth is a robust weighted mean. Then one Gauss-Newton step of all cameras, all
pair similarities and, per image, the four motions of its surface that pairs can cause (three
shifts and a scaling, as far as they act along the rays). Without those four the depths would hold
cameras and pairs back; with them a pair is coupled to its two images only, so pairs are eliminated
one by one and a banded system of 13 unknowns per image is left.

L1 distances are handled by weights 1 / distance (Weiszfeld). A homogeneous objective would shrink
to a point; the sum of the pairs' log scales is held by a Lagrange multiplier.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from .samples import Float64Array, Samples
from .state import State, rotations_from_vectors
from .system import CAMERA, COLUMNS, FOCAL, Normal, System

_log = logging.getLogger(__name__)

INNER_ROUNDS = 2  # reweightings of the depths per sweep
_AT_ONCE = 4096  # observations of an image that are in memory in double precision
INDEPENDENT = 50  # observations per map that count as independent where priors are weighed


@dataclass(frozen=True, eq=False)
class Priors:
    """Which unknowns are free, and what is known of the others.

    Attributes:
        free: (N, 9) bool; columns shift, turn, log focal, principal point.
        precision: (N, 9) one over the variance of each; 0 without a prior.
        target: cameras at the prior's centre, as a `State` of which only the cameras count.
        scale_free: whether the size of the scene is undetermined.
        shared_focal: one focal length for all images whose focal is free.
        depth: per image (n,) known depths, NaN where unknown, or None.
    """

    free: NDArray[np.bool_]
    precision: Float64Array
    target: State
    scale_free: bool
    shared_focal: bool
    depth: list[Float64Array | None]


class Solver:
    """The observations with their weights, and the steps over them."""

    def __init__(self, samples: Samples, weight: list[Float64Array], priors: Priors, l1: bool):
        self.samples, self.weight, self.priors, self.l1 = samples, weight, priors, l1
        self.floor = 0.0  # of the distances that are divided by
        self.system = System(samples.pairs, len(samples.images))

    def calibrate(self, state: State) -> None:
        """Smooth the distances below 1e-5 of the scene's median depth."""
        self.floor = 1e-5 * float(np.median(np.concatenate(state.depth)))

    def prior_strength(self, objective: float) -> float:
        """Objective per unit of negative log-likelihood.

        n independent observations with Laplacian errors of unknown spread have the negative
        log-likelihood n log(objective) up to a constant; this is its slope's inverse.
        """
        return objective / (INDEPENDENT * 2 * len(self.samples.pairs))

    def normal_equations(self, state: State) -> tuple[Normal, State]:
        """Best depths for the given cameras and pairs, and the equations around them."""
        edges, count = len(self.samples.pairs), len(self.samples.images)
        normal = Normal(
            0.0,
            0.0,
            np.zeros((edges, 7, 7)),
            np.zeros((edges, 7)),
            np.zeros((edges, 2, 7, COLUMNS)),
            np.zeros((count, COLUMNS, COLUMNS)),
            np.zeros((count, COLUMNS)),
            np.zeros(edges),
        )
        depth = [self._add_image(v, state, normal) for v in range(count)]
        normal.objective = float(normal.edge_objective.sum())
        self._add_priors(state, normal)
        return normal, replace(state, depth=depth)

    def _add_image(self, v: int, state: State, normal: Normal) -> Float64Array:
        """Add the observations of one image, some grid points at a time; returns its depths."""
        image = self.samples.images[v]
        step = max(32, _AT_ONCE // len(image.edge))
        parts = [slice(k, k + step) for k in range(0, len(image.xy), step)]
        return np.concatenate([self._add_points(v, part, state, normal) for part in parts])

    def _add_points(self, v: int, part: slice, state: State, normal: Normal) -> Float64Array:
        image = self.samples.images[v]
        edge, strength = image.edge, self.weight[v][:, part]
        linear = state.pair_scale[edge, None, None] * state.pair_rotation[edge]
        arm = image.points[:, part].astype(np.float64) @ np.swapaxes(linear, 1, 2)  # (D, n, 3)
        ray = state.rays(v, image.xy[part])
        length = np.linalg.norm(ray, axis=-1)
        unit = ray @ state.rotation[v].T / length[:, None]
        offset = arm + (state.pair_translation[edge] - state.center[v])[:, None]
        along = np.einsum("dni,ni->dn", offset, unit)
        across = np.maximum(np.einsum("dni,dni->dn", offset, offset) - along * along, 0.0)
        free = self._unknown_depth(v)[part]
        t = self._best_depth(strength, along, across, state.depth[v][part] * length, free)
        weight, distance = self._reweighted(strength, along, across, t)
        normal.edge_objective[edge] += (strength * (distance if self.l1 else distance**2)).sum(-1)
        offset -= t[:, None] * unit  # the residual
        moments = _moments(weight, arm)
        self._add_pairs(edge, moments, arm, offset, normal)
        jacobian = _image_jacobian(unit, t, ray, state.rotation[v], state.focal[v], t / length)
        jacobian[~free, :, CAMERA:] = 0.0
        block = moments.reshape(-1, len(t)) @ jacobian.reshape(len(t), -1)
        normal.coupling[edge, image.side] -= _act(block.reshape(len(edge), 4, 3, COLUMNS))
        flat = jacobian.reshape(-1, COLUMNS)
        normal.image_gradient[v] -= flat.T @ np.einsum("dn,dni->ni", weight, offset).reshape(-1)
        flat *= np.sqrt(np.repeat(weight.sum(0), 3))[:, None]
        normal.image_hessian[v] += flat.T @ flat
        return t / length

    def _best_depth(
        self,
        strength: Float64Array,
        along: Float64Array,
        across: Float64Array,
        t: Float64Array,
        free: NDArray[np.bool_],
    ) -> Float64Array:
        """Some reweighted means along the rays, from t on; those not free stay."""
        for _ in range(INNER_ROUNDS):
            weight, _ = self._reweighted(strength, along, across, t)
            mass = weight.sum(0)
            mean = (weight * along).sum(0) / np.maximum(mass, 1e-300)
            t = np.where((mass > 0) & free, np.maximum(mean, 1e-3 * t), t)
        return t

    def _unknown_depth(self, v: int) -> NDArray[np.bool_]:
        known = self.priors.depth[v]
        return np.ones(len(self.samples.images[v].xy), bool) if known is None else np.isnan(known)

    def _reweighted(
        self, strength: Float64Array, along: Float64Array, across: Float64Array, t: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Weights of the squares, and distances, at depths t along the rays."""
        distance = np.sqrt((along - t) ** 2 + across)
        if not self.l1:
            return 2.0 * strength, distance
        return strength / np.maximum(distance, self.floor), distance

    def _add_pairs(
        self,
        edge: NDArray[np.intp],
        moments: Float64Array,
        arm: Float64Array,
        residual: Float64Array,
        normal: Normal,
    ) -> None:
        normal.pair_gradient[edge] += _act((moments @ residual)[..., None])[..., 0]
        square = moments @ arm  # (D, 4, 3)
        mass, first, second = moments[:, 0].sum(-1), square[:, 0], square[:, 1:]
        trace = np.trace(second, axis1=1, axis2=2)
        hessian = np.zeros((len(edge), 7, 7))
        hessian[:, :3, :3] = mass[:, None, None] * np.eye(3)
        hessian[:, :3, 3:6] = -_cross(first)
        hessian[:, 3:6, :3] = _cross(first)
        hessian[:, 3:6, 3:6] = trace[:, None, None] * np.eye(3) - second
        hessian[:, :3, 6] = hessian[:, 6, :3] = first
        hessian[:, 6, 6] = trace
        normal.pair_hessian[edge] += hessian

    def _add_priors(self, state: State, normal: Normal) -> None:
        """Squares of the cameras' distances to their priors."""
        priors, target = self.priors, self.priors.target
        if not priors.precision.any():
            return
        turn = np.zeros((len(state.focal), 3))
        distance = np.concatenate(
            [
                state.center - target.center,
                turn,
                np.log(state.focal / target.focal)[:, None],
                state.principal_point - target.principal_point,
            ],
            -1,
        )
        precision = self.prior_strength(normal.objective) * priors.precision
        normal.image_gradient[:, :CAMERA] += precision * distance
        k = np.arange(CAMERA)
        normal.image_hessian[:, k, k] += precision
        normal.penalty = float(0.5 * (priors.precision * distance**2).sum())

    def step(self, normal: Normal, state: State, damping: float) -> State:
        """Solve the equations and move.

        Raises:
            LinAlgError: the damped system is not positive definite.
        """
        free = np.ones(normal.image_gradient.shape, bool)
        free[:, :CAMERA] = self.priors.free
        tied = np.zeros(free.shape)
        if self.priors.shared_focal:
            tied[:, FOCAL] = free[:, FOCAL]
            free[:, FOCAL] = False
        tied_e = np.einsum("esij,esj->ei", normal.coupling, tied[self.samples.pairs])
        tied_v = np.einsum("vij,vj->vi", normal.image_hessian, tied)
        scales = np.zeros_like(normal.pair_gradient)
        scales[:, 6] = 1.0
        right_e = np.stack([-normal.pair_gradient, scales, tied_e], -1)
        right_v = np.stack([-normal.image_gradient, np.zeros_like(tied_v), tied_v], -1)
        pair, image = self.system.solve(normal, right_e, right_v, free, damping)
        if tied.any():  # the common focal length borders the system
            pair_t, image_t = pair[..., 2:], tied[..., None] - image[..., 2:]
            stiffness = (tied * tied_v).sum() * (1 + damping)
            stiffness -= (tied_e * pair[..., 2]).sum() + (tied_v * image[..., 2]).sum()
            pull = -np.einsum("ei,eik->k", tied_e, pair) - np.einsum("vi,vik->k", tied_v, image)
            pull[0] -= (tied * normal.image_gradient).sum()
            pair, image = pair - pull / stiffness * pair_t, image + pull / stiffness * image_t
        if self.priors.scale_free:  # the sum of the pairs' log scales must not change
            share = pair[:, 6, 0].sum() / pair[:, 6, 1].sum()
            pair, image = pair - share * pair[..., 1:2], image - share * image[..., 1:2]
        return self.moved(state, pair[..., 0], image[..., 0])

    def moved(self, state: State, pair: Float64Array, image: Float64Array) -> State:
        """Apply a step. Pairs turn and grow about their own frame's camera."""
        turn = rotations_from_vectors(image[:, 3:6])
        depth = []
        for v, samples in enumerate(self.samples.images):
            ray = state.rays(v, samples.xy)
            length = np.linalg.norm(ray, axis=-1)
            unit = ray @ state.rotation[v].T / length[:, None]
            moved = unit @ image[v, CAMERA : CAMERA + 3] / length
            moved = state.depth[v] * (1 + image[v, CAMERA + 3]) + moved
            moved = np.clip(moved, 0.5 * state.depth[v], 2 * state.depth[v])
            depth.append(np.where(self._unknown_depth(v), moved, state.depth[v]))
        return replace(
            state,
            rotation=turn @ state.rotation,
            center=state.center + image[:, :3],
            focal=state.focal * np.exp(np.clip(image[:, FOCAL], -0.3, 0.3)),
            principal_point=state.principal_point + image[:, FOCAL + 1 : CAMERA],
            depth=depth,
            pair_scale=state.pair_scale * np.exp(np.clip(pair[:, 6], -1.0, 1.0)),
            pair_rotation=rotations_from_vectors(pair[:, 3:6]) @ state.pair_rotation,
            pair_translation=state.pair_translation + pair[:, :3],
        )


def _image_jacobian(
    unit: Float64Array,
    t: Float64Array,
    ray: Float64Array,
    rotation: Float64Array,
    focal: float,
    depth: Float64Array,
) -> Float64Array:
    """(n, 3, 13) derivatives of an image's points with respect to its unknowns."""
    jacobian = np.zeros((len(t), 3, COLUMNS))
    jacobian[:, :, :3] = np.eye(3)
    jacobian[:, :, 3:6] = -_cross(t[:, None] * unit)
    plane = np.concatenate([ray[:, :2], np.zeros_like(ray[:, :1])], -1) @ rotation.T
    jacobian[:, :, FOCAL] = -depth[:, None] * plane
    for k in (0, 1):
        jacobian[:, :, FOCAL + 1 + k] = -(depth / focal)[:, None] * rotation[:, k]
    jacobian[:, :, CAMERA : CAMERA + 3] = unit[:, :, None] * unit[:, None]
    jacobian[:, :, CAMERA + 3] = t[:, None] * unit
    return jacobian


def _moments(weight: Float64Array, arm: Float64Array) -> Float64Array:
    """(D, 4, n) rows w, w x, w y, w z."""
    moments = np.empty((len(weight), 4, weight.shape[1]))
    moments[:, 0] = weight
    for k in range(3):
        np.multiply(weight, arm[..., k], out=moments[:, 1 + k])
    return moments


def _act(block: Float64Array) -> Float64Array:
    """From sums (D, 4, 3, k) of (1, arm) times vectors to rows shift, turn, scale (D, 7, k)."""
    m = block[:, 1:]
    turn = [m[:, 1, 2] - m[:, 2, 1], m[:, 2, 0] - m[:, 0, 2], m[:, 0, 1] - m[:, 1, 0]]
    size = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    return np.concatenate([block[:, 0], np.stack([*turn, size], 1)], 1)


def _cross(v: Float64Array) -> Float64Array:
    """(..., 3, 3) matrices of the cross product with v."""
    matrix = np.zeros((*v.shape, 3))
    matrix[..., 2, 1], matrix[..., 0, 2], matrix[..., 1, 0] = v[..., 0], v[..., 1], v[..., 2]
    matrix[..., 1, 2], matrix[..., 2, 0], matrix[..., 0, 1] = -v[..., 0], -v[..., 1], -v[..., 2]
    return matrix


def solve(
    solver: Solver, state: State, max_sweeps: int, tolerance: float
) -> tuple[State, list[float], Float64Array]:
    """Sweep until the objective stands still.

    Returns:
        The last state, the objective (without priors) at the start and after every sweep, and the
        (E,) share of every pair in it.
    """
    solver.calibrate(state)
    normal, state = solver.normal_equations(state)
    trace, damping, still = [normal.objective], 1e-4, 0
    for _ in range(max_sweeps):
        gain, equations, candidate = -1.0, normal, state
        try:
            equations, candidate = solver.normal_equations(solver.step(normal, state, damping))
            strength = solver.prior_strength(normal.objective)
            gain = normal.objective - equations.objective
            gain += strength * (normal.penalty - equations.penalty)
        except LinAlgError:
            _log.debug("the system is not positive definite at damping %g", damping)
        if not gain >= 0:
            damping *= 10
            if damping > 1e3:
                break
            continue
        still = still + 1 if gain <= tolerance * normal.objective else 0
        normal, state, damping = equations, candidate, max(damping / 5, 1e-9)
        trace.append(normal.objective)
        if still >= 2:
            break
    return state, trace, normal.edge_objective
