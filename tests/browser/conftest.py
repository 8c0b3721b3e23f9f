"""A real browser: Debian's Chromium, driven by Playwright. Without one these tests are skipped."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_MS = 120_000  # machines that build have other work, too


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One that draws 3D on the processor."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    found = os.environ.get("WEAV3R_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), "")
    if not found:
        pytest.skip("there is no Chromium; set WEAV3R_CHROMIUM to one")
    from playwright.sync_api import sync_playwright

    arguments = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-proxy-server"]
    arguments.append("--disable-dev-shm-usage")  # containers have little of it
    if hasattr(os, "getuid") and os.getuid() == 0:
        arguments.append("--no-sandbox")  # the sandbox does not work for root
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of a person of its own."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    context.close()


def pixels_of(element: Locator) -> np.ndarray:
    """(H, W, 3) float pixels of an element as it is on the screen."""
    with Image.open(io.BytesIO(element.screenshot())) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32)


def drawn(page: Page, selector: str, other_than: np.ndarray | None = None) -> np.ndarray:
    """Wait until a canvas shows something, or something else; its pixels.

    Raises:
        AssertionError: it stays blank, or as it was.
    """
    for _ in range(PATIENCE_MS // 500):
        pixels = pixels_of(page.locator(selector).first)
        if other_than is None:
            done = pixels.std() > 8
        else:
            same = pixels.shape == other_than.shape
            done = not same or float(np.abs(pixels - other_than).mean()) > 0.5
        if done:
            return pixels
        page.wait_for_timeout(500)
    raise AssertionError(f"{selector} stays {'blank' if other_than is None else 'as it was'}")
