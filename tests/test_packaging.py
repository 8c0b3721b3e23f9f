"""The installed `weav3r` is this checkout, whole, and a wheel holds nothing else."""

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {name: ROOT / path for name, path in SETUPTOOLS["package-dir"].items()}
MAX_WEIGHTS_BYTES = 32 * 2**20
MIN_SETUPTOOLS = 77  # licence expressions in pyproject.toml


def data_files(name: str) -> Iterator[Path]:
    """Files that are not code which the package `name` ships, as pyproject.toml names them."""
    folder = FOLDERS[name]
    for pattern in SETUPTOOLS["package-data"].get(name, []):
        yield from (file for file in folder.glob(pattern) if file.is_file())


def test_every_folder_with_code_is_packaged() -> None:
    found = {
        ".".join((name, *file.parent.relative_to(folder).parts))
        for name, folder in FOLDERS.items()
        for file in folder.rglob("*.py")
    }
    assert found == set(SETUPTOOLS["packages"])


def test_every_data_pattern_matches_something() -> None:
    for name, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            assert any(FOLDERS[name].glob(pattern)), f"{name}: nothing matches {pattern!r}"


@pytest.mark.parametrize("name", FOLDERS)
def test_installed_files_are_those_of_this_checkout(name: str) -> None:
    installed = Path(next(iter(importlib.import_module(name).__path__)))
    for file in [*FOLDERS[name].rglob("*.py"), *data_files(name)]:
        copy = installed / file.relative_to(FOLDERS[name])
        assert copy.is_file() and copy.read_bytes() == file.read_bytes(), (
            f"{copy} is not the file of this checkout: reinstall with pip install -e ."
        )


def test_weights_and_their_datasheet_are_packaged() -> None:
    weights = Path(str(resources.files("weav3r.models"))) / "weights"
    assert (weights / "weav3r-small.safetensors").stat().st_size <= MAX_WEIGHTS_BYTES
    assert "weav3r-small" in (weights / "DATASHEET.md").read_text(encoding="utf-8")


def test_the_version_has_an_entry_in_the_changelog() -> None:
    version = PROJECT["project"]["version"]
    assert metadata.version("weav3r") == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_import_datasets_from_the_root_says_why_it_fails() -> None:
    code = "import sys; sys.path.insert(0, '.'); import datasets"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert "this folder is weav3r.datasets" in run.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built in a copy of it: nothing is fetched, the root stays clean."""
    try:  # not imported: it minds that something imported distutils before it
        found = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        pytest.skip("setuptools builds the wheel and is not installed")
    if int(found.split(".")[0]) < MIN_SETUPTOOLS:
        pytest.skip(f"setuptools {found} is too old to build; {MIN_SETUPTOOLS} is needed")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS.values():
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(folder, source / folder.relative_to(ROOT), ignore=ignored)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    subprocess.run(
        [sys.executable, "-c", code], cwd=source, env=environment, check=True, capture_output=True
    )
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_nothing_but_weav3r_is_at_the_top_of_the_wheel(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top == {"weav3r", f"weav3r-{PROJECT['project']['version']}.dist-info"}


def test_the_wheel_holds_all_code_and_data_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "weav3r = weav3r.cli:main" in archive.read(entry_points).decode()
    expected = {
        "/".join((*name.split("."), *file.relative_to(folder).parts))
        for name, folder in FOLDERS.items()
        for file in [*folder.rglob("*.py"), *data_files(name)]
    }
    held = {name for name in names if name.startswith("weav3r/")}
    assert held == expected
    assert {Path(name).name for name in names} >= {"LICENSE", "NOTICE", "py.typed", "SOURCES.md"}
    assert not any("test" in part for name in names for part in Path(name).parts)
