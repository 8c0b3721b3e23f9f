"""The DPT head: four layers reassembled at four scales and fused coarse to fine.

Reference: Ranftl et al., Vision Transformers for Dense Prediction (arXiv 2103.13413).
"""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualUnit(nn.Module):
    """`z + conv2(relu(conv1(relu(z))))` with 3x3 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(B, dim, H, W)` to the same shape."""
        return z + self.conv2(F.relu(self.conv1(F.relu(z))))


class FusionBlock(nn.Module):
    """Add a finer map to the running one, refine and double the size."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualUnit(dim)
        self.resConfUnit2 = ResidualUnit(dim)
        self.out_conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map `(B, dim, H, W)` to `(B, dim, 2H, 2W)`; `skip` has the shape of `x`."""
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(_double(self.resConfUnit2(x)))


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

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Predict dense maps.

        Args:
            layers: the encoder output followed by all decoder layers, each `(B, h * w, C)`.
            grid: (h, w).

        Returns:
            `(B, 16 h, 16 w, channels)`.
        """
        height, width = grid
        maps = []
        for index, hook in enumerate(self.hooks):
            x = rearrange(layers[hook], "b (h w) c -> b c h w", h=height)
            x = self.act_postprocess[index](x)
            maps.append(self.scratch.get_submodule(f"layer{index + 1}_rn")(x))
        path = self._fuse(4, maps[3])[..., :height, :width]  # odd grids overshoot by one
        for index in (3, 2, 1):
            path = self._fuse(index, path, maps[index - 1])  # last one: (B, F, 8h, 8w)
        x = _double(self.head[0](path))
        return self.head[4](self.head[3](self.head[2](x))).permute(0, 2, 3, 1)

    def _fuse(self, index: int, x: Tensor, skip: Tensor | None = None) -> Tensor:
        return self.scratch.get_submodule(f"refinenet{index}")(x, skip)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
