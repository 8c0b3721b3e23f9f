"""Cross-view completion: predict the hidden patches of one view with the help of another.

Reference: CroCo (arXiv 2210.10716) and CroCo v2 (arXiv 2211.10408).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import NORM_EPS, require_divisible
from .blocks import DecoderBlock, EncoderBlock, init_transformer_
from .linear import Linear
from .masking import random_mask
from .patch_embed import PatchEmbed
from .rope import RotaryTables, rotary_tables

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class CrocoConfig:
    """Shape of a cross-view completion network; the defaults are CroCo v1.

    Attributes:
        image_size: side in pixels of the square training images.
        patch_size: side of a patch in pixels.
        mask_ratio: share of the first view's tokens that is hidden.
        encoder_dim: width of the encoder tokens.
        encoder_depth: number of encoder blocks.
        encoder_heads: attention heads of an encoder block.
        decoder_dim: width of the decoder tokens.
        decoder_depth: number of decoder blocks.
        decoder_heads: attention heads of a decoder block.
        mlp_ratio: hidden width of the MLPs over the token width.
        norm_memory: LayerNorm on the second view before each block reads it.
        rope_base: base of the rotary embedding; None for fixed sine and cosine tables instead.
        qk_norm: LayerNorm on the queries and keys of each head (only networks of this package).
    """

    image_size: int = 224
    patch_size: int = 16
    mask_ratio: float = 0.9
    encoder_dim: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    norm_memory: bool = True
    rope_base: float | None = None
    qk_norm: bool = False

    def __post_init__(self) -> None:
        require_divisible(self.encoder_dim, self.encoder_heads, "encoder")
        require_divisible(self.decoder_dim, self.decoder_heads, "decoder")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size={self.patch_size}, "
                f"got {self.image_size}"
            )

    @property
    def grid(self) -> int:
        """Patches along a side of a training image."""
        return self.image_size // self.patch_size

    @classmethod
    def from_published(cls, data: Mapping[str, Any]) -> CrocoConfig:
        """Translate the constructor arguments that are stored in a published file.

        Args:
            data: keyword arguments; absent ones take the defaults.

        Raises:
            ValueError: for unknown fields or values.
        """
        unknown = sorted(set(data) - set(_PUBLISHED_NAMES) - {"pos_embed"})
        if unknown:
            raise ValueError(f"unknown fields in a CroCo configuration: {', '.join(unknown)}")
        position = str(data.get("pos_embed", "cosine"))
        rope = re.fullmatch(r"RoPE(\d+(?:\.\d+)?)", position)
        if rope is None and position != "cosine":
            raise ValueError(f"pos_embed must be 'cosine' or like 'RoPE100', got {position!r}")
        values = {_PUBLISHED_NAMES[key]: data[key] for key in data if key in _PUBLISHED_NAMES}
        return cls(rope_base=float(rope[1]) if rope else None, **values)


_PUBLISHED_NAMES = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "mask_ratio": "mask_ratio",
    "enc_embed_dim": "encoder_dim",
    "enc_depth": "encoder_depth",
    "enc_num_heads": "encoder_heads",
    "dec_embed_dim": "decoder_dim",
    "dec_depth": "decoder_depth",
    "dec_num_heads": "decoder_heads",
    "mlp_ratio": "mlp_ratio",
    "norm_im2_in_dec": "norm_memory",
}

_V2 = CrocoConfig(rope_base=100.0)
CROCO_PRESETS: dict[str, CrocoConfig] = {
    "croco": CrocoConfig(),
    "croco-v2-base-small": _V2,
    "croco-v2-base-base": dataclasses.replace(
        _V2, decoder_dim=768, decoder_depth=12, decoder_heads=12
    ),
    "croco-v2-large-base": dataclasses.replace(
        _V2,
        encoder_dim=1024,
        encoder_depth=24,
        encoder_heads=16,
        decoder_dim=768,
        decoder_depth=12,
        decoder_heads=12,
    ),
}


@dataclass(frozen=True)
class CompletionPrediction:
    """Result of a cross-view completion pass.

    Attributes:
        patches: `(B, N, p * p * 3)` predicted patches of the first view, see `patchify`.
        mask: `(B, N)` bool, True for the tokens that were hidden.
    """

    patches: Tensor
    mask: Tensor


class CrocoModel(nn.Module):
    """Siamese encoder, cross-attending decoder and a linear pixel head.

    Args:
        config: shape of the network.
    """

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__()
        self.config = config
        enc, dec = config.encoder_dim, config.decoder_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec))
        if config.rope_base is None:
            self.register_buffer("enc_pos_embed", sincos_table(config.grid, config.grid, enc))
            self.register_buffer("dec_pos_embed", sincos_table(config.grid, config.grid, dec))
        self.patch_embed = PatchEmbed(enc, config.patch_size)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(enc, config.encoder_heads, config.mlp_ratio, config.qk_norm)
            for _ in range(config.encoder_depth)
        )
        self.enc_norm = nn.LayerNorm(enc, NORM_EPS)
        self.decoder_embed = Linear(enc, dec)
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(
                dec, config.decoder_heads, config.mlp_ratio, config.qk_norm, config.norm_memory
            )
            for _ in range(config.decoder_depth)
        )
        self.dec_norm = nn.LayerNorm(dec, NORM_EPS)
        self.prediction_head = Linear(dec, config.patch_size**2 * 3)
        init_transformer_(self)
        self.patch_embed.init_()
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        images1: Tensor,
        images2: Tensor,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> CompletionPrediction:
        """Complete the first view.

        Args:
            images1: `(B, 3, H, W)` normalised with `IMAGENET_MEAN` and `IMAGENET_STD`.
            images2: the other view, likewise.
            mask: `(B, N)` bool, True = hidden, equally many per row; drawn when None.
            generator: source of randomness for the mask.

        Returns:
            Predicted patches and the mask.

        Raises:
            ValueError: if the sides are not multiples of the patch size.
        """
        if mask is None:
            rows, columns = self.patch_embed.grid(images1)
            mask = random_mask(
                len(images1), rows * columns, self.config.mask_ratio, generator, images1.device
            )
        visible, positions1 = self.encode(images1, mask)
        memory, positions2 = self.encode(images2)
        grids = self.patch_embed.grid(images1), self.patch_embed.grid(images2)
        stream = self.decode(visible, memory, mask, positions1, positions2, grids)
        return CompletionPrediction(self.prediction_head(stream), mask)

    def encode(self, images: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode the visible tokens of a batch.

        Args:
            images: `(B, 3, H, W)`.
            mask: `(B, N)` bool, True = hidden; None hides nothing.

        Returns:
            Normalised tokens `(B, visible, E)` in raster order, and the positions `(B, N, 2)` of
            ALL tokens.
        """
        tokens, positions = self.patch_embed(images)
        tokens = self._add_table(tokens, "enc_pos_embed", self.patch_embed.grid(images))
        kept = positions
        if mask is not None:
            tokens, kept = (t[~mask].view(len(t), -1, t.shape[-1]) for t in (tokens, positions))
        tables = self._tables(kept, self.config.encoder_dim // self.config.encoder_heads)
        for block in self.enc_blocks:
            tokens = block(tokens, tables)
        return self.enc_norm(tokens), positions

    def decode(
        self,
        visible: Tensor,
        memory: Tensor,
        mask: Tensor,
        positions1: Tensor,
        positions2: Tensor,
        grids: tuple[tuple[int, int], tuple[int, int]],
    ) -> Tensor:
        """Fill the hidden places with the mask token and read the second view.

        The second view's tokens are the same memory for every block.

        Args:
            visible: `(B, visible, E)` encoder output of the first view.
            memory: `(B, M, E)` encoder output of the second view.
            mask: `(B, N)` bool of the first view.
            positions1: `(B, N, 2)` of all tokens of the first view.
            positions2: `(B, M, 2)` of the second view.
            grids: patch grids of both views.

        Returns:
            `(B, N, D)`, normalised.
        """
        embedded = self.decoder_embed(visible)
        stream = self.mask_token.to(embedded.dtype).expand(*mask.shape, -1).clone()
        stream[~mask] = embedded.flatten(0, 1)
        stream = self._add_table(stream, "dec_pos_embed", grids[0])
        memory = self._add_table(self.decoder_embed(memory), "dec_pos_embed", grids[1])
        head_dim = self.config.decoder_dim // self.config.decoder_heads
        tables1, tables2 = self._tables(positions1, head_dim), self._tables(positions2, head_dim)
        for block in self.dec_blocks:
            stream = block(stream, memory, tables1, tables2)
        return self.dec_norm(stream)

    def _tables(self, positions: Tensor, head_dim: int) -> RotaryTables | None:
        if self.config.rope_base is None:
            return None
        return rotary_tables(positions, head_dim, self.config.rope_base)

    def _add_table(self, tokens: Tensor, name: str, grid: tuple[int, int]) -> Tensor:
        if self.config.rope_base is not None:
            return tokens
        return tokens + resample_table(getattr(self, name), self.config.grid, grid)


def sincos_table(rows: int, columns: int, dim: int) -> Tensor:
    """Build a fixed position embedding: column code in the first half, row code in the second.

    Args:
        rows: height of the patch grid.
        columns: width of the patch grid.
        dim: width of the tokens, a multiple of 4.

    Returns:
        `(rows * columns, dim)` float32.

    Raises:
        ValueError: if `dim` is not a multiple of 4.

    Reference: Vaswani et al. (arXiv 1706.03762), applied per axis as in MAE.
    """
    if dim % 4:
        raise ValueError(f"a position table needs a width that is a multiple of 4, got {dim}")
    quarter = dim // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def code(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)  # (count, dim / 2)

    column = code(columns).expand(rows, -1, -1)
    row = code(rows)[:, None].expand(-1, columns, -1)
    return torch.cat((column, row), dim=-1).flatten(0, 1).float()


def resample_table(table: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Bring a position table of a `side` x `side` grid to another grid, bicubically.

    Args:
        table: `(side * side, dim)`.
        side: of the square grid of `table`.
        grid: (rows, columns) wanted.

    Returns:
        `(rows * columns, dim)`.
    """
    if grid == (side, side):
        return table
    square = rearrange(table, "(h w) c -> 1 c h w", h=side)
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return rearrange(resized, "1 c h w -> (h w) c")


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into flat patches, the layout of the prediction head.

    Args:
        images: `(B, 3, H, W)`.
        patch_size: p.

    Returns:
        `(B, N, p * p * 3)`; channel `(row * p + column) * 3 + colour`.
    """
    return rearrange(images, "b c (h r) (w s) -> b (h w) (r s c)", r=patch_size, s=patch_size)


def completion_loss(
    prediction: CompletionPrediction,
    images: Tensor,
    patch_size: int,
    normalise_target: bool = True,
    masked_only: bool = True,
) -> Tensor:
    """Mean squared error of the completed patches.

    Args:
        prediction: of the network.
        images: `(B, 3, H, W)` the first view as the network got it.
        patch_size: side of a patch in pixels.
        normalise_target: give each target patch zero mean and unit (unbiased) variance.
        masked_only: average over the hidden patches of the whole batch instead of all.

    Returns:
        A scalar.
    """
    target = patchify(images, patch_size)
    if normalise_target:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    error = (prediction.patches - target).square().mean(dim=-1)  # (B, N)
    if not masked_only:
        return error.mean()
    return (error * prediction.mask).sum() / prediction.mask.sum()
