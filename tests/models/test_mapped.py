"""Weights that are views of a file leave memory and come back unchanged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from weav3r.models import TwoViewModel, load_model, mapped, save_checkpoint
from weav3r.models.mapped import page_out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_only_mapped_weights_of_large_networks_leave(
    tmp_path: Path, any_tiny: TwoViewModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_checkpoint(any_tiny, tmp_path / "a.safetensors", "float32")
    loaded = load_model(file, device="cpu")
    bytes_of_encoder = 4 * sum(p.numel() for p in loaded.enc_blocks.parameters())
    assert page_out([loaded.enc_blocks]) == 0  # not worth while
    monkeypatch.setattr(mapped, "_WORTHWHILE_BYTES", 1)
    assert page_out([any_tiny.enc_blocks]) == 0  # not a view of a file
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    assert page_out([loaded.enc_blocks]) == bytes_of_encoder
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_stored_in_half_precision_is_a_copy(
    tmp_path: Path, any_tiny: TwoViewModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_WORTHWHILE_BYTES", 1)
    file = save_checkpoint(any_tiny, tmp_path / "a.safetensors", "float16")
    assert page_out([load_model(file, device="cpu")]) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_changed_weights_are_not_lost(
    tmp_path: Path, any_tiny: TwoViewModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_WORTHWHILE_BYTES", 1)
    loaded = load_model(save_checkpoint(any_tiny, tmp_path / "a", "float32"), device="cpu")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.fill_(0.25)
    assert page_out([loaded]) > 0
    assert all(bool((p == 0.25).all()) for p in loaded.parameters())
