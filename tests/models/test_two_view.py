"""The two-view network: symmetry, caching, sizes, orientation, gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from weav3r.models import (
    PRESETS,
    EncodedImages,
    PairPrediction,
    TwoViewModel,
    ViewPrediction,
)
from weav3r.models.outputs import MAX_LOG_DEPTH, activate_points, normalised_coordinates
from weav3r.models.two_view import coordinate_features


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Compare loosely: another batch size reorders float32 sums."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def maps(view: ViewPrediction) -> list[Tensor]:
    fields = (getattr(view, field.name) for field in dataclasses.fields(view))
    return [field for field in fields if field is not None]


def assert_same_view(a: ViewPrediction, b: ViewPrediction) -> None:
    for left, right in zip(maps(a), maps(b), strict=True):
        assert_close(left, right)


def assert_same_pair(a: PairPrediction, b: PairPrediction) -> None:
    assert_same_view(a.view1, b.view1)
    assert_same_view(a.view2, b.view2)


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_shapes_and_ranges(any_tiny: TwoViewModel) -> None:
    prediction = any_tiny(random_images(2, 3, 32, 48), random_images(2, 3, 48, 32, seed=1))
    for view, size in ((prediction.view1, (32, 48)), (prediction.view2, (48, 32))):
        assert view.pointmap.shape == (2, *size, 3)
        assert view.confidence.shape == (2, *size) and view.confidence.min() >= 1
        if any_tiny.config.descriptor_head != "none":
            assert view.descriptors is not None and view.descriptor_confidence is not None
            assert view.descriptors.shape == (2, *size, 24)
            norms = view.descriptors.norm(dim=-1)
            torch.testing.assert_close(norms, torch.ones_like(norms))
            assert view.descriptor_confidence.min() > 0


@torch.no_grad()
def test_symmetric_decoding_is_both_orders(any_tiny: TwoViewModel) -> None:
    encoded1 = any_tiny.encode(random_images(2, 3, 32, 48))
    encoded2 = any_tiny.encode(random_images(2, 3, 32, 48, seed=1))
    forward, backward = any_tiny.decode_symmetric(encoded1, encoded2)
    assert_same_pair(forward, any_tiny.decode(encoded1, encoded2))
    assert_same_pair(backward, any_tiny.decode(encoded2, encoded1))
    swapped_backward, swapped_forward = any_tiny.decode_symmetric(encoded2, encoded1)
    assert_same_pair(forward, swapped_forward)
    assert_same_pair(backward, swapped_backward)


@torch.no_grad()
def test_symmetric_decoding_of_different_sizes(tiny: TwoViewModel) -> None:
    encoded1 = tiny.encode(random_images(1, 3, 32, 48))
    encoded2 = tiny.encode(random_images(1, 3, 48, 32, seed=1))
    forward, backward = tiny.decode_symmetric(encoded1, encoded2)
    assert forward.view1.confidence.shape == backward.view2.confidence.shape == (1, 32, 48)
    assert_same_pair(backward, tiny.decode(encoded2, encoded1))


@torch.no_grad()
def test_encoding_once_is_enough(any_tiny: TwoViewModel) -> None:
    images = random_images(3, 3, 32, 32)
    encoded = any_tiny.encode(images)
    pairs = any_tiny.decode(encoded.select([0, 0]), encoded.select(torch.tensor([1, 2])))
    assert_same_pair(pairs, any_tiny(images[[0, 0]], images[[1, 2]]))
    parts = EncodedImages.cat([any_tiny.encode(image[None]) for image in images])
    assert_close(parts.tokens, encoded.tokens)
    assert len(parts.local) == len(encoded.local)
    half1, half2 = encoded.select(slice(0, 2)).halves()
    assert_same_pair(
        any_tiny.decode(half1, half2), any_tiny.decode(encoded.select([0]), encoded.select([1]))
    )


@torch.no_grad()
def test_mixed_orientations_equal_upright_images(any_tiny: TwoViewModel) -> None:
    landscape1, landscape2 = random_images(2, 1, 3, 32, 48)
    portrait1, portrait2 = random_images(2, 1, 3, 48, 32, seed=1)
    # Pairs: landscape-landscape, portrait-portrait, landscape-portrait, portrait-landscape.
    shapes1 = torch.tensor([[32, 48], [48, 32], [32, 48], [48, 32]])
    shapes2 = torch.tensor([[32, 48], [48, 32], [48, 32], [32, 48]])
    stored1 = torch.cat((landscape1, portrait1.mT, landscape1, portrait1.mT))
    stored2 = torch.cat((landscape2, portrait2.mT, portrait2.mT, landscape2))
    mixed = any_tiny(stored1, stored2, shapes1, shapes2)
    uprights = (
        (landscape1, landscape2),
        (portrait1, portrait2),
        (landscape1, portrait2),
        (portrait1, landscape2),
    )
    for row, (first, second) in enumerate(uprights):
        expected = any_tiny(first, second)
        actual = mixed.select(slice(row, row + 1))
        for view, wanted in ((actual.view1, expected.view1), (actual.view2, expected.view2)):
            portrait = wanted.confidence.shape[1] > wanted.confidence.shape[2]
            assert_same_view(view.transpose() if portrait else view, wanted)


@torch.no_grad()
def test_orientation_survives_joining_batches(tiny: TwoViewModel) -> None:
    plain = tiny.encode(random_images(1, 3, 32, 48))
    turned = tiny.encode(random_images(1, 3, 32, 48, seed=1), torch.tensor([[48, 32]]))
    joined = EncodedImages.cat((plain, turned))
    assert joined.transposed is not None and joined.transposed.tolist() == [False, True]
    forward, backward = tiny.decode_symmetric(plain, turned)
    assert_same_pair(forward, tiny.decode(plain, turned))
    assert_same_pair(backward, tiny.decode(turned, plain))


@torch.no_grad()
def test_positions_of_large_grids_are_interpolated(tiny: TwoViewModel) -> None:
    small = tiny.encode(torch.zeros(1, 3, 32, 14 * 16)).positions
    assert small[0].max() == 13
    large = tiny.encode(torch.zeros(1, 3, 32, 28 * 16)).positions
    assert large.dtype == torch.float32
    assert large[0, :, 1].unique().tolist() == [column / 2 for column in range(28)]
    assert large[0, :, 0].unique().tolist() == [0, 0.5]


def test_every_trainable_parameter_gets_a_gradient(any_tiny: TwoViewModel) -> None:
    prediction = any_tiny(random_images(1, 3, 32, 48), random_images(1, 3, 32, 48, seed=1))
    generator = torch.Generator().manual_seed(0)
    outputs = [m for view in (prediction.view1, prediction.view2) for m in maps(view)]
    torch.autograd.backward(outputs, [torch.randn(m.shape, generator=generator) for m in outputs])
    without = {
        name
        for name, parameter in any_tiny.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    frozen = {n for n, parameter in any_tiny.named_parameters() if not parameter.requires_grad}
    assert without == frozen
    allowed = ("mask_token", "refinenet4.resConfUnit1")
    assert all(any(part in name for part in allowed) for name in frozen)


@pytest.mark.parametrize("name", ["none", "mask", "encoder"])
def test_freezing(tiny: TwoViewModel, name) -> None:
    model = TwoViewModel(dataclasses.replace(tiny.config, freeze=name))
    frozen = {n.split(".")[0] for n, p in model.named_parameters() if not p.requires_grad}
    encoder = {"patch_embed", "enc_blocks"} if name == "encoder" else set()
    assert frozen == {"mask_token"} | encoder


def test_ray_points_lie_in_front_of_the_camera() -> None:
    raw = torch.randn(1, 6, 8, 3, generator=torch.Generator().manual_seed(0)) * 100
    z = activate_points(raw, "ray")[..., 2]
    limit = torch.tensor(MAX_LOG_DEPTH).exp()
    assert (z > 0).all() and z.max() <= limit and z.min() >= 1 / limit


def test_ray_points_of_a_silent_head_are_a_plane_at_depth_one() -> None:
    points = activate_points(torch.zeros(1, 6, 8, 3), "ray")[0]
    assert points[..., 2].eq(1).all()
    # The centre of the leftmost pixel is half a pixel inside the image: -7/8 of half the width.
    torch.testing.assert_close(points[0, 0], torch.tensor([-0.525, -0.375, 1.0]))
    torch.testing.assert_close(points.mean(dim=(0, 1)), torch.tensor([0.0, 0.0, 1.0]))


def test_coordinates_are_symmetric() -> None:
    grid = normalised_coordinates(3, 5, torch.device("cpu"))
    torch.testing.assert_close(grid, -grid.flip(0, 1))
    features = coordinate_features(3, 5, torch.device("cpu"))
    assert features.shape == (15, 10)
    assert features.abs().max() <= 1
    assert torch.linalg.matrix_rank(coordinate_features(9, 12, torch.device("cpu"))) == 10


@torch.no_grad()
def test_heads_stay_in_float32_under_autocast(any_tiny: TwoViewModel) -> None:
    images = random_images(1, 3, 32, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = any_tiny(images, images)
    assert all(m.dtype == torch.float32 for m in maps(prediction.view1))
    exact = any_tiny(images, images)
    # bfloat16 has 8 bits; two blocks of it leave a few percent.
    difference = (prediction.view1.pointmap - exact.view1.pointmap).abs().mean()
    assert difference < 0.1 * exact.view1.pointmap.abs().mean()


def test_shapes_are_known_without_computing() -> None:
    with torch.device("meta"):
        model = TwoViewModel(PRESETS["mast3r-512"])
        prediction = model(torch.empty(1, 3, 384, 512), torch.empty(1, 3, 512, 384))
    assert prediction.view2.pointmap.shape == (1, 512, 384, 3)


def test_both_decoders_start_equal() -> None:
    config = dataclasses.replace(PRESETS["weav3r-small"], encoder_depth=1, decoder_depth=1)
    model = TwoViewModel(config)
    for one, two in zip(model.dec_blocks.parameters(), model.dec_blocks2.parameters(), strict=True):
        assert torch.equal(one, two) and one is not two


def test_a_network_without_confidence(tiny: TwoViewModel) -> None:
    config = dataclasses.replace(
        tiny.config,
        confidence=None,
        descriptor_head="none",
        descriptor_dim=0,
        two_confidences=False,
    )
    view = TwoViewModel(config)(*random_images(2, 1, 3, 32, 32)).view1
    assert view.confidence.eq(1).all() and view.descriptors is None


def test_batches_must_have_equal_length(tiny: TwoViewModel) -> None:
    encoded = tiny.encode(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="as many first as second images, got 2 and 1"):
        tiny.decode(encoded, encoded.select([0]))


def test_true_shapes_come_in_pairs(tiny: TwoViewModel) -> None:
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="both true_shape1 and true_shape2"):
        tiny(images, images, torch.tensor([[32, 32]]))


def test_joining_needs_equal_sizes(tiny: TwoViewModel) -> None:
    parts = [tiny.encode(torch.zeros(1, 3, 32, width)) for width in (32, 48)]
    with pytest.raises(ValueError, match="needs one image size"):
        EncodedImages.cat(parts)
    with pytest.raises(ValueError, match="at least one part"):
        EncodedImages.cat([])


def test_image_sides_must_fit_the_patches(tiny: TwoViewModel) -> None:
    with pytest.raises(ValueError, match="multiples of patch_size=16, got 30x32"):
        tiny.encode(torch.zeros(1, 3, 30, 32))


@torch.no_grad()
def test_compiled_blocks_give_the_same(any_tiny: TwoViewModel) -> None:
    images = random_images(2, 3, 32, 48), random_images(2, 3, 32, 48, seed=1)
    expected = any_tiny(*images)
    calls = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        calls.append(graph)
        return graph.forward

    any_tiny.compile_blocks(backend=backend)
    assert_same_pair(any_tiny(*images), expected)
    assert calls
