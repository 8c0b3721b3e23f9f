"""The road from the evidence of the pairs to sparsely aligned cameras, component by component."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..images import View
from ..job.evidence import OwnMap
from ..matching.descriptors import Matches
from .align import SparseAlignment, SparseOptions, align_sparse
from .canonical import CanonicalStack, CanonicalView
from .problem import Float64Array, SparseMatches

_FEWEST = 12  # matches of a pair that says anything
_MOST = 1000  # matches of a pair that are used; more cost time and tell nothing new


@dataclass(frozen=True, eq=False)
class SparseComponent:
    """Aligned images of one connected component.

    Attributes:
        images: their indices, ascending.
        views: their canonical views.
        alignment: cameras and depths, in the order of `images`.
        matches: those used, by image index.
    """

    images: list[int]
    views: list[CanonicalView]
    alignment: SparseAlignment
    matches: list[SparseMatches]


class CanonicalStacks:
    """Canonical stacks of all photos, filled as the pairs come.

    Args:
        views: the photos.
        subsample: side of a block, network pixels.
    """

    def __init__(self, views: Sequence[View], subsample: int = 8) -> None:
        self._stacks = [CanonicalStack(view.size, subsample, metric=False) for view in views]

    def add(self, image: int, own: OwnMap, focal_px: float) -> None:
        """Add what one pair says of an image.

        Args:
            image: index of the photo.
            own: depth and confidence.
            focal_px: of the pair's pointmap, network pixels.
        """
        height, width = own.depth.shape
        if not (np.isfinite(focal_px) and focal_px > 0):
            focal_px = 1.2 * max(height, width)
        y, x = np.mgrid[0:height, 0:width] + 0.5
        slope = np.stack([x - width / 2, y - height / 2, np.full_like(x, focal_px)], -1) / focal_px
        depth = own.depth[..., None]
        self._stacks[image].add(slope.astype(np.float32) * depth, own.confidence)

    def finish(self, image: int) -> CanonicalView:
        """The canonical view of a photo that is in some pair."""
        return self._stacks[image].finish()


@dataclass(frozen=True, eq=False)
class VerifiedPair:
    """Matches of a pair in network pixels, and which fit one camera motion.

    Attributes:
        matches: all of them, with the indices of the photos.
        inliers: (n,) bool.
    """

    matches: SparseMatches
    inliers: NDArray[np.bool_]


def verify_pair(
    views: Sequence[View],
    pair: tuple[int, int],
    matches: Matches,
    focal_px: Sequence[float],
    max_error_network_px: float = 1.5,
    seed: int = 0,
) -> VerifiedPair:
    """Find the matches that fit one camera motion.

    Args:
        views: the photos.
        pair: indices of two of them.
        matches: in original pixels.
        focal_px: per photo a guess in original pixels.
        max_error_network_px: inlier threshold.
        seed: of the sampling.
    """
    i, j = pair
    xy = [
        np.asarray(views[k].ledger.points_to_network(points), np.float64)
        for k, points in ((i, matches.xy1), (j, matches.xy2))
    ]
    cameras = []
    for k in pair:
        height, width = views[k].size
        focal = focal_px[k] / views[k].pixel_scale
        camera = pycolmap.Camera.create_from_model_name(k, "SIMPLE_PINHOLE", focal, width, height)
        camera.has_prior_focal_length = views[k].exif_focal_px is not None
        cameras.append(camera)
    inliers = np.zeros(len(matches), bool)
    if len(matches) >= _FEWEST:
        options = pycolmap.TwoViewGeometryOptions()
        options.detect_watermark = False
        options.ransac.max_error = max_error_network_px
        options.ransac.random_seed = seed
        options.ransac.num_threads = 1
        rows = np.tile(np.arange(len(matches), dtype=np.uint32)[:, None], 2)
        pycolmap.set_random_seed(seed)
        found = pycolmap.estimate_two_view_geometry(
            cameras[0], xy[0], cameras[1], xy[1], rows, options
        )
        inliers[found.inlier_matches[:, 0]] = True
    confidence = matches.confidence.astype(np.float64)
    return VerifiedPair(SparseMatches(i, j, xy[0], xy[1], confidence), inliers)


def align_components(
    views: Sequence[View],
    stacks: CanonicalStacks,
    pairs: Iterable[VerifiedPair],
    focal_px: Sequence[float],
    lens: Sequence[int],
    known_focal_px: Mapping[int, float],
    options: SparseOptions,
) -> list[SparseComponent]:
    """Align every connected set of photos.

    Args:
        views: the photos.
        stacks: what the pairs said of each.
        pairs: those that are believed; only their inliers are used.
        focal_px: per photo, where its focal length starts, original pixels.
        lens: per photo a number; photos with the same one share intrinsics.
        known_focal_px: photo -> fixed focal length, original pixels.
        options: of the alignment.

    Returns:
        Components of two photos or more, largest first.
    """
    used = [_inliers(pair) for pair in pairs]
    if not used:
        return []
    ends = np.array([(m.first, m.second) for m in used]).T
    graph = coo_matrix((np.ones(len(used)), (ends[0], ends[1])), shape=(len(views), len(views)))
    _, label = connected_components(graph, directed=False)
    scale = np.array([view.pixel_scale for view in views])
    known = np.full(len(views), np.nan)
    known[list(known_focal_px)] = list(known_focal_px.values())
    components = []
    for k in np.unique(label[ends.reshape(-1)]):
        images = [int(i) for i in np.flatnonzero(label == k)]
        number = {image: n for n, image in enumerate(images)}
        canonical = [stacks.finish(i) for i in images]
        inside = [m for m in used if m.first in number]
        alignment = align_sparse(
            canonical,
            [replace(m, first=number[m.first], second=number[m.second]) for m in inside],
            options=replace(options, metric=False),
            known_focal_px=(known / scale)[images],
            start_focal_px=(np.asarray(focal_px) / scale)[images],
            lens=np.asarray(lens)[images].tolist(),
        )
        alignment = _in_first_camera(alignment)
        components.append(SparseComponent(images, canonical, alignment, inside))
    return sorted(components, key=lambda c: (-len(c.images), c.images[0]))


def shared_points(component: SparseComponent) -> dict[tuple[int, int], Float64Array]:
    """(i, j), i < j -> (n, 3) points of the matches, in the component's frame."""
    alignment, number = component.alignment, {i: n for n, i in enumerate(component.images)}
    found = {}
    for m in component.matches:
        n = number[m.first]
        pose = alignment.cam_from_world[n]
        depth = pixel_depth(component, n, m.xy1)
        slope = (m.xy1 - alignment.principal_point_px[n]) / alignment.focal_px[n]
        camera = np.concatenate([slope * depth[:, None], depth[:, None]], -1)
        found[(m.first, m.second)] = (camera - pose[:3, 3]) @ pose[:3, :3]
    return found


def pixel_depth(component: SparseComponent, n: int, xy: Float64Array) -> Float64Array:
    """Depth at pixels of the n-th image of a component."""
    view, alignment = component.views[n], component.alignment
    anchors = view.anchors(xy)
    bulge = (anchors.offset - 1.0) * view.focal_px / alignment.focal_px[n]
    return alignment.core_depth[n].reshape(-1)[anchors.core] * (1.0 + bulge)


def _in_first_camera(alignment: SparseAlignment) -> SparseAlignment:
    """The same scene with the first camera at the identity and a median core depth of one."""
    unit = 1.0 / float(np.median(np.concatenate([d.reshape(-1) for d in alignment.core_depth])))
    poses = alignment.cam_from_world @ np.linalg.inv(alignment.cam_from_world[0])
    poses[:, :3, 3] *= unit
    return replace(
        alignment,
        cam_from_world=poses,
        core_depth=[unit * depth for depth in alignment.core_depth],
        depth_scale=unit * alignment.depth_scale,
    )


def _inliers(pair: VerifiedPair) -> SparseMatches:
    m, keep = pair.matches, np.flatnonzero(pair.inliers)
    if len(keep) > _MOST:  # evenly, sure and unsure ones
        keep = keep[np.linspace(0, len(keep) - 1, _MOST).round().astype(int)]
    return replace(m, xy1=m.xy1[keep], xy2=m.xy2[keep], confidence=m.confidence[keep])
