"""Cameras from pointmaps where some intrinsics, poses or depths are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..alignment.dense import DenseAlignment, DenseOptions, align_samples
from ..alignment.pairs import GRID, AlignedCameras, PairSamples, samples_on_grid
from ..images import View
from .values import Given, at_network_size

_OPTIONS = DenseOptions(focal_evidence=False)  # as in `align_pairs`


def align_known(
    samples: Sequence[PairSamples], views: Sequence[View], given: Given
) -> list[AlignedCameras]:
    """Align all pairs with what is known held, or drawn to where it is a prior.

    Args:
        samples: directed pairs on the sampling grid.
        views: the photos.
        given: what is known of them.

    Returns:
        One result per connected component of two images or more, largest first; in the given world
        where poses are known. Principal points are at the centre: the caller puts fixed ones back.
    """
    edges = sorted((s for s in samples if s.frame != s.other), key=lambda s: (s.frame, s.other))
    if not edges:
        return []
    ends = ([e.frame for e in edges], [e.other for e in edges])
    graph = coo_matrix((np.ones(len(edges)), ends), shape=(len(views), len(views)))
    _, label = connected_components(graph, directed=False)
    found = []
    for k in np.unique(label[ends[0]]):
        images = [int(i) for i in np.flatnonzero(label == k)]
        inside = [e for e in edges if label[e.frame] == k]
        arrays = _known_arrays([views[i] for i in images], images, given)
        result = align_samples(samples_on_grid(inside, images), _OPTIONS, **arrays)  # type: ignore[arg-type]
        found.append(_as_cameras(result, images, inside))
    return sorted(found, key=lambda c: (-len(c.images), c.images[0]))


def _known_arrays(
    views: Sequence[View], images: list[int], given: Given
) -> dict[str, np.ndarray | list[np.ndarray | None]]:
    """What is known, per image in network pixels; NaN where nothing is."""
    count = len(images)
    focal, focal_sigma = np.full(count, np.nan), np.zeros(count)
    point = np.full((count, 2), np.nan)
    pose, center_sigma = np.full((count, 4, 4), np.nan), np.zeros(count)
    depth: list[np.ndarray | None] = [None] * count
    for n, (image, view) in enumerate(zip(images, views, strict=True)):
        entry = given.views.get(image)
        if entry is None:
            continue
        if entry.K is not None:
            K = np.asarray(view.ledger.K_to_network(entry.K))
            focal[n] = np.sqrt(K[0, 0] * K[1, 1])
            focal_sigma[n] = entry.intrinsics_trust.sigma / view.pixel_scale
            point[n] = K[:2, 2]
        if entry.cam_from_world is not None:
            pose[n], center_sigma[n] = entry.cam_from_world, entry.pose_trust.sigma
        if entry.depth is not None and entry.depth_trust.fixed:
            depth[n] = at_network_size(view, entry.depth)
    return {
        "known_focal_px": focal,
        "focal_sigma_px": focal_sigma,
        "known_principal_point_px": point,
        "known_cam_from_world": pose,
        "center_sigma": center_sigma,
        "known_depth": depth,
    }


def _as_cameras(
    result: DenseAlignment, images: list[int], edges: Sequence[PairSamples]
) -> AlignedCameras:
    residuals = zip(edges, result.residual, strict=True)
    return AlignedCameras(
        images=images,
        cam_from_world=result.cam_from_world,
        focal_px=result.focal_px,
        grid_depth=np.stack(result.grid_depth).reshape(-1, GRID, GRID),
        objective=result.objective[-1],
        residuals={(e.frame, e.other): float(r) for e, r in residuals},
        rounds=len(result.objective) - 1,
    )
