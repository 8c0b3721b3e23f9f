"""The Linear layer: the same numbers on every way through it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from weav3r.croco_like.linear import Linear, linear, runs_eagerly


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans())
def test_equals_torch(rows: int, width: int, out: int, gelu: bool, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows + 7 * width + 31 * out)
    x = torch.randn(2, rows, width, generator=generator)
    weight = torch.randn(out, width, generator=generator)
    bias = torch.randn(out, generator=generator) if with_bias else None
    expected = F.linear(x, weight, bias)
    expected = F.gelu(expected) if gelu else expected
    with torch.inference_mode():
        fast = linear(x, weight, bias, gelu)
    with torch.no_grad():
        also_fast = linear(x, weight, bias, gelu)
    torch.testing.assert_close(linear(x, weight, bias, gelu), expected, rtol=0, atol=0)
    torch.testing.assert_close(fast, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(also_fast, fast, rtol=0, atol=0)


def test_strided_input() -> None:
    layer = Linear(8, 3)
    x = torch.randn(2, 8, 5, 4).permute(0, 2, 3, 1)
    expected = F.linear(x, layer.weight, layer.bias)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def test_gradients_and_autocast_take_the_plain_way() -> None:
    layer = Linear(8, 3)
    x = torch.randn(2, 8)
    assert runs_eagerly() is False
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert linear(x, layer.weight, layer.bias, gelu=True).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    layer = Linear(8, 3).to(dtype)
    x = torch.randn(2, 8, dtype=dtype)
    with torch.inference_mode():
        assert layer(x).dtype == dtype
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
