"""Published `.pth` files: layouts, constructor strings, zero-copy weights, errors."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from weav3r.croco_like import CROCO_PRESETS, CrocoConfig, CrocoModel
from weav3r.models import PRESETS, ModelConfig, TwoViewModel, published
from weav3r.models._archive import is_torch_file
from weav3r.models.published import (
    parse_constructor,
    read_completion_weights,
    read_published,
)
from weav3r.models.weights import load_weights

TINY = {
    "enc_embed_dim": 32,
    "enc_depth": 2,
    "enc_num_heads": 2,
    "dec_embed_dim": 24,
    "dec_depth": 2,
    "dec_num_heads": 2,
    "pos_embed": "RoPE100",
}
TINY_CROCO = CrocoConfig.from_published(TINY)


def constructor(arguments: Mapping[str, Any], kind: str = "AsymmetricCroCo3DStereo") -> str:
    """Write a call as the training scripts do, infinities as `inf`."""
    return f"{kind}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def save(path: Path, state: Mapping[str, Any], model: str | None, **extra: Any) -> Path:
    """Write a file in the layout of the DUSt3R and MASt3R training scripts."""
    content: dict[str, Any] = {"model": state, "epoch": 3, "best_so_far": np.float64(0.5), **extra}
    if model is not None:
        content["args"] = argparse.Namespace(
            model=model, lr=1e-4, output_dir=Path("out"), sizes=[(512, 384)], seed=None
        )
    torch.save(content, path)
    return path


@pytest.fixture
def linear() -> TwoViewModel:
    """Give a tiny DUSt3R with a linear head."""
    torch.manual_seed(0)
    return TwoViewModel(ModelConfig.from_dict(TINY | {"head_type": "linear"})).eval()


def test_weights_config_and_arguments(linear: TwoViewModel, tmp_path: Path) -> None:
    state = linear.state_dict()
    path = save(tmp_path / "mine.pth", state, constructor(TINY | {"img_size": (512, 512)}))
    found = read_published(path)
    assert found.config == dataclasses.replace(linear.config, name="mine", image_size=(512, 512))
    assert found.name == "mine"
    assert found.arguments["lr"] == 1e-4 and found.arguments["sizes"] == [(512, 384)]
    assert found.arguments["seed"] is None and "output_dir" not in found.arguments
    assert list(found.state) == list(state)
    assert all(torch.equal(found.state[key], value) for key, value in state.items())
    with torch.device("meta"):
        model = TwoViewModel(linear.config)
    load_weights(model, found.state, assign=True)
    assert model.enc_norm.weight.data_ptr() == found.state["enc_norm.weight"].data_ptr()


def test_changing_the_weights_leaves_the_file_alone(linear: TwoViewModel, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", linear.state_dict(), constructor(TINY))
    before = path.read_bytes()
    read_published(path).state["mask_token"].fill_(7)
    assert path.read_bytes() == before
    assert torch.equal(read_published(path).state["mask_token"], linear.mask_token)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_not_copied(tmp_path: Path) -> None:
    def in_memory() -> int:  # bytes that are not backed by a file
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0])

    size = 64 * 2**20
    save(tmp_path / "a.pth", {"a": torch.ones(size // 4)}, constructor(TINY))
    before = in_memory()
    found = read_published(tmp_path / "a.pth")
    assert in_memory() - before < size / 4
    assert found.state["a"].sum() == size // 4


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_kind_of_tensor(tmp_path: Path, protocol: int) -> None:
    whole = torch.arange(24.0).view(4, 6)
    layer = nn.Linear(3, 2)  # its state dict carries `_metadata`
    state = layer.state_dict()
    state |= {
        "parameter": nn.Parameter(torch.ones(2)),
        "transposed": whole.t(),
        "slice": whole[1:3, ::2],
        "alias": state["weight"],
        "half": whole.half(),
        "bfloat": whole.bfloat16()[1:],
        "double": whole.double(),
        "float8": torch.ones(3, dtype=torch.float8_e4m3fn),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "kinds.pth"
    content = {
        "args": argparse.Namespace(model=constructor(TINY), groups=({"a", 1}, [b"x", b""], 2**70)),
        "model": state,
        "others": (torch.Size([2]), torch.device("cpu"), torch.float32, np.zeros(2), -1, 0.5),
        "counts": torch.arange(3),
    }
    torch.save(content, path, pickle_protocol=protocol)
    found = read_published(path).state
    for key, value in state.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape
        assert torch.equal(found[key].float(), value.float()), key
    assert found["alias"].data_ptr() == found["weight"].data_ptr()


def test_optimizer_tensors_are_not_read(linear: TwoViewModel, tmp_path: Path) -> None:
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(parameter)}
        for number, parameter in enumerate(linear.parameters())
    }
    groups = [{"lr": 1e-4, "betas": (0.9, 0.95), "fused": None, "params": list(moments)}]
    marked = torch.full((64,), 12345.678)
    path = save(
        tmp_path / "training.pth",
        linear.state_dict(),
        constructor(TINY),
        optimizer={"state": moments, "param_groups": groups, "marked": marked},
        scaler={"scale": 65536.0, "_growth_tracker": 0},
    )
    data = path.read_bytes().replace(marked.numpy().tobytes(), bytes(256))  # a wrong checksum
    path.write_bytes(data)
    assert len(read_published(path).state) == len(linear.state_dict())


@pytest.mark.parametrize("name", ["dust3r-224-linear", "dust3r-512-dpt", "mast3r-512"])
def test_published_constructors_give_the_preset(name: str, tmp_path: Path) -> None:
    arguments = {
        "pos_embed": "RoPE100",
        "img_size": PRESETS[name].image_size,
        "depth_mode": ("exp", -math.inf, math.inf),
        "conf_mode": ("exp", 1, math.inf),
        "head_type": "catmlp+dpt" if name == "mast3r-512" else name.rpartition("-")[2],
        "output_mode": "pts3d+desc24" if name == "mast3r-512" else "pts3d",
        **dict(enc_embed_dim=1024, enc_depth=24, enc_num_heads=16),
        **dict(dec_embed_dim=768, dec_depth=12, dec_num_heads=12),
    }
    kind = "AsymmetricCroCo3DStereo"
    if name == "mast3r-512":
        kind = "AsymmetricMASt3R"
        arguments |= {"two_confs": True, "desc_conf_mode": ("exp", 0, math.inf)}
    text = constructor(arguments | {"patch_embed_cls": "ManyAR_PatchEmbed"}, kind)
    found = read_published(save(tmp_path / "x.pth", {"a": torch.ones(1)}, text))
    assert found.config == PRESETS[name] and found.name == name


def test_a_single_decoder_fills_both(linear: TwoViewModel, tmp_path: Path) -> None:
    state = {k: v for k, v in linear.state_dict().items() if not k.startswith("dec_blocks2.")}
    found = read_published(save(tmp_path / "a.pth", state, constructor(TINY)))
    with torch.device("meta"):
        model = TwoViewModel(linear.config)
    load_weights(model, found.state, assign=True)
    loaded = model.state_dict()
    first, second = (loaded[f"{name}.0.norm1.weight"] for name in ("dec_blocks", "dec_blocks2"))
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("layout", ["kwargs", "constructor"])
def test_completion_networks(tmp_path: Path, layout: str) -> None:
    state = CrocoModel(TINY_CROCO).state_dict()
    path = tmp_path / "croco.pth"
    if layout == "kwargs":
        torch.save({"model": state, "croco_kwargs": TINY}, path)
    else:
        save(path, state, constructor(TINY | {"img_size": (224, 224)}, "CroCoNet"))
    found = read_published(path)
    assert found.config == TINY_CROCO and found.name == "croco"
    load_weights(CrocoModel(TINY_CROCO), found.state)
    weights = read_completion_weights(path)
    assert weights is not None and weights.keys() == state.keys()


def test_completion_weights_of_other_files(linear: TwoViewModel, tmp_path: Path) -> None:
    state = CrocoModel(TINY_CROCO).state_dict()
    save_file(state, tmp_path / "croco.safetensors")
    weights = read_completion_weights(tmp_path / "croco.safetensors")
    assert weights is not None and torch.equal(weights["enc_norm.bias"], state["enc_norm.bias"])
    save_file(linear.state_dict(), tmp_path / "other.safetensors")
    assert read_completion_weights(tmp_path / "other.safetensors") is None
    save(tmp_path / "other.pth", linear.state_dict(), constructor(TINY))
    assert read_completion_weights(tmp_path / "other.pth") is None
    (tmp_path / "other.txt").write_text("text")
    assert read_completion_weights(tmp_path / "other.txt") is None


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("dust3r_512.pth", "dust3r-512-linear"),
        ("model.pth", "dust3r-512-linear"),
        ("dust3r_224.pth", "dust3r-224-linear"),
    ],
)
def test_files_without_arguments_are_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear: TwoViewModel, file: str, name: str
) -> None:
    small = {
        preset: dataclasses.replace(
            linear.config, name=preset, image_size=PRESETS[preset].image_size
        )
        for preset in ("dust3r-224-linear", "dust3r-512-linear")
    }
    monkeypatch.setattr(published, "PRESETS", small)
    found = read_published(save(tmp_path / file, linear.state_dict(), None))
    assert found.config == small[name] and found.name == name
    state = {k: v for k, v in linear.state_dict().items() if not k.startswith("dec_blocks2.")}
    assert read_published(save(tmp_path / file, state, None)).name == name
    torch.save(state, tmp_path / file)
    assert read_published(tmp_path / file).name == name


def test_croco_v1_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY_CROCO, rope_base=None)
    monkeypatch.setattr(published, "CROCO_PRESETS", {"croco": config})
    torch.save({"model": CrocoModel(config).state_dict()}, tmp_path / "CroCo.pth")
    assert read_published(tmp_path / "CroCo.pth").config == config


def test_unknown_shapes(linear: TwoViewModel, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", linear.state_dict(), None)
    names = ", ".join((*PRESETS, *CROCO_PRESETS))
    with pytest.raises(ValueError, match=rf"a.pth: .*no constructor call.*: {names}"):
        read_published(path)


CALLS = [
    ("__import__('os').system('touch {marker}')", "expected the call of a constructor"),
    ("AsymmetricMASt3R(a=__import__('os').system('touch {marker}'))", "is no literal"),
    ("AsymmetricMASt3R(a=open('{marker}', 'w'))", "is no literal"),
    ("AsymmetricMASt3R(a=[x for x in (1,)])", "is no literal"),
    ("AsymmetricMASt3R(a=f'{{1}}')", "is no literal"),
    ("AsymmetricMASt3R(a=b'x')", "is no literal"),
    ("AsymmetricMASt3R(a=-'x')", "is no literal"),
    ("AsymmetricMASt3R(a=float('nan'))", "is no literal"),
    ("AsymmetricMASt3R(a=float(1))", "is no literal"),
    ("AsymmetricMASt3R(a=2**10**10)", "is no literal"),
    ("AsymmetricMASt3R(*(1,))", "arguments by name, each once"),
    ("AsymmetricMASt3R(**{{'a': 1}})", "arguments by name, each once"),
    ("AsymmetricMASt3R(a=1, a=2)", "cannot parse|each once"),
    ("AsymmetricMASt3R(", "cannot parse"),
    ("AsymmetricMASt3R\0()", "cannot parse"),
    ("AsymmetricMASt3R", "expected the call"),
    ("os.system()", "expected the call"),
    ("eval('1')", "unknown network 'eval'; known: AsymmetricCroCo3DStereo, AsymmetricMASt3R"),
    ("(" * 3000, "cannot parse"),
    ("AsymmetricMASt3R(a=" + "-" * 3500 + "1)", "cannot parse|is no literal"),
    ("AsymmetricMASt3R(a=" + "1+" * 1800 + "1)", "cannot parse|is no literal"),
    (" " * 5000, "longer than 4096 characters"),
    (
        "AsymmetricMASt3R(pos_embed='RoPE100', enc_depth=100000000)",
        "encoder_depth must be a whole number from 1 to 256",
    ),
    ("AsymmetricMASt3R(colour=1)", "unknown fields in a published model configuration: colour"),
    ("CroCoNet(colour=1)", "unknown fields in a CroCo configuration: colour"),
    ("CroCoNet(enc_depth=10**9)", "is no literal"),
    ("CroCoNet(enc_depth=1000000000)", "enc_depth must be a whole number from 1 to 256"),
    ("CroCoNet(img_size=(224, 448))", "img_size must be a whole number"),
    ("CroCoNet(norm_im2_in_dec=1)", "norm_im2_in_dec must be True or False"),
]


@pytest.mark.parametrize(("text", "message"), CALLS)
def test_constructor_calls_are_never_evaluated(tmp_path: Path, text: str, message: str) -> None:
    marker = tmp_path / "marker"
    path = save(tmp_path / "bad.pth", {"a": torch.ones(1)}, text.format(marker=marker))
    with pytest.raises(ValueError, match=message) as caught:
        read_published(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not marker.exists()


def test_constructor_literals() -> None:
    kind, values = parse_constructor(
        " AsymmetricMASt3R(a='x', b=-1, c=(1, [2.5, None]), d=True, e=inf, f=-inf, "
        "g=float('-inf'), h=+3)\n"
    )
    assert kind == "AsymmetricMASt3R"
    assert values == {
        "a": "x",
        "b": -1,
        "c": (1, (2.5, None)),
        "d": True,
        "e": math.inf,
        "f": -math.inf,
        "g": -math.inf,
        "h": 3,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "expected a dictionary with the weights under 'model'"),
        ({"state_dict": {}}, "expected a dictionary with the weights under 'model'"),
        ({"model": {}}, "there are no weights"),
        ({"model": {"a": 1}}, "something that is no tensor: 'a'"),
        ({"model": {1: torch.ones(1)}}, "something that is no tensor: '1'"),
        ({"model": {"enc_blocks.0": torch.arange(3)}}, "'enc_blocks.0' is of type torch.int64"),
        ({"model": {"a": torch.ones(1)}, "croco_kwargs": [1]}, "croco_kwargs holds"),
        ({"model": {"a": torch.ones(1)}, "croco_kwargs": {"a\x1b": 1}}, "croco_kwargs holds"),
    ],
)
def test_other_contents(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        read_published(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_are_known_by_their_content(linear: TwoViewModel, tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3)}
    torch.save(tensors, tmp_path / "new.bin")
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "a.pth")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    found = {p.name: is_torch_file(p) for p in tmp_path.iterdir()}
    assert found == {
        "new.bin": True,
        "old.bin": True,
        "a.pth": False,
        "empty.pth": False,
        "config.json": False,
    }
    # 0x80 0x02 begins a pickle, and a safetensors header of a certain length too.
    (tmp_path / "b").write_bytes((0x0280).to_bytes(8, "little") + b'{"a":' + b" " * 700)
    assert not is_torch_file(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        is_torch_file(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError):
        read_published(tmp_path / "absent.pth")


def differing_alias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "downstream_head1.dpt.scratch.layer{}_rn.weight"
    alias = "downstream_head1.dpt.scratch.layer_rn.0.weight"
    return state | {alias: state[name.format(1)] + 1}


@pytest.mark.parametrize("any_tiny", ["dust3r-512-dpt"], indirect=True)
def test_two_values_of_one_weight(any_tiny: TwoViewModel) -> None:
    state = differing_alias(any_tiny.state_dict())
    with pytest.raises(ValueError, match=r"layer_rn.0.weight and .*layer1_rn.weight .* differ"):
        load_weights(any_tiny, state)


def test_weights_of_another_type(linear: TwoViewModel) -> None:
    state = linear.state_dict() | {"enc_norm.weight": torch.ones(32, dtype=torch.int64)}
    with pytest.raises(ValueError, match="not of a floating-point type: enc_norm.weight: int64"):
        load_weights(linear, state)


def test_assigned_weights_take_the_type_of_the_network(linear: TwoViewModel) -> None:
    state = {key: value.bfloat16() for key, value in linear.state_dict().items()}
    with torch.device("meta"):
        model = TwoViewModel(linear.config)
    load_weights(model, state, assign=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_all_missing_weights_are_listed(linear: TwoViewModel) -> None:
    with pytest.raises(ValueError) as caught:
        load_weights(linear, {}, origin="nothing")
    lines = str(caught.value).splitlines()
    count = len(linear.state_dict())
    assert lines[0] == f"nothing does not fit the network ({count} missing):"
    assert len(lines) == count + 1
    with pytest.raises(ValueError, match=r"unexpected: a\\x1b\[31m\\nb"):
        load_weights(linear, {"a\x1b[31m\nb": torch.ones(1)})


MANIFESTS = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "manifests.json.gz").read_bytes())
)
# The others of the published files are read with their golden weights in tests/golden.
WITHOUT_GOLDEN = [
    ("DUSt3R_ViTLarge_BaseDecoder_512_linear", "dust3r-512-linear", True),
    ("CroCo", "croco", False),  # the real file has no arguments either
    ("CroCo_V2_ViTBase_SmallDecoder", "croco-v2-base-small", True),
    ("CroCo_V2_ViTBase_BaseDecoder", "croco-v2-base-base", False),
]


@pytest.mark.slow
@pytest.mark.parametrize(("title", "name", "with_arguments"), WITHOUT_GOLDEN)
def test_files_like_the_published_ones(
    tmp_path: Path, title: str, name: str, with_arguments: bool
) -> None:
    """Every key and shape of the real file, at one byte a weight."""
    manifest = MANIFESTS[title]
    small = torch.float8_e4m3fn
    state = {key: torch.zeros(shape).to(small) for key, shape in manifest["shapes"].items()}
    arguments = {
        key: tuple(float(x) if x in ("inf", "-inf") else x for x in value)
        if isinstance(value, list)
        else value
        for key, value in manifest["kwargs"].items()
    }
    path = tmp_path / "file.pth"
    if not with_arguments:
        torch.save({"model": state}, path)
    elif name in PRESETS:
        save(path, state, constructor(arguments))
    else:
        torch.save({"model": state, "croco_kwargs": arguments}, path)
    del state
    found = read_published(path)
    assert found.name == name
    with torch.device("meta"):
        if isinstance(found.config, ModelConfig):
            model: nn.Module = TwoViewModel(found.config)
        else:
            model = CrocoModel(found.config)
    load_weights(model.to(small), found.state, assign=True)
    if sys.platform != "win32":  # there a mapped file stays until the end
        path.unlink()
