"""What the package says about networks and checkpoint files."""

from pathlib import Path

import pytest

from weav3r.models import PRESETS, available_models, checkpoint_info, model_info, save_checkpoint
from weav3r.models.config import ModelConfig
from weav3r.models.two_view import TwoViewModel

TINY = ModelConfig(
    name="tiny",
    image_size=(32, 32),
    encoder_dim=16,
    encoder_depth=1,
    encoder_heads=1,
    decoder_dim=16,
    decoder_depth=1,
    decoder_heads=1,
)


def test_every_preset_is_listed_and_ours_is_bundled() -> None:
    models = {model.name: model for model in available_models()}
    assert list(models) == list(PRESETS)
    assert models["weav3r-small"].licence == "Apache-2.0"
    assert models["weav3r-small"].bundled_bytes is not None
    assert models["mast3r-512"].bundled_bytes is None
    assert "non-commercial" in models["mast3r-512"].licence


def test_an_unknown_preset_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown model 'nonsense'; there are: weav3r-small"):
        model_info("nonsense")


def test_info_of_a_preset_without_weights() -> None:
    info = checkpoint_info("dust3r-512-dpt")
    assert info["config"] == PRESETS["dust3r-512-dpt"].to_dict()
    assert "file" not in info


@pytest.mark.parametrize("name", ["tiny.safetensors", "folder"])
def test_info_of_a_checkpoint_comes_from_its_header(tmp_path: Path, name: str) -> None:
    model = TwoViewModel(TINY)
    file = save_checkpoint(model, tmp_path / name, metadata={"recipe": "none"})
    info = checkpoint_info(tmp_path / name)
    assert info["name"] == "tiny"
    assert info["parameters"] == sum(p.numel() for p in model.parameters())
    assert (info["file"], info["bytes"]) == (str(file), file.stat().st_size)
    assert info["metadata"]["recipe"] == "none" and "config" not in info["metadata"]
    assert info["config"] == TINY.to_dict()


def test_info_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a file, nor a folder, nor a preset"):
        checkpoint_info(tmp_path / "missing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        checkpoint_info(tmp_path / "broken.safetensors")
