"""Saved folders: both layouts, every precision, and what travels with the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weav3r.models import (
    PRESETS,
    ModelConfig,
    Provenance,
    TwoViewModel,
    convert_checkpoint,
    load_model,
)
from weav3r.models.convert import published_arguments
from weav3r.models.published_config import config_from_published

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 48).view(2, 1, 3, 32, 48)
STATED = Provenance(licence="CC BY-NC-SA 4.0", base_model="me/base", metrics={"AUC@5": "0.5"})


class Published(nn.Module, PyTorchModelHubMixin):
    """A class with the constructor and the parameter names of the published ones."""

    def __init__(
        self,
        img_size=(224, 224),
        patch_size=16,
        enc_embed_dim=768,
        enc_depth=12,
        enc_num_heads=12,
        dec_embed_dim=512,
        dec_depth=8,
        dec_num_heads=16,
        mlp_ratio=4,
        pos_embed="cosine",
        output_mode="pts3d",
        head_type="linear",
        depth_mode=("exp", -math.inf, math.inf),
        conf_mode=("exp", 1, math.inf),
        freeze="none",
        landscape_only=True,
        patch_embed_cls="PatchEmbedDust3R",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name in _ARGUMENTS}
        super().__init__()
        network = TwoViewModel(config_from_published(arguments))
        for name, child in network.named_children():
            self.add_module(name, child)
        self.mask_token = network.mask_token
        if head_type == "dpt":  # the reassembly convolutions, under a second name
            for head in (network.downstream_head1, network.downstream_head2):
                scratch = head.get_submodule("dpt.scratch")
                layers = [scratch.get_submodule(f"layer{i}_rn") for i in (1, 2, 3, 4)]
                scratch.add_module("layer_rn", nn.ModuleList(layers))
        self.network = [network]  # in a list: its parameters are registered once

    def forward(self, image1: Tensor, image2: Tensor) -> list[Tensor]:
        """Give all maps of a pair."""
        return maps(self.network[0], image1, image2)


_ARGUMENTS = set(inspect.signature(Published.__init__).parameters) - {"self"}
TINY = {
    "img_size": (64, 64),
    "enc_embed_dim": 32,
    "enc_depth": 2,
    "enc_num_heads": 2,
    "dec_embed_dim": 32,
    "dec_num_heads": 2,
    "pos_embed": "RoPE100",
    "landscape_only": False,
    "conf_mode": ("exp", 1, math.inf),
}


@torch.no_grad()
def maps(model: TwoViewModel, image1: Tensor, image2: Tensor) -> list[Tensor]:
    prediction = model.eval()(image1, image2)
    views = (prediction.view1, prediction.view2)
    return [m for view in views for m in (view.pointmap, view.confidence) if m is not None]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    # The same weights in other memory: only the order of sums may differ.
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


HEADS = [
    {"head_type": "linear", "dec_depth": 2},
    pytest.param({"head_type": "dpt", "dec_depth": 10}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("head", HEADS)
def test_from_the_published_classes(head: Mapping[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Published(**TINY, **head).eval()
    theirs.save_pretrained(tmp_path)
    assert "Infinity" in (tmp_path / "config.json").read_text()
    names = set(load_file(tmp_path / "model.safetensors"))
    assert not any("layer_rn." in name for name in names)  # dropped: shared tensors
    assert_same(maps(load_model(tmp_path, device="cpu"), *IMAGES), theirs(*IMAGES))


@pytest.mark.parametrize("head", HEADS)
def test_to_the_published_classes(head: Mapping[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = TwoViewModel(config_from_published({**TINY, **head}))
    ours.save_pretrained(tmp_path, layout="published")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["depth_mode"] == ["exp", -math.inf, math.inf]
    theirs = Published.from_pretrained(tmp_path, strict=True).eval()
    assert_same(theirs(*IMAGES), maps(ours, *IMAGES))


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("weav3r")])
def test_published_arguments_and_back(name: str) -> None:
    config = PRESETS[name]
    assert config_from_published(published_arguments(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True}, "qk_norm=True"),
        ({"point_mode": "ray"}, "point_mode='ray'"),
        ({"coordinate_features": True, "rope_reference_grid": 14}, "rope_reference_grid=14, coord"),
        ({"descriptor_head": "mlp", "descriptor_dim": 8}, "point_head='linear' with"),
        ({"point_head": "dpt", "decoder_depth": 8}, r"decoder_depth=8 \(their DPT"),
        ({"point_head": "dpt", "dpt_last_dim": 64}, "dpt_last_dim=64"),
        ({"point_head": "dpt", "dpt_hooks": (0, 5, 9, 12)}, r"dpt_hooks=\(0, 5, 9, 12\)"),
    ],
)
def test_what_the_published_classes_cannot_express(
    changes: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(PRESETS["dust3r-224-linear"], **changes)
    with pytest.raises(ValueError, match=f"cannot express.*{message}"):
        published_arguments(config)


def test_settings_without_meaning_do_not_matter() -> None:
    config = dataclasses.replace(PRESETS["dust3r-224-linear"], dpt_last_dim=64, local_token_dim=8)
    assert published_arguments(config)["head_type"] == "linear"
    explicit = dataclasses.replace(PRESETS["dust3r-512-dpt"], dpt_hooks=(0, 6, 9, 12))
    assert published_arguments(explicit)["head_type"] == "dpt"


def test_wrong_layouts(tiny: TwoViewModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout must be one of weav3r, published, got 'zip'"):
        tiny.save_pretrained(tmp_path, layout="zip")  # pyright: ignore
    linear = TwoViewModel(config_from_published({**TINY, "dec_depth": 2}))
    with pytest.raises(ValueError, match="published classes cannot read int8"):
        linear.save_pretrained(tmp_path, layout="published", dtype="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_saved_folder(tiny: TwoViewModel, tmp_path: Path) -> None:
    saved = tiny.save_pretrained(tmp_path / "a", provenance=STATED)
    data = saved.file.read_bytes()
    assert saved.sha256 == hashlib.sha256(data).hexdigest() and saved.bytes == len(data)
    assert saved.tensors == len(tiny.state_dict())
    card = (tmp_path / "a" / "README.md").read_text()
    assert saved.sha256 in card and "license: cc-by-nc-sa-4.0" in card
    assert ModelConfig.from_dict(json.loads((tmp_path / "a/config.json").read_text())) == (
        tiny.config
    )


def test_the_licence_stays_with_the_weights(tiny: TwoViewModel, tmp_path: Path) -> None:
    assert tiny.provenance is None
    tiny.save_pretrained(tmp_path / "a", provenance=STATED)
    first = TwoViewModel.from_pretrained(tmp_path / "a", device="cpu")
    assert first.provenance == STATED
    first.save_pretrained(tmp_path / "b", dtype="float16")
    convert_checkpoint(tmp_path / "b", tmp_path / "c")
    assert load_model(tmp_path / "c", device="cpu").provenance == STATED
    convert_checkpoint(tmp_path / "c", tmp_path / "d", licence="CC BY-NC 4.0")
    stated = load_model(tmp_path / "d", device="cpu").provenance
    assert stated == dataclasses.replace(STATED, licence="CC BY-NC 4.0")


def test_giving_up_a_non_commercial_licence_is_noted(
    tiny: TwoViewModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.save_pretrained(tmp_path / "a", provenance=STATED)
    convert_checkpoint(tmp_path / "a", tmp_path / "b", licence="MIT")
    assert "states MIT in place of CC BY-NC-SA 4.0, non-commercial" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_converting(any_tiny: TwoViewModel, tmp_path: Path, dtype) -> None:
    any_tiny.save_pretrained(tmp_path / "a")
    saved = convert_checkpoint(tmp_path / "a", tmp_path / "b", dtype=dtype)
    direct = any_tiny.save_pretrained(tmp_path / "c", dtype=dtype)
    assert saved.sha256 == direct.sha256
    assert saved.tensors == len(any_tiny.state_dict())


@pytest.mark.parametrize("any_tiny", ["mast3r-512"], indirect=True)
def test_converting_writes_one_name_of_each_tensor(any_tiny: TwoViewModel, tmp_path: Path) -> None:
    file = any_tiny.save_pretrained(tmp_path / "a").file
    state = load_file(file)
    state |= {
        f"downstream_head{head}.dpt.scratch.layer_rn.{i}.weight": value.clone()
        for head in (1, 2)
        for i in range(4)
        for value in [state[f"downstream_head{head}.dpt.scratch.layer{i + 1}_rn.weight"]]
    }
    save_file({k: v for k, v in state.items() if "dec_blocks2" not in k}, file)
    saved = convert_checkpoint(tmp_path / "a", tmp_path / "b")
    written = load_file(saved.file)
    assert set(written) == set(any_tiny.state_dict())
    assert torch.equal(written["dec_blocks2.0.norm1.weight"], state["dec_blocks.0.norm1.weight"])
    state["downstream_head2.dpt.scratch.layer_rn.0.weight"] += 1
    save_file(state, file)
    with pytest.raises(ValueError, match=r"layer_rn.0.weight and .* two names .* differ"):
        convert_checkpoint(tmp_path / "a", tmp_path / "c")


def test_converting_is_careful(tiny: TwoViewModel, tmp_path: Path) -> None:
    source = tiny.save_pretrained(tmp_path / "a").file
    with pytest.raises(FileExistsError, match="a is not empty"):
        convert_checkpoint(source, tmp_path / "a")
    with pytest.raises(ValueError, match="a holds the source itself"):
        convert_checkpoint(source, tmp_path / "a", force=True)
    with pytest.raises(ValueError, match="name a folder to write, not a file"):
        convert_checkpoint(source, tmp_path / "b.safetensors")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine")
    convert_checkpoint(source, tmp_path / "c", force=True)
    assert (tmp_path / "c" / "notes.txt").read_text() == "mine"
    state = load_file(source)
    del state["enc_norm.bias"]
    save_file(state, source)
    with pytest.raises(ValueError, match=r"does not fit the network \(1 missing\):(.|\n)*enc_norm"):
        convert_checkpoint(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()
