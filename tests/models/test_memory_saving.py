"""Strips, in-place sums and one image at a time: less memory, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weav3r.models import PairPrediction, TwoViewModel, two_view
from weav3r.models.heads import dpt, mlp


def random_images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator) * 2 - 1


def assert_same(a: PairPrediction, b: PairPrediction) -> None:
    for first, second in ((a.view1, b.view1), (a.view2, b.view2)):
        for x, y in zip(first._fields(), second._fields(), strict=True):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5 * float(y.abs().max()))


@pytest.mark.parametrize("size", [(32, 48), (80, 48), (16, 16), (112, 16)])
@pytest.mark.parametrize("values", [1, 1000])
def test_inference_equals_training(
    any_tiny: TwoViewModel, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], values: int
) -> None:
    """The recorded pass has neither strips nor in-place sums."""
    images = random_images(2, *size), random_images(2, *size, seed=1)
    recorded = any_tiny(*images)
    monkeypatch.setattr(dpt, "_STRIP_VALUES", values)
    monkeypatch.setattr(mlp, "_STRIP_TOKENS", 2)
    with torch.inference_mode():
        assert_same(any_tiny(*images), recorded)


@torch.no_grad()
def test_one_by_one_equals_a_batch(any_tiny: TwoViewModel, monkeypatch: pytest.MonkeyPatch) -> None:
    images, others = random_images(3, 32, 48), random_images(3, 32, 48, seed=1)
    shapes = torch.tensor([[32, 48], [48, 32], [32, 48]])
    together = any_tiny(images, others), any_tiny(images, others, shapes, shapes)
    symmetric = any_tiny.decode_symmetric(any_tiny.encode(images), any_tiny.encode(others))
    monkeypatch.setattr(two_view, "_LARGE_INPUT", 0)
    assert_same(any_tiny(images, others), together[0])
    assert_same(any_tiny(images, others, shapes, shapes), together[1])
    apart = any_tiny.decode_symmetric(any_tiny.encode(images), any_tiny.encode(others))
    for a, b in zip(apart, symmetric, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("height", [1, 2, 3, 5, 24])
@torch.inference_mode()
def test_rows_of_a_doubled_map(height: int) -> None:
    x = torch.randn(1, 4, height, 6).contiguous(memory_format=torch.channels_last)
    whole = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    padded = F.pad(whole, (0, 0, 1, 1))
    for start in range(-1, 2 * height - 1):
        for stop in range(start + 2, 2 * height + 2):
            rows = dpt._doubled_rows(x, start, stop)
            torch.testing.assert_close(rows, padded[:, :, start + 1 : stop + 1])
