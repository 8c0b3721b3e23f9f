"""How well the matches of each pair fit the cameras that came out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..geometry._epipolar import rays, sampson_px
from ..geometry.camera import Camera
from .matching.descriptors import Matches
from .report import EdgeReport

FITS_WITHIN_PX = 4.0
"""Largest epipolar distance of a match that fits, pixels at a long side of 640."""


def edge_reports(
    matches: Mapping[tuple[int, int], Matches], cameras: Mapping[int, Camera]
) -> list[EdgeReport]:
    """Measure the epipolar distances of all matches under the final cameras.

    Args:
        matches: (i, j) -> matches in original pixels.
        cameras: image -> camera in original pixels; pairs of images in different components are
            as meaningless as missing ones, so give the cameras of one component at a time.

    Returns:
        One entry per pair whose two images have cameras, sorted by (i, j).
    """
    reports = []
    for (i, j), found in sorted(matches.items()):
        if i not in cameras or j not in cameras:
            continue
        first, second = cameras[i], cameras[j]
        distances = epipolar_distances_px(found, first, second)
        unit = max(first.height, first.width, second.height, second.width) / 640
        fits = distances <= FITS_WITHIN_PX * unit
        median = float(np.median(distances[fits])) if fits.any() else None
        reports.append(EdgeReport(i, j, len(found), int(fits.sum()), median))
    return reports


def epipolar_distances_px(matches: Matches, first: Camera, second: Camera) -> np.ndarray:
    """Sampson distances (N,) of matches to the epipolar geometry of two cameras, pixels.

    Two cameras at one place have none: the distance is then to the pixel that a rotation alone
    predicts.

    Reference: Hartley & Zisserman, Multiple View Geometry, eq. 11.9.
    """
    second_from_first = second.cam_from_world @ first.world_from_cam
    rays1 = rays(matches.xy1.astype(np.float64), first.K)
    rays2 = rays(matches.xy2.astype(np.float64), second.K)
    if np.linalg.norm(second_from_first[:3, 3]) < 1e-12:
        turned = rays1 @ second_from_first[:3, :3].T
        difference = turned[:, :2] / turned[:, 2:] - rays2[:, :2]
        return np.linalg.norm(difference * (second.K[0, 0], second.K[1, 1]), axis=1)
    return np.abs(sampson_px(second_from_first, rays1, rays2, first.K, second.K))
