"""Attention: equality of the backends, and their errors."""

import sys

import pytest
import torch

from weav3r.croco_like.attention import (
    CrossAttention,
    SelfAttention,
    attend,
    require_divisible,
    set_attention_backend,
)
from weav3r.croco_like.blocks import DecoderBlock
from weav3r.croco_like.rope import grid_positions, rotary_tables


def test_fused_and_written_out_attention_agree() -> None:
    query, key, value = torch.randn(3, 2, 2, 7, 8, generator=torch.Generator().manual_seed(0))
    fused = attend(query, key[..., :5, :], value[..., :5, :], "sdpa")
    plain = attend(query, key[..., :5, :], value[..., :5, :], "math")
    assert torch.allclose(fused, plain, atol=1e-6)


def test_attention_averages_the_values_of_equal_keys() -> None:
    value = torch.arange(6.0).view(1, 1, 3, 2)
    out = attend(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 3, 2), value)
    assert torch.allclose(out, torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_layers_run_under_autocast(qk_norm: bool) -> None:
    x, memory = torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    tables = rotary_tables(grid_positions(2, 3)[None], 8)
    memory_tables = rotary_tables(grid_positions(2, 2)[None], 8)
    own, cross = SelfAttention(16, 2, qk_norm), CrossAttention(16, 2, qk_norm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert own(x, tables).dtype == torch.bfloat16
        assert cross(x, memory, tables, memory_tables).dtype == torch.bfloat16


def test_setting_the_backend_reaches_every_layer() -> None:
    block = DecoderBlock(16, 2)
    set_attention_backend(block, "math")
    assert block.attn.backend == block.cross_attn.backend == "math"


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="must be one of sdpa, math, xformers, got 'flash'"):
        set_attention_backend(DecoderBlock(16, 2), "flash")  # pyright: ignore[reportArgumentType]


def test_missing_xformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with pytest.raises(ImportError, match=r"pip install 'weav3r\[xformers\]'"):
        set_attention_backend(DecoderBlock(16, 2), "xformers")


@pytest.mark.parametrize(("dim", "heads"), [(16, 3), (12, 2), (16, 0)])
def test_widths_must_split_into_heads(dim: int, heads: int) -> None:
    with pytest.raises(ValueError, match="encoder: width"):
        require_divisible(dim, heads, "encoder")
