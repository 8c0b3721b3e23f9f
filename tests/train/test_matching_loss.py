"""Properties of the matching losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weav3r.train.matching_loss import (
    MatchingLoss,
    MatchLoss,
    MatchTargets,
    average_precision,
    confident_match_loss,
    info_nce,
    match_accuracy,
    sample_map,
    unit_info_nce,
    unused_pixels,
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_sample_map_is_bilinear_between_pixel_centres() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 7, 3, generator=generator)
    xy = torch.rand(2, 50, 2, generator=generator) * torch.tensor([7.0, 5.0])
    grid = (xy / torch.tensor([7.0, 5.0]) * 2 - 1)[:, None]
    expected = F.grid_sample(
        maps.permute(0, 3, 1, 2), grid, align_corners=False, padding_mode="border"
    )[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(sample_map(maps, xy), expected, rtol=1e-4, atol=1e-5)
    centre = torch.tensor([[[2.5, 3.5]], [[6.5, 0.5]]])
    torch.testing.assert_close(
        sample_map(maps, centre)[:, 0], torch.stack([maps[0, 3, 2], maps[1, 0, 6]])
    )


def test_sample_map_survives_bad_positions() -> None:
    maps = torch.ones(1, 4, 4, 2)
    xy = torch.tensor([[[torch.nan, 1.0], [-50.0, 99.0], [torch.inf, 0.0]]])
    assert torch.equal(sample_map(maps, xy), torch.ones(1, 3, 2))


def test_fast_info_nce_equals_the_plain_one() -> None:
    first, second = unit(3, 20, 6).requires_grad_(), unit(3, 20, 6, seed=1).requires_grad_()
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    valid = torch.rand(3, 20, generator=torch.Generator().manual_seed(2)) > 0.3
    weight = torch.rand(3, 20, generator=torch.Generator().manual_seed(3)).double()
    fast, hits = unit_info_nce(first, second, temperature, valid)
    logits = first @ second.transpose(1, 2) / temperature
    plain = info_nce(logits, "proper", valid)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(hits.sum() / valid.sum(), match_accuracy(logits, valid).double())
    leaves = (first, second, temperature)
    ours = torch.autograd.grad((fast * weight).sum(), leaves)
    theirs = torch.autograd.grad((plain * weight).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_fast_info_nce_gradcheck() -> None:
    inputs = unit(2, 5, 4).requires_grad_(), unit(2, 5, 4, seed=1).requires_grad_()
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True, True, False, True, True], [True] * 5])
    torch.autograd.gradcheck(
        lambda a, b, t: unit_info_nce(a, b, t, valid)[0], (*inputs, temperature)
    )


def test_random_descriptors_cost_twice_log_n() -> None:
    loss = info_nce(torch.zeros(1, 64, 64))
    assert loss.mean().item() == pytest.approx(2 * math.log(64), rel=1e-5)
    assert info_nce(torch.zeros(1, 64, 64), "all").mean().item() == pytest.approx(
        math.log(64 * 64), rel=1e-5
    )


def test_absent_entries_change_nothing() -> None:
    first, second = unit(1, 10, 4), unit(1, 10, 4, seed=1)
    valid = torch.ones(1, 10, dtype=torch.bool)
    valid[:, 7:] = False
    whole, _ = unit_info_nce(first, second, torch.tensor(0.1), valid)
    part, _ = unit_info_nce(first[:, :7], second[:, :7], torch.tensor(0.1), valid[:, :7])
    torch.testing.assert_close(whole[:, :7], part)
    assert (whole[:, 7:] == 0).all()
    nothing, hits = unit_info_nce(
        first.requires_grad_(), second, torch.tensor(0.1), torch.zeros_like(valid)
    )
    assert nothing.sum() == 0 and hits.sum() == 0
    assert torch.isfinite(torch.autograd.grad(nothing.sum(), first)[0]).all()


class View:
    def __init__(self, descriptors: Tensor | None) -> None:
        self.pointmap = torch.zeros(2, 4, 6, 3)
        self.confidence = torch.ones(2, 4, 6)
        self.descriptors = descriptors
        self.descriptor_confidence = None


class Pair:
    def __init__(self, first: Tensor | None, second: Tensor | None) -> None:
        self.view1, self.view2 = View(first), View(second)


def every_pixel() -> Tensor:
    y, x = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(6) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).reshape(1, -1, 2).repeat(2, 1, 1)


def test_perfect_descriptors_are_all_right() -> None:
    maps = unit(2, 4, 6, 8).float()
    xy = every_pixel()
    matches = MatchTargets(xy, xy, torch.ones(2, 24, dtype=torch.bool))
    match = MatchingLoss()(Pair(maps, maps), matches, 0.05)
    assert match.accuracy == 1
    assert match.mean() < MatchingLoss()(Pair(maps, maps.flip(1)), matches, 0.05).mean()
    with pytest.raises(ValueError, match="predicts no descriptors"):
        MatchingLoss()(Pair(None, None), matches, 0.05)
    with pytest.raises(ValueError, match="do not divide into blocks"):
        MatchingLoss(block_size=7)(Pair(maps, maps), matches, 0.05)
    with pytest.raises(ValueError, match="mode must be"):
        info_nce(torch.zeros(1, 2, 2), "triple")  # type: ignore[arg-type]


def test_confidence_needs_to_be_there() -> None:
    match = MatchLoss(torch.ones(1, 3), torch.ones(1, 3).bool(), None, None, torch.ones(()))
    with pytest.raises(ValueError, match="no descriptor confidence"):
        confident_match_loss(match)


def test_detached_confidence_leaves_the_descriptors_alone() -> None:
    loss = torch.tensor([[1.0, 4.0]], requires_grad=True)
    confidence = torch.tensor([[2.0, 2.0]], requires_grad=True)
    match = MatchLoss(loss, torch.ones(1, 2).bool(), confidence, confidence, torch.ones(()))
    total = confident_match_loss(match, alpha=4.0, detach_loss=True)
    gradient = torch.autograd.grad(total, [loss, confidence], allow_unused=True)
    assert gradient[0] is None
    # d/dc (l c - alpha log c) = l - alpha / c: too low a confidence for 1, too high for 4
    assert gradient[1][0, 0] < 0 < gradient[1][0, 1]


def test_average_precision_is_one_over_rank() -> None:
    similarity = torch.tensor([[[0.9, 0.1, 0.95], [0.2, 0.5, 0.1]]])
    torch.testing.assert_close(average_precision(similarity), torch.tensor([[0.5, 1.0]]))


def test_unused_pixels_in_raster_order() -> None:
    xy = torch.tensor([[[0.5, 0.5], [2.5, 0.5]]])
    matches = MatchTargets(xy, xy, torch.ones(1, 2, dtype=torch.bool))
    expected = torch.tensor([[[1.5, 0.5], [0.5, 1.5], [1.5, 1.5]]])
    assert torch.equal(unused_pixels(matches, 2, 3, 3), expected)
