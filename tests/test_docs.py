"""The pages say where things are: the things are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "DEV_NOTES.md", "CHANGELOG.md"),
    *("train/LOG.md", "models/weights/DATASHEET.md", "src/weav3r/examples/SOURCES.md"),
]
# `folder/file.py`, `file.md`, `folder/`; not commands, options, patterns or files of the user
PATH = re.compile(r"`((?:[\w.-]+/)+|(?:[\w.-]+/)*\w+\.(?:py|md|toml|yaml))`")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\(([^)#\s]+)", file.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (file.parent / link).exists(), link


@pytest.mark.parametrize(
    "page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "DEV_NOTES.md"]
)
def test_files_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    files = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    for name in PATH.findall(text):
        if name in ("photos/", "build/", "weav3r/"):
            continue
        assert (ROOT / name).exists() or name in files, name


@pytest.mark.parametrize("page", ["README.md", "models/weights/DATASHEET.md"])
def test_places_for_measured_numbers_are_marked(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    begins = re.findall(r"<!-- (\w+):begin -->", text)
    assert "accuracy" in begins
    assert begins == re.findall(r"<!-- (\w+):end -->", text)


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from weav3r.cli import app

    commands = set(getattr(get_command(app), "commands"))  # noqa: B009
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"weav3r ([a-z]+)\b", text))
    assert used and used <= commands, used - commands
