"""Validation: an oracle gets everything right, the baselines are always there."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from weav3r.train.engine import Trainer
from weav3r.train.validation import Validator


@dataclass(frozen=True)
class View:
    pointmap: Tensor
    descriptors: Tensor | None


@dataclass(frozen=True)
class Pair:
    view1: View
    view2: View


class Oracle(nn.Module):
    """Knows the pointmaps of the validation pairs; its descriptors are functions of the points."""

    directions: Tensor

    def __init__(self, validator: Validator, size: tuple[int, int]) -> None:
        super().__init__()
        self.pairs = validator._make(size)
        directions = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        self.register_buffer("directions", 40 * directions)

    def forward(self, images1: Tensor, images2: Tensor) -> Pair:
        stored = self.pairs
        rows = [(stored.images1 == image).flatten(1).all(1).int().argmax() for image in images1]
        index = torch.stack(rows)
        views = []
        for points in (stored.targets.pointmap1[index], stored.targets.pointmap2[index]):
            angle = points @ self.directions
            waves = torch.cat([angle.sin(), angle.cos()], -1)
            views.append(View(3 * points, nn.functional.normalize(waves, dim=-1)))
        return Pair(*views)


@pytest.fixture
def validator(make_recipe, make_scenes) -> Validator:
    recipe = make_recipe(validation={"scenes": 5, "mean_map_scenes": 9})
    return Validator(recipe, make_scenes, torch.device("cpu"))


def test_oracle_is_right(validator) -> None:
    values = validator.run(Oracle(validator, (32, 48)))
    assert values["e1"] < 1e-5 and values["e2"] < 1e-5 and values["abs_rel"] < 1e-5
    assert values["pck1.5"] > 0.99 and values["reciprocal_pck5"] > 0.99
    assert values["reciprocal_share"] > 0.5
    for name in ("mean_map", "same_image", "wrong_partner"):
        assert values[f"e1_{name}"] >= 0 and values[f"e2_{name}"] >= 0


def test_untrained_network_gets_all_values(make_recipe, make_scenes, tmp_path) -> None:
    recipe = make_recipe(
        data={"sizes": [[32, 48], [48, 32]]},
        validation={"scenes": 2, "mean_map_scenes": 0},
    )
    trainer = Trainer(recipe, tmp_path, "cpu", make_scenes)
    trainer.model.train()
    first = trainer.task.validate(trainer.model, torch.float32)
    assert trainer.model.training
    assert first == trainer.task.validate(trainer.model, torch.float32)
    assert {"e1", "e2", "e2_wrong_partner", "abs_rel", "pck5", "reciprocal_pck1.5"} <= set(first)
    assert first["e1"] > first["e1_mean_map"]


def test_model_without_descriptors(validator) -> None:
    class PointsOnly(nn.Module):
        def forward(self, images1: Tensor, images2: Tensor) -> Pair:
            view = View(images1.permute(0, 2, 3, 1), None)
            return Pair(view, view)

    values = validator.run(PointsOnly())
    assert values["pck5"] == 0 and values["e1"] > 0
