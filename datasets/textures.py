"""Surface textures for the procedural scenes: photographs from a folder or a tar, or painted ones.

A `TextureBank` holds square sRGB crops of one size as bytes. Its `table` is what the renderers
read: every texture and its mip levels in linear light, in one flat array.

`default_bank` finds the best bank at hand. Without any photographs it paints 192 textures in about
a second, so that training and tests always run; photographs make the trained network transfer
better. `weav3r data textures` (see `texture_sources`) collects licence-clear ones on the user's
machine.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .procedural.scene import TextureTable
from .texture_painters import paint

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ENVIRONMENT_VARIABLE = "WEAV3R_TEXTURES"
DEFAULT_LIMIT = 800  # at 128 px: read in 0.8 s, 40 MB of pixels and 70 MB of table
DEFAULT_SIZE = 128


@dataclass(frozen=True, eq=False)
class TextureBank:
    """Square textures of one size.

    Attributes:
        pixels: uint8 ``(T, S, S, 3)``, sRGB; S is a power of two, so that mips halve evenly.
        names: T names, for reports and attribution; a file name or ``painted-<seed>-<index>``.
    """

    pixels: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if (
            self.pixels.dtype != np.uint8
            or len(shape) != 4
            or shape[1] != shape[2]
            or shape[3] != 3
        ):
            raise ValueError(
                "pixels must be uint8 of shape (T, S, S, 3), "
                f"got {self.pixels.dtype} of shape {tuple(shape)}"
            )
        _check_size(shape[1])
        if not shape[0]:
            raise ValueError("a texture bank needs at least one texture, got none")
        if len(self.names) != shape[0]:
            raise ValueError(f"expected one name per texture ({shape[0]}), got {len(self.names)}")

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def size(self) -> int:
        """Side of every texture in pixels."""
        return self.pixels.shape[1]

    @cached_property
    def table(self) -> TextureTable:
        """The renderers' flat mip table on the CPU; made once, 5.3 S^2 T bytes."""
        return TextureTable.from_uint8(torch.tensor(self.pixels))

    @cached_property
    def facade_table(self) -> TextureTable:
        """`table` with painted facades after its tiles, see `procedural.facades`; made once."""
        from .procedural.facades import with_facades

        return with_facades(self.table)

    @classmethod
    def procedural(cls, seed: int = 0, count: int = 192, size: int = DEFAULT_SIZE) -> TextureBank:
        """Paint a bank: eleven families in turn, about 5 ms per texture of 128 pixels.

        Texture i depends on (seed, i, size) only, so a longer bank starts with the shorter one.
        """
        _check_size(size)
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        pixels = np.stack([paint(index, seed, size) for index in range(count)])
        return cls(pixels, tuple(f"painted-{seed}-{index}" for index in range(count)))

    @classmethod
    def from_folder(
        cls, folder: str | Path, size: int = DEFAULT_SIZE, limit: int | None = None, seed: int = 0
    ) -> TextureBank:
        """Read every image below a folder, in the order of their relative paths.

        Args:
            folder: searched recursively for JPEG, PNG, WebP and BMP files.
            size: side of the textures; each image is cut to its centre square and resized.
            limit: read at most this many, drawn at random with `seed`, still in path order.
            seed: of the random subset.

        Raises:
            FileNotFoundError: if the folder does not exist or holds no readable image.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"texture folder {folder} does not exist")
        paths = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        }
        chosen = _subset(sorted(paths), limit, seed)
        return cls._decode(((name, paths[name].read_bytes) for name in chosen), folder, size)

    @classmethod
    def from_tar(
        cls, path: str | Path, size: int = DEFAULT_SIZE, limit: int | None = None, seed: int = 0
    ) -> TextureBank:
        """Read the images of a tar archive without unpacking it; otherwise like `from_folder`.

        Raises:
            FileNotFoundError: if there is no such file or no readable image in it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"texture archive {path} does not exist")
        with tarfile.open(path) as archive:
            members = {
                member.name: member
                for member in archive.getmembers()
                if member.isfile() and member.name.lower().endswith(IMAGE_SUFFIXES)
            }

            def reader(name: str) -> Callable[[], bytes]:
                def read() -> bytes:
                    stream = archive.extractfile(members[name])
                    return b"" if stream is None else stream.read()

                return read

            chosen = _subset(sorted(members), limit, seed)
            return cls._decode(((name, reader(name)) for name in chosen), path, size)

    @classmethod
    def _decode(
        cls, files: Iterable[tuple[str, Callable[[], bytes]]], origin: Path, size: int
    ) -> TextureBank:
        _check_size(size)
        names: list[str] = []
        images: list[np.ndarray] = []
        for name, read in files:
            try:
                images.append(_square(Image.open(io.BytesIO(read())), size))
            except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
                logger.warning("skipping texture %s of %s: %s", name, origin, error)
            else:
                names.append(name)
        if not images:
            raise FileNotFoundError(
                f"{origin} holds no readable image ({', '.join(IMAGE_SUFFIXES)}); "
                "fill it with `weav3r data textures` or use TextureBank.procedural()"
            )
        return cls(np.stack(images), tuple(names))

    def extended(self, other: TextureBank) -> TextureBank:
        """Return a bank with the other's textures after this one's; sizes must agree."""
        if other.size != self.size:
            raise ValueError(f"cannot join textures of {self.size} and {other.size} pixels")
        pixels = np.concatenate([self.pixels, other.pixels])
        return TextureBank(pixels, self.names + other.names)


def _check_size(size: int) -> None:
    if size < 8 or size & (size - 1):
        raise ValueError(f"texture size must be a power of two of at least 8, got {size}")


def _subset(names: Sequence[str], limit: int | None, seed: int) -> list[str]:
    """Draw ``limit`` names at random, keeping their order; all of them without a limit."""
    if limit is None or limit >= len(names):
        return list(names)
    if limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}")
    chosen = np.random.default_rng(seed).permutation(len(names))[:limit]
    return [names[int(index)] for index in np.sort(chosen)]


def _square(image: Image.Image, size: int) -> np.ndarray:
    """Cut the centre square and resize it; transparent parts become mid grey."""
    if image.mode in ("P", "PA", "LA", "RGBA", "RGBa", "La"):
        overlay = image.convert("RGBA")
        image = Image.new("RGB", overlay.size, (128, 128, 128))
        image.paste(overlay, mask=overlay.getchannel("A"))
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    resized = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(resized)


def default_bank_folder() -> Path:
    """Where `weav3r data textures` puts its bank: ``$XDG_CACHE_HOME/weav3r/textures``.

    Without (or with an empty) XDG_CACHE_HOME: ``~/.cache/weav3r/textures``.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "weav3r" / "textures"


def default_bank(
    path: str | Path | None = None,
    size: int = DEFAULT_SIZE,
    limit: int | None = DEFAULT_LIMIT,
    seed: int = 0,
) -> TextureBank:
    """Load the best bank at hand.

    Tried in this order: `path`, the environment variable WEAV3R_TEXTURES, the user's cache folder
    (`default_bank_folder`), painted textures. The first two must exist when they are given.

    Args:
        path: folder or tar archive of images.
        size: side of the textures in pixels.
        limit: load at most this many photographs (a random subset); None loads all. Pixels and
            renderers' table take 0.14 MB per texture at 128 pixels.
        seed: of the random subset and of painted textures.

    Raises:
        FileNotFoundError: if `path` or WEAV3R_TEXTURES names nothing usable.
    """
    named = path or os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        named = Path(named)
        if named.is_dir():
            return TextureBank.from_folder(named, size, limit, seed)
        return TextureBank.from_tar(named, size, limit, seed)
    cache = default_bank_folder()
    if cache.is_dir() and any(cache.rglob("*.jpg")):
        return TextureBank.from_folder(cache, size, limit, seed)
    logger.info(
        "no photographs for textures found in %s: using painted ones. "
        "`weav3r data textures` collects licence-clear photographs.",
        cache,
    )
    return TextureBank.procedural(seed, size=size)
