"""The training loop: slices of a run that can be stopped, resumed and decayed."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.card import PUBLISHED_LICENCE, Provenance
from ..models.config import PRESETS, ModelConfig
from ..models.loading import load_model
from ..models.published import is_torch_file, read_completion_weights
from ..models.storage import save_checkpoint
from ..models.two_view import TwoViewModel
from ..models.weights import initialise_from_croco
from .config import Recipe, load_recipe, recipe_to_dict
from .criterion import PairCriterion
from .data import PairBatch, PairStream, ProceduralFactory, SceneFactory
from .ema import ExponentialMovingAverage
from .log import RunLog, format_duration, format_values
from .schedule import WarmupStableDecay
from .validation import Validator

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


class PairTraining(nn.Module):
    """Network and loss as one module, so that gradients of several processes are averaged."""

    def __init__(self, model: TwoViewModel, criterion: PairCriterion) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(
        self, batch: PairBatch, use_confidence: bool, dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode every view once, decode all pairs in both directions, compare."""
        device = batch.images.device.type
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            encoded = self.model.encode(batch.images)
            prediction = self.model.decode(
                encoded.select(batch.first), encoded.select(batch.second)
            )
        return self.criterion(prediction, batch.targets, use_confidence)


def build_model(recipe: Recipe) -> TwoViewModel:
    """Make the recipe's network, from its initial weights or from the seed.

    Weights of a completion network (CroCo) start the transformer of the recipe's model; those of
    a two-view network bring their own configuration.
    """
    completion = None if recipe.init is None else _completion_weights(recipe.init)
    if recipe.init is not None and completion is None:
        model = load_model(recipe.init, device="cpu")
        known = model.provenance or Provenance()
        model.provenance = known.derived(_base_name(recipe.init))
        return model
    model = _fresh_model(recipe)
    if recipe.init is not None and completion is not None:
        initialise_from_croco(model, completion, origin=recipe.init)
        licence = PUBLISHED_LICENCE if is_torch_file(Path(recipe.init).expanduser()) else ""
        model.provenance = Provenance(licence).derived(_base_name(recipe.init))
    return model


def _base_name(init: str) -> str:
    """Name initial weights without telling others where they lay on this machine."""
    path = Path(init).expanduser()
    return path.name if path.exists() else init


def _completion_weights(init: str) -> dict[str, Tensor] | None:
    path = Path(init).expanduser()
    return read_completion_weights(path) if path.is_file() else None


def _fresh_model(recipe: Recipe) -> TwoViewModel:
    if recipe.model not in PRESETS:
        raise ValueError(f"unknown model {recipe.model!r}; presets: {', '.join(PRESETS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = PRESETS[recipe.model].to_dict() | recipe.model_overrides
        return TwoViewModel(ModelConfig.from_dict(config))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: matrices and kernels decay, vectors and scalars do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


@dataclass
class _Window:
    """Sums since the last log line."""

    values: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    pairs: int = 0
    waiting: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, values: dict[str, Tensor], pairs: int) -> None:
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0) + value.float()
        self.steps += 1
        self.pairs += pairs

    def summary(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self.started, 1e-9)
        means = {k: float(v) / max(self.steps, 1) for k, v in self.values.items()}
        speed = {"pairs_per_s": self.pairs / seconds, "step_s": seconds / max(self.steps, 1)}
        return means | speed | {"data_share": self.waiting / seconds}


class Trainer:
    """State of a run: network, loss, average, optimiser, and the place in the scene stream."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        device: str = "auto",
        make_scenes: SceneFactory | None = None,
        model: TwoViewModel | None = None,
    ) -> None:
        self.recipe, self.output = recipe, output
        self.accelerator = _accelerator()
        self.rank = 0 if self.accelerator is None else self.accelerator.process_index
        self.world = 1 if self.accelerator is None else self.accelerator.num_processes
        self.device = _device(device) if self.accelerator is None else self.accelerator.device
        self.model = build_model(recipe) if model is None else model
        self.model.to(self.device, memory_format=torch.channels_last)  # pyright: ignore
        self.model.train()
        self.criterion = PairCriterion(recipe.loss).to(self.device)
        self.step_module: nn.Module = PairTraining(self.model, self.criterion)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.step_module, recipe.optimizer.weight_decay),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            fused=True,
        )
        self.ema = ExponentialMovingAverage(self.model, recipe.optimizer.ema_decay)
        self.schedule = WarmupStableDecay(
            recipe.optimizer.learning_rate,
            recipe.optimizer.warmup_steps,
            recipe.optimizer.decay_fraction,
            recipe.optimizer.final_factor,
        )
        self.make_scenes = make_scenes or self._procedural()
        seed = recipe.seed
        self.stream = PairStream(recipe.data, seed, self.make_scenes, self.rank, self.world)
        self.validator = Validator(recipe, self.make_scenes, self.device)
        self.step, self.next_scene, self.seconds = 0, 0, 0.0
        self.skipped_in_a_row = 0
        self.last_validation: dict[str, float] = {}
        if self.accelerator is not None:
            self.step_module = self.accelerator.prepare_model(self.step_module)
        if recipe.compile:
            self.model.encode = torch.compile(self.model.encode)  # pyright: ignore
        self.dtype = _dtype(recipe.optimizer.precision, self.device)
        if self.device.type == "cpu":
            _keep_freed_memory()

    def _procedural(self) -> SceneFactory:
        data = self.recipe.data
        inline = data.workers == 0 and data.device == "auto"
        device = str(self.device) if inline else "cpu"
        return ProceduralFactory(data.textures, data.shadows, data.kernel, device)

    # -- saving ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on: tensors, numbers and text only."""
        return {
            "format": _FORMAT,
            "recipe": json.dumps(recipe_to_dict(self.recipe)),
            "step": self.step,
            "next_scene": self.next_scene,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "criterion": self.criterion.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def save(self) -> None:
        """Write the checkpoint; a crash leaves the old one or the new one, never half of one."""
        if self.rank == 0:
            self.output.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output / CHECKPOINT, self.state_dict())

    def load(self) -> bool:
        """Restore the checkpoint of the run's folder, if there is one."""
        path = self.output / CHECKPOINT
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("format") != _FORMAT:
            raise ValueError(f"{path} was written by another version of weav3r")
        saved = json.loads(state["recipe"])
        for key in ("model", "model_overrides"):
            if saved[key] != recipe_to_dict(self.recipe)[key]:
                raise ValueError(
                    f"{path} holds a run with {key}={saved[key]!r}, the recipe says "
                    f"{getattr(self.recipe, key)!r}; use another output folder or resume=False"
                )
        if saved != recipe_to_dict(self.recipe):
            logger.info("the recipe differs from the one of %s; going on with the new one", path)
        self.model.load_state_dict(state["model"])
        self.criterion.load_state_dict(state["criterion"])
        self.ema.load_state_dict(state["ema"])
        self._load_optimizer(state["optimizer"])
        self.step, self.next_scene = state["step"], state["next_scene"]
        self.seconds = state["seconds"]
        logger.info("resumed %s at step %d", path, self.step)
        return True

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Restore the moments; the hyper-parameters are the recipe's."""
        fresh = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for group, values in zip(self.optimizer.param_groups, fresh, strict=True):
            group.update(values)

    def export(self) -> Path:
        """Write the averaged weights."""
        path = self.output / WEIGHTS
        if self.rank == 0:
            self.output.mkdir(parents=True, exist_ok=True)
            metadata = {"step": str(self.step), "recipe": self.recipe.name}
            save_checkpoint(self.ema.model, path, metadata=metadata)
        return path

    # -- running --------------------------------------------------------------------------------

    def run(self, minutes: float | None = None, decay: bool = False) -> TrainResult:
        """Train one slice; see `train`."""
        log = RunLog(self.output if self.rank == 0 else None, self.recipe.tensorboard)
        if self.rank == 0:
            (self.output / "recipe.json").write_text(
                json.dumps(recipe_to_dict(self.recipe), indent=1), encoding="utf-8"
            )
        count = sum(p.numel() for p in self.model.parameters())
        logger.info("%.1f M parameters on %s, %s", count / 1e6, self.device, self.dtype)
        clock = _Clock(minutes, self.recipe.steps, self.step, self.seconds)
        try:
            with _stop_flag() as stop:
                values = self._loop(clock, decay, log, stop)
            if self.recipe.validation.scenes > 0:
                self._validate(log)
            weights = self.export()
        finally:
            log.close()
        return TrainResult(
            self.step, clock.elapsed, self.output, weights, values, self.last_validation
        )

    def _loop(self, clock: _Clock, decay: bool, log: RunLog, stop: list[bool]) -> dict[str, float]:
        recipe, window = self.recipe, _Window()
        batches = self.stream.iterate(self.next_scene)
        last_save = last_check = time.perf_counter()
        decaying, values = False, {}
        if self.step == 0 and recipe.validation.scenes > 0:
            self._validate(log)
            window = _Window()
        while True:
            over, part = self._agree(clock.over(self.step) or bool(stop), clock.progress(self.step))
            if over:
                break
            progress = part if decay else None
            if not decaying and self.schedule.in_decay(progress):
                self.save()  # later slices go on from the stable state
                decaying = True
            rate = self.schedule.learning_rate(self.step, progress)
            waited = time.perf_counter()
            batch = next(batches).to(self.device)
            window.waiting += time.perf_counter() - waited
            window.add(self.train_step(batch, rate, log), batch.num_pairs * self.world)
            self.seconds = clock.total
            if self.step % recipe.log_every == 0:
                values = window.summary() | {"learning_rate": rate}
                self._report(log, values, clock)
                window = _Window()
            now = time.perf_counter()
            if not decaying and now - last_save > 60 * recipe.checkpoint_minutes:
                self.save()
                self.export()
                last_save = now
            if self._validation_due(now - last_check):
                self._validate(log)  # the other processes wait at the next step
                last_check = time.perf_counter()
                window.started += last_check - now
        batches.close()
        if not decaying:
            self.save()
        return values if not window.steps else window.summary()

    def _agree(self, over: bool, progress: float) -> tuple[bool, float]:
        """Return the first process's view of the clock, so that all stop and decay together."""
        if self.accelerator is None:
            return over, progress
        values = torch.tensor([float(over), progress], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(values, 0)
        return bool(values[0]), float(values[1])

    def train_step(self, batch: PairBatch, rate: float, log: RunLog | None = None) -> dict:
        """Do one optimiser step; a gradient that is not finite is skipped and reported."""
        config = self.recipe.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        use_confidence = self.step >= self.recipe.loss.confidence_from_step
        images = batch.images.contiguous(memory_format=torch.channels_last)
        batch = dataclasses.replace(batch, images=images)
        loss, values = self.step_module(batch, use_confidence, self.dtype)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward() if self.accelerator is None else self.accelerator.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.step_module.parameters(), config.clip_norm)
        self.next_scene = batch.next_scene
        self.step += 1
        if not math.isfinite(norm.item()):
            self._skip(batch, values, log)
            return {}
        self.skipped_in_a_row = 0
        self.optimizer.step()
        self.ema.update(self.model)
        return values | {"gradient_norm": norm.detach()}

    def _skip(self, batch: PairBatch, values: dict[str, Tensor], log: RunLog | None) -> None:
        seeds = batch.seeds.tolist()
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped_in_a_row += 1
        logger.warning(
            "step %d skipped: gradient not finite, loss %s, scenes %s of seed %d at %dx%d",
            *(self.step, float(values["loss"]), seeds, self.recipe.seed, *batch.size),
        )
        if log is not None:
            log.write("skipped", self.step, {"seeds": seeds, "loss": float(values["loss"])})
        if self.skipped_in_a_row >= self.recipe.optimizer.max_skipped:
            raise FloatingPointError(
                f"{self.skipped_in_a_row} gradients in a row were not finite (step {self.step}, "
                f"scenes {seeds}); lower optimizer.learning_rate or go back to an older checkpoint"
            )

    def _report(self, log: RunLog, values: dict[str, float], clock: _Clock) -> None:
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
        if self.rank != 0:
            return
        values = self.validator.run(self.ema.model, self.dtype)
        self.last_validation = values
        log.write("validation", self.step, values)
        logger.info("validation at step %d  %s", self.step, format_values(values, 3))


class _Clock:
    """Wall clock and step count of a slice."""

    def __init__(
        self, minutes: float | None, steps: int | None, first_step: int, before: float
    ) -> None:
        self.limit = math.inf if minutes is None else 60 * minutes
        self.steps, self.first_step, self.before = steps, first_step, before
        self.started = time.perf_counter()

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    @property
    def total(self) -> float:
        return self.before + self.elapsed

    def over(self, step: int) -> bool:
        return self.elapsed >= self.limit or (self.steps is not None and step >= self.steps)

    def progress(self, step: int) -> float:
        by_time = self.elapsed / self.limit
        return by_time if self.steps is None else max(by_time, step / self.steps)

    def seconds_left(self, step: int, step_seconds: float) -> float:
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
def _stop_flag() -> Iterator[list[bool]]:
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


def _accelerator() -> Any:
    """Return an `Accelerator` when several processes were launched, else None."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return None
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError("several processes need accelerate: pip install 'weav3r[train]'") from (
            error
        )
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(kwargs_handlers=[unused])


def _keep_freed_memory() -> None:
    """Ask glibc to reuse large freed blocks instead of returning them to the system.

    Every step allocates the same large tensors; fresh pages for each cost up to a tenth of the
    time of a step on a CPU core. Other C libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
