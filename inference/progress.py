"""Progress of long work: a bar in the terminal, a callback, or silence."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

Advance = Callable[[int], None]


class Progress(Protocol):
    """Something that shows how far each stage is."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Begin a stage of `total` steps; call the given function with the steps done since."""
        ...


class _Silent:
    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        yield lambda steps: None


class _Callback:
    def __init__(self, function: Callable[[str, int, int], None]) -> None:
        self.function = function

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            self.function(name, done, total)

        self.function(name, 0, total)
        yield advance
        if done < total:
            self.function(name, total, total)


class _Terminal:
    def __init__(self, bars: RichProgress) -> None:
        self.bars = bars

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        task = self.bars.add_task(name, total=total)
        yield lambda steps: self.bars.advance(task, steps)
        self.bars.update(task, completed=total)


@contextmanager
def make_progress(progress: bool | Callable[[str, int, int], None]) -> Iterator[Progress]:
    """Progress display for the `progress` argument of the public functions.

    Args:
        progress: False for silence; True for bars with the remaining time, drawn on a terminal
            only;
            or a function that receives (stage, done, total).
    """
    if callable(progress):
        yield _Callback(progress)
    elif progress and sys.stderr.isatty():
        columns = (
            TextColumn("{task.description:>16}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=Console(stderr=True)) as bars:
            yield _Terminal(bars)
    else:
        yield _Silent()


# Seconds of one step on two processor cores, with the bundled network; only their ratios matter.
_STEP_S = {"photos": 0.05, "encode": 0.25, "pairs": 1.3, "cameras": 0.2, "depth": 2.6}
_SAME_STAGE = {"decode": "pairs", "decode and match": "pairs", "frames": "photos"}


@dataclass
class RemainingTime:
    """How far a reconstruction is and how long it will take, from the progress it reports.

    Attributes:
        now: the clock, seconds.
        stage: the last one reported.
        done, total: its steps.
    """

    now: Callable[[], float] = time.monotonic
    stage: str = ""
    done: int = 0
    total: int = 0
    _work: dict[str, list[float]] = field(default_factory=dict)  # stage -> done and in all, seconds
    _start: float | None = None
    _last: float = 0.0

    def update(self, stage: str, done: int, total: int) -> None:
        """Take notice of a report; to be handed over as `progress`."""
        self.stage, self.done, self.total, self._last = stage, done, total, self.now()
        kind = _SAME_STAGE.get(stage, stage)
        if kind not in _STEP_S or total < 1:
            return
        if self._start is None:
            self._start = self._last
        if kind == "photos" and stage != "frames" or kind == "encode":
            self._expect(total)
        if kind == "pairs":
            self._work["cameras"] = [0.0, _STEP_S["cameras"] * total]
        whole = self._work["cameras"][1] if kind == "cameras" else _STEP_S[kind] * total
        self._work[kind] = [whole * done / total, whole]
        for earlier in list(_STEP_S)[: list(_STEP_S).index(kind)]:
            if earlier in self._work:
                self._work[earlier][0] = self._work[earlier][1]

    @property
    def share(self) -> float:
        """Done of the whole, 0 to 1."""
        whole = sum(total for _, total in self._work.values())
        return sum(done for done, _ in self._work.values()) / whole if whole else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go at the pace up to the last report; None where there is no telling."""
        share = self.share
        if self._start is None or share < 0.02:
            return None
        whole = (self._last - self._start) / share
        left = self._start + whole - self.now()
        return left if left > 0 else None

    def _expect(self, photos: int) -> None:
        """Expect what follows from a number of photos, where it was not reported yet."""
        pairs = max(1, min(photos * (photos - 1) // 2, 10 * photos))
        steps = {"encode": photos, "pairs": pairs, "cameras": pairs, "depth": photos}
        for kind, count in steps.items():
            self._work.setdefault(kind, [0.0, 0.0])[1] = _STEP_S[kind] * count
