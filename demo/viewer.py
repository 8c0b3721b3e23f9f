"""The viewer of finished scenes: `weav3r view`.

It listens on this computer only unless told otherwise and fetches nothing from elsewhere. What is
shown is one for all browsers that look at it; where each of them looks from is its own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import socket
import threading
from functools import partial

import numpy as np
from PIL import Image

try:
    import viser  # pyright: ignore[reportMissingImports]
    from viser import transforms  # pyright: ignore[reportMissingImports]
    from websockets.asyncio import server as websockets_server
except ImportError as error:
    raise ImportError("weav3r.demo.viewer needs viser: pip install 'weav3r[viewer]'") from error

from ..inference.scene import Scene
from .viewer_points import ShownPoints

logger = logging.getLogger(__name__)

_LOCAL = ("127.0.0.1", "localhost", "::1")
_THUMBNAIL = 160  # long side, pixels
_CHUNKS = 20  # nodes that the points are cut into: what was sent once is shown and hidden, not sent
_MIN_CHUNK = 1_000
_IDLE, _CHOSEN = (90, 150, 255), (255, 170, 40)
_BACKGROUND = (24, 26, 30)


class _PrivateServer(viser.ViserServer):
    """A server that never asks another computer to publish it, whoever wants it to."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Refuse."""
        return None


def _start_server(host: str, port: int) -> _PrivateServer:
    """Start a server; on this computer only its own pages may talk to it, not any page visited.

    Raises:
        OSError: the address is not one of this computer's.
    """
    socket.create_server((host, 0), family=_family(host)).close()  # viser would try it for ever
    own = re.compile(rf"https?://({'|'.join(map(re.escape, _LOCAL))}|\[::1\])(:\d+)?")
    limits = {"origins": [own, None]} if host in _LOCAL else {}
    # viser has no argument for that, and a banner that names an address of its own.
    before = websockets_server.serve
    websockets_server.serve = partial(before, **limits)  # pyright: ignore
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return _PrivateServer(host=host, port=port, label="Weav3R", verbose=False)
    finally:
        websockets_server.serve = before


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class SceneViewer:
    """The page: controls on the right, points and cameras in the middle.

    Args:
        scene: what to show; at least one image has a camera.
        host: address to listen on.
        port: port to listen on; the next free one where it is taken.
        max_points: points kept in memory for each component.
        budget: points shown at first.

    Raises:
        ValueError: no image of the scene has a camera.
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        max_points: int = 5_000_000,
        budget: int = 1_000_000,
    ) -> None:
        if not scene.components:
            raise ValueError("the scene holds no camera: there is nothing to look at")
        self.scene, self.max_points, self.budget = scene, max_points, budget
        self.component = 0
        self.points = ShownPoints.of(scene, 0, max_points)
        self.chunks: dict[int, viser.PointCloudHandle] = {}
        self.frusta: dict[int, viser.CameraFrustumHandle] = {}
        self._lock = threading.RLock()
        self._selection = np.zeros(0, dtype=np.int64)
        self._selected: tuple[float, float | None] | None = None
        self._inside: int | None = None
        self.server = _start_server(host, port)
        self.host, self.port = host, self.server.get_port()
        self.server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self.server.scene.set_up_direction("-y")
        self._build_controls()
        self.show_component(0)
        # A browser starts there by itself, but viser does not hear of it before the first move, and
        # a screenshot would be taken from elsewhere.
        self.server.on_client_connect(self._place)

    # -- controls ----------------------------------------------------------------------------------

    def _build_controls(self) -> None:
        gui = self.server.gui
        self.heading = gui.add_markdown("")
        labels = [f"{k + 1}: {len(group)} photos" for k, group in enumerate(self.scene.components)]
        self.component_choice = gui.add_dropdown(
            "Part",
            labels,
            hint="Photos that share no view with the others form a part of their own.",
            visible=len(labels) > 1,
        )
        self.component_choice.on_update(
            lambda _: self.show_component(labels.index(self.component_choice.value))
        )
        with gui.add_folder("Points"):
            self._build_point_controls()
        with gui.add_folder("Photos"):
            self._build_photo_controls()
        self.screenshot = gui.add_button("Screenshot", icon=viser.Icon.CAMERA)
        self.screenshot.on_click(lambda event: event.client and self.save_screenshot(event.client))

    def _build_point_controls(self) -> None:
        gui = self.server.gui
        self.share = gui.add_slider(
            "Share, %", 0, 100, 100 / _CHUNKS, 100.0, hint="Fewer points turn more smoothly."
        )
        self.confidence = gui.add_slider(
            "Confidence", 1.0, 2.0, 0.01, 1.0, hint="Points below are left out."
        )
        self.error = gui.add_slider(
            "Error, %",
            *(1.0, 50.0, 0.5, 50.0),
            hint="Points whose depth is expected to be off by more are left out.",
            visible=False,
        )
        self.size = gui.add_slider("Size", 0.2, 5.0, 0.1, 1.0, hint="Of the points.")
        self.count = gui.add_markdown("")
        for slider in (self.share, self.confidence, self.error):
            slider.on_update(lambda _: self.refresh())
        self.size.on_update(lambda _: self.resize_points())

    def _build_photo_controls(self) -> None:
        gui = self.server.gui
        self.cameras = gui.add_checkbox("Show cameras", True)
        self.cameras.on_update(lambda _: self.refresh_cameras())
        self.camera_size = gui.add_slider("Size", 0.2, 5.0, 0.1, 1.0, hint="Of the cameras.")
        self.camera_size.on_update(lambda _: self.refresh_cameras())
        self.photo = gui.add_dropdown("Photo", ["-"], hint="Or click a camera.")
        through = gui.add_button("Look through", icon=viser.Icon.EYE)
        through.on_click(
            lambda event: (
                event.client and self.look_through(self.scene.index(self.photo.value), event.client)
            )
        )
        back = gui.add_button("Whole scene", icon=viser.Icon.ZOOM_OUT)
        back.on_click(lambda event: event.client and self.look_at_all(event.client))

    # -- what is shown -----------------------------------------------------------------------------

    def show_component(self, component: int) -> None:
        """Show another part of the scene; its controls begin anew."""
        with self._lock, self.server.atomic():
            if component != self.component:
                self.points = ShownPoints.of(self.scene, component, self.max_points)
            self.component, self._selected, self._inside = component, None, None
            self._extent = self.scene.extent(component)
            members = self.scene.components[component]
            self.heading.content = (
                f"**{len(members)} of {len(self.scene)} photos** &nbsp; "
                f"{_length(self._extent, self.scene.scale == 'metric')}"
            )
            self._set_ranges()
            self.photo.options = [self.scene.images[i] for i in members]
            self._add_cameras(members)
            self.refresh()
        self._set_start()
        for client in self.server.get_clients().values():
            self.look_at_all(client)

    def _set_ranges(self) -> None:
        confidence = self.points.cloud.confidence
        top = float(np.percentile(confidence, 99.5)) if len(confidence) else 2.0
        top = max(round(top, 2), 1.1)
        self.confidence.max, self.confidence.step = top, max(round((top - 1) / 200, 3), 0.001)
        self.confidence.value = min(self.scene.min_confidence, top)
        self.error.visible = self.points.error is not None
        self.error.value = self.error.max
        self.share.value = float(min(100, 100 * self.budget / max(1, len(self.points))))

    def refresh(self) -> None:
        """Bring the points in line with the controls.

        Points that were sent once are hidden and shown; they are sent again only when confidence or
        error choose others. Calls that come while one is at work find nothing left to do.
        """
        with self._lock:
            self._select()
            size = self._chunk_size
            shown = round(float(self.share.value) / 100 * len(self.points))
            shown = min(max(shown, 0), len(self._selection))
            for k in range(-(-len(self._selection) // size)):
                wanted = k * size < shown
                if k in self.chunks:
                    if self.chunks[k].visible != wanted:
                        self.chunks[k].visible = wanted
                elif wanted:
                    self._send(k)
            visible = sum(len(c.points) for c in self.chunks.values() if c.visible)
            self.count.content = f"{visible:,} of {len(self.points):,} points"

    @property
    def _chunk_size(self) -> int:
        return max(-(-len(self.points) // _CHUNKS), _MIN_CHUNK)

    def _select(self) -> None:
        # The end of the scale stands for "any error", larger ones included.
        limited = self.points.error is not None and self.error.value < self.error.max
        max_error = float(self.error.value) / 100 if limited else None
        wanted = (float(self.confidence.value), max_error)
        if wanted == self._selected:
            return
        self._selection, self._selected = self.points.select(*wanted), wanted
        with self.server.atomic():
            for handle in self.chunks.values():
                handle.remove()
        self.chunks = {}

    def _send(self, k: int) -> None:
        rows = self._selection[k * self._chunk_size : (k + 1) * self._chunk_size]
        self.chunks[k] = self.server.scene.add_point_cloud(
            f"/points/{k}",
            self.points.cloud.points[rows],
            self.points.cloud.colors[rows],
            point_size=self._point_size,
            point_shape="circle",
            point_shading="flat",
            precision="float32",
        )

    @property
    def _point_size(self) -> float:
        return float(self.size.value) * self._extent / 700

    def resize_points(self) -> None:
        """Bring the size of the points in line with its slider."""
        with self._lock:
            for handle in self.chunks.values():
                handle.point_size = self._point_size

    # -- cameras -----------------------------------------------------------------------------------

    def _add_cameras(self, members: list[int]) -> None:
        for handle in self.frusta.values():
            handle.remove()
        self.frusta = {}
        for i in members:
            camera, rgb = self.scene.network_camera(i), self.scene.views[i].rgb
            picture = Image.fromarray(rgb)
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            handle = self.server.scene.add_camera_frustum(
                f"/cameras/{i}",
                fov=float(np.deg2rad(camera.fov_deg[0])),
                aspect=camera.width / camera.height,
                thickness=2.0,
                thickness_units="screen",
                color=_IDLE,
                image=np.asarray(picture),
                format="jpeg",
                wxyz=transforms.SO3.from_matrix(camera.world_from_cam[:3, :3]).wxyz,
                position=camera.center,
            )
            handle.on_click(lambda event, i=i: event.client and self.look_through(i, event.client))
            self.frusta[i] = handle
        self.refresh_cameras()

    def refresh_cameras(self) -> None:
        """Bring the cameras in line with their controls; looking through one, none is shown."""
        crowd = max(1.0, len(self.frusta) / 20) ** 0.5
        with self._lock, self.server.atomic():
            for handle in self.frusta.values():
                handle.visible = bool(self.cameras.value) and self._inside is None
                handle.scale = float(self.camera_size.value) * self._extent * 0.06 / crowd

    def look_through(self, i: int, client: viser.ClientHandle) -> None:
        """Move a browser to where photo `i` was taken from, with the photo's field of view."""
        camera = self.scene.network_camera(i)
        depth = self.scene.depth(i)
        known = np.isfinite(depth)
        distance = float(np.median(depth[known])) if known.any() else self._extent / 2
        forward = camera.world_from_cam[:3, 2]
        with client.atomic():
            client.camera.position = camera.center
            client.camera.up_direction = -camera.world_from_cam[:3, 1]
            client.camera.look_at = camera.center + distance * forward
            client.camera.fov = float(np.deg2rad(camera.fov_deg[0]))
        with self._lock:
            self._inside = i
            self.photo.value = self.scene.images[i]
            self.refresh_cameras()

    def look_at_all(self, client: viser.ClientHandle) -> None:
        """Move a browser back to where all is seen."""
        self._place(client)
        with self._lock:
            self._inside = None
            self.refresh_cameras()

    def _place(self, client: viser.ClientHandle) -> None:
        start = self.server.initial_camera
        with client.atomic():
            client.camera.position = start.position
            client.camera.up_direction = np.array([0.0, -1.0, 0.0])
            client.camera.look_at = start.look_at
            client.camera.fov = start.fov

    def _set_start(self) -> None:
        """Begin behind and above the first camera, with the middle of the points ahead."""
        start, extent = self.server.initial_camera, self._extent
        first = self.scene.network_camera(self.scene.components[self.component][0])
        cloud = self.points.cloud.points
        middle = np.median(cloud[:20_000], axis=0) if len(cloud) else first.center
        right, down, forward = first.world_from_cam[:3, :3].T
        start.position = first.center - extent * (0.35 * forward + 0.2 * down - 0.15 * right)
        start.look_at = middle.astype(np.float64)
        start.fov = float(np.deg2rad(50))

    # -- files and ends ----------------------------------------------------------------------------

    def save_screenshot(self, client: viser.ClientHandle) -> None:
        """Send a browser the picture that it shows, as PNG."""
        height, width = client.camera.image_height, client.camera.image_width
        try:
            pixels = client.get_render(height, width, transport_format="png", timeout=30)
        except (RuntimeError, TimeoutError) as error:
            logger.warning("no screenshot: %s", error)
            client.add_notification("No screenshot", "The browser gave no picture.", color="red")
            return
        picture = Image.fromarray(pixels).convert("RGBA")
        filled = Image.alpha_composite(
            Image.new("RGBA", picture.size, (*_BACKGROUND, 255)), picture
        )
        file = io.BytesIO()
        filled.convert("RGB").save(file, "PNG")
        client.send_file_download("weav3r.png", file.getvalue(), save_immediately=True)

    @property
    def address(self) -> str:
        """What to open in the browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def close(self) -> None:
        """End the server."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()


def _length(extent: float, metric: bool) -> str:
    return f"about {extent:.3g} m across" if metric else "scale unknown"
