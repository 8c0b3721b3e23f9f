"""The Gradio app: `weav3r demo`.

It listens on this computer only unless told otherwise, hands out no file but those it made itself
for the asking session, and deletes a session's files when its page is closed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import gradio as gr  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError("weav3r.demo needs gradio: pip install 'weav3r[demo]'") from error

from ..inference.defaults import inference_size
from ..models.loading import load_model
from ..models.two_view import TwoViewModel
from .job import Limits, run_job
from .sessions import Sessions

logger = logging.getLogger(__name__)

OWN_PHOTOS = "my photos"
POINTS, SURFACES = "points", "surfaces"
_SIZES = (256, 384, 512)
_LOCAL = ("127.0.0.1", "localhost", "::1")

_INTRODUCTION = """# Weav3R
Photos of one place in, cameras and dense 3D out. Take two to {photos} photos that overlap well and
were taken from different places. Files stay on this computer and are deleted with the page."""


@dataclass(frozen=True)
class DemoService:
    """What the page calls.

    Attributes:
        model: the network.
        examples: folders of example photos by name.
        sessions: where results lie.
        limits: what is refused.
    """

    model: TwoViewModel
    examples: dict[str, Path]
    sessions: Sessions
    limits: Limits = Limits()

    def run(
        self,
        files: list[str] | None,
        source: str,
        size: int,
        show: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio finds it by this default
    ) -> tuple[str, list[tuple[str, str]], str, list[str]]:
        """Reconstruct; returns the model, the pictures, the report and the downloads.

        Raises:
            gr.Error: the photos cannot be used.
        """

        def show_stage(stage: str, done: int, total: int) -> None:
            progress((done, total), desc=stage)

        uploads = files or []
        if source in self.examples:
            photos = [str(photo) for photo in sorted(self.examples[source].iterdir())]
        else:
            photos = uploads
        session = str(request.session_hash)
        folder = self.sessions.begin_run(session, uploads)
        try:
            result = run_job(
                photos,
                folder,
                self.model,
                size=int(size),
                surface=show == SURFACES,
                limits=self.limits,
                progress=show_stage,
            )
        except FileNotFoundError:
            raise _error("the photos are gone; please add them again") from None
        except ValueError as error:
            raise _error(str(error)) from error
        finally:
            is_open = self.sessions.end_run(session, folder)
        if not is_open:
            raise _error("the page was closed")
        return (
            str(result.model),
            [(str(file), caption) for file, caption in result.pictures],
            result.report,
            [str(file) for file in result.downloads],
        )

    def close(self, request: gr.Request) -> None:
        """Forget a session whose page was closed."""
        self.sessions.close(str(request.session_hash))


def _error(text: str) -> gr.Error:
    """A message that stays on the page until it is closed, and no traceback in the terminal."""
    line = text.replace(":\n", ": ").replace("\n", "; ")
    return gr.Error(" ".join(line.split()), duration=None, print_exception=False)


def build_app(service: DemoService) -> gr.Blocks:
    """Lay out the page."""
    # Uploads of pages that were never closed are deleted after a day.
    with gr.Blocks(title="Weav3R", analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        gr.Markdown(_INTRODUCTION.format(photos=service.limits.photos))
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                source = gr.Radio(
                    [OWN_PHOTOS, *service.examples], value=OWN_PHOTOS, label="Reconstruct"
                )
                files = gr.File(
                    label=f"My photos (at most {service.limits.photos})",
                    file_count="multiple",
                    file_types=["image"],
                    height=180,
                )
                with gr.Accordion("Options", open=False):
                    default = inference_size(service.model)
                    size = gr.Dropdown(
                        sorted({*_SIZES, default}),
                        value=default,
                        label="Long side at the network, pixels",
                        info="Larger is finer and slower.",
                    )
                    show = gr.Radio([POINTS, SURFACES], value=POINTS, label="Show")
                button = gr.Button("Run", variant="primary")
            with gr.Column(scale=3):
                model = gr.Model3D(label="Scene", height=480, clear_color=(0.1, 0.1, 0.1, 1.0))
                pictures = gr.Gallery(
                    label="Photos and depth (bright is near)",
                    columns=4,
                    height=260,
                    object_fit="contain",
                )
                with gr.Row():
                    report = gr.Textbox(label="Report", lines=8, interactive=False)
                    downloads = gr.File(label="Downloads", file_count="multiple", interactive=False)
        button.click(
            service.run,
            [files, source, size, show],
            [model, pictures, report, downloads],
            concurrency_limit=1,
            show_progress_on=report,
            api_name="reconstruct",
        )
        files.upload(lambda: OWN_PHOTOS, None, source, api_visibility="private")
        app.unload(service.close)
    return app


def launch(
    model: str | Path = "weav3r-small",
    *,
    examples: Mapping[str, Path] | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    limits: Limits | None = None,
    block: bool = True,
) -> Any:
    """Serve the page until it is interrupted.

    Args:
        model: bundled name, folder or .safetensors file.
        examples: folders of photos to choose from, by name.
        device: "auto", "cpu", "cuda", ...
        host: address to listen on. Everyone who reaches it can use this computer's processor.
        port: port to listen on.
        open_browser: open the page.
        limits: what is refused.
        block: False returns at once with the running app, whose `close()` ends it; its temporary
            files then stay until the caller deletes them.

    Raises:
        FileNotFoundError, ValueError: the model cannot be loaded.
        OSError: the port is taken.
    """
    limits = limits or Limits()
    sessions = Sessions()
    service = DemoService(load_model(model, device=device), dict(examples or {}), sessions, limits)
    if host not in _LOCAL:
        logger.warning("listening on %s: everyone who reaches it can use this computer", host)
    try:
        with _gradio_settings(sessions.root), _terminated_like_interrupted():
            app = build_app(service)
            app.queue(max_size=16)
            app.launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=open_browser,
                allowed_paths=[],
                max_file_size=limits.megabytes * 2**20,
                footer_links=[],
                ssr_mode=False,
                quiet=True,
                prevent_thread_lock=not block,
            )
    finally:
        if block:
            sessions.close_all()
    return app


@contextmanager
def _gradio_settings(folder: Path) -> Iterator[None]:
    """Keep Gradio's files in `folder` and its telemetry off; these have no arguments."""
    wanted = {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
    }
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let a request to terminate end the server as Ctrl-C does, so that its files are deleted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
