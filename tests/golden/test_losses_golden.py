"""Losses against the published training code: 37 criteria, their details and gradients."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from weav3r.train.losses import (
    PairTargets,
    PointmapRegression,
    confidence_loss,
    joint_center_scale,
    joint_median_depth,
    joint_scale,
    log_points,
    optimal_scale,
)
from weav3r.train.matching_loss import (
    MatchingLoss,
    MatchTargets,
    average_precision,
    confident_match_loss,
    sample_map,
    unused_pixels,
)

CASES = json.loads((Path(__file__).parent / "data" / "losses.json").read_text())
Details = dict[str, Tensor]


@dataclass(frozen=True)
class View:
    pointmap: Tensor
    confidence: Tensor
    descriptors: Tensor
    descriptor_confidence: Tensor


@dataclass(frozen=True)
class Pair:
    view1: View
    view2: View


@dataclass(frozen=True)
class Inputs:
    prediction: Pair
    targets: PairTargets
    leaves: dict[str, Tensor]


@pytest.fixture(scope="module")
def data(golden) -> dict[str, Any]:
    return dict(golden("losses"))


@pytest.fixture
def inputs(data) -> Inputs:
    read = {k: torch.from_numpy(v) for k, v in data.items() if k.startswith("in/")}
    cam1_from_world = torch.linalg.inv(read["in/pose1"])
    leaves, views = {}, []
    for v in (1, 2):
        names = ("pr_pts3d", "conf", "desc", "desc_conf")
        tensors = [read[f"in/{name}_{v}"].clone().requires_grad_() for name in names]
        leaves |= {f"{n}{v}": t for n, t in zip(("pts", "conf", "desc", "dconf"), tensors)}  # noqa: B905
        views.append(View(*tensors))
    points = [
        torch.einsum("bij,bhwj->bhwi", cam1_from_world[:, :3, :3], read[f"in/gt_pts3d_{v}"])
        + cam1_from_world[:, None, None, :3, 3]
        for v in (1, 2)
    ]
    matches = MatchTargets(
        read["in/corres_1"] + 0.5, read["in/corres_2"] + 0.5, read["in/valid_corres"], True
    )
    targets = PairTargets(
        points[0],
        points[1],
        read["in/valid_1"],
        read["in/valid_2"],
        matches,
        read["in/is_metric_scale"],
        read["in/sky_1"],
        read["in/sky_2"],
    )
    return Inputs(Pair(*views), targets, leaves)


def regression(family: str, cls: str, kwargs: dict[str, Any]) -> PointmapRegression:
    """Translate the published options."""
    mode = kwargs.get("norm_mode", "avg_dis") or None
    sky = None if family == "dust3r" else kwargs.get("sky_loss_value", 2)
    logs: dict[bool | str, Literal["no", "both", "target"]]
    logs = {False: "no", True: "both", "before": "target"}
    return PointmapRegression(
        normalisation=mode and mode.removeprefix("?"),
        metric_aware=bool(mode) and mode.startswith("?"),
        keep_target_scale=kwargs.get("gt_scale", False),
        shift_invariant="Shift" in cls,
        scale_invariant="Scale" in cls,
        log=logs[kwargs.get("loss_in_log", False)],
        max_metric_distance=kwargs.get("max_metric_scale"),
        sky_error=sky or None,
    )


@dataclass
class Term:
    """A published criterion, evaluated with ours."""

    evaluate: Callable[[Inputs], tuple[Tensor, Details]]
    parts: Any = None
    weight: float = 1.0

    def __rmul__(self, factor: float) -> Term:
        return dataclasses.replace(self, weight=self.weight * factor)

    def __add__(self, other: Term) -> Term:
        def both(inputs: Inputs) -> tuple[Tensor, Details]:
            first, details1 = self(inputs)
            second, details2 = other(inputs)
            return first + second, details1 | details2

        return Term(both)

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Details]:
        value, details = self.evaluate(inputs)
        return self.weight * value, details


def vocabulary(family: str, permutation: Tensor | None) -> dict[str, Any]:
    """Names that the published expressions use."""

    def regr(cls: str) -> Callable[..., Term]:
        def make(_: object, **kwargs: Any) -> Term:
            criterion = regression(family, cls, kwargs)

            def evaluate(inputs: Inputs) -> tuple[Tensor, Details]:
                errors = criterion(inputs.prediction, inputs.targets)
                e1, e2 = errors.means()
                return e1 + e2, {f"{cls}_pts3d_1": e1, f"{cls}_pts3d_2": e2}

            return Term(evaluate, criterion)

        return make

    def conf_loss(inner: Term, alpha: float) -> Term:
        def evaluate(inputs: Inputs) -> tuple[Tensor, Details]:
            errors = inner.parts(inputs.prediction, inputs.targets)
            loss = confidence_loss(errors, inputs.prediction, alpha)
            details = {"conf_loss_1": loss.view1, "conf_loss2": loss.view2}
            return loss.total, inner(inputs)[1] | details

        return Term(evaluate)

    def matching(
        inner: tuple[str, dict[str, Any]],
        negatives_padding: int = 0,
        blocksize: int | None = None,
        use_pts3d: bool = False,
    ) -> Term:
        name, options = inner

        def evaluate_ap(inputs: Inputs) -> tuple[Tensor, Details]:
            matches = inputs.targets.matches
            assert matches is not None
            extra = unused_pixels(matches, 12, 16, negatives_padding)
            xy2 = torch.cat([matches.xy2, extra], 1)
            first = sample_map(inputs.prediction.view1.descriptors, matches.xy1)
            second = sample_map(inputs.prediction.view2.descriptors, xy2)
            precision = average_precision(first @ second.transpose(1, 2))
            value = precision[matches.valid].mean()
            return value, {"MatchingLoss": value}

        criterion = MatchingLoss(
            mode=options.get("mode", "all"),
            floor=1e-8,
            block_size=blocksize,
            compare="points" if use_pts3d else "descriptors",
            normalise=False,
        )

        def run(inputs: Inputs) -> Any:
            matches, temperature = inputs.targets.matches, options.get("temperature", 0.07)
            assert matches is not None
            return criterion(inputs.prediction, matches, temperature, permutation)

        def evaluate(inputs: Inputs) -> tuple[Tensor, Details]:
            value = run(inputs).mean()
            return value, {"MatchingLoss": value}

        return Term(evaluate_ap) if name == "ap" else Term(evaluate, run)

    def conf_matching(
        inner: Term,
        alpha: float,
        confmode: Literal["mean", "prod"] = "mean",
        neg_conf_loss_quantile: float = 0.0,
    ) -> Term:
        def evaluate(inputs: Inputs) -> tuple[Tensor, Details]:
            match = inner.parts(inputs)
            value = confident_match_loss(match, alpha, confmode, neg_conf_loss_quantile)
            return value, inner(inputs)[1] | {"matching_conf_loss": value}

        return Term(evaluate)

    names = ("Regr3D", "Regr3D_ShiftInv", "Regr3D_ScaleInv", "Regr3D_ScaleShiftInv")
    return {name: regr(name) for name in names} | {
        "L21": None,
        "ConfLoss": conf_loss,
        "MatchingLoss": matching,
        "ConfMatchingLoss": conf_matching,
        "InfoNCE": lambda **kwargs: ("nce", kwargs),
        "APLoss": lambda **kwargs: ("ap", kwargs),
        "torch": torch,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['index']:02d}-{c['family']}")
def test_criterion(case: dict[str, Any], inputs: Inputs, data: dict[str, Any]) -> None:
    key = f"{case['index']:02d}"
    permutation = data.get(f"{key}/perm")
    if permutation is not None:
        permutation = torch.from_numpy(np.asarray(permutation)).long()
    # the expressions are constants of the test data; eval keeps the table readable
    term = eval(case["expression"], vocabulary(case["family"], permutation))
    value, details = term(inputs)
    assert value.item() == pytest.approx(case["loss"], rel=1e-5, abs=1e-6)
    for name, expected in case["details"].items():
        if name in details:
            assert details[name].item() == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    assert set(case["details"]) - set(details) <= {"Conf1_std", "Conf2_std"}
    if case["grads"]:
        leaves = [inputs.leaves[name] for name in case["grads"]]
        for name, grad in zip(case["grads"], torch.autograd.grad(value, leaves), strict=True):
            expected = torch.from_numpy(data[f"{key}/grad_{name}"])
            limit = 1e-4 * expected.abs().max()  # float32; float64 differs by a tenth of it
            assert (grad - expected).abs().max() <= limit, name


@pytest.fixture(scope="module")
def norms(golden) -> dict[str, Tensor]:
    return {k: torch.from_numpy(np.asarray(v)) for k, v in golden("pointcloud_norm").items()}


def test_truth_in_camera1(inputs: Inputs, norms: dict[str, Tensor]) -> None:
    torch.testing.assert_close(inputs.targets.pointmap1, norms["gt_in_cam1_view1"])
    torch.testing.assert_close(inputs.targets.pointmap2, norms["gt_in_cam1_view2"])


def arguments(targets: PairTargets) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return targets.pointmap1, targets.pointmap2, targets.valid1, targets.valid2


@pytest.mark.parametrize(
    "mode", ["avg_dis", "avg_log1p", "avg_warp-log1p", "median_dis", "sqrt_dis"]
)
def test_scale(mode, inputs: Inputs, norms: dict[str, Tensor]) -> None:
    scale = joint_scale(*arguments(inputs.targets), mode)
    torch.testing.assert_close(scale, norms[f"norm/{mode}/factor"], rtol=1e-5, atol=1e-8)


def test_warped_points(inputs: Inputs, norms: dict[str, Tensor]) -> None:
    first, second, *valid = arguments(inputs.targets)
    scale = joint_scale(log_points(first), log_points(second), *valid, mode="avg_dis")
    valid1 = inputs.targets.valid1
    ours = log_points(first) / scale[:, None, None, None]
    expected = norms["norm/avg_warp-log1p/pts1"]
    torch.testing.assert_close(ours[valid1], expected[valid1], rtol=1e-5, atol=1e-6)


def test_scale_of_an_empty_sample(inputs: Inputs, norms: dict[str, Tensor]) -> None:
    first, second, valid1, valid2 = arguments(inputs.targets)
    valid1, valid2 = valid1.clone(), valid2.clone()
    valid1[1] = valid2[1] = False
    scale = joint_scale(first, second, valid1, valid2)
    torch.testing.assert_close(scale, norms["norm_novalid/avg_dis/factor"], rtol=1e-5, atol=0)


def test_medians(inputs: Inputs, norms: dict[str, Tensor]) -> None:
    depth = joint_median_depth(*arguments(inputs.targets))
    torch.testing.assert_close(depth, norms["joint_median_depth"])
    center, scale = joint_center_scale(*arguments(inputs.targets))
    torch.testing.assert_close(center, norms["joint_center"])
    torch.testing.assert_close(scale, norms["joint_scale"])


@pytest.mark.parametrize("method", ["avg", "median", "weiszfeld"])
def test_optimal_scale(method, inputs: Inputs, norms: dict[str, Tensor]) -> None:
    first, second, *valid = arguments(inputs.targets)
    guess = inputs.prediction.view1.pointmap, inputs.prediction.view2.pointmap
    scale = optimal_scale((first, second), guess, (valid[0], valid[1]), method)
    torch.testing.assert_close(scale, norms[f"opt_scaling/{method}"], rtol=1e-5, atol=1e-6)
