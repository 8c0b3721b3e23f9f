"""Pictures of depth maps, for people to look at."""

from __future__ import annotations

import numpy as np

# Eight colours of matplotlib's map "viridis" (CC0), dark to bright.
_COLORS = np.array(
    [
        (68, 1, 84),
        (70, 50, 127),
        (54, 92, 141),
        (39, 127, 142),
        (31, 161, 135),
        (74, 194, 109),
        (159, 218, 58),
        (253, 231, 37),
    ],
    dtype=np.float64,
)
_INVALID = (40, 40, 40)


def depth_picture(depth: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Colour a depth map: near is bright, far is dark, pixels without depth are grey.

    The colours follow the inverse depth between its 2nd and 98th percentile, so that a few outliers
    do not take all of them.

    Args:
        depth: (H, W) z in any unit; NaN, infinity and values <= 0 are invalid.
        valid: (H, W) bool, False hides further pixels.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the shapes are wrong.
    """
    if depth.ndim != 2 or (valid is not None and valid.shape != depth.shape):
        shapes = f"{depth.shape}" + ("" if valid is None else f" and {valid.shape}")
        raise ValueError(f"expected an (H, W) depth map and a mask of its size, got {shapes}")
    shown = np.isfinite(depth) & (depth > 0)
    if valid is not None:
        shown &= valid
    picture = np.full((*depth.shape, 3), _INVALID, dtype=np.uint8)
    if not shown.any():
        return picture
    nearness = 1.0 / depth[shown].astype(np.float64)
    low, high = np.percentile(nearness, [2, 98])
    share = np.clip((nearness - low) / (high - low), 0, 1) if high > low else nearness * 0 + 0.5
    stops = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(share, stops, _COLORS[:, c]) for c in range(3)]
    picture[shown] = np.stack(channels, axis=-1).round().astype(np.uint8)
    return picture
