"""The local descriptor head: token features refined by a small CNN on the image itself.

Patch tokens alone place a match no better than a few pixels and learn to match slowly; maps at
full, half, quarter and eighth resolution bring the detail back. The pyramid depends on one image
only and is computed when the image is encoded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...croco_like.linear import Linear


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1)


class LocalPyramid(nn.Module):
    """Feature maps of an image at strides 1, 2, 4 and 8.

    Args:
        dims: channels of the four maps.
    """

    def __init__(self, dims: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stem = _conv(3, dims[0])
        self.down = nn.ModuleList(
            _conv(fine, coarse, stride=2) for fine, coarse in zip(dims, dims[1:], strict=False)
        )
        self.refine = nn.ModuleList(_conv(dim, dim) for dim in dims[1:])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map `(B, 3, H, W)` to four maps `(B, C, H/s, W/s)`, s = 1, 2, 4, 8."""
        x = F.gelu(self.stem(images.contiguous(memory_format=torch.channels_last)))
        levels = [x]
        for down, refine in zip(self.down, self.refine, strict=True):
            x = F.gelu(refine(F.gelu(down(x))))
            levels.append(x)
        return tuple(levels)


class LocalDecoder(nn.Module):
    """Merge token features into the pyramid, coarse to fine. Shared by both views.

    Each step narrows the coarse map to the channels of the finer level with one matrix,
    doubles its size and adds (at stride 4: concatenates) that level, then convolves.

    Args:
        dims: channels of the pyramid, fine to coarse.
        channels: output channels per pixel.
    """

    def __init__(self, dims: tuple[int, int, int, int], channels: int) -> None:
        super().__init__()
        full, half, quarter, eighth = dims
        self.fuse8 = _conv(eighth, eighth)
        self.fuse4 = _conv(eighth + quarter, quarter)
        self.narrow2 = Linear(quarter, half)
        self.fuse2 = _conv(half, half)
        self.narrow1 = Linear(half, full)
        self.fuse1 = _conv(full, 32)
        self.out = Linear(32, channels)

    def forward(self, coarse: Tensor, local: tuple[Tensor, ...]) -> Tensor:
        """Refine token features to pixels.

        Args:
            coarse: `(B, dims[3], H/16, W/16)`.
            local: the pyramid.

        Returns:
            `(B, H, W, channels)`.
        """
        full, half, quarter, eighth = local
        x = F.gelu(self.fuse8(_resize_to(coarse, eighth) + eighth))
        x = F.gelu(self.fuse4(torch.cat((_resize_to(x, quarter), quarter), dim=1)))
        x = F.gelu(self.fuse2(_resize_to(_pointwise(self.narrow2, x), half) + half))
        x = F.gelu(self.fuse1(_resize_to(_pointwise(self.narrow1, x), full) + full))
        return self.out(x.permute(0, 2, 3, 1))


def _pointwise(linear: Linear, x: Tensor) -> Tensor:
    """A 1x1 convolution; as a Linear it is three times faster on the CPU in channels-last."""
    return linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _resize_to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def init_local_(module: nn.Module) -> None:
    """Initialise all layers Xavier-uniform with zero bias, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
