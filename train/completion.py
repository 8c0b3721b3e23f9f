"""Cross-view completion as a task of the engine: pre-training for the two-view network.

Nine tenths of the patches of one view are hidden, and a second view of the place helps to fill
them. The weights start a two-view network: `init: <run>/weights.safetensors` in its recipe.

Reference: CroCo (arXiv 2210.10716) and CroCo v2 (arXiv 2211.10408).
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ..croco_like.croco import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CompletionPrediction,
    CrocoConfig,
    CrocoModel,
    completion_loss,
    patchify,
)
from ..croco_like.masking import random_mask
from ..datasets.image_pairs import read_image_pairs
from .completion_data import CompletionBatch, PhotoCompletionStream, SceneCompletionStream
from .config import Recipe
from .data import PairStream, SceneFactory
from .network import model_config
from .tasks import recipe_scenes

_PICTURES = 6  # pairs drawn at every validation


def completion_config(recipe: Recipe) -> CrocoConfig:
    """Give the completion network whose transformer is that of the recipe's two-view network.

    Raises:
        ValueError: for an unknown model, or a mask that hides nothing or everything.
    """
    shape = model_config(recipe)
    if not 0 < recipe.completion.mask_ratio < 1:
        raise ValueError(
            f"completion.mask_ratio must be between 0 and 1, got {recipe.completion.mask_ratio}"
        )
    return CrocoConfig(
        image_size=recipe.completion.crop or max(recipe.data.sizes[0]),
        patch_size=shape.patch_size,
        mask_ratio=recipe.completion.mask_ratio,
        encoder_dim=shape.encoder_dim,
        encoder_depth=shape.encoder_depth,
        encoder_heads=shape.encoder_heads,
        decoder_dim=shape.decoder_dim,
        decoder_depth=shape.decoder_depth,
        decoder_heads=shape.decoder_heads,
        mlp_ratio=shape.mlp_ratio,
        rope_base=shape.rope_base,
        qk_norm=shape.qk_norm,
    )


class CompletionTraining(nn.Module):
    """Network and loss as one module, see `Task.module`."""

    def __init__(self, model: CrocoModel, normalise_target: bool) -> None:
        super().__init__()
        self.model, self.normalise_target = model, normalise_target

    def forward(
        self, batch: CompletionBatch, step: int, dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Hide, complete, compare the hidden patches."""
        prediction = complete(self.model, batch.images1, batch.images2, batch.mask_seed, dtype)
        loss = self._loss(prediction, batch.images1)
        return loss, {"loss": loss.detach()}

    def _loss(self, prediction: CompletionPrediction, images: Tensor) -> Tensor:
        patch = self.model.config.patch_size
        return completion_loss(prediction, images, patch, self.normalise_target)


def complete(
    model: CrocoModel, images1: Tensor, images2: Tensor, mask_seed: int, dtype: torch.dtype
) -> CompletionPrediction:
    """Hide patches of the first views and complete them; the mask is drawn on the CPU."""
    rows, columns = model.patch_embed.grid(images1)
    generator = torch.Generator().manual_seed(mask_seed)
    mask = random_mask(len(images1), rows * columns, model.config.mask_ratio, generator)
    device = images1.device
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        found = model(images1, images2, mask.to(device))
    return CompletionPrediction(found.patches.float(), found.mask)


class CompletionTask:
    """Hidden patches of image pairs; see `Task`.

    Args:
        recipe: of the run; `completion` says how, `data` from which scenes.
        device: where the network is trained.
        make_scenes: source of scenes; None = those of the recipe.
        rank, world: this process and the number of processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        make_scenes: SceneFactory | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.recipe, self.device = recipe, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = CrocoModel(completion_config(recipe))
        if recipe.init is not None:
            raise ValueError("a completion run starts from nothing: leave out init")
        self.model.to(device)
        self.criterion = nn.Module()  # nothing in this loss is learnt
        self.module = CompletionTraining(self.model, recipe.completion.normalise_target)
        self.make_scenes = make_scenes or recipe_scenes(recipe, device)
        self.stream = self._stream(recipe.seed, rank, world)
        self._fixed: list[CompletionBatch] = []

    def _stream(
        self, seed: int, rank: int = 0, world: int = 1
    ) -> SceneCompletionStream | PhotoCompletionStream:
        config, data = self.recipe.completion, self.recipe.data
        if config.photos is None:
            scenes = PairStream(data, seed, self.make_scenes, rank, world)
            return SceneCompletionStream(scenes, config, seed)
        pairs = read_image_pairs(config.photos)
        count = data.scenes * data.pairs_per_scene
        return PhotoCompletionStream(pairs, count, config, seed, rank, world, data.micro_batches)

    @property
    def batches_per_step(self) -> int:
        """Batches that this process adds up for a step."""
        return self.stream.batches_per_step

    def batches(self, next_scene: int) -> Generator[CompletionBatch]:
        """Yield batches from a position of the stream on."""
        return self.stream.iterate(next_scene)

    @torch.no_grad()
    def validate(
        self, model: nn.Module, dtype: torch.dtype, pictures: Path | None = None
    ) -> dict[str, float]:
        """Return the loss on fixed pairs, with the true partner and with a wrong one.

        A network that reads its second view is better with the true one. A patch of the right mean
        without any structure has a loss of 1 where targets are normalised.

        Args:
            pictures: PNG to draw some completions into.
        """
        assert isinstance(model, CrocoModel)
        module = CompletionTraining(model, self.recipe.completion.normalise_target)
        totals = {"loss": 0.0, "loss_wrong_partner": 0.0}
        batches = self._validation_batches()
        for number, batch in enumerate(batches):
            for name, second in (
                ("loss", batch.images2),
                ("loss_wrong_partner", batch.images2.roll(1, 0)),
            ):
                found = complete(model, batch.images1, second, batch.mask_seed, dtype)
                totals[name] += float(module._loss(found, batch.images1)) / len(batches)
                if number == 0 and name == "loss" and pictures is not None:
                    drawn = draw_completions(batch, found, model.config.patch_size, _PICTURES)
                    pictures.parent.mkdir(parents=True, exist_ok=True)
                    drawn.save(pictures)
        return totals

    def _validation_batches(self) -> list[CompletionBatch]:
        if not self._fixed:
            config = self.recipe.validation
            stream = self._stream(config.seed)
            count = 0
            for batch in stream.iterate(0):
                self._fixed.append(batch.to(self.device))
                count += batch.num_pairs
                if count >= config.scenes and batch.num_pairs > 1:
                    break
        return self._fixed

    def export(self, model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        """Write weights that `init` of a two-view recipe takes."""
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(state, path, metadata={"task": "completion", **metadata})


def draw_completions(
    batch: CompletionBatch, prediction: CompletionPrediction, patch: int, count: int
) -> Image.Image:
    """Draw rows of: what the network saw of view 1, its completion, view 1, view 2.

    Predictions are of normalised patches, so each borrows mean and contrast of the true patch.
    """
    target = patchify(batch.images1[:count], patch)
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    mask = prediction.mask[:count, :, None]
    guess = prediction.patches[:count] * (variance + 1e-6).sqrt() + mean
    grid = batch.size[0] // patch
    columns = [
        torch.where(mask, torch.zeros_like(target), target),
        torch.where(mask, guess, target),
        target,
        patchify(batch.images2[:count], patch),
    ]
    whole = [
        rearrange(c, "b (h w) (r s c) -> b (h r) (w s) c", h=grid, r=patch, c=3) for c in columns
    ]
    sheet = rearrange(torch.stack(whole), "k b h w c -> (b h) (k w) c")
    deviation, centre = sheet.new_tensor(IMAGENET_STD), sheet.new_tensor(IMAGENET_MEAN)
    pixels = ((sheet * deviation + centre).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(np.asarray(pixels.cpu()))
