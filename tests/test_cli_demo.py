"""The command `weav3r demo`, without its page."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from weav3r.cli import app
from weav3r.cli_demo import AUTH_VARIABLE

RUNNER = CliRunner()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What was launched, in place of launching it."""
    found: list[tuple[Any, dict[str, Any]]] = []
    page = ModuleType("weav3r.demo.app")
    page.launch = lambda models, **options: found.append((models, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "weav3r.demo.app", page)
    monkeypatch.delenv(AUTH_VARIABLE, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return found


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["demo", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_it_is_for_this_computer_and_closed_to_the_internet(launched: list[Any]) -> None:
    assert "http://127.0.0.1:7860" in run()
    ((models, options),) = launched
    assert models == ["weav3r-small"]
    assert options["host"] == "127.0.0.1" and not options["share"] and not options["allow_download"]
    assert options["auth"] == [] and "toy" in options["examples"]


def test_models_can_be_offered(launched: list[Any], tmp_path: Path) -> None:
    run("-m", "weav3r-small", "--model", str(tmp_path), "--allow-download", "--share")
    ((models, options),) = launched
    assert models == ["weav3r-small", str(tmp_path)]
    assert options["allow_download"] and options["share"]


def test_passwords_come_from_an_option_the_environment_or_a_file(
    launched: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = tmp_path / "people.txt"
    people.write_text("ann:a:b\n\nbob:c\n")
    assert "secret" not in run("--auth", "me:secret", "--auth-file", str(people))
    monkeypatch.setenv(AUTH_VARIABLE, "env:word")
    assert "word" not in run("--help")
    run()
    assert [options["auth"] for _, options in launched] == [
        [("me", "secret"), ("ann", "a:b"), ("bob", "c")],
        [("env", "word")],
    ]


@pytest.mark.parametrize("entry", ["me", "me:", ":secret"])
def test_half_a_password_is_an_error(launched: list[Any], tmp_path: Path, entry: str) -> None:
    people = tmp_path / "people.txt"
    people.write_text(f"ann:b\n{entry}\n")
    with pytest.raises(ValueError, match="--auth: expected USER:PASSWORD"):
        RUNNER.invoke(app, ["demo", "--auth", entry], catch_exceptions=False)
    with pytest.raises(ValueError, match=r"people\.txt, line 2: expected USER:PASSWORD"):
        RUNNER.invoke(app, ["demo", "--auth-file", str(people)], catch_exceptions=False)
    people.write_text("\n")
    with pytest.raises(ValueError, match="holds no USER:PASSWORD"):
        RUNNER.invoke(app, ["demo", "--auth-file", str(people)], catch_exceptions=False)
    with pytest.raises(FileNotFoundError, match="no such file"):
        RUNNER.invoke(app, ["demo", "--auth-file", str(tmp_path / "none")], catch_exceptions=False)
    assert launched == []
