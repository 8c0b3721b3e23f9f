"""What a run needs from the machine: clock, signals, processes, memory, files that are whole."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)


class Clock:
    """Wall clock and step count of a slice.

    Args:
        minutes: length of the slice; None = no limit.
        steps: total number of steps of the run; None = no limit.
        before: seconds that earlier slices took.
    """

    def __init__(self, minutes: float | None, steps: int | None, before: float) -> None:
        self.limit = math.inf if minutes is None else 60 * minutes
        self.steps, self.before = steps, before
        self.started = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds of this slice."""
        return time.perf_counter() - self.started

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return self.before + self.elapsed

    def over(self, step: int) -> bool:
        """Say whether the slice ends before this step."""
        return self.elapsed >= self.limit or (self.steps is not None and step >= self.steps)

    def progress(self, step: int) -> float:
        """Share of the slice that is over, in [0, 1]."""
        by_time = self.elapsed / self.limit
        return by_time if self.steps is None else max(by_time, step / self.steps)

    def seconds_left(self, step: int, step_seconds: float) -> float:
        """Expected rest of the slice."""
        by_steps = math.inf if self.steps is None else (self.steps - step) * step_seconds
        return max(0.0, min(self.limit - self.elapsed, by_steps))


def write_atomically(path: Path, state: dict[str, Any]) -> None:
    """Save tensors beside `path`, flush to disk, then move into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def stop_flag() -> Iterator[list[bool]]:
    """Yield a list that gets an entry on the first SIGINT or SIGTERM; a second one interrupts."""
    flag: list[bool] = []

    def ask(number: int, _: object) -> None:
        if flag:
            raise KeyboardInterrupt
        logger.warning("stopping after this step (signal %d)", number)
        flag.append(True)

    old: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # only the main thread may set handlers
                old[number] = signal.signal(number, ask)
        yield flag
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def make_accelerator(device: str) -> Any:
    """Return an `Accelerator` when several processes were launched, else None.

    Args:
        device: "cpu" keeps the processes on CPUs (gloo) where GPUs are present, too.

    Raises:
        ImportError: if accelerate is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return None
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError("several processes need accelerate: pip install 'weav3r[train]'") from (
            error
        )
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[unused])


def keep_freed_memory() -> None:
    """Ask glibc to reuse large freed blocks instead of returning them to the system.

    Every step allocates the same large tensors; fresh pages for each cost up to a tenth of the
    time of a step on a CPU core. Other C libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def choose_device(name: str) -> torch.device:
    """Turn "auto" into a GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Turn a recipe's precision into the type of the matrix products."""
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
