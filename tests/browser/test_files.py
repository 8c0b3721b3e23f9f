"""What is opened without the demo: the viewer of a saved scene, and the report as a page."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..demo.test_viewer import scene_of
from .conftest import drawn

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `weav3r view`."""
    pytest.importorskip("viser", reason="the extra 'viewer' is not installed")
    file = scene_of().save(tmp_path_factory.mktemp("scene") / "scene.npz")
    command = [sys.executable, "-P", "-m", "weav3r", "view", str(file), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    yield found[0]
    process.terminate()
    process.communicate(timeout=60)


def test_the_viewer_draws_the_scene(page: Page, viewer: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(viewer)
    page.wait_for_selector("text=Confidence")
    assert drawn(page, "canvas").std() > 8
    elsewhere = [url for url in asked if not url.startswith((viewer, "data:", "blob:", "ws:"))]
    assert not elsewhere


def test_the_report_is_drawn_without_a_network(page: Page, tmp_path: Path) -> None:
    report = scene_of().save(tmp_path / "report.html")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)
    page.goto(report.as_uri())
    assert "photo_0.jpg" in page.inner_text("body")
    sizes = page.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
    assert sizes and min(sizes) > 0
    assert page.locator("svg").count() > 0
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
