"""Rotary embedding: group properties and errors."""

import pytest
import torch

from weav3r.croco_like.rope import grid_positions, rotary_tables, rotate


def rotated(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return rotate(x, rotary_tables(positions, x.shape[-1]))


def test_rotation_keeps_norms() -> None:
    x = torch.randn(2, 3, 6, 16, generator=torch.Generator().manual_seed(0))
    positions = grid_positions(2, 3).expand(2, -1, -1)
    assert torch.allclose(rotated(x, positions).norm(dim=-1), x.norm(dim=-1), rtol=1e-5)


def test_scores_depend_on_position_differences_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 2, 6, 16, generator=generator)
    positions = grid_positions(2, 3)[None]
    moved = positions + torch.tensor([5, 2])
    scores = rotated(query, positions) @ rotated(key, positions).mT
    moved_scores = rotated(query, moved) @ rotated(key, moved).mT
    assert torch.allclose(scores, moved_scores, atol=1e-5)


def test_rows_turn_the_first_half_and_columns_the_second() -> None:
    x = torch.ones(1, 1, 1, 8)
    row = rotated(x, torch.tensor([[[1, 0]]]))[0, 0, 0]
    column = rotated(x, torch.tensor([[[0, 1]]]))[0, 0, 0]
    # Angles 1 and 100^(-1/2) = 0.1; component j is paired with j + 2 of its half.
    angles = torch.tensor([1.0, 0.1])
    half = torch.cat((angles.cos() - angles.sin(), angles.cos() + angles.sin()))
    assert torch.allclose(row, torch.cat((half, torch.ones(4))))
    assert torch.allclose(column, torch.cat((torch.ones(4), half)))


def test_half_precision_is_rotated_in_float32() -> None:
    x = torch.randn(1, 1, 400, 16, generator=torch.Generator().manual_seed(0))
    positions = grid_positions(20, 20)[None]
    low = rotated(x.bfloat16(), positions)
    assert low.dtype == torch.bfloat16
    exact = rotated(x.bfloat16().float(), positions)
    assert torch.allclose(low.float(), exact, rtol=2**-8, atol=1e-6)  # one rounding, no more


def test_head_width_must_be_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        rotary_tables(torch.zeros(1, 1, 2), 10)
