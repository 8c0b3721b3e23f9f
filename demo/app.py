"""The Gradio app: `weav3r demo`.

It listens on this computer only unless told otherwise, hands out no file but those it made itself
for the asking session, and deletes a session's files when its page is closed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import gradio as gr  # pyright: ignore[reportMissingImports]
    from gradio.themes import Default  # pyright: ignore[reportMissingImports]
    from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError("weav3r.demo needs gradio: pip install 'weav3r[demo]'") from error

from .checkpoints import Checkpoints
from .guard import Guard
from .page import Page
from .service import DemoService
from .sessions import Sessions
from .uploads import Limits
from .visitors import GuardLimits, Visitors
from .words import CSS

logger = logging.getLogger(__name__)

_LOCAL = ("127.0.0.1", "localhost", "::1")
_FONT = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]  # none is fetched from elsewhere
_MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]


def build_app(service: DemoService, visitors: Visitors) -> gr.Blocks:
    """Lay out the page."""

    def leave(request: gr.Request) -> None:
        visitors.leave(str(request.session_hash))

    # Uploads of pages that were never closed are deleted after a day.
    with gr.Blocks(title="Weav3R", analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        Page(service)
        app.unload(service.close)
        app.unload(leave)
    return app


def launch(
    model: str | Path | Sequence[str | Path] = "weav3r-small",
    *,
    examples: Mapping[str, Path] | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    limits: Limits | None = None,
    block: bool = True,
    allow_download: bool = False,
    auth: Sequence[tuple[str, str]] = (),
    share: bool = False,
) -> Any:
    """Serve the page until it is interrupted.

    Args:
        model: bundled name, folder, .safetensors file or Hub id; several to choose from, the first
            is the default and is loaded at once.
        examples: folders of photos to choose from, by name.
        device: "auto", "cpu", "cuda", ...
        host: address to listen on. Everyone who reaches it can use this computer's processor.
        port: port to listen on.
        open_browser: open the page.
        limits: what is refused.
        block: False returns at once with the running app, whose `close()` ends it; its temporary
            files then stay until the caller deletes them.
        allow_download: people may ask for any checkpoint of the Hub by its id.
        auth: (name, password) of those who may use the page; empty: everyone who reaches it.
        share: also publish the page on the internet, through a server of Gradio's makers.

    Raises:
        FileNotFoundError, ValueError: the model cannot be loaded.
        OSError: the port is taken.
    """
    limits = limits or Limits()
    sessions = Sessions()
    try:
        checkpoints = Checkpoints(_listed(model), device, allow_download)
        checkpoints.get()
    except BaseException:
        sessions.close_all()
        raise
    # A server for this computer answers to its own name only, not to one that leads here from afar.
    hosts = frozenset((*_LOCAL, "[::1]")) if host in _LOCAL and not share else None
    request_bytes = (limits.total_megabytes + 10) * 2**20
    visitors = Visitors(sessions.root, GuardLimits(request_bytes, hosts=hosts))
    service = DemoService(checkpoints, dict(examples or {}), sessions, limits)
    if host not in _LOCAL and not auth:
        logger.warning("listening on %s: everyone who reaches it can use this computer", host)
    if share and not auth:
        logger.warning("the page is on the internet: everyone with its address can use it")
    try:
        with _gradio_settings(sessions.root), _terminated_like_interrupted():
            app = build_app(service, visitors)
            visitors.publish()
            app.queue(max_size=64)
            app.launch(
                server_name=host,
                server_port=port,
                share=share,
                auth=list(auth) or None,
                inbrowser=open_browser,
                allowed_paths=[],
                max_file_size=limits.largest_file,
                app_kwargs={"middleware": [Middleware(Guard, visitors=visitors)]},
                footer_links=[],
                ssr_mode=False,
                css=CSS,
                theme=Default(font=_FONT, font_mono=_MONO),
                quiet=True,
                prevent_thread_lock=not block,
            )
    finally:
        if block:
            sessions.close_all()
    return app


def _listed(model: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [model] if isinstance(model, str | Path) else model


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
