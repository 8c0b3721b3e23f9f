"""Choose distinct, textured square crops from photographs and material images.

An image is cut on a grid at several scales; crops that are flat, blown out or look like a normal
map are dropped, the rest are ranked by how much of them is textured, and near duplicates of what
was taken before are left out. Only NumPy and Pillow are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

Category = Literal["photo", "material", "signage", "foliage"]

CROP_SIZE = 192
_SCALE_STEP = 0.6
_MAX_GRID = 60  # crops per scale
_CUT_OUT = ("signage", "foliage")  # images with transparency around one object


@dataclass(frozen=True)
class CropLimits:
    """What a crop must satisfy.

    Attributes:
        active: smallest share of the 8x8 cells with a mean gradient above 1.2 grey levels.
        contrast: smallest standard deviation in grey levels.
        clipped: largest share of nearly black or nearly white pixels.
    """

    active: float
    contrast: float
    clipped: float


LIMITS: dict[Category, CropLimits] = {
    "photo": CropLimits(active=0.62, contrast=9, clipped=0.35),
    "material": CropLimits(active=0.45, contrast=5, clipped=0.2),
    "signage": CropLimits(active=0.12, contrast=18, clipped=0.8),
    "foliage": CropLimits(active=0.12, contrast=18, clipped=0.8),
}


@dataclass(frozen=True)
class Crop:
    """A crop and where it came from.

    Attributes:
        pixels: uint8 (CROP_SIZE, CROP_SIZE, 3), sRGB.
        scale: resize factor applied to the image before cutting.
        left, top: of the crop in the resized image, pixels.
    """

    pixels: np.ndarray
    scale: float
    left: int
    top: int


class SeenCrops:
    """Remembers signatures of crops to recognise near duplicates."""

    def __init__(self, threshold: float) -> None:
        """Args: threshold: signature distance below which two crops count as the same."""
        self._threshold = threshold
        self._signatures = np.zeros((0, 147), np.float32)

    def add(self, pixels: np.ndarray) -> bool:
        """Remember a crop; False (and nothing remembered) if it resembles an earlier one."""
        signature = _signature(pixels)
        distances = np.linalg.norm(self._signatures - signature, axis=1)
        if distances.size and distances.min() < self._threshold:
            return False
        self._signatures = np.concatenate([self._signatures, signature[None]])
        return True


def _signature(pixels: np.ndarray) -> np.ndarray:
    """Normalised 12x12 luminance and the mean colour, (147,) float32."""
    small = Image.fromarray(pixels).resize((12, 12), Image.Resampling.BOX)
    colour = np.asarray(small, dtype=np.float32)
    luma = _luma(colour)
    shape = (luma - luma.mean()) / (luma.std() + 4) / 12
    return np.concatenate([shape.ravel(), (colour.mean((0, 1)) - 128) / 90]).astype(np.float32)


def _luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def score(pixels: np.ndarray, limits: CropLimits) -> float | None:
    """Rank a crop by how textured it is; None if it breaks a limit or looks like a normal map."""
    rgb = pixels.astype(np.float32)
    luma = _luma(rgb)
    smooth_x = (luma[:, :-2] + 2 * luma[:, 1:-1] + luma[:, 2:]) / 4
    smooth_y = (luma[:-2] + 2 * luma[1:-1] + luma[2:]) / 4
    gradient = np.hypot(
        (smooth_y[:, 2:] - smooth_y[:, :-2]) / 2, (smooth_x[2:] - smooth_x[:-2]) / 2
    )
    gradient = np.pad(gradient, 1, mode="edge")
    cell = pixels.shape[0] // 8
    cells = gradient[: 8 * cell, : 8 * cell].reshape(8, cell, 8, cell).mean((1, 3))
    active, contrast = float((cells > 1.2).mean()), float(luma.std())
    clipped = float(((luma < 6) | (luma > 250)).mean())
    if active < limits.active or contrast < limits.contrast or clipped > limits.clipped:
        return None
    bluish = (rgb[..., 2] > 170) & (np.abs(rgb[..., :2] - 128) < 70).all(-1)
    if bluish.mean() > 0.6:
        return None
    return 2 * active + min(float(gradient.mean()), 14) / 14 + min(contrast, 50) / 50


def read_image(path: Path, category: Category, rng: np.random.Generator) -> Image.Image | None:
    """Read an image as RGB; None for images that cannot serve (deep grey, mostly transparent).

    A cut-out object (sign, tree) is placed on a random vertical gradient.

    Raises:
        OSError: if the file is not a readable image.
    """
    with Image.open(path) as opened:
        if opened.mode.startswith("I") or opened.mode == "F":
            return None
        if opened.mode not in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
            return opened.convert("RGB")
        image = opened.convert("RGBA")
    hidden = float((np.asarray(image.getchannel("A")) < 128).mean())
    if category in _CUT_OUT and hidden > 0.02:
        return _on_gradient(image, rng)
    if hidden > 0.25:
        return None
    flat = Image.new("RGB", image.size, (128, 128, 128))
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def _on_gradient(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    size = CROP_SIZE
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    top, bottom = rng.integers(30, 255, (2, 3))
    ramp = np.linspace(0, 1, size)[:, None, None]
    rows = top * (1 - ramp) + bottom * ramp
    background = Image.fromarray(np.broadcast_to(rows, (size, size, 3)).astype(np.uint8))
    background.paste(image, ((size - image.width) // 2, (size - image.height) // 2), image)
    return background


def _scales(width: int, height: int) -> list[float]:
    """Resize factors from full size down to one crop across the short side."""
    smallest = CROP_SIZE / min(width, height)
    if smallest >= 1:
        return [smallest]
    # The finest level of a large camera image is mostly noise.
    scale = 1.0 if min(width, height) <= 2600 else _SCALE_STEP
    scales = []
    while scale > smallest:
        scales.append(scale)
        scale *= _SCALE_STEP
    return [*scales, smallest]


def choose_crops(
    image: Image.Image, category: Category, max_crops: int, rng: np.random.Generator
) -> list[Crop]:
    """Pick the best crops of an image that differ from one another.

    Args:
        image: RGB; images with a side below 144 or longer than 9:1 give no crops.
        category: decides the limits.
        max_crops: at most this many.
        rng: jitters the grid.
    """
    width, height = image.size
    if min(width, height) < 0.75 * CROP_SIZE or max(width, height) > 9 * min(width, height):
        return []
    ranked: list[tuple[float, Crop]] = []
    for scale in _scales(width, height):
        for crop in _grid(image, scale, rng):
            rank = score(crop.pixels, LIMITS[category])
            if rank is not None:
                ranked.append((rank, crop))
    ranked.sort(key=lambda pair: -pair[0])
    seen, chosen = SeenCrops(threshold=0.55), []
    for _, crop in ranked:
        if len(chosen) == max_crops:
            break
        if seen.add(crop.pixels):
            chosen.append(crop)
    return chosen


def _grid(image: Image.Image, scale: float, rng: np.random.Generator) -> list[Crop]:
    """Cut an image, resized by `scale`, into about non-overlapping crops."""
    width, height = (max(CROP_SIZE, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    columns, rows = width // CROP_SIZE, height // CROP_SIZE
    if columns * rows > _MAX_GRID:
        shrink = math.sqrt(_MAX_GRID / (columns * rows))
        columns, rows = max(1, int(columns * shrink)), max(1, int(rows * shrink))
    crops = []
    for row in range(rows):
        for column in range(columns):
            jitter_x, jitter_y = (int(step) for step in rng.integers(-10, 11, 2))
            left = int((column + 0.5) * width / columns - CROP_SIZE / 2) + jitter_x
            top = int((row + 0.5) * height / rows - CROP_SIZE / 2) + jitter_y
            left = min(max(left, 0), width - CROP_SIZE)
            top = min(max(top, 0), height - CROP_SIZE)
            cut = pixels[top : top + CROP_SIZE, left : left + CROP_SIZE]
            crops.append(Crop(cut, scale, left, top))
    return crops
