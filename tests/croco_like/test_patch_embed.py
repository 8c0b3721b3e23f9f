"""Patch embedding, upright and transposed."""

import pytest
import torch
from torch.nn import functional as F

from weav3r.croco_like.patch_embed import PatchEmbed, transposed_rows


@pytest.fixture
def embed() -> PatchEmbed:
    torch.manual_seed(0)
    return PatchEmbed(dim=8, patch_size=4)


@torch.no_grad()
def test_equals_a_strided_convolution(embed: PatchEmbed) -> None:
    images = torch.randn(2, 3, 8, 12)
    tokens, positions = embed(images)
    expected = F.conv2d(images, embed.proj.weight, embed.proj.bias, stride=4)
    assert torch.allclose(tokens, expected.flatten(2).mT, atol=1e-6)
    assert positions[1].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@torch.no_grad()
def test_transposed_images_give_the_tokens_of_the_upright_image(embed: PatchEmbed) -> None:
    upright = torch.randn(1, 3, 12, 8)
    landscape = torch.randn(1, 3, 8, 12)
    stored = torch.cat((landscape, upright.mT))
    transposed = transposed_rows(torch.tensor([[8, 12], [12, 8]]), 8, 12)
    tokens, positions = embed(stored, transposed)
    for row, images in enumerate((landscape, upright)):
        expected_tokens, expected_positions = embed(images)
        assert torch.allclose(tokens[row], expected_tokens[0], atol=1e-6)
        assert torch.equal(positions[row], expected_positions[0])


def test_transposed_rows_is_none_when_nothing_is_transposed() -> None:
    assert transposed_rows(None, 8, 12) is None
    assert transposed_rows(torch.tensor([[8, 12]]), 8, 12) is None
    assert transposed_rows(torch.tensor([[12, 8]]), 12, 8) is None
    assert transposed_rows(torch.tensor([[8, 8]]), 8, 8) is None


def test_true_shape_must_fit_the_stored_size() -> None:
    with pytest.raises(ValueError, match="true_shape must be 8x12 or 12x8"):
        transposed_rows(torch.tensor([[8, 12], [8, 16]]), 8, 12)


@pytest.mark.parametrize("size", [(9, 12), (8, 13), (0, 8)])
def test_sides_must_be_multiples_of_the_patch(embed: PatchEmbed, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of patch_size=4, got {size[0]}x{size[1]}"):
        embed(torch.zeros(1, 3, *size))
