"""Pointmap pairs become relative similarities with negative evidence."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from weav3r.geometry.pose import RelativePoseEstimate
from weav3r.inference.alignment.pairs import PairSamples
from weav3r.inference.graph.verification import verify_edges
from weav3r.inference.graph.view_graph import (
    edge_from_matches,
    edges_from_samples,
    pairs_without_confidence,
)

_spec = importlib.util.spec_from_file_location("building", Path(__file__).with_name("building.py"))
assert _spec is not None and _spec.loader is not None
building = importlib.util.module_from_spec(_spec)
sys.modules["building"] = building  # dataclasses look their module up
_spec.loader.exec_module(building)

SIDE, SIZE = 31, (31, 31)
_SKY = 15.0  # a wall behind the building, so that every point exists; seen with confidence 1


def _photo(view):
    """Camera, world points (n, 3) of a square photo, and which of them are on the building."""
    cam = building.camera(view, *SIZE)
    seen = building.photo(view, *SIZE)
    depth = np.where(np.isfinite(seen.depth), seen.depth, _SKY)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    points = cam.unproject(np.stack([columns, rows], -1), depth).reshape(-1, 3)
    return cam, points, np.isfinite(seen.depth).reshape(-1)


PHOTOS = [_photo(view) for view in range(building.VIEWS)]


def _sample(i, j, scale=1.0, taken=None, confidence=5.0):
    """Pair (i, j) in the frame of i; `taken`: j is seen as if its camera stood there."""
    cam, points, sure = PHOTOS[i]
    _, others, other_sure = PHOTOS[j]
    if taken is not None:
        moved = PHOTOS[taken][0].world_from_cam @ PHOTOS[j][0].cam_from_world
        others = others @ moved[:3, :3].T + moved[:3, 3]
    pose = cam.cam_from_world
    maps = [scale * (p @ pose[:3, :3].T + pose[:3, 3]) for p in (points, others)]
    return PairSamples(
        i,
        j,
        torch.from_numpy(np.stack(maps)),
        torch.from_numpy(np.where([sure, other_sure], confidence, 1.0)),
        (SIZE, SIZE),
        float(cam.K[0, 0]),
    )


def _unit(view):
    cam, points, _ = PHOTOS[view]
    return float(np.median(cam.project(points)[1]))


@pytest.mark.parametrize("surer", ["forward", "backward"])
def test_edges_are_exact_in_the_images_own_units(surer):
    more = 4.0 if surer == "forward" else 8.0
    edges = edges_from_samples([_sample(3, 1, scale=7.0), _sample(1, 3, 0.2, confidence=more)])
    (edge,) = edges
    assert (edge.first, edge.second) == (1, 3)
    relative = PHOTOS[3][0].cam_from_world @ PHOTOS[1][0].world_from_cam
    np.testing.assert_allclose(edge.rotation, relative[:3, :3], atol=1e-9)
    np.testing.assert_allclose(edge.translation * _unit(3), relative[:3, 3], atol=1e-8)
    assert edge.scale == pytest.approx(_unit(1) / _unit(3))
    assert edge.front is not None
    assert edge.front.checked > 100
    assert edge.front.in_front == 0


def test_without_confidence_every_pixel_counts():
    (edge,) = edges_from_samples([_sample(1, 2, confidence=1.0), _sample(2, 1, confidence=1.0)])
    assert edge.front is not None
    assert edge.front.checked > SIDE * SIDE


def test_images_that_are_never_a_frame_and_self_pairs_give_no_edge():
    assert edges_from_samples([_sample(0, 1), _sample(2, 2)]) == []


def test_wrong_fronts_are_named_from_pointmaps():
    views = range(0, building.VIEWS, 2)
    right = [p for p in building.true_pairs() if p[0] in views and p[1] in views]
    wrong = {p: t for p, t in building.mistaken_pairs().items() if p[0] in views and p[1] in views}
    samples = []
    for k, (i, j) in enumerate(right):
        samples += [_sample(i, j, scale=1 + 0.1 * k), _sample(j, i, scale=2.0)]
    for (i, j), taken in wrong.items():
        samples += [_sample(i, j, taken=taken), _sample(j, i, taken=(j + i - taken) % 24)]
    names = [str(view) for view in range(building.VIEWS)]
    verdict = verify_edges(edges_from_samples(samples), names)
    assert verdict.kept == right
    assert {(int(r.first), int(r.second)) for r in verdict.rejected} == set(wrong)
    assert verdict.components[0] == list(views)


def _estimate(kind="general", reason=""):
    pose = np.eye(4)
    pose[:3, 3] = [0, 0.6, 0.8]
    every = np.ones(20, bool)
    K = np.eye(3)
    return RelativePoseEstimate(pose, every, 20, K, K, kind=kind, reason=reason)  # pyright: ignore


def test_matches_give_directions_without_lengths():
    edge = edge_from_matches(2, 5, _estimate())
    assert edge is not None
    assert (edge.first, edge.second, edge.scale) == (2, 5, None)
    assert edge.translation.tolist() == [0, 0.6, 0.8]
    turned = edge_from_matches(2, 5, _estimate(kind="rotation"))
    assert turned is not None
    assert turned.translation.tolist() == [0, 0, 0]
    assert edge_from_matches(2, 5, _estimate(reason="too few matches")) is None


def _confident(frame, other, own, seen):
    """A sample of which a share `own` of the frame and `seen` of the other is surely known."""
    sure = torch.ones(2, SIDE**2, dtype=torch.float64)
    for row, share in zip(sure, (own, seen), strict=True):
        row[: round(share * len(row))] = 4.0
    points = torch.rand(2, SIDE**2, 3, dtype=torch.float64)
    return PairSamples(frame, other, points, sure, (SIZE, SIZE), 30.0)


def test_pairs_that_a_network_is_sure_of_nothing_in_are_found():
    pairs = {
        (0, 1): [(0.9, 0.0), (0.8, 0.0)],  # unrelated
        (0, 2): [(0.9, 0.0), (0.9, 0.4)],  # one direction is enough
        (1, 2): [(0.0, 0.0), (0.0, 0.0)],  # the network says nothing of its confidence
    }
    samples = []
    for (i, j), (forward, backward) in pairs.items():
        samples += [_confident(i, j, *forward), _confident(j, i, *backward)]
    samples.append(_confident(3, 3, 0.9, 0.0))
    assert pairs_without_confidence(samples) == [(0, 1)]


def test_a_network_that_contradicts_itself_refutes_nothing():
    """Noise of 10 % in the pair's pointmaps: the evidence in front asks for more than that."""
    rng = np.random.default_rng(0)
    samples = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for a, b in ((i, j), (j, i)):
            sample = _sample(a, b)
            shake = 1 + 0.1 * torch.from_numpy(rng.normal(size=(2, SIDE**2, 1)))
            samples.append(replace(sample, points=sample.points * shake))
    edges = edges_from_samples(samples)
    assert all(0.03 < edge.slack < 0.3 for edge in edges)
    assert verify_edges(edges, ["a", "b", "c"]).rejected == []
