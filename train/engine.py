"""The training loop: slices of a run that can be stopped, resumed and decayed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.two_view import TwoViewModel
from .completion import CompletionTask
from .config import Recipe, load_recipe, recipe_to_dict
from .data import SceneFactory
from .ema import ExponentialMovingAverage
from .log import RunLog, format_duration, format_values
from .network import parameter_groups
from .runtime import (
    Clock,
    choose_device,
    choose_dtype,
    keep_freed_memory,
    make_accelerator,
    stop_flag,
    write_atomically,
)
from .schedule import make_schedule
from .sharding import Sharding, load_whole, plain_copy, split_moments, whole, whole_norm
from .tasks import Batch, PairTask, Task
from .throughput import FlopMeter, Window, measure_peak

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"  # full state of the stable run
WEIGHTS = "weights.safetensors"  # averaged weights, for use
_FORMAT = 1


@dataclass(frozen=True)
class TrainResult:
    """How a slice of training ended.

    Attributes:
        step: optimiser steps of the whole run so far.
        seconds: duration of this slice.
        output: the run's folder.
        weights: exported averaged weights.
        values: last averaged training values.
        validation: last validation values; empty if there was none.
    """

    step: int
    seconds: float
    output: Path
    weights: Path
    values: dict[str, float]
    validation: dict[str, float]


def train(
    recipe: Recipe | str | Path,
    minutes: float | None = None,
    resume: bool = True,
    output: str | Path = "runs/train",
    *,
    decay: bool = False,
    device: str = "auto",
    make_scenes: SceneFactory | None = None,
    model: TwoViewModel | None = None,
) -> TrainResult:
    """Train for some minutes, or to the recipe's last step.

    Args:
        recipe: a recipe, its name or its file.
        minutes: wall-clock length of this slice; None = until `recipe.steps`.
        resume: go on from `output/checkpoint.pt` if it exists; the scene stream goes on too.
        output: folder of the run.
        decay: let the learning rate fall in the last part of this slice. The state before
            the fall is kept as the checkpoint, so that a later slice goes on from there; only
            the exported weights are those after the fall.
        device: "auto", "cpu", "cuda", ...
        make_scenes: source of scenes; None = the procedural generator.
        model: network to train; None = the recipe's.

    Raises:
        ValueError: without an end (neither minutes nor steps), or when the checkpoint is for
            another network.
        FloatingPointError: when too many gradients in a row are not finite.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if minutes is None and recipe.steps is None:
        raise ValueError("training needs an end: give minutes, or set steps in the recipe")
    trainer = Trainer(recipe, Path(output), device, make_scenes, model)
    if resume:
        trainer.load()
    elif (Path(output) / CHECKPOINT).exists():
        logger.warning("starting afresh; %s will be overwritten", Path(output) / CHECKPOINT)
    return trainer.run(minutes, decay)


class Trainer:
    """State of a run: task, average, optimiser, and the place in the stream of data."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        device: str = "auto",
        make_scenes: SceneFactory | None = None,
        model: TwoViewModel | None = None,
    ) -> None:
        self.recipe, self.output = recipe, output
        self.accelerator = make_accelerator(device)
        self.rank = 0 if self.accelerator is None else self.accelerator.process_index
        self.world = 1 if self.accelerator is None else self.accelerator.num_processes
        self.device = choose_device(device) if self.accelerator is None else self.accelerator.device
        self.task = self._make_task(make_scenes, model)
        self.model = self.task.model
        self.model.train()
        self.step_module = self.task.module
        self.ema = ExponentialMovingAverage(self.model, recipe.optimizer.ema_decay)
        self.sharding = self._shard()
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.step_module, recipe.optimizer.weight_decay),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            fused=True,
        )
        self.schedule = make_schedule(recipe.optimizer, recipe.steps)
        self.step, self.next_scene, self.seconds = 0, 0, 0.0
        self.skipped_in_a_row = 0
        self.last_validation: dict[str, float] = {}
        if self.accelerator is not None and self.sharding is None:
            self.step_module = self.accelerator.prepare_model(self.step_module)
        if recipe.compile and recipe.task == "pairs":
            self.model.encode = torch.compile(self.model.encode)  # pyright: ignore
        self.dtype = choose_dtype(recipe.optimizer.precision, self.device)
        self.meter = FlopMeter()
        self.peak_flops = measure_peak(self.device, self.dtype)
        if self.device.type == "cpu":
            keep_freed_memory()

    def _make_task(self, make_scenes: SceneFactory | None, model: TwoViewModel | None) -> Task:
        place = self.rank, self.world
        if self.recipe.task == "completion":
            if model is not None:
                raise ValueError("a completion run makes its own network; leave out model")
            return CompletionTask(self.recipe, self.device, make_scenes, *place)
        return PairTask(self.recipe, self.device, make_scenes, model, *place)

    def _shard(self) -> Sharding | None:
        if not self.recipe.shard or self.accelerator is None:
            return None
        if self.recipe.compile:
            raise ValueError("shard and compile do not go together; set one of them to false")
        self.whole_average = plain_copy(self.ema.model) if self.rank == 0 else None
        sharding = Sharding(self.device, self.world)
        sharding.split(self.step_module)
        sharding.split(self.ema.model)
        return sharding

    # -- saving ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on: whole tensors, numbers and text only."""
        state = {
            "format": _FORMAT,
            "recipe": json.dumps(recipe_to_dict(self.recipe)),
            "step": self.step,
            "next_scene": self.next_scene,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "criterion": self.task.criterion.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return state if self.sharding is None else whole(state)

    def save(self) -> None:
        """Write the checkpoint; a crash leaves the old one or the new one, never half of one."""
        state = self.state_dict()
        if self.rank == 0:
            self.output.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output / CHECKPOINT, state)

    def load(self) -> bool:
        """Restore the checkpoint of the run's folder, if there is one."""
        path = self.output / CHECKPOINT
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("format") != _FORMAT:
            raise ValueError(f"{path} was written by another version of weav3r")
        saved = json.loads(state["recipe"])
        for key in ("task", "model", "model_overrides", "adapt"):
            if key in saved and saved[key] != recipe_to_dict(self.recipe)[key]:
                raise ValueError(
                    f"{path} holds a run with {key}={saved.get(key)!r}, the recipe says "
                    f"{getattr(self.recipe, key)!r}; use another output folder or resume=False"
                )
        if saved != recipe_to_dict(self.recipe):
            logger.info("the recipe differs from the one of %s; going on with the new one", path)
        load_whole(self.model, state["model"])
        self.task.criterion.load_state_dict(state["criterion"])
        self.ema.load_state_dict(state["ema"])
        self._load_optimizer(state["optimizer"])
        self.step, self.next_scene = state["step"], state["next_scene"]
        self.seconds = state["seconds"]
        logger.info("resumed %s at step %d", path, self.step)
        return True

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Restore the moments; the hyper-parameters are the recipe's."""
        fresh = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(split_moments(state, self.optimizer))
        for group, values in zip(self.optimizer.param_groups, fresh, strict=True):
            group.update(values)

    def export(self) -> Path:
        """Write the averaged weights."""
        path = self.output / WEIGHTS
        average = self._average()
        if average is not None:
            self.output.mkdir(parents=True, exist_ok=True)
            metadata = {"step": str(self.step), "recipe": self.recipe.name}
            self.task.export(average, path, metadata)
        return path

    def _average(self) -> nn.Module | None:
        """The averaged network in the first process; all must ask for it together."""
        if self.sharding is not None:
            state = whole(self.ema.model.state_dict())
            if self.whole_average is not None:
                self.whole_average.load_state_dict(state)
            return self.whole_average
        return self.ema.model if self.rank == 0 else None

    # -- running --------------------------------------------------------------------------------

    def run(self, minutes: float | None = None, decay: bool = False) -> TrainResult:
        """Train one slice; see `train`."""
        log = RunLog(self.output if self.rank == 0 else None, self.recipe.tensorboard)
        if self.rank == 0:
            (self.output / "recipe.json").write_text(
                json.dumps(recipe_to_dict(self.recipe), indent=1), encoding="utf-8"
            )
        count, trained = (
            sum(p.numel() for p in self.model.parameters() if p.requires_grad or not only) / 1e6
            for only in (False, True)
        )
        part = f" ({trained:.1f} M of them trained)" if trained < 0.99 * count else ""
        logger.info("%.1f M parameters%s on %s, %s", count, part, self.device, self.dtype)
        clock = Clock(minutes, self.recipe.steps, self.seconds)
        try:
            with stop_flag() as stop:
                values = self._loop(clock, decay, log, stop)
            if self.recipe.validation.scenes > 0:
                self._validate(log)
            weights = self.export()
        finally:
            log.close()
        return TrainResult(
            self.step, clock.elapsed, self.output, weights, values, self.last_validation
        )

    def _loop(self, clock: Clock, decay: bool, log: RunLog, stop: list[bool]) -> dict[str, float]:
        recipe, window = self.recipe, Window()
        batches = self.task.batches(self.next_scene)
        last_save = last_check = time.perf_counter()
        decaying, values = False, {}
        if self.step == 0 and recipe.validation.scenes > 0:
            self._validate(log)
            window = Window()
        while True:
            over, part = self._agree(clock.over(self.step) or bool(stop), clock.progress(self.step))
            if over:
                break
            progress = part if decay else None
            if not decaying and self.schedule.in_decay(progress):
                self.save()  # later slices go on from the stable state
                decaying = True
            rate = self.schedule.learning_rate(self.step, progress)
            self.train_step(self._next(batches, window), rate, window, log)
            self.seconds = clock.total
            if self.step % recipe.log_every == 0:
                values = window.summary(self.peak_flops, self.world) | {"learning_rate": rate}
                self._report(log, values, clock)
                window = Window()
            now = time.perf_counter()
            save_due = not decaying and now - last_save > 60 * recipe.checkpoint_minutes
            save_due, check_due = self._agree(save_due, self._validation_due(now - last_check))
            if save_due:
                self.save()
                self.export()
                last_save = now
            if check_due:
                self._validate(log)  # the other processes wait at the next step
                last_check = time.perf_counter()
                window.started += last_check - now
        batches.close()
        if not decaying:
            self.save()
        return window.summary(self.peak_flops, self.world) if window.steps else values

    def _next(self, batches: Iterator[Any], window: Window) -> Iterator[Batch]:
        """Yield the batches of one step, one after the other, and take the time of waiting."""
        for _ in range(self.task.batches_per_step):
            start = time.perf_counter()
            batch = next(batches).to(self.device)
            window.waiting += time.perf_counter() - start
            yield batch

    def _agree(self, due: bool, value: float) -> tuple[bool, float]:
        """Return the first process's view of the clock, so that all do the same together."""
        if self.accelerator is None:
            return due, value
        values = torch.tensor([float(due), value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(values, 0)
        return bool(values[0]), float(values[1])

    def train_step(
        self,
        batches: Iterator[Batch],
        rate: float,
        window: Window | None = None,
        log: RunLog | None = None,
    ) -> dict[str, float]:
        """Do one optimiser step over the next batches of this process.

        The gradient is the mean over all batches of all processes, so that it does not matter how
        many processes share them. A step whose gradient is not finite is left out and reported.

        Returns:
            The values of the loss, averaged over this process's batches; empty for a step that
            was left out.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        count = self.task.batches_per_step
        seen: list[tuple[Batch, dict[str, Tensor]]] = []
        pairs, flops = 0, 0.0
        for index, batch in enumerate(itertools.islice(batches, count)):
            with self._synchronised(index == count - 1), self.meter(batch.size):
                loss, values = self.step_module(batch, self.step, self.dtype)
                loss = loss / count
                loss.backward() if self.accelerator is None else self.accelerator.backward(loss)
            flops += self.meter.flops(batch.num_pairs)
            pairs += batch.num_pairs
            seen.append((batch, values))
        if self.sharding is not None:
            self.sharding.average_numbers(self.step_module)
        config = self.recipe.optimizer
        parameters = [p for p in self.step_module.parameters() if p.grad is not None]
        norm = whole_norm([p.grad for p in parameters if p.grad is not None])
        self.next_scene = seen[-1][0].next_scene
        self.step += 1
        means: dict[str, Tensor] = {}
        if math.isfinite(norm.item()):
            self.skipped_in_a_row = 0
            if config.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
            self.optimizer.step()
            self.ema.update(self.model)
            means = {k: sum(v[k] for _, v in seen) / count for k in seen[0][1]}  # pyright: ignore
            means["gradient_norm"] = norm.detach()
        else:
            self._skip(seen, log)
        if window is not None:
            window.add(means, pairs, flops)
        return {k: float(v) for k, v in means.items()} if window is None else {}

    def _synchronised(self, last: bool) -> Any:
        """Average the gradients of all processes at the last batch of a step only."""
        if self.sharding is not None:
            self.sharding.average_gradients(self.step_module, last)
        if self.accelerator is None or self.sharding is not None or last:
            return nullcontext()
        return self.accelerator.no_sync(self.step_module)

    def _skip(self, seen: Sequence[tuple[Batch, dict[str, Tensor]]], log: RunLog | None) -> None:
        """Leave a step out; say which scenes and which tensors were not finite."""
        wrong = [batch for batch, values in seen if not math.isfinite(float(values["loss"]))]
        wrong = wrong or [batch for batch, _ in seen]
        seeds = [seed for batch in wrong for seed in batch.seeds.tolist()]
        tensors = [name for batch in wrong for name in _bad_inputs(batch)]
        tensors += [
            f"{name} of the loss"
            for _, values in seen
            for name, value in values.items()
            if not math.isfinite(float(value))
        ]
        gradients = [
            name
            for name, p in self.step_module.named_parameters()
            if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        tensors += [f"gradient of {name}" for name in gradients[:1]]
        if len(gradients) > 1:
            tensors[-1] += f" and {len(gradients) - 1} more"
        named = ", ".join(dict.fromkeys(tensors)) or "their sum over the processes"
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped_in_a_row += 1
        logger.warning(
            "step %d left out: not finite: %s; scenes %s of seed %d at %dx%d",
            *(self.step, named, seeds, self.recipe.seed, *wrong[0].size),
        )
        if log is not None:
            log.write("skipped", self.step, {"seeds": seeds, "tensors": tensors})
        if self.skipped_in_a_row >= self.recipe.optimizer.max_skipped:
            raise FloatingPointError(
                f"{self.skipped_in_a_row} gradients in a row were not finite (step {self.step}, "
                f"scenes {seeds}: {named}); lower optimizer.learning_rate or go back to an older "
                "checkpoint"
            )

    def _report(self, log: RunLog, values: dict[str, float], clock: Clock) -> None:
        if self.rank != 0:
            return
        log.write("train", self.step, values)
        left = format_duration(clock.seconds_left(self.step, values["step_s"]))
        logger.info("step %d  %s  left %s", self.step, format_values(values, 3), left)

    def _validation_due(self, seconds: float) -> bool:
        config = self.recipe.validation
        if config.scenes == 0:
            return False
        if config.every_steps is not None:
            return self.step % config.every_steps == 0
        return config.every_minutes is not None and seconds > 60 * config.every_minutes

    def _validate(self, log: RunLog) -> None:
        average = self._average()
        if average is None:
            return
        pictures = self.output / "pictures" / f"step-{self.step:07d}.png"
        values = self.task.validate(average, self.dtype, pictures)
        self.last_validation = values
        log.write("validation", self.step, values)
        logger.info("validation at step %d  %s", self.step, format_values(values, 3))


def _bad_inputs(value: Any, name: str = "") -> list[str]:
    """Names of the floating-point tensors of a batch that are not finite."""
    if isinstance(value, Tensor):
        bad = value.is_floating_point() and not bool(torch.isfinite(value).all())
        return [name] if bad else []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value)]
        return [bad for f in fields for bad in _bad_inputs(getattr(value, f), f)]
    return []
