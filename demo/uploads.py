"""What comes in from outside: uploaded files become photos in a folder, or a friendly refusal.

Content decides, never a name. Files are opened without following links, copied while they are
counted, and looked at before anything else of the package sees them.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..inference._decode import UnusableImageError, available_formats, decode, register_heif
from ..inference.video import UnusableVideoError, pick_frames, video_container
from .upload_names import safe_name, shown_name

Progress = Callable[[str, int, int], None]

_HEAD_BYTES = 4096
_MAX_SCANS = 200  # a progressive JPEG has about ten; thousands of empty ones keep a decoder busy


@dataclass(frozen=True)
class Limits:
    """What one run may take.

    Attributes:
        photos: number of files, and of photos together with frames of videos.
        megabytes: size of each photo.
        megapixels: size of each picture.
        total_megabytes: size of all files.
        total_megapixels: size of all pictures.
        video_megabytes: size of each video.
        video_seconds: length of each video.
        minutes: time that a reconstruction may take.
    """

    photos: int = 20
    megabytes: int = 30
    megapixels: int = 50
    total_megabytes: int = 300
    total_megapixels: int = 400
    video_megabytes: int = 200
    video_seconds: int = 600
    minutes: int = 30

    @property
    def largest_file(self) -> int:
        """Bytes of the largest file that any limit lets through."""
        return max(self.megabytes, self.video_megabytes) * 2**20


@dataclass(frozen=True)
class Uploads:
    """What was made of uploaded files.

    Attributes:
        photos: photos and frames of videos, under plain names in the given folder.
        notes: what the person should know, one line each: refused files and why, videos and how
            many frames were taken, files that go by another name. Text: escape it for a page.
        names: the person's own name of a file, by the name of the photo, where they differ.
    """

    photos: list[Path]
    notes: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)


class RefusedFileError(ValueError):
    """A file that is not taken; the message is a clause to be read after its name."""


def take_uploads(
    files: Sequence[str | Path],
    folder: Path,
    limits: Limits | None = None,
    *,
    progress: Progress | None = None,
) -> Uploads:
    """Copy photos into `folder` and take frames out of videos.

    A file that is no photo and no video, too large, damaged or a link is refused with a note, and
    the others are taken.

    Args:
        files: paths as the page handed them over; the originals stay.
        folder: made here; nothing of it is left when this fails.
        limits: what is refused.
        progress: called with (stage, done, total).

    Raises:
        ValueError: there are no files, too many, too much of them together, or none can be used; no
            path of this computer is in the message.
    """
    limits = limits or Limits()
    if not files:
        raise ValueError("there are no photos: add some, or pick an example")
    if len(files) > limits.photos:
        raise ValueError(f"{len(files)} photos are too many; at most {limits.photos} are taken")
    folder.mkdir(parents=True)
    try:
        return _Intake(folder, limits, progress).take([str(file) for file in files])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class _Intake:
    """One call of `take_uploads`: what was taken so far."""

    def __init__(self, folder: Path, limits: Limits, progress: Progress | None) -> None:
        self.folder, self.limits, self.progress = folder, limits, progress
        self.result = Uploads([])
        self.bytes_taken = self.pixels_taken = 0

    def take(self, files: list[str]) -> Uploads:
        refused: list[str] = []
        videos: list[tuple[str, str]] = []
        for number, file in enumerate(files):
            try:
                container = self._take_photo(file)
            except RefusedFileError as error:
                refused.append(f"{shown_name(file)} {error}")
            else:
                if container is not None:
                    videos.append((file, container))
            if self.progress is not None:
                self.progress("photos", number + 1, len(files))
        room = self.limits.photos - len(self.result.photos)
        for file, container in videos:
            try:
                self._take_frames(file, container, room // len(videos))
            except (RefusedFileError, UnusableVideoError) as error:
                refused.append(f"{shown_name(file)} {error}")
        self.result.notes[:0] = refused
        if not self.result.photos:
            raise ValueError("none of the files can be used: " + "; ".join(refused))
        return self.result

    def _take_photo(self, file: str) -> str | None:
        """Take a file if it is a photo; the container's name if it is a video."""
        with _open_file(file) as source:
            size = os.fstat(source.fileno()).st_size
            head = source.read(_HEAD_BYTES)
            suffix, container = _photo_suffix(head), video_container(head)
            limit = self.limits.video_megabytes if container else self.limits.megabytes
            if size > limit * 2**20:
                raise RefusedFileError(f"is larger than {limit} MB")
            if not suffix and not container:
                raise RefusedFileError(_what_it_is(head))
            self._count(size, 0)
            if container:
                return container
            target = self.folder / f"upload{suffix}"
            source.seek(0)
            _copy(source, target, size)
        try:
            pixels = _check_picture(target, self.limits)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        self._count(0, pixels)
        name = safe_name(file, _own_suffix(file, suffix), _taken(self.result.photos))
        self._keep(Path(target.rename(self.folder / name)), file)
        return None

    def _take_frames(self, file: str, container: str, count: int) -> None:
        # Frames are called <stem>_<time>.jpg: no photo and no other video may have that stem.
        stems = {name.rpartition("_")[0] for name in _taken(self.result.photos)}
        stem = safe_name(file, "", stems)
        show = self.progress
        with _open_file(file) as source:
            frames = pick_frames(
                source,
                self.folder,
                count,
                container=container,
                stem=stem,
                max_seconds=self.limits.video_seconds,
                max_megapixels=self.limits.megapixels,
                progress=None if show is None else lambda *state: show("frames", *state),
            )
        self.result.photos.extend(frames.files)
        self.result.notes.append(f"{shown_name(file)}: {frames.summary()}")

    def _keep(self, photo: Path, file: str) -> None:
        self.result.photos.append(photo)
        shown = shown_name(file)
        if shown != photo.name:
            self.result.names[photo.name] = shown
            self.result.notes.append(f"{shown} is called {photo.name} here")

    def _count(self, size: int, pixels: int) -> None:
        self.bytes_taken += size
        self.pixels_taken += pixels
        if self.bytes_taken > self.limits.total_megabytes * 2**20:
            raise ValueError(f"all files together are over {self.limits.total_megabytes} MB")
        if self.pixels_taken > self.limits.total_megapixels * 1_000_000:
            limit = self.limits.total_megapixels
            raise ValueError(f"all photos together have over {limit} megapixels; scale them down")


# -- one file --------------------------------------------------------------------------------------


def _open_file(file: str) -> BinaryIO:
    """Open a plain file, and nothing that only looks like one.

    Raises:
        RefusedFileError: it is a link, a folder, a device, a pipe, or cannot be read.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        if Path(file).is_symlink():  # where the system has no O_NOFOLLOW
            raise RefusedFileError("is a link, not a file")
        descriptor = os.open(file, flags)
    except FileNotFoundError:
        raise RefusedFileError("is gone; please add it again") from None
    except RefusedFileError:
        raise
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise RefusedFileError("cannot be read") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedFileError("is not a regular file")
    return os.fdopen(descriptor, "rb")


def _copy(source: BinaryIO, target: Path, size: int) -> None:
    """Copy exactly the `size` bytes that were counted, however the file changes meanwhile."""
    with target.open("xb") as copy:
        while size > 0 and (block := source.read(min(size, 2**20))):
            copy.write(block)
            size -= len(block)


def _check_picture(photo: Path, limits: Limits) -> int:
    """Number of pixels of a photo that can be used.

    Raises:
        RefusedFileError: it is too large, an animation, damaged, or not a picture at all.
    """
    too_large = f"has more than {limits.megapixels} megapixels"
    try:
        if photo.suffix == ".heic":
            register_heif()
        with Image.open(photo, formats=available_formats()) as image:
            width, height = image.size
            jpeg = image.format in ("JPEG", "MPO")  # what follows the photo in an MPO is a preview
            several = not jpeg and image.format != "HEIF" and getattr(image, "is_animated", False)
        if width * height > limits.megapixels * 1_000_000:
            raise RefusedFileError(too_large)
        if several:
            raise RefusedFileError("holds several pictures; save the one you mean, as JPEG or PNG")
        if jpeg and photo.read_bytes().count(b"\xff\xda") > _MAX_SCANS:
            raise RefusedFileError("is a JPEG made to be slow; save it anew")
        decode(photo, reduce_to=1024, max_megapixels=limits.megapixels)
    except Image.DecompressionBombError:
        raise RefusedFileError(too_large) from None
    except UnusableImageError as error:
        raise RefusedFileError(str(error).replace(str(photo), "it")) from None
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, LookupError) as error:
        if isinstance(error, RefusedFileError):
            raise
        raise RefusedFileError("is damaged, or not a photo") from None
    return width * height


# -- what a file is, by its first bytes ------------------------------------------------------------

_MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"P5": ".pgm",
    b"P6": ".ppm",
}
_SAME = {".jpg": {".jpeg", ".jpe", ".jfif", ".mpo"}, ".tif": {".tiff"}, ".heic": {".heif", ".hif"}}
_ARCHIVE = "is an archive; unpack it and add the photos"
_REFUSED = {
    b"%PDF": "is a PDF; save its pages as photos",
    b"%!PS": "is a PostScript drawing, not a photo",
    b"PK": _ARCHIVE,
    b"\x1f\x8b": _ARCHIVE,
    b"BZh": _ARCHIVE,
    b"\xfd7zXZ": _ARCHIVE,
    b"7z\xbc\xaf": _ARCHIVE,
    b"Rar!": _ARCHIVE,
    b"\x28\xb5\x2f\xfd": _ARCHIVE,
    b"\x04\x22\x4d\x18": _ARCHIVE,
    b"\x7fELF": "is a program, not a photo",
    b"MZ": "is a program, not a photo",
    b"#!": "is a program, not a photo",
}


def _photo_suffix(head: bytes) -> str | None:
    """The usual suffix of a photo that starts with `head`, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"avif", b"avis"):
            return ".avif"
        return ".heic" if head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1") else None
    return next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), None)


def _what_it_is(head: bytes) -> str:
    """Why a file that starts with `head` is no photo."""
    if not head:
        return "is an empty file"
    for magic, reason in _REFUSED.items():
        if head.startswith(magic):
            return reason
    if head[257:262] == b"ustar":
        return _ARCHIVE
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").lower()
    if b"<svg" in text:
        return "is an SVG drawing, not a photo"
    if text.startswith((b"<!doctype", b"<html", b"<script", b"<?xml", b"<")):
        return "is a web page, not a photo"
    return "is not a photo or video of a known format"


def _own_suffix(file: str, suffix: str | None) -> str:
    """The suffix of the person's own name if it means the same, else the usual one."""
    own, usual = Path(file).suffix, suffix or ""
    return own if own.lower() in {usual, *_SAME.get(usual, ())} else usual


def _taken(photos: list[Path]) -> set[str]:
    return {photo.name.lower() for photo in photos}
