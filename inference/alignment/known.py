"""What the caller of the dense alignment knows: focal lengths, principal points, poses, depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .samples import Float64Array, Samples
from .solver import Priors
from .start import FocalVotes
from .state import State, procrustes
from .system import CAMERA, FOCAL


@dataclass(frozen=True, eq=False)
class KnownInputs:
    """Known values per image, NaN where unknown, and their standard deviations: 0 fixes a value.

    Attributes:
        focal, focal_sigma: (N,) pixels.
        principal_point, principal_point_sigma: (N, 2) and (N,) pixels; where it is unknown the
            image centre is fixed.
        pose, center_sigma: (N, 4, 4) cam_from_world and (N,) world units. A sigma above zero holds
            the camera's centre only; its rotation is free.
        depth: per image (H, W) fixed depths in world units, NaN or 0 where unknown, or None.
    """

    focal: Float64Array
    focal_sigma: Float64Array
    principal_point: Float64Array
    principal_point_sigma: Float64Array
    pose: Float64Array
    center_sigma: Float64Array
    depth: list[Float64Array | None]

    @classmethod
    def from_arrays(
        cls,
        sizes: Sequence[tuple[int, int]],
        known_focal_px: ArrayLike | None = None,
        focal_sigma_px: ArrayLike | None = None,
        known_principal_point_px: ArrayLike | None = None,
        principal_point_sigma_px: ArrayLike | None = None,
        known_cam_from_world: ArrayLike | None = None,
        center_sigma: ArrayLike | None = None,
        known_depth: Sequence[Any] | None = None,
    ) -> KnownInputs:
        """Fill up what is not given.

        Args:
            sizes: (height, width) of every image's maps.
            known_focal_px: (N,), NaN where unknown.
            focal_sigma_px: (N,) or one number; 0, the default, fixes, infinity frees.
            known_principal_point_px: (N, 2), NaN where unknown; the default is the image centre.
            principal_point_sigma_px: (N,) or one number, also for the default; 0, the default,
                fixes.
            known_cam_from_world: (N, 4, 4), NaN where unknown.
            center_sigma: (N,) or one number; 0, the default, fixes the pose.
            known_depth: N entries, (H, W) or None.

        Raises:
            ValueError: a wrong shape, or a negative standard deviation.
        """
        count = len(sizes)
        center = np.array([[w / 2, h / 2] for h, w in sizes])
        point = _array(known_principal_point_px, (count, 2), "known_principal_point_px")
        depths = list(known_depth) if known_depth is not None else [None] * count
        if len(depths) != count or any(
            d is not None and np.shape(d) != s for d, s in zip(depths, sizes, strict=False)
        ):
            raise ValueError(f"known_depth must be {count} maps (or None) of the images' sizes")
        return cls(
            focal=_array(known_focal_px, (count,), "known_focal_px"),
            focal_sigma=_sigma(focal_sigma_px, count, "focal_sigma_px"),
            principal_point=np.where(np.isfinite(point), point, center),
            principal_point_sigma=_sigma(
                principal_point_sigma_px, count, "principal_point_sigma_px"
            ),
            pose=_array(known_cam_from_world, (count, 4, 4), "known_cam_from_world"),
            center_sigma=_sigma(center_sigma, count, "center_sigma"),
            depth=[None if d is None else np.asarray(d, dtype=np.float64) for d in depths],
        )

    @property
    def posed(self) -> np.ndarray:
        """(N,) bool: images with a pose, fixed or prior."""
        return np.isfinite(self.pose).all((1, 2)) & np.isfinite(self.center_sigma)

    def with_fixed_poses(self, state: State) -> Float64Array:
        """(N, 4, 4) cam_from_world of the state, fixed poses as they were given."""
        poses = np.tile(np.eye(4), (len(state.focal), 1, 1))
        poses[:, :3, :3] = np.swapaxes(state.rotation, 1, 2)
        poses[:, :3, 3] = -np.einsum("vij,vj->vi", poses[:, :3, :3], state.center)
        fixed = self.posed & (self.center_sigma == 0)
        poses[fixed] = self.pose[fixed]
        return poses

    def grid_depth(self, samples: Samples) -> list[Float64Array | None]:
        """Known depths at the grid points, NaN where unknown."""
        found: list[Float64Array | None] = []
        for image, depth in zip(samples.images, self.depth, strict=True):
            if depth is None:
                found.append(None)
                continue
            x, y = image.xy.astype(int).T
            found.append(np.where(depth[y, x] > 0, depth[y, x], np.nan))
        return found


def hold_known(state: State, samples: Samples, inputs: KnownInputs) -> State:
    """Bring the start into the frame and scale of what is known, and set fixed values."""
    posed = inputs.posed
    depths = inputs.grid_depth(samples)
    ratio = [
        np.log(d / own)[np.isfinite(d)]
        for d, own in zip(depths, state.depth, strict=True)
        if d is not None
    ]
    if ratio:
        scale = float(np.exp(np.median(np.concatenate(ratio))))
        state = state.transformed(scale, np.eye(3), np.zeros(3))
    if posed.any():
        target_rotation = np.swapaxes(inputs.pose[posed, :3, :3], 1, 2)
        target_center = -np.einsum("vij,vj->vi", target_rotation, inputs.pose[posed, :3, 3])
        state = state.transformed(*_onto(state, posed, target_rotation, target_center))
        fixed = inputs.center_sigma[posed] == 0
        at = np.flatnonzero(posed)[fixed]
        rotation, center = state.rotation.copy(), state.center.copy()
        rotation[at], center[at] = target_rotation[fixed], target_center[fixed]
        state = replace(state, rotation=rotation, center=center)
    if not posed.any() and not ratio:
        return state
    state = replace(
        state,
        depth=[
            own if d is None else np.where(np.isfinite(d), d, own)
            for d, own in zip(depths, state.depth, strict=True)
        ],
    )
    return _refitted_pairs(state, samples)


def _onto(
    state: State, posed: np.ndarray, rotation: Float64Array, center: Float64Array
) -> tuple[float, Float64Array, Float64Array]:
    """Similarity from the cameras of the state to known ones: centres, and points ahead."""
    if posed.sum() == 1:
        turn = rotation[0] @ state.rotation[posed][0].T
        return 1.0, turn, center[0] - turn @ state.center[posed][0]
    reach = [np.linalg.norm(c - c.mean(0), axis=-1).mean() for c in (state.center[posed], center)]
    source, target = (
        np.concatenate([c, *(c + length * r[:, :, k] for k in range(3))])
        for c, r, length in (
            (state.center[posed], state.rotation[posed], reach[0]),
            (center, rotation, reach[1]),
        )
    )
    scale, turn, shift = procrustes(source, target, np.ones(len(source)))
    return float(scale), turn, shift


def _refitted_pairs(state: State, samples: Samples) -> State:
    """Every pair fitted to the current points of both its images."""
    world = [state.world_points(v, image.xy) for v, image in enumerate(samples.images)]
    fits = []
    for e, (i, j) in enumerate(samples.pairs.tolist()):
        maps = [samples.map_of(e, side) for side in (0, 1)]
        source, weight = (np.concatenate([m[k] for m in maps]) for k in (0, 1))
        fits.append(procrustes(source, np.concatenate([world[i], world[j]]), weight))
    return replace(
        state,
        pair_scale=np.array([f[0] for f in fits]),
        pair_rotation=np.stack([f[1] for f in fits]),
        pair_translation=np.stack([f[2] for f in fits]),
    )


def priors_of(
    inputs: KnownInputs,
    state: State,
    samples: Samples,
    votes: FocalVotes | None,
    shared_focal: bool,
) -> Priors:
    """Free columns and priors of the solver.

    Args:
        inputs: what is known.
        state: the start, in the frame of the known poses.
        samples: the observations.
        votes: focal lengths of the own pointmaps, to hold unknown ones; None does not.
        shared_focal: one focal length for all images of unknown focal length.
    """
    count = len(state.focal)
    free, sigma = np.ones((count, CAMERA), bool), np.full((count, CAMERA), np.inf)
    target = replace(state, center=state.center.copy(), focal=state.focal.copy())
    posed = inputs.posed
    rotation = np.swapaxes(inputs.pose[posed, :3, :3], 1, 2)
    target.center[posed] = -np.einsum("vij,vj->vi", rotation, inputs.pose[posed, :3, 3])
    free[posed & (inputs.center_sigma == 0), :6] = False
    sigma[posed, :3] = inputs.center_sigma[posed, None]
    known = np.isfinite(inputs.focal) & np.isfinite(inputs.focal_sigma)
    free[known & (inputs.focal_sigma == 0), FOCAL] = False
    sigma[known, FOCAL] = inputs.focal_sigma[known] / inputs.focal[known]
    target.focal[known] = inputs.focal[known]
    if votes is not None:
        sigma[~known, FOCAL] = votes.spread[~known]
        target.focal[~known] = votes.median[~known]
    free[inputs.principal_point_sigma == 0, FOCAL + 1 :] = False
    sigma[:, FOCAL + 1 :] = inputs.principal_point_sigma[:, None]
    precision = np.where(free, 1.0 / np.where(free, sigma, 1.0) ** 2, 0.0)
    depth = inputs.grid_depth(samples)
    scale_free = posed.sum() < 2 and all(d is None for d in depth)
    return Priors(free, precision, target, scale_free, shared_focal, depth)


def _array(values: ArrayLike | None, shape: tuple[int, ...], name: str) -> Float64Array:
    if values is None:
        return np.full(shape, np.nan)
    array = np.array(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, NaN where unknown; got {array.shape}")
    return array


def _sigma(values: ArrayLike | None, count: int, name: str) -> Float64Array:
    array = np.array(0.0 if values is None else values, dtype=np.float64)
    if array.shape not in ((), (count,)) or not (array >= 0).all():
        raise ValueError(f"{name} must be a number or ({count},), not negative; got {values!r}")
    return np.broadcast_to(array, (count,)).copy()
