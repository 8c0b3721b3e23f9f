"""`import weav3r`: immediate, and complete."""

import subprocess
import sys
from importlib import metadata
from inspect import getdoc, isclass, isfunction
from pathlib import Path

import pytest

import weav3r

OPTIONAL = ("gradio", "viser", "cv2", "ray", "accelerate", "tensorboard", "xformers")
HEAVY = ("torch", "scipy", "pycolmap", "trimesh", "numba", "PIL", "numpy")


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after the statement."""
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-Pc", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("statement", ["import weav3r", "import weav3r.cli"])
def test_importing_pulls_in_nothing_heavy(statement: str) -> None:
    assert imported_by(statement).isdisjoint((*OPTIONAL, *HEAVY))


def test_the_public_names_need_no_optional_package() -> None:
    names = ", ".join(weav3r.__all__)
    assert imported_by(f"from weav3r import {names}").isdisjoint(OPTIONAL)


@pytest.mark.parametrize("name", weav3r.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    thing = getattr(weav3r, name)
    assert isclass(thing) or isfunction(thing)
    assert getdoc(thing)
    assert name in dir(weav3r)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'weav3r' has no attribute 'nonsense'"):
        weav3r.nonsense  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_the_version_is_the_installed_one() -> None:
    assert weav3r.__version__ == metadata.version("weav3r")


def test_the_example_photos_are_there() -> None:
    examples = weav3r.example_photos()
    assert list(examples) == ["books", "donkey_toy", "leuven", "living_room", "toy"]
    for name, folder in examples.items():
        assert [file.name for file in sorted(Path(folder).iterdir())] == [
            f"{name}_1.jpg",
            f"{name}_2.jpg",
        ]
