"""Videos of a flat scene, filmed along a way that is known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter1d

HEIGHT, WIDTH = 180, 320


def wall(seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 picture of a wall with texture of every size, five frames wide."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT + 40, 5 * WIDTH)
    layers = [gaussian_filter(rng.standard_normal(shape), size) for size in (0.7, 3, 12)]
    gray = 128 + 30 * np.sum([layer / layer.std() for layer in layers], axis=0)
    return np.clip(gray[..., None] * (1.0, 0.9, 0.8), 0, 255).astype(np.uint8)


def filmed(scene: np.ndarray, way: Iterable[float], blurred: Iterable[bool]) -> list[np.ndarray]:
    """Frames (HEIGHT, WIDTH, 3) at each x of the way, pixels; blurred as by a fast motion."""
    frames = []
    for x, blur in zip(way, blurred, strict=True):
        left = round(x)
        frame = scene[20 : 20 + HEIGHT, left : left + WIDTH]
        if blur:
            frame = uniform_filter1d(frame, 13, axis=1)
        frames.append(np.ascontiguousarray(frame))
    return frames


def write_video(
    file: Path, frames: list[np.ndarray], fps: int = 25, turned: int = 0, codec: str = "mpeg4"
) -> Path:
    """Encode frames; `turned` is the rotation to show them with, counterclockwise degrees."""
    import av
    from av.video.stream import VideoStream

    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.bit_rate = 4_000_000
        if turned:
            stream.set_display_rotation(turned)
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file
