"""One image file to upright 8-bit RGB, whatever its format, bit depth or orientation."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

# Only plain raster formats are opened: others (EPS, PDF, ...) start external programs.
_FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM", "HEIF"]
_HEIF_SUFFIXES = {".heic", ".heif", ".hif"}

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .bmp .gif .avif .ppm .pgm".split()
) | frozenset(_HEIF_SUFFIXES)
"""File name endings (lower case) that count as images when a folder is read."""

MAX_MEGAPIXELS = 178.0
"""Largest image that is decoded: the size at which Pillow itself refuses."""

_TAG_ORIENTATION = 0x0112
_TAG_EXIF_IFD = 0x8769
_TAG_FOCAL_MM = 0x920A
_TAG_FOCAL_35MM = 0xA405
_TAG_PIXEL_WIDTH, _TAG_PIXEL_HEIGHT = 0xA002, 0xA003
_TAG_PLANE_X_RESOLUTION, _TAG_PLANE_RESOLUTION_UNIT = 0xA20E, 0xA210
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}
_FULL_FRAME_DIAGONAL_MM = float(np.hypot(36.0, 24.0))


class UnusableImageError(ValueError):
    """A file that cannot become a view; the message is a reason a user can act on."""


@dataclass(frozen=True)
class DecodedImage:
    """Pixels of one file, upright.

    Attributes:
        rgb: mode "RGB"; may have been decoded at a reduced size (see `box`).
        alpha: mode "L" of the size of `rgb`, or None when every pixel is opaque.
        box: (left, top, right, bottom) in pixels of `rgb`: the part that shows the whole original.
        stored_size: (height, width) as stored in the file.
        upright_size: (height, width) after the EXIF rotation.
        exif_orientation: 1..8.
        exif_focal_px: focal length in pixels of the upright original, or None.
        notes: things a user should know that did not prevent the use of the image.
    """

    rgb: Image.Image
    alpha: Image.Image | None
    box: tuple[float, float, float, float]
    stored_size: tuple[int, int]
    upright_size: tuple[int, int]
    exif_orientation: int
    exif_focal_px: float | None
    notes: tuple[str, ...]


class WarningCatcher:
    """Collects Python warnings per thread, which `warnings.catch_warnings` alone cannot."""

    def __init__(self) -> None:
        self._local = threading.local()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let no warning out while the block runs; enter it in one thread only."""

        def collect(message, category, *_args, **_kwargs) -> None:
            if not issubclass(category, Image.DecompressionBombWarning):  # we have our own limit
                self._messages().append(str(message))

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = collect
            yield

    def take(self) -> list[str]:
        """The different messages of this thread since the last call."""
        messages = list(dict.fromkeys(self._messages()))
        self._messages().clear()
        return messages

    def _messages(self) -> list[str]:
        if not hasattr(self._local, "messages"):
            self._local.messages = []
        return self._local.messages


def decode(
    path: Path,
    reduce_to: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    catcher: WarningCatcher | None = None,
) -> DecodedImage:
    """Read an image file.

    Args:
        path: the file; its content, not its name, decides the format.
        reduce_to: when given, JPEG files may be decoded at 1/2, 1/4 or 1/8 of their size as long
            as the long side keeps at least this many pixels.
        max_megapixels: larger images are refused before they are decoded.
        catcher: an installed one, needed when several threads decode.

    Raises:
        UnusableImageError: with the reason; Pillow's own errors and warnings do not get out.
    """
    if catcher is None:
        catcher = WarningCatcher()
        with catcher.installed():
            return decode(path, reduce_to, max_megapixels, catcher)
    catcher.take()
    try:
        decoded = _decode(path, reduce_to, max_megapixels)
    except UnusableImageError:
        raise
    except Image.DecompressionBombError:
        raise UnusableImageError(_too_large(None, max_megapixels)) from None
    except PermissionError:
        raise UnusableImageError("cannot be read: permission denied") from None
    except UnidentifiedImageError:
        raise UnusableImageError(_not_an_image(path)) from None
    except MemoryError:
        raise UnusableImageError("not enough memory to decode it") from None
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, LookupError) as error:
        # Pillow's decoders let all of these escape on damaged files.
        raise UnusableImageError(f"is damaged or cut short ({error})") from None
    notes = tuple(f"while reading: {message}" for message in catcher.take())
    return replace(decoded, notes=decoded.notes + notes)


def _decode(path: Path, reduce_to: int | None, max_megapixels: float) -> DecodedImage:
    if path.stat().st_size == 0:
        raise UnusableImageError("is an empty file")
    if path.suffix.lower() in _HEIF_SUFFIXES:
        register_heif()
    notes: list[str] = []
    with Image.open(path, formats=available_formats()) as image:
        orientation, swapped = _orientation(image)
        height, width = image.height, image.width
        upright = (height, width)
        stored = (width, height) if swapped == "already" and orientation >= 5 else upright
        if swapped == "pending" and orientation >= 5:
            upright = (width, height)
        if height * width > max_megapixels * 1e6:
            raise UnusableImageError(_too_large(height * width, max_megapixels))
        if getattr(image, "is_animated", False) and image.format != "MPO":
            frames = getattr(image, "n_frames", 0)
            notes.append(f"has {frames} frames; only the first is used")
        focal = _exif_focal_px(image, upright)
        box = (0.0, 0.0, float(width), float(height))
        if reduce_to is not None and image.format in ("JPEG", "MPO"):
            scale = reduce_to / max(height, width)
            if scale < 0.5:
                wanted = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
                drafted = image.draft(None, wanted)
                box = drafted[1] if drafted is not None else box  # pyright: ignore
        image.load()
        rgb, alpha = _to_rgb(image, notes)
    if swapped == "pending" and orientation != 1:
        box = _upright_box(box, rgb.width, rgb.height, orientation)
        rgb = rgb.transpose(_TRANSPOSE[orientation])
        alpha = None if alpha is None else alpha.transpose(_TRANSPOSE[orientation])
    return DecodedImage(rgb, alpha, box, stored, upright, orientation, focal, tuple(notes))


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright_box(
    box: tuple[float, float, float, float], width: int, height: int, orientation: int
) -> tuple[float, float, float, float]:
    """Carry a box from stored pixels of a `width` x `height` image to upright ones."""

    def upright(x: float, y: float) -> tuple[float, float]:
        return {
            1: (x, y),
            2: (width - x, y),
            3: (width - x, height - y),
            4: (x, height - y),
            5: (y, x),
            6: (height - y, x),
            7: (height - y, width - x),
            8: (y, width - x),
        }[orientation]

    (x0, y0), (x1, y1) = upright(box[0], box[1]), upright(box[2], box[3])
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _orientation(image: Image.Image) -> tuple[int, str]:
    """EXIF orientation (1..8), and whether Pillow has applied it ("already") or not ("pending")."""
    orientation = image.getexif().get(_TAG_ORIENTATION, 1)
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    # Pillow turns TIFF files upright while it loads them, pillow-heif HEIF files.
    return orientation, "already" if image.format in ("TIFF", "HEIF") else "pending"


def _to_rgb(image: Image.Image, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """8-bit RGB and alpha; 16-bit, integer and float greys are scaled, not clipped."""
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        if alpha.getextrema()[0] == 255:
            alpha = None
        return rgba.convert("RGB"), alpha
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert(
            "RGB"
        ), None
    if image.mode in ("I", "F"):
        return _grey_from_numbers(np.asarray(image, dtype=np.float64), notes).convert("RGB"), None
    return image.convert("RGB"), None


def _grey_from_numbers(grey: np.ndarray, notes: list[str]) -> Image.Image:
    """Guess the range of a 32-bit grey image from its values: 0..1, 0..255, 0..65535 or its own."""
    finite = grey[np.isfinite(grey)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    ranges = [255.0, 65535.0] if float(high).is_integer() and high > 1 else [1.0, 255.0, 65535.0]
    top = next((r for r in ranges if high <= r), None)
    if top is None or low < 0:
        notes.append(f"holds numbers from {low:g} to {high:g}; stretched to the 8-bit range")
        grey, top = grey - low, max(high - low, 1e-12)
    scaled = np.nan_to_num(np.clip(grey / top, 0, 1), nan=0.0)
    return Image.fromarray(np.round(scaled * 255).astype(np.uint8))


def _exif_focal_px(image: Image.Image, upright_size: tuple[int, int]) -> float | None:
    """Focal length in pixels of the upright original, or None when the tags leave it open.

    The 35 mm equivalent is taken by the diagonal (CIPA DCG-001): f_px = f_35 * diagonal_px / 43.27.
    Otherwise focal length times sensor resolution. None when the tags show that the image was
    cropped, or when the two ways differ by more than a fifth.
    """
    try:
        tags = image.getexif().get_ifd(_TAG_EXIF_IFD)
    except Exception:  # noqa: BLE001 - damaged EXIF raises nearly anything; it is only a hint
        return None
    height, width = upright_size
    exif_long, exif_short = sorted(
        (_number(tags.get(_TAG_PIXEL_WIDTH)), _number(tags.get(_TAG_PIXEL_HEIGHT))), reverse=True
    )
    shrink = 1.0
    if exif_short > 0:
        shrink = max(height, width) / exif_long
        if abs(min(height, width) / exif_short / shrink - 1) > 0.02:
            return None  # cropped after the exposure: the sensor's geometry is lost
    candidates = []
    equivalent = _number(tags.get(_TAG_FOCAL_35MM))
    if equivalent > 0:
        candidates.append(equivalent * float(np.hypot(height, width)) / _FULL_FRAME_DIAGONAL_MM)
    per_unit, focal_mm = (
        _number(tags.get(_TAG_PLANE_X_RESOLUTION)),
        _number(tags.get(_TAG_FOCAL_MM)),
    )
    unit_mm = _UNIT_MM.get(int(_number(tags.get(_TAG_PLANE_RESOLUTION_UNIT, 2))))
    if per_unit > 0 and focal_mm > 0 and unit_mm is not None and exif_short > 0:
        candidates.append(focal_mm * per_unit / unit_mm * shrink)
    long_side = max(height, width)
    candidates = [f for f in candidates if 0.2 * long_side < f < 50 * long_side]
    if not candidates or max(candidates) > 1.2 * min(candidates):
        return None
    return candidates[0]


def _number(value: object) -> float:
    """A tag as a finite float; 0 when it is missing or not a number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if np.isfinite(number) else 0.0


def available_formats() -> list[str]:
    """Names of the plain raster formats that this Pillow opens."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def register_heif() -> None:
    """Let Pillow open HEIC and HEIF.

    Raises:
        UnusableImageError: pillow-heif is missing.
    """
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UnusableImageError(
            "HEIC/HEIF images need pillow-heif: pip install 'weav3r[heif]'"
        ) from None
    pillow_heif.register_heif_opener()


def _too_large(pixels: int | None, max_megapixels: float) -> str:
    size = "" if pixels is None else f" with {pixels / 1e6:.0f} megapixels"
    return f"is too large{size}; the limit is {max_megapixels:.0f}. Scale it down first"


def _not_an_image(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    kind = "text" if head and all(b in b"\t\n\r\f" or 32 <= b < 127 for b in head) else "data"
    return f"is not an image, or of an unknown format (it holds {kind})"
