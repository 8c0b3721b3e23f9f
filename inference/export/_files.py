"""What the exporters share: writing a file at once, and copying photos upright."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from .._decode import decode
from ..scene import SceneView

logger = logging.getLogger(__name__)

_WRITABLE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


@contextmanager
def written_at_once(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, and move it there when the block succeeds.

    A reader sees the old file or the whole new one; a failure leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def exported_name(view: SceneView) -> str:
    """Name of an image in an exported model: its own, as PNG when Pillow cannot write its format.

    Raises:
        ValueError: the name would lead out of the folder.
    """
    name = PurePosixPath(view.name)
    if name.is_absolute() or ".." in name.parts or "\\" in view.name:
        raise ValueError(f"image name {view.name!r} leads out of the exported folder")
    upright = view.ledger.exif_orientation == 1
    if view.path is not None and (upright or name.suffix.lower() in _WRITABLE_SUFFIXES):
        return str(name)
    return str(name.with_suffix(".png"))


def copy_upright(view: SceneView, folder: Path) -> None:
    """Copy the photo of a view to `folder`/name so that its stored pixels are upright.

    Files that are upright are copied byte by byte, others are turned and saved again. An image
    that was given as an array, or whose file is gone, is left out with a warning.
    """
    target = folder / exported_name(view)
    if view.path is None or not view.path.is_file():
        logger.warning("%s: its file is not there, so it could not be copied", view.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(view.path):
        return
    with written_at_once(target) as temporary:
        if view.ledger.exif_orientation == 1:
            shutil.copyfile(view.path, temporary)
            return
        decoded = decode(view.path)
        picture = decoded.rgb
        if decoded.alpha is not None and target.suffix.lower() not in (".jpg", ".jpeg"):
            picture = picture.copy()
            picture.putalpha(decoded.alpha)
        picture.save(temporary, quality=95)


def rotated_images(views: list[SceneView]) -> list[str]:
    """Names of the images whose file needs its EXIF rotation applied to fit their cameras."""
    return [view.name for view in views if view.ledger.exif_orientation != 1]
