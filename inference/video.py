"""Videos to photos: the sharp frames, spread over the way that the camera went.

A video is decoded twice, never held: once small and grey, to measure every frame, and once around
each frame that was picked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .frame_quality import MotionMeter, sharpness, shrink, way_between

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .3gp .webm .mkv .avi .mts .m2ts .ts .mpg .mpeg".split())
"""File name endings (lower case) of videos; the content decides."""

DEFAULT_FRAMES = 24
"""Frames picked from a video when nothing else is said."""

_MEASURED_PX, _MOTION_PX = 640, 160  # long side at which sharpness and motion are measured
_MEASURED_PER_S, _MAX_MEASURED = 30.0, 4000
_MOTION_PER_S, _MAX_MOTION = 10.0, 1000
_MAX_RATE = 300.0  # frames per second of decoding that are believed
_MIN_STEP = 0.04  # frames nearer to one another than this, in picture widths, show the same
_WIDE_STEP = 0.6  # frames further apart overlap too little
_UNSEEKABLE = ("mpegts", "mpeg")  # seeking is a guess there
_BLURRED = 0.8  # of the sharpness of the good frames


class UnusableVideoError(ValueError):
    """A file without usable frames; the message is a clause to be read after its name."""


@dataclass(frozen=True)
class PickedFrames:
    """Frames of a video.

    Attributes:
        files: JPEG files, upright, in order of time.
        times_s: when each is shown, from the start of the video.
        length_s: time of the last frame.
        way: length of the camera's way, in picture widths that the scene moved by.
    """

    files: list[Path]
    times_s: list[float]
    length_s: float
    way: float

    @property
    def step(self) -> float:
        """Mean way from one picked frame to the next, in picture widths."""
        return self.way / max(1, len(self.files) - 1)

    @property
    def warning(self) -> str | None:
        """What makes the frames hard to reconstruct from, or None."""
        if self.way < _MIN_STEP:
            return "the camera does not move"
        if self.step > _WIDE_STEP:
            return "the camera moves far from frame to frame; more of them would overlap better"
        return None

    def summary(self) -> str:
        """What was taken, in a line."""
        many = "1 frame" if len(self.files) == 1 else f"{len(self.files)} frames"
        line = f"{many} of {self.length_s:.0f} s taken, the sharp ones"
        return line if self.warning is None else f"{line}; {self.warning}"


@dataclass(frozen=True)
class _Measured:
    """What the first pass says about the frames it looked at, in order of time."""

    pts: list[int]
    times_s: np.ndarray
    sharp: np.ndarray
    way: np.ndarray


def video_container(head: bytes) -> str | None:
    """FFmpeg's name of the container of a file that starts with `head`; None if it is no video.

    Only containers that hold their pictures themselves: playlists and the like name other files.
    """
    box = head[4:8]
    if box == b"ftyp":
        return None if head[8:11] in (b"avi", b"hei", b"mif", b"msf", b"hev") else "mov"
    if box in (b"moov", b"mdat", b"wide", b"free"):
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"\0\0\1\xba":
        return "mpeg"
    if len(head) > 2 * 192 and (
        head[0] == head[188] == head[376] == 0x47 or head[4] == head[196] == head[388] == 0x47
    ):
        return "mpegts"
    return None


def pick_frames(
    video: str | Path | BinaryIO,
    folder: Path,
    count: int = DEFAULT_FRAMES,
    *,
    container: str | None = None,
    stem: str | None = None,
    max_seconds: float | None = None,
    max_megapixels: float = 178.0,
    progress: Callable[[int, int], None] | None = None,
) -> PickedFrames:
    """Write the frames of a video that are worth reconstructing from as JPEG files.

    The frames are sharp ones, spread evenly over the camera's way, measured as the displacement of
    patches of small grey pictures. Where the camera stands still few are taken, and never the same
    picture twice.

    Args:
        video: a file, or one that is open for reading.
        folder: where the frames go, as `<stem>_<milliseconds>.jpg`; made if missing.
        count: most frames that are taken.
        container: of an open file, as `video_container` names it; default: from its first bytes.
        stem: default: that of the file's name, or "frame".
        max_seconds: longer videos are refused.
        max_megapixels: larger frames are refused.
        progress: called with (done, total); what it raises ends the work.

    Raises:
        ValueError: `count` is less than 1.
        UnusableVideoError: the file is no video, damaged from the start, too long or too large.
        ImportError: PyAV is missing.
    """
    _require_av()
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if isinstance(video, str | os.PathLike):
        path = Path(video)
        with path.open("rb") as file:
            return pick_frames(
                *(file, folder, count),
                container=container,
                stem=stem or path.stem,
                max_seconds=max_seconds,
                max_megapixels=max_megapixels,
                progress=progress,
            )
    if container is None:
        video.seek(0)
        container = video_container(video.read(512))
        if container is None:
            raise UnusableVideoError("is not a video of a known format")
    measured = _measure(video, container, max_seconds, max_megapixels, progress)
    chosen = choose_frames(measured.sharp, measured.way, count)
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(video, container, max_megapixels) as (opened, stream):
        written = _write(opened, stream, measured, chosen, folder, stem or "frame")
    length, way = float(measured.times_s[-1]), float(measured.way.max())
    return PickedFrames([file for file, _ in written], [time for _, time in written], length, way)


def choose_frames(sharp: np.ndarray, way: np.ndarray, count: int) -> list[int]:
    """Indices of at most `count` frames: one for each equal part of the way, the sharpest there.

    Args:
        sharp: (N,) sharpness of each frame, see `sharpness`.
        way: (N,) length of the camera's way up to each frame, picture widths, never decreasing
            but for trembling.
        count: most frames chosen; fewer when the way is short, and where all are blurred.
    """
    length = float(way.max())
    parts = int(np.clip(length // _MIN_STEP + 1, 1, count))
    if parts == 1:
        return [int(np.argmax(sharp))]
    width = length / parts
    part = np.clip(way / width, 0, parts - 1e-6).astype(int)
    off_centre = np.abs(way / width - part - 0.5)
    good = _BLURRED * float(np.percentile(sharp, 75))
    chosen: list[int] = []
    for k in range(parts):
        inside = np.flatnonzero(part == k)
        if not len(inside):
            continue
        best = int(inside[np.argmax(sharp[inside] - 0.2 * good * off_centre[inside])])
        if sharp[best] < good:
            continue
        if chosen and way[best] - way[chosen[-1]] < min(_MIN_STEP, width) / 2:
            if sharp[best] > sharp[chosen[-1]]:
                chosen[-1] = best
            continue
        chosen.append(best)
    return sorted(set(chosen)) or [int(np.argmax(sharp))]


# -- decoding --------------------------------------------------------------------------------------


def _require_av() -> None:
    try:
        import av  # noqa: F401
    except ImportError:
        raise ImportError("videos need PyAV: pip install 'weav3r[video]'") from None


@contextmanager
def _opened(video: BinaryIO, container: str, max_megapixels: float) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; FFmpeg's errors come out as ours."""
    import av
    from av.error import FFmpegError

    video.seek(0)
    try:
        # An open file and a fixed container: nothing in the file can make FFmpeg open another one.
        with av.open(video, format=container, metadata_errors="ignore") as opened:
            if not opened.streams.video:
                raise UnusableVideoError("holds no pictures")
            stream = opened.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(int(max_megapixels * 1e6))}
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > max_megapixels * 1e6:
                raise UnusableVideoError(
                    f"has frames of {width}x{height}; at most {max_megapixels:.0f} megapixels are "
                    "taken"
                )
            yield opened, stream
    except FFmpegError as error:
        raise UnusableVideoError(
            f"is damaged, or of an unknown format ({error.strerror})"
        ) from None


def _frames(opened: Any, stream: Any) -> Iterator[Any]:
    """Frames with a time; a damaged packet costs its frames only."""
    from av.error import InvalidDataError

    for packet in opened.demux(stream):
        try:
            decoded = packet.decode()
        except InvalidDataError:
            continue
        yield from (frame for frame in decoded if frame.pts is not None)


def _measure(
    video: BinaryIO,
    container: str,
    max_seconds: float | None,
    max_megapixels: float,
    progress: Callable[[int, int], None] | None,
) -> _Measured:
    frames: list[tuple[int, float, float]] = []  # pts, seconds, sharpness
    ways: list[tuple[float, float]] = []  # seconds, way up to there
    meter = MotionMeter()
    with _opened(video, container, max_megapixels) as (opened, stream):
        length = _length_s(opened, stream)
        _check_length(length, max_seconds)
        period = max(1 / _MEASURED_PER_S, length / _MAX_MEASURED)
        motion_period = max(1 / _MOTION_PER_S, length / _MAX_MOTION)
        if period * float(stream.average_rate or 0) > 2:
            stream.codec_context.skip_frame = "NONREF"
        start = None
        for number, frame in enumerate(_frames(opened, stream)):
            start = frame.time if start is None else start
            time = frame.time - start
            _check_length(time, max_seconds)
            if number > _MAX_RATE * max(time, 10.0):
                raise UnusableVideoError("has more frames than its length can hold")
            if frames and time < frames[-1][1] + 0.9 * period:
                continue
            gray = _gray(frame)
            frames.append((frame.pts, time, sharpness(gray)))
            if not ways or time >= ways[-1][0] + 0.9 * motion_period:
                ways.append((time, meter.add(_small(gray))))
            if len(frames) > 2 * _MAX_MEASURED:  # it had not said how long it is
                del frames[1::2]
                period, motion_period = 2 * period, 2 * motion_period
            if progress is not None:
                total = max(1, round(length * 10))
                progress(min(total, round(time * 10)), total)
    if not frames:
        raise UnusableVideoError("holds no frame that can be decoded")
    pts, times, sharp = zip(*frames, strict=True)
    return _Measured(
        list(pts), np.array(times), np.array(sharp), np.interp(times, *np.transpose(ways))
    )


def _length_s(opened: Any, stream: Any) -> float:
    """Length that the file claims, seconds; 0 when it claims none."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (opened.duration or 0) / 1e6


def _check_length(seconds: float, most: float | None) -> None:
    if most is not None and seconds > most:
        raise UnusableVideoError(f"is longer than {most:.0f} s; cut out the part that matters")


def _gray(frame: Any) -> np.ndarray:
    """Grey levels 0..255 at the size that sharpness is measured at."""
    scale = min(1.0, _MEASURED_PX / max(frame.width, frame.height))
    width, height = (max(32, round(side * scale / 4) * 4) for side in (frame.width, frame.height))
    small = frame.reformat(width=width, height=height, format="gray", interpolation="AREA")
    return small.to_ndarray().astype(np.float32)


def _small(gray: np.ndarray) -> np.ndarray:
    """The size that motion is measured at."""
    return shrink(gray, max(1, round(max(gray.shape) / _MOTION_PX)))


def _write(
    opened: Any, stream: Any, measured: _Measured, chosen: list[int], folder: Path, stem: str
) -> list[tuple[Path, float]]:
    """Write the chosen frames, but for those that show what the last one shows."""
    written: list[tuple[Path, float]] = []
    last: np.ndarray | None = None
    wanted = {measured.pts[index]: float(measured.times_s[index]) for index in chosen}
    for frame in _frames_at(opened, stream, list(wanted)):
        time, small = wanted[frame.pts], _small(_gray(frame))
        if last is not None and way_between(last, small) < _MIN_STEP / 2:
            continue
        last = small
        target = folder / f"{stem}_{round(time * 1000):07d}.jpg"
        with target.open("xb") as file:
            _upright(frame, stream).save(file, "JPEG", quality=95, subsampling=0)
        written.append((target, time))
    if not written:
        raise UnusableVideoError("cannot be read a second time")
    return written


def _frames_at(opened: Any, stream: Any, wanted: list[int]) -> Iterator[Any]:
    """Decode the frames of these times, which are in order."""
    if opened.format.name in _UNSEEKABLE:
        yield from (frame for frame in _frames(opened, stream) if frame.pts in wanted)
        return
    for pts in wanted:
        for target in (pts, stream.start_time or 0):  # some files are sought past what is asked for
            opened.seek(target, stream=stream)
            found = next((frame for frame in _frames(opened, stream) if frame.pts >= pts), None)
            if found is not None and found.pts == pts:
                yield found
                break


def _upright(frame: Any, stream: Any) -> Image.Image:
    """RGB as it is meant to be seen: square pixels, turned as the file says."""
    picture = frame.to_image()
    aspect = float(stream.codec_context.sample_aspect_ratio or 1)
    if aspect > 1.01 or 0 < aspect < 0.99:
        size = (round(picture.width * max(aspect, 1)), round(picture.height / min(aspect, 1)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    turn = round(frame.rotation / 90) * 90 % 360
    return picture.rotate(turn, expand=True) if turn else picture
