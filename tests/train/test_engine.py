"""The training loop: it learns, resumes to the bit, decays on a branch, and guards itself."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from weav3r.croco_like import CrocoConfig, CrocoModel
from weav3r.datasets.views import ViewBatch
from weav3r.models.card import Provenance
from weav3r.models.config import ModelConfig
from weav3r.models.loading import load_model
from weav3r.train.config import Recipe, load_recipe
from weav3r.train.engine import CHECKPOINT, Trainer, train
from weav3r.train.log import read_log
from weav3r.train.network import build_model, parameter_groups
from weav3r.train.runtime import write_atomically


def test_overfits_two_pairs(make_recipe, make_scenes, tmp_path) -> None:
    recipe = make_recipe(
        steps=50,
        log_every=10,
        data={"max_scenes": 2, "mirror": 0.0, "channel_permutation": 0.0, "color_jitter": 0.0},
        optimizer={"learning_rate": 5e-3, "warmup_steps": 5},
    )
    result = train(recipe, output=tmp_path, device="cpu", make_scenes=make_scenes)
    records = [r for r in read_log(tmp_path) if r["kind"] == "train"]
    assert records[0]["e1"] > 0.2 and records[-1]["e1"] < 0.1
    assert records[-1]["e2"] < 0.12
    assert records[-1]["accuracy"] > 0.8
    assert {"pairs_per_s", "data_share", "info_nce", "learning_rate"} <= set(records[-1])
    assert result.step == 50 and result.weights.exists()
    exported = load_model(result.weights, device="cpu")
    assert exported.config == build_model(recipe).config


def state(recipe: Recipe, folder) -> dict:
    return torch.load(folder / CHECKPOINT, weights_only=True)


def assert_same(a, b) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key not in ("seconds", "recipe"):
                assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_resumed_run_equals_an_unbroken_one(make_recipe, make_scenes, tmp_path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"device": "cpu", "make_scenes": make_scenes}
    recipe = make_recipe(steps=4, data={"sizes": [[32, 48], [48, 32]]})
    train(recipe, output=whole, **options)
    train(dataclasses.replace(recipe, steps=2), output=parts, **options)
    result = train(recipe, output=parts, **options)
    assert result.step == 4
    assert_same(state(recipe, whole), state(recipe, parts))
    exported = [load_model(f / "weights.safetensors", device="cpu") for f in (whole, parts)]
    assert_same(*(m.state_dict() for m in exported))


def test_decay_is_a_branch(make_recipe, make_scenes, tmp_path) -> None:
    """The weights are those after the fall, the checkpoint the one before it."""
    recipe = make_recipe(steps=8, log_every=1, optimizer={"decay_fraction": 0.5})
    options = {"output": tmp_path, "device": "cpu", "make_scenes": make_scenes}
    train(recipe, decay=True, **options)
    rates = [r["learning_rate"] for r in read_log(tmp_path) if r["kind"] == "train"]
    assert rates[3] == pytest.approx(1e-3) and rates[4] > rates[5] > rates[6] > rates[7]
    assert state(recipe, tmp_path)["step"] == 4
    exported = load_model(tmp_path / "weights.safetensors", device="cpu").state_dict()
    stable = state(recipe, tmp_path)["ema"]["model"]
    assert any((exported[k] - stable[k]).abs().max() > 1e-3 for k in stable)
    assert train(dataclasses.replace(recipe, steps=5), **options).step == 5


def test_minutes_end_a_slice(make_recipe, make_scenes, tmp_path) -> None:
    recipe = make_recipe(steps=None)
    options = {"output": tmp_path, "device": "cpu", "make_scenes": make_scenes}
    first = train(recipe, minutes=0.01, **options)
    second = train(recipe, minutes=0.01, **options)
    assert 0 < first.step < second.step and first.seconds > 0.6
    with pytest.raises(ValueError, match="training needs an end"):
        train(recipe, **options)


def test_signal_stops_cleanly(make_recipe, make_scenes, tmp_path) -> None:
    class Interrupting:
        def __init__(self, *args) -> None:
            self.scenes = make_scenes(*args)

        def batch(self, start_index: int, batch_size: int) -> ViewBatch:
            if start_index == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.scenes.batch(start_index, batch_size)

    before = signal.getsignal(signal.SIGTERM)
    result = train(make_recipe(steps=50), output=tmp_path, device="cpu", make_scenes=Interrupting)
    assert result.step == 3 and (tmp_path / CHECKPOINT).exists()
    assert signal.getsignal(signal.SIGTERM) is before


def trainer_with_bad_gradients(make_recipe, make_scenes, tmp_path, **optimizer) -> Trainer:
    trainer = Trainer(make_recipe(optimizer=optimizer), tmp_path, "cpu", make_scenes)
    trainer.model.get_parameter("decoder_embed.weight").register_hook(lambda g: g * torch.nan)
    return trainer


def test_bad_gradients_are_skipped_and_named(make_recipe, make_scenes, tmp_path, caplog) -> None:
    trainer = trainer_with_bad_gradients(make_recipe, make_scenes, tmp_path, max_skipped=2)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        trainer.train_step(trainer.task.batches(0), 1e-3)
    assert "scenes [0, 1] of seed 0 at 32x48" in caplog.text
    assert "gradient of model.decoder_embed.weight" in caplog.text
    assert_same(trainer.model.state_dict(), before)
    assert trainer.step == 1 and trainer.next_scene == 2
    with pytest.raises(FloatingPointError, match="2 gradients in a row were not finite"):
        trainer.train_step(trainer.task.batches(2), 1e-3)


def test_bad_input_is_named(make_recipe, make_scenes, tmp_path, caplog) -> None:
    trainer = Trainer(make_recipe(data={"micro_batches": 2}), tmp_path, "cpu", make_scenes)
    good, bad = trainer.task.batches(0), next(trainer.task.batches(0))
    bad.images[0, 0, 0, 0] = torch.nan
    trainer.train_step(iter([next(good), dataclasses.replace(bad, seeds=bad.seeds + 7)]), 1e-3)
    assert "not finite: images, loss of the loss" in caplog.text
    assert "scenes [7, 8] of seed 0" in caplog.text  # the other batch is not to blame


def test_batches_of_a_step_add_up(make_recipe, make_scenes, tmp_path) -> None:
    """The gradient of a step is the mean over its batches, each with scenes of its own."""
    recipe = make_recipe(data={"micro_batches": 2}, optimizer={"clip_norm": 1e9})
    trainer = Trainer(recipe, tmp_path, "cpu", make_scenes)
    expected = {name: torch.zeros_like(p) for name, p in trainer.model.named_parameters()}
    batches = list(itertools.islice(trainer.task.batches(0), 2))
    assert [b.seeds.tolist() for b in batches] == [[0, 1], [2, 3]]
    for batch in batches:
        trainer.model.zero_grad()
        trainer.step_module(batch, 0, torch.float32)[0].backward()
        for name, p in trainer.model.named_parameters():
            expected[name] += 0 if p.grad is None else p.grad / 2
    found: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        found.update(
            {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        )

    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train_step(iter(batches), 1e-3)
    assert trainer.next_scene == 4 and len(found) > 10
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_other_network_is_refused(make_recipe, make_scenes, tmp_path) -> None:
    recipe = make_recipe(steps=1)
    train(recipe, output=tmp_path, device="cpu", make_scenes=make_scenes)
    other = dataclasses.replace(recipe, model_overrides={"encoder_dim": 64})
    with pytest.raises(ValueError, match="holds a run with model_overrides="):
        train(other, output=tmp_path, device="cpu", make_scenes=make_scenes)
    torch.save({"format": 99}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="another version"):
        train(recipe, output=tmp_path, device="cpu", make_scenes=make_scenes)


def test_starting_afresh_warns(make_recipe, make_scenes, tmp_path, caplog) -> None:
    options = {"output": tmp_path, "device": "cpu", "make_scenes": make_scenes}
    train(make_recipe(steps=2), **options)
    assert train(make_recipe(steps=1), resume=False, **options).step == 1
    assert "starting afresh" in caplog.text


def test_new_learning_rate_applies_to_a_resumed_run(make_recipe, make_scenes, tmp_path) -> None:
    options = {"output": tmp_path, "device": "cpu", "make_scenes": make_scenes}
    train(make_recipe(steps=2), **options)
    changed = make_recipe(steps=4, optimizer={"learning_rate": 5e-4, "weight_decay": 0.1})
    trainer = Trainer(changed, tmp_path, "cpu", make_scenes)
    assert trainer.load()
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.1
    trainer.run()
    assert read_log(tmp_path)[-1]["learning_rate"] == 5e-4


def test_models_by_name_and_from_weights(make_recipe, make_scenes, tmp_path) -> None:
    recipe = make_recipe(steps=1)
    result = train(recipe, output=tmp_path, device="cpu", make_scenes=make_scenes)
    again = build_model(dataclasses.replace(recipe, init=str(result.weights)))
    assert isinstance(again, nn.Module)
    with pytest.raises(ValueError, match="unknown model 'huge'; presets: weav3r-small"):
        build_model(dataclasses.replace(recipe, model="huge"))
    with pytest.raises(ValueError, match="unknown fields in the model configuration: depth"):
        build_model(dataclasses.replace(recipe, model_overrides={"depth": 3}))
    torch.testing.assert_close(
        build_model(recipe).state_dict(), build_model(recipe).state_dict(), rtol=0, atol=0
    )


def test_weights_of_another_shape_are_taken_partly(make_recipe, tmp_path) -> None:
    """As MASt3R starts from DUSt3R: the transformer fits, the descriptor head is new."""
    plain = {"descriptor_head": "none", "descriptor_dim": 0, "two_confidences": False}
    overrides = {**make_recipe().model_overrides, **plain}
    start = build_model(dataclasses.replace(make_recipe(), model_overrides=overrides))
    start.save_pretrained(tmp_path / "start")
    recipe = make_recipe(init=str(tmp_path / "start"), seed=1)
    assert build_model(recipe).config.descriptor_dim == 0
    model = build_model(dataclasses.replace(recipe, init_partly=True))
    assert model.config.descriptor_dim > 0
    for key in ("enc_blocks.0.attn.qkv.weight", "dec_blocks2.0.mlp.fc1.weight"):
        assert torch.equal(model.state_dict()[key], start.state_dict()[key])
    assert model.provenance is not None and model.provenance.base_model == "start"
    wider = dataclasses.replace(
        recipe, init_partly=True, model_overrides={**recipe.model_overrides, "encoder_dim": 64}
    )
    with pytest.raises(ValueError, match="has no block that fits weav3r-small"):
        build_model(wider)


def test_the_licence_of_the_initial_weights_stays(make_recipe, make_scenes, tmp_path) -> None:
    start = build_model(make_recipe())
    stated = Provenance("CC BY-NC 4.0", "Photos.", {"AUC@5": "0.5"}, description="Good.")
    start.save_pretrained(tmp_path / "start", provenance=stated)
    recipe = make_recipe(steps=1, init=str(tmp_path / "start"))
    result = train(recipe, output=tmp_path / "run", device="cpu", make_scenes=make_scenes)
    tuned = load_model(result.weights, device="cpu").provenance
    assert tuned == Provenance("CC BY-NC 4.0", "Started from start. Photos.", base_model="start")


def completion_file(config: ModelConfig, path: Path, position: str) -> dict[str, Tensor]:
    """Write a completion network with the transformer of a two-view network; give its weights."""
    kwargs = {
        "enc_embed_dim": config.encoder_dim,
        "enc_depth": config.encoder_depth,
        "enc_num_heads": config.encoder_heads,
        "dec_embed_dim": config.decoder_dim,
        "dec_depth": config.decoder_depth,
        "dec_num_heads": config.decoder_heads,
        "pos_embed": position,
    }
    weights = CrocoModel(CrocoConfig.from_published(kwargs)).state_dict()
    if path.suffix == ".pth":
        torch.save({"model": weights, "croco_kwargs": kwargs}, path)
    else:
        save_file(weights, path)
    return weights


@pytest.mark.parametrize("name", ["croco.pth", "croco.safetensors"])
def test_a_completion_network_starts_the_transformer(make_recipe, tmp_path, name: str) -> None:
    recipe = make_recipe()
    config = build_model(recipe).config
    weights = completion_file(config, tmp_path / name, "RoPE100")
    model = build_model(dataclasses.replace(recipe, init=str(tmp_path / name)))
    assert model.config == config
    found = model.state_dict()
    assert model.provenance is not None and model.provenance.base_model == name
    assert model.provenance.non_commercial == (name == "croco.pth")  # the published files are
    for key in ("enc_blocks.0.attn.qkv.weight", "dec_blocks.0.cross_attn.projk.weight"):
        assert torch.equal(found[key], weights[key])
        assert torch.equal(found[key.replace("dec_blocks", "dec_blocks2")], weights[key])


def test_a_completion_network_with_position_tables(make_recipe, tmp_path) -> None:
    recipe = make_recipe(init=str(tmp_path / "croco.pth"))
    config = build_model(make_recipe()).config
    completion_file(config, tmp_path / "croco.pth", "cosine")
    with pytest.raises(ValueError, match=r"croco.pth has position tables \(CroCo v1\)"):
        build_model(recipe)


def test_only_matrices_decay() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv2d(1, 2, 3))
    decayed, plain = parameter_groups(module, 0.05)
    assert [p.ndim for p in decayed["params"]] == [2, 4] and decayed["weight_decay"] == 0.05
    assert len(plain["params"]) == 4 and plain["weight_decay"] == 0


def test_failed_write_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / CHECKPOINT
    write_atomically(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        write_atomically(path, {"step": lambda: None})
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


def test_bfloat16_step_is_close(make_recipe, make_scenes, tmp_path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        recipe = make_recipe(optimizer={"precision": precision})
        trainer = Trainer(recipe, tmp_path, "cpu", make_scenes)
        losses.append(trainer.train_step(trainer.task.batches(0), 1e-3)["loss"])
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_packaged_recipe_runs_on_procedural_scenes(tmp_path) -> None:
    recipe = load_recipe("tiny-cpu", {"steps": 3, "validation.scenes": 2, "tensorboard": False})
    result = train(recipe, output=tmp_path, device="cpu")
    assert result.step == 3 and result.validation["e1"] > 0
