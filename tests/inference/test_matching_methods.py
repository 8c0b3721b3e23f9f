"""Choosing a matcher, matches in original pixels from each, and dense warps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weav3r.geometry.ledger import Ledger
from weav3r.geometry.pointmap import unproject_depth
from weav3r.inference.images import View
from weav3r.inference.matching.descriptors import MatchingOptions
from weav3r.inference.matching.methods import (
    PointmapOptions,
    ReciprocalOptions,
    match_views,
    matcher_options,
)
from weav3r.inference.matching.pointmaps import match_pointmaps
from weav3r.inference.matching.subpixel import peak_offsets
from weav3r.inference.matching.warp import warp_views
from weav3r.inference.predict import PairResult
from weav3r.inference.two_view import PairMatch
from weav3r.models import PairPrediction, ViewPrediction

SHIFT = 16  # of the second view, network pixels
SIZE = (48, 64)


def smooth_field(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 24, height // 4, width // 4, generator=generator)
    field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return F.normalize(field[0].permute(1, 2, 0), dim=-1)


def make_result(with_descriptors: bool = True, shift: float = SHIFT) -> PairResult:
    """Two views of a tilted plane; the second camera stands where everything moves by `shift`."""
    height, width = SIZE
    K = torch.tensor([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]])
    points = unproject_depth(torch.full((height, width + 40), 3.0), K)
    field = smooth_field(height, width + 40)
    whole = int(shift)
    side = torch.tensor([(shift - whole) * 3 / 60, 0, 0])
    move = torch.tensor([shift * 3 / 60, 0, 0])
    bumps = 1 + 0.1 * field[..., :1]  # not flat, so that a camera can be found

    def view(points: Tensor, start: int) -> ViewPrediction:
        crop = slice(None), slice(start, start + width)
        descriptors = field[crop] if with_descriptors else None
        confidence = 1 + torch.rand(height, width, generator=torch.Generator().manual_seed(start))
        return ViewPrediction(
            points[crop], confidence, descriptors, confidence if with_descriptors else None
        )

    if with_descriptors:
        here, there = points, points
    else:
        here, there = points * bumps, points * bumps
    there = there + (0 if with_descriptors else side)
    first, second = view(here, 0), view(there, whole)
    back1, back2 = view(here - move, 0), view(there - move, whole)
    return PairResult(0, 1, PairPrediction(first, second), PairPrediction(back2, back1))


def make_view(name: str, scale: int) -> View:
    height, width = SIZE
    ledger = Ledger.from_file_size(height * scale, width * scale).resized(height, width)
    return View(name, None, torch.zeros(3, height, width), ledger)


VIEWS = make_view("a.jpg", 4), make_view("b.jpg", 2)


@pytest.mark.parametrize(
    "options",
    [
        MatchingOptions(),
        ReciprocalOptions(step=4),
        ReciprocalOptions(step=4, both_orders=False),
        ReciprocalOptions(step=4, tolerance_px=2.0, subpixel=False),
        ReciprocalOptions(step=4, gated=True),
        PointmapOptions(),
    ],
)
def test_every_matcher_gives_original_pixels(options) -> None:
    matches = match_views(make_result(), *VIEWS, options)
    error = matches.xy1 / 4 - matches.xy2 / 2 - [SHIFT, 0]
    assert len(matches) > 40
    assert np.median(np.linalg.norm(error, axis=1)) < 0.4
    assert (matches.confidence > 0).all() and (np.diff(matches.confidence) <= 0).all()


@pytest.mark.parametrize("options", [ReciprocalOptions(step=2), PointmapOptions(step=2)])
def test_limits_of_matchers(options) -> None:
    kind = type(options)
    limited = kind(step=2, border=6, min_confidence=1.5, max_matches=7)
    matches = match_views(make_result(), *VIEWS, limited)
    assert len(matches) == 7 and (matches.confidence >= 1.5).all()
    for xy, scale in ((matches.xy1, 4), (matches.xy2, 2)):
        assert (xy / scale > 5.9).all() and (xy / scale < [58.1, 42.1]).all()


def test_pointmaps_find_positions_between_the_pixels() -> None:
    result = make_result(with_descriptors=False, shift=SHIFT + 0.25)
    fine = match_pointmaps(result)
    whole = match_pointmaps(result, subpixel=False)
    expected = [SHIFT + 0.25, 0]
    error = np.linalg.norm(fine.xy1 - fine.xy2 - expected, axis=1)
    assert np.median(error) < 0.08
    assert np.median(np.linalg.norm(whole.xy1 - whole.xy2 - expected, axis=1)) > 0.2
    assert len(np.unique(np.floor(fine.xy1 / 4), axis=0)) == len(fine.xy1)  # one a square


def test_pointmaps_without_any_finite_point_have_no_matches() -> None:
    result = make_result(with_descriptors=False)
    result.forward.view1.pointmap[:] = torch.nan
    result.backward.view2.pointmap[:] = torch.nan
    assert len(match_views(result, *VIEWS)) == 0


def test_a_checkpoint_without_descriptors_is_matched_by_its_pointmaps() -> None:
    assert isinstance(matcher_options(None, None, has_descriptors=False), PointmapOptions)
    assert isinstance(matcher_options(None, None, has_descriptors=True), MatchingOptions)
    assert matcher_options("gated", None, True) == ReciprocalOptions(gated=True)
    matches = match_views(make_result(with_descriptors=False), *VIEWS)
    error = matches.xy1 / 4 - matches.xy2 / 2 - [SHIFT, 0]
    assert np.median(np.linalg.norm(error, axis=1)) < 0.1


def test_pointmaps_that_cannot_gate_leave_the_exact_search() -> None:
    result = make_result()
    result.forward.view2.pointmap[:] = torch.nan
    exact = match_views(result, *VIEWS, ReciprocalOptions())
    gated = match_views(result, *VIEWS, ReciprocalOptions(gated=True))
    np.testing.assert_array_equal(exact.xy2, gated.xy2)


def test_wrong_choices_are_named() -> None:
    with pytest.raises(ValueError, match="matcher must be one of anchors, reciprocal, gated"):
        matcher_options("sift", None, True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match='those of matcher "pointmaps", but matcher="anchors"'):
        matcher_options("anchors", PointmapOptions(), True)
    with pytest.raises(ValueError, match='"reciprocal" needs descriptors.*matcher="pointmaps"'):
        matcher_options("reciprocal", None, False)


@pytest.mark.parametrize("with_descriptors", [True, False])
def test_warps_lead_to_the_other_photo(with_descriptors: bool) -> None:
    pair = PairMatch(
        *VIEWS, match_views(make_result(), *VIEWS), make_result(with_descriptors=with_descriptors)
    )
    height, width = SIZE
    warp = pair.warp()
    assert warp.xy.shape == (4 * height, 4 * width, 2)
    assert warp.certainty.shape == (4 * height, 4 * width)
    rows, columns = np.mgrid[16 : 4 * height - 16, 4 * SHIFT + 16 : 4 * width - 16]
    expected = (np.stack([columns, rows], -1) + 0.5) / 2 - [2 * SHIFT, 0]
    error = np.linalg.norm(warp.xy[rows, columns] - expected, axis=-1)
    sure = warp.certainty[rows, columns] > 0.8
    assert sure.mean() > 0.9 and np.median(error[sure]) < 1.0  # half a network pixel
    assert warp.certainty[:, : 4 * SHIFT - 16].mean() < 0.35  # not in the other photo
    assert (warp.certainty[np.isnan(warp.xy).any(-1)] == 0).all()
    assert pair.warp(reverse=True).xy.shape == (2 * height, 2 * width, 2)


def test_a_warp_needs_the_prediction() -> None:
    pair = PairMatch(*VIEWS, match_views(make_result(), *VIEWS))
    with pytest.raises(ValueError, match=r"needs the network's result.*weav3r\.match"):
        pair.warp()
    assert warp_views(make_result(), *VIEWS)[0].xy.dtype == np.float32


def test_patches_find_the_peak_between_pixels() -> None:
    field = smooth_field(192, 256).permute(2, 0, 1)[None]
    # Averages of 4x4 fine pixels, shifted by 1 and 2 fine pixels: a quarter and half a pixel.
    first, second = (
        F.normalize(F.avg_pool2d(f, 4)[0].permute(1, 2, 0), dim=-1)
        for f in (field[..., :184, :248], field[..., 2:186, 1:249])
    )
    generator = torch.Generator().manual_seed(0)
    first, second = (
        F.normalize(d + 0.1 * torch.randn(d.shape, generator=generator), dim=-1)
        for d in (first, second)
    )
    places = torch.stack(
        torch.meshgrid(torch.arange(8, 38), torch.arange(8, 54), indexing="ij"), -1
    )
    places = places.flatten(0, 1)
    expected = torch.tensor([-0.25, -0.5])
    for wrong in (0, 1):  # a start one pixel off is corrected
        offsets = peak_offsets(first, places, second, places + wrong) + wrong
        assert (offsets - expected).norm(dim=-1).median() < 0.15
    assert peak_offsets(first, places[:0], second, places[:0]).shape == (0, 2)
