"""Cross-view completion: masks, tables, gradients, learning."""

import pytest
import torch

from weav3r.croco_like.croco import (
    CROCO_PRESETS,
    CrocoConfig,
    CrocoModel,
    completion_loss,
    patchify,
    resample_table,
    sincos_table,
)
from weav3r.croco_like.masking import random_mask

TINY = CrocoConfig(
    image_size=16,
    patch_size=4,
    mask_ratio=0.75,
    encoder_dim=16,
    encoder_depth=1,
    encoder_heads=2,
    decoder_dim=8,
    decoder_depth=2,
    decoder_heads=1,
    rope_base=100.0,
)


def test_masks_hide_equally_many_tokens_at_random_places() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = random_mask(400, 20, 0.72, generator)
    assert mask.sum(dim=1).eq(14).all()  # floor(14.4)
    share = mask.float().mean(dim=0)
    assert (share - 0.7).abs().max() < 0.1  # 4 standard deviations of 400 draws
    again = random_mask(400, 20, 0.72, torch.Generator().manual_seed(0))
    assert torch.equal(mask, again)


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_mask_ratio_must_leave_something(ratio: float) -> None:
    with pytest.raises(ValueError, match="mask_ratio must be in"):
        random_mask(1, 4, ratio)


def test_learns_one_batch() -> None:
    torch.manual_seed(0)
    model = CrocoModel(TINY)
    first, second = torch.randn(2, 2, 3, 16, 16)
    mask = random_mask(2, 16, 0.75)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = completion_loss(model(first, second, mask), first, 4)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    model = CrocoModel(TINY)
    first, second = torch.randn(2, 2, 3, 16, 16)
    completion_loss(model(first, second), first, 4).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_hidden_pixels_have_no_influence() -> None:
    torch.manual_seed(0)
    model = CrocoModel(TINY).eval()
    first, second = torch.randn(2, 1, 3, 16, 16)
    mask = torch.ones(1, 16, dtype=torch.bool)
    mask[0, 0] = False  # only the first patch is visible
    changed = first.clone()
    changed[..., 4:, :] = 7.0
    with torch.no_grad():
        a, b = (model(images, second, mask).patches for images in (first, changed))
    assert torch.equal(a, b)


def test_patchify_puts_the_colour_last() -> None:
    images = torch.arange(48.0).view(1, 3, 4, 4)
    patches = patchify(images, 2)
    assert patches[0, 1, :4].tolist() == [2, 18, 34, 3]  # pixel (0, 2): r, g, b; then (0, 3)


def test_cosine_tables_serve_other_sizes() -> None:
    config = CrocoConfig(
        image_size=16,
        patch_size=4,
        encoder_dim=16,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=8,
        decoder_depth=1,
        decoder_heads=1,
    )
    images = torch.zeros(1, 3, 24, 16)
    prediction = CrocoModel(config)(images, images)
    assert prediction.patches.shape == (1, 24, 48)
    table = sincos_table(4, 4, 16)
    assert resample_table(table, 4, (4, 4)) is table


def test_table_width_must_be_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_table(2, 2, 10)


def test_published_fields() -> None:
    kwargs = {
        "pos_embed": "RoPE100",
        "enc_embed_dim": 1024,
        "enc_depth": 24,
        "enc_num_heads": 16,
        "dec_embed_dim": 768,
        "dec_depth": 12,
        "dec_num_heads": 12,
    }
    assert CrocoConfig.from_published(kwargs) == CROCO_PRESETS["croco-v2-large-base"]
    assert CrocoConfig.from_published({}) == CROCO_PRESETS["croco"]
    with pytest.raises(ValueError, match="unknown fields in a CroCo configuration: depth"):
        CrocoConfig.from_published({"depth": 3})
    with pytest.raises(ValueError, match="pos_embed must be"):
        CrocoConfig.from_published({"pos_embed": "learned"})


def test_image_size_must_fit_the_patches() -> None:
    with pytest.raises(ValueError, match="multiple of patch_size=16, got 100"):
        CrocoConfig(image_size=100)
