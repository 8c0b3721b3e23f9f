"""Properties of the regression losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from weav3r.train.losses import (
    PairTargets,
    PointmapRegression,
    confidence_loss,
    joint_scale,
    log_points,
)


@dataclass(frozen=True)
class View:
    pointmap: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Pair:
    view1: View
    view2: View


def example(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Pair, PairTargets]:
    generator = torch.Generator().manual_seed(seed)

    def points() -> Tensor:
        return torch.randn(2, 3, 4, 3, generator=generator, dtype=dtype) + 3

    valid = [torch.rand(2, 3, 4, generator=generator) < 0.8 for _ in range(2)]
    confidence = [torch.rand(2, 3, 4, generator=generator, dtype=dtype) + 1 for _ in range(2)]
    pair = Pair(View(points(), confidence[0]), View(points(), confidence[1]))
    return pair, PairTargets(points(), points(), valid[0], valid[1])


def scaled(pair: Pair, factor: float) -> Pair:
    views = [dataclasses.replace(v, pointmap=factor * v.pointmap) for v in (pair.view1, pair.view2)]
    return Pair(*views)


@pytest.mark.parametrize("mode", ["avg_dis", "median_dis", "sqrt_dis"])
def test_scale_does_not_matter(mode) -> None:
    pair, targets = example()
    regression = PointmapRegression(mode)
    first, second = regression(pair, targets).means()
    for factor in (0.01, 50.0):
        again = regression(scaled(pair, factor), targets).means()
        torch.testing.assert_close(torch.stack(again), torch.stack((first, second)))
    enlarged = dataclasses.replace(
        targets, pointmap1=7 * targets.pointmap1, pointmap2=7 * targets.pointmap2
    )
    torch.testing.assert_close(regression(pair, enlarged).means()[0], first)


def test_metric_pairs_feel_the_scale() -> None:
    pair, targets = example()
    targets = dataclasses.replace(targets, metric=torch.tensor([True, False]))
    regression = PointmapRegression("avg_dis", metric_aware=True)
    before, after = regression(pair, targets), regression(scaled(pair, 3.0), targets)
    assert after.error1[0].sum() > 1.5 * before.error1[0].sum()
    torch.testing.assert_close(after.error1[1], before.error1[1])


def test_a_perfect_prediction_costs_nothing_whatever_its_scale() -> None:
    _, targets = example()
    ones = torch.ones(2, 3, 4)
    pair = scaled(Pair(View(targets.pointmap1, ones), View(targets.pointmap2, ones)), 5.0)
    errors = PointmapRegression(log="both")(pair, targets)
    assert torch.stack(errors.means()).max() < 1e-6


@pytest.mark.parametrize("mode", ["avg_dis", "avg_log1p", "avg_warp-log1p", "sqrt_dis", None])
@pytest.mark.parametrize("log", ["no", "both"])
def test_gradients(mode, log) -> None:
    pair, targets = example(dtype=torch.float64)
    regression = PointmapRegression(mode, log=log)

    def total(first: Tensor, second: Tensor) -> Tensor:
        guess = Pair(View(first, pair.view1.confidence), View(second, pair.view2.confidence))
        return confidence_loss(regression(guess, targets), guess).total

    points = [v.pointmap.requires_grad_() for v in (pair.view1, pair.view2)]
    analytic = torch.autograd.functional.jacobian(total, tuple(points))
    step = 1e-2  # the losses compute in float32, so a finite difference is coarse
    for k, which in enumerate(points):
        direction = torch.randn(which.shape, generator=torch.Generator().manual_seed(k)).double()
        moved = [[p + s * step * direction * (p is which) for p in points] for s in (1, -1)]
        slope = (total(*moved[0]) - total(*moved[1])) / (2 * step)
        assert slope.item() == pytest.approx((analytic[k] * direction).sum().item(), rel=2e-2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalisation": "median_dis"},
        {"normalisation": "sqrt_dis"},
        {"clip_median": 20.0, "log": "both"},
        {"shift_invariant": True, "scale_invariant": True},
    ],
    ids=str,
)
def test_empty_masks_and_wild_invalid_pixels_stay_finite(options) -> None:
    pair, targets = example()
    nothing = torch.zeros_like(targets.valid1)
    wild = targets.pointmap1.clone()
    wild[0] = torch.inf
    wild[1] = torch.nan
    targets = dataclasses.replace(targets, pointmap1=wild, valid1=nothing, valid2=nothing)
    leaves = [v.pointmap.requires_grad_() for v in (pair.view1, pair.view2)]
    loss = confidence_loss(PointmapRegression(**options)(pair, targets), pair).total
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, leaves):
        assert torch.isfinite(gradient).all()


def test_far_points_are_clipped() -> None:
    pair, targets = example()
    far = targets.pointmap1.clone()
    far[0, 0, 0] = 1e6
    valid = torch.ones_like(targets.valid1)
    targets = dataclasses.replace(targets, pointmap1=far, valid1=valid, valid2=valid)
    errors = PointmapRegression(clip_median=20.0)(pair, targets)
    assert not errors.mask1[0, 0, 0] and errors.mask1.sum() == valid.sum() - 1
    assert PointmapRegression(clip_distance=1e5)(pair, targets).mask1.sum() == valid.sum() - 1


def test_best_confidence_is_alpha_over_error() -> None:
    pair, targets = example()
    errors = PointmapRegression()(pair, targets)
    best = Pair(
        View(pair.view1.pointmap, 0.2 / errors.error1.clamp_min(1e-6)),
        View(pair.view2.pointmap, 0.2 / errors.error2.clamp_min(1e-6)),
    )
    lowest = confidence_loss(errors, best, 0.2).total
    for factor in (0.8, 1.25):
        other = Pair(
            View(best.view1.pointmap, factor * best.view1.confidence),
            View(best.view2.pointmap, factor * best.view2.confidence),
        )
        assert confidence_loss(errors, other, 0.2).total > lowest


def test_sky_teaches_confidence_only() -> None:
    pair, targets = example()
    sky = ~targets.valid1
    targets = dataclasses.replace(targets, sky1=sky)
    errors = PointmapRegression(sky_error=2.0)(pair, targets)
    assert errors.mask1.all() and (errors.error1[sky] == 2).all()
    assert (PointmapRegression()(pair, targets).mask1 == targets.valid1).all()


def test_log_points_and_wrong_mode() -> None:
    points = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    length = log_points(points).norm(dim=-1)
    torch.testing.assert_close(length, torch.tensor([6.0, 1.0]).log())
    _, targets = example()
    with pytest.raises(ValueError, match="mode must be one of"):
        joint_scale(
            targets.pointmap1,
            targets.pointmap2,
            targets.valid1,
            targets.valid2,
            "max",  # type: ignore[arg-type]
        )
