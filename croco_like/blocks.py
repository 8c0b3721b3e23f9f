"""Transformer blocks of the encoder and of the cross-attending decoder."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import NORM_EPS, CrossAttention, SelfAttention
from .linear import Linear, linear
from .rope import RotaryTables


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them.

    Args:
        dim: width of the input.
        hidden_dim: width between the layers.
        out_dim: width of the output; None means `dim`.
    """

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim if out_dim is None else out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., dim)` to `(..., out_dim)`."""
        return self.fc2(linear(x, self.fc1.weight, self.fc1.bias, gelu=True))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: self-attention, then MLP, each with a residual.

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        qk_norm: see `SelfAttention`.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, qk_norm: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, NORM_EPS)
        self.attn = SelfAttention(dim, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(dim, NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, tables: RotaryTables | None) -> Tensor:
        """Update the tokens `x` `(B, N, dim)`."""
        x = x + self.attn(self.norm1(x), tables)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention into the other view, MLP.

    Args:
        dim: width of both streams.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        qk_norm: see `SelfAttention`.
        norm_memory: apply a LayerNorm to the memory before it is read.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        norm_memory: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, NORM_EPS)
        self.attn = SelfAttention(dim, num_heads, qk_norm)
        self.norm_y = nn.LayerNorm(dim, NORM_EPS) if norm_memory else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, NORM_EPS)
        self.cross_attn = CrossAttention(dim, num_heads, qk_norm)
        self.norm3 = nn.LayerNorm(dim, NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        tables: RotaryTables | None,
        memory_tables: RotaryTables | None,
    ) -> Tensor:
        """Update the stream `x` `(B, N, dim)` from itself and from `memory` `(B, M, dim)`."""
        x = x + self.attn(self.norm1(x), tables)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(memory), tables, memory_tables)
        return x + self.mlp(self.norm3(x))


def init_transformer_(model: nn.Module) -> None:
    """Initialise all Linear and LayerNorm layers of `model` in place.

    Linear weights are Xavier-uniform with zero bias, norms are the identity.

    Reference: CroCo v2 (arXiv 2211.10408), following MAE.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
