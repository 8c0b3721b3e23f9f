"""Every code block of the README and of the pages in docs/ runs.

Per page, in order, in one temporary folder that holds what a reader is told to have: `photos/`,
`a.jpg`, `b.jpg` and `query.jpg` (the bundled example `toy`), `colmap/` (a model of them),
`evaluation/` (with that model as the truth), `my_checkpoint/` (the bundled one) and `downloads/` (a
file made like a published one, tiny). Python blocks share their names. Of shell blocks every line
must be a `weav3r` command and end with status 0. The Hub is one of this machine.

Two things are smaller than a reader's: the network sees 160 pixels where nothing else is asked,
and the painted textures of generated scenes are few. A block that cannot run has the line
`<!-- not run: reason -->` above it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import weav3r
from weav3r.datasets.textures import TextureBank
from weav3r.evaluation.readers import K_to_integer_centres
from weav3r.inference import defaults
from weav3r.models import PRESETS, TwoViewModel

if TYPE_CHECKING:
    from .conftest import LocalHub, Run

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
SIZE = 160
_FENCE = re.compile(
    r"^(?P<above>[^\n]*)\n```(?P<language>python|console|bash)\n(?P<code>.*?)^```$", re.M | re.S
)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>\S.{7,}) -->")


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        language: python, console or bash.
        code: its text.
        line: of the page, where the code begins.
        reason: why it is not run; empty if it is.
    """

    language: str
    code: str
    line: int
    reason: str


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer("\n" + text):
        above = _NOT_RUN.fullmatch(match["above"].strip())
        line = text[: match.start("code") - 1].count("\n") + 1
        found.append(
            Block(match["language"], match["code"], line, above["reason"] if above else "")
        )
    return found


def commands(block: Block) -> list[list[str]]:
    """The lines of a shell block as lists of words, without prompts and comments."""
    text = block.code.replace("\\\n", " ")
    lines = (line.removeprefix("$ ") for line in text.splitlines())
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def read_all() -> list[tuple[str, Block]]:
    """The blocks of all pages."""
    return [(page, block) for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_marked_in_the_one_way(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    marks = text.count("<!-- not run")
    assert marks == sum(bool(block.reason) for block in blocks(page)), (
        "`<!-- not run: reason -->` stands in the line above a python, console or bash block"
    )
    for block in blocks(page):
        if not block.reason and block.language != "python":
            others = [words for words in commands(block) if words[0] != "weav3r"]
            assert not others, f"line {block.line} is no weav3r command and has no reason"


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has, made once."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "photos").mkdir()
    first, second = sorted(weav3r.example_photos()["toy"].glob("*.jpg"))[:2]
    for name, photo in {"a": first, "b": second, "query": second}.items():
        shutil.copy(photo, folder / f"{name}.jpg")
    for name in ("a", "b"):
        shutil.copy(folder / f"{name}.jpg", folder / "photos")
    scene = weav3r.reconstruct(folder / "photos", size=SIZE, progress=False)
    scene.save(folder / "colmap")
    write_evaluation(scene, folder)
    weav3r.load_model("weav3r-small", device="cpu").save_pretrained(folder / "my_checkpoint")
    write_published(folder / "downloads/DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth")
    textures = folder.parent / "textures"
    textures.mkdir()
    for index, pixels in enumerate(TextureBank.procedural(count=8, size=32).pixels):
        Image.fromarray(pixels).save(textures / f"{index}.png")
    return folder


def write_evaluation(scene: weav3r.Scene, folder: Path) -> None:
    """Write photos as an evaluation set, with a scene of them as the truth."""
    toy = folder / "evaluation/sets/toy"
    shutil.copytree(folder / "photos", toy / "images")
    images, poses = [], []
    for name, camera in zip(scene.images, scene.cameras, strict=True):
        assert camera is not None
        K = K_to_integer_centres(camera.K).tolist()
        size = {"width": camera.width, "height": camera.height}
        poses.append(np.asarray(camera.cam_from_world))
        images.append({"name": name, **size, "K": K, "cam_from_world": poses[-1].tolist()})
    motion = (poses[1] @ np.linalg.inv(poses[0])).tolist()
    pair = {"image1": "a.jpg", "image2": "b.jpg", "T_2from1": motion}
    pair |= {"K1": images[0]["K"], "K2": images[1]["K"]}
    cameras = {"set": "toy", "units": "unknown", "images": images}
    (toy / "cameras.json").write_text(json.dumps(cameras))
    (toy / "pairs.json").write_text(json.dumps({"pairs": [pair]}))
    scenes = {"scenes": [{"name": "toy", "set": "toy"}]}
    (folder / "evaluation/scenes.json").write_text(json.dumps(scenes))


def write_published(file: Path) -> None:
    """Write a tiny network the way the published training code writes its large ones."""
    shape = {"encoder_dim": 32, "encoder_depth": 2, "encoder_heads": 2}
    shape |= {"decoder_dim": 24, "decoder_depth": 2, "decoder_heads": 2}
    model = TwoViewModel(dataclasses.replace(PRESETS["dust3r-512-linear"], **shape))
    constructor = (
        "AsymmetricCroCo3DStereo(pos_embed='RoPE100', img_size=(224, 224), head_type='linear', "
        "output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
        "enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=24, dec_depth=2, "
        "dec_num_heads=2)"
    )
    file.parent.mkdir()
    arguments = argparse.Namespace(model=constructor)
    torch.save({"args": arguments, "model": model.state_dict(), "epoch": 1}, file)


@pytest.fixture
def desk(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: LocalHub) -> Path:
    """A copy of the things to work in."""
    folder = tmp_path / "desk"
    shutil.copytree(things, folder)
    hub.publish("naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric", things / "my_checkpoint")
    usual = defaults.inference_defaults(weav3r.load_model("weav3r-small", device="cpu"))
    small = dataclasses.replace(usual, size=SIZE)
    monkeypatch.setitem(defaults._BY_NAME, "weav3r-small", small)
    monkeypatch.setenv("WEAV3R_TEXTURES", str(things.parent / "textures"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not b.reason for b in blocks(page))]
)
@pytest.mark.timeout(600)
def test_blocks_run(page: str, desk: Path, run: Run) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.reason:
            continue
        if block.language == "python":
            lines = "\n" * (block.line - 1)  # so that a traceback names the line of the page
            exec(compile(lines + block.code, str(ROOT / page), "exec"), names)
        else:
            for words in commands(block):
                done = run(*words[1:])
                assert done.status == 0, f"{page}:{block.line}: {shlex.join(words)}: {done.err}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for link in re.findall(r"\]\(([^)#\s]+)", file.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (file.parent / link).exists(), link


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = {line for tree in index.split(":::{toctree}")[1:] for line in tree.split("\n")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= listed


def test_every_command_has_a_page() -> None:
    from typer.main import get_command

    from weav3r.cli import app

    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    for name, command in getattr(get_command(app), "commands").items():  # noqa: B009
        for inner in getattr(command, "commands", {"": None}):
            assert f"weav3r {name} {inner}".strip() in text, f"{name} {inner}"


@pytest.mark.timeout(600)
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason="the extra `docs` is not installed")
    command = [sys.executable, "-P", "-m", "sphinx", "-q", "-W", "--keep-going"]
    places = [str(ROOT / "docs"), str(tmp_path / "site")]
    built = subprocess.run([*command, *places], capture_output=True, text=True, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    api = (tmp_path / "site/api.html").read_text(encoding="utf-8")
    for name in weav3r.__all__:
        assert f'id="weav3r.{name}"' in api, name
