"""Photos that cannot be used, from the command to the written scene."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import weav3r
from weav3r.cli import main

SIZE = "128"  # long side at the network: as small as cameras still come out
BAD = {"cut.jpg": "damaged or cut short", "note.jpg": "not an image", "dot.png": "1x1 pixels"}


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("WEAV3R_DEBUG", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of files that look like photos by their names only."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = weav3r.example_photos()["leuven"] / "leuven_1.jpg"
    (folder / "cut.jpg").write_bytes(photo.read_bytes()[:20_000])
    (folder / "note.jpg").write_text("I am not a photograph.")
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    return folder


@pytest.fixture
def mixed(bad: Path) -> Path:
    """The same among two photographs and two unusual but good files."""
    photos = sorted(weav3r.example_photos()["leuven"].iterdir())
    for photo in photos:
        shutil.copy(photo, bad)
    box = (60, 40, 660, 490)
    with Image.open(photos[0]) as first, Image.open(photos[1]) as second:
        first.crop(box).convert("CMYK").save(bad / "ink.jpg")
        grey = np.asarray(second.crop(box).convert("L"), dtype=np.uint16)
    Image.fromarray(grey * 257).save(bad / "deep.png")
    return bad


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit status of the command."""
    monkeypatch.setattr(sys, "argv", ["weav3r", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_good_photos_become_a_scene_and_each_bad_one_is_named(
    mixed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scene, report_file = tmp_path / "scene.glb", tmp_path / "report.json"
    status = call(
        monkeypatch,
        *("reconstruct", mixed, "--size", SIZE, "-o", scene, "--report", report_file),
    )
    out, err = capsys.readouterr()
    assert status == 0, err
    assert scene.read_bytes()[:4] == b"glTF"
    report = json.loads(report_file.read_text())
    assert report["images"] == ["deep.png", "ink.jpg", "leuven_1.jpg", "leuven_2.jpg"]
    skipped = {Path(p["path"]).name: p["reason"] for p in report["problems"] if p["skipped"]}
    assert skipped.keys() == BAD.keys()
    for name, reason in BAD.items():
        assert reason in skipped[name]
        assert name in out
    assert "Traceback" not in err


def test_nothing_usable_is_one_line_and_status_2(
    bad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scene = tmp_path / "scene.glb"
    status = call(monkeypatch, "reconstruct", bad, "--size", SIZE, "-o", scene)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: none of the 3 images can be used")
    for name, reason in BAD.items():
        assert name in line and reason in line
    assert not scene.exists()


def test_one_good_photo_is_enough(
    bad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(weav3r.example_photos()["toy"] / "toy_1.jpg", bad)
    scene = tmp_path / "scene.ply"
    status = call(monkeypatch, "reconstruct", bad, "--size", SIZE, "-o", scene)
    out, err = capsys.readouterr()
    assert status == 0, err
    assert scene.stat().st_size > 0
    assert "one photo only" in out


def test_matching_an_unusable_photo_names_it(
    bad: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = weav3r.example_photos()["toy"] / "toy_1.jpg"
    status = call(monkeypatch, "match", good, bad / "note.jpg", "--size", SIZE)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert "note.jpg" in line and "not an image" in line
