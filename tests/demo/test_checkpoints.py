"""Which networks a page offers, and under what names."""

from pathlib import Path

import pytest

from weav3r.demo import checkpoints
from weav3r.demo.checkpoints import Checkpoints


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded, in place of loading it."""
    found: list[str] = []

    def load(source: str | Path, device: str) -> str:
        found.append(str(source))
        return f"model of {source} on {device}"

    monkeypatch.setattr(checkpoints, "load_model", load)
    return found


def test_paths_are_shown_by_their_last_part(tmp_path: Path) -> None:
    for folder in ("a/mine", "b/mine"):
        (tmp_path / folder).mkdir(parents=True)
    sources = ["weav3r-small", tmp_path / "a/mine", str(tmp_path / "b/mine"), "x/best.safetensors"]
    names = Checkpoints([*sources, "naver/some_model"]).names
    assert names == ["weav3r-small", "mine", "mine (2)", "best", "naver/some_model"]


def test_few_stay_in_memory(loads: list[str]) -> None:
    offered = Checkpoints(["a.pth", "b.pth", "c.pth"], device="cpu")
    assert offered.get() == offered.get("a") == "model of a.pth on cpu"
    offered.get("b")
    offered.get("a")
    offered.get("c")  # b was used least recently
    offered.get("a")
    offered.get("b")
    assert loads == ["a.pth", "b.pth", "c.pth", "b.pth"]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "owner/name", "nothing", "weav3r-small/.."]
)
def test_nothing_else_can_be_asked_for(loads: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=r"there is no checkpoint .*; choose one of the list$"):
        Checkpoints(["weav3r-small"]).get(name)
    assert loads == []


def test_hub_ids_only_where_they_are_allowed(loads: list[str], tmp_path: Path) -> None:
    offered = Checkpoints(["weav3r-small"], allow_download=True)
    offered.get("owner/name")
    assert loads == ["owner/name"]
    with pytest.raises(ValueError, match="or a Hub id such as owner/name"):
        offered.get(str(tmp_path))


def test_there_must_be_one() -> None:
    with pytest.raises(ValueError, match="name at least one checkpoint"):
        Checkpoints([])
