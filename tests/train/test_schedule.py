"""Learning-rate schedules."""

from __future__ import annotations

import pytest

from weav3r.train.schedule import WarmupStableDecay, warmup_cosine


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
