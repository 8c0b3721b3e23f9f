"""Which weights a run changes: all, those after the encoder, the heads, or low-rank corrections."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..models.two_view import TwoViewModel
from .config import AdaptConfig

_ENCODER = ("patch_embed", "enc_blocks", "enc_norm", "coordinate_embed")
_HEADS = ("downstream_head", "local_")


class LowRank(nn.Module):
    """Adds `scale * up @ down` to a weight matrix; it starts as zero.

    Args:
        weight: the matrix, (out, in).
        rank: of the correction.
        alpha: `scale` is alpha / rank.

    Reference: Hu et al., LoRA (arXiv 2106.09685), section 4.1.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        rows, columns = weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the corrected matrix."""
        return weight + self.scale * (self.up @ self.down)


def choose_trained(model: TwoViewModel, config: AdaptConfig, seed: int = 0) -> None:
    """Make only the chosen weights trainable, in place.

    "all" leaves the network as it is. "after_encoder" holds the encoder, "heads" the transformer,
    too. "lora" holds everything but the heads and adds low-rank corrections to the matrices of the
    attention layers and MLPs; `merged` folds them in.

    Args:
        model: network of the run.
        config: what to train.
        seed: of the corrections.

    Raises:
        ValueError: for a rank below 1.
    """
    if config.train == "all":
        return
    for name, parameter in model.named_parameters():
        held = not name.startswith(_HEADS)
        if config.train == "after_encoder":
            held = name.startswith(_ENCODER)
        if held:
            parameter.requires_grad_(False)
    if config.train == "lora":
        _add_corrections(model, config, seed)


def merged(model: TwoViewModel) -> TwoViewModel:
    """Return the network with corrections folded into the weights: the plain one again."""
    if not any(parametrize.is_parametrized(m) for m in model.modules()):
        return model
    folded = copy.deepcopy(model)
    for module in list(folded.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return folded


def _add_corrections(model: TwoViewModel, config: AdaptConfig, seed: int) -> None:
    if config.lora_rank < 1:
        raise ValueError(f"adapt.lora_rank must be at least 1, got {config.lora_rank}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for blocks in (model.enc_blocks, model.dec_blocks, model.dec_blocks2):
            for module in blocks.modules():
                if isinstance(module, nn.Linear):
                    correction = LowRank(module.weight, config.lora_rank, config.lora_alpha)
                    parametrize.register_parametrization(module, "weight", correction, unsafe=True)
