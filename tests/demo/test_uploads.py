"""Files from outside: what is taken, what is refused, and how it is said."""

import io
import os
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weav3r.demo.uploads import Limits, take_uploads

PIXELS = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)

Upload = Callable[[str, bytes], Path]


def encoded(format: str, image: Image.Image = PICTURE, **options: object) -> bytes:
    """Bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A tiny PNG that claims to be that large, all black: its rows do compress."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + width)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def zipped() -> bytes:
    """Ten megabytes of nothing in ten kilobytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../bomb.jpg", bytes(10_000_000))
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("photo.jpg"))
    return file.getvalue()


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """Write a file as the page leaves it after an upload."""
    count = iter(range(100))

    def write(name: str, data: bytes) -> Path:
        folder = tmp_path / "uploads" / str(next(count))
        folder.mkdir(parents=True)
        (folder / name).write_bytes(data)
        return folder / name

    return write


JPEG = encoded("JPEG")
REFUSED = {
    "pdf": (b"%PDF-1.7\n", "is a PDF"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
    "html": (b"\n <!DOCTYPE html><script>alert(1)</script>", "is a web page"),
    "html in utf-16": ("<html>".encode("utf-16"), "is a web page"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0", "is a PostScript drawing"),
    "zip": (zipped(), "is an archive; unpack it"),
    "tar": (tarred(), "is an archive; unpack it"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "is an archive; unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "is an archive; unpack it"),
    "rar": (b"Rar!\x1a\x07", "is an archive; unpack it"),
    "program": (b"\x7fELF" + bytes(60), "is a program"),
    "script": (b"#!/bin/sh\nrm -rf /\n", "is a program"),
    "playlist": (b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n", "is not a photo or video"),
    "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not a photo or video"),
    "text": (b"I am not a photograph.", "is not a photo or video"),
    "empty": (b"", "is an empty file"),
    "gif animation": (
        encoded("GIF", save_all=True, append_images=[PICTURE.rotate(90)]),
        "holds several pictures; save the one you mean",
    ),
    "png animation": (
        encoded("PNG", save_all=True, append_images=[PICTURE.rotate(90)]),
        "holds several pictures",
    ),
    "tiff of pages": (
        encoded("TIFF", save_all=True, append_images=[PICTURE]),
        "holds several pictures",
    ),
    "cut jpeg": (JPEG[: len(JPEG) // 2], "is damaged or cut short"),
    "cut png": (encoded("PNG")[:3000], "is damaged"),
    "jpeg of nothing": (b"\xff\xd8\xff\xe0" + bytes(100), "is damaged, or not a photo"),
    "slow jpeg": (
        JPEG[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 300 + b"\xff\xd9",
        "is a JPEG made to be slow",
    ),
    "200 megapixels": (png_of_size(20_000, 10_000), "has more than 50 megapixels"),
    "claims a gigapixel": (png_of_size(40_000, 1)[:20] + b"\0\0\x9c\x40", "(has more|is damaged)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_photo_is_refused_by_its_content(
    kind: str, upload: Upload, tmp_path: Path
) -> None:
    data, reason = REFUSED[kind]
    good, bad = upload("good.jpg", JPEG), upload("bad.jpg", data)
    taken = take_uploads([bad, good], tmp_path / "out")
    assert [photo.name for photo in taken.photos] == ["good.jpg"]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["good.jpg"]
    (note,) = taken.notes
    assert re.match(f"bad.jpg ({reason})", note)
    with pytest.raises(ValueError, match=f"none of the files can be used: bad.jpg ({reason})"):
        take_uploads([bad], tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert str(tmp_path) not in note


@pytest.mark.parametrize(
    ("name", "format", "suffix"),
    [
        ("a.jpg", "JPEG", ".jpg"),
        ("a.JPEG", "JPEG", ".JPEG"),
        ("a.png", "PNG", ".png"),
        ("a.webp", "WEBP", ".webp"),
        ("a.tiff", "TIFF", ".tiff"),
        ("a.gif", "GIF", ".gif"),
        ("a.bmp", "BMP", ".bmp"),
        ("a.avif", "AVIF", ".avif"),
        ("a.ppm", "PPM", ".ppm"),
        ("a.png", "JPEG", ".jpg"),
        ("a", "PNG", ".png"),
        ("a.html", "PNG", ".png"),
    ],
)
def test_photos_are_taken_and_named_by_what_they_are(
    name: str, format: str, suffix: str, upload: Upload, tmp_path: Path
) -> None:
    data = encoded(format)
    taken = take_uploads([upload(name, data)], tmp_path / "out")
    assert [photo.name for photo in taken.photos] == [f"a{suffix}"]
    assert taken.photos[0].read_bytes() == data


def test_own_names_are_said_where_they_had_to_change(upload: Upload, tmp_path: Path) -> None:
    names = ["photo.jpg", "PHOTO.JPG", "😀 été.jpg", "plain.jpg"]
    taken = take_uploads([upload(name, JPEG) for name in names], tmp_path / "out")
    kept = ["photo.jpg", "PHOTO-2.JPG", "ete.jpg", "plain.jpg"]
    assert [photo.name for photo in taken.photos] == kept
    assert taken.names == {"PHOTO-2.JPG": "PHOTO.JPG", "ete.jpg": "😀 été.jpg"}
    assert taken.notes == [
        "PHOTO.JPG is called PHOTO-2.JPG here",
        "😀 été.jpg is called ete.jpg here",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need rights there")
def test_links_devices_and_pipes_are_refused(upload: Upload, tmp_path: Path) -> None:
    good = upload("good.jpg", JPEG)
    link, pipe = tmp_path / "link.jpg", tmp_path / "pipe.jpg"
    link.symlink_to(good)
    os.mkfifo(pipe)
    files = [good, link, pipe, "/dev/zero", tmp_path, tmp_path / "none.jpg", "a\0.jpg"]
    taken = take_uploads(files, tmp_path / "out")
    assert len(taken.photos) == 1
    assert taken.notes == [
        "link.jpg is a link, not a file",
        "pipe.jpg is not a regular file",
        "zero is not a regular file",
        f"{tmp_path.name} is not a regular file",
        "none.jpg is gone; please add it again",
        "a .jpg cannot be read",
    ]


def test_limits(upload: Upload, tmp_path: Path) -> None:
    noise = encoded("PNG", Image.effect_noise((1100, 1000), 80))  # does not compress: over 1 MB
    files = [upload("a.png", noise), upload("b.jpg", JPEG), upload("c.png", noise)]
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="there are no photos"):
        take_uploads([], out)
    with pytest.raises(ValueError, match="3 photos are too many; at most 2 are taken"):
        take_uploads(files, out, Limits(photos=2))
    with pytest.raises(ValueError, match="all files together are over 1 MB"):
        take_uploads(files, out, Limits(total_megabytes=1))
    with pytest.raises(ValueError, match="all photos together have over 2 megapixels"):
        take_uploads(files, out, Limits(total_megapixels=2))
    assert not out.exists()
    assert take_uploads(files, out, Limits(megabytes=1)).notes == [
        "a.png is larger than 1 MB",
        "c.png is larger than 1 MB",
    ]
    notes = take_uploads(files, tmp_path / "out2", Limits(megapixels=1)).notes
    assert notes[0] == "a.png has more than 1 megapixels"


def test_progress_is_told(upload: Upload, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    files = [upload("a.jpg", JPEG), upload("b.jpg", b"no")]
    take_uploads(files, tmp_path / "out", progress=lambda *state: seen.append(state))
    assert seen == [("photos", 1, 2), ("photos", 2, 2)]
