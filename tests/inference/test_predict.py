"""Encoding once per image, decoding once per pair."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from weav3r.geometry.ledger import Ledger
from weav3r.inference.images import View
from weav3r.inference.predict import encode_views, predict_pairs
from weav3r.models import PRESETS, TwoViewModel


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    torch.manual_seed(0)
    config = dataclasses.replace(
        PRESETS["weav3r-small"],
        encoder_dim=32,
        encoder_depth=2,
        encoder_heads=2,
        decoder_dim=32,
        decoder_depth=2,
        decoder_heads=2,
    )
    return TwoViewModel(config).eval()


def make_views(sizes: list[tuple[int, int]]) -> list[View]:
    generator = torch.Generator().manual_seed(1)
    return [
        View(
            f"{i}.jpg",
            None,
            torch.rand(3, h, w, generator=generator) * 2 - 1,
            Ledger.from_file_size(h, w),
        )
        for i, (h, w) in enumerate(sizes)
    ]


def test_images_of_mixed_sizes_are_each_encoded_once(model: TwoViewModel, monkeypatch) -> None:
    views = make_views([(32, 48), (48, 32), (32, 48)])
    seen = []
    original = model.encode
    monkeypatch.setattr(model, "encode", lambda x: seen.append(len(x)) or original(x))
    done = []
    encoded = encode_views(model, views, batch_size=4, progress=done.append)
    assert sum(seen) == 3 and sum(done) == 3
    assert [e.image_size for e in encoded] == [(32, 48), (48, 32), (32, 48)]


def test_both_directions_equal_two_plain_passes(model: TwoViewModel) -> None:
    views = make_views([(32, 48), (48, 32), (32, 48)])
    encoded = encode_views(model, views)
    results = {(r.first, r.second): r for r in predict_pairs(model, encoded, [(0, 1), (0, 2)])}
    assert sorted(results) == [(0, 1), (0, 2)]
    for (i, j), result in results.items():
        with torch.no_grad():
            plain = model(views[i].image[None], views[j].image[None])
            turned = model(views[j].image[None], views[i].image[None])
        for got, want in ((result.forward, plain), (result.backward, turned)):
            for side in ("view1", "view2"):
                a, b = getattr(got, side), getattr(want, side)
                assert torch.allclose(a.pointmap, b.pointmap[0], atol=1e-4, rtol=1e-4)
                assert torch.allclose(a.descriptors, b.descriptors[0], atol=1e-4)


def test_pairs_are_streamed_in_batches(model: TwoViewModel) -> None:
    views = make_views([(32, 32)] * 4)
    encoded = encode_views(model, views)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    single = {(r.first, r.second): r for r in predict_pairs(model, encoded, pairs, batch_size=1)}
    for result in predict_pairs(model, encoded, pairs, batch_size=4):
        other = single[(result.first, result.second)]
        assert torch.allclose(
            result.forward.view2.confidence, other.forward.view2.confidence, rtol=1e-4
        )


def test_features_may_wait_in_half_precision(model: TwoViewModel) -> None:
    views = make_views([(32, 48), (32, 48)])
    exact = next(predict_pairs(model, encode_views(model, views), [(0, 1)]))
    halves = encode_views(model, views, keep=torch.float16)
    assert halves[0].tokens.dtype == torch.float16
    assert halves[0].positions.dtype == encode_views(model, views)[0].positions.dtype
    near = next(predict_pairs(model, halves, [(0, 1)]))
    for ours, theirs in ((near.forward, exact.forward), (near.backward, exact.backward)):
        assert ours.view1.pointmap.dtype == torch.float32
        torch.testing.assert_close(ours.view2.pointmap, theirs.view2.pointmap, rtol=1e-2, atol=1e-2)


def test_precision(model: TwoViewModel) -> None:
    views = make_views([(32, 48), (32, 48)])
    encoded = encode_views(model, views, precision="bfloat16")
    result = next(predict_pairs(model, encoded, [(0, 1)], precision="bfloat16"))
    exact = next(predict_pairs(model, encode_views(model, views), [(0, 1)]))
    assert result.forward.view1.pointmap.dtype == torch.float32
    difference = (result.forward.view1.pointmap - exact.forward.view1.pointmap).abs().max()
    assert 0 < difference < 0.2
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, float16"):
        encode_views(model, views, precision="float8")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("fits", [1, 2])
def test_batches_shrink_when_memory_runs_out(
    model: TwoViewModel, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    views = make_views([(32, 48)] * 5)
    seen = []
    original = model.encode

    def encode(images: torch.Tensor):
        if len(images) > fits:
            raise torch.cuda.OutOfMemoryError("no memory left")
        seen.append(len(images))
        return original(images)

    monkeypatch.setattr(model, "encode", encode)
    assert len(encode_views(model, views, batch_size=4)) == 5
    assert sum(seen) == 5 and max(seen) == fits
    fits = 0
    with pytest.raises(torch.cuda.OutOfMemoryError, match="no memory left"):
        encode_views(model, views)
