"""What a run learns: the engine knows batches and losses, a task knows what they mean."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..models.storage import save_checkpoint
from ..models.two_view import TwoViewModel
from .adapters import choose_trained, merged
from .config import Recipe
from .criterion import PairCriterion
from .data import PairBatch, PairStream, ProceduralFactory, SceneFactory
from .dataset_scenes import DatasetFactory
from .network import build_model
from .validation import Validator


class Batch(Protocol):
    """What the engine reads of a batch."""

    @property
    def seeds(self) -> Int[Tensor, " s"]:
        """Indices of the scenes in their stream, for messages."""
        ...

    @property
    def next_scene(self) -> int:
        """Position of the stream after the step that this batch is part of."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        ...

    @property
    def num_pairs(self) -> int:
        """Pairs in the batch."""
        ...

    def to(self, device: torch.device | str) -> Any:
        """Move every tensor."""
        ...


class Task(Protocol):
    """A network, its loss and its data."""

    @property
    def model(self) -> nn.Module:
        """The network; it is averaged, validated and exported."""
        ...

    @property
    def criterion(self) -> nn.Module:
        """The loss; its parameters, if any, are trained and saved, too."""
        ...

    @property
    def module(self) -> nn.Module:
        """Both as one: (batch, step, dtype) -> (loss, values for the log)."""
        ...

    @property
    def batches_per_step(self) -> int:
        """Batches that this process adds up for a step."""
        ...

    def batches(self, next_scene: int) -> Generator[Any]:
        """Yield `Batch`es from a position of the stream on, `batches_per_step` for a step."""
        ...

    def validate(
        self, model: nn.Module, dtype: torch.dtype, pictures: Path | None = None
    ) -> dict[str, float]:
        """Score a network on data that is never trained on; a task may draw what it sees."""
        ...

    def export(self, model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        """Write weights for use."""
        ...


class PairTraining(nn.Module):
    """Network and loss as one module, so that gradients of several processes are averaged."""

    def __init__(
        self, model: TwoViewModel, criterion: PairCriterion, confidence_from_step: int
    ) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion
        self.confidence_from_step = confidence_from_step

    def forward(
        self, batch: PairBatch, step: int, dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode every view once, decode all pairs in both directions, compare."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
            encoded = self.model.encode(images)
            prediction = self.model.decode(
                encoded.select(batch.first), encoded.select(batch.second)
            )
        return self.criterion(prediction, batch.targets, step >= self.confidence_from_step)


class PairTask:
    """Pointmaps, confidences and descriptors of image pairs.

    Args:
        recipe: of the run.
        device: where the network is trained.
        make_scenes: source of scenes; None = those of the recipe.
        model: network to train; None = the recipe's.
        rank, world: this process and the number of processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        make_scenes: SceneFactory | None = None,
        model: TwoViewModel | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.model: TwoViewModel = build_model(recipe) if model is None else model
        choose_trained(self.model, recipe.adapt, recipe.seed)
        self.model.to(device, memory_format=torch.channels_last)  # pyright: ignore
        self.criterion = PairCriterion(recipe.loss).to(device)
        self.module = PairTraining(self.model, self.criterion, recipe.loss.confidence_from_step)
        training = make_scenes or recipe_scenes(recipe, device)
        self.stream = PairStream(recipe.data, recipe.seed, training, rank, world)
        apart = make_scenes is None and recipe.data.datasets
        held_out = recipe_scenes(recipe, device, held_out=True) if apart else training
        self.validator = Validator(recipe, held_out, device)

    @property
    def batches_per_step(self) -> int:
        """Batches that this process adds up for a step."""
        return self.stream.batches_per_step

    def batches(self, next_scene: int) -> Generator[PairBatch]:
        """Yield batches from a position of the stream on."""
        return self.stream.iterate(next_scene)

    def validate(
        self, model: nn.Module, dtype: torch.dtype, pictures: Path | None = None
    ) -> dict[str, float]:
        """Score the pointmaps and matches of fixed scenes, see `Validator`."""
        return self.validator.run(model, dtype)

    def export(self, model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        """Write a checkpoint that `load_model` reads."""
        assert isinstance(model, TwoViewModel)
        save_checkpoint(merged(model), path, metadata=metadata)


def recipe_scenes(recipe: Recipe, device: torch.device, held_out: bool = False) -> SceneFactory:
    """Choose the source of a recipe's scenes: its data sets, else the procedural generator.

    The generator works on the training device unless it renders aside.

    Args:
        recipe: of the run.
        device: where the network is trained.
        held_out: take the scenes that data sets keep for validation.
    """
    data = recipe.data
    inline = data.workers == 0 and data.device == "auto" and not data.datasets
    procedural = ProceduralFactory(
        *(data.textures, data.shadows, data.kernel, str(device) if inline else "cpu"),
        *(data.features, data.panoramas),
    )
    if not data.datasets:
        return procedural
    return DatasetFactory(data.datasets, procedural, data.epoch_scenes, held_out)
