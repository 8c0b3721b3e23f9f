"""Dense global alignment: all pairwise pointmaps to one scene, deterministically.

Minimises the objective of DUSt3R (Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024,
eq. 5): per ordered pair one similarity, per image one pinhole camera and one depth map, and
confidence-weighted distances between both; the geometric mean of the pairs' scales is fixed. Poses
are solved on a strided grid (`dense_alignment_solver`), then the full depth maps follow image by
image from the maps that show it (`fuse_depth`), so that nothing holds all maps at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .known import KnownInputs, hold_known, priors_of
from .samples import (
    ConfidenceTransform,
    Float32Array,
    Float64Array,
    PairMaps,
    Samples,
    confidence_weight,
    sample_maps,
)
from .solver import Solver, solve
from .start import focal_votes, start_from_tree
from .state import State

_ROWS_AT_ONCE = 1 << 15  # observations of an image in memory at a time when its depth is fused
_DEPTH_ROUNDS = 12


@dataclass(frozen=True)
class DenseOptions:
    """How pointmaps are aligned.

    Attributes:
        distance: "l1" sums distances, "l2" their squares.
        confidence: weight of an observation with confidence c: log c, sqrt c, c - 1 ("m1") or c
            ("id", "none").
        grid: grid lines per side of every image on which poses are solved.
        max_sweeps: upper limit of the sweeps.
        tolerance: stop when two sweeps in a row lower the objective by less than this share.
        shared_focal: one focal length in pixels for all images of unknown focal length.
        focal_evidence: hold each focal length near those of the image's own pointmaps, as firmly as
            they agree. The objective alone leaves it loose: it hardly tells a longer focal length
            from a more distant camera.
    """

    distance: Literal["l1", "l2"] = "l1"
    confidence: ConfidenceTransform = "log"
    grid: int = 45
    max_sweeps: int = 100
    tolerance: float = 3e-6
    shared_focal: bool = False
    focal_evidence: bool = True

    def __post_init__(self) -> None:
        if self.distance not in ("l1", "l2"):
            raise ValueError(f'distance must be "l1" or "l2", got {self.distance!r}')
        if self.grid < 4:
            raise ValueError(f"grid must be at least 4, got {self.grid}")
        confidence_weight(np.ones(1), self.confidence)


@dataclass(frozen=True, eq=False)
class DenseAlignment:
    """Cameras and pair similarities of one connected set of images.

    Attributes:
        pairs: (E, 2) image indices (frame, other).
        cam_from_world: (N, 4, 4) float64.
        focal_px: (N,) float64, pixels of the maps.
        principal_point_px: (N, 2) float64, pixel centres at half-integers.
        pair_scale, pair_rotation, pair_translation: (E,), (E, 3, 3), (E, 3); points x of a pair are
            at `scale * rotation @ x + translation` in the world.
        grid_xy: per image (n, 2) pixels of the grid.
        grid_depth: per image (n,) depths there, world units.
        objective: at the start and after every sweep, over the grid, without priors.
        residual: (E,) weighted mean distance of every pair over the scene's median depth.
        options: as used.
    """

    pairs: NDArray[np.intp]
    cam_from_world: Float64Array
    focal_px: Float64Array
    principal_point_px: Float64Array
    pair_scale: Float64Array
    pair_rotation: Float64Array
    pair_translation: Float64Array
    grid_xy: list[Float64Array]
    grid_depth: list[Float64Array]
    objective: list[float]
    residual: Float64Array
    options: DenseOptions

    @property
    def K(self) -> Float64Array:
        """(N, 3, 3) intrinsics."""
        K = np.tile(np.eye(3), (len(self.focal_px), 1, 1))
        K[:, 0, 0] = K[:, 1, 1] = self.focal_px
        K[:, :2, 2] = self.principal_point_px
        return K


@dataclass(frozen=True, eq=False)
class FusedDepth:
    """Dense depth of one image.

    Attributes:
        depth: (H, W) float32, z in world units; NaN where no map says anything.
        confidence: (H, W) float32, the largest of the maps.
    """

    depth: Float32Array
    confidence: Float32Array


def align_dense(
    pairs: Iterable[PairMaps],
    num_images: int,
    options: DenseOptions | None = None,
    **known: Any,
) -> DenseAlignment:
    """Align the pointmaps of connected images.

    Args:
        pairs: ordered pairs, read once; memory does not grow with the size of the maps.
        num_images: every image 0 .. num_images - 1 must be in some pair.
        options: see `DenseOptions`.
        known: see `KnownInputs`: `known_focal_px`, `known_cam_from_world` and so on.

    Raises:
        ValueError: the pairs do not connect the images, or something has a wrong shape.
    """
    options = options or DenseOptions()
    return align_samples(sample_maps(pairs, num_images, options.grid), options, **known)


def align_samples(
    samples: Samples, options: DenseOptions | None = None, **known: Any
) -> DenseAlignment:
    """Align observations that are on their grids already; see `align_dense`."""
    options = options or DenseOptions()
    inputs = KnownInputs.from_arrays([image.size for image in samples.images], **known)
    weight = observation_weights(samples, options.confidence)
    votes = focal_votes(samples, inputs.principal_point)
    focal = np.where(np.isfinite(inputs.focal), inputs.focal, votes.median)
    unknown = ~np.isfinite(inputs.focal)
    if options.shared_focal and unknown.any():
        focal[unknown] = np.median(focal[unknown])
    state = start_from_tree(samples, inputs.principal_point, focal)
    state = hold_known(state, samples, inputs)
    evidence = votes if options.focal_evidence else None
    priors = priors_of(inputs, state, samples, evidence, options.shared_focal)
    solver = Solver(samples, weight, priors, options.distance == "l1")
    state, objective, per_edge = solve(solver, state, options.max_sweeps, options.tolerance)
    return _result(samples, weight, inputs, state, objective, per_edge, options)


def observation_weights(samples: Samples, transform: ConfidenceTransform) -> list[Float64Array]:
    """Per image (D, n) weights with which the grid stands for all pixels in the objective.

    A pair whose confidence says nothing at all keeps a small weight, so that it still connects.
    """
    area = np.array([image.size[0] * image.size[1] for image in samples.images])
    total = area[samples.pairs].sum(0)
    weights = []
    for image, pixels in zip(samples.images, area, strict=True):
        weight = confidence_weight(image.confidence, transform)
        silent = weight.sum(-1) <= 1e-6 * weight.shape[-1]
        weight[silent] = 1e-3 * (image.confidence[silent] > 0)
        weights.append(weight * (pixels / len(image.xy) / total[image.side])[:, None])
    return weights


def fuse_depth(
    alignment: DenseAlignment,
    image: int,
    maps: Sequence[tuple[int, NDArray[Any], NDArray[Any]]],
) -> FusedDepth:
    """Depth of every pixel of one image that fits all maps of the image best.

    Args:
        alignment: the cameras and pairs.
        image: index of the image.
        maps: (pair's index, (H, W, 3) pointmap of the image in it, (H, W) confidence); arrays may
            be memory-mapped, only some rows of each are read at a time.

    Raises:
        ValueError: there is no map, or a pair does not show the image.
    """
    if not maps or any(image not in alignment.pairs[edge] for edge, _, _ in maps):
        raise ValueError(f"expected maps of pairs that show image {image}, at least one")
    height, width = maps[0][2].shape
    block = max(1, _ROWS_AT_ONCE // (width * len(maps)))
    depth = np.empty((height, width), np.float32)
    confidence = np.empty((height, width), np.float32)
    for top in range(0, height, block):
        rows = slice(top, min(top + block, height))
        depth[rows], confidence[rows] = _fuse_rows(alignment, image, maps, rows)
    return FusedDepth(depth, confidence)


def _fuse_rows(
    alignment: DenseAlignment,
    image: int,
    maps: Sequence[tuple[int, NDArray[Any], NDArray[Any]]],
    rows: slice,
) -> tuple[Float32Array, Float32Array]:
    """Depth and confidence of some rows, flat observations along the rays of the camera."""
    width = maps[0][2].shape[1]
    pose = alignment.cam_from_world[image]
    y, x = np.mgrid[rows, 0:width] + 0.5
    cx, cy = alignment.principal_point_px[image]
    focal = alignment.focal_px[image]
    ray = np.stack([(x - cx) / focal, (y - cy) / focal, np.ones_like(x)], -1).astype(np.float32)
    length = np.linalg.norm(ray, axis=-1)
    ray /= length[..., None]
    along = np.empty((len(maps), *length.shape), np.float32)
    across, strength, best = np.empty_like(along), np.empty_like(along), np.zeros_like(length)
    for k, (edge, points, sure) in enumerate(maps):
        linear = alignment.pair_scale[edge] * pose[:3, :3] @ alignment.pair_rotation[edge]
        shift = pose[:3, :3] @ alignment.pair_translation[edge] + pose[:3, 3]
        part = np.asarray(points[rows], np.float32)
        good = np.asarray(np.isfinite(part).all(-1))
        local = np.where(good[..., None], part, 0) @ linear.T.astype(np.float32)
        local += shift.astype(np.float32)
        along[k] = np.einsum("hwi,hwi->hw", local, ray)
        local -= along[k][..., None] * ray
        across[k] = np.einsum("hwi,hwi->hw", local, local)
        c = np.where(good, np.asarray(sure[rows], np.float32), 0)
        strength[k] = confidence_weight(c, alignment.options.confidence) + 1e-6 * good
        np.maximum(best, c, out=best)
    t = _robust_mean(along, across, strength, alignment.options.distance == "l1")
    return np.where(t > 0, t / length, np.nan).astype(np.float32), best


def _robust_mean(
    along: Float32Array, across: Float32Array, strength: Float32Array, l1: bool
) -> Float32Array:
    """The t of least weighted distances (or squares) to observations at `along`, off the ray.

    Args:
        along: (D, ...) positions along the ray.
        across: (D, ...) squared distances from the ray.
        strength: (D, ...) weights.
        l1: distances rather than squares.

    Returns:
        (...), 0 where nothing has weight.
    """
    mass = strength.sum(0)
    seen = np.asarray(mass > 0)
    t = np.where(seen, (strength * along).sum(0) / np.where(seen, mass, 1), 0)
    if not l1:
        return t
    floor = 1e-10 * float(np.median(t[seen] ** 2)) if seen.any() else 1.0
    for _ in range(_DEPTH_ROUNDS):
        weight = along - t
        weight *= weight
        weight += across
        np.maximum(weight, np.float32(max(floor, 1e-30)), out=weight)
        np.sqrt(weight, out=weight)
        np.divide(strength, weight, out=weight)
        mass = weight.sum(0)
        t = np.where(seen, np.einsum("d...,d...->...", weight, along) / np.where(seen, mass, 1), 0)
    return t


def _result(
    samples: Samples,
    weight: list[Float64Array],
    inputs: KnownInputs,
    state: State,
    objective: list[float],
    per_edge: Float64Array,
    options: DenseOptions,
) -> DenseAlignment:
    mass = np.zeros(len(samples.pairs))
    for image, w in zip(samples.images, weight, strict=True):
        mass[image.edge] += w.sum(-1)
    mean = per_edge / np.maximum(mass, 1e-300)
    mean = np.sqrt(mean) if options.distance == "l2" else mean
    return DenseAlignment(
        pairs=samples.pairs,
        cam_from_world=inputs.with_fixed_poses(state),
        focal_px=state.focal,
        principal_point_px=state.principal_point,
        pair_scale=state.pair_scale,
        pair_rotation=state.pair_rotation,
        pair_translation=state.pair_translation,
        grid_xy=[image.xy for image in samples.images],
        grid_depth=state.depth,
        objective=objective,
        residual=mean / np.median(np.concatenate(state.depth)),
        options=options,
    )
