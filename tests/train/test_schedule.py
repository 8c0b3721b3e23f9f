"""Learning-rate schedules."""

from __future__ import annotations

import pytest

from weav3r.train.config import OptimizerConfig, load_recipe, recipe_names
from weav3r.train.schedule import (
    WarmupCosine,
    WarmupStableDecay,
    make_schedule,
    warmup_cosine,
)


def test_warmup_then_stable() -> None:
    schedule = WarmupStableDecay(1.0, warmup_steps=4, decay_fraction=0.25, final_factor=0.1)
    rates = [schedule.learning_rate(step) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_decay_is_linear_over_the_last_part() -> None:
    schedule = WarmupStableDecay(2.0, decay_fraction=0.25, final_factor=0.1)
    rates = [schedule.learning_rate(100, p) for p in (0.0, 0.7, 0.75, 0.875, 1.0, 1.2)]
    assert rates == pytest.approx([2.0, 2.0, 2.0, 1.1, 0.2, 0.2])
    assert not schedule.in_decay(0.7) and schedule.in_decay(0.75) and not schedule.in_decay(None)


def test_wrong_fraction() -> None:
    with pytest.raises(ValueError, match="decay_fraction must be in"):
        WarmupStableDecay(1.0, decay_fraction=1.5)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.0),
        (0.5, 5e-06),
        (5, 5e-05),
        (10, 1e-4),
        (10.25, 9.999811519167648e-05),
        (40, 7.525e-05),
        (55, 5.05e-05),
        (99.9, 1.0003015709393756e-06),
        (100, 1e-06),
    ],
)
def test_published_cosine(epoch: float, rate: float) -> None:
    ours = warmup_cosine(epoch, peak=1e-4, epochs=100, warmup_epochs=10, minimum=1e-6)
    assert ours == pytest.approx(rate, rel=1e-12, abs=1e-18)


def test_cosine_of_a_run() -> None:
    config = OptimizerConfig(schedule="cosine", learning_rate=1e-4, warmup_steps=10)
    schedule = make_schedule(config, 100)
    assert isinstance(schedule, WarmupCosine) and not schedule.in_decay(0.9)
    rates = [schedule.learning_rate(step) for step in (0, 5, 10, 55, 100, 120)]
    assert rates == pytest.approx([0, 5e-5, 1e-4, 5.05e-5, 1e-6, 1e-6])
    for steps in (None, 10):
        with pytest.raises(ValueError, match="schedule=cosine needs steps in the recipe"):
            make_schedule(config, steps)


def test_every_packaged_recipe_can_be_made() -> None:
    names = recipe_names()
    assert {"small", "croco", "finetune", "dust3r-224-linear", "mast3r-512"} <= set(names)
    for name in names:
        recipe = load_recipe(name)
        assert recipe.name == name
        make_schedule(recipe.optimizer, recipe.steps)


@pytest.mark.parametrize(
    ("name", "pairs", "epochs", "pairs_per_epoch"),
    [
        ("dust3r-224-linear", 128, 100, 800_000),
        ("dust3r-512-linear", 64, 100, 80_000),
        ("dust3r-512-dpt", 64, 90, 80_000),
        ("mast3r-512", 64, 50, 698_820),
    ],
)
def test_published_lengths(name: str, pairs: int, epochs: int, pairs_per_epoch: int) -> None:
    recipe = load_recipe(name)
    assert recipe.data.micro_batches is not None and recipe.steps is not None
    assert recipe.data.scenes * recipe.data.micro_batches == pairs
    assert recipe.steps == pytest.approx(epochs * pairs_per_epoch / pairs, rel=1e-4)
