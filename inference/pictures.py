"""Pictures of depth, confidence, normals and matches, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

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
# Distinct on light and dark backgrounds; repeated for more photos than colours.
_SOURCE_COLORS = np.array(
    [
        (230, 60, 50),
        (50, 140, 240),
        (70, 180, 70),
        (245, 160, 30),
        (150, 90, 210),
        (40, 190, 190),
        (235, 90, 170),
        (150, 140, 40),
    ],
    dtype=np.uint8,
)
_FITS, _FITS_NOT, _MARKED = (60, 220, 90, 170), (240, 70, 60, 120), (255, 200, 40, 255)
_GAP = 8

PointColor = Literal["photo", "source", "confidence"]


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
    shown = _shown("depth map", depth, valid)
    shown &= depth > 0
    picture = np.full((*depth.shape, 3), _INVALID, dtype=np.uint8)
    if not shown.any():
        return picture
    nearness = 1.0 / depth[shown].astype(np.float64)
    low, high = np.percentile(nearness, [2, 98])
    share = np.clip((nearness - low) / (high - low), 0, 1) if high > low else nearness * 0 + 0.5
    picture[shown] = _viridis(share)
    return picture


def confidence_picture(
    confidence: np.ndarray, valid: np.ndarray | None = None, ceiling: float | None = None
) -> np.ndarray:
    """Colour a confidence map: sure is bright, a guess is dark.

    Args:
        confidence: (H, W), from 1 upwards; the colours follow its logarithm.
        valid: (H, W) bool, False makes pixels grey.
        ceiling: confidence of the brightest colour; None: the 98th percentile.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the shapes are wrong.
    """
    shown = _shown("confidence map", confidence, valid)
    picture = np.full((*confidence.shape, 3), _INVALID, dtype=np.uint8)
    if shown.any():
        values = confidence[shown]
        top = float(np.percentile(values, 98)) if ceiling is None else ceiling
        picture[shown] = _confidence_colors(values, top)
    return picture


def normals_picture(
    depth: np.ndarray, K: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """Colour the directions that the surfaces of a depth map face.

    Red grows to the right, green upwards, blue towards the camera; (128, 128, 255) faces it. They
    come from points two pixels apart, and pixels at depth jumps of over 5 % have none.

    Args:
        depth: (H, W) z in any unit; NaN, infinity and values <= 0 are invalid.
        K: (3, 3) intrinsics in pixels at the size of `depth`.
        valid: (H, W) bool, False hides further pixels.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the shapes are wrong.
    """
    shown = _shown("depth map", depth, valid)
    z = np.where(shown & (depth > 0), depth, np.nan).astype(np.float64)
    height, width = z.shape
    x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    points = np.stack([x[None] * z, y[:, None] * z, z], axis=-1)
    normals = np.full_like(points, np.nan)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normals[1:-1, 1:-1] = np.cross(down, across)
    jump = np.maximum(np.abs(across[..., 2]), np.abs(down[..., 2])) > 0.05 * z[1:-1, 1:-1]
    normals[1:-1, 1:-1][jump] = np.nan
    with np.errstate(invalid="ignore"):
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    known = np.isfinite(normals).all(-1)
    picture = np.full((height, width, 3), _INVALID, dtype=np.uint8)
    facing = normals[known] * np.array([1, -1, -1])  # y points down, z away from the camera
    picture[known] = ((facing * 0.5 + 0.5) * 255).round().clip(0, 255).astype(np.uint8)
    return picture


def point_colors(
    by: PointColor, photo: np.ndarray, confidence: np.ndarray, source: np.ndarray, ceiling: float
) -> np.ndarray:
    """Colour points by what they look like, by the photo they come from, or by how sure they are.

    Args:
        by: "photo", "source" (a colour per photo, as bright as the photo) or "confidence".
        photo: (N, 3) uint8.
        confidence: (N,).
        source: (N,) int, index of the photo.
        ceiling: confidence of the brightest colour.

    Returns:
        (N, 3) uint8.

    Raises:
        ValueError: `by` is unknown.
    """
    if by == "photo":
        return photo
    if by == "confidence":
        return _confidence_colors(confidence, ceiling)
    if by == "source":
        brightness = photo.astype(np.float32) @ np.array([0.299, 0.587, 0.114]) / 255
        colors = source_colors(source) * (0.35 + 0.65 * brightness[:, None])
        return colors.round().astype(np.uint8)
    raise ValueError(f"color must be 'photo', 'source' or 'confidence', got {by!r}")


def source_colors(index: np.ndarray | int) -> np.ndarray:
    """(..., 3) uint8: the colour that stands for a photo, everywhere the same."""
    return _SOURCE_COLORS[np.asarray(index) % len(_SOURCE_COLORS)]


def beside(*pictures: np.ndarray, gap: int = 6) -> np.ndarray:
    """Put pictures (H, W, 3) of equal height next to each other, on white with a gap."""
    height = pictures[0].shape[0]
    space = np.full((height, gap, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (space, picture)]
    return np.concatenate(parts[1:], axis=1)


def matches_picture(
    left: np.ndarray,
    right: np.ndarray,
    xy1: np.ndarray,
    xy2: np.ndarray,
    fits: np.ndarray,
    *,
    max_lines: int = 150,
    scale: int = 1,
    marked: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Image.Image:
    """Two photos side by side, with lines between matching points.

    Args:
        left: (H, W, 3) uint8.
        right: (H', W', 3) uint8.
        xy1: (N, 2) points in the left photo, pixels, centres at half-integers.
        xy2: (N, 2) in the right one.
        fits: (N,) bool: green if True, else red.
        max_lines: of more matches an even choice is drawn.
        scale: enlarges the picture, so that the lines are thin.
        marked: a point in the left and one in the right photo to point out; the others pale.
    """
    offset = left.shape[1] + _GAP
    canvas = Image.new("RGB", (offset + right.shape[1], max(left.shape[0], right.shape[0])))
    canvas.paste((20, 20, 20), (0, 0, *canvas.size))
    canvas.paste(Image.fromarray(left), (0, 0))
    canvas.paste(Image.fromarray(right), (offset, 0))
    if scale > 1:
        size = (canvas.width * scale, canvas.height * scale)
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas, "RGBA")
    count = min(max_lines, len(xy1))
    for k in np.unique(np.linspace(0, len(xy1) - 1, count).astype(int)) if count else ():
        red, green, blue, alpha = _FITS if fits[k] else _FITS_NOT
        color = (red, green, blue, alpha if marked is None else alpha // 4)
        start, end = scale * xy1[k], scale * (xy2[k] + (offset, 0))
        draw.line([*map(float, start), *map(float, end)], fill=color, width=1)
    if marked is not None:
        start, end = (np.asarray(point, dtype=float) for point in marked)
        start, end = scale * start, scale * (end + (offset, 0))
        draw.line([*start, *end], fill=_MARKED, width=1 + scale)
        for x, y in (start, end):
            r = 3.5 * scale
            draw.ellipse([x - r, y - r, x + r, y + r], outline=_MARKED, width=1 + scale)
    return canvas


def _shown(what: str, values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """(H, W) bool: pixels to colour."""
    if values.ndim != 2 or (valid is not None and valid.shape != values.shape):
        shapes = f"{values.shape}" + ("" if valid is None else f" and {valid.shape}")
        raise ValueError(f"expected an (H, W) {what} and a mask of its size, got {shapes}")
    shown = np.isfinite(values)
    return shown if valid is None else shown & valid


def _confidence_colors(confidence: np.ndarray, ceiling: float) -> np.ndarray:
    top = max(float(np.log(max(ceiling, 1.0))), 1e-6)
    return _viridis(np.log(np.maximum(confidence.astype(np.float64), 1.0)) / top)


def _viridis(share: np.ndarray) -> np.ndarray:
    """(N,) in 0..1 to (N, 3) uint8."""
    stops = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(share, stops, _COLORS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
