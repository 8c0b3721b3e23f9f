"""Cutting images into patch tokens, including batches that mix landscape and portrait images."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from .linear import linear
from .rope import grid_positions


def transposed_rows(true_shape: Tensor | None, height: int, width: int) -> Tensor | None:
    """Find the images of a batch that are stored with rows and columns exchanged.

    Args:
        true_shape: `(B, 2)` int (height, width) of the upright images, or None when all are
            stored upright.
        height: of the stored images, in pixels.
        width: of the stored images, in pixels.

    Returns:
        `(B,)` bool, True where the stored image is the transpose of the upright one, or None when
        no image is.

    Raises:
        ValueError: if a row is neither the stored size nor the stored size exchanged.
    """
    if true_shape is None:
        return None
    upright = (true_shape == true_shape.new_tensor([height, width])).all(dim=-1)
    exchanged = (true_shape == true_shape.new_tensor([width, height])).all(dim=-1)
    if not bool((upright | exchanged).all()):
        raise ValueError(
            f"true_shape must be {height}x{width} or {width}x{height} for images stored as "
            f"{height}x{width}, got {true_shape.tolist()}"
        )
    transposed = ~upright
    return transposed if bool(transposed.any()) else None


class PatchEmbed(nn.Module):
    """Linear embedding of non-overlapping square patches.

    Args:
        dim: width of the tokens.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, dim: int, patch_size: int = 16) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Size of the patch grid of `images` `(B, 3, H, W)` as stored.

        Raises:
            ValueError: if a side is not a multiple of the patch size.
        """
        height, width = images.shape[-2:]
        p = self.patch_size
        if height % p or width % p or not height or not width:
            raise ValueError(
                f"height and width must be multiples of patch_size={p}, got {height}x{width}; "
                "resize or crop the images first"
            )
        return height // p, width // p

    def forward(self, images: Tensor, transposed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embed a batch.

        Args:
            images: `(B, 3, H, W)`.
            transposed: `(B,)` bool from `transposed_rows`; those rows are turned upright first.

        Returns:
            Tokens `(B, N, dim)` in raster order of the upright image and their (row, column)
            positions `(B, N, 2)` int64 on the upright grid.
        """
        rows, columns = self.grid(images)
        p = self.patch_size
        patches = rearrange(images, "b c (h r) (w s) -> b (h w) (c r s)", r=p, s=p)
        positions = grid_positions(rows, columns, images.device).expand(len(images), -1, -1)
        if transposed is not None:
            upright = rearrange(images, "b c (w s) (h r) -> b (h w) (c r s)", r=p, s=p)
            patches = torch.where(transposed[:, None, None], upright, patches)
            turned = grid_positions(columns, rows, images.device)
            positions = torch.where(transposed[:, None, None], turned, positions)
        weight = self.proj.weight.flatten(1)  # a convolution with stride = kernel is a Linear
        return linear(patches, weight, self.proj.bias), positions

    def init_(self) -> None:
        """Initialise the kernel Xavier-uniform as a matrix, in place; the bias is left alone."""
        nn.init.xavier_uniform_(self.proj.weight.view(self.proj.weight.shape[0], -1))
