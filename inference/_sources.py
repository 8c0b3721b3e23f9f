"""What a user may hand over as images, as a list of files and arrays."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ._decode import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

ImageSource = str | os.PathLike[str] | np.ndarray | Image.Image
Source = Path | np.ndarray | Image.Image


def list_sources(
    images: ImageSource | Iterable[ImageSource],
) -> list[Source]:
    """Files of a folder, or the given files, arrays and PIL images in their order.

    Raises:
        FileNotFoundError, ValueError, TypeError: see `load_images`.
    """
    if isinstance(images, str | os.PathLike):
        path = Path(images)
        if path.is_dir():
            return list(_images_in_folder(path))
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        return [path]
    if isinstance(images, Image.Image) or isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    if not isinstance(images, Iterable):
        raise TypeError(
            "images must be a folder, a file, or a list of files, arrays or PIL images; "
            f"got {type(images).__name__}"
        )
    sources: list[Source] = []
    for item in images:
        if isinstance(item, np.ndarray | Image.Image):
            sources.append(item)
        elif isinstance(item, str | os.PathLike):
            path = Path(item)
            if not path.exists() and not path.is_symlink():
                raise FileNotFoundError(f"no such file: {path}")
            sources.append(path)
        else:
            raise TypeError(
                "each image must be a path, an (H, W, 3) uint8 array or a PIL image; "
                f"got {type(item).__name__}"
            )
    if not sources:
        raise ValueError("the list of images is empty")
    return sources


def _images_in_folder(folder: Path) -> list[Path]:
    """Image files of a folder in natural order ("img2" before "img10")."""
    try:
        entries = sorted(folder.iterdir(), key=lambda p: natural_key(p.name))
    except PermissionError:
        raise ValueError(f"{folder} cannot be read: permission denied") from None
    visible = [p for p in entries if not p.name.startswith(".") and not p.is_dir()]
    found = [p for p in visible if p.suffix.lower() in IMAGE_SUFFIXES]
    ignored = [p.name for p in visible if p.suffix.lower() not in IMAGE_SUFFIXES]
    if ignored:
        logger.debug("%s: not images by their names: %s", folder, ", ".join(ignored))
    if not found:
        raise ValueError(
            f"no images in {folder}: it holds {len(ignored)} other files (looked for "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}; sub-folders are not searched)"
        )
    return found


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that compares runs of digits as numbers, and ignores case."""
    parts = re.split(r"(\d+)", name.lower())
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts if p], name


def unique_names(sources: Sequence[Source]) -> list[str]:
    """File names, prefixed by as many parent folders as make them unique; "image_<i>" for arrays.

    A file that is given twice keeps one name: it is a duplicate, and skipped as such.
    """
    names = []
    full = [s.absolute().parts if isinstance(s, Path) else () for s in sources]
    for depth in range(1, max(1, *map(len, full)) + 1):
        names = [
            "/".join(p[-depth:]).lstrip("/") if p else f"image_{i:04d}" for i, p in enumerate(full)
        ]
        owner: dict[str, tuple[str, ...]] = {}
        if all(owner.setdefault(n, p) == p for n, p in zip(names, full, strict=True)):
            break
    return names


def find_duplicates(sources: Sequence[Source]) -> dict[int, int]:
    """{index of a later copy: index of the first file with the same bytes}."""
    by_size: dict[int, list[int]] = {}
    for index, source in enumerate(sources):
        if isinstance(source, Path) and source.is_file():
            by_size.setdefault(source.stat().st_size, []).append(index)
    copies: dict[int, int] = {}
    for size, group in by_size.items():
        if size == 0:
            continue
        first: dict[str, int] = {}
        for index in group if len(group) > 1 else []:
            try:
                digest = _digest(sources[index])  # pyright: ignore[reportArgumentType]
            except OSError:
                continue  # decoding will say what is wrong with it
            if first.setdefault(digest, index) != index:
                copies[index] = first[digest]
    return copies


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
