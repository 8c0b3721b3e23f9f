"""The commands `weav3r models ...`, `--offline` and the licence notice."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import weav3r
from weav3r.models import ModelConfig, Provenance, TwoViewModel, load_model
from weav3r.models.hub_cache import PUBLISHED_IDS

if TYPE_CHECKING:
    from .conftest import LocalHub, Outcome, Run

REPO = "me/tiny"
TINY = ModelConfig(
    name="tiny",
    image_size=(32, 32),
    encoder_dim=16,
    encoder_depth=1,
    encoder_heads=1,
    decoder_dim=16,
    decoder_depth=1,
    decoder_heads=1,
)


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    """Status 2, silence on stdout, and one line on stderr that holds `parts`."""
    assert (outcome.status, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a checkpoint folder under a non-commercial licence."""
    stated = Provenance(licence="CC BY-NC-SA 4.0")
    return TwoViewModel(TINY).save_pretrained(tmp_path / "saved", provenance=stated).file.parent


def test_list_fits_a_narrow_terminal(
    run: Run, hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, folder)
    load_model(REPO, device="cpu")
    monkeypatch.setenv("COLUMNS", "80")
    outcome = run("models", "list")
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = (row for row in lines if "weav3r-small" in row)
    assert "12.4 M" in line and "MiB" in line and "Apache-2.0" in line
    (line,) = (row for row in lines if "mast3r-512 " in row)
    assert "688.6 M" in line and "CC BY-NC-SA 4.0" in line
    for hub_id in PUBLISHED_IDS.values():
        assert any(hub_id in row for row in lines)
    (line,) = (row for row in lines if REPO in row)
    assert "MiB" in line


def test_info_is_json(run: Run, folder: Path) -> None:
    bundled = json.loads(run("models", "info", "weav3r-small").out)
    assert bundled["name"] == "weav3r-small" and bundled["licence"] == "Apache-2.0"
    info = json.loads(run("models", "info", folder).out)
    weights = folder / "model.safetensors"
    assert info["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert info["bytes"] == weights.stat().st_size and info["file"] == str(weights)
    assert info["licence"] == "CC BY-NC-SA 4.0"
    preset = json.loads(run("models", "info", "mast3r-512").out)
    assert preset["hub_id"] == PUBLISHED_IDS["mast3r-512"] and "file" not in preset


def test_info_prints_no_control_characters(run: Run, tmp_path: Path) -> None:
    stated = Provenance(licence="\x9b31m" + "a" * 1000)
    TwoViewModel(TINY).save_pretrained(tmp_path / "saved", provenance=stated)
    out = run("models", "info", tmp_path / "saved").out
    assert "\x9b" not in out and "a" * 200 not in out and json.loads(out)["fits"] is True


def test_info_of_what_is_not_there(run: Run, hub: LocalHub) -> None:
    assert_one_line(run("models", "info", "nonsense"), "nonsense", "weav3r-small")
    assert_one_line(run("models", "info", REPO), REPO, "no such repository")
    assert_one_line(run("models", "info", REPO, "--offline"), f"weav3r models download {REPO}")


def test_download_and_path(run: Run, hub: LocalHub, folder: Path) -> None:
    hub.publish(REPO, folder)
    assert_one_line(run("models", "path", REPO), f"weav3r models download {REPO}")
    outcome = run("models", "download", REPO)
    path, facts = outcome.out.splitlines()
    assert outcome.status == 0
    assert Path(path).read_bytes() == (folder / "model.safetensors").read_bytes()
    assert facts.endswith("MiB, licence: CC BY-NC-SA 4.0, non-commercial use only")
    assert run("models", "path", REPO).out == f"{path}\n"
    assert run("models", "path", "weav3r-small").out.endswith("weights/weav3r-small.safetensors\n")
    assert_one_line(run("models", "download", REPO, "--revision", "v2"), "no revision 'v2'")
    assert_one_line(run("models", "path", "nowhere"), "nowhere")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_convert(run: Run, folder: Path, tmp_path: Path, dtype: str) -> None:
    outcome = run("models", "convert", folder, tmp_path / "out", "--dtype", dtype)
    path, checksum, facts = outcome.out.splitlines()
    assert outcome.status == 0
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert checksum == f"sha256 {digest}"
    assert facts.startswith(f"{len(TwoViewModel(TINY).state_dict())} tensors, ")
    assert digest in (tmp_path / "out" / "README.md").read_text()
    again = run("models", "convert", folder, tmp_path / "out")
    assert_one_line(again, "out is not empty")
    assert run("models", "convert", folder, tmp_path / "out", "--force").status == 0


def test_convert_layout_and_licence(run: Run, folder: Path, tmp_path: Path) -> None:
    arguments = ("--layout", "published", "--licence", "CC BY-NC 4.0")
    assert run("models", "convert", folder, tmp_path / "out", *arguments).status == 0
    assert "Infinity" in (tmp_path / "out" / "config.json").read_text()
    assert "license: cc-by-nc-4.0" in (tmp_path / "out" / "README.md").read_text()
    for option, value in (("--dtype", "int4"), ("--layout", "zip")):
        outcome = run("models", "convert", folder, tmp_path / "new", option, value)
        assert_one_line(outcome, f"{option[2:]} must be one of", value)


class Exploit:
    """A pickle that would make a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("command", ["info", "path", "convert"])
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_malicious_file_does_nothing(run: Run, tmp_path: Path, name: str, command: str) -> None:
    file = tmp_path / name
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"model": Exploit(tmp_path / "owned")}))
        archive.writestr("model/version", "3")
    outcome = run("models", command, file, *[tmp_path / "out"][: command == "convert"])
    assert_one_line(outcome, str(file), "mkdir")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("reconstruct", "--example", "toy", "--model", REPO),
        ("match", "a.jpg", "b.jpg", "--model", REPO),
        ("evaluate", "somewhere", "--methods", f"sift,{REPO}"),
        ("benchmark", REPO, "--quiet"),
        ("train", "tiny-cpu", "--set", f"init={REPO}"),
        ("models", "convert", REPO, "out"),
    ],
    ids=lambda command: command[0],
)
def test_offline_fails_before_the_work(
    run: Run,
    hub: LocalHub,
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(*command, "--offline")
    assert_one_line(outcome, f"weav3r models download {REPO}")
    assert hub.requests == []


def test_the_licence_notice_is_shown(
    run: Run, hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Matched:
        view1 = view2 = None

        def summary(self, *intrinsics: object) -> str:
            return "matched"

    def match(*images: Path, model: str, **options: object) -> Matched:
        load_model(model, device="cpu")
        return Matched()

    hub.publish(REPO, folder)
    monkeypatch.setattr(weav3r, "match", match, raising=False)
    outcome = run("match", "a.jpg", "b.jpg", "--model", REPO)
    assert (outcome.status, outcome.out) == (0, "matched\n")
    notice = f"{REPO}: licence CC BY-NC-SA 4.0, non-commercial use only."
    assert outcome.err.count(notice) == 1
    outcome = run("match", "a.jpg", "b.jpg", "--model", REPO, "--offline")
    assert outcome.status == 0 and notice in outcome.err
    assert notice not in run("models", "path", REPO).err


def test_an_unreachable_hub_is_status_1(run: Run, hub: LocalHub) -> None:
    hub.stop()
    outcome = run("models", "download", REPO)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("error: ConnectionError: cannot reach the Hub at http://127")
