"""The two-view networks and their output activations against the golden vectors."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from weav3r.croco_like import CROCO_PRESETS, CrocoModel
from weav3r.models import PRESETS, ConfidenceMode, ModelConfig, TwoViewModel, ViewPrediction
from weav3r.models.heads import RawMaps
from weav3r.models.outputs import activate_confidence, activate_descriptors, activate_points
from weav3r.models.published import read_published
from weav3r.models.weights import load_weights

NETWORKS = ["twoview_linear", "twoview_dpt", "mast3r_catmlpdpt"]
PIXEL_RTOL, PIXEL_ATOL = 1e-5, 1e-6  # elementwise formulas in float32


def assert_map_near(actual: Tensor, expected: np.ndarray) -> None:
    """Compare a whole-network output: 3e-5 of the largest value plus 1e-4 of each value."""
    limit = 3e-5 * np.abs(expected).max()
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=limit)


def network(file, golden_state) -> TwoViewModel:
    extra = json.loads(str(file["extra"]))
    config = ModelConfig.from_dict(json.loads(str(file["config"])))
    if "hooks" in extra:
        config = dataclasses.replace(
            config,
            dpt_layer_dims=tuple(extra["layer_dims"]),
            dpt_feature_dim=extra["feature_dim"],
            dpt_last_dim=extra["last_dim"],
            dpt_hooks=tuple(extra["hooks"]),
        )
    model = TwoViewModel(config).eval()
    load_weights(model, golden_state(file))
    return model


def images(file, scenario: str) -> tuple[Tensor, Tensor]:
    first, second = (
        (torch.from_numpy(file[f"{scenario}/img{k}_u8"]).float() / 255 - 0.5) / 0.5 for k in (1, 2)
    )
    return first, second


def check_view(file, prefix: str, view: ViewPrediction, point_key: str, stride: bool) -> None:
    index = (slice(None), slice(None, None, 3), slice(1, None, 3)) if stride else ()
    assert_map_near(view.pointmap[index], file[f"{prefix}/{point_key}"])
    assert_map_near(view.confidence[index], file[f"{prefix}/conf"])
    if f"{prefix}/desc" in file:
        assert view.descriptors is not None and view.descriptor_confidence is not None
        coarse = index or (slice(None), slice(None, None, 2), slice(1, None, 2))
        assert_map_near(view.descriptors[coarse], file[f"{prefix}/desc"])
        assert_map_near(view.descriptor_confidence[index], file[f"{prefix}/desc_conf"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_layers_of_a_landscape_pair(golden, golden_state, name: str) -> None:
    file = golden(name)
    model = network(file, golden_state)
    encoded1, encoded2 = (model.encode(batch) for batch in images(file, "L"))
    np.testing.assert_array_equal(encoded1.positions.numpy(), file["L/pos1"])
    layers1, layers2 = model._decoder_layers(encoded1, encoded2, keep=range(99))
    assert len(layers1) == int(file["L/n_layers_returned"])
    pairs = [(layers1[0], "enc1"), (layers2[0], "enc2")]
    pairs += [(x, f"dec1_{i}") for i, x in layers1.items() if i]
    pairs += [(x, f"dec2_{i}") for i, x in layers2.items() if i]
    for actual, key in pairs:
        expected = file[f"L/{key}"]
        limit = 1e-5 + 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("scenario", ["L", "P", "D"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_upright_pairs(golden, golden_state, name: str, scenario: str) -> None:
    file = golden(name)
    prediction = network(file, golden_state)(*images(file, scenario))
    stride = scenario != "L"
    check_view(file, f"{scenario}/pred1", prediction.view1, "pts3d", stride)
    check_view(file, f"{scenario}/pred2", prediction.view2, "pts3d_in_other_view", stride)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_mixed_orientations(golden, golden_state, name: str) -> None:
    file = golden(name)
    shapes = (torch.from_numpy(file[f"X/true_shape{k}"]) for k in (1, 2))
    prediction = network(file, golden_state)(*images(file, "X"), *shapes)
    check_view(file, "X/pred1", prediction.view1, "pts3d", stride=True)
    check_view(file, "X/pred2", prediction.view2, "pts3d_in_other_view", stride=True)


@pytest.mark.parametrize("mode", ["exp", "square", "linear"])
def test_point_modes(golden, mode) -> None:
    file = golden("postprocess")
    actual = activate_points(torch.from_numpy(file["depth/in"]), mode)
    np.testing.assert_allclose(
        actual.numpy(), file[f"depth/{mode}"], rtol=PIXEL_RTOL, atol=PIXEL_ATOL
    )


@pytest.mark.parametrize(
    "key", ["exp_1_inf", "exp_0_inf", "exp_1_10", "exp_2_4", "sigmoid_0_1", "sigmoid_1_5"]
)
def test_confidence_modes(golden, key: str) -> None:
    file = golden("postprocess")
    kind, low, high = key.split("_")
    mode = ConfidenceMode(kind, float(low), float(high))  # pyright: ignore[reportArgumentType]
    actual = activate_confidence(torch.from_numpy(file["conf/in"]), mode)
    np.testing.assert_allclose(
        actual.numpy(), file[f"conf/{key}"], rtol=PIXEL_RTOL, atol=PIXEL_ATOL
    )


def test_descriptor_norm(golden) -> None:
    file = golden("postprocess")
    actual = activate_descriptors(torch.from_numpy(file["desc/in"]))
    np.testing.assert_allclose(actual.numpy(), file["desc/norm"], rtol=PIXEL_RTOL, atol=PIXEL_ATOL)


@pytest.mark.parametrize("two_confidences", [True, False])
def test_activations_of_a_head(golden, two_confidences: bool) -> None:
    file = golden("postprocess")
    raw = torch.from_numpy(file["full/in_BCHW"]).permute(0, 2, 3, 1)
    config = ModelConfig(
        encoder_dim=16,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
        descriptor_head="mlp",
        descriptor_dim=5,
        two_confidences=two_confidences,
        descriptor_confidence=ConfidenceMode("exp", 0.0),
    )
    last = 10 if two_confidences else 9
    view = TwoViewModel(config)._activate(RawMaps(raw[..., :4], raw[..., 4:last]))
    prefix = "full/two_confs" if two_confidences else "full/one_conf"
    assert view.descriptors is not None and view.descriptor_confidence is not None
    maps = {
        "pts3d": view.pointmap,
        "conf": view.confidence,
        "desc": view.descriptors,
        "desc_conf": view.descriptor_confidence,
    }
    for key, actual in maps.items():
        np.testing.assert_allclose(
            actual.numpy(), file[f"{prefix}/{key}"], rtol=PIXEL_RTOL, atol=PIXEL_ATOL
        )


def block_image(name: str, height: int, width: int) -> Tensor:
    """Make the image of the full-size cases: one random colour per 16x16 block."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    blocks = random.randint(0, 256, size=(1, 3, height // 16, width // 16))
    pixels = blocks.repeat(16, axis=2).repeat(16, axis=3).astype(np.float32)
    return torch.from_numpy((pixels / 255 - 0.5) / 0.5)


def through_a_published_file(make, procedural, path: Path, **content):
    """Write golden weights as the training scripts would, and load them as a user does."""
    with torch.device("meta"):
        model = make()
    state = {key: procedural(key, tuple(v.shape)) for key, v in model.state_dict().items()}
    for key in list(state):
        alias = re.sub(r"layer([1-4])_rn", lambda m: f"layer_rn.{int(m[1]) - 1}", key)
        state[alias] = state[key]
    torch.save({"model": state, "epoch": 1, **content}, path)
    del state
    found = read_published(path)
    load_weights(model, found.state, assign=True)
    return model.eval(), found.config


_SHAPE = (
    "pos_embed='RoPE100', img_size=({size}, {size}), head_type='{head}', output_mode='{output}', "
    "depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), enc_embed_dim=1024, enc_depth=24, "
    "enc_num_heads=16, dec_embed_dim=768, dec_depth=12, dec_num_heads=12"
)
CONSTRUCTORS = {
    "dust3r-224-linear": "AsymmetricCroCo3DStereo("
    + _SHAPE.format(size=224, head="linear", output="pts3d")
    + ")",
    "dust3r-512-dpt": "AsymmetricCroCo3DStereo(patch_embed_cls='ManyAR_PatchEmbed', "
    + _SHAPE.format(size=512, head="dpt", output="pts3d")
    + ")",
    "mast3r-512": "AsymmetricMASt3R(patch_embed_cls='ManyAR_PatchEmbed', two_confs=True, "
    + _SHAPE.format(size=512, head="catmlp+dpt", output="pts3d+desc24")
    + ", desc_conf_mode=('exp', 0, inf))",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "published", "sizes"),
    [
        (
            "dust3r-224-linear",
            "DUSt3R_ViTLarge_BaseDecoder_224_linear",
            [(64, 96), (96, 64)],
        ),
        ("dust3r-512-dpt", "DUSt3R_ViTLarge_BaseDecoder_512_dpt", [(64, 96), (80, 48)]),
        (
            "mast3r-512",
            "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
            [(64, 96), (80, 48)],
        ),
    ],
)
@torch.no_grad()
def test_full_size(golden, procedural, large_file, preset: str, published: str, sizes) -> None:
    file = golden("fullsize_procedural")
    model, config = through_a_published_file(
        lambda: TwoViewModel(PRESETS[preset]),
        procedural,
        large_file,
        args=argparse.Namespace(model=CONSTRUCTORS[preset]),
    )
    assert config == PRESETS[preset]
    for height, width in sizes:
        prefix = f"{published}/{height}x{width}"
        first, second = (block_image(name, height, width) for name in ("v1", "v2"))
        encoded1, encoded2 = model.encode(first), model.encode(second)
        assert_map_near(encoded1.tokens[0, :4], file[f"{prefix}/enc1_first4tokens"])
        depth = config.decoder_depth
        last = model._decoder_layers(encoded1, encoded2, keep=[depth])[1][depth]
        assert_map_near(last[0, :4], file[f"{prefix}/dec2_last_first4tokens"])
        prediction = model.decode(encoded1, encoded2)
        views = (("pred1", prediction.view1, "pts3d"),)
        views += (("pred2", prediction.view2, "pts3d_in_other_view"),)
        for name, view, point_key in views:
            maps = {point_key: view.pointmap, "conf": view.confidence}
            if view.descriptors is not None and view.descriptor_confidence is not None:
                maps |= {"desc": view.descriptors, "desc_conf": view.descriptor_confidence}
            for key, actual in maps.items():
                expected = file[f"{prefix}/{name}/{key}_stride5"]
                assert_map_near(actual[0, 2::5, 1::5], expected)
                moments = np.array([actual.double().mean(), actual.double().std(correction=0)])
                wanted = file[f"{prefix}/{name}/{key}_mean_std"]
                np.testing.assert_allclose(moments, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_completion(golden, procedural, large_file) -> None:
    file = golden("fullsize_procedural")
    config = CROCO_PRESETS["croco-v2-large-base"]
    kwargs = {"pos_embed": "RoPE100", "enc_embed_dim": 1024, "enc_depth": 24, "enc_num_heads": 16}
    kwargs |= {"dec_embed_dim": 768, "dec_depth": 12, "dec_num_heads": 12}
    model, found = through_a_published_file(
        lambda: CrocoModel(config), procedural, large_file, croco_kwargs=kwargs
    )
    assert found == config
    prefix = "CroCo_V2_ViTLarge_BaseDecoder"
    mask = torch.ones(1, 196, dtype=torch.bool)
    mask[0, torch.from_numpy(file[f"{prefix}/visible_tokens"]).long()] = False
    first, second = (block_image(name, 224, 224) for name in ("croco1", "croco2"))
    patches = model(first, second, mask).patches[0]
    assert_map_near(patches[[0, 50, 195]], file[f"{prefix}/prediction_tokens_0_50_195"])
