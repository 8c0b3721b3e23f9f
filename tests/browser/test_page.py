"""The page of `weav3r demo` in a real browser, from the upload to every download."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pycolmap
import pytest
import trimesh

import weav3r

from ..demo.served import Served, served
from .conftest import PATIENCE_MS, drawn

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(size=64, megabytes=1, video_megabytes=1, photos=20) as running:
        yield running


@pytest.fixture(scope="module")
def finished(browser: Browser, server: Served) -> Iterator[Page]:
    """A page that uploaded two photos and shows their scene."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    run(page, server, example_photos("toy"))
    assert state(page) == "done", page.inner_text("#status")
    yield page
    context.close()


def example_photos(name: str) -> list[Path]:
    return sorted(weav3r.example_photos()[name].iterdir())


def open_page(page: Page, server: Served, files: list[Path]) -> None:
    """Open the page and upload files."""
    page.goto(server.url)
    page.wait_for_selector("#run")
    page.set_input_files("#photos input[type=file]", files)
    page.wait_for_selector(f"#chosen:has-text('{len(files)} files')")


def run(page: Page, server: Served, files: list[Path]) -> None:
    """Upload, run, and wait for the end."""
    open_page(page, server, files)
    page.click("#run")
    end = "done failed cancelled".split()
    page.wait_for_selector(", ".join(f"#status [data-state={name}]" for name in end))


def state(page: Page) -> str:
    return str(page.locator("#status [data-state]").get_attribute("data-state"))


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_the_scene_is_drawn(finished: Page) -> None:
    open_tab(finished, "3D scene")
    assert "2 of 2 photos placed" in finished.inner_text("#status")
    assert drawn(finished, "#scene canvas").std() > 8


def test_a_slider_changes_the_picture(finished: Page) -> None:
    open_tab(finished, "3D scene")
    before, text = drawn(finished, "#scene canvas"), finished.inner_text("#scene-count")
    slider = finished.locator("#confidence input[type=range]")
    box = slider.bounding_box()
    assert box is not None
    slider.click(position={"x": 0.7 * box["width"], "y": box["height"] / 2})
    finished.wait_for_function(
        "before => document.querySelector('#scene-count').innerText.trim() != before.trim()",
        arg=text,
    )
    assert points(finished) < int(text.split()[0].replace(",", ""))
    drawn(finished, "#scene canvas", other_than=before)


def points(page: Page) -> int:
    return int(page.inner_text("#scene-count").split()[0].replace(",", ""))


def test_depth_report_and_cameras_are_shown(finished: Page) -> None:
    open_tab(finished, "Depth")
    finished.wait_for_function(
        "() => [...document.querySelectorAll('#depth img')].filter(i => i.naturalWidth > 0)"
        ".length >= 2"
    )
    open_tab(finished, "Cameras")
    finished.wait_for_function(
        "() => document.querySelector('#cameras').innerText.includes('toy_1.jpg')"
    )
    open_tab(finished, "Report")
    finished.wait_for_selector("#report iframe", state="attached")
    assert "2 of 2 images placed" in finished.locator("#summary textarea").input_value()


@pytest.mark.parametrize(
    "format", ["glb", "ply", "npz", "colmap", "transforms", "nerfstudio", "report"]
)
def test_every_download_opens(format: str, finished: Page, tmp_path: Path) -> None:
    open_tab(finished, "Downloads")
    with finished.expect_download() as waiting:
        finished.click(f"#download-{format}")
    file = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(file)
    opened = {
        "glb": lambda: len(trimesh.load_scene(file).geometry) >= 1,
        "ply": lambda: len(trimesh.load(file).vertices) > 500,  # type: ignore[union-attr]
        "npz": lambda: weav3r.Scene.load(file).images == ["toy_1.jpg", "toy_2.jpg"],
        "colmap": lambda: (
            pycolmap.Reconstruction(unzipped(file) / "sparse" / "0").num_images() == 2
        ),
        "transforms": lambda: len(json.loads(file.read_text())["frames"]) == 2,
        "nerfstudio": lambda: (unzipped(file) / "transforms.json").exists(),
        "report": lambda: "toy_1.jpg" in file.read_text(),
    }
    assert opened[format]()
    if format == "npz":
        with np.load(file) as archive:
            assert archive["paths"].tolist() == ["", ""]


def unzipped(file: Path) -> Path:
    folder = file.with_suffix("")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


def test_a_run_is_cancelled_in_the_middle(page: Page, server: Served) -> None:
    everything = [p for name in weav3r.example_photos() for p in example_photos(name)]
    photos = [p for p in everything if p.suffix in (".jpg", ".png")]
    open_page(page, server, photos)
    page.click("#run")
    page.wait_for_selector("#status [data-state=running]")
    page.click("#cancel:not([disabled])")
    page.wait_for_selector("#status [data-state=cancelled]")
    assert "Nothing was kept" in page.inner_text("#status")
    page.wait_for_selector("#run:not([disabled])")


def test_two_at_once_see_their_own(browser: Browser, server: Served) -> None:
    contexts = [browser.new_context() for _ in range(2)]
    pages = [context.new_page() for context in contexts]
    for page, name in zip(pages, ("toy", "leuven"), strict=True):
        page.set_default_timeout(PATIENCE_MS)
        open_page(page, server, example_photos(name))
    for page in pages:
        page.click("#run")
    for page, own, other in zip(pages, ("toy", "leuven"), ("leuven", "toy"), strict=True):
        page.wait_for_selector("#status [data-state=done]")
        open_tab(page, "Cameras")
        page.wait_for_function(
            "name => document.querySelector('#cameras').innerText.includes(name)",
            arg=f"{own}_1.jpg",
        )
        assert f"{other}_1.jpg" not in page.inner_text("#cameras")
        open_tab(page, "Depth")
        page.wait_for_selector("#depth img")
        pictures = page.eval_on_selector_all("#depth img", "images => images.map(i => i.src)")
        stranger = pages[1] if page is pages[0] else pages[0]
        assert pictures
        for picture in pictures:
            assert page.request.get(picture).status == 200
            assert stranger.request.get(picture).status == 403
    for context in contexts:
        context.close()


def test_bad_files_are_named(page: Page, server: Served, tmp_path: Path) -> None:
    bad = tmp_path / "holiday.jpg"
    bad.write_text("<html><script>document.title = 'hacked'</script>")
    run(page, server, [bad, bad])
    assert state(page) == "failed"
    assert "holiday.jpg is a web page, not a photo" in page.inner_text("#status")
    assert page.title() == "Weav3R"


def test_a_file_that_is_too_large_is_refused(page: Page, server: Served, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(1_200_000))
    page.goto(server.url)
    page.wait_for_selector("#run")
    page.set_input_files("#photos input[type=file]", large)
    page.wait_for_selector(":text-matches('maximum|too large|exceed', 'i')")
    page.wait_for_selector("#run:not([disabled])")


def test_nothing_is_asked_for_elsewhere(page: Page, server: Served) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.wait_for_selector("#run")
    elsewhere = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert not elsewhere
