"""Rotary position embedding on a two-dimensional patch grid (RoPE 2D)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines for one set of token positions, computed once and shared by all blocks.

    Attributes:
        cos: `(B, 1, N, 2, Q)` float32; axis 3 is (row, column), `Q = head_dim / 4`.
        sin: the same for the sine.
    """

    cos: Tensor
    sin: Tensor


def grid_positions(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """List the (row, column) pairs of a patch grid in raster order.

    Args:
        height: rows of the grid, in patches.
        width: columns of the grid, in patches.
        device: where the result lives.

    Returns:
        `(height * width, 2)` int64, counted from 0.
    """
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    return torch.cartesian_prod(rows, columns).view(height * width, 2)


def rotary_tables(
    positions: Tensor, head_dim: int, base: float = 100.0, frequency_scale: float = 1.0
) -> RotaryTables:
    """Compute the rotation angles of every token, always in float32.

    Args:
        positions: `(B, N, 2)` (row, column), integer or fractional patch units.
        head_dim: width of one attention head, a multiple of 4.
        base: base of the geometric series of wavelengths.
        frequency_scale: factor on all frequencies.

    Returns:
        Tables to pass to `rotate`.

    Raises:
        ValueError: if `head_dim` is not a multiple of 4.

    Reference: Su et al., RoFormer (arXiv 2104.09864), applied per axis as in CroCo v2.
    """
    if head_dim % 4:
        raise ValueError(
            f"rotary embedding needs a head_dim that is a multiple of 4, got {head_dim}"
        )
    quarter = head_dim // 4
    exponents = torch.arange(quarter, device=positions.device, dtype=torch.float32) / quarter
    frequencies = frequency_scale / base**exponents
    angles = positions.float()[:, None, :, :, None] * frequencies  # (B, 1, N, 2, Q)
    return RotaryTables(angles.cos(), angles.sin())


def rotate(x: Tensor, tables: RotaryTables) -> Tensor:
    """Rotate head vectors: the first half by the row, the second half by the column.

    Within a half, component `j` is paired with component `j + head_dim / 4`. The product is
    taken in float32 and returned in the dtype of `x`.

    Args:
        x: `(B, heads, N, head_dim)` queries or keys.
        tables: of the same tokens.

    Returns:
        The rotated tensor, same shape and dtype as `x`.
    """
    first, second = x.unflatten(-1, (2, 2, x.shape[-1] // 4)).unbind(-2)  # (B, heads, N, 2, Q)
    cos, sin = tables.cos, tables.sin
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-2)
    return rotated.flatten(-3).to(x.dtype)  # (B, heads, N, head_dim)
