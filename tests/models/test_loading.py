"""Checkpoint files: round trips, strictness, errors."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weav3r.croco_like import CrocoConfig, CrocoModel
from weav3r.models import (
    PRESETS,
    Provenance,
    TwoViewModel,
    available_models,
    checkpoint,
    checkpoint_info,
    initialise_from_croco,
    load_model,
    model_info,
    resolve_device,
    save_checkpoint,
)
from weav3r.models.storage import SCALE_SUFFIX, TensorFile, pack_tensor, unpack_tensor
from weav3r.models.weights import duplicate_decoder, load_weights

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 1, 3, 32, 32)


def largest_difference(model: TwoViewModel, other: TwoViewModel) -> float:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@torch.no_grad()
def test_round_trip(any_tiny: TwoViewModel, tmp_path: Path, dtype, as_folder: bool) -> None:
    path = tmp_path / ("saved" if as_folder else "saved.safetensors")
    file = save_checkpoint(any_tiny, path, dtype, metadata={"licence": "Apache-2.0"})
    assert sorted(p.name for p in file.parent.iterdir()) == (
        ["config.json", "model.safetensors"] if as_folder else ["saved.safetensors"]
    )
    loaded = load_model(path, device="cpu")
    assert not loaded.training and loaded.config == any_tiny.config
    assert TensorFile(file).metadata["licence"] == "Apache-2.0"
    # Weights are of size 1: the units of the last place of each format, half of the int8 step.
    limit = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8, "int8": 1 / 250}[dtype]
    assert largest_difference(any_tiny, loaded) <= limit
    if dtype == "float32":
        expected, actual = any_tiny(*IMAGES).view2, loaded(*IMAGES).view2
        torch.testing.assert_close(actual.pointmap, expected.pointmap, rtol=1e-5, atol=1e-6)
    parameters = zip(any_tiny.parameters(), loaded.parameters(), strict=True)
    assert all(a.requires_grad == b.requires_grad for a, b in parameters)


def test_int8_rows_have_their_own_scale() -> None:
    value = torch.tensor([[1.0, -0.5, 0.25], [100.0, 50.0, 0.0], [0.0, 0.0, 0.0]])
    packed = pack_tensor("w", value, "int8")
    assert packed["w"].dtype == torch.int8 and packed["w" + SCALE_SUFFIX].shape == (3,)
    assert pack_tensor("b", torch.ones(3), "int8")["b"].dtype == torch.float16
    restored = unpack_tensor(packed["w"], packed["w" + SCALE_SUFFIX])
    error = (restored - value).abs().amax(dim=1)
    assert (error <= value.abs().amax(dim=1) / 254 + 1e-7).all()  # half a step of 1/127


def test_int8_files_are_small(tiny: TwoViewModel, tmp_path: Path) -> None:
    whole = save_checkpoint(tiny, tmp_path / "a.safetensors", "float32").stat().st_size
    small = save_checkpoint(tiny, tmp_path / "b.safetensors", "int8").stat().st_size
    assert small < 0.5 * whole


def test_values_that_do_not_fit_the_format(tiny: TwoViewModel, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny.enc_norm.weight[0] = 1e6
    with pytest.raises(ValueError, match="enc_norm.weight holds values that float16 cannot store"):
        save_checkpoint(tiny, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16, int8"):
        save_checkpoint(tiny, tmp_path, "int4")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "any_tiny", ["dust3r-512-linear", "dust3r-512-dpt", "mast3r-512"], indirect=True
)
def test_published_folder(any_tiny: TwoViewModel, tmp_path: Path) -> None:
    """A folder in the Hub's layout: constructor arguments and plain weights."""
    config = any_tiny.config
    kind = {"none": config.point_head, "mlp": "catmlp+dpt"}[config.descriptor_head]
    data = {
        "head_type": kind,
        "output_mode": "pts3d+desc24" if kind == "catmlp+dpt" else "pts3d",
        "pos_embed": "RoPE100",
        "two_confs": config.two_confidences,
        "enc_embed_dim": config.encoder_dim,
        "enc_depth": config.encoder_depth,
        "enc_num_heads": config.encoder_heads,
        "dec_embed_dim": config.decoder_dim,
        "dec_depth": config.decoder_depth,
        "dec_num_heads": config.decoder_heads,
        "conf_mode": ["exp", 1, float("inf")],
    }
    (tmp_path / "config.json").write_text(json.dumps(data))
    save_file(any_tiny.state_dict(), tmp_path / "model.safetensors")
    if config.point_head == "linear":
        assert largest_difference(any_tiny, load_model(tmp_path, device="cpu")) == 0
    else:  # the DPT channels are no field of a published file: the tiny head cannot fit
        with pytest.raises(ValueError, match="of another shape"):
            load_model(tmp_path, device="cpu")


def dpt_aliases(state: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Rename (or, with `keep`, repeat) the reassembly weights in their other spelling."""
    result = dict(state)
    for head in (1, 2):
        for level in range(4):
            prefix = f"downstream_head{head}.dpt.scratch"
            name = f"{prefix}.layer{level + 1}_rn.weight"
            result[f"{prefix}.layer_rn.{level}.weight"] = state[name]
            if not keep:
                del result[name]
    return result


@pytest.mark.parametrize("any_tiny", ["dust3r-512-dpt", "mast3r-512"], indirect=True)
@pytest.mark.parametrize("keep", [True, False])
def test_both_spellings_of_the_dpt_weights(any_tiny: TwoViewModel, keep: bool) -> None:
    other = TwoViewModel(any_tiny.config)
    load_weights(other, dpt_aliases(any_tiny.state_dict(), keep))
    assert largest_difference(any_tiny, other) == 0


def test_one_error_lists_every_problem(tiny: TwoViewModel, tmp_path: Path) -> None:
    file = save_checkpoint(tiny, tmp_path / "a.safetensors", "float32")
    state, metadata = load_file(file), TensorFile(file).metadata
    del state["enc_norm.weight"], state["enc_norm.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["decoder_embed.bias"] = torch.zeros(3)
    save_file(state, file, metadata=metadata)
    with pytest.raises(ValueError) as caught:
        load_model(file)
    message = str(caught.value)
    assert message.splitlines() == [
        f"{file} does not fit the network (2 missing, 1 unexpected, 1 of another shape):",
        "  missing: enc_norm.bias",
        "  missing: enc_norm.weight",
        "  unexpected: extra.weight",
        "  of another shape: decoder_embed.bias: (3,) instead of (24,)",
    ]


def test_unreadable_sources(tmp_path: Path, tiny: TwoViewModel) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither a file.*presets: weav3r-small"):
        load_model("nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no model.safetensors"):
        load_model(tmp_path)
    pickle = tmp_path / "model.pth"
    pickle.write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"model.pth"):
        load_model(pickle)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no header here")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_model(broken)
    bare = tmp_path / "bare.safetensors"
    save_file(tiny.state_dict(), bare)
    with pytest.raises(ValueError, match="holds no model configuration"):
        load_model(bare)
    for text, message in (("{", "is not JSON"), ("[1]", "is not a JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_model(bare)


def test_bundled_weights(
    tiny: TwoViewModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_checkpoint(tiny, tmp_path / "weav3r-small.safetensors")
    monkeypatch.setattr(checkpoint, "bundled_weights", lambda name: file)
    assert load_model(device="cpu").config == tiny.config
    monkeypatch.setattr(checkpoint, "bundled_weights", lambda name: None)
    with pytest.raises(FileNotFoundError, match="no weights for preset 'weav3r-small'"):
        load_model()


def test_auto_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_device_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda' is not there.*sees 0 CUDA devices; use auto"):
        load_model(tmp_path, device="cuda")  # before the weights are looked for
    with pytest.raises(ValueError, match=r"'mps' is not there.*use auto or cpu"):
        resolve_device("mps")
    with pytest.raises(ValueError, match=r"unknown device 'gpu'; use auto, cpu"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"'cuda:2' is not there.*sees 2 CUDA devices"):
        resolve_device("cuda:2")


def completion_network(tiny: TwoViewModel) -> CrocoModel:
    config = tiny.config
    return CrocoModel(
        CrocoConfig(
            encoder_dim=config.encoder_dim,
            encoder_depth=config.encoder_depth,
            encoder_heads=config.encoder_heads,
            decoder_dim=config.decoder_dim,
            decoder_depth=config.decoder_depth,
            decoder_heads=config.decoder_heads,
            rope_base=100.0,
        )
    )


@pytest.mark.parametrize("any_tiny", ["dust3r-512-linear"], indirect=True)
def test_starting_from_a_completion_network(any_tiny: TwoViewModel) -> None:
    croco = completion_network(any_tiny)
    head = any_tiny.downstream_head1.proj.weight.detach().clone()
    initialise_from_croco(any_tiny, croco.state_dict())
    state = any_tiny.state_dict()
    for key, value in croco.state_dict().items():
        if key.startswith("prediction_head"):
            continue
        assert torch.equal(state[key], value)
        if key.startswith("dec_blocks."):
            assert torch.equal(state[key.replace("dec_blocks.", "dec_blocks2.")], value)
    assert torch.equal(any_tiny.downstream_head1.proj.weight, head)


@pytest.mark.parametrize("any_tiny", ["dust3r-512-dpt"], indirect=True)
def test_completion_network_of_another_shape(any_tiny: TwoViewModel) -> None:
    state = completion_network(any_tiny).state_dict()
    del state["enc_norm.weight"]
    with pytest.raises(ValueError, match="the completion network does not fit"):
        initialise_from_croco(any_tiny, state)


def test_a_second_decoder_is_kept() -> None:
    state = {"dec_blocks.0.a": torch.zeros(1), "dec_blocks2.0.a": torch.ones(1)}
    assert duplicate_decoder(state)["dec_blocks2.0.a"].item() == 1


def test_model_list() -> None:
    models = available_models()
    assert [m.name for m in models] == list(PRESETS)
    by_name = {m.name: m for m in models}
    assert by_name["mast3r-512"].parameters == 688_638_856
    assert by_name["mast3r-512"].bundled_bytes is None
    assert "NC" in by_name["mast3r-512"].licence
    assert by_name["weav3r-small"].licence == "Apache-2.0"
    with pytest.raises(ValueError, match="unknown model 'x'; there are: weav3r-small"):
        model_info("x")


PUBLISHED_TINY = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', img_size=(224, 224), head_type='linear', "
    "output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
    "enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=24, dec_depth=2, "
    "dec_num_heads=2)"
)


def write_published(model: torch.nn.Module, file: Path) -> Path:
    """Write a `.pth` file as the published training code does."""
    args = argparse.Namespace(model=PUBLISHED_TINY, lr=1e-4)
    torch.save({"args": args, "model": model.state_dict(), "epoch": 1}, file)
    return file


@pytest.mark.parametrize("any_tiny", ["dust3r-512-linear"], indirect=True)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a", "folder"])
def test_published_files_by_content(
    any_tiny: TwoViewModel, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / ("only.pth" if name == "folder" else name)
    write_published(any_tiny, file)
    source = tmp_path if name == "folder" else file
    model = load_model(source, device="cpu")
    assert largest_difference(any_tiny, model) == 0
    assert model.provenance is not None and model.provenance.non_commercial
    assert f"{file}: licence CC BY-NC-SA 4.0, non-commercial use only." in caplog.text
    info = checkpoint_info(source)
    assert info["file"] == str(file) and info["licence"] == "CC BY-NC-SA 4.0"


@pytest.mark.parametrize("any_tiny", ["dust3r-512-linear"], indirect=True)
def test_several_weights_in_a_folder(any_tiny: TwoViewModel, tmp_path: Path) -> None:
    write_published(any_tiny, tmp_path / "a.pth")
    write_published(any_tiny, tmp_path / "b.pth")
    with pytest.raises(FileNotFoundError, match=r"no single .pth file.*holds a.pth, b.pth"):
        load_model(tmp_path)


def test_a_completion_network_is_named_as_such(tiny: TwoViewModel, tmp_path: Path) -> None:
    croco = completion_network(tiny)
    arguments = {"pos_embed": "RoPE100", "enc_embed_dim": 32, "enc_depth": 2, "enc_num_heads": 2}
    arguments |= {"dec_embed_dim": 24, "dec_depth": 2, "dec_num_heads": 2}
    file = tmp_path / "croco.pth"
    torch.save({"croco_kwargs": arguments, "model": croco.state_dict()}, file)
    with pytest.raises(ValueError, match=r"croco.pth is a cross-view completion.*start training"):
        load_model(file)


def test_the_licence_survives_copies(tiny: TwoViewModel, tmp_path: Path) -> None:
    tiny.provenance = Provenance(licence="CC BY-NC 4.0", base_model="me/base")
    save_checkpoint(copy.deepcopy(tiny), tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors", device="cpu").provenance == tiny.provenance
