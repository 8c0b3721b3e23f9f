"""Exact nearest neighbours, reciprocal matches and their gate."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weav3r.geometry.pointmap import pixel_grid, project, unproject_depth
from weav3r.geometry.transforms import transform_points
from weav3r.inference.matching import nearest
from weav3r.inference.matching.gating import Gate, gate_from_pointmaps
from weav3r.inference.matching.nearest import (
    DescriptorTiles,
    mutual_nearest_points,
    nearest_neighbours,
    similarity,
)
from weav3r.inference.matching.reciprocal import (
    ReciprocalSearch,
    grid_pixels,
    merge_pairs,
    reciprocal_matches,
)
from weav3r.inference.matching.reciprocal_pairs import (
    descriptor_maps,
    match_directed,
    match_symmetric,
)
from weav3r.inference.predict import PairResult
from weav3r.models import PairPrediction, ViewPrediction


def random_map(height: int, width: int, dim: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(height, width, dim, generator=generator), dim=-1)


def brute_force(queries: Tensor, database: Tensor) -> Tensor:
    """Nearest by the definition of the similarity, ties to the first row."""
    return similarity(queries[:, None], database[None]).argmax(1)


def published_walk(d1: Tensor, d2: Tensor, seeds: Tensor, rounds: int) -> set[tuple[int, int]]:
    """Walk each seed by itself, from the description of the method."""
    there = brute_force(d1.flatten(0, 1), d2.flatten(0, 1)).tolist()
    back = brute_force(d2.flatten(0, 1), d1.flatten(0, 1)).tolist()
    found = set()
    for seed in seeds.tolist():
        a, b = seed, -1
        for _ in range(rounds):
            before, b = b, there[a]
            returned = a if b == before else back[b]
            if returned == a:
                found.add((a, b))
                break
            a = returned
    return found


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 21)] * 4),
    dim=st.integers(1, 9),
    levels=st.sampled_from([2, 5, 0]),
    seed=st.integers(0, 10_000),
)
def test_the_search_equals_brute_force_also_with_ties(sizes, dim, levels, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(*size, dim, generator=generator) for size in (sizes[:2], sizes[2:])]
    if levels:  # few values a channel, so that many pixels are equally similar
        maps = [(d.clamp(-1, 1) * levels).round() / 7 for d in maps]
    first, second = maps
    queries, database = first.flatten(0, 1), second.flatten(0, 1)
    expected = brute_force(queries, database)
    assert torch.equal(DescriptorTiles(second).nearest(queries), expected)
    assert torch.equal(nearest_neighbours(queries, database), expected)


@pytest.mark.parametrize("lengths", ["equal", "any"])
def test_bounds_spare_products_and_change_no_answer(lengths: str) -> None:
    coarse = random_map(8, 10, 24).permute(2, 0, 1)[None]
    smooth = F.interpolate(coarse, size=(75, 83), mode="bicubic")[0].permute(1, 2, 0)
    bank = F.normalize(smooth, dim=-1)
    if lengths == "any":
        bank = bank * torch.linspace(0.5, 2, 83)[:, None]
        bank[:3], bank[40, 40:50] = 0, -bank[41, 40:50]
    bank[70:] = bank[30:35]  # ties
    asked = F.normalize(bank[::3, 1::4].flatten(0, 1) + 0.05, dim=-1)
    tiles = DescriptorTiles(bank)
    pairs = tiles._open_pairs(asked[:256])
    assert torch.equal(tiles.nearest(asked), brute_force(asked, bank.flatten(0, 1)))
    if lengths == "equal":  # else one length stands for all
        assert pairs is not None and len(pairs.query) < 0.08 * 256 * len(tiles.pixel)


@pytest.mark.parametrize("queries", [1, 3, 40, 300])
@pytest.mark.parametrize("block", [64, 640, 2**18])
def test_the_answer_does_not_depend_on_the_blocks(monkeypatch, queries: int, block: int) -> None:
    bank = random_map(40, 50, 24)
    bank[20:] = bank[:20]  # every answer is a tie
    asked = F.normalize(bank[::2, ::3].flatten(0, 1)[:queries] + 0.1, dim=-1)
    monkeypatch.setitem(nearest._BLOCK_SIMILARITIES, "cpu", block)
    monkeypatch.setitem(nearest._BLOCK_QUERIES, "cpu", 7 if block == 64 else 256)
    found = DescriptorTiles(bank).nearest(asked)
    assert torch.equal(found, brute_force(asked, bank.flatten(0, 1)))
    assert (found < 20 * 50).all()


def test_a_rounding_difference_does_not_decide() -> None:
    # Two rows whose products differ by less than float32 products are reproducible.
    torch.manual_seed(0)
    query = F.normalize(torch.randn(64, 24), dim=-1)
    database = F.normalize(query[:, None] + 1e-7 * torch.randn(64, 30, 24), dim=-1).flatten(0, 1)
    found = nearest_neighbours(query, database)
    assert torch.equal(found, brute_force(query, database))


def test_lower_precision_of_products_does_not_change_the_answer() -> None:
    bank, asked = random_map(24, 24, 24), random_map(8, 8, 24, seed=1).flatten(0, 1)
    bank[12:] = F.normalize(bank[:12] + 1e-4, dim=-1)  # nearly equal pixels
    expected = brute_force(asked, bank.flatten(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(DescriptorTiles(bank).nearest(asked), expected)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert nearest._roundoff("cpu") == 2.0**-7
        assert torch.equal(DescriptorTiles(bank).nearest(asked), expected)
    finally:
        torch.set_float32_matmul_precision(before)
    assert nearest._roundoff("cpu") == nearest._roundoff("cuda") == 2.0**-24


def test_euclidean_neighbours() -> None:
    torch.manual_seed(0)
    queries, database = torch.randn(50, 4), torch.randn(80, 4)
    expected = torch.cdist(queries.double(), database.double()).argmin(1)
    assert torch.equal(nearest_neighbours(queries, database, "l2"), expected)
    with pytest.raises(ValueError, match="dot.*l2"):
        nearest_neighbours(queries, database, "cosine")  # pyright: ignore[reportArgumentType]


@settings(max_examples=20, deadline=None)
@given(step=st.integers(1, 6), seed=st.integers(0, 10_000), coarse=st.booleans())
def test_matches_equal_seeds_that_walk_one_by_one(step: int, seed: int, coarse: bool) -> None:
    d1, d2 = random_map(13, 17, 5, seed), random_map(11, 14, 5, seed + 1)
    if coarse:
        d1, d2 = ((d * 2).round() for d in (d1, d2))
    pixels = grid_pixels((13, 17), step)
    flat = torch.from_numpy(pixels[:, 1] * 17 + pixels[:, 0])
    matches = reciprocal_matches(d1, d2, step)
    pairs = list(zip(matches.index1.tolist(), matches.index2.tolist(), strict=True))
    assert pairs == sorted(published_walk(d1, d2, flat, rounds=10))
    once = reciprocal_matches(d1, d2, pixels)
    pairs = list(zip(once.index1.tolist(), once.index2.tolist(), strict=True))
    assert pairs == sorted(published_walk(d1, d2, flat, rounds=1))


def test_no_pixel_is_looked_up_twice(monkeypatch) -> None:
    asked: list[int] = []
    search = DescriptorTiles.nearest
    monkeypatch.setattr(
        DescriptorTiles, "nearest", lambda self, q: (asked.append(len(q)), search(self, q))[1]
    )
    both = ReciprocalSearch(random_map(24, 32), random_map(24, 32, seed=1))
    first = both.from_view1(2)
    second = both.from_view2(2)
    again = both.from_view1(2)
    assert sum(asked) == sum(both.looked_up) <= 2 * 24 * 32
    np.testing.assert_array_equal(first.index2, again.index2)
    swapped = reciprocal_matches(random_map(24, 32, seed=1), random_map(24, 32), 2)
    pairs = set(zip(swapped.index2.tolist(), swapped.index1.tolist(), strict=True))
    assert set(zip(second.index1.tolist(), second.index2.tolist(), strict=True)) == pairs


def test_seeds_that_come_back_near_enough_are_kept_themselves() -> None:
    d1 = random_map(12, 16)
    d2 = d1.clone()
    d2[6, 8] = d1[6, 9]  # the pixel (8, 6) of view 2 looks like its right neighbour of view 1
    d1[6, 8] = F.normalize(d1[6, 9] + 0.05 * d1[6, 8], dim=-1)
    seeds = np.array([[8, 6], [2, 2], [8, 6]])
    exact = reciprocal_matches(d1, d2, seeds)
    near = reciprocal_matches(d1, d2, seeds, tolerance_px=1.5)
    assert exact.pixels1.tolist() == [[2, 2]]
    assert near.pixels1.tolist() == [[2, 2], [8, 6]] and near.pixels2[1].tolist() == [8, 6]
    assert len(reciprocal_matches(d1, d2, seeds, tolerance_px=1.0)) == 1


def test_results_name_pixel_centres_and_keep_off_the_border() -> None:
    d = random_map(20, 30)
    matches = reciprocal_matches(d, d, 2)
    np.testing.assert_array_equal(matches.xy1, matches.pixels1 + 0.5)
    np.testing.assert_array_equal(matches.xy2, matches.xy1)
    inner = matches.inside(3)
    assert inner.pixels1.min() >= 3 and (inner.pixels1 < [27, 17]).all()
    assert 0 < len(inner) < len(matches)


def test_merging_keeps_the_first_of_equal_pairs() -> None:
    index1, index2 = np.array([5, 2, 5, 2, 2]), np.array([1, 9, 1, 3, 9])
    first, second, where = merge_pairs(index1, index2)
    assert first.tolist() == [2, 2, 5] and second.tolist() == [3, 9, 1]
    assert where.tolist() == [3, 1, 0]


def make_result(with_descriptors: bool = True) -> PairResult:
    def view(seed: int) -> ViewPrediction:
        descriptors = random_map(16, 24, 8, seed) if with_descriptors else None
        confidence = torch.rand(16, 24) if with_descriptors else None
        return ViewPrediction(torch.zeros(16, 24, 3), torch.ones(16, 24), descriptors, confidence)

    return PairResult(0, 1, PairPrediction(view(0), view(1)), PairPrediction(view(1), view(0)))


def test_a_predicted_pair_gives_both_network_orders() -> None:
    torch.manual_seed(0)
    result = make_result()
    forward, backward = descriptor_maps(result)
    assert backward.descriptors1 is result.backward.view2.descriptors
    assert backward.confidence2 is result.backward.view1.descriptor_confidence
    both, one = match_symmetric(forward, backward, 4), match_directed(forward, 4)
    # The two orders hold the same descriptors here, so they find the same pairs.
    np.testing.assert_array_equal(both.index1, one.index1)
    q1, q2 = (q.flatten().numpy() for q in (forward.confidence1, forward.confidence2))
    np.testing.assert_array_equal(both.confidence, np.sqrt(q1[both.index1] * q2[both.index2]))
    assert one.confidence is not None
    np.testing.assert_array_equal(one.inside(2).confidence, one.confidence[_kept(one, 2)])


def _kept(matches, border: int) -> np.ndarray:
    inner = matches.inside(border)
    return np.isin(matches.index1, inner.index1) & np.isin(matches.index2, inner.index2)


def test_a_checkpoint_without_descriptors_is_named() -> None:
    with pytest.raises(ValueError, match="no descriptors.*mutual_nearest_points"):
        descriptor_maps(make_result(with_descriptors=False))


def test_wrong_input_is_named() -> None:
    d = random_map(8, 8)
    with pytest.raises(ValueError, match=r"\(H, W, D\)"):
        reciprocal_matches(d[0], d)
    with pytest.raises(ValueError, match="finite"):
        reciprocal_matches(d, torch.full_like(d, torch.nan))
    with pytest.raises(ValueError, match="same channels, got 6 and 3"):
        reciprocal_matches(d, d[..., :3])
    with pytest.raises(ValueError, match="at least 1 pixel"):
        reciprocal_matches(d, d, 0)
    with pytest.raises(ValueError, match="explicit seeds"):
        reciprocal_matches(d, d, 4, tolerance_px=2.0)
    with pytest.raises(ValueError, match="not be negative"):
        reciprocal_matches(d, d, np.array([[1, 1]]), tolerance_px=-1.0)
    with pytest.raises(ValueError, match="integer pixels"):
        reciprocal_matches(d, d, np.array([[1.5, 2.0]]))
    with pytest.raises(ValueError, match="inside the image"):
        reciprocal_matches(d, d, np.array([[8, 0]]))
    gate = Gate(torch.zeros(8, 9, 2), torch.zeros(8, 8, 2), 4.0)
    with pytest.raises(ValueError, match="the gate is for views of"):
        reciprocal_matches(d, d, gate=gate)
    with pytest.raises(ValueError, match="points2.*shape"):
        mutual_nearest_points(np.zeros((3, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="points1 must be finite"):
        mutual_nearest_points(np.full((3, 3), np.nan), np.zeros((3, 3)))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two views of a curved surface, with descriptors that depend on the 3D point."""

    descriptors: tuple[Tensor, Tensor]
    pointmap1: Tensor
    pointmap2_in_view1: Tensor
    K: Tensor


@pytest.fixture(scope="module")
def pair() -> Pair:
    height, width = 96, 128
    generator = torch.Generator().manual_seed(0)
    K = torch.tensor([[110.0, 0, 64], [0, 110, 48], [0, 0, 1]])
    angle = torch.tensor(0.2)
    cam2_from_cam1 = torch.eye(4)
    cam2_from_cam1[0, 0] = cam2_from_cam1[2, 2] = angle.cos()
    cam2_from_cam1[0, 2], cam2_from_cam1[2, 0] = angle.sin(), -angle.sin()
    cam2_from_cam1[:3, 3] = torch.tensor([-0.9, 0.05, 0.1])

    def depth_of(cam1_from_cam: Tensor) -> Tensor:
        """Depth along each ray of the surface z = 4 + sin(x) cos(y), by fixed-point steps."""
        rays = unproject_depth(torch.ones(height, width), K)
        depth = torch.full((height, width), 4.0)
        for _ in range(60):
            point = transform_points(cam1_from_cam, rays * depth[..., None])
            surface = 4 + 0.5 * torch.sin(point[..., 0]) * torch.cos(point[..., 1])
            depth = depth + 0.5 * (surface - point[..., 2])
        return depth

    cam1_from_cam2 = torch.linalg.inv(cam2_from_cam1)
    pointmap1 = unproject_depth(depth_of(torch.eye(4)), K)
    pointmap2 = transform_points(cam1_from_cam2, unproject_depth(depth_of(cam1_from_cam2), K))
    wave, phase = torch.randn(3, 24, generator=generator) * 2.5, torch.rand(24) * 6

    def describe(points: Tensor) -> Tensor:
        noise = 0.01 * torch.randn(height, width, 24, generator=generator)
        return F.normalize(torch.cos(points @ wave + phase) + noise, dim=-1)

    return Pair((describe(pointmap1), describe(pointmap2)), pointmap1, pointmap2, K)


def noisy(points: Tensor, share: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return points * (1 + share * torch.randn(*points.shape[:2], 1, generator=generator))


def pairs_of(matches) -> set[tuple[int, int]]:
    return set(zip(matches.index1.tolist(), matches.index2.tolist(), strict=True))


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_the_gate_finds_the_same_matches(pair: Pair, noise: float) -> None:
    gate = gate_from_pointmaps(
        noisy(pair.pointmap1, noise, 1), noisy(pair.pointmap2_in_view1, noise, 2)
    )
    everywhere = pairs_of(reciprocal_matches(*pair.descriptors, 4))
    gated = pairs_of(reciprocal_matches(*pair.descriptors, 4, gate=gate))
    assert len(everywhere) > 150
    assert len(gated & everywhere) >= 0.98 * max(len(everywhere), len(gated))


@pytest.mark.parametrize("shift", [12, 60])
def test_a_wrong_gate_is_not_believed(pair: Pair, shift: int) -> None:
    gate = gate_from_pointmaps(pair.pointmap1, pair.pointmap2_in_view1)
    wrong = dataclasses.replace(gate, expected2=gate.expected2 + shift)
    everywhere = pairs_of(reciprocal_matches(*pair.descriptors, 4))
    gated = pairs_of(reciprocal_matches(*pair.descriptors, 4, gate=wrong))
    assert len(gated & everywhere) >= 0.98 * max(len(everywhere), len(gated))


def test_the_window_is_as_wide_as_the_pointmaps_err(pair: Pair) -> None:
    index = torch.arange(96 * 128)
    rows, other = pair.descriptors[0].flatten(0, 1), DescriptorTiles(pair.descriptors[1])
    exact = gate_from_pointmaps(pair.pointmap1, pair.pointmap2_in_view1)
    off = dataclasses.replace(exact, expected2=exact.expected2 + 3.0)
    nowhere = dataclasses.replace(exact, expected2=torch.full_like(exact.expected2, torch.nan))
    narrow, wide, none = (g.measure(0, index, rows, other) for g in (exact, off, nowhere))
    assert narrow.radius_px == 2 and wide.radius_px >= 4
    assert narrow.min_similarity < 1 and none.min_similarity == torch.inf


def test_expected_places_are_projections(pair: Pair) -> None:
    gate = gate_from_pointmaps(pair.pointmap1, pair.pointmap2_in_view1, K1=pair.K, K2=pair.K)
    expected1, _ = project(pair.pointmap2_in_view1, pair.K)
    torch.testing.assert_close(gate.expected1, expected1)
    there = gate.expected2
    inside = ((there > 1) & (there < torch.tensor([127.0, 95.0]))).all(-1)
    column, row = there[inside].long().unbind(-1)
    back = gate.expected1[row, column]
    begin = pixel_grid(96, 128)[inside]
    # A pixel of view 2 stands for all places inside it.
    assert (back - begin).norm(dim=-1).quantile(0.9) < 1.5


def test_a_strict_gate_drops_what_geometry_does_not_expect(pair: Pair) -> None:
    gate = gate_from_pointmaps(pair.pointmap1, pair.pointmap2_in_view1, strict=True)
    expected2 = gate.expected2.clone()
    expected2[:, :64] = torch.nan
    search = ReciprocalSearch(*pair.descriptors, dataclasses.replace(gate, expected2=expected2))
    found = search.from_view1(4)
    assert len(found) > 20 and (found.pixels1[:, 0] >= 64).all()
    offset = np.abs(gate.expected2.numpy()[found.pixels1[:, 1], found.pixels1[:, 0]] - found.xy2)
    assert offset.max() <= gate.radius_px
    index = torch.arange(64)
    assert (search.in_view2(index) == -1).all()


def test_pointmaps_without_a_pose_cannot_gate() -> None:
    with pytest.raises(ValueError, match="cannot gate the matches of this pair"):
        gate_from_pointmaps(torch.rand(32, 32, 3) + 1, torch.full((32, 32, 3), torch.nan))
