"""The page: what is where, and which function belongs to which button.

Elements that tests and style sheets rely on, by their ids:
    inputs: photos, examples, chosen, options, model, graph, size, focal, masks
    buttons: run, cancel; status (its panel has data-state idle, running, done, cancelled, failed)
    tabs: tabs; their names are Depth, 3D scene, Matches, Cameras, Report, Downloads
    3D scene: scene, scene-count, color, confidence, error, consistent, sky, far, point-size, show,
        group
    Depth: depth, depth-kind
    Matches: match-left, match-right, match-run, matches, match-text
    Cameras: cameras, plans
    Report: summary, report
    Downloads: download-glb, -ply, -npz, -colmap, -transforms, -nerfstudio, -report
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from PIL import Image

from ..inference.graph.kinds import COMPLETE_UP_TO
from .errors import page_error
from .job import JobOptions
from .results import Results
from .runs import Run, RunStatus
from .service import DemoService
from .tab_matches import MatchesTab
from .tab_scene import SceneTab
from .tabs_plain import CamerasTab, DepthTab, DownloadsTab, ReportTab
from .words import INTRODUCTION, status_html

logger = logging.getLogger(__name__)

GRAPHS = [
    (f"automatic (all pairs up to {COMPLETE_UP_TO} photos)", "auto"),
    ("all pairs", "complete"),
    ("neighbours in order", "swin-3-noncyclic"),
    ("video: neighbours and some far ones", "video-5"),
    ("most similar photos", "retrieval-8"),
]
SIZES = [("best for the checkpoint", 0), ("256, quick", 256), ("384", 384), ("512, slow", 512)]
_EVERY_S = 0.4
# On a phone the button is above what it starts.
_SHOW_STATUS = """() => {
  const status = document.getElementById('status');
  if (window.innerWidth < 700) status.scrollIntoView({behavior: 'smooth'});
}"""
_THUMBNAIL = 240


class Page:
    """One layout for everyone; what is shown in it belongs to a session."""

    def __init__(self, service: DemoService) -> None:
        self.service = service
        limits = service.limits
        gr.Markdown(INTRODUCTION.format(photos=limits.photos), elem_id="header")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self._build_inputs()
            with gr.Column(scale=4, min_width=320), gr.Tabs(elem_id="tabs") as self.tabs:
                with gr.Tab("3D scene", id="scene"):
                    self.scene = SceneTab(service)
                with gr.Tab("Depth", id="depth"):
                    self.depth = DepthTab(service)
                with gr.Tab("Matches", id="matches"):
                    self.matches = MatchesTab(service)
                with gr.Tab("Cameras", id="cameras"):
                    self.cameras = CamerasTab()
                with gr.Tab("Report", id="report"):
                    self.report = ReportTab()
                with gr.Tab("Downloads", id="downloads"):
                    self.downloads = DownloadsTab(service, self.scene)
        self._connect()

    def _build_inputs(self) -> None:
        limits = self.service.limits
        self.files = gr.File(
            label="Photos, or a video",
            file_count="multiple",
            file_types=["image", "video"],
            height=150,
            elem_id="photos",
        )
        self.example = gr.Textbox(visible=False)
        gr.Markdown("Or an example:", elem_classes="hint")
        self.gallery = gr.Gallery(
            [(_thumbnail(folder), name) for name, folder in self.service.examples.items()],
            label="Or an example",
            show_label=False,
            columns=3,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="examples",
        )
        self.chosen = gr.Markdown("", elem_id="chosen", elem_classes="hint")
        with gr.Row():
            self.run = gr.Button("Run", variant="primary", size="lg", scale=3, elem_id="run")
            self.cancel = gr.Button(
                "Cancel", variant="stop", size="lg", scale=1, interactive=False, elem_id="cancel"
            )
        self.status = gr.HTML(status_html(None), elem_id="status", padding=False)
        with gr.Accordion("Options", open=False, elem_id="options"):
            checkpoints = self.service.checkpoints
            self.model = gr.Dropdown(
                checkpoints.names,
                value=checkpoints.names[0],
                label="Checkpoint",
                info="One of the list, or a Hub id such as owner/name."
                if checkpoints.allow_download
                else None,
                allow_custom_value=checkpoints.allow_download,
                elem_id="model",
            )
            self.graph = gr.Dropdown(
                GRAPHS, value="auto", label="Pairs to compare", elem_id="graph"
            )
            self.size = gr.Dropdown(
                SIZES, value=0, label="Long side at the network, pixels", elem_id="size"
            )
            self.focal = gr.Number(
                label="Focal length, pixels of the photos",
                info="If you know it; the same for all. Empty: estimated.",
                precision=None,
                value=None,
                elem_id="focal",
            )
            self.masks = gr.File(
                label="Masks",
                file_count="multiple",
                file_types=["image"],
                height=110,
                elem_id="masks",
            )
            gr.Markdown(
                "A mask has the name and the size of its photo (photo.jpg, photo.png) and is black "
                f"where the photo is to be ignored. Photos: at most {limits.photos}, "
                f"{limits.megabytes} MB and {limits.megapixels} megapixels each.",
                elem_classes="hint",
            )

    def _connect(self) -> None:
        inputs = [
            *(self.files, self.example, self.masks),
            *(self.model, self.graph, self.size, self.focal),
        ]
        tabs = (self.scene, self.depth, self.matches, self.cameras, self.report)
        outputs = [self.status, self.run, self.cancel, self.tabs]
        outputs += [component for tab in tabs for component in tab.outputs]
        shown = [*self.scene.chosen, self.depth.kind]
        self.run.click(
            self.reconstruct,
            [*inputs, *shown],
            outputs,
            concurrency_limit=None,
            show_progress="hidden",
            trigger_mode="once",
            api_name="reconstruct",
        )
        self.run.click(None, None, None, js=_SHOW_STATUS, api_visibility="private")
        self.cancel.click(
            *(self.end_run, None, [self.status, self.cancel]),
            queue=False,
            show_progress="hidden",
            api_name="cancel_run",
        )
        private = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.gallery.select(
            self.choose_example, None, [self.example, self.chosen, self.files], **private
        )
        self.files.upload(
            lambda files: ("", f"**{len(files)} files** are ready."),
            *(self.files, [self.example, self.chosen]),
            **private,
        )
        self.files.clear(lambda: "", None, self.chosen, **private)

    def choose_example(self, event: gr.SelectData) -> tuple[str, str, None]:
        """Take the example that was clicked, instead of uploads."""
        name = list(self.service.examples)[int(event.index)]
        return name, f"The example **{name}** is ready.", None

    def end_run(self, request: gr.Request) -> tuple[Any, Any]:
        """Cancel."""
        self.service.cancel(request)
        return gr.skip(), gr.update(interactive=False)

    async def reconstruct(
        self,
        request: gr.Request,
        files: list[str] | None,
        example: str,
        masks: list[str] | None,
        model: str,
        graph: str,
        size: int,
        focal: float | None,
        *shown: Any,
    ) -> AsyncIterator[dict[Any, Any]]:
        """Run, and show what there is as it comes.

        Raises:
            gr.Error: the run cannot begin.
        """
        options = JobOptions(
            size=int(size) if size else None,
            graph=str(graph),
            focal_px=float(focal) if focal else None,
            masks=list(masks or []),
        )
        try:
            run, folder = self.service.begin(request, files, example, model, options)
        except ValueError as error:
            raise page_error(str(error)) from error
        buttons = {
            self.run: gr.update(interactive=True),
            self.cancel: gr.update(interactive=False),
        }
        try:
            async for update in self._follow(run, folder):
                yield update
            ended = buttons | {self.status: status_html(run.status)}
            results = None
            if run.status.state == "done":
                results = await asyncio.to_thread(self.service.results, request)
            if results is None:
                yield ended
                return
            *chosen, kind = shown
            scene = await asyncio.to_thread(self.scene.fill, results, *chosen)
            yield {**scene, self.tabs: gr.update(selected="scene")}
            yield await asyncio.to_thread(self._fill, results, kind) | ended
        except Exception:
            logger.exception("the page could not show a run")
            failed = RunStatus("failed", message="the result cannot be shown; the log says why")
            yield buttons | {self.status: status_html(failed)}
        finally:
            run.cancel()

    async def _follow(self, run: Run, folder: Path) -> AsyncIterator[dict[Any, Any]]:
        """What changes while a run goes on."""
        yield {
            **self.scene.clear(),
            **self.depth.clear(),
            **self.matches.clear(),
            **self.cameras.clear(),
            **self.report.clear(),
            self.run: gr.update(interactive=False),
            self.cancel: gr.update(interactive=True),
            self.tabs: gr.update(selected="depth"),
            self.status: status_html(run.status),
        }
        maps: dict[int, tuple[Path, str]] = {}
        while (status := run.status).state in ("waiting", "running"):
            depths = run.new_depths()
            update: dict[Any, Any] = {self.status: status_html(status)}
            if depths:
                update |= await asyncio.to_thread(self.depth.early, maps, depths, folder)
            yield update
            await asyncio.sleep(_EVERY_S)
        if status.state == "done":
            yield {
                self.status: status_html(RunStatus("running", stage="Drawing the scene", share=1.0))
            }

    def _fill(self, results: Results, kind: Any) -> dict[Any, Any]:
        """Everything but the scene itself."""
        return {
            **self.depth.fill(results, kind),
            **self.matches.fill(results),
            **self.cameras.fill(results),
            **self.report.fill(results),
        }


def _thumbnail(folder: Path) -> Image.Image:
    """The first photo of a folder, small."""
    photo = sorted(file for file in folder.iterdir() if file.suffix in (".jpg", ".png"))[0]
    with Image.open(photo) as image:
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        return image.convert("RGB")
