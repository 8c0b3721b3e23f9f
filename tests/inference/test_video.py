"""Frames picked from videos whose camera way is known."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import weav3r
from weav3r.inference.frame_quality import MotionMeter, sharpness, shrink
from weav3r.inference.video import (
    UnusableVideoError,
    choose_frames,
    pick_frames,
    video_container,
)

from .made_videos import HEIGHT, WIDTH, filmed, wall, write_video

if TYPE_CHECKING:
    from ..conftest import Run

pytest.importorskip("av", reason="the extra 'video' is not installed")

FPS = 25
SPEED = 8.0  # pixels a frame

# Two seconds on the spot, two seconds on the move, one of them blurred, and one on the spot again.
STILL, SHARP, BLURRED, END = range(0, 50), range(50, 75), range(75, 90), range(115, 140)
WAY = np.concatenate([np.zeros(50), SPEED * np.arange(65), np.full(25, SPEED * 64)])
IS_BLURRED = np.isin(np.arange(140), BLURRED)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return wall()


@pytest.fixture(scope="module")
def video(scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("video") / "walk.mp4"
    return write_video(file, filmed(scene, WAY, IS_BLURRED), FPS)


def gray(frame: np.ndarray) -> np.ndarray:
    """Grey levels of a frame."""
    return frame.mean(2).astype(np.float32)


# -- measures --------------------------------------------------------------------------------------


def test_the_way_is_measured_in_picture_widths(scene: np.ndarray) -> None:
    meter = MotionMeter()
    steps = np.linspace(0, 400, 41)
    lengths = [meter.add(shrink(gray(f), 2)) for f in filmed(scene, steps, [False] * 41)]
    np.testing.assert_allclose(lengths, steps / WIDTH, atol=0.004)  # half a pixel of rounding


def test_trembling_is_no_way(scene: np.ndarray) -> None:
    meter = MotionMeter()
    trembling = 20 + 3 * np.sin(np.arange(60))
    frames = filmed(scene, trembling, [False] * 60)
    assert max(meter.add(shrink(gray(f), 2)) for f in frames) < 6.5 / WIDTH


def test_a_cut_counts_as_a_way(scene: np.ndarray) -> None:
    meter = MotionMeter()
    lengths = [meter.add(shrink(gray(frame), 2)) for frame in filmed(scene, [0, 1000], [False] * 2)]
    assert lengths[-1] > 0.1


def test_frames_without_texture_do_not_move() -> None:
    meter = MotionMeter()
    rng = np.random.default_rng(0)
    frames = [(100 + rng.standard_normal((90, 160))).astype(np.float32) for _ in range(5)]
    assert max(map(meter.add, frames)) == 0


def test_sharpness_does_not_depend_on_contrast(scene: np.ndarray) -> None:
    sharp, blurred = (gray(f) for f in filmed(scene, [0, 0], [False, True]))
    assert sharpness(sharp) > 1.5 * sharpness(blurred)
    assert sharpness(sharp) == pytest.approx(sharpness(sharp / 4 + 90), abs=0.01)
    assert sharpness(np.zeros((60, 80), np.float32)) == 0


@given(
    st.lists(st.tuples(st.floats(0.1, 1), st.floats(0, 0.2)), min_size=1, max_size=80),
    st.integers(1, 30),
)
def test_chosen_frames_are_few_ordered_and_apart(
    frames: list[tuple[float, float]], count: int
) -> None:
    sharp, way = np.array([s for s, _ in frames]), np.cumsum([w for _, w in frames])
    chosen = choose_frames(sharp, way - way[0], count)
    assert 1 <= len(chosen) <= count
    assert chosen == sorted(set(chosen)) and chosen[-1] < len(frames)
    assert (np.diff(way[chosen]) > 0).all()


# -- picking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8])
def test_frames_are_sharp_and_spread_over_the_way(video: Path, count: int, tmp_path: Path) -> None:
    picked = pick_frames(video, tmp_path, count)
    indices = np.round(np.array(picked.times_s) * FPS).astype(int)
    assert 0.7 * count <= len(indices) <= count
    assert not IS_BLURRED[indices].any()
    assert picked.way == pytest.approx(WAY[-1] / WIDTH, rel=0.05)
    if count > 1:
        # A third of the time passes on the spot: at the start and at the end one frame is enough.
        assert np.isin(indices, STILL).sum() <= 2 and np.isin(indices, END).sum() <= 2
        steps = np.diff(WAY[indices]) / WAY[-1]
        assert steps.min() > 0.3 / count and steps.max() < 2 / count + len(BLURRED) / 65
    assert [file.name for file in picked.files] == [
        f"walk_{1000 * i // FPS:07d}.jpg" for i in indices
    ]


def test_the_files_are_the_frames(video: Path, scene: np.ndarray, tmp_path: Path) -> None:
    picked = pick_frames(video, tmp_path, 5)
    for file, time in zip(picked.files, picked.times_s, strict=True):
        left = round(WAY[round(time * FPS)])
        with Image.open(file) as image:
            error = gray(np.asarray(image)) - gray(scene[20 : 20 + HEIGHT, left : left + WIDTH])
        assert np.sqrt((error**2).mean()) < 10  # a neighbour is off by 40


def test_a_camera_on_the_spot_gives_one_frame(scene: np.ndarray, tmp_path: Path) -> None:
    file = write_video(tmp_path / "still.mp4", filmed(scene, [5] * 30, [False] * 30))
    picked = pick_frames(file, tmp_path, 10)
    assert len(picked.files) == 1
    assert picked.summary() == "1 frame of 1 s taken, the sharp ones; the camera does not move"


def test_far_steps_are_warned_of(scene: np.ndarray, tmp_path: Path) -> None:
    way = np.arange(40) * 30.0
    file = write_video(tmp_path / "run.mp4", filmed(scene, way, [False] * 40))
    assert "more of them would overlap better" in str(pick_frames(file, tmp_path, 3).warning)
    assert pick_frames(file, tmp_path, 20, stem="more").warning is None


def test_frames_are_turned_as_the_file_says(scene: np.ndarray, tmp_path: Path) -> None:
    marked = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    marked[:40, :40] = 255  # top left as stored, so bottom left when turned counterclockwise
    file = write_video(tmp_path / "turned.mp4", [marked] * 5, turned=90)
    (frame,) = pick_frames(file, tmp_path, 1).files
    with Image.open(frame) as image:
        pixels = np.asarray(image)[:, :, 0]
    assert pixels.shape == (WIDTH, HEIGHT)
    assert pixels[-20, 20] > 200 and max(pixels[20, 20], pixels[20, -20], pixels[-20, -20]) < 150


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("a.mkv", "matroska", "mpeg4"),
        ("a.webm", "matroska", "libvpx-vp9"),
        ("a.avi", "avi", "mpeg4"),
        ("a.ts", "mpegts", "mpeg2video"),
        ("a.mov", "mov", "mpeg4"),
    ],
)
def test_containers(
    name: str, container: str, codec: str, scene: np.ndarray, tmp_path: Path
) -> None:
    way = 10.0 * np.arange(20)
    frames = filmed(scene, way, [False] * 20)
    file = write_video(tmp_path / name, frames, codec=codec)
    assert video_container(file.read_bytes()[:512]) == container
    picked = pick_frames(file, tmp_path, 3)
    assert len(picked.files) == 3 and len(set(picked.times_s)) == 3


def test_progress_is_told_and_can_end_the_work(video: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pick_frames(video, tmp_path, 2, progress=lambda *state: seen.append(state))
    assert seen[-1][0] == pytest.approx(seen[-1][1], abs=2) and len(seen) > 20

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pick_frames(video, tmp_path / "none", 2, progress=stop)
    assert not (tmp_path / "none").exists()


# -- what is no usable video -----------------------------------------------------------------------


def test_unusable_videos_are_refused(video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    with pytest.raises(UnusableVideoError, match="is not a video of a known format"):
        pick_frames(io.BytesIO(b"#EXTM3U\nfile:///etc/passwd"), tmp_path)
    with pytest.raises(UnusableVideoError, match="is damaged, or of an unknown format"):
        pick_frames(io.BytesIO(data[:2000]), tmp_path)
    with pytest.raises(UnusableVideoError, match="is longer than 3 s"):
        pick_frames(video, tmp_path, max_seconds=3)
    with pytest.raises(UnusableVideoError, match="has frames of 320x180; at most 0 megapixels"):
        pick_frames(video, tmp_path, max_megapixels=0.05)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        pick_frames(video, tmp_path, 0)


def test_a_playlist_is_not_opened_whatever_it_is_called(tmp_path: Path) -> None:
    with pytest.raises(UnusableVideoError):
        pick_frames(io.BytesIO(b"ffconcat version 1.0\nfile walk.mp4\n"), tmp_path, container="mov")


def test_photos_are_no_videos(tmp_path: Path) -> None:
    for format in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"):
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, format)
        assert video_container(file.getvalue()[:512]) is None
    assert video_container(b"\0\0\0\x18ftypheic") is None
    assert video_container(b"") is None


def test_a_video_damaged_in_the_middle_gives_the_rest(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    assert len(pick_frames(io.BytesIO(data), tmp_path, 6).files) >= 2


# -- where photos are expected ---------------------------------------------------------------------


def test_a_video_is_reconstructed(video: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "colmap"
    outcome = run(
        *("reconstruct", video, "--frames", 3, "--size", 96, "--cameras", "pointmaps"),
        *("--depth", "pointmaps", "-o", out, "--format", "colmap", "--job", tmp_path / "job", "-q"),
    )
    assert outcome.status == 0, outcome.err
    (frames,) = (tmp_path / "job" / "frames").iterdir()
    names = sorted(file.name for file in frames.iterdir())
    assert len(names) == 3 and names[0].startswith("walk_")


def test_frames_stay_between_photos_and_outlive_the_call(video: Path) -> None:
    photos = sorted(weav3r.example_photos()["toy"].iterdir())
    scene = weav3r.reconstruct(
        [photos[0], video],
        size=96,
        frames=2,
        cameras="pointmaps",
        depth="pointmaps",
        progress=False,
    )
    assert scene.images[0] == photos[0].name and len(scene.images) == 3
    assert all(view.path is not None and view.path.exists() for view in scene.views)


def test_an_unusable_video_is_named(tmp_path: Path, run: Run) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    outcome = run("reconstruct", clip, "-o", tmp_path / "scene.glb")
    assert outcome.status == 2
    assert f"{clip} is damaged, or of an unknown format" in outcome.err


def test_without_pyav_the_error_says_what_to_install(
    video: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    outcome = run("reconstruct", video, "-o", tmp_path / "scene.glb")
    assert outcome.status == 2
    assert "videos need PyAV: pip install 'weav3r[video]'" in outcome.err
