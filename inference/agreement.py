"""How much of what pairs of photos say fits the cameras that were found from all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..geometry._epipolar import depths, sampson_px
from ..geometry.camera import Camera

_WITHIN = 3.0  # inlier thresholds from an epipolar line

# Dense matching finds some camera motion that explains a quarter of the matches of any two photos
# of look-alike things. The surest matches tell: of ten such pairs at most a third of them agreed
# (measured on photos with ground truth). Right poses of photos that hardly overlap fall below, too.
SUREST_AGREE = 0.5
_SUREST_SHARE, _FEWEST_SUREST = 0.1, 20


def number_of_surest(matches: int) -> int:
    """How many of so many matches count as the surest ones."""
    return min(matches, max(_FEWEST_SUREST, int(_SUREST_SHARE * matches)))


def surest_agreeing(surest: np.ndarray, inliers: np.ndarray) -> float:
    """Share of the surest matches that are among the inliers; 1 where there are none.

    Args:
        surest: (n, 4) float32, x and y in both images.
        inliers: (m, 4) float32, likewise.
    """
    if not len(surest):
        return 1.0
    among = set(map(bytes, np.ascontiguousarray(inliers, np.float32)))
    return float(np.mean([row in among for row in map(bytes, np.ascontiguousarray(surest))]))


def agreeing_share(
    matches: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]],
    models: Sequence[Mapping[int, Camera]],
    max_error_px: float,
) -> float:
    """Share of the matches that lie on the epipolar lines of the cameras.

    Matches of two photos that stand in different models count as disagreeing; photos without a
    camera are left out. 1 where nothing can be compared.

    Args:
        matches: (i, j) -> pixels (n, 2) of i and of j that fit one camera motion, original pixels.
        models: per component, image -> camera.
        max_error_px: inlier threshold of the matches.
    """
    home = {image: k for k, model in enumerate(models) for image in model}
    agreeing = total = 0
    for (i, j), (xy1, xy2) in matches.items():
        if i not in home or j not in home:
            continue
        total += len(xy1)
        if home[i] == home[j]:
            model = models[home[i]]
            error = epipolar_error_px(model[i], model[j], xy1, xy2)
            agreeing += int((error < _WITHIN * max_error_px).sum())
    return agreeing / total if total else 1.0


def epipolar_error_px(
    first: Camera, second: Camera, xy1: np.ndarray, xy2: np.ndarray
) -> np.ndarray:
    """Sampson distance (n,) of matches from the epipolar geometry of two cameras, pixels.

    Matches that meet behind a camera are infinitely wrong.
    """
    pose = second.cam_from_world @ np.linalg.inv(first.cam_from_world)
    rays1, rays2 = (
        np.concatenate([np.asarray(xy, float), np.ones((len(xy), 1))], 1) @ np.linalg.inv(K).T
        for xy, K in ((xy1, first.K), (xy2, second.K))
    )
    error = np.abs(sampson_px(pose, rays1, rays2, first.K, second.K))
    depth1, depth2, _ = depths(pose, rays1, rays2)
    return np.where((depth1 < 0) | (depth2 < 0), np.inf, error)
