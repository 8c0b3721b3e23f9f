"""Videos where photos are expected: each is replaced by frames of it."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from PIL import Image

from .progress import Progress
from .video import DEFAULT_FRAMES, UnusableVideoError, pick_frames, video_container

__all__ = ["DEFAULT_FRAMES", "is_video", "with_frames"]


def is_video(source: Any) -> bool:
    """Whether something given as a photo is the path of a video file, by its first bytes."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return False
    try:
        with Path(source).open("rb") as file:
            return video_container(file.read(512)) is not None
    except OSError:
        return False


def with_frames(
    photos: Any, count: int, folder: Path | None, show: Progress
) -> tuple[Any, list[str]]:
    """Put frames in the place of videos.

    Args:
        photos: what `weav3r.reconstruct` takes.
        count: most frames of each video.
        folder: where the frames are kept, and found again by the next call; None keeps them in a
            temporary folder until Python ends, as the scene refers to them.
        show: gets a stage for each video.

    Returns:
        `photos` itself if there is no video among them, and what the user should be warned of.

    Raises:
        ValueError: a video cannot be used, or `count` is less than 1; the message names the file.
        ImportError: PyAV is missing.
    """
    alone = isinstance(photos, str | os.PathLike | np.ndarray | Image.Image)
    if alone or not isinstance(photos, Iterable):
        if not is_video(photos):
            return photos, []
        photos = [photos]
    sources = list(photos)
    if not any(map(is_video, sources)):
        return sources, []
    if folder is None:
        folder = Path(mkdtemp(prefix="weav3r-frames-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    found: list[Any] = []
    warnings: list[str] = []
    for source in sources:
        if is_video(source):
            files, warning = _frames_of(Path(source), count, folder, show)
            found += files
            warnings += [] if warning is None else [f"{Path(source).name}: {warning}"]
        else:
            found.append(source)
    return found, warnings


def _frames_of(
    video: Path, count: int, folder: Path, show: Progress
) -> tuple[list[Path], str | None]:
    target = folder / f"{video.stem}-{count}-{_digest(video)}"
    if target.is_dir():
        return sorted(target.iterdir()), None
    unfinished = Path(mkdtemp(prefix="unfinished-", dir=_made(folder)))
    done = 0
    try:
        with show.stage("frames", 100) as advance:

            def tell(at: int, total: int) -> None:
                nonlocal done
                percent = 100 * at // total
                advance(percent - done)
                done = percent

            picked = pick_frames(video, unfinished, count, progress=tell)
            advance(100 - done)
        unfinished.rename(target)  # whole or not at all
    except UnusableVideoError as error:
        raise ValueError(f"{video} {error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    moved = replace(picked, files=[target / file.name for file in picked.files])
    return moved.files, moved.warning


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(video: Path) -> str:
    with video.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]
