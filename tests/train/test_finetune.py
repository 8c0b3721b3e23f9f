"""Fine-tuning end to end on a tiny generated data set, with a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from weav3r.datasets.layouts import open_data_set
from weav3r.datasets.made_scenes import make_data_set, restyle
from weav3r.datasets.pair_table import PairTable
from weav3r.datasets.textures import TextureBank
from weav3r.models.card import Provenance
from weav3r.models.loading import load_model
from weav3r.train.finetune import choose_recipe, finetune, split_pairs
from weav3r.train.network import build_model

OVERRIDES = (
    "data.sizes=[[48, 64]]",
    "data.scenes=1",
    "data.correspondences=32",
    "data.shadows=false",
    "data.kernel=torch",
    "validation.scenes=2",
    "validation.mean_map_scenes=1",
    "validation.queries=32",
    "tensorboard=false",
    "optimizer.warmup_steps=1",
    "optimizer.precision=float32",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four scenes of three photos."""
    folder = tmp_path_factory.mktemp("made") / "rooms"
    bank = TextureBank.procedural(count=8, size=32)
    return make_data_set(folder, 4, 3, (48, 64), look="thermal", seed=3, textures=bank)


@pytest.fixture
def start(make_recipe, tmp_path) -> str:
    """A tiny checkpoint that nobody may sell."""
    model = build_model(make_recipe())
    model.save_pretrained(tmp_path / "start", provenance=Provenance("CC BY-NC 4.0", "Photos."))
    return str(tmp_path / "start")


@pytest.fixture(autouse=True)
def few_textures(monkeypatch, tmp_path) -> None:
    """A bank that costs nothing to load."""
    monkeypatch.setattr(
        "weav3r.datasets.textures.default_bank",
        lambda *_: TextureBank.procedural(count=8, size=32),
    )


def test_gives_a_checkpoint_and_a_report(data, start, tmp_path) -> None:
    out = tmp_path / "out"
    options = [*OVERRIDES, "steps=3"]
    result = finetune(data, out, start, minutes=10, check=False, device="cpu", overrides=options)
    assert result.steps == 3 and set(result.after) == {"held out", "procedural"}
    tuned = load_model(result.folder, device="cpu")
    assert tuned.provenance is not None and tuned.provenance.licence == "CC BY-NC 4.0"
    assert "Fine-tuned on rooms (12 photos)" in tuned.provenance.training_data
    assert tuned.provenance.base_model == "start"
    assert "CC BY-NC 4.0" in (result.folder / "README.md").read_text()
    page = result.report.read_text()
    assert page.count("<img") == 2 * 2 * 5 and "Held-out photos" in page
    assert "http" not in page and "<script" not in page
    assert (out / "pairs.npz").is_file()
    old, new = load_model(start, device="cpu").state_dict(), tuned.state_dict()
    assert any(not torch.equal(old[k].half(), new[k].half()) for k in old)


def test_faulty_data_is_refused(data, start, tmp_path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    lines = [json.loads(line) for line in (broken / "views.jsonl").read_text().splitlines()]
    for line in lines:
        line["depth"]["scale"] = 1.0  # millimetres taken for metres
    (broken / "views.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"has faults: .*weav3r data check"):
        finetune(broken, tmp_path / "out", start, overrides=OVERRIDES)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="rehearsal must be at least 0 and below 1, got 1"):
        finetune(data, tmp_path / "out", start, rehearsal=1)


def pairs_of(*pairs: tuple[int, int]) -> PairTable:
    return PairTable(np.array(pairs), np.full((len(pairs), 2), 0.5, np.float32))


def test_what_is_held_out(data) -> None:
    found = open_data_set(data)
    assert found.splits["val"] == ("scene003",)
    training, held = split_pairs(found, pairs_of((0, 1), (3, 5), (9, 10)))
    assert training.pairs.index.tolist() == [[0, 1], [3, 5]]
    assert held.pairs.index.tolist() == [[9, 10]]
    with pytest.raises(ValueError, match="has no held-out pairs: 1 pairs of 12 photos in 4 scenes"):
        split_pairs(found, pairs_of((0, 1)))
    import dataclasses

    unsplit = dataclasses.replace(found, splits={})
    assert split_pairs(unsplit, pairs_of((0, 1), (9, 11)))[1].pairs.index.tolist() == [[9, 11]]
    views = tuple(dataclasses.replace(v, scene="one") for v in found.views)
    views = tuple(dataclasses.replace(v, name=f"{k}") for k, v in enumerate(views))
    single = dataclasses.replace(found, views=views, splits={})
    table = pairs_of((0, 1), (8, 9), (9, 11))  # the last three of twelve photos are held out
    training, held = split_pairs(single, table)
    assert training.pairs.index.tolist() == [[0, 1]] and held.pairs.index.tolist() == [[9, 11]]


def test_sizes_follow_the_photos(data) -> None:
    found = open_data_set(data)
    recipe = choose_recipe(found, "weav3r-small", torch.device("cpu"), "lora", ["seed=7"])
    assert recipe.adapt.train == "lora" and recipe.seed == 7
    for height, width in recipe.data.sizes:
        assert height % 16 == width % 16 == 0
        assert width / height == pytest.approx(64 / 48, rel=0.15)


def test_looks_keep_the_geometry() -> None:
    image = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 1, 3))
    assert restyle(image, "photo", 0) is image
    night, thermal = restyle(image, "night", 0), restyle(image, "thermal", 0)
    assert night.shape == thermal.shape == image.shape and night.mean() < 0.5 * image.mean()
    assert thermal[:, :8].mean() > thermal[:, -8:].mean()  # dark is hot
    assert np.ptp(thermal[..., 0].astype(int) - thermal[..., 2]) > 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"look": "x-ray"}, "look must be one of photo, night, thermal, got 'x-ray'"),
        ({"views": 9}, "expected 2 scenes or more of 2 to 8 views"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_data_set(tmp_path / "new", **options)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        make_data_set(tmp_path)
