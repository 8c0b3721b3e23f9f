"""The linear head: one matrix per token, its outputs laid out as the pixels of the patch."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from ...croco_like.linear import Linear


def shuffle_patches(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Spread token channels over the pixels of their patch.

    Args:
        tokens: `(B, h * w, C * p * p)`; channel `k p^2 + r p + c` is output channel k at row r
            and column c of the patch.
        grid: (h, w).
        patch_size: p.

    Returns:
        `(B, h p, w p, C)`.
    """
    p = patch_size
    return rearrange(tokens, "b (h w) (k r c) -> b (h r) (w c) k", h=grid[0], w=grid[1], r=p, c=p)


class PixelShuffleLinear(Linear):
    """Linear layer from a token to all pixels of its patch.

    Args:
        dim: width of the tokens.
        channels: output channels per pixel.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, dim: int, channels: int, patch_size: int) -> None:
        super().__init__(dim, channels * patch_size**2)
        self.patch_size = patch_size

    def forward(self, input: Tensor, grid: tuple[int, int]) -> Tensor:  # pyright: ignore
        """Map tokens `(B, h * w, dim)` to `(B, H, W, channels)`."""
        return shuffle_patches(super().forward(input), grid, self.patch_size)
