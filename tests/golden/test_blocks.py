"""Transformer pieces and cross-view completion against the golden vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from weav3r.croco_like.attention import AttentionBackend, set_attention_backend
from weav3r.croco_like.blocks import DecoderBlock, EncoderBlock
from weav3r.croco_like.croco import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CompletionPrediction,
    CrocoConfig,
    CrocoModel,
    completion_loss,
    patchify,
    sincos_table,
)
from weav3r.croco_like.rope import grid_positions, rotary_tables, rotate


def assert_near(actual: Tensor, expected: np.ndarray) -> None:
    """Compare within 1e-5 of the largest value: fused attention reorders the sums."""
    limit = 1e-5 + 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("case", "output", "base", "scale"),
    [
        ("a", "out_base100", 100.0, 1.0),
        ("a", "out_base10000", 10000.0, 1.0),
        ("a", "out_base100_F0_0.5", 100.0, 0.5),
        ("b", "out_base100", 100.0, 1.0),
        ("c", "out_base100", 100.0, 1.0),
    ],
)
def test_rope(golden, case: str, output: str, base: float, scale: float) -> None:
    file = golden("rope2d")
    tokens = torch.from_numpy(file[f"{case}/tokens"])
    positions = torch.from_numpy(file[f"{case}/positions"])
    tables = rotary_tables(positions, tokens.shape[-1], base, scale)
    expected = file[f"{case}/{output}"]
    np.testing.assert_allclose(rotate(tokens, tables).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_grid_positions(golden) -> None:
    np.testing.assert_array_equal(grid_positions(4, 6).numpy(), golden("rope2d")["grid_4x6"])


@pytest.mark.parametrize(("rows", "columns", "dim"), [(4, 6, 32), (3, 3, 24)])
def test_sincos_table(golden, rows: int, columns: int, dim: int) -> None:
    expected = golden("sincos_posembed")[f"grid_{rows}x{columns}_dim{dim}"]
    actual = sincos_table(rows, columns, dim).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
@torch.no_grad()
def test_encoder_block(golden, golden_state, backend: AttentionBackend) -> None:
    file = golden("encoder_block")
    block = EncoderBlock(dim=32, num_heads=2)
    block.load_state_dict(golden_state(file))
    set_attention_backend(block, backend)
    x = torch.from_numpy(file["in/x"])
    tables = rotary_tables(torch.from_numpy(file["in/pos"]), 16)
    assert_near(block(x, tables), file["out/y"])
    assert_near(block.attn(x, tables), file["out/attn_only_on_raw_x"])
    assert_near(block.mlp(x), file["out/mlp_only_on_raw_x"])


@pytest.mark.parametrize("backend", ["sdpa", "math"])
@torch.no_grad()
def test_decoder_block(golden, golden_state, backend: AttentionBackend) -> None:
    file = golden("decoder_block")
    block = DecoderBlock(dim=32, num_heads=2)
    block.load_state_dict(golden_state(file))
    set_attention_backend(block, backend)
    x, y = torch.from_numpy(file["in/x"]), torch.from_numpy(file["in/y"])
    tables_x = rotary_tables(torch.from_numpy(file["in/xpos"]), 16)
    tables_y = rotary_tables(torch.from_numpy(file["in/ypos"]), 16)
    assert_near(block(x, y, tables_x, tables_y), file["out/x"])
    cross = block.cross_attn(x, y, tables_x, tables_y)
    assert_near(cross, file["out/cross_attn_only_on_raw"])


def completion_inputs(file) -> tuple[Tensor, Tensor, Tensor]:
    """Give both ImageNet-normalised images and the mask."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    first, second = (
        (torch.from_numpy(file[f"in/img{k}_u8"]).float() / 255 - mean) / std for k in (1, 2)
    )
    return first, second, torch.from_numpy(file["in/mask"])


@torch.no_grad()
def test_completion(golden, golden_state) -> None:
    file = golden("croco_masked")
    model = CrocoModel(CrocoConfig.from_published(json.loads(str(file["config"])))).eval()
    model.load_state_dict(golden_state(file))
    first, second, mask = completion_inputs(file)
    assert int(mask[0].sum()) == int(file["num_mask"])

    visible, positions1 = model.encode(first, mask)
    memory, positions2 = model.encode(second)
    assert_near(visible, file["out/enc1_visible"])
    assert_near(memory, file["out/enc2"])
    stream = model.decode(visible, memory, mask, positions1, positions2, ((6, 6), (6, 6)))
    assert_near(stream, file["out/dec"])

    prediction = model(first, second, mask)
    assert_near(prediction.patches[:, ::3], file["out/prediction_every_3rd_token"])
    target = patchify(first, 16)[:, ::5].numpy()
    expected = file["out/target_patches_every_5th_token"]
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_completion_loss(golden, golden_state, normalise: bool, masked: bool) -> None:
    file = golden("croco_masked")
    model = CrocoModel(CrocoConfig.from_published(json.loads(str(file["config"])))).eval()
    model.load_state_dict(golden_state(file))
    first, second, mask = completion_inputs(file)
    prediction: CompletionPrediction = model(first, second, mask)
    loss = completion_loss(prediction, first, 16, normalise_target=normalise, masked_only=masked)
    expected = float(file[f"loss/norm{int(normalise)}_masked{int(masked)}"])
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_completion_with_cosine_tables(golden, golden_state) -> None:
    file, inputs = golden("croco_masked_cosine"), golden("croco_masked")
    model = CrocoModel(CrocoConfig.from_published(json.loads(str(file["config"])))).eval()
    model.load_state_dict(golden_state(inputs) | golden_state(file))
    first, second, mask = completion_inputs(inputs)
    prediction = model(first, second, mask)
    assert_near(prediction.patches[:, ::6], file["out/prediction_every_6th_token"])
