"""The descriptor MLP: encoder and decoder tokens to the descriptors of a patch's pixels."""

from __future__ import annotations

from torch import Tensor

from ...croco_like.blocks import Mlp
from ...croco_like.linear import runs_eagerly
from .linear import shuffle_patches

_STRIP_TOKENS = 256


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
        """Map tokens `(B, h * w, dim)` to `(B, H, W, channels)`.

        Without gradients to record it goes by strips of patches: the hidden layer is wider than
        the result.
        """
        height, width = grid
        rows = max(1, _STRIP_TOKENS // width)
        if not runs_eagerly() or rows >= height:
            return shuffle_patches(super().forward(x), grid, self.patch_size)
        p = self.patch_size
        result = x.new_empty(len(x), height * p, width * p, self.fc2.out_features // p**2)
        for top in range(0, height, rows):
            stop = min(top + rows, height)
            strip = super().forward(x[:, top * width : stop * width])
            result[:, top * p : stop * p] = shuffle_patches(strip, (stop - top, width), p)
        return result
