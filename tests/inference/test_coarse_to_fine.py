"""Matching photos at full resolution by crops, with a network that sees everything exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weav3r.geometry.ledger import Ledger
from weav3r.inference.images import View
from weav3r.inference.matching import coarse_to_fine
from weav3r.inference.matching.coarse_to_fine import CoarseToFineOptions, match_crops
from weav3r.inference.matching.crops import fitted_windows, window_starts
from weav3r.inference.matching.descriptors import Matches
from weav3r.inference.predict import PairResult
from weav3r.models import PairPrediction, ViewPrediction

HEIGHT, WIDTH, SHIFT = 96, 128, 24


class Seer:
    """Stands for a model; see `seeing`."""

    device = torch.device("cpu")


@pytest.fixture
def seeing(monkeypatch) -> list[int]:
    """Let the channels of a crop be its descriptors; returns how many pairs each batch had."""
    batches: list[int] = []

    def encode(_model, views: list[View], progress, precision: str) -> list[Tensor]:
        progress(len(views))
        return [F.normalize(view.image.permute(1, 2, 0), dim=-1) for view in views]

    def predict(_model, encoded: list[Tensor], pairs, batch_size: int, precision: str):
        batches.append(len(pairs))
        for i, j in pairs:
            first, second = (
                ViewPrediction(torch.zeros(*d.shape[:2], 3), torch.ones(d.shape[:2]), d, None)
                for d in (encoded[i], encoded[j])
            )
            yield PairResult(i, j, PairPrediction(first, second), PairPrediction(second, first))

    monkeypatch.setattr(coarse_to_fine, "encode_views", encode)
    monkeypatch.setattr(coarse_to_fine, "predict_pairs", predict)
    return batches


def make_photos() -> tuple[View, View]:
    """The second shows the first moved by SHIFT pixels; the originals have twice as many."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 16, HEIGHT // 4, (WIDTH + SHIFT) // 4, generator=generator)
    field = F.interpolate(coarse, size=(HEIGHT, WIDTH + SHIFT), mode="bicubic")[0].clamp(-1, 1)
    ledger = Ledger.from_file_size(2 * HEIGHT, 2 * WIDTH).resized(HEIGHT, WIDTH)
    return (
        View("a.jpg", None, field[:, :, :WIDTH], ledger),
        View("b.jpg", None, field[:, :, SHIFT:], ledger),
    )


def coarse_matches(count: int = 300) -> Matches:
    rng = np.random.default_rng(0)
    xy1 = rng.uniform([2 * SHIFT, 0], [2 * WIDTH, 2 * HEIGHT], (count, 2)).astype(np.float32)
    noise = rng.normal(0, 2, (count, 2))
    xy2 = (xy1 - [2 * SHIFT, 0] + noise).astype(np.float32)
    return Matches(xy1, xy2, np.ones(count, np.float32))


K = np.array([[300.0, 0, WIDTH], [0, 300.0, HEIGHT], [0, 0, 1]])


@pytest.mark.parametrize("options", [None, CoarseToFineOptions(K1=K, K2=K)])
def test_crops_give_matches_in_original_pixels(seeing: list[int], options) -> None:
    done: list[tuple[str, int, int]] = []
    found = match_crops(
        Seer(),  # pyright: ignore[reportArgumentType]
        *make_photos(),
        coarse_matches(),
        64,
        options,
        progress=lambda *step: done.append(step),
    )
    error = np.linalg.norm(found.xy1 - found.xy2 - [2 * SHIFT, 0], axis=1)
    assert len(found) > 500
    assert np.median(error) < 0.6 and (error < 2).mean() > 0.9  # original pixels, two a pixel seen
    assert (np.diff(found.confidence) <= 0).all()
    assert found.xy1[:, 0].max() > 2 * WIDTH - 16 and found.xy1[:, 1].min() < 16
    assert done[-1] == ("match crops", *(2 * seeing))
    places = np.floor(np.hstack([found.xy1, found.xy2]) / 8)
    assert len(np.unique(places, axis=0)) == len(found)


def test_too_few_coarse_matches_choose_no_crops(seeing: list[int]) -> None:
    model = Seer()
    found = match_crops(model, *make_photos(), coarse_matches(5), 64)  # pyright: ignore
    assert len(found) == 0 and found.xy1.shape == (0, 2)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="detail must be at least 1, got 0.5"):
        CoarseToFineOptions(detail=0.5)
    with pytest.raises(ValueError, match=r"overlap must be in \[0, 1\) and coverage in"):
        CoarseToFineOptions(overlap=1.0)
    with pytest.raises(ValueError, match="a window of 600 px does not fit into 512 px"):
        window_starts(512, 600)
    with pytest.raises(ValueError, match="overlap must be in"):
        window_starts(512, 100, 1.5)
    with pytest.raises(ValueError, match="does not fit into a photo of"):
        fitted_windows(np.array([[0, 0, 10, 10]]), (20, 20), (30, 10))
