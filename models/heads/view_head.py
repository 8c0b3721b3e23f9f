"""All heads of one view: points with confidence, and descriptors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from ...croco_like.blocks import Mlp
from ..config import ModelConfig
from .dpt import DptHead
from .linear import PixelShuffleLinear
from .local import LocalDecoder
from .mlp import PixelShuffleMlp


@dataclass(frozen=True)
class RawMaps:
    """Head outputs before the activations, float32, channels last.

    Attributes:
        points: `(B, H, W, 3)` or `(B, H, W, 4)` with the confidence logit last.
        descriptors: `(B, H, W, D)` or `(B, H, W, D + 1)` with their confidence logit last, or None.
    """

    points: Tensor
    descriptors: Tensor | None


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off inside a `with` block, on devices that know it."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device_type=device.type, enabled=False)
    return nullcontext()


def layers_read(config: ModelConfig) -> frozenset[int]:
    """Give the layers that the heads of a network read: 0 is the encoder output, the last `depth`.

    The others need not be kept while the decoder runs.
    """
    hooks = config.hooks if config.point_head == "dpt" else ()
    return frozenset((0, config.decoder_depth, *hooks))


class ViewHead(nn.Module):
    """The heads of one view. Parameter names of the standard parts are the published ones.

    Args:
        config: of the network.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        joint_dim = config.encoder_dim + config.decoder_dim
        channels = 3 + (config.confidence is not None)
        if config.point_head == "linear":
            self.proj = PixelShuffleLinear(config.decoder_dim, channels, config.patch_size)
        else:
            widths = [config.decoder_dim if hook else config.encoder_dim for hook in config.hooks]
            self.dpt = DptHead(
                widths,
                config.dpt_layer_dims,
                config.dpt_feature_dim,
                config.dpt_last_dim,
                channels,
                config.hooks,
            )
        if config.descriptor_head == "mlp":
            channels = config.descriptor_dim + config.two_confidences
            self.head_local_features = PixelShuffleMlp(
                joint_dim, 4 * joint_dim, channels, config.patch_size
            )
        elif config.descriptor_head == "local":
            dim = config.local_token_dim
            self.local_tokens = Mlp(joint_dim, 2 * dim, dim)
        self.config = config

    def forward(
        self,
        layers: Mapping[int, Tensor],
        grid: tuple[int, int],
        local: tuple[Tensor, ...],
        local_decoder: LocalDecoder | None,
    ) -> RawMaps:
        """Run the heads on upright images.

        Points, confidence and descriptor MLP are computed in float32 with autocast off; the CNN
        follows autocast, and its result is cast to float32.

        Args:
            layers: those of `layers_read`, each `(B, h * w, C)`.
            grid: (h, w).
            local: CNN pyramid of the images, empty without the local head.
            local_decoder: shared CNN of the local head.

        Returns:
            Raw maps.
        """
        descriptors = None
        if local_decoder is not None:
            joint = torch.cat((layers[0], layers[self.config.decoder_depth]), dim=-1)
            coarse = self.local_tokens(joint)
            coarse = rearrange(coarse, "b (h w) c -> b c h w", h=grid[0])
            descriptors = local_decoder(coarse, local).float()
        with full_precision(layers[0].device):
            layers = {index: layer.float() for index, layer in layers.items()}
            last = layers[self.config.decoder_depth]
            if self.config.point_head == "linear":
                points = self.proj(last, grid)
            else:
                points = self.dpt(layers, grid)
            if self.config.descriptor_head == "mlp":
                joint = torch.cat((layers[0], last), dim=-1)
                descriptors = self.head_local_features(joint, grid)
        return RawMaps(points, descriptors)
