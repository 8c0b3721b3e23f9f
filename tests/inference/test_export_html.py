"""The report page: well-formed, self-contained, harmless, and about this scene."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from weav3r.geometry.camera import Camera
from weav3r.inference.matching.descriptors import Matches
from weav3r.inference.report import EdgeReport, RejectedPair, SceneReport
from weav3r.inference.residuals import edge_reports
from weav3r.inference.scene import Scene

HOSTILE = "<script>alert(1)</script>&\"'.jpg"
_VOID = {"meta", "img", "br", "path", "rect", "polygon"}


class Page(HTMLParser):
    """Collects tags and text, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID or (self._open and self._open[-1] == tag):
            assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(scene: Scene, folder: Path) -> Page:
    path = folder / "report.html"
    assert scene.save(path) == path
    return Page(path.read_text(encoding="utf-8"))


def with_report(scene: Scene, **changes) -> Scene:
    return dataclasses.replace(scene, report=dataclasses.replace(scene.report, **changes))


def test_page_shows_every_photo_and_camera(plane_scene: Scene, tmp_path: Path) -> None:
    page = page_of(plane_scene, tmp_path)
    placed = sum(camera is not None for camera in plane_scene.cameras)
    assert page.count("img") == len(plane_scene) + placed  # photos, and depth of the placed ones
    assert page.count("polygon") == 2 * placed  # one camera in each of two plans
    text = " ".join(page.text)
    assert f"{placed} of {len(plane_scene)} photos placed" in text
    for name in plane_scene.images:
        assert name in text


def test_nothing_is_fetched_and_nothing_runs(plane_scene: Scene, tmp_path: Path) -> None:
    page = page_of(plane_scene, tmp_path)
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        source = attributes.get("src")
        if tag == "img":
            assert source is not None and source.startswith("data:image/jpeg;base64,")
        else:
            assert source is None and "href" not in attributes
    assert not re.search(r"url\(|@import", (tmp_path / "report.html").read_text())


def test_texts_from_outside_are_escaped(plane_scene: Scene, tmp_path: Path) -> None:
    views = [dataclasses.replace(plane_scene.views[0], name=HOSTILE), *plane_scene.views[1:]]
    scene = with_report(
        dataclasses.replace(plane_scene, views=views),
        warnings=[HOSTILE],
        rejected=[RejectedPair(HOSTILE, HOSTILE, HOSTILE)],
        model=HOSTILE,
        settings={HOSTILE: HOSTILE},
        edges=[EdgeReport(0, 1, 10, 7, 0.5)],
    )
    page = page_of(scene, tmp_path)
    assert page.count("script") == 0
    assert " ".join(page.text).count(HOSTILE) >= 7


@pytest.mark.parametrize("residual", [0.5, None])
def test_pairs_are_drawn_in_both_orders(
    plane_scene: Scene, tmp_path: Path, residual: float | None
) -> None:
    scene = with_report(plane_scene, edges=[EdgeReport(0, 2, 10, 7, residual)])
    page = page_of(scene, tmp_path)
    assert page.count("rect") == 2
    assert "1 – 3: 7 of 10 fit" in page.text


def test_a_scene_without_cameras_has_a_page(plane_scene: Scene, tmp_path: Path) -> None:
    views = [dataclasses.replace(view, camera=None) for view in plane_scene.views]
    scene = Scene(views=views, report=SceneReport(warnings=["nothing fits"]))
    page = page_of(scene, tmp_path)
    assert page.count("svg") == 0
    assert "nothing fits" in page.text


def camera_at(x: float) -> Camera:
    cam_from_world = np.eye(4)
    cam_from_world[0, 3] = -x
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    return Camera(K=K, cam_from_world=cam_from_world, height=480, width=640)


@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_residuals_are_distances_to_where_matches_should_be(baseline: float) -> None:
    rng = np.random.default_rng(0)
    first, second = camera_at(0), camera_at(baseline)
    points = rng.uniform((-1, -1, 4), (1, 1, 6), (100, 3))
    xy1, xy2 = first.project(points)[0], second.project(points)[0]
    xy2[:30, 1] += 10  # off the horizontal epipolar lines
    xy2[30:, 1] += 0.5
    matches = Matches(*(x.astype(np.float32) for x in (xy1, xy2, np.ones(100))))
    (edge,) = edge_reports({(0, 1): matches, (1, 2): matches}, {0: first, 1: second})
    assert (edge.first, edge.second, edge.matches, edge.fitting) == (0, 1, 100, 70)
    # Sampson shares the distance between both images; a rotation alone predicts a point
    expected = 0.5 if baseline == 0 else 0.5 / np.sqrt(2)
    assert edge.residual_px == pytest.approx(expected, abs=1e-3)


def test_no_match_fits() -> None:
    xy = np.zeros((1, 2), np.float32)
    matches = Matches(xy, xy + np.float32(100), np.ones(1, np.float32))
    (edge,) = edge_reports({(0, 1): matches}, {0: camera_at(0), 1: camera_at(1)})
    assert edge.fitting == 0 and edge.residual_px is None
