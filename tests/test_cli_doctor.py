"""`weav3r doctor`: what it says of a whole and of a broken installation, without the network."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import weav3r
from weav3r import cli_doctor
from weav3r.cli_doctor import Finding, examine

if TYPE_CHECKING:
    from .conftest import Run


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the doctor used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_this_installation_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_doctor, "_TEST_SIZE", 192)
    outcome = run("doctor", "--json")
    report = json.loads(outcome.out)
    found = {f"{f['group']}/{f['name']}": f for f in report["findings"]}
    wrong = [f for f in report["findings"] if f["state"] == "problem"]
    assert (outcome.status, report["works"], wrong) == (0, True, [])
    assert found["versions/weav3r"]["text"] == metadata.version("weav3r")
    assert found["versions/torch"]["text"] == metadata.version("torch")
    assert "checksum right" in found["weights/weav3r-small"]["text"]
    assert "matches of the bundled pair" in found["self-test/matching"]["text"]
    for name in ("computer/device", "computer/threads", "folders/downloaded weights"):
        assert found[name]["text"]


def test_the_report_is_plain_and_shows_no_token(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_CACHE", "/somewhere/else")
    outcome = run("doctor", "--no-self-test")
    assert outcome.status == 0 and "Weav3R works on this computer" in outcome.out
    assert "hf_secret" not in outcome.out and "HF_TOKEN: set (not shown)" in outcome.out
    assert "HF_HUB_CACHE: /somewhere/else" in outcome.out
    assert "self-test" not in outcome.out


def test_missing_extras_are_notes_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "viser":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = by_name(examine(self_test=False))["viewer"]
    assert (found.state, found.advice) == ("note", "pip install 'weav3r[viewer]'")
    assert "viser: not installed" in found.text


def test_a_package_that_is_missing_or_too_old_is_a_problem(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "einops":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "scipy" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    outcome = run("doctor", "--no-self-test")
    assert outcome.status == 1 and "2 problems" in outcome.out
    assert "einops: not installed" in outcome.out and "pip install 'einops" in outcome.out
    assert "scipy: 0.1, but >=1.12 is needed" in outcome.out


def test_damaged_weights_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weav3r.models import checkpoint

    real = checkpoint.bundled_weights("weav3r-small")
    assert real is not None
    shutil.copy(real.with_suffix(".calibration.json"), tmp_path)
    damaged = tmp_path / real.name
    damaged.write_bytes(b"\0" * 100)
    monkeypatch.setattr(
        checkpoint, "bundled_weights", lambda name: damaged if name == "weav3r-small" else None
    )
    found = by_name(examine(self_test=False))["weav3r-small"]
    assert found.state == "problem" and "checksum is wrong" in found.text
    monkeypatch.setattr(checkpoint, "bundled_weights", lambda name: None)
    assert by_name(examine(self_test=False))["bundled"].state == "problem"


def test_matches_that_are_wrong_or_few_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)

    def results() -> Iterator[SimpleNamespace]:
        scattered = random.uniform(0, 400, (2, 500, 2))
        yield SimpleNamespace(xy1=scattered[0], xy2=scattered[1])
        yield SimpleNamespace(xy1=scattered[0, :3], xy2=scattered[0, :3])
        yield SimpleNamespace(xy1=scattered[0, :0], xy2=scattered[0, :0])

    answers = results()
    monkeypatch.setattr(weav3r, "match", lambda *photos, **options: next(answers), raising=False)
    for _ in range(3):
        found = by_name(examine())["matching"]
        assert found.state == "problem" and found.advice


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*photos: object, **options: object) -> None:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(weav3r, "match", broken, raising=False)
    found = by_name(examine())["self-test"]
    assert found.state == "problem" and found.text == "RuntimeError: no kernel image"


def test_named_textures_that_are_not_there_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAV3R_TEXTURES", str(tmp_path / "absent"))
    assert by_name(examine(self_test=False))["textures"].state == "problem"
    monkeypatch.setenv("WEAV3R_TEXTURES", str(tmp_path))
    assert by_name(examine(self_test=False))["textures"].state == "ok"


def test_little_room_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_doctor, "_MIN_MEMORY", 2**60)
    monkeypatch.setattr(cli_doctor, "_MIN_FREE_DISK", 2**60)
    found = by_name(examine(self_test=False))
    for name in ("memory", "here", "temporary files"):
        assert found[name].state == "note" and found[name].advice
