"""The tabs that only show: depth, cameras, report; and the downloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from ..inference.observer import EarlyDepth
from ..inference.tables import CameraRow, camera_rows
from .errors import page_error
from .results import Format, Results, early_map
from .service import DemoService
from .tab_scene import SceneTab
from .words import EMPTY_DEPTH, report_frame

MAPS = [("depth", "depth"), ("confidence", "confidence"), ("normals", "normals")]
DOWNLOADS: list[tuple[Format, str]] = [
    ("glb", "GLB as shown"),
    ("ply", "PLY as shown"),
    ("npz", "NPZ"),
    ("colmap", "COLMAP"),
    ("transforms", "transforms.json"),
    ("nerfstudio", "nerfstudio"),
    ("report", "Report"),
]
_COLUMNS = [
    *("#", "photo", "placed", "group", "pixels", "focal length, px", "angle, °"),
    *("x", "y", "z", "with depth, %", "expected error, %"),
]


class DepthTab:
    """Each photo beside its depth, its confidence or its normals; see `SceneTab`."""

    def __init__(self, service: DemoService) -> None:
        self.service = service
        self.kind = gr.Radio(MAPS, value="depth", label="Beside each photo", elem_id="depth-kind")
        self.gallery = gr.Gallery(
            label="Photos",
            show_label=False,
            elem_id="depth",
            columns=2,
            height="auto",
            object_fit="contain",
            interactive=False,
            buttons=["download", "fullscreen"],
        )
        self.hint = gr.Markdown(EMPTY_DEPTH, elem_classes="hint")
        self.outputs = [self.gallery, self.hint]
        self.kind.input(
            *(self.show, self.kind, self.gallery),
            concurrency_id="views",
            concurrency_limit=2,
            api_visibility="private",
        )

    def show(self, kind: Any, request: gr.Request) -> Any:
        """Show the other maps."""
        results = self.service.results(request)
        return gr.skip() if results is None else _pictures(results.maps(kind))

    def early(
        self, shown: dict[int, tuple[Path, str]], depths: Sequence[EarlyDepth], folder: Path
    ) -> dict[Any, Any]:
        """Add maps that came while the work goes on to those that are `shown`."""
        for depth in depths:
            caption = depth.name if depth.final else f"{depth.name}, first guess"
            shown[depth.index] = early_map(depth, folder), caption
        return {self.gallery: _pictures([shown[i] for i in sorted(shown)])}

    def fill(self, results: Results, kind: Any) -> dict[Any, Any]:
        """Show the maps of a finished scene."""
        hint = (
            "Depth: bright is near, grey is left out. Confidence: bright is sure. Normals: red "
            "faces right, green up, blue the camera."
        )
        return {self.gallery: _pictures(results.maps(kind)), self.hint: hint}

    def clear(self) -> dict[Any, Any]:
        """Show nothing."""
        return {self.gallery: [], self.hint: EMPTY_DEPTH}


class CamerasTab:
    """Where each photo was taken; see `SceneTab`."""

    def __init__(self) -> None:
        self.unit = gr.Markdown("", elem_classes="hint")
        self.table = gr.Dataframe(
            headers=_COLUMNS,
            label="Cameras",
            show_label=False,
            elem_id="cameras",
            interactive=False,
            wrap=False,
            max_height=420,
        )
        self.plans = gr.HTML("", elem_id="plans", elem_classes="plans")
        self.outputs = [self.unit, self.table, self.plans]

    def fill(self, results: Results) -> dict[Any, Any]:
        """Show the cameras of a scene."""
        metric = results.scene.scale == "metric"
        unit = "metres" if metric else "a unit of the scene's own: photos alone give no scale"
        text = (
            f"Positions in {unit}; x right, y down, z ahead of the first camera. Focal lengths in "
            "pixels of the original photos."
        )
        rows = [_row(row) for row in camera_rows(results.scene)]
        return {self.unit: text, self.table: rows, self.plans: results.plans}

    def clear(self) -> dict[Any, Any]:
        """Show nothing."""
        return {self.unit: "", self.table: [], self.plans: ""}


class ReportTab:
    """What happened; see `SceneTab`."""

    def __init__(self) -> None:
        self.summary = gr.Textbox(
            label="Summary", elem_id="summary", lines=4, max_lines=14, interactive=False
        )
        self.page = gr.HTML("", elem_id="report")
        self.outputs = [self.summary, self.page]

    def fill(self, results: Results) -> dict[Any, Any]:
        """Show the report of a scene."""
        page = results.report_page().read_text(encoding="utf-8")
        return {self.summary: results.scene.report.summary(), self.page: report_frame(page)}

    def clear(self) -> dict[Any, Any]:
        """Show nothing."""
        return {self.summary: "", self.page: ""}


class DownloadsTab:
    """Files to take away, made when they are asked for.

    A hidden button holds each file, since a button can only hand out what it already has.
    """

    def __init__(self, service: DemoService, scene: SceneTab) -> None:
        self.service = service
        gr.Markdown(
            "GLB and PLY hold the points that the 3D tab shows, all of them; the others hold the "
            "whole scene. COLMAP and nerfstudio come with the photos.",
            elem_classes="hint",
        )
        with gr.Row():
            for format, label in DOWNLOADS:
                button = gr.Button(label, elem_id=f"download-{format}", min_width=190)
                file = gr.DownloadButton(visible="hidden", elem_id=f"file-{format}")
                button.click(
                    self.maker(format),
                    scene.chosen,
                    file,
                    concurrency_id="views",
                    concurrency_limit=2,
                    show_progress_on=button,
                    api_visibility="private",
                ).success(None, None, None, js=_CLICK % f"file-{format}", api_visibility="private")

    def maker(self, format: Format) -> Callable[..., str]:
        """The function behind a button; Gradio reads the types of its arguments."""

        def make(request: gr.Request, *values: Any) -> str:
            results = self.service.results(request)
            if results is None:
                raise page_error("there is no scene yet: run a reconstruction first")
            try:
                return str(results.download(format, SceneTab.options(*values)))
            except ValueError as error:
                raise page_error(str(error)) from error

        return make


# The page has to show the new address of the file before it is clicked.
_CLICK = """() => setTimeout(() => {
  const e = document.getElementById('%s');
  (e.matches('a, button') ? e : e.querySelector('a, button')).click();
}, 300)"""


def _pictures(files: Sequence[tuple[Path, str]]) -> list[tuple[str, str]]:
    return [(str(file), caption) for file, caption in files]


def _row(row: CameraRow) -> list[Any]:
    def number(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"

    x, y, z = row.position or (None, None, None)
    return [
        *(row.index + 1, row.name, "yes" if row.placed else "no"),
        *("–" if row.group is None else row.group + 1, f"{row.width} × {row.height}"),
        *(number(row.focal_px, 1), number(row.fov_deg, 1)),
        *(number(x, 3), number(y, 3), number(z, 3)),
        number(None if row.with_depth is None else 100 * row.with_depth, 0),
        number(None if row.error is None else 100 * row.error, 1),
    ]
