"""Matches from dense descriptors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weav3r.geometry.ledger import Ledger
from weav3r.inference.images import View
from weav3r.inference.matching.descriptors import (
    Matches,
    MatchingOptions,
    joint_descriptors,
    match_descriptors,
    match_pair,
    merge_matches,
)
from weav3r.inference.predict import PairResult
from weav3r.models import PairPrediction, ViewPrediction


def smooth_descriptors(height: int, width: int, dim: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, dim, height // 4, width // 4, generator=generator)
    field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return F.normalize(field[0].permute(1, 2, 0), dim=-1)


def test_a_shifted_map_is_matched_to_the_sub_pixel() -> None:
    field = smooth_descriptors(192, 256)
    # two crops whose sampling grids are 9.5 and 6.25 fine pixels apart, at a quarter of the size
    first = F.avg_pool2d(field.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)
    a, b = first[:80, :100], first[6:86, 9:109]
    xy1, xy2, confidence = match_descriptors(a, b)
    error = (xy1 - xy2 - torch.tensor([9.0, 6.0])).norm(dim=-1)
    assert len(xy1) > 300
    assert (error < 1.0).float().mean() > 0.97 and error.median() < 0.35
    assert ((confidence > 0) & (confidence <= 1)).all()
    assert (confidence[:-1] >= confidence[1:]).all()


def test_anchors_lie_on_pixel_centres_of_one_grid() -> None:
    a, b = smooth_descriptors(48, 64), smooth_descriptors(48, 64)
    xy1, _, _ = match_descriptors(a, b, MatchingOptions(step=4))
    assert torch.equal(xy1 - xy1.floor(), torch.full_like(xy1, 0.5))
    assert len((xy1[:, 0] % 4).unique()) == 1 and len((xy1[:, 1] % 4).unique()) == 1


def test_unrelated_maps_have_few_and_unsure_matches() -> None:
    a, b = smooth_descriptors(64, 64, seed=1), smooth_descriptors(64, 64, seed=2)
    related = match_descriptors(a, a)
    unrelated = match_descriptors(a, b)
    assert len(unrelated[0]) < 0.75 * len(related[0])
    assert unrelated[2].mean() < 0.5 * related[2].mean()


def test_limits_are_kept() -> None:
    a = smooth_descriptors(64, 64)
    options = MatchingOptions(max_matches=10, border=8, min_confidence=0.05)
    xy1, xy2, confidence = match_descriptors(a, a, options)
    assert len(xy1) == 10 and (confidence >= 0.05).all()
    for xy in (xy1, xy2):
        assert (xy > 7).all() and (xy < 57).all()


def test_a_map_too_small_for_any_anchor_has_no_matches() -> None:
    tiny = smooth_descriptors(8, 8)[:2, :2]
    xy1, xy2, confidence = match_descriptors(tiny, tiny)
    assert xy1.shape == xy2.shape == (0, 2) and confidence.shape == (0,)


def make_result(with_descriptors: bool = True) -> tuple[PairResult, torch.Tensor]:
    field = smooth_descriptors(64, 96)

    def view(descriptors: torch.Tensor) -> ViewPrediction:
        size = descriptors.shape[:2]
        return ViewPrediction(
            torch.zeros(*size, 3),
            torch.ones(size),
            descriptors if with_descriptors else None,
            None,
        )

    first, second = field[:, :64], field[:, 16:80]
    forward = PairPrediction(view(first), view(second))
    backward = PairPrediction(view(second), view(first))
    return PairResult(0, 1, forward, backward), field


def make_view(scale: int) -> View:
    ledger = Ledger.from_file_size(64 * scale, 64 * scale).resized(64, 64)
    return View("a.jpg", None, torch.zeros(3, 64, 64), ledger)


def test_matches_of_a_pair_are_in_original_pixels() -> None:
    result, _ = make_result()
    forward, backward = match_pair(result, make_view(4), make_view(2))
    for matches in (forward, backward):
        # 16 network pixels to the left; the photos have 4 and 2 original pixels per network pixel
        error = matches.xy1 / 4 - matches.xy2 / 2 - [16, 0]
        assert np.median(np.linalg.norm(error, axis=1)) < 0.4
    assert np.allclose((forward.xy1 / 4) % 1, 0.5) and np.allclose((backward.xy2 / 2) % 1, 0.5)


def test_joint_descriptors_are_unit_vectors_of_both_directions() -> None:
    result, _ = make_result()
    a, b = joint_descriptors(result)
    assert a.shape == (64, 64, 48) and torch.allclose(a.norm(dim=-1), torch.ones(64, 64))
    assert b.shape == (64, 64, 48)


def test_a_checkpoint_without_descriptors_says_so() -> None:
    result, _ = make_result(with_descriptors=False)
    with pytest.raises(ValueError, match="predicts no descriptors"):
        joint_descriptors(result)


def test_merging_sorts_by_confidence() -> None:
    one = Matches(np.zeros((2, 2)), np.ones((2, 2)), np.array([0.9, 0.1]))
    two = Matches(np.full((1, 2), 2.0), np.full((1, 2), 3.0), np.array([0.5]))
    merged = merge_matches(one, two)
    assert merged.confidence.tolist() == [0.9, 0.5, 0.1]
    assert merged.xy1[1].tolist() == [2.0, 2.0]
    assert merged.swapped().xy1[1].tolist() == [3.0, 3.0]
