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
    assert ModelConfig.from_dict(json.loads(text)) == PRESETS["mast3r-512"]
    other = ModelConfig.from_dict(json.loads(text) | {"enc_depth": 23})
    assert (other.name, other.encoder_depth) == ("custom", 23)


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
        ({3: 3}, "unknown fields in a published model configuration: 3"),
        ({"head_type": ["dpt"]}, r"head_type must be text, got \['dpt'\]"),
        ({"pos_embed": 100}, "pos_embed must be text, got 100"),
        ({"output_mode": None}, "output_mode must be text, got None"),
        ({"output_mode": "pts3d+desc" + "9" * 5000}, "does not fit head_type"),
        ({"output_mode": "pts3d+desc99999"}, "descriptor_dim must be .* from 0 to 4096, got 99999"),
        ({"depth_mode": 3}, r"depth_mode is \[mode, '-inf', 'inf'\], got 3"),
        ({"depth_mode": ["exp", math.inf, -math.inf]}, "depth_mode must be unbounded"),
        ({"depth_mode": ["log", "-inf", "inf"]}, "point_mode must be one of"),
        ({"depth_mode": [["exp"], "-inf", "inf"]}, "point_mode must be one of"),
        ({"img_size": "512"}, "img_size must be one or two whole numbers, got '512'"),
        ({"img_size": [512]}, "img_size must be one or two whole numbers"),
        ({"img_size": [512.0, 512]}, "image_size must be a whole number from 1 to 16384, got 512"),
        ({"desc_mode": "sigmoid"}, "desc_mode must be 'norm', got 'sigmoid'"),
        ({"norm_im2_in_dec": False}, "norm_im2_in_dec must be True, got False"),
        ({"patch_embed_cls": "Other"}, "patch_embed_cls must be 'PatchEmbedDust3R' or"),
        ({"enc_depth": 10**6}, "encoder_depth must be a whole number from 1 to 256, got 1000000"),
        ({"enc_depth": 10**400}, "encoder_depth must be .* got a huge one"),
        ({"enc_depth": True}, "encoder_depth must be a whole number from 1 to 256, got True"),
        ({"conf_mode": ["exp", 10**400, "inf"]}, "a confidence mode is"),
        ({"freeze": "all"}, "freeze must be one of none, mask, encoder"),
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
        ({"encoder_dim": 10**9}, "encoder_dim must be a whole number from 1 to 16384"),
        ({"encoder_dim": "256"}, "encoder_dim must be a whole number from 1 to 16384, got '256'"),
        ({"decoder_heads": 0}, "decoder_heads must be a whole number from 1 to 1024, got 0"),
        ({"patch_size": 0}, "patch_size must be a whole number from 1 to 256, got 0"),
        ({"mlp_ratio": math.nan}, "mlp_ratio must be a number from 0.01 to 64, got nan"),
        ({"mlp_ratio": 1e9}, "mlp_ratio must be a number from 0.01 to 64"),
        ({"rope_base": None}, "rope_base must be a number from 0.001 to 1e.09, got None"),
        ({"rope_reference_grid": 0}, "rope_reference_grid must be a whole number"),
        ({"qk_norm": "yes"}, "qk_norm must be true or false, got 'yes'"),
        ({"name": "x" * 300}, "name must be text of at most 200 characters"),
        ({"confidence": ("exp", 1, 2)}, "confidence must be a ConfidenceMode"),
        ({"image_size": (224,)}, "image_size must be 2 whole numbers, got"),
        ({"dpt_layer_dims": (1, 2, 3, 0)}, "dpt_layer_dims must be a whole number from 1"),
        ({"local_dims": None}, "local_dims must be 4 whole numbers, got None"),
    ],
)
def test_impossible_configs(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["weav3r-small"], **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu", 0.0, 1.0), "confidence kind must be exp or sigmoid"),
        (("exp", "1", 2.0), "confidence bounds must be numbers"),
        (("exp", 1.0, 1.0), "confidence range"),
        (("sigmoid", 0.0, math.inf), "confidence range"),
        (("exp", -math.inf, 1.0), "confidence range"),
        (("exp", math.nan, math.inf), "confidence range"),
    ],
)
def test_impossible_confidences(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfidenceMode(*arguments)
