"""A reconstruction in a thread of its own, that others watch and can end."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..inference.observer import EarlyDepth, Observer
from ..inference.progress import RemainingTime
from .job import JobResult
from .uploads import Progress

logger = logging.getLogger(__name__)

Work = Callable[[Progress, Observer], JobResult]
State = Literal["waiting", "running", "done", "cancelled", "failed"]


class RunCancelledError(Exception):
    """Ends the work from inside, at its next report of progress."""


@dataclass(frozen=True)
class RunStatus:
    """How a run is.

    Attributes:
        state: "waiting" for others to end.
        ahead: runs that come first.
        stage: what it is at, in words.
        share: done of the whole, 0 to 1.
        remaining_s: seconds to go; None as long as there is no telling.
        elapsed_s: seconds since it began.
        message: why it failed.
        result: of a run that is done.
    """

    state: State
    ahead: int = 0
    stage: str = ""
    share: float = 0.0
    remaining_s: float | None = None
    elapsed_s: float = 0.0
    message: str = ""
    result: JobResult | None = None


_STAGES = {
    "photos": "Reading the photos",
    "frames": "Picking frames of the video",
    "encode": "Looking at each photo",
    "decode": "Comparing pairs",
    "decode and match": "Comparing pairs",
    "cameras": "Placing the cameras",
    "refine": "Refining the cameras",
    "depth": "Measuring depth",
}


class Line:
    """Runs take turns, one at a time, in the order in which they came.

    Args:
        longest: how many may be in it, the one at work included.
    """

    def __init__(self, longest: int = 32) -> None:
        self.longest = longest
        self._runs: list[object] = []
        self._lock = threading.Lock()

    def enter(self, run: object) -> None:
        """Join at the end.

        Raises:
            ValueError: the line is too long.
        """
        with self._lock:
            if len(self._runs) >= self.longest:
                raise ValueError(
                    f"{len(self._runs)} others are waiting already; please try again later"
                )
            self._runs.append(run)

    def ahead(self, run: object) -> int:
        """How many come before a run in the line."""
        with self._lock:
            return self._runs.index(run) if run in self._runs else 0

    def leave(self, run: object) -> None:
        """Let the next one have its turn."""
        with self._lock:
            self._runs.remove(run)


class Run:
    """One reconstruction.

    Args:
        work: does it; calls both of its arguments now and then.
        line: where runs wait for each other.
        on_end: called in the thread when the work is over, with whether there is a result.
        max_seconds: the run is ended after this time.
    """

    def __init__(
        self,
        work: Work,
        line: Line,
        on_end: Callable[[bool], None],
        max_seconds: float,
    ) -> None:
        self._work, self._line, self._on_end = work, line, on_end
        self.max_seconds = max_seconds
        self._cancelled = threading.Event()
        self._time = RemainingTime()
        self._began: float | None = None
        self._depths: queue.SimpleQueue[EarlyDepth] = queue.SimpleQueue()
        self._end: RunStatus | None = None
        self._thread = threading.Thread(target=self._do, name="weav3r-run", daemon=True)

    def start(self) -> None:
        """Begin, or wait for those before it to end.

        Raises:
            ValueError: too many are waiting.
        """
        self._line.enter(self)
        self._thread.start()

    def cancel(self) -> None:
        """End the work at its next step; nothing happens to one that is over."""
        self._cancelled.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread is over."""
        self._thread.join(timeout)

    @property
    def status(self) -> RunStatus:
        """How it is now."""
        if self._end is not None:
            return self._end
        if self._cancelled.is_set():
            return RunStatus("cancelled")
        if self._began is None:
            return RunStatus("waiting", ahead=self._line.ahead(self))
        at = self._time
        count = f", {at.done} of {at.total}" if at.total > 1 else ""
        return RunStatus(
            "running",
            stage=f"{_STAGES.get(at.stage, at.stage.capitalize() or 'Starting')}{count}",
            share=at.share,
            remaining_s=at.remaining_s,
            elapsed_s=time.monotonic() - self._began,
        )

    def new_depths(self) -> list[EarlyDepth]:
        """Depth maps that came since the last call."""
        found: list[EarlyDepth] = []
        while not self._depths.empty():
            found.append(self._depths.get())
        return found

    def _do(self) -> None:
        end = RunStatus("cancelled")
        try:
            while self._line.ahead(self) > 0:
                self._check()
                time.sleep(0.1)
            self._began = time.monotonic()
            result = self._work(self._report, self._see)
            self._check()
            took = time.monotonic() - self._began
            end = RunStatus("done", share=1.0, elapsed_s=took, result=result)
        except RunCancelledError as error:
            if str(error):
                end = RunStatus("failed", message=str(error))
        except ValueError as error:
            end = RunStatus("failed", message=str(error))
        except FileNotFoundError:
            end = RunStatus("failed", message="the photos are gone; please add them again")
        except Exception:
            logger.exception("a reconstruction failed")
            end = RunStatus("failed", message="something went wrong; the server's log says what")
        finally:
            self._line.leave(self)
            self._on_end(end.result is not None)
            self._end = end

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise RunCancelledError
        if self._began is not None and time.monotonic() - self._began > self.max_seconds:
            minutes = self.max_seconds / 60
            raise RunCancelledError(
                f"this took more than {minutes:.0f} minutes and was ended; take fewer photos or a "
                "smaller size"
            )

    def _report(self, stage: str, done: int, total: int) -> None:
        self._check()
        self._time.update(stage, done, total)

    def _see(self, depth: EarlyDepth) -> None:
        self._check()
        self._depths.put(depth)
