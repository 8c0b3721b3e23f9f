"""What happens behind the page: runs, results, and whose they are."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import gradio as gr  # pyright: ignore[reportMissingImports]

from .checkpoints import Checkpoints
from .job import JobOptions, run_job
from .results import CHECKPOINT, Results, ResultsCache
from .runs import Line, Run, Work
from .sessions import Sessions
from .uploads import Limits


@dataclass
class DemoService:
    """One for all pages; every page sees its own session only.

    Attributes:
        checkpoints: the networks.
        examples: folders of example photos by name.
        sessions: where results lie.
        limits: what is refused.
        line: where runs wait for each other.
        cache: results in memory.
    """

    checkpoints: Checkpoints
    examples: dict[str, Path]
    sessions: Sessions
    limits: Limits = field(default_factory=Limits)
    line: Line = field(default_factory=Line)
    cache: ResultsCache = field(default_factory=ResultsCache)
    _runs: dict[str, Run] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(
        self,
        request: gr.Request,
        files: Sequence[str] | None,
        example: str | None,
        checkpoint: str | None,
        options: JobOptions,
    ) -> tuple[Run, Path]:
        """Begin a run of a session; one that goes on is ended, results of the last are deleted.

        Returns:
            The run, and its folder.

        Raises:
            ValueError: there are no photos, the checkpoint is unknown, or too many are waiting.
        """
        name = str(request.session_hash)
        photos: list[str] = list(files or [])
        if example:
            if example not in self.examples:
                raise ValueError(f"there is no example {example[:40]!r}")
            photos = [str(photo) for photo in sorted(self.examples[example].iterdir())]
        if not photos:
            raise ValueError("there are no photos: add some, or pick an example")
        self.cancel(request)
        last = self.sessions.folder(name)
        folder = self.sessions.begin_run(name, [*(files or []), *map(str, options.masks)])
        if last is not None:
            self.cache.forget(last)
        work: Work = lambda progress, observer: run_job(  # noqa: E731
            *(photos, folder, self.checkpoints.get(checkpoint), options),
            limits=self.limits,
            progress=progress,
            observer=observer,
        )
        chosen = (checkpoint or self.checkpoints.names[0]).strip()
        (folder / CHECKPOINT).write_text(chosen, encoding="utf-8")
        run = Run(work, self.line, partial(self._end, name, folder), 60 * self.limits.minutes)
        run.start()
        with self._lock:
            self._runs[name] = run
        return run, folder

    def cancel(self, request: gr.Request) -> None:
        """End the run of a session, if there is one."""
        with self._lock:
            run = self._runs.pop(str(request.session_hash), None)
        if run is not None:
            run.cancel()

    def close(self, request: gr.Request) -> None:
        """Forget a session whose page was closed."""
        name = str(request.session_hash)
        self.cancel(request)
        folder = self.sessions.folder(name)
        self.sessions.close(name)
        if folder is not None:
            self.cache.forget(folder)

    def results(self, request: gr.Request) -> Results | None:
        """Results of the session's last run, if it has some."""
        folder = self.sessions.folder(str(request.session_hash))
        return None if folder is None else self.cache.get(folder)

    def _end(self, name: str, folder: Path, has_result: bool) -> None:
        """Delete what a run without a result, or of a page that is closed, left."""
        if self.sessions.end_run(name, folder) and not has_result:
            shutil.rmtree(folder, ignore_errors=True)
