"""Photos to views: network-sized pixels plus the ledger that leads back to the original."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..geometry.ledger import Ledger
from ._decode import (
    MAX_MEGAPIXELS,
    DecodedImage,
    UnusableImageError,
    WarningCatcher,
    decode,
)
from ._sources import ImageSource, Source, find_duplicates, list_sources, unique_names

logger = logging.getLogger(__name__)

MIN_SIDE_PX = 16
"""Images with a shorter side than this hold nothing to reconstruct from."""

MAX_SIZE = 4096
"""Largest network size, pixels: beyond it the network takes tens of gigabytes."""

_MAX_THREADS = 8  # a 178-megapixel file takes 0.5 GB while it is decoded

Layout = Literal["fit", "reference"]


@dataclass(frozen=True)
class View:
    """One image, ready for the network.

    Attributes:
        name: unique within its set: the file name, with as many parent folders as uniqueness needs.
        path: absolute path of the file; None for an image that was given as an array.
        image: (3, H, W) float32 in [-1, 1], upright, at network size.
        ledger: maps between these pixels, the upright original and the stored file.
        exif_focal_px: focal length in pixels of the upright ORIGINAL, or None when EXIF is silent.
        mask: (H, W) bool, False where the image is transparent; None when it is opaque everywhere.
    """

    name: str
    path: Path | None
    image: Tensor
    ledger: Ledger
    exif_focal_px: float | None = None
    mask: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at network size."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    @property
    def pixel_scale(self) -> float:
        """Original pixels per network pixel, along the horizontal."""
        return 1.0 / self.ledger.scale[1]

    @property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 pixels at network size."""
        scaled = (self.image * 0.5 + 0.5).clamp(0, 1) * 255
        return scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


@dataclass(frozen=True)
class ImageProblem:
    """What was wrong with one file.

    Attributes:
        path: the file, as it was given.
        reason: one clause, to be read after the file name.
        skipped: True when the image is not among the views; False for a warning about a used one.
    """

    path: str
    reason: str
    skipped: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class LoadedImages:
    """Views in order, and everything that was odd about the files."""

    views: list[View]
    problems: list[ImageProblem]

    @property
    def skipped(self) -> list[ImageProblem]:
        """The problems that cost an image."""
        return [p for p in self.problems if p.skipped]

    def __len__(self) -> int:
        return len(self.views)


def load_images(
    images: ImageSource | Iterable[ImageSource],
    size: int = 512,
    patch_size: int = 16,
    *,
    layout: Layout = "fit",
    square_ok: bool = True,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> LoadedImages:
    """Load photos for the network.

    Bad files do not stop the others: they are listed, with the reason, in `problems`.

    Args:
        images: a folder (its images in natural order of their names, not recursive, hidden files
            left out), a file, or a list of files, (H, W, 3) uint8 RGB arrays and PIL images, which
            keep their order.
        size: length of the long side in pixels at network size.
        patch_size: both sides are multiples of it.
        layout: "fit" keeps as much of the image as possible: isotropic resize, then the side that
            is no multiple of the patch size loses at most half a patch to a centred crop.
            "reference" gives the exact sizes and pixels of the published DUSt3R and MASt3R loaders
            (224 means a centred square; other sizes cut up to one patch off each side).
        square_ok: False cuts square images to 4:3, which the published models were trained on.
        max_megapixels: larger files are refused.
        progress: called with (files done, files in all) after each file.

    Returns:
        Views and problems. Duplicates (the same bytes) are kept once.

    Raises:
        FileNotFoundError: a given path does not exist.
        ValueError: `size` does not fit `patch_size` or is above `MAX_SIZE`, or no image at all is
            usable; the message lists each file and its reason.
        TypeError: `images` is of another type.
    """
    if patch_size < 1 or size < 2 * patch_size and layout == "fit" or size < patch_size:
        raise ValueError(f"size must be at least two patches of {patch_size} px, got size={size}")
    if size > MAX_SIZE:
        raise ValueError(f"size={size} is more than the {MAX_SIZE} px that fit into memory")
    if layout not in ("fit", "reference"):
        raise ValueError(f"layout must be 'fit' or 'reference', got {layout!r}")
    sources = list_sources(images)
    names = unique_names(sources)
    duplicates = find_duplicates(sources)
    catcher = WarningCatcher()

    def load(index: int) -> tuple[View, tuple[str, ...]] | UnusableImageError:
        source, name = sources[index], names[index]
        try:
            if index in duplicates:
                raise UnusableImageError(f"duplicate of {names[duplicates[index]]}")
            decoded = _decode_source(source, size, layout, max_megapixels, catcher)
            view = _make_view(decoded, source, name, size, patch_size, layout, square_ok)
        except UnusableImageError as error:
            return error
        return view, decoded.notes

    views: list[View] = []
    problems: list[ImageProblem] = []
    threads = min(_MAX_THREADS, os.cpu_count() or 1, len(sources))
    with catcher.installed(), ThreadPoolExecutor(threads) as pool:
        for index, result in enumerate(pool.map(load, range(len(sources)))):
            source = sources[index]
            label = str(source) if isinstance(source, Path) else names[index]
            if isinstance(result, UnusableImageError):
                problems.append(ImageProblem(label, str(result)))
                logger.warning("%s: %s; skipped", label, result)
            else:
                views.append(result[0])
                problems += [ImageProblem(label, note, skipped=False) for note in result[1]]
            if progress is not None:
                progress(index + 1, len(sources))
    if not views:
        listing = "\n".join(f"  {p}" for p in problems)
        raise ValueError(f"none of the {len(sources)} images can be used:\n{listing}")
    return LoadedImages(views, problems)


def network_size(
    height: int,
    width: int,
    size: int = 512,
    patch_size: int = 16,
    *,
    layout: Layout = "fit",
    square_ok: bool = True,
) -> tuple[int, int]:
    """(height, width) that an upright image of this size gets at network size; see `load_images`.

    Raises:
        ValueError: the image is too small or too elongated.
    """
    plan = _plan(height, width, size, patch_size, layout, square_ok)
    return plan.resized if plan.crop_first else plan.crop[2:]


# -- sizes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """A crop (top, left, height, width) and a resize (height, width), in the order said."""

    crop: tuple[int, int, int, int]
    resized: tuple[int, int]
    crop_first: bool


def _plan(
    height: int, width: int, size: int, patch_size: int, layout: Layout, square_ok: bool
) -> _Plan:
    if min(height, width) < MIN_SIDE_PX:
        raise UnusableImageError(
            f"is only {width}x{height} pixels; each side needs at least {MIN_SIDE_PX}"
        )
    if layout == "reference":
        return _reference_plan(height, width, size, patch_size, square_ok)
    long_side = size // patch_size * patch_size
    scale = long_side / max(height, width)
    short = 0.75 * long_side if height == width and not square_ok else min(height, width) * scale
    short_side = int(short / patch_size + 0.5) * patch_size
    if short_side < 2 * patch_size:
        raise UnusableImageError(
            f"is too elongated ({width}x{height}): at network size its short side would be "
            f"{short:.0f} px, less than two patches of {patch_size} px"
        )
    target = (short_side, long_side) if height <= width else (long_side, short_side)
    # The crop is made at whichever of the two resolutions is finer, so that rounding it to whole
    # pixels spoils the isotropy of the resize least.
    if scale < 1:
        crop_h, crop_w = _largest_box(height, width, target[1] / target[0])
        crop = ((height - crop_h) // 2, (width - crop_w) // 2, crop_h, crop_w)
        return _Plan(crop, target, crop_first=True)
    cover = max(target[0] / height, target[1] / width)
    resized = (max(target[0], round(height * cover)), max(target[1], round(width * cover)))
    crop = ((resized[0] - target[0]) // 2, (resized[1] - target[1]) // 2, *target)
    return _Plan(crop, resized, crop_first=False)


def _largest_box(height: int, width: int, aspect: float) -> tuple[int, int]:
    """Largest (height, width) with width/height = aspect inside an image, in whole pixels."""
    if width > height * aspect:
        return height, max(1, round(height * aspect))
    return min(height, max(1, round(width / aspect))), width


def _reference_plan(height: int, width: int, size: int, patch_size: int, square_ok: bool) -> _Plan:
    """Sizes of the published loaders; spec/inference.md 1.1, golden load_images_sizes.json."""
    longest = max(height, width)
    target = round(size * max(width / height, height / width)) if size == 224 else size
    resized = (round(height * target / longest), round(width * target / longest))
    centre_y, centre_x = resized[0] // 2, resized[1] // 2
    if size == 224:
        half_h = half_w = float(min(centre_y, centre_x))
    else:
        half_h = 2 * centre_y // patch_size * patch_size / 2
        half_w = 2 * centre_x // patch_size * patch_size / 2
        if resized[0] == resized[1] and not square_ok:
            half_h = 3 * half_w / 4
    if min(half_h, half_w) < 0.5 * patch_size:
        raise UnusableImageError(
            f"is too elongated ({width}x{height}) for a network size of {size} px"
        )
    crop = (int(centre_y - half_h), int(centre_x - half_w), int(2 * half_h), int(2 * half_w))
    return _Plan(crop, resized, crop_first=False)


def _make_view(
    decoded: DecodedImage,
    source: Source,
    name: str,
    size: int,
    patch_size: int,
    layout: Layout,
    square_ok: bool,
) -> View:
    height, width = decoded.upright_size
    plan = _plan(height, width, size, patch_size, layout, square_ok)
    ledger = Ledger.from_file_size(*decoded.stored_size, exif_orientation=decoded.exif_orientation)
    if plan.crop_first:
        ledger = ledger.cropped(*plan.crop).resized(*plan.resized)
    else:
        ledger = ledger.resized(*plan.resized).cropped(*plan.crop)
    pixels = np.array(_resample(decoded.rgb, decoded, plan))
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    mask = None
    if decoded.alpha is not None:
        mask = torch.from_numpy(np.array(_resample(decoded.alpha, decoded, plan)) > 127)
        if not bool(mask.any()):
            raise UnusableImageError("is transparent everywhere")
    path = source.absolute() if isinstance(source, Path) else None
    return View(name, path, (image - 0.5) / 0.5, ledger, decoded.exif_focal_px, mask)


def _resample(image: Image.Image, decoded: DecodedImage, plan: _Plan) -> Image.Image:
    height, width = decoded.upright_size
    left, top, right, bottom = decoded.box
    if plan.crop_first:
        scale_x, scale_y = (right - left) / width, (bottom - top) / height
        crop_top, crop_left, crop_h, crop_w = plan.crop
        left, top = left + crop_left * scale_x, top + crop_top * scale_y
        right = min(right, left + crop_w * scale_x)
        bottom = min(bottom, top + crop_h * scale_y)
    down = max(height, width) > max(plan.resized)
    filter_ = Image.Resampling.LANCZOS if down else Image.Resampling.BICUBIC
    new_h, new_w = plan.resized
    resized = image.resize((new_w, new_h), filter_, box=(left, top, right, bottom))
    if plan.crop_first:
        return resized
    top, left, crop_h, crop_w = plan.crop
    return resized.crop((left, top, left + crop_w, top + crop_h))


def _decode_source(
    source: Source, size: int, layout: Layout, max_megapixels: float, catcher: WarningCatcher
) -> DecodedImage:
    if isinstance(source, Path):
        if source.is_dir():
            raise UnusableImageError("is a folder")
        if not source.is_file():
            raise UnusableImageError("is not a regular file")
        # Three times the final size keeps the decimation inside the decoder invisible.
        return decode(source, 3 * size if layout == "fit" else None, max_megapixels, catcher)
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise UnusableImageError(
                f"is an array {source.shape} of {source.dtype}; expected (H, W, 3) uint8 RGB"
            )
        source = Image.fromarray(source)
    alpha = source.convert("RGBA").getchannel("A") if source.has_transparency_data else None
    if alpha is not None and alpha.getextrema()[0] == 255:
        alpha = None
    height, width = source.height, source.width
    box = (0.0, 0.0, float(width), float(height))
    size_hw = (height, width)
    return DecodedImage(source.convert("RGB"), alpha, box, size_hw, size_hw, 1, None, ())
