"""Sparse alignment: cameras and core depths of connected images from matches and canonical views.

Two stages, as in MASt3R-SfM: matched 3-D points are brought together first, with the canonical
depth of each image rigid but for its scale; then the reprojection of every point into its partner
is minimised, over intrinsics and depths too. The objectives are the published ones. They are
minimised by reweighted Gauss-Newton steps, with the depths eliminated, from the images placed along
a spanning tree: deterministic, and each pair is read once.

Reference: Duisterhof et al., "MASt3R-SfM: a Fully-Integrated Solution for Unconstrained
Structure-from-Motion", 3DV 2025, sections 4.3 and 4.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from .canonical import CanonicalView
from .chain import Chain, ChainKind, make_chain
from .problem import (
    Cores,
    Float64Array,
    IntArray,
    Regression,
    SparseMatches,
    match_links,
    projection_links,
    regression_links,
)
from .solver import Priors, minimise
from .start import place_along
from .state import COLUMNS, FOCAL, PRINCIPAL, SIZE, State
from .terms import Term

_NEIGHBOURS = 2.0  # blocks over which unseen core depths follow seen ones


@dataclass(frozen=True)
class SparseOptions:
    """How matches and canonical views become cameras.

    Attributes:
        chain: the tree along which images are placed first, see `make_chain`.
        coarse_steps, fine_steps: upper limits of the steps of each stage; 0 skips it.
        tolerance: stop when two steps in a row lower the objective by less than this share.
        coarse_gamma, fine_gamma, regression_gamma: of the losses, see `gamma_loss`.
        matching_threshold: a pair whose surest match is not surer counts as unmatched; only its
            regressed points are used.
        regression_share: weight of these in the objective.
        shared_intrinsics: one focal length and principal point for all images of one size, where
            no `lens` says which images share one.
        free_focal: whether focal lengths that are not known may change.
        free_principal_point: the same of principal points.
        free_depth: whether core depths may change in the second stage.
        principal_weight: pulls principal points to the image centres: this times the mean of
            their squared shifts, as shares of the image, is added to the objective. Without it, a
            few pixels of shift are bought with a turn of the camera.
        focal_weight: the same for the squared change of the logarithms of focal lengths. Photos
            taken side by side hardly tell a longer focal length from a flatter scene.
        metric: whether regressed points share the unit of all canonical views.
    """

    chain: ChainKind = "ward"
    coarse_steps: int = 100
    fine_steps: int = 200
    tolerance: float = 1e-5
    coarse_gamma: float = 1.5
    fine_gamma: float = 0.5
    regression_gamma: float = 1.1
    matching_threshold: float = 0.0
    regression_share: float = 0.01
    shared_intrinsics: bool = False
    free_focal: bool = True
    free_principal_point: bool = True
    free_depth: bool = True
    principal_weight: float = 10.0
    focal_weight: float = 0.03
    metric: bool = True


@dataclass(frozen=True, eq=False)
class SparseAlignment:
    """Cameras and depths of connected images.

    Attributes:
        cam_from_world: (N, 4, 4).
        focal_px: (N,) network pixels.
        principal_point_px: (N, 2), pixel centres at half-integers.
        core_depth: per image (rows, columns), in the unit of the world.
        depth_scale: (N,) world units per unit of the image's canonical depth, at the first stage.
        chain: the tree used.
        coarse_loss, fine_loss: at the start of each stage and after every step.
    """

    cam_from_world: Float64Array
    focal_px: Float64Array
    principal_point_px: Float64Array
    core_depth: list[Float64Array]
    depth_scale: Float64Array
    chain: Chain
    coarse_loss: list[float]
    fine_loss: list[float]

    def dense_depth(self, image: int, view: CanonicalView) -> Float64Array:
        """(H, W) depth of every pixel of an image: the canonical relief on its core depths."""
        height, width = view.size
        rows, columns = np.mgrid[0:height, 0:width]
        anchors = view.anchors(np.stack([columns, rows], -1).reshape(-1, 2) + 0.5)
        core = self.core_depth[image].reshape(-1)[anchors.core]
        bulge = (anchors.offset - 1.0) * view.focal_px / self.focal_px[image]
        return (core * (1.0 + bulge)).reshape(height, width)


def align_sparse(
    views: Sequence[CanonicalView],
    matches: Sequence[SparseMatches],
    regressions: Sequence[Regression] = (),
    options: SparseOptions | None = None,
    *,
    known_focal_px: ArrayLike | None = None,
    start_focal_px: ArrayLike | None = None,
    lens: Sequence[int] | None = None,
) -> SparseAlignment:
    """Align connected images.

    Args:
        views: canonical view of every image.
        matches: of unordered pairs; each pair at most once.
        regressions: regressed points of pairs; only those of unmatched pairs are used.
        options: see `SparseOptions`.
        known_focal_px: (N,) fixed focal lengths in network pixels, NaN where unknown.
        start_focal_px: (N,) where the others start; NaN, or None, takes the canonical one.
        lens: (N,) numbers 0, 1, ...; images with the same one share their intrinsics.

    Raises:
        ValueError: the pairs do not connect the images, or an array has another length.
    """
    options = options or SparseOptions()
    cores = Cores.of_views(views)
    used = [
        m for m in matches if m.confidence.size and m.confidence.max() > options.matching_threshold
    ]
    matched = {frozenset((m.first, m.second)) for m in used}
    unmatched = [r for r in regressions if frozenset((r.image, r.frame)) not in matched]
    known = _per_image(known_focal_px, len(views), "known_focal_px")
    start = _per_image(start_focal_px, len(views), "start_focal_px")
    state = _intrinsics(views, cores, _lenses(views, lens, options), known, start)
    chain = make_chain(_scores(len(views), matches), options.chain, np.diff(cores.start))
    state = place_along(chain, matches, state, cores)
    regression = Term(
        "regression",
        regression_links(cores, unmatched),
        options.regression_gamma,
        options.regression_share,
        1e-4 * float(np.median(cores.depth)),
        sized=not options.metric,
    )
    priors = Priors(
        principal_weight=options.principal_weight,
        principal_start=state.principal_point,
        focal_weight=options.focal_weight,
        focal_start=state.log_focal,
    )
    coarse = [
        Term("points", match_links(cores, used), options.coarse_gamma, 1.0, regression.floor),
        regression,
    ]
    columns = _columns(state, chain.root, size=True)
    state, coarse_loss = minimise(
        coarse, state, cores, columns, priors, options.coarse_steps, options.tolerance
    )
    scale = np.exp(state.log_size)
    fine_loss: list[float] = []
    if options.fine_steps:
        if options.free_depth:
            state = replace(state, depth=np.maximum(state.core_depth(cores), 1e-6))
        fine = [
            Term("pixels", projection_links(cores, used), options.fine_gamma, 1.0, 1e-3),
            regression,
        ]
        columns = _columns(
            state,
            chain.root,
            size=not options.free_depth,
            focal=options.free_focal & ~_any_of_lens(np.isfinite(known), state.lens),
            principal=options.free_principal_point,
        )
        state, fine_loss = minimise(
            fine, state, cores, columns, priors, options.fine_steps, options.tolerance
        )
        if options.free_depth:
            seen = np.bincount(fine[0].links.source.core, minlength=len(cores.depth)) > 0
            state = replace(state, depth=_filled(state, cores, seen))
    return _result(state, cores, views, scale, chain, coarse_loss, fine_loss)


def _filled(state: State, cores: Cores, seen: NDArray[np.bool_]) -> Float64Array:
    """(P,) core depths; those that no match sees follow their neighbours."""
    assert state.depth is not None
    tied = replace(state, depth=None).core_depth(cores)
    tied = np.maximum(tied, 1e-3 * state.depth)
    ratio = np.log(state.depth / tied)
    filled = []
    for i, view in enumerate(cores.views):
        part, shape = slice(cores.start[i], cores.start[i + 1]), view.core_depth.shape
        own, known = ratio[part].reshape(shape), seen[part].reshape(shape)
        typical = float(np.median(own[known])) if known.any() else 0.0
        mass = gaussian_filter(known.astype(np.float64), _NEIGHBOURS, mode="constant") + 1e-3
        near = gaussian_filter(np.where(known, own - typical, 0.0), _NEIGHBOURS, mode="constant")
        filled.append(np.where(known, own, near / mass + typical).reshape(-1))
    return tied * np.exp(np.concatenate(filled))


def _per_image(values: ArrayLike | None, count: int, name: str) -> Float64Array:
    found = np.full(count, np.nan) if values is None else np.asarray(values, np.float64)
    if found.shape != (count,):
        raise ValueError(f"{name} must have one value per image, ({count},), got {found.shape}")
    return found


def _lenses(
    views: Sequence[CanonicalView], lens: Sequence[int] | None, options: SparseOptions
) -> IntArray:
    if lens is not None:
        if len(lens) != len(views):
            raise ValueError(f"lens must have one number per image, {len(views)}, got {len(lens)}")
        return np.unique(np.asarray(lens), return_inverse=True)[1].reshape(-1)
    if not options.shared_intrinsics:
        return np.arange(len(views))
    sizes = np.array([view.size for view in views])
    return np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1)


def _intrinsics(
    views: Sequence[CanonicalView],
    cores: Cores,
    lens: IntArray,
    known: Float64Array,
    start: Float64Array,
) -> State:
    """A state with the known focal lengths, or where each starts; of a lens, their mean."""
    count = len(views)
    focal = np.where(np.isfinite(start), start, cores.focal)
    focal = np.where(np.isfinite(known), known, focal)
    weight = np.array([view.confidence.mean(dtype=np.float64) for view in views])
    # where some focal length of a lens is known, the others have no say
    weight *= np.where(np.isfinite(known), 1.0, 1e-9)
    mass = np.bincount(lens, weight)
    return State(
        rotation=np.tile(np.eye(3), (count, 1, 1)),
        center=np.zeros((count, 3)),
        lens=lens,
        log_focal=np.log(np.bincount(lens, weight * focal) / mass),
        principal_point=np.full((len(mass), 2), 0.5),
        log_size=np.zeros(count),
        depth=None,
        extent=np.array([[view.size[1], view.size[0]] for view in views], np.float64),
    )


def _scores(count: int, matches: Sequence[SparseMatches]) -> Float64Array:
    """(N, N) numbers of matches."""
    scores = np.zeros((count, count))
    for m in matches:
        scores[m.first, m.second] = scores[m.second, m.first] = len(m.confidence)
    return scores


def _any_of_lens(flag: NDArray[np.bool_], lens: IntArray) -> NDArray[np.bool_]:
    """(N,) whether the flag is up for any image of the same lens."""
    return (np.bincount(lens, flag) > 0)[lens]


def _columns(
    state: State,
    root: int,
    size: bool,
    focal: NDArray[np.bool_] | bool = False,
    principal: bool = False,
) -> IntArray:
    """(N, 10) parameter of each column; the largest is that of all that is held."""
    count, lenses = len(state.center), len(state.log_focal)
    columns = np.arange(count)[:, None] * 7 + np.arange(COLUMNS)
    columns[:, SIZE] = np.arange(count) * 7 + 6
    start = 7 * count + 3 * state.lens
    columns[:, FOCAL] = start
    columns[:, PRINCIPAL] = start[:, None] + [1, 2]
    held = 7 * count + 3 * lenses
    columns[root, :6] = held
    if not size:
        columns[:, SIZE] = held
    columns[~np.broadcast_to(focal, count), FOCAL] = held
    if not principal:
        columns[:, PRINCIPAL] = held
    return columns


def _result(
    state: State,
    cores: Cores,
    views: Sequence[CanonicalView],
    scale: Float64Array,
    chain: Chain,
    coarse_loss: list[float],
    fine_loss: list[float],
) -> SparseAlignment:
    poses = np.tile(np.eye(4), (len(views), 1, 1))
    poses[:, :3, :3] = np.swapaxes(state.rotation, 1, 2)
    poses[:, :3, 3] = -np.einsum("vij,vj->vi", poses[:, :3, :3], state.center)
    depth = state.core_depth(cores)
    return SparseAlignment(
        cam_from_world=poses,
        focal_px=state.focal,
        principal_point_px=state.principal_px,
        core_depth=[
            depth[cores.start[i] : cores.start[i + 1]].reshape(view.core_depth.shape)
            for i, view in enumerate(views)
        ],
        depth_scale=scale,
        chain=chain,
        coarse_loss=coarse_loss,
        fine_loss=fine_loss,
    )
