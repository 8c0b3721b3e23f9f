"""The DPT head: four layers reassembled at four scales and fused coarse to fine.

Reference: Ranftl et al., Vision Transformers for Dense Prediction (arXiv 2103.13413).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...croco_like.linear import linear, runs_eagerly

_STRIP_VALUES = 2**19  # of a doubled map at a time: 2 MB, which stay in a cache of the processor


class ResidualUnit(nn.Module):
    """`z + conv2(relu(conv1(relu(z))))` with 3x3 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(B, dim, H, W)` to the same shape."""
        return _add(self.conv2(_relu(self.conv1(F.relu(z)))), z)


class FusionBlock(nn.Module):
    """Refine a skip connection, add the coarser result at twice its size, refine the sum.

    The 1x1 convolution of the published networks follows a doubling. It commutes with bilinear
    interpolation, and before it costs a quarter.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualUnit(dim)
        self.resConfUnit2 = ResidualUnit(dim)
        self.out_conv = nn.Conv2d(dim, dim, 1)

    def forward(self, skip: Tensor, coarse: Tensor | None) -> Tensor:
        """Map `(B, dim, H, W)` and the coarser `(B, dim, H / 2, W / 2)` to `(B, dim, H, W)`.

        For odd sizes `coarse` is rounded up; without it the skip connection is refined once.
        """
        if coarse is None:
            return _pointwise(self.out_conv, self.resConfUnit2(skip))
        x = self.resConfUnit1(skip)
        del skip
        x = _add(x, _double(coarse)[..., : x.shape[-2], : x.shape[-1]])
        return _pointwise(self.out_conv, self.resConfUnit2(x))


class DptHead(nn.Module):
    """Dense prediction from four layers of a decoder. Parameter names are the published ones.

    Args:
        input_dims: widths of the four hooked layers, shallow to deep.
        layer_dims: channels of the four reassembled maps.
        feature_dim: channels of the fusion blocks.
        last_dim: channels before the output layer.
        channels: output channels per pixel.
        hooks: indices of the four layers in the list that `forward` gets.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        layer_dims: Sequence[int],
        feature_dim: int,
        last_dim: int,
        channels: int,
        hooks: Sequence[int],
    ) -> None:
        super().__init__()
        self.hooks = tuple(hooks)
        first, second, third, fourth = layer_dims
        resize = (
            nn.ConvTranspose2d(first, first, 4, stride=4),
            nn.ConvTranspose2d(second, second, 2, stride=2),
            None,
            nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
        )
        self.act_postprocess = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim_in, dim_out, 1), *([] if layer is None else [layer]))
            for dim_in, dim_out, layer in zip(input_dims, layer_dims, resize, strict=True)
        )
        self.scratch = nn.Module()
        for index, dim in enumerate((first, second, third, fourth), start=1):
            layer = nn.Conv2d(dim, feature_dim, 3, padding=1, bias=False)
            self.scratch.add_module(f"layer{index}_rn", layer)
            self.scratch.add_module(f"refinenet{index}", FusionBlock(feature_dim))
        # The coarsest block has no skip: this unit is in every published file and in no pass.
        self.scratch.get_submodule("refinenet4.resConfUnit1").requires_grad_(False)
        self.head = nn.Sequential(
            nn.Conv2d(feature_dim, feature_dim // 2, 3, padding=1),
            nn.Identity(),  # keeps the published numbering; the upsampling happens in `forward`
            nn.Conv2d(feature_dim // 2, last_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last_dim, channels, 1),
        )

    def forward(self, layers: Mapping[int, Tensor], grid: tuple[int, int]) -> Tensor:
        """Predict dense maps.

        Args:
            layers: at least the hooked ones, each `(B, h * w, C)`; 0 is the encoder output.
            grid: (h, w).

        Returns:
            `(B, 16 h, 16 w, channels)`.
        """
        x = None
        for index in (3, 2, 1, 0):
            fuse = self.scratch.get_submodule(f"refinenet{index + 1}")
            x = fuse(self._skip(index, layers, grid), x)  # last one: (B, F, 4h, 4w)
        assert x is not None
        x = _double_then(self._to_half_size, x)  # (B, F / 2, 8h, 8w)
        return _double_then(self._to_full_size, x).permute(0, 2, 3, 1)

    def _skip(self, index: int, layers: Mapping[int, Tensor], grid: tuple[int, int]) -> Tensor:
        x = rearrange(layers[self.hooks[index]], "b (h w) c -> b c h w", h=grid[0])
        project, *resize = self.act_postprocess.get_submodule(str(index)).children()
        x = _pointwise(project, x)
        for layer in resize:
            x = layer(x)
        return self.scratch.get_submodule(f"layer{index + 1}_rn")(x)

    def _to_half_size(self, x: Tensor, padding: int) -> Tensor:
        return _convolve(self.head[0], x, padding)

    def _to_full_size(self, x: Tensor, padding: int) -> Tensor:
        return _pointwise(self.head[4], _relu(_convolve(self.head[2], x, padding)))


def _relu(x: Tensor) -> Tensor:
    """Apply the ReLU to a map that nothing else reads, in place when nothing records it."""
    return F.relu(x, inplace=runs_eagerly())


def _add(x: Tensor, y: Tensor) -> Tensor:
    """Add `y` to a map that nothing else reads, in place when nothing records it."""
    return x.add_(y) if runs_eagerly() else x + y


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution to `(B, C, H, W)` as the matrix that it is."""
    y = linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias)  # pyright: ignore
    return y.permute(0, 3, 1, 2)


def _convolve(conv: nn.Module, x: Tensor, padding: int) -> Tensor:
    """Apply a 3x3 convolution with `padding` rows of zeros above and below, and one column."""
    return F.conv2d(x, conv.weight, conv.bias, padding=(padding, 1))  # pyright: ignore


def _double_then(function: Callable[[Tensor, int], Tensor], x: Tensor) -> Tensor:
    """Double the size of `(B, C, H, W)` and apply a 3x3 convolution.

    A processor without gradients to record does it in strips that stay in its cache, so that the
    doubled map, the largest of the network, never exists as a whole.

    Args:
        function: of rows of the doubled map and the rows of zeros to put above and below them.
        x: the map.

    Returns:
        The maps of `function`, `(B, C', 2H, 2W)`.
    """
    if x.device.type != "cpu" or not runs_eagerly():
        return function(_double(x), 1)
    batch, channels, height, width = x.shape
    rows = max(4, _STRIP_VALUES // (2 * width * channels))
    result = None
    for item in range(batch):
        for start in range(0, 2 * height, rows):
            stop = min(start + rows, 2 * height)
            strip = function(_doubled_rows(x[item : item + 1], start - 1, stop + 1), 0)
            if result is None:
                result = strip.new_empty(batch, 2 * height, 2 * width, strip.shape[1])
            result[item, start:stop] = strip[0].permute(1, 2, 0)
    assert result is not None
    return result.permute(0, 3, 1, 2)


def _doubled_rows(x: Tensor, start: int, stop: int) -> Tensor:
    """Give the rows `start` to `stop` of `_double(x)`; those beyond its ends are zero."""
    height, width = x.shape[-2:]
    inside = torch.arange(max(start, 0), min(stop, 2 * height), dtype=torch.float32)
    source = inside * ((height - 1) / (2 * height - 1))
    above = source.long().clamp_max(height - 1)
    below = (above + 1).clamp_max(height - 1)
    low, high = int(above[0]), int(below[-1]) + 1
    size = (high - low, 2 * width)
    wide = F.interpolate(x[:, :, low:high], size=size, mode="bilinear", align_corners=True)
    wide = wide.permute(0, 2, 3, 1)
    weight = (source - above)[:, None, None]
    rows = torch.lerp(wide.index_select(1, above - low), wide.index_select(1, below - low), weight)
    missing = (0, 0, 0, 0, max(-start, 0), max(stop - 2 * height, 0))
    return F.pad(rows, missing).permute(0, 3, 1, 2)
