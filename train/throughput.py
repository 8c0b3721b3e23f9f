"""Averages between two log lines, and how much of the machine a run uses."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Window:
    """Sums since the last log line."""

    values: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    pairs: int = 0
    waiting: float = 0.0
    flops: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, values: dict[str, Tensor], pairs: int, flops: float) -> None:
        """Add one step of this process."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0) + value.float()
        self.steps += 1
        self.pairs += pairs
        self.flops += flops

    def summary(self, peak_flops: float, world: int = 1) -> dict[str, float]:
        """Average the values over steps and processes; add speed.

        Args:
            peak_flops: floating-point operations per second that count as full use of the device.
            world: number of processes; all of them must call this.

        Returns:
            The averages; `pairs_per_s` of all processes, `step_s`; `mfu` (model FLOPs
            utilisation), the share of `peak_flops` that the network's products took;
            `data_share`, the share of the time spent waiting for data.
        """
        seconds = max(time.perf_counter() - self.started, 1e-9)
        steps = max(self.steps, 1)
        names = sorted(self.values)
        means = torch.stack([self.values[n] for n in names]) / steps if names else torch.zeros(0)
        if world > 1 and names:
            torch.distributed.all_reduce(means)
            means = means / world
        return dict(zip(names, means.tolist(), strict=True)) | {
            "pairs_per_s": self.pairs * world / seconds,
            "step_s": seconds / steps,
            "mfu": self.flops / seconds / peak_flops,
            "data_share": self.waiting / seconds,
        }


class FlopMeter:
    """Counts the products of the first step of every image size and extrapolates by pairs.

    Counting costs time, and batches of one size differ in their number of pairs only.
    """

    def __init__(self) -> None:
        self._per_pair: dict[tuple[int, int], float] = {}
        self._counter: FlopCounterMode | None = None

    def __call__(self, size: tuple[int, int]) -> FlopMeter:
        """Watch a batch of this size (as a context manager)."""
        self._size = size
        return self

    def __enter__(self) -> None:
        if self._size not in self._per_pair:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._done, self._counter = self._counter, None
        if self._done is not None:
            self._done.__exit__(*error)

    def flops(self, pairs: int) -> float:
        """Operations of the batch just watched, forward and backward."""
        if self._done is not None:
            self._per_pair[self._size] = self._done.get_total_flops() / max(pairs, 1)
            self._done = None
        return self._per_pair[self._size] * pairs


def measure_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Measure the operations per second of a large matrix product on this device.

    It is what the network could reach at best with the threads and the precision at hand, so it
    needs no table of devices; on a busy machine it is what is left of it.
    """
    side = 1024 if device.type == "cpu" else 8192
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    end = time.perf_counter() + seconds
    for attempt in range(1000):
        start = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for the device
        if attempt:
            best = min(best, time.perf_counter() - start)
        if attempt and time.perf_counter() > end:
            break
    return 2.0 * side**3 / best
