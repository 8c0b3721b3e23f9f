"""A calibration beside the weights: for these weights only, and it travels with a conversion."""

import logging

import pytest

from weav3r.inference.calibration import Calibration
from weav3r.models.calibration_file import calibration_path, read_calibration, write_calibration
from weav3r.models.checkpoint import bundled_weights
from weav3r.models.config import ModelConfig
from weav3r.models.convert import convert_checkpoint
from weav3r.models.loading import load_model
from weav3r.models.storage import save_checkpoint
from weav3r.models.two_view import TwoViewModel

TINY = ModelConfig(
    image_size=(32, 32),
    encoder_dim=24,
    encoder_depth=1,
    encoder_heads=2,
    decoder_dim=24,
    decoder_depth=2,
    decoder_heads=2,
)


@pytest.fixture
def weights(tmp_path):
    return save_checkpoint(TwoViewModel(TINY), tmp_path / "net")


def test_none_unless_written(weights):
    assert read_calibration(weights) is None
    assert load_model(weights, device="cpu").calibration is None


def test_it_is_loaded_with_the_weights_and_goes_with_a_conversion(weights, tmp_path):
    assert write_calibration(weights, {"version": 1}) == calibration_path(weights)
    assert calibration_path(weights).name == "model.calibration.json"
    assert load_model(weights.parent, device="cpu").calibration == {"version": 1}
    copy = convert_checkpoint(weights.parent, tmp_path / "copy", dtype="bfloat16")
    assert load_model(copy.file, device="cpu").calibration == {"version": 1}
    coarse = convert_checkpoint(weights.parent, tmp_path / "coarse", dtype="int8")
    assert load_model(coarse.file, device="cpu").calibration is None


def test_other_weights_have_other_errors(weights, caplog):
    write_calibration(weights, {"version": 1})
    save_checkpoint(TwoViewModel(TINY), weights)
    with caplog.at_level(logging.WARNING):
        assert read_calibration(weights) is None
    assert "was fitted for other weights" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3", '{"weights_sha256": 1'])
def test_a_damaged_file_is_named_and_left_out(weights, caplog, text):
    calibration_path(weights).write_text(text)
    with caplog.at_level(logging.WARNING):
        assert read_calibration(weights) is None
    assert "is no calibration" in caplog.text


def test_the_bundled_calibration_was_fitted_for_the_bundled_weights():
    bundled = bundled_weights("weav3r-small")
    assert bundled is not None
    data = read_calibration(bundled)
    assert data is not None, "other weights: run weav3r reliability --fit"
    assert "sweep" in Calibration.from_dict(data).roads
