"""Runs that take turns, report, and can be ended."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weav3r.demo.job import JobResult
from weav3r.demo.runs import Line, Run, Work
from weav3r.inference.observer import EarlyDepth

RESULT = JobResult(Path("scene.npz"), 2, 2)


def quick(progress: Callable[..., None], observer: Callable[..., None]) -> JobResult:
    progress("encode", 1, 2)
    flat = np.ones((2, 3), np.float32)
    observer(EarlyDepth(0, "a.jpg", np.zeros((2, 3, 3), np.uint8), flat, flat, False))
    progress("encode", 2, 2)
    return RESULT


def started(work: Work, line: Line | None = None, seconds: float = 60) -> tuple[Run, list[bool]]:
    ends: list[bool] = []
    run = Run(work, line or Line(), ends.append, seconds)
    run.start()
    return run, ends


def test_a_run_ends_with_its_result() -> None:
    run, ends = started(quick)
    run.join(10)
    status = run.status
    assert (status.state, status.share, status.result) == ("done", 1.0, RESULT)
    assert [depth.name for depth in run.new_depths()] == ["a.jpg"] and run.new_depths() == []
    assert ends == [True]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no photo"), "no photo"),
        (FileNotFoundError("/secret"), "the photos are gone; please add them again"),
        (RuntimeError("/secret"), "something went wrong; the server's log says what"),
    ],
)
def test_failures_are_messages(error: Exception, message: str) -> None:
    def fail(progress: object, observer: object) -> JobResult:
        raise error

    run, ends = started(fail)
    run.join(10)
    assert (run.status.state, run.status.message, ends) == ("failed", message, [False])


def test_runs_take_turns_and_a_cancelled_one_lets_the_next_begin() -> None:
    line, began, steps = Line(longest=2), threading.Event(), []

    def endless(progress: Callable[..., None], observer: object) -> JobResult:
        while True:
            steps.append(1)
            progress("depth", 1, 4)
            began.set()
            time.sleep(0.01)

    first, first_ends = started(endless, line)
    assert began.wait(10)
    second, _ = started(quick, line)
    assert first.status.stage == "Measuring depth, 1 of 4" and first.status.state == "running"
    assert (second.status.state, second.status.ahead) == ("waiting", 1)
    with pytest.raises(ValueError, match="2 others are waiting already"):
        started(quick, line)
    first.cancel()
    assert first.status.state == "cancelled"
    first.join(10)
    taken = len(steps)
    second.join(10)
    assert second.status.state == "done" and first_ends == [False] and len(steps) == taken


def test_one_that_waits_can_be_cancelled_too() -> None:
    line = Line()
    line.enter("another")
    run, ends = started(quick, line)
    run.cancel()
    run.join(10)
    assert run.status.state == "cancelled" and ends == [False] and line.ahead("another") == 0


def test_time_is_limited() -> None:
    def slow(progress: Callable[..., None], observer: object) -> JobResult:
        time.sleep(0.05)
        progress("depth", 1, 2)
        return RESULT

    run, _ = started(slow, seconds=0.01)
    run.join(10)
    assert run.status.state == "failed" and "took more than 0 minutes" in run.status.message
