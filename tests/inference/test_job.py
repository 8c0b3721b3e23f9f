"""Runs that remember: the same scene after a kill, after damage, beside another process."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import weav3r
from weav3r.inference.images import load_images
from weav3r.inference.job import folder as job_module
from weav3r.inference.job.store import JobStore
from weav3r.models import TwoViewModel

_spec = importlib.util.spec_from_file_location(
    "comparing", Path(__file__).with_name("comparing.py")
)
assert _spec is not None and _spec.loader is not None
comparing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(comparing)
same_scene = comparing.same_scene

OPTIONS = {"size": 96, "cameras": "pointmaps", "depth": "sweep", "progress": False}


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return weav3r.load_model("weav3r-small", device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos."""
    return Path(shutil.copytree(weav3r.example_photos()["toy"], tmp_path / "photos"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was computed instead of read: "features", "pairs" or "depth" for each."""
    kinds: list[str] = []
    put = JobStore.put

    def noted(store: JobStore, kind: str, *rest: object) -> bool:
        kinds.append(kind)
        return put(store, kind, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(JobStore, "put", noted)
    return kinds


def counts(kinds: list[str]) -> tuple[int, int, int]:
    return kinds.count("features"), kinds.count("pairs"), kinds.count("depth")


def test_a_second_run_computes_nothing_and_gives_the_same(
    model: TwoViewModel, photos: Path, tmp_path: Path, computed: list[str]
) -> None:
    first = weav3r.reconstruct(photos, model, job=tmp_path / "job", **OPTIONS)
    assert counts(computed) == (2, 1, 2)
    computed.clear()
    second = weav3r.reconstruct(photos, model, job=JobStore(tmp_path / "job"), **OPTIONS)
    assert computed == [] and same_scene(first, second)


@pytest.mark.parametrize("road", ["pointmaps", "matches"])
def test_a_job_changes_no_bit_of_the_scene(
    model: TwoViewModel, photos: Path, tmp_path: Path, road: str
) -> None:
    """Nor does it change the order of pairs of different shapes."""
    with Image.open(photos / "toy_1.jpg") as photo:
        photo.crop((photo.width // 3, 0, photo.width, photo.height)).save(photos / "toy_0.jpg")
    options: dict[str, Any] = OPTIONS | {"cameras": road}
    plain = weav3r.reconstruct(photos, model, **options)
    assert same_scene(plain, weav3r.reconstruct(photos, model, job=tmp_path / "job", **options))


def test_matches_are_remembered_too(
    model: TwoViewModel, photos: Path, tmp_path: Path, computed: list[str]
) -> None:
    options = OPTIONS | {"size": 128, "cameras": "matches", "job": tmp_path / "job"}
    first = weav3r.reconstruct(photos, model, **options)
    assert first.report.settings["cameras"] == "matches"
    computed.clear()
    assert same_scene(first, weav3r.reconstruct(photos, model, **options))
    assert computed == []


def test_a_new_photo_computes_only_what_depends_on_it(
    model: TwoViewModel, photos: Path, tmp_path: Path, computed: list[str]
) -> None:
    weav3r.reconstruct(photos, model, job=tmp_path / "job", **OPTIONS)
    with Image.open(photos / "toy_1.jpg") as photo:
        photo.crop((30, 20, photo.width - 10, photo.height - 20)).save(photos / "toy_3.jpg")
    computed.clear()
    changed = weav3r.reconstruct(photos, model, job=tmp_path / "job", **OPTIONS)
    assert counts(computed)[:2] == (1, 2)
    fresh = weav3r.reconstruct(photos, model, job=tmp_path / "fresh", **OPTIONS)
    assert same_scene(changed, fresh)


def test_other_weights_size_or_precision_recompute_everything(
    model: TwoViewModel, photos: Path, tmp_path: Path, computed: list[str]
) -> None:
    other = TwoViewModel(model.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.dec_norm.bias[0] += 1e-3
    for network, options in (
        (model, {}),
        (other, {}),
        (model, {"size": 128}),
        (model, {"precision": "bfloat16"}),
    ):
        computed.clear()
        merged: dict[str, Any] = OPTIONS | options
        weav3r.reconstruct(photos, network, job=tmp_path / "job", **merged)
        assert counts(computed) == (2, 1, 2)


def test_damaged_entries_are_made_again(
    model: TwoViewModel, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = weav3r.reconstruct(photos, model, job=tmp_path / "job", **OPTIONS)
    dice = random.Random(1)
    entries = sorted((tmp_path / "job").glob("*/*/*.entry"))
    for path in entries:
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        second = weav3r.reconstruct(photos, model, job=tmp_path / "job", **OPTIONS)
    assert same_scene(first, second)
    assert caplog.text.count("it is computed again") == len(entries)


def test_an_entry_with_other_content_is_made_again(
    model: TwoViewModel, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = weav3r.reconstruct(photos, model, job=tmp_path / "job", **OPTIONS)
    store = JobStore(tmp_path / "job")
    for path in store.folder.glob("*/*/*.entry"):
        store.put(path.parent.parent.name, path.stem, {"unexpected": torch.zeros(1)})
    with caplog.at_level(logging.WARNING):
        second = weav3r.reconstruct(photos, model, job=store, **OPTIONS)
    assert same_scene(first, second) and "does not hold what it should" in caplog.text


def test_features_may_wait_on_the_disk(
    model: TwoViewModel, photos: Path, tmp_path: Path, computed: list[str]
) -> None:
    views = load_images(photos, size=96).views
    store = JobStore(tmp_path / "job")
    job = job_module.Job(store, model, views, resident=1)
    job.encode(lambda steps: None)
    assert counts(computed) == (2, 0, 0) and len(job[:]) == 2 and len(job._features) == 1
    with torch.inference_mode():
        assert torch.equal(job[0].tokens, model.encode(views[0].image[None]).tokens)
    for path in store.folder.glob("features/*/*"):  # as a bounded folder may do
        path.unlink()
    assert len(job[1]) == 1
    assert counts(computed) == (3, 0, 0)


def test_two_processes_share_a_job(model: TwoViewModel, photos: Path, tmp_path: Path) -> None:
    def run(number: int) -> weav3r.Scene:
        return weav3r.reconstruct(photos, model, job=tmp_path / "job", **OPTIONS)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(run, range(2))
    assert same_scene(one, other)


def kill_and_resume(folder: Path, kills: int, cameras: str) -> list[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, script, folder, str(kills), cameras],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forks")
@pytest.mark.parametrize(
    ("kills", "cameras"),
    [
        (3, "pointmaps"),
        pytest.param(10, "pointmaps", marks=pytest.mark.slow),
        pytest.param(10, "matches", marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments_it_goes_on_to_the_same_scene(
    tmp_path: Path, kills: int, cameras: str
) -> None:
    lines = kill_and_resume(tmp_path, kills, cameras)
    assert [line.split()[1] for line in lines] == ["same"] * kills
    assert len({line.split()[0] for line in lines}) > 1  # they had come differently far


def test_the_command_takes_a_job_folder(
    run: Callable, photos: Path, tmp_path: Path, computed: list[str]
) -> None:
    arguments = (photos, "--size", 96, "--cameras", "pointmaps")
    arguments = ("reconstruct", *arguments, "-o", tmp_path / "s.npz", "--job", tmp_path / "job")
    for expected in (5, 0):
        computed.clear()
        assert run(*arguments).status == 0
        assert len(computed) == expected
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("x")
    failed = run(*arguments[:-1], tmp_path / "other")
    assert failed.status == 2 and "is no job folder" in failed.err
