"""Configurations: plain data, published fields, errors."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from weav3r.models import PRESETS, ConfidenceMode, ModelConfig

MAST3R = {
    "pos_embed": "RoPE100",
    "patch_embed_cls": "ManyAR_PatchEmbed",
    "img_size": [512, 512],
    "head_type": "catmlp+dpt",
    "output_mode": "pts3d+desc24",
    "depth_mode": ["exp", -math.inf, math.inf],
    "conf_mode": ["exp", 1, math.inf],
    "enc_embed_dim": 1024,
    "enc_depth": 24,
    "enc_num_heads": 16,
    "dec_embed_dim": 768,
    "dec_depth": 12,
    "dec_num_heads": 12,
    "two_confs": True,
    "desc_conf_mode": ["exp", 0, math.inf],
    "landscape_only": False,
}


@pytest.mark.parametrize("name", PRESETS)
def test_plain_data_round_trip(name: str) -> None:
    text = json.dumps(PRESETS[name].to_dict(), allow_nan=False)
    assert ModelConfig.from_dict(json.loads(text)) == PRESETS[name]


def test_the_small_preset() -> None:
    config = PRESETS["weav3r-small"]
    assert (config.encoder_dim, config.encoder_depth, config.encoder_heads) == (256, 8, 4)
    assert (config.decoder_dim, config.decoder_depth, config.decoder_heads) == (192, 4, 3)
    assert config.patch_size == 16 and config.rope_reference_grid == 14
    assert config.point_mode == "ray" and config.descriptor_head == "local"


def test_published_config_with_infinity_tokens() -> None:
    text = json.dumps(MAST3R)
    assert "Infinity" in text
    config = ModelConfig.from_dict(json.loads(text))
    assert dataclasses.replace(config, name="mast3r-512") == PRESETS["mast3r-512"]


def test_published_defaults_fill_absent_fields() -> None:
    config = ModelConfig.from_dict({"head_type": "linear", "pos_embed": "RoPE100"})
    assert config.confidence == ConfidenceMode("exp", 1.0, math.inf)
    assert (config.encoder_dim, config.decoder_depth) == (768, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_type": "catconv"}, "head_type must be one of linear, dpt, catmlp"),
        ({"output_mode": "pts3d"}, "does not fit head_type"),
        ({"pos_embed": "cosine"}, "need pos_embed like 'RoPE100'"),
        ({"depth_mode": ["exp", 0, math.inf]}, "depth_mode must be unbounded"),
        ({"conf_mode": ["exp", 1]}, "a confidence mode is"),
        ({"depth": 3}, "unknown fields in a published model configuration: depth"),
    ],
)
def test_published_configs_that_no_network_has(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(MAST3R | change)


def test_unknown_fields() -> None:
    with pytest.raises(ValueError, match="unknown fields in the model configuration: colour"):
        ModelConfig.from_dict({"colour": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_heads": 5}, "encoder: width"),
        ({"point_mode": "log"}, "point_mode must be one of exp, square, linear, ray"),
        ({"image_size": (224, 200)}, "image_size must be a multiple of patch_size=16"),
        ({"descriptor_dim": 0}, "descriptor_dim must be positive with a descriptor head"),
        ({"confidence": None, "descriptor_confidence": None}, "two_confidences needs"),
        ({"point_head": "dpt", "dpt_hooks": (0, 2, 3, 9)}, "dpt_hooks must"),
        ({"patch_size": 14}, "multiple of 8, got 14"),
        ({"patch_size": 8, "point_head": "dpt"}, "dpt head needs patch_size=16, got 8"),
    ],
)
def test_impossible_configs(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["weav3r-small"], **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu", 0.0, 1.0), "confidence kind must be exp or sigmoid"),
        (("exp", 1.0, 1.0), "confidence range"),
        (("sigmoid", 0.0, math.inf), "confidence range"),
    ],
)
def test_impossible_confidences(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfidenceMode(*arguments)
