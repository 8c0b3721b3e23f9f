"""Safetensors files: lazy reading, streamed writing, broken files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from weav3r.models import ModelConfig, TwoViewModel, load_model, save_checkpoint, storage
from weav3r.models.storage import TensorFile, file_sha256, pack_tensor, write_tensors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file with tensors of several types and shapes."""
    tensors = {
        "b": torch.arange(6.0).view(2, 3),
        "a": torch.tensor(2.5),
        "half": torch.ones(3, dtype=torch.float16),
        "none": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"note": "ü"})
    return tmp_path / "a.safetensors"


def test_tensors_are_read_when_asked_for(file: Path) -> None:
    tensors = TensorFile(file)
    assert tensors.metadata == {"note": "ü"}
    assert tensors.shapes == {"a": (), "b": (2, 3), "half": (3,), "none": (0, 4)}
    assert sorted(tensors) == ["a", "b", "half", "none"] and len(tensors) == 4
    assert tensors["half"].dtype == torch.float32
    assert tensors["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(KeyError, match="missing"):
        tensors["missing"]


def test_float32_is_not_copied(file: Path) -> None:
    tensors = TensorFile(file)
    assert tensors["b"].data_ptr() == tensors["b"].data_ptr()
    tensors["b"].zero_()  # a private view: memory changes, the file does not
    assert TensorFile(file)["b"].sum() == 15


def test_the_mapping_is_renewed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_REMAP_BYTES", 4)
    tensors = TensorFile(file, keep=False)
    kept = tensors["b"]
    for _ in range(3):
        assert tensors["half"].sum() == 3
        assert torch.equal(tensors["b"], kept)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_the_written_file_is_what_safetensors_reads(
    tiny: TwoViewModel, tmp_path: Path, dtype: storage.StorageDtype
) -> None:
    state = tiny.state_dict()
    write_tensors(tmp_path / "deep" / "a.safetensors", state, dtype, {"licence": "MIT"})
    written = load_file(tmp_path / "deep" / "a.safetensors")
    parts = [pack_tensor(key, value, dtype) for key, value in state.items()]
    expected = {name: value for part in parts for name, value in part.items()}
    assert set(written) == set(expected)
    assert all(torch.equal(written[key], expected[key]) for key in expected)
    metadata = TensorFile(tmp_path / "deep" / "a.safetensors").metadata
    assert metadata == {"licence": "MIT", "format": "pt", "storage": dtype}
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["a.safetensors"]


def test_layouts_in_memory_do_not_matter(tmp_path: Path) -> None:
    value = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    state = {"last": value.contiguous(memory_format=torch.channels_last), "t": value[0, 0].T}
    write_tensors(tmp_path / "a.safetensors", state, "float32")
    assert torch.equal(load_file(tmp_path / "a.safetensors")["last"], value)
    assert torch.equal(load_file(tmp_path / "a.safetensors")["t"], value[0, 0].T)


def test_values_that_cannot_be_stored(tmp_path: Path) -> None:
    for value, message in (
        (torch.tensor([float("nan")]), "holds NaN or infinite values"),
        (torch.tensor([1e6]), "holds values that float16 cannot store"),
        (torch.tensor([1]), "of type int64; weights are floating-point"),
    ):
        with pytest.raises(ValueError, match=f"w.*{message}"):
            write_tensors(tmp_path / "a.safetensors", {"w": value}, "float16")
    with pytest.raises(ValueError, match="w holds NaN"):
        write_tensors(tmp_path / "a.safetensors", {"w": torch.full((2, 2), np.nan)}, "int8")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(OSError, match="No space left.*a.safetensors"):
        write_tensors(tmp_path / "a.safetensors", {"w": torch.ones(1)}, "float32")
    assert list(tmp_path.iterdir()) == []


def test_the_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_integers_are_no_weights(tiny: TwoViewModel, tmp_path: Path) -> None:
    file = save_checkpoint(tiny, tmp_path / "a.safetensors", "float32")
    state, metadata = load_file(file), TensorFile(file).metadata
    state["enc_norm.bias"] = state["enc_norm.bias"].to(torch.int32)
    save_file(state, file, metadata=metadata)
    with pytest.raises(ValueError, match=r"a.safetensors does not fit.*floating-point"):
        load_model(file, device="cpu")


def test_broken_files_give_one_error_that_names_them(tiny: TwoViewModel, tmp_path: Path) -> None:
    """Cut, flip and overwrite bytes; whatever still loads has changed numbers only."""
    whole = save_checkpoint(tiny, tmp_path / "whole.safetensors", "int8").read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    rng = random.Random(0)
    refused = 0
    for case in range(150):
        data = bytearray(whole)
        if case % 3 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice((1, 4, 40))):
                data[rng.randrange(8 if case % 3 == 1 else header)] = rng.randrange(256)
        file = tmp_path / f"{case}.safetensors"
        file.write_bytes(bytes(data))
        try:
            load_model(file, device="cpu")
        except ValueError as error:
            assert file.name in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "config",
    [
        '{"name": "x", "encoder_dim": "wide"}',
        '{"name": "x", "encoder_depth": 1000000000}',
        '{"name": "x", "encoder_dim": 1000000000000000000, "encoder_heads": 1}',
        '{"name": "x", "image_size": 3}',
        '{"name": "x", "confidence": 3}',
        '{"name": "x", "patch_size": 0}',
        '{"head_type": ["linear"]}',
        '{"head_type": "linear", "pos_embed": "RoPE100", "img_size": null}',
        "[" * 100_000,
        "\x00",
    ],
)
def test_a_configuration_that_makes_no_sense(
    tiny: TwoViewModel, tmp_path: Path, config: str
) -> None:
    file = tmp_path / "a.safetensors"
    save_file(tiny.state_dict(), file, metadata={"config": config})
    with pytest.raises(ValueError, match="a.safetensors"):
        load_model(file, device="cpu")


LONG = ["x" * 100] * 1000


@pytest.mark.parametrize(
    "config",
    [
        {"qk_norm": LONG},
        {"dpt_layer_dims": LONG},
        {"head_type": "x" * 5000},
        {"head_type": "dpt", "output_mode": "x" * 5000},
        {"head_type": "dpt", "pos_embed": "x" * 5000},
    ],
    ids=lambda config: list(config)[-1],
)
def test_messages_about_a_configuration_stay_short(config: dict[str, object]) -> None:
    with pytest.raises(ValueError) as caught:
        ModelConfig.from_dict(config)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["config.json", "README.md"])
def test_texts_beside_the_weights_are_small(tiny: TwoViewModel, tmp_path: Path, name: str) -> None:
    save_checkpoint(tiny, tmp_path)
    save_file(tiny.state_dict(), tmp_path / "model.safetensors")
    load_model(tmp_path, device="cpu")
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(2**32)  # takes no disk, and would take all the memory
    with pytest.raises(ValueError, match=f"{name} is larger than 4 MiB: no {name} of a checkpoint"):
        load_model(tmp_path, device="cpu")


def test_a_configuration_from_a_windows_editor(tiny: TwoViewModel, tmp_path: Path) -> None:
    save_checkpoint(tiny, tmp_path)
    save_file(tiny.state_dict(), tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(config.read_text(), encoding="utf-8-sig")
    assert load_model(tmp_path, device="cpu").config == tiny.config


def with_header(path: Path, tensors: dict[str, object]) -> Path:
    text = json.dumps(tensors).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


def test_headers_that_describe_too_much(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path = with_header(tmp_path / "a.safetensors", {f"k{i}": empty for i in range(150_000)})
    with pytest.raises(ValueError, match="a.safetensors is not .* a header of .* at most 8388608"):
        TensorFile(path)
    for shape in ([0, 2**63 - 1, 2**40], [0, 2**64 - 1]):
        with_header(path, {"k": {**empty, "shape": shape}})
        with pytest.raises(ValueError, match="a.safetensors is not a readable safetensors file"):
            TensorFile(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="git-lfs pointer: fetch the file itself"):
        TensorFile(path)
