"""Files and texts of others: what the messages say about them."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from weav3r.models import (
    ModelConfig,
    Provenance,
    TwoViewModel,
    checkpoint_info,
    convert_checkpoint,
    load_model,
)
from weav3r.models._foreign import printable, wrapper_prefix
from weav3r.models.card import warn_of_licence
from weav3r.models.published import read_published
from weav3r.models.storage import save_checkpoint
from weav3r.models.weights import load_weights

PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PAGE, "it is a web page"),
        (POINTER, "git-lfs pointer.*git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a picture; a checkpoint is a .safetensors"),
        (b"once upon a time, far away", "a checkpoint is a .safetensors file, a .pth file"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"a{suffix} is .*{message}"):
        load_model(file, device="cpu")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing; a folder needs config.json and model"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model.0.conv.weight": torch.ones(3)}, "not a DUSt3R.*'model.0.conv.weight'"),
        ({"0.count": torch.tensor(3)}, "not a DUSt3R, MASt3R or CroCo checkpoint.*0.count"),
        ({"epoch": 3}, "not a DUSt3R, MASt3R or CroCo checkpoint: expected a dictionary"),
        (nn.Linear(2, 2), "whole module saved. save its state_dict"),
        ({"module.enc_blocks.0.weight": torch.ones(3)}, "begin with 'module.'.*every name"),
    ],
)
def test_checkpoints_of_other_projects(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth: .*{message}"):
        read_published(tmp_path / "a.pth")


def test_cut_files_and_programs(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save({"a": torch.ones(300)}, file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cut short .*fetch the file again"):
        read_published(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"x")
        archive.writestr("a/code/__torch__.py", b"x" * 100)
    with pytest.raises(ValueError, match="TorchScript.*save the state_dict"):
        read_published(file)


def test_a_prefix_is_named_once(tiny: TwoViewModel) -> None:
    state = {f"module.{key}": value for key, value in tiny.state_dict().items()}
    assert wrapper_prefix(state) == "module." and wrapper_prefix(tiny.state_dict()) == ""
    with pytest.raises(ValueError, match="mine does not fit the network: .*'module.'") as caught:
        load_weights(tiny, state, origin="mine")
    assert len(str(caught.value)) < 300


def test_texts_are_clipped_and_escaped(caplog: pytest.LogCaptureFixture) -> None:
    assert printable("Größe") == "Größe"
    assert printable("a\x1b[31m\n\u202eb") == "a\\x1b[31m\\n\\u202eb"
    assert len(printable("a" * 10**6)) == 200
    licence = "\x1b[2J non-commercial " + "a" * 10**5
    with caplog.at_level(logging.WARNING):
        warn_of_licence("x", Provenance(licence=licence), ModelConfig())
    assert len(caplog.text) < 500 and "\x1b" not in caplog.text


def test_info_says_whether_the_weights_fit(tiny: TwoViewModel, tmp_path: Path) -> None:
    file = save_checkpoint(tiny, tmp_path / "saved")
    info = checkpoint_info(file)
    assert info["fits"] is True and "problems" not in info
    config = tmp_path / "saved" / "config.json"
    wider = config.read_text().replace('"local_token_dim": 12', '"local_token_dim": 13')
    deeper = config.read_text().replace('"encoder_depth": 2', '"encoder_depth": 256')
    for text, problem in ((wider, "of another shape"), (deeper, "blocks in the configuration")):
        save_checkpoint(tiny, file, metadata={"config": text})
        info = checkpoint_info(file)
        assert info["fits"] is False and problem in info["problems"][0]
        assert info["parameters"] is None and len(info["problems"]) <= 6


def test_broken_weights_are_named_with_their_file(tiny: TwoViewModel, tmp_path: Path) -> None:
    file = save_checkpoint(tiny, tmp_path / "saved")
    state = load_file(file)
    state["enc_norm.weight"].fill_(torch.nan)
    save_file(state, file)
    with pytest.raises(ValueError, match="model.safetensors: enc_norm.weight holds NaN"):
        convert_checkpoint(file, tmp_path / "out")
