"""Masks of points to leave out: floating in front of other photos' surfaces, sky, far away.

Confidences are never changed: a mask is an answer of its own, and thresholds keep their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image
from scipy import ndimage

from ..geometry.camera import Camera

MIN_TOLERANCE, MAX_TOLERANCE = 0.01, 0.15
_SPREADS = 3.0  # a contradiction lies further off than this many spreads of the agreeing depths
_AGREES_WITHIN = 0.2
_LEVELS = 4  # of confidence; each has a spread of its own
_FEW = 50  # agreeing points from which a spread is measured


@dataclass(frozen=True)
class Surface:
    """What one photo says of the scene, at network size.

    Attributes:
        camera: of the network-sized image.
        depth: (H, W), NaN or <= 0 where there is none.
        confidence: (H, W).
    """

    camera: Camera
    depth: np.ndarray
    confidence: np.ndarray

    @cached_property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat pixels (n,) with a depth, and their world points (n, 3); made once per photo."""
        width = self.depth.shape[1]
        index = np.flatnonzero(np.isfinite(self.depth) & (self.depth > 0))
        pixels = np.stack([index % width + 0.5, index // width + 0.5], axis=-1)
        return index, self.camera.unproject(pixels, self.depth.reshape(-1)[index])


@dataclass(frozen=True)
class Landing:
    """Where the points of one photo come to lie in another one.

    Attributes:
        index: (n,) flat pixel in the first photo.
        depth: (n,) of the point in the other camera.
        seen: (n,) depth that the other photo has at that pixel.
        surer: (n,) bool, the other photo is the surer of the two.
        confidence: (n,) the lower of both confidences.
    """

    index: np.ndarray
    depth: np.ndarray
    seen: np.ndarray
    surer: np.ndarray
    confidence: np.ndarray


def consistency_masks(
    surfaces: Mapping[int, Surface], tolerance: float | None = None
) -> dict[int, np.ndarray]:
    """Find the points that no other photo contradicts.

    A point is contradicted by a photo that is surer at the pixel where the point would appear, and
    sees there something clearly behind it. The result does not depend on the order of the photos.

    Args:
        surfaces: photos of one component.
        tolerance: how much nearer a point must lie, as a share of the depth; None measures it:
            three times the spread of the depths that agree, by confidence, between 1 and 15 %.

    Returns:
        Per photo (H, W) bool, True = keep. Pixels without depth are True: nothing speaks against
        them.

    Raises:
        ValueError: if the tolerance is not between 0 and 1.

    Reference: the idea of DUSt3R's cleaning (Wang et al., CVPR 2024, supplementary), with the
    original confidences and a tolerance from the data.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is a share of the depth, 0 <= tolerance < 1, got {tolerance}")
    masks = {}
    for i, own in surfaces.items():
        keep = np.ones(own.depth.size, dtype=bool)
        for j, other in surfaces.items():
            if i != j:
                landing = land(own, other)
                limit = measured_tolerance(landing) if tolerance is None else tolerance
                keep[landing.index[contradicted(landing, limit)]] = False
        masks[i] = keep.reshape(own.depth.shape)
    return masks


def land(own: Surface, other: Surface) -> Landing:
    """Project all points of a photo into another one; those outside its image are left out."""
    index, points = own.points
    xy, z = other.camera.project(points)
    rows, columns = other.depth.shape
    inside = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 1] >= 0)
    inside &= (xy[:, 0] < columns) & (xy[:, 1] < rows)
    index, xy, z = index[inside], xy[inside], z[inside]
    at = np.floor(xy[:, 1]).astype(int), np.floor(xy[:, 0]).astype(int)
    seen, confidence = other.depth[at], other.confidence[at]
    known = np.isfinite(seen) & (seen > 0)
    own_confidence = own.confidence.reshape(-1)[index]
    return Landing(
        index=index[known],
        depth=z[known],
        seen=seen[known],
        surer=(own_confidence < confidence)[known],
        confidence=np.minimum(own_confidence, confidence)[known],
    )


def contradicted(landing: Landing, tolerance: float | np.ndarray) -> np.ndarray:
    """Tell which points lie in front of a surface that the other photo is surer of, (n,) bool."""
    return landing.surer & (landing.depth < (1 - tolerance) * landing.seen)


def measured_tolerance(landing: Landing) -> np.ndarray:
    """Per point (n,), three times the spread of relative depth among points of its confidence."""
    relative = np.abs(landing.depth / landing.seen - 1)
    agrees = relative < _AGREES_WITHIN
    tolerance = np.full(len(relative), MAX_TOLERANCE)
    if not agrees.any():
        return tolerance
    edges = np.quantile(landing.confidence[agrees], np.linspace(0, 1, _LEVELS + 1)[1:-1])
    level = np.searchsorted(edges, landing.confidence, side="right")
    for k in range(_LEVELS):
        members = relative[agrees & (level == k)]
        if len(members) >= _FEW:
            spread = 1.4826 * float(np.median(members))
            tolerance[level == k] = np.clip(_SPREADS * spread, MIN_TOLERANCE, MAX_TOLERANCE)
    return tolerance


def sky_mask(rgb: np.ndarray) -> np.ndarray:
    """Guess which pixels show sky: blue or bright grey, in large pieces that reach the top edge.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W) bool, True = sky.
    """
    channels = np.asarray(Image.fromarray(rgb).convert("HSV"))
    hue, saturation, value = channels[..., 0], channels[..., 1], channels[..., 2]
    hue = hue.astype(np.float64) * (360 / 255)
    blue = (hue >= 180) & (hue <= 250) & (value >= 100) & (saturation >= 25)
    grey = (saturation < 10) & (value > 150)
    grey |= (saturation < 30) & (value > 180)
    grey |= (saturation < 50) & (value > 220)
    candidates = ndimage.binary_opening(blue | grey, np.ones((5, 5), bool))
    pieces, count = ndimage.label(candidates, np.ones((3, 3), bool))  # pyright: ignore
    if count == 0:
        return np.zeros(rgb.shape[:2], dtype=bool)
    sizes = np.bincount(pieces.reshape(-1))
    sizes[0] = 0
    kept = np.flatnonzero(sizes > sizes.max() / 2)
    kept = np.intersect1d(kept, np.unique(pieces[:3]))
    return np.isin(pieces, kept)


def near_mask(depth: np.ndarray, times: float) -> np.ndarray:
    """Find the pixels at most `times` as far away as the median of their photo.

    Args:
        depth: (H, W), NaN or <= 0 where there is none; such pixels are True.
        times: the limit as a multiple of the median depth.

    Returns:
        (H, W) bool, True = keep.

    Raises:
        ValueError: `times` is not positive.
    """
    if not times > 0:
        raise ValueError(f"a distance limit is a positive multiple of the median, got {times}")
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        return np.ones(depth.shape, dtype=bool)
    return ~(known & (depth > times * float(np.median(depth[known]))))


def joined(masks: Sequence[Mapping[int, np.ndarray]], count: int) -> list[np.ndarray | None]:
    """Join masks of the same photos, for the argument `masks` of the exporters.

    Args:
        masks: each photo -> (H, W) bool, True = keep.
        count: photos of the scene; those without a mask get None.
    """
    result: list[np.ndarray | None] = [None] * count
    for group in masks:
        for i, mask in group.items():
            known = result[i]
            result[i] = mask if known is None else known & mask
    return result
