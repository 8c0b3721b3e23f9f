"""The commands `weav3r data import`, `check` and `pairs`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from .datasets.made_sets import EXPORTS, Made, make_rooms, with_poses

if TYPE_CHECKING:
    from .conftest import Run


@pytest.fixture(scope="module")
def rooms() -> Made:
    return make_rooms(1)


def test_import_check_and_pairs(run: Run, rooms: Made, tmp_path: Path) -> None:
    EXPORTS["scannet"](rooms, tmp_path / "scan")
    copy = tmp_path / "copy"
    done = run("data", "import", "scannet", str(tmp_path / "scan"), str(copy))
    assert done.status == 0 and f"wrote {copy}" in done.out
    done = run("data", "check", str(copy), "--json", "--report", str(tmp_path / "page.html"))
    assert done.status == 0 and json.loads(done.out)["passed"] is True
    assert "fit for training" in (tmp_path / "page.html").read_text()
    done = run("data", "pairs", str(copy), "--low", "0.3")
    assert done.status == 0 and (copy / "pairs.npz").is_file()
    again = run("data", "import", "auto", str(tmp_path / "scan"), str(copy))
    assert again.status == 2 and "is not empty" in again.err


def test_check_fails_with_the_name_of_the_fault(run: Run, rooms: Made, tmp_path: Path) -> None:
    EXPORTS["rgbd"](with_poses(rooms, np.linalg.inv), tmp_path / "wrong")
    done = run("data", "check", str(tmp_path / "wrong"))
    assert done.status == 2
    assert "error inverse-poses: poses are cam_from_world" in done.out
    assert "inverse-poses" in (tmp_path / "wrong.html").read_text()


def test_mined_pairs_of_a_foreign_layout_are_read(run: Run, rooms: Made, tmp_path: Path) -> None:
    from weav3r.datasets.layouts import open_data_set

    EXPORTS["tartanair"](rooms, tmp_path)
    assert open_data_set(tmp_path).pairs is None
    assert run("data", "pairs", str(tmp_path)).status == 0
    assert open_data_set(tmp_path).pairs is not None


@pytest.mark.parametrize("command", [["check"], ["pairs"], ["import", "auto"]])
def test_no_data_set_is_an_input_error(run: Run, command: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    places = [str(tmp_path / "empty")] + [str(tmp_path / "new")] * (len(command) - 1)
    done = run("data", *command, *places)
    assert done.status == 2 and "looks like no data set" in done.err


def test_make_writes_a_data_set_to_train_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weav3r.datasets.layouts import open_data_set
    from weav3r.datasets.textures import TextureBank

    few = TextureBank.procedural(count=8, size=32)
    monkeypatch.setattr("weav3r.datasets.made_scenes.default_bank", lambda: few)
    folder = tmp_path / "rooms"
    small = ("--scenes", 2, "--views", 2, "--size", "64x48", "--fov", 40, 80)
    done = run("data", "make", folder, *small, "--look", "thermal")
    assert done.status == 0 and f"wrote {folder} with 4 photos of 2 scenes" in done.out
    made = open_data_set(folder)
    assert len(made) == 4 and made.views[0].size == (48, 64)
    again = run("data", "make", folder, *small)
    assert again.status == 2 and "is not empty" in again.err
    wrong = run("data", "make", tmp_path / "new", "--look", "foggy")
    assert wrong.status == 2 and "--look foggy: there are photo, night, thermal" in wrong.err
    wrong = run("data", "make", tmp_path / "new", "--size", "64")
    assert wrong.status == 2 and "expected WIDTHxHEIGHT, such as 256x192" in wrong.err
