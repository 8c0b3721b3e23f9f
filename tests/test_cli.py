"""The command `weav3r`: what it says, writes and returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import weav3r
from weav3r.cli import main

if TYPE_CHECKING:
    from .conftest import Outcome, Run


def test_version(run: Run) -> None:
    outcome = run("--version")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == f"weav3r {metadata.version('weav3r')}\n"


def test_python_m_is_the_same_command() -> None:
    code = [sys.executable, "-P", "-m", "weav3r", "--version"]
    run = subprocess.run(code, capture_output=True, text=True, check=True)
    assert run.stdout == f"weav3r {metadata.version('weav3r')}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_commands(run: Run, flag: str) -> None:
    outcome = run(flag)
    assert outcome.status == 0
    for name in (
        "reconstruct",
        "match",
        "localize",
        "plan",
        "examples",
        "train",
        "evaluate",
        "demo",
        "data",
        "models",
    ):
        assert name in outcome.out


@pytest.mark.parametrize(
    "command",
    [
        ("reconstruct",),
        ("match",),
        ("localize",),
        ("plan",),
        ("examples",),
        ("train",),
        ("evaluate",),
        ("demo",),
        ("data", "sheet"),
        ("data", "textures"),
        ("models", "list"),
        ("models", "info"),
        ("models", "path"),
        ("models", "download"),
        ("models", "convert"),
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(run: Run, command: tuple[str, ...]) -> None:
    outcome = run(*command, "--help")
    assert outcome.status == 0
    assert "Usage" in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("reconstruct", "--nonsense"),
        ("reconstruct", "--size", "many"),
        ("match", "only-one.jpg"),
        ("models", "nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(run: Run, arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert outcome.status == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    """Status 2, silence on stdout, and one line on stderr that holds `parts`."""
    assert (outcome.status, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_photos_or_an_example_not_both_and_not_neither(run: Run) -> None:
    assert_one_line(run("reconstruct"), "give either photos", "--example NAME")
    assert_one_line(run("reconstruct", "photos", "--example", "toy"), "give either photos")


def test_an_unknown_example_names_the_known_ones(run: Run) -> None:
    outcome = run("reconstruct", "--example", "louvain")
    assert_one_line(outcome, "no example 'louvain'", *weav3r.example_photos())


def test_a_missing_folder_is_named(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert_one_line(run("reconstruct", missing, "-o", tmp_path / "scene.glb"), str(missing))


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the long work begins."""

    def begin(*arguments: object, **options: object) -> None:
        raise AssertionError("the work began before the arguments were checked")

    monkeypatch.setattr(weav3r, "reconstruct", begin, raising=False)
    monkeypatch.setattr(weav3r, "match", begin, raising=False)


@pytest.mark.usefixtures("no_work")
def test_an_unknown_suffix_fails_before_the_work(run: Run) -> None:
    outcome = run("reconstruct", "--example", "toy", "-o", "scene.obj")
    assert_one_line(outcome, "cannot tell the format of 'scene.obj'", ".glb")
    outcome = run("match", "a.jpg", "b.jpg", "-o", "matches.txt")
    assert_one_line(outcome, "matches.txt", ".npz, .csv or .png")
    outcome = run("match", "photos", "-o", "m.npz", "--colmap-db", "m.db")
    assert_one_line(outcome, "leave out --colmap-db")
    for option in (("--matcher", "gated"), ("--coarse-to-fine",)):
        outcome = run("match", "photos", "--colmap-db", "m.db", *option)
        assert_one_line(outcome, "--matcher and --coarse-to-fine are for two photos")


@pytest.mark.usefixtures("no_work")
def test_one_path_alone_is_matched_only_for_colmap(run: Run) -> None:
    assert_one_line(run("match", "photos"), "give two photos, got 1", "--colmap-db FILE")


@pytest.mark.usefixtures("no_work")
def test_a_place_that_cannot_be_written_fails_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "deep" / "scene.glb"
    outcome = run("reconstruct", "--example", "toy", "-o", below)
    assert_one_line(outcome, f"--output {below}", "is a file, not a folder")
    readable = lambda place, mode: mode != os.W_OK  # noqa: E731 - root may write anywhere
    monkeypatch.setattr(os, "access", readable)
    outcome = run("match", "a.jpg", "b.jpg", "-o", tmp_path / "m.png")
    assert_one_line(outcome, f"no permission to write to {tmp_path}")
    monkeypatch.setattr(os, "access", lambda p, mode: mode != os.W_OK or Path(p).is_dir())
    (tmp_path / "report.json").write_text("{}")
    arguments = ("--example", "toy", "-o", tmp_path / "s.glb", "--report", tmp_path / "report.json")
    assert_one_line(run("reconstruct", *arguments), "--report", "no permission", "report.json")


def test_errors_of_the_system_name_the_file_first(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def occupied() -> None:
        (tmp_path / "is-a-folder").mkdir()
        (tmp_path / "is-a-folder").write_text("")

    monkeypatch.setattr(weav3r, "example_photos", occupied)
    outcome = run("examples")
    assert outcome.status == 2
    assert f"error: {tmp_path / 'is-a-folder'}: " in outcome.err


@pytest.mark.usefixtures("no_work")
def test_an_unknown_format_fails_before_the_work(run: Run) -> None:
    outcome = run("reconstruct", "--example", "toy", "-o", "scene", "--format", "fbx")
    assert_one_line(outcome, "unknown format 'fbx'", "colmap")


def test_an_unknown_model_is_one_line(run: Run, tmp_path: Path) -> None:
    outcome = run("reconstruct", "--example", "toy", "--model", "huge", "-o", tmp_path / "s.glb")
    assert_one_line(outcome, "huge", "weav3r-small")


def test_a_defect_is_status_1_and_says_how_to_see_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(weav3r, "example_photos", broken)
    outcome = run("examples")
    assert outcome.status == 1
    assert outcome.err.splitlines()[0] == "error: RuntimeError: out of luck"
    assert "WEAV3R_DEBUG=1" in outcome.err
    monkeypatch.setenv("WEAV3R_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["weav3r", "examples"])
    with pytest.raises(RuntimeError, match="out of luck"):
        main()


def test_examples_lists_names_and_folders_one_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # narrower than the paths: they must stay whole
    outcome = run("examples")
    assert outcome.status == 0
    for name, folder in weav3r.example_photos().items():
        (line,) = (row for row in outcome.out.splitlines() if row.startswith(name))
        assert line.endswith(f"2 photos  {folder}")
    assert outcome.out.count("2 photos") == 5


def test_train_shows_a_resolved_recipe(run: Run) -> None:
    outcome = run("train", "tiny-cpu", "--set", "data.scenes=3", "--print-config")
    assert outcome.status == 0
    assert json.loads(outcome.out)["data"]["scenes"] == 3


def test_train_names_an_unknown_recipe(run: Run) -> None:
    assert_one_line(run("train", "nonsense"), "nonsense", "tiny-cpu")


def test_data_sheet_draws_a_picture(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "sheet.png"
    textures = tmp_path / "textures"
    textures.mkdir()
    for number in range(2):
        Image.effect_noise((64, 64), 60 + number).convert("RGB").save(textures / f"{number}.png")
    outcome = run(
        *("data", "sheet", "-o", picture, "--count", 1, "--height", 32, "--width", 32),
        *("--textures", textures, "--features", "all", "--panoramas", textures),
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == f"wrote {picture}\n"
    with Image.open(picture) as image:
        assert min(image.size) >= 32
    outcome = run("data", "sheet", "-o", picture, "--features", "thin,fog")
    assert_one_line(outcome, "unknown features", "fog", "panoramas, thin")


def test_reconstruct_writes_a_page_and_leaves_out_floating_points(run: Run, tmp_path: Path) -> None:
    arguments = ["reconstruct", "--example", "toy", "--size", 128, "--min-confidence", 1, "-q"]
    page, whole, cleaned = (tmp_path / name for name in ("a.html", "a.ply", "b.ply"))
    assert run(*arguments, "-o", whole, "--html", page).status == 0
    assert run(*arguments, "-o", cleaned, "--clean", "--no-sky").status == 0
    text = page.read_text()
    assert "2 of 2 photos placed" in text and "<rect" in text
    assert 0 < cleaned.stat().st_size < whole.stat().st_size


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "a.npz", "--clean"], "choose points of .glb, .ply and .json, not npz"),
        (["-o", "folder", "--no-sky"], "choose points of .glb, .ply and .json, not colmap"),
        (["-o", "a.npz", "--max-error", 0.1], "--max-error choose points of .glb"),
        (["-o", "a.glb", "--max-error", 0], "a share of the depth, above 0, got 0"),
        (["-o", "a.npz", "--min-confidence", 2], "chooses points; npz has no place"),
        (["-o", "a.glb", "--html", "page.txt"], "cannot tell the format of 'page.txt'"),
        (["-o", "a.glb", "--html", "page.ply"], "the name must end in .html"),
    ],
)
def test_choices_that_make_no_sense_fail_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weav3r, "reconstruct", None, raising=False)
    outcome = run("reconstruct", "--example", "toy", *arguments)
    assert outcome.status == 2 and message in outcome.err


def test_own_photos_are_judged_without_ground_truth(run: Run, tmp_path: Path) -> None:
    photos = weav3r.example_photos()["toy"]
    outcome = run("evaluate", photos, "--no-ground-truth", "--size", 128, "-o", tmp_path / "own")
    assert outcome.status == 0 and "# Self-consistency of the photos" in outcome.out
    assert (tmp_path / "own" / "self-consistency.json").is_file()
    refused = run("evaluate", photos, "--no-ground-truth", "--sets", "x")
    assert refused.status == 2 and "leave --sets and --scenes out" in refused.err


def test_a_largest_error_needs_a_calibrated_checkpoint(run: Run, tmp_path: Path) -> None:
    from weav3r.models.config import ModelConfig
    from weav3r.models.storage import save_checkpoint
    from weav3r.models.two_view import TwoViewModel

    config = ModelConfig(
        encoder_dim=24,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=24,
        decoder_depth=2,
        decoder_heads=2,
    )
    weights = save_checkpoint(TwoViewModel(config), tmp_path / "net")
    options = ["-m", weights, "--max-error", 0.1, "-o", tmp_path / "a.ply"]
    outcome = run("reconstruct", "--example", "toy", *options)
    assert outcome.status == 2 and "is not calibrated; `weav3r reliability --fit" in outcome.err
