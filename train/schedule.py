"""Learning-rate schedule: warm-up, stable, and a decay when the run asks for one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .config import OptimizerConfig


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up by steps, then constant, then a linear fall over the last part of a run.

    The stable part has no length of its own, so that a run can be continued for as long as one
    likes; each usable checkpoint ends with a short decay branch (Hu et al., MiniCPM, section 4).
    """

    peak: float  # learning rate of the stable part
    warmup_steps: int = 0
    decay_fraction: float = 0.25  # last part of the run, in [0, 1]
    final_factor: float = 0.0  # at the end of the decay, relative to the peak

    def __post_init__(self) -> None:
        if not 0 <= self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction must be in [0, 1], got {self.decay_fraction}")

    def in_decay(self, progress: float | None) -> bool:
        """Say whether this share of the run (None: a run without decay) is in the decay."""
        return progress is not None and progress >= 1 - self.decay_fraction

    def learning_rate(self, step: int, progress: float | None = None) -> float:
        """Return the rate of a step.

        Args:
            step: number of optimiser steps done before this one.
            progress: share of the run that is over, in [0, 1], by steps or by wall clock;
                None for a run that does not decay.
        """
        factor = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps > 0 else 1.0
        if self.in_decay(progress) and self.decay_fraction > 0:
            assert progress is not None
            left = min(1.0, max(0.0, (1 - progress) / self.decay_fraction))
            factor *= self.final_factor + (1 - self.final_factor) * left
        return self.peak * factor


@dataclass(frozen=True)
class WarmupCosine:
    """Half-cycle cosine to the last step of a run whose length is known, see `warmup_cosine`."""

    peak: float
    warmup_steps: int
    steps: int
    final_factor: float = 0.0  # at the end, relative to the peak

    def in_decay(self, progress: float | None) -> bool:
        """False: the whole run is one; there is no branch to keep a state before."""
        return False

    def learning_rate(self, step: int, progress: float | None = None) -> float:
        """Return the rate of a step; `progress` is not read."""
        minimum = self.final_factor * self.peak
        done = min(step, self.steps)
        return warmup_cosine(done, self.peak, self.steps, self.warmup_steps, minimum)


def make_schedule(config: OptimizerConfig, steps: int | None) -> WarmupStableDecay | WarmupCosine:
    """Make the schedule of a recipe.

    Args:
        steps: total number of steps of the run, if it has one.

    Raises:
        ValueError: a cosine needs an end that lies after the warm-up.
    """
    if config.schedule == "stable":
        return WarmupStableDecay(
            *(config.learning_rate, config.warmup_steps, config.decay_fraction),
            config.final_factor,
        )
    if steps is None or steps <= config.warmup_steps:
        raise ValueError(
            "optimizer.schedule=cosine needs steps in the recipe, more than the "
            f"{config.warmup_steps} of the warm-up, got {steps}"
        )
    return WarmupCosine(config.learning_rate, config.warmup_steps, steps, config.final_factor)


def warmup_cosine(
    epoch: float, peak: float, epochs: float, warmup_epochs: float, minimum: float = 0.0
) -> float:
    """Return the rate of the published DUSt3R and MASt3R recipes: half-cycle cosine after warm-up.

    Args:
        epoch: fractional epoch.
    """
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    cycle = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * cycle))
