"""The viewer: a page on this computer whose controls choose among the points of a scene."""

from __future__ import annotations

import contextlib
import http.client
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from PIL import Image

from weav3r import Scene, cli_view
from weav3r.demo.viewer_points import ShownPoints
from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.calibration import Calibration, ErrorTable
from weav3r.inference.report import SceneReport
from weav3r.inference.scene import SceneView

if TYPE_CHECKING:
    from weav3r.demo.viewer import SceneViewer

    from ..conftest import Run

H, W = 48, 64


def view_at(x: float) -> SceneView:
    """A photo taken at (x, 0, 0), forward, of a wall 4 away; surer to the right."""
    cam_from_world = np.eye(4)
    cam_from_world[0, 3] = -x
    K = np.array([[60.0, 0, W / 2], [0, 60.0, H / 2], [0, 0, 1]])
    depth = np.full((H, W), 4.0, dtype=np.float32)
    depth[0, :8] = np.nan
    return SceneView(
        name=f"photo_{x:g}.jpg",
        path=None,
        ledger=Ledger.from_file_size(H, W),
        camera=Camera(K, cam_from_world, H, W),
        rgb=np.full((H, W, 3), 100, dtype=np.uint8),
        depth=depth,
        confidence=np.broadcast_to(np.linspace(1, 5, W, dtype=np.float32), (H, W)).copy(),
    )


def scene_of(count: int = 3, components: list[list[int]] | None = None) -> Scene:
    views = [view_at(float(k)) for k in range(count)]
    return Scene(views=views, components=components or [], min_confidence=2.0)


def calibrated(scene: Scene) -> Scene:
    table = ErrorTable(
        confidence=np.array([1.0, 5.0]),
        depth_step=np.array([0.01, 1.0]),
        error=np.array([[0.5, 0.05], [0.5, 0.05]]),
    )
    stated = Calibration({"sweep": table}, {"scenes": 3})
    return replace(scene, calibration=stated, report=SceneReport(settings={"depth": "sweep"}))


class Browser:
    """What a connected browser is to the viewer."""

    def __init__(self, picture: np.ndarray | None = None) -> None:
        self.camera = SimpleNamespace(image_height=6, image_width=8)
        self.picture = picture
        self.files: dict[str, bytes] = {}
        self.notes: list[str] = []

    def atomic(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def get_render(self, height: int, width: int, **options: object) -> np.ndarray:
        if self.picture is None:
            raise TimeoutError("no frame")
        assert self.picture.shape == (height, width, 4)
        return self.picture

    def send_file_download(self, name: str, content: bytes, **options: object) -> None:
        self.files[name] = content

    def add_notification(self, title: str, body: str, **options: object) -> None:
        self.notes.append(title)


@contextlib.contextmanager
def opened(scene: Scene, **options: Any) -> Iterator[SceneViewer]:
    pytest.importorskip("viser")
    from weav3r.demo.viewer import SceneViewer

    viewer = SceneViewer(scene, port=0, **options)
    try:
        yield viewer
    finally:
        viewer.close()


def shown(viewer: SceneViewer) -> np.ndarray:
    """Points that are visible, as one array."""
    parts = [c.points for _, c in sorted(viewer.chunks.items()) if c.visible]
    return np.concatenate([np.zeros((0, 3), np.float32), *parts])


def request(viewer: SceneViewer, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=10)
    try:
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(2000) if answer.status != 101 else b""
    finally:
        connection.close()


def test_the_page_is_served_on_this_computer_and_only_its_own_pages_may_connect() -> None:
    with opened(scene_of()) as viewer:
        assert viewer.address == f"http://127.0.0.1:{viewer.port}"
        status, page = request(viewer)
        assert status == 200 and page.lower().startswith(b"<!doctype html>")
        handshake = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        assert request(viewer, Origin="http://elsewhere.example", **handshake)[0] == 403
        assert request(viewer, Origin="http://127.0.0.1.elsewhere.example", **handshake)[0] == 403
        assert viewer.server.request_share_url() is None


def test_controls_choose_points_and_cameras() -> None:
    scene = scene_of()
    total = 3 * (H * W - 8)
    with opened(scene) as viewer:
        assert sorted(viewer.frusta) == [0, 1, 2]
        assert all(handle.name == f"/cameras/{i}" for i, handle in viewer.frusta.items())
        assert all(name.name.startswith("/points/") for name in viewer.chunks.values())
        # It begins at the scene's own threshold.
        at_first = shown(viewer)
        assert len(at_first) == len(scene.point_cloud())
        assert viewer.count.content == f"{len(at_first):,} of {total:,} points"

        viewer.confidence.value = 4.0
        viewer.refresh()
        assert len(shown(viewer)) == len(scene.point_cloud(4.0)) < len(at_first)

        viewer.confidence.value = 1.0
        viewer.refresh()
        everything = shown(viewer)
        assert len(everything) == total
        handles = dict(viewer.chunks)
        viewer.share.value = 30.0
        viewer.refresh()
        fewer = shown(viewer)
        assert 0.3 * total <= len(fewer) < 0.5 * total
        assert viewer.chunks == handles  # nothing was sent again
        assert (fewer == everything[: len(fewer)]).all()
        assert np.ptp(fewer[:, 0]) > 0.95 * np.ptp(everything[:, 0])

        before = viewer.chunks[0].point_size
        viewer.size.value = 2.0
        viewer.resize_points()
        assert viewer.chunks[0].point_size == pytest.approx(2 * before)
        viewer.cameras.value = False
        viewer.refresh_cameras()
        assert not any(handle.visible for handle in viewer.frusta.values())


def test_a_browser_looks_through_a_photo_and_back() -> None:
    with opened(scene_of()) as viewer:
        browser = Browser()
        client = cast(Any, browser)
        viewer.look_through(2, client)
        np.testing.assert_allclose(browser.camera.position, [2, 0, 0], atol=1e-12)
        np.testing.assert_allclose(browser.camera.look_at, [2, 0, 4], atol=1e-6)
        np.testing.assert_allclose(browser.camera.up_direction, [0, -1, 0], atol=1e-12)
        assert browser.camera.fov == pytest.approx(2 * np.arctan(24 / 60))
        # Its own photo and its neighbours' would be in the way.
        assert not any(handle.visible for handle in viewer.frusta.values())
        assert viewer.photo.value == "photo_2.jpg"
        viewer.look_at_all(client)
        assert browser.camera.position[2] < 0
        assert all(handle.visible for handle in viewer.frusta.values())


def test_parts_are_shown_one_at_a_time_and_errors_bound_the_points() -> None:
    scene = calibrated(scene_of(5, [[0, 1, 2], [3, 4]]))
    with opened(scene) as viewer:
        assert viewer.component_choice.visible and viewer.error.visible
        viewer.show_component(1)
        assert sorted(viewer.frusta) == [3, 4]
        assert viewer.photo.options == ("photo_3.jpg", "photo_4.jpg")
        assert len(shown(viewer)) == len(scene.point_cloud(component=1))
        viewer.error.value = 10.0
        viewer.refresh()
        masks = scene.masks(consistent=False, max_error=0.1)
        expected = scene.point_cloud(component=1, masks=masks)
        assert 0 < len(shown(viewer)) == len(expected) < len(scene.point_cloud(component=1))


def test_a_screenshot_is_a_png_on_a_dark_ground() -> None:
    picture = np.zeros((6, 8, 4), dtype=np.uint8)
    picture[0, 0] = 255, 0, 0, 255
    with opened(scene_of()) as viewer:
        browser = Browser(picture)
        viewer.save_screenshot(cast(Any, browser))
        saved = Image.open(io.BytesIO(browser.files["weav3r.png"]))
        assert (saved.size, saved.mode) == ((8, 6), "RGB")
        assert saved.getpixel((0, 0)) == (255, 0, 0) and saved.getpixel((4, 4)) == (24, 26, 30)
        asleep = Browser()
        viewer.save_screenshot(cast(Any, asleep))
        assert asleep.files == {} and asleep.notes == ["No screenshot"]


def test_a_part_of_many_points_is_drawn_evenly() -> None:
    scene = calibrated(scene_of())
    points = ShownPoints.of(scene, max_points=1000)
    assert 800 < len(points) < 1200
    assert np.bincount(points.cloud.view).min() > 200
    assert points.error is not None
    # Errors stand beside the points that they belong to: the surer, the smaller.
    order = np.argsort(points.cloud.confidence)
    assert (np.diff(points.error[order]) <= 1e-6).all()


def test_wrong_bounds_are_errors() -> None:
    with pytest.raises(ValueError, match="max_points must be at least 1"):
        ShownPoints.of(scene_of(), max_points=0)
    with pytest.raises(ValueError, match="max_error needs a scene of a calibrated checkpoint"):
        ShownPoints.of(scene_of()).select(max_error=0.1)


def test_a_scene_without_cameras_and_a_foreign_address_are_errors() -> None:
    empty = Scene(views=[replace(view_at(0.0), camera=None)])
    with pytest.raises(ValueError, match="holds no camera"), opened(empty):
        pass
    with pytest.raises(OSError), opened(scene_of(), host="192.0.2.1"):
        pass


def test_without_viser_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.delitem(sys.modules, "weav3r.demo.viewer", raising=False)
    with pytest.raises(ImportError, match=r"weav3r\.demo\.viewer needs viser: pip install"):
        import weav3r.demo.viewer  # noqa: F401


def test_the_command_serves_a_saved_scene_until_it_is_interrupted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("viser")

    def interrupt() -> None:
        raise KeyboardInterrupt

    scene_of().save(tmp_path / "scene.npz")
    monkeypatch.setattr(cli_view, "wait_for_ever", interrupt)
    outcome = run("view", tmp_path, "--port", 0)
    assert outcome.status == 0 and outcome.err == ""
    assert outcome.out.startswith("http://127.0.0.1:") and "Ctrl-C" in outcome.out


def test_the_command_refuses_what_is_no_scene(run: Run, tmp_path: Path) -> None:
    glb, damaged = tmp_path / "scene.glb", tmp_path / "damaged.npz"
    glb.write_bytes(b"glTF")
    damaged.write_bytes(b"nothing")
    for path, reason in (
        (glb, "is no scene.npz; save one with"),
        (damaged, "is not a saved scene, or is damaged"),
        (tmp_path, "no saved scene at"),
        (tmp_path / "absent.npz", "no saved scene at"),
    ):
        outcome = run("view", path)
        assert outcome.status == 2 and reason in outcome.err
