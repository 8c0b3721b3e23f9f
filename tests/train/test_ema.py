"""The averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weav3r.train.ema import ExponentialMovingAverage


def constant_model(value: float) -> nn.Linear:
    model = nn.Linear(1, 1)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def test_warm_up_and_average() -> None:
    model = constant_model(0.0)
    ema = ExponentialMovingAverage(model, decay=0.5)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1.0)
    expected = 0.0
    for step in range(8):
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        assert ema.model.weight.item() == pytest.approx(expected)
    assert not ema.model.weight.requires_grad and not ema.model.training


def test_state_round_trip() -> None:
    ema = ExponentialMovingAverage(constant_model(0.0))
    ema.update(constant_model(1.0))
    other = ExponentialMovingAverage(constant_model(5.0))
    other.load_state_dict(ema.state_dict())
    assert other.updates == 1
    torch.testing.assert_close(other.model.weight, ema.model.weight)


def test_wrong_decay() -> None:
    with pytest.raises(ValueError, match="decay must be in"):
        ExponentialMovingAverage(constant_model(0.0), decay=1.0)
