"""Completion pre-training: it learns, draws, exports what a two-view network starts from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from weav3r.datasets.image_pairs import read_image_pairs
from weav3r.train.completion import CompletionTask, completion_config
from weav3r.train.completion_data import PhotoCompletionStream, augment_view
from weav3r.train.config import CompletionConfig, load_recipe
from weav3r.train.engine import Trainer, train
from weav3r.train.log import read_log
from weav3r.train.network import build_model


@pytest.fixture
def recipe(make_recipe):
    """A completion run of seconds."""
    return make_recipe(
        task="completion",
        data={"sizes": [[64, 64]], "correspondences": 0},
        completion={"crop": 48, "mask_ratio": 0.7},
        validation={"scenes": 4},
    )


def test_learns_and_draws_and_starts_a_two_view_network(recipe, make_scenes, tmp_path) -> None:
    data = dataclasses.replace(recipe.data, max_scenes=2)
    optimizer = dataclasses.replace(recipe.optimizer, learning_rate=5e-3)
    recipe = dataclasses.replace(recipe, steps=60, log_every=10, data=data, optimizer=optimizer)
    options = {"output": tmp_path / "run", "device": "cpu", "make_scenes": make_scenes}
    result = train(recipe, **options)
    losses = [r["loss"] for r in read_log(tmp_path / "run") if r["kind"] == "train"]
    assert losses[-1] < 0.9 < 1 < losses[0]  # 1: right means, no structure
    assert set(result.validation) == {"loss", "loss_wrong_partner"}
    pictures = sorted((tmp_path / "run" / "pictures").glob("*.png"))
    assert [p.name for p in pictures] == ["step-0000000.png", "step-0000060.png"]
    with Image.open(pictures[-1]) as picture:
        drawn = np.asarray(picture)
    assert drawn.shape == (4 * 48, 4 * 48, 3) and drawn.std() > 20
    assert (drawn[:, :48] != drawn[:, 96:144]).any() and (drawn[:, 48:96] != drawn[:, :48]).any()
    two_view = dataclasses.replace(recipe, task="pairs", init=str(result.weights))
    state = build_model(two_view).state_dict()
    weights = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["ema"]["model"]
    for key in ("enc_blocks.0.attn.q_norm.weight", "dec_blocks.0.cross_attn.projk.weight"):
        assert torch.equal(state[key], weights[key])
        assert torch.equal(state[key.replace("dec_blocks", "dec_blocks2")], weights[key])


def test_resumes_to_the_bit(recipe, make_scenes, tmp_path) -> None:
    options = {"device": "cpu", "make_scenes": make_scenes}
    train(recipe, output=tmp_path / "whole", **options)
    train(dataclasses.replace(recipe, steps=2), output=tmp_path / "parts", **options)
    train(recipe, output=tmp_path / "parts", **options)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert all(torch.equal(v, parts["model"][k]) for k, v in whole["model"].items())


def test_shape_follows_the_two_view_network(recipe) -> None:
    config = completion_config(dataclasses.replace(recipe, model="mast3r-512", model_overrides={}))
    assert (config.encoder_dim, config.encoder_depth, config.decoder_dim) == (1024, 24, 768)
    assert config.rope_base == 100 and not config.qk_norm
    small = completion_config(load_recipe("croco"))
    assert small.qk_norm and small.patch_size == 16 and small.image_size == 224
    with pytest.raises(ValueError, match=r"mask_ratio must be between 0 and 1, got 1"):
        completion_config(dataclasses.replace(recipe, completion=CompletionConfig(mask_ratio=1.0)))


def test_wrong_settings_are_named(recipe, make_scenes, tmp_path) -> None:
    started = dataclasses.replace(recipe, init="weav3r-small")
    with pytest.raises(ValueError, match="starts from nothing: leave out init"):
        CompletionTask(started, torch.device("cpu"), make_scenes)
    with pytest.raises(ValueError, match="makes its own network"):
        model = build_model(dataclasses.replace(recipe, task="pairs"))
        Trainer(recipe, tmp_path, "cpu", make_scenes, model)
    large = dataclasses.replace(recipe, completion=CompletionConfig(crop=96))
    with pytest.raises(ValueError, match="64x64 are smaller than completion.crop=96"):
        next(CompletionTask(large, torch.device("cpu"), make_scenes).batches(0))
    train(
        dataclasses.replace(recipe, steps=1), output=tmp_path, device="cpu", make_scenes=make_scenes
    )
    with pytest.raises(ValueError, match="holds a run with task='completion'"):
        other = dataclasses.replace(recipe, task="pairs")
        train(other, output=tmp_path, device="cpu", make_scenes=make_scenes)


def test_views_get_their_own_crops_and_colours() -> None:
    images = torch.rand(3, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    config = CompletionConfig(crop=32)
    first = augment_view(images, config, np.random.default_rng(0))
    second = augment_view(images, config, np.random.default_rng(1))
    assert first.shape == second.shape == (3, 3, 32, 32) and not torch.equal(first, second)
    plain = augment_view(images, CompletionConfig(crop=None, jitter=0.0), np.random.default_rng(0))
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    torch.testing.assert_close(plain * deviation + mean, images, rtol=1e-4, atol=1e-5)


@pytest.fixture
def photos(tmp_path):
    """A folder of five photo pairs."""
    rng = np.random.default_rng(0)
    for k in range(5):
        for side in (1, 2):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"p{k}_{side}.jpg")
    return tmp_path


def test_photo_pairs_are_shuffled_every_epoch_and_shared(photos) -> None:
    pairs, config = read_image_pairs(photos), CompletionConfig(crop=32)
    stream = PhotoCompletionStream(pairs, 5, config, 0).iterate(0)
    epochs = [next(stream).seeds.tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(5)) and epochs[0] != epochs[1]
    alone = PhotoCompletionStream(pairs, 2, config, 0, micro_batches=2).iterate(4)
    shared = [PhotoCompletionStream(pairs, 2, config, 0, r, 2).iterate(4) for r in range(2)]
    for k in range(4):
        a, b = next(alone), next(shared[k % 2])
        assert torch.equal(a.images1, b.images1) and a.mask_seed == b.mask_seed
        assert a.next_scene == b.next_scene == 8 + 4 * (k // 2)


def test_trains_on_photo_pairs(recipe, photos, tmp_path) -> None:
    config = CompletionConfig(crop=32, photos=str(photos))
    run = dataclasses.replace(recipe, completion=config, steps=2)
    assert train(run, output=tmp_path / "run", device="cpu").step == 2
