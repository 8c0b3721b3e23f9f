"""Batches for cross-view completion: two views of one place, each with its own crop and colours."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..croco_like.croco import IMAGENET_MEAN, IMAGENET_STD
from ..datasets.image_pairs import ImagePairs
from .config import CompletionConfig
from .data import PairStream


@dataclass(frozen=True)
class CompletionBatch:
    """Pairs of one step.

    Attributes:
        images1, images2: normalised with ImageNet's mean and deviation.
        mask_seed: of the patches of view 1 that are hidden.
        seeds: index of each pair's scene, or of the pair in its list.
        next_scene: stream position after the step.
    """

    images1: Float[Tensor, "p 3 h w"]
    images2: Float[Tensor, "p 3 h w"]
    mask_seed: int
    seeds: Int[Tensor, " s"]
    next_scene: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.images1.shape[-2], self.images1.shape[-1]

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""
        return len(self.images1)

    def to(self, device: torch.device | str) -> CompletionBatch:
        """Move every tensor."""
        return dataclasses.replace(
            self,
            images1=self.images1.to(device, non_blocking=True),
            images2=self.images2.to(device, non_blocking=True),
            seeds=self.seeds.to(device),
        )


class SceneCompletionStream:
    """Pairs of procedural scenes, or of any other source of scenes.

    Args:
        stream: of pairs with geometry; what is not needed of it is left out.
        config: crops and colours.
        seed: of crops, colours and masks.
    """

    def __init__(self, stream: PairStream, config: CompletionConfig, seed: int) -> None:
        self.stream, self.config, self.seed = stream, config, seed

    @property
    def batches_per_step(self) -> int:
        """Batches that this process gets per step."""
        return self.stream.batches_per_step

    def iterate(self, next_scene: int) -> Generator[CompletionBatch]:
        """Yield batches from a stream position on."""
        for batch in self.stream.iterate(next_scene):
            rng = np.random.default_rng([self.seed, int(batch.seeds[0]), 2])
            images = (batch.images + 1) / 2
            views = [
                augment_view(images[rows], self.config, rng) for rows in (batch.first, batch.second)
            ]
            yield CompletionBatch(
                views[0], views[1], int(rng.integers(2**31)), batch.seeds, batch.next_scene
            )


class PhotoCompletionStream:
    """Photo pairs in a random order that depends on nothing but seed and position.

    Args:
        pairs: the photos; all of one size.
        batch_size: pairs of a batch.
        config: crops and colours.
        seed: of the order, crops, colours and masks.
        rank, world: this process and the number of processes.
        micro_batches: batches of a step over all processes; None: one for each.
    """

    def __init__(
        self,
        pairs: ImagePairs,
        batch_size: int,
        config: CompletionConfig,
        seed: int,
        rank: int = 0,
        world: int = 1,
        micro_batches: int | None = None,
    ) -> None:
        self.pairs, self.batch_size, self.config, self.seed = pairs, batch_size, config, seed
        self.rank, self.world, self.micro_batches = rank, world, micro_batches or world

    @property
    def batches_per_step(self) -> int:
        """Batches that this process gets per step."""
        return self.micro_batches // self.world

    def iterate(self, next_scene: int) -> Generator[CompletionBatch]:
        """Yield batches from a stream position (a count of pairs) on."""
        per_step = self.batch_size * self.micro_batches
        while True:
            for part in range(self.rank, self.micro_batches, self.world):
                yield self._batch(next_scene + part * self.batch_size, next_scene + per_step)
            next_scene += per_step

    def _batch(self, start: int, end: int) -> CompletionBatch:
        rng = np.random.default_rng([self.seed, start, 3])
        indices = [self._index(position) for position in range(start, start + self.batch_size)]
        sides: tuple[list[Tensor], list[Tensor]] = [], []
        for index in indices:
            for side, photo in zip(sides, self.pairs.load(index), strict=True):
                image = torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255
                side.append(augment_view(image[None], self.config, rng))
        return CompletionBatch(
            torch.cat(sides[0]),
            torch.cat(sides[1]),
            int(rng.integers(2**31)),
            torch.tensor(indices),
            end,
        )

    def _index(self, position: int) -> int:
        """Pair at a position: every epoch has its own order."""
        epoch, place = divmod(position, len(self.pairs))
        return int(np.random.default_rng([self.seed, epoch, 4]).permutation(len(self.pairs))[place])


def augment_view(
    images: Float[Tensor, "p 3 h w"], config: CompletionConfig, rng: np.random.Generator
) -> Float[Tensor, "p 3 c c"]:
    """Crop at random, change brightness, contrast and saturation, normalise.

    Args:
        images: in [0, 1].
        config: `crop` (None: whole images) and `jitter` (0.4: factors in [0.6, 1.4]).
        rng: source of randomness; the two views of a pair get different crops and colours.

    Raises:
        ValueError: if an image is smaller than the crop.

    Reference: CroCo (arXiv 2210.10716), section 4; factors as in MAE's and DUSt3R's colour jitter.
    """
    if config.crop is not None:
        images = _crop(images, config.crop, rng)
    low, high = max(0.0, 1 - config.jitter), 1 + config.jitter
    factors = torch.from_numpy(rng.uniform(low, high, (3, len(images), 1, 1, 1))).float()
    brightness, contrast, saturation = factors.to(images.device)
    images = (images * brightness).clamp(0, 1)
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)[:, None, None]  # BT.601
    level = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    images = (level + (images - level) * contrast).clamp(0, 1)
    grey = (images * weights).sum(1, keepdim=True)
    images = (grey + (images - grey) * saturation).clamp(0, 1)
    mean, deviation = (
        torch.tensor(v, device=images.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / deviation


def _crop(images: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    height, width = images.shape[-2:]
    if height < side or width < side:
        raise ValueError(
            f"images of {height}x{width} are smaller than completion.crop={side}; make data.sizes "
            "larger or the crop smaller"
        )
    tops = rng.integers(0, height - side + 1, len(images))
    lefts = rng.integers(0, width - side + 1, len(images))
    return torch.stack(
        [
            image[:, top : top + side, left : left + side]
            for image, top, left in zip(images, tops, lefts, strict=True)
        ]
    )
