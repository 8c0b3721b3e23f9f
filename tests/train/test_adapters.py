"""Parts of a network that are trained, and low-rank corrections that fold away."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from weav3r.models.loading import load_model
from weav3r.models.storage import save_checkpoint
from weav3r.train.adapters import choose_trained, merged
from weav3r.train.config import AdaptConfig
from weav3r.train.engine import CHECKPOINT, Trainer, train
from weav3r.train.network import build_model


@pytest.fixture
def model(make_recipe):
    """A small two-view network."""
    return build_model(make_recipe())


def trained(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_chosen_part_is_trained(make_recipe, model) -> None:
    everything = trained(model)
    choose_trained(model, AdaptConfig("all"))
    assert trained(model) == everything
    choose_trained(model, AdaptConfig("after_encoder"))
    held = everything - trained(model)
    assert any(n.startswith("enc_blocks") for n in held) and "patch_embed.proj.weight" in held
    assert all(n.startswith(("enc_", "patch_embed", "coordinate_embed")) for n in held)
    choose_trained(model, AdaptConfig("heads"))
    assert all(n.startswith(("downstream_head", "local_")) for n in trained(model))
    assert len(trained(model)) > 4
    with pytest.raises(ValueError, match="lora_rank must be at least 1, got 0"):
        choose_trained(build_model(make_recipe()), AdaptConfig("lora", lora_rank=0))


def test_corrections_start_as_nothing_and_fold_away(model) -> None:
    images = torch.rand(2, 1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = model(images[0], images[1]).view2.pointmap
    names = set(model.state_dict())
    assert merged(model) is model
    choose_trained(model, AdaptConfig("lora", lora_rank=4, lora_alpha=8))
    torch.testing.assert_close(model(images[0], images[1]).view2.pointmap, before)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(".up"):
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    changed = model(images[0], images[1]).view2.pointmap
    assert (changed - before).abs().max() > 1e-3
    plain = merged(model)
    assert set(plain.state_dict()) == names
    torch.testing.assert_close(plain(images[0], images[1]).view2.pointmap, changed)


@pytest.mark.parametrize("choice", ["after_encoder", "heads", "lora"])
def test_a_run_changes_only_its_part(make_recipe, make_scenes, tmp_path, choice: str) -> None:
    start = build_model(make_recipe())
    start.save_pretrained(tmp_path / "start")
    recipe = make_recipe(init=str(tmp_path / "start"), adapt={"train": choice, "lora_rank": 2})
    options = {"device": "cpu", "make_scenes": make_scenes}
    result = train(recipe, output=tmp_path / "whole", **options)
    save_checkpoint(start, tmp_path / "start.safetensors")  # rounded as a run's weights are
    old, new = (
        load_model(path, device="cpu").state_dict()
        for path in (tmp_path / "start.safetensors", result.weights)
    )
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    heads = {name for name in old if name.startswith(("downstream_head", "local_"))}
    assert changed & heads
    blocks = {"after_encoder": {"dec_"}, "heads": set(), "lora": {"dec_", "enc_"}}[choice]
    assert {n[:4] for n in changed if n.startswith(("enc_blocks", "dec_blocks"))} == blocks
    assert "patch_embed.proj.weight" not in changed
    train(dataclasses.replace(recipe, steps=2), output=tmp_path / "parts", **options)
    train(recipe, output=tmp_path / "parts", **options)
    whole, parts = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["model"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    other = dataclasses.replace(recipe, adapt=AdaptConfig())
    with pytest.raises(ValueError, match="holds a run with adapt="):
        Trainer(other, tmp_path / "parts", "cpu", make_scenes).load()
