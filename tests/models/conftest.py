"""Tiny networks with every feature of the real ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from weav3r.models import PRESETS, ModelConfig, TwoViewModel

TINY_SHAPE = {
    "encoder_dim": 32,
    "encoder_depth": 2,
    "encoder_heads": 2,
    "decoder_dim": 24,
    "decoder_depth": 2,
    "decoder_heads": 2,
}


def tiny_config(preset: str) -> ModelConfig:
    """Shrink a preset, keeping its options."""
    config = dataclasses.replace(
        PRESETS[preset],
        name="tiny",
        **TINY_SHAPE,
        dpt_layer_dims=(4, 6, 8, 10),
        dpt_feature_dim=8,
        dpt_last_dim=4,
        local_dims=(4, 6, 8, 12),
        local_token_dim=12,
    )
    return config


@pytest.fixture
def tiny() -> TwoViewModel:
    """Give a tiny version of the bundled network."""
    torch.manual_seed(0)
    return TwoViewModel(tiny_config("weav3r-small")).eval()


@pytest.fixture(params=["weav3r-small", "dust3r-512-linear", "dust3r-512-dpt", "mast3r-512"])
def any_tiny(request: pytest.FixtureRequest) -> TwoViewModel:
    """Give a tiny version of each kind of network."""
    torch.manual_seed(0)
    return TwoViewModel(tiny_config(request.param)).eval()
