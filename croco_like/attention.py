"""Multi-head attention: one function with three backends, and the two layers that call it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .linear import Linear
from .rope import RotaryTables, rotate

AttentionBackend = Literal["sdpa", "math", "xformers"]

NORM_EPS = 1e-6  # of every LayerNorm in the network; torch's default is 1e-5


def attend(query: Tensor, key: Tensor, value: Tensor, backend: AttentionBackend = "sdpa") -> Tensor:
    """Compute `softmax(q k^T / sqrt(d)) v`.

    Args:
        query: `(B, heads, N, d)`.
        key: `(B, heads, M, d)`.
        value: `(B, heads, M, d)`.
        backend: "sdpa" is torch's fused attention, "math" the formula written out (tests),
            "xformers" the optional package.

    Returns:
        `(B, heads, N, d)`.
    """
    if backend == "sdpa":
        if query.device.type == "cpu" and query.dtype == torch.bfloat16:
            # torch 2.13: the backward pass of the fused CPU kernel is 4 times slower in bfloat16
            with torch.autocast("cpu", enabled=False):
                wide = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
            return wide.to(value.dtype)
        return F.scaled_dot_product_attention(query, key, value)
    if backend == "xformers":
        from xformers.ops import memory_efficient_attention  # pyright: ignore

        out = memory_efficient_attention(*(t.transpose(1, 2) for t in (query, key, value)))
        return out.transpose(1, 2)
    scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ value


def set_attention_backend(model: nn.Module, backend: AttentionBackend) -> None:
    """Choose the attention backend of every attention layer inside `model`, in place.

    Args:
        model: any module of this package.
        backend: see `attend`.

    Raises:
        ValueError: if the backend is unknown.
        ImportError: if xformers is asked for and not installed.
    """
    if backend not in get_args(AttentionBackend):
        choices = ", ".join(get_args(AttentionBackend))
        raise ValueError(f"attention backend must be one of {choices}, got {backend!r}")
    if backend == "xformers":
        try:
            import xformers.ops  # noqa: F401  # pyright: ignore
        except ImportError as error:
            raise ImportError(
                "the xformers attention backend needs xformers: pip install 'weav3r[xformers]', "
                "or keep the default backend 'sdpa'"
            ) from error
    for module in model.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            module.backend = backend


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Turn `(B, N, heads * d)` into `(B, heads, N, d)`."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Turn `(B, heads, N, d)` into `(B, N, heads * d)`."""
    return x.transpose(1, 2).flatten(2)


def _rotated(x: Tensor, norm: nn.Module, tables: RotaryTables | None, like: Tensor) -> Tensor:
    x = norm(x)
    x = x if tables is None else rotate(x, tables)
    return x.to(like.dtype)  # a LayerNorm under autocast gives float32


class SelfAttention(nn.Module):
    """Multi-head self-attention with optional rotary positions and query/key norm.

    Args:
        dim: width of the tokens.
        num_heads: number of heads; divides `dim`.
        qk_norm: LayerNorm on each head's queries and keys, before the rotation.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend: AttentionBackend = "sdpa"
        self.qkv = Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads, NORM_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads, NORM_EPS) if qk_norm else nn.Identity()
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, tables: RotaryTables | None) -> Tensor:
        """Attend among the tokens `x` `(B, N, dim)`; `tables` None means no rotation."""
        query, key, value = (split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=-1))
        query = _rotated(query, self.q_norm, tables, value)
        key = _rotated(key, self.k_norm, tables, value)
        return self.proj(merge_heads(attend(query, key, value, self.backend)))


class CrossAttention(nn.Module):
    """Multi-head attention from one set of tokens into another.

    Args:
        dim: width of both sets of tokens.
        num_heads: number of heads; divides `dim`.
        qk_norm: LayerNorm on each head's queries and keys, before the rotation.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend: AttentionBackend = "sdpa"
        self.projq = Linear(dim, dim)
        self.projk = Linear(dim, dim)
        self.projv = Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // num_heads, NORM_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads, NORM_EPS) if qk_norm else nn.Identity()
        self.proj = Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        tables: RotaryTables | None,
        memory_tables: RotaryTables | None,
    ) -> Tensor:
        """Let the tokens `x` `(B, N, dim)` read `memory` `(B, M, dim)`, each with its tables."""
        query = split_heads(self.projq(x), self.num_heads)
        key = split_heads(self.projk(memory), self.num_heads)
        value = split_heads(self.projv(memory), self.num_heads)
        query = _rotated(query, self.q_norm, tables, value)
        key = _rotated(key, self.k_norm, memory_tables, value)
        return self.proj(merge_heads(attend(query, key, value, self.backend)))


def require_divisible(dim: int, num_heads: int, what: str) -> None:
    """Raise ValueError unless `dim` splits into `num_heads` heads of a width divisible by 4."""
    if num_heads < 1 or dim % num_heads or (dim // num_heads) % 4:
        raise ValueError(
            f"{what}: width {dim} must split into {num_heads} heads whose width is a multiple of 4"
        )
