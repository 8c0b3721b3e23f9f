"""The help of every command: there, whole, and narrow enough; completion of the shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import typer

from weav3r.cli import app

if TYPE_CHECKING:
    from .conftest import Run

Found = tuple[tuple[str, ...], Any]


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[Found]:
    """All commands below one, with the words that call them."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = list(commands(typer.main.get_command(app)))
NAMES = [" ".join(path) or "weav3r" for path, _ in COMMANDS]


@pytest.mark.parametrize("found", COMMANDS, ids=NAMES)
def test_every_command_and_option_is_explained_in_a_sentence(found: Found) -> None:
    _, command = found
    first = (command.help or "").strip().split("\n\n")[0]
    assert first.endswith("."), f"the first paragraph is no sentence: {first!r}"
    for parameter in command.params:
        text = (getattr(parameter, "help", None) or "").strip()
        assert text.endswith("."), f"{parameter.name}: {text!r}"


@pytest.mark.parametrize("found", COMMANDS, ids=NAMES)
def test_help_fits_a_hundred_columns(
    found: Found, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, command = found
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    outcome = run(*path, "--help")
    assert outcome.status == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for parameter in command.params:
        for name in (*parameter.opts, *parameter.secondary_opts):
            if name.startswith("--") and not getattr(parameter, "hidden", False):
                assert name in text


def complete(*words: str) -> list[str]:
    """What a bash offers after these words, the last of which is being typed."""
    environment = {
        **os.environ,
        "_WEAV3R_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "PYTHONSAFEPATH": "1",
    }
    code = "import sys; sys.argv = ['weav3r']; from weav3r.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    return done.stdout.split()


def test_the_shell_completes_commands_and_options() -> None:
    assert {"reconstruct", "match", "view", "doctor"} <= set(complete("weav3r", ""))
    assert complete("weav3r", "reco") == ["reconstruct"]
    assert "--no-self-test" in complete("weav3r", "doctor", "--")


def test_the_completion_script_names_the_command(run: Run) -> None:
    outcome = run("--show-completion", "bash")
    assert outcome.status == 0 and "_WEAV3R_COMPLETE=complete_bash" in outcome.out
