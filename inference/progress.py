"""Progress of long work: a bar in the terminal, a callback, or silence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
