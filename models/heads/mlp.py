"""The descriptor MLP: encoder and decoder tokens to the descriptors of a patch's pixels."""

from __future__ import annotations

from torch import Tensor

from ...croco_like.blocks import Mlp
from .linear import shuffle_patches


class PixelShuffleMlp(Mlp):
    """Two linear layers from a token to all pixels of its patch.

    Args:
        dim: width of the input, encoder and decoder together.
        hidden_dim: width between the layers.
        channels: output channels per pixel.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, dim: int, hidden_dim: int, channels: int, patch_size: int) -> None:
        super().__init__(dim, hidden_dim, channels * patch_size**2)
        self.patch_size = patch_size

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:  # pyright: ignore
        """Map tokens `(B, h * w, dim)` to `(B, H, W, channels)`."""
        return shuffle_patches(super().forward(x), grid, self.patch_size)
