"""Wrong pairs are found and named, right ones stay, groups that nothing joins stay apart."""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from weav3r.inference.graph.front_evidence import (
    FrontEvidence,
    ObservedDepth,
    camera_front_evidence,
    front_evidence,
)
from weav3r.inference.graph.verification import RelativeEdge, verify_edges

_spec = importlib.util.spec_from_file_location("building", Path(__file__).with_name("building.py"))
assert _spec is not None and _spec.loader is not None
building = importlib.util.module_from_spec(_spec)
sys.modules["building"] = building  # dataclasses look their module up
_spec.loader.exec_module(building)


def _names(n):
    return [f"{k}.jpg" for k in range(n)]


def _poses(n, seed):
    """Random cam_from_world (n, 4, 4) around a place, and units of the images' frames."""
    draw = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(draw.normal(size=(n, 4))).as_matrix()
    poses[:, :3, 3] = draw.normal(size=(n, 3)) * 2
    return poses, draw.uniform(0.5, 2.0, n)


def _edge(poses, units, i, j, scaled, **more):
    relative = poses[j] @ np.linalg.inv(poses[i])
    return RelativeEdge(
        i,
        j,
        relative[:3, :3],
        relative[:3, 3] * (units[j] if scaled else 1.0),
        scale=units[j] / units[i] if scaled else None,
        **more,
    )


def _spoilt(edge, draw):
    """A wrong edge: another rotation, or where lengths are known perhaps another scale."""
    axis = draw.normal(size=3)
    angle = draw.uniform(0.6, 3.0)
    turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    scale = None if edge.scale is None else edge.scale * draw.uniform(0.5, 2.0)
    return RelativeEdge(
        edge.first, edge.second, turn @ edge.rotation, draw.normal(size=3), scale, edge.weight
    )


def _rejected(verdict):
    return {(int(r.first[:-4]), int(r.second[:-4])) for r in verdict.rejected}


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(2, 9),
    extra=st.floats(0, 1),
    scaled=st.booleans(),
    backwards=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_exact_graphs_of_triangles_lose_no_edge(n, extra, scaled, backwards, seed):
    draw = np.random.default_rng(seed)
    poses, units = _poses(n, seed)
    pairs = {(0, 1)}
    for k in range(2, n):  # each further image closes a triangle on an earlier edge
        i, j = sorted(pairs)[draw.integers(len(pairs))]
        pairs |= {(i, k), (j, k)}
    pairs |= {p for p in itertools.combinations(range(n), 2) if draw.uniform() < extra}
    edges = [
        _edge(poses, units, *(pair[::-1] if backwards else pair), scaled)  # pyright: ignore
        for pair in sorted(pairs)
    ]
    verdict = verify_edges(edges, _names(n))
    assert verdict.rejected == []
    assert len(verdict.kept) == len(pairs)
    assert verdict.components == [list(range(n))]


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(7, 12),
    wrong=st.floats(0.01, 1.0),
    scaled=st.booleans(),
    noisy=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_random_wrong_edges_of_a_complete_graph_are_all_found(n, wrong, scaled, noisy, seed):
    draw = np.random.default_rng(seed)
    poses, units = _poses(n, seed)
    pairs = list(itertools.combinations(range(n), 2))
    count = max(1, int(wrong * len(pairs) / 4))  # up to a quarter is wrong
    bad = {pairs[k] for k in draw.permutation(len(pairs))[:count]}
    edges = []
    for pair in pairs:
        edge = _edge(poses, units, *pair, scaled)
        if noisy:
            shake = Rotation.from_rotvec(draw.normal(size=3) * 0.01).as_matrix()
            edge = RelativeEdge(*pair, shake @ edge.rotation, shake @ edge.translation, edge.scale)
        edges.append(_spoilt(edge, draw) if pair in bad else edge)
    verdict = verify_edges(edges, _names(n))
    assert _rejected(verdict) == bad
    assert verdict.components == [list(range(n))]


@pytest.mark.parametrize("kind", ["direction", "translation", "scale"])
def test_each_part_of_a_similarity_is_compared(kind):
    poses, units = _poses(7, 3)
    edges = []
    for pair in itertools.combinations(range(7), 2):
        edge = _edge(poses, units, *pair, scaled=kind != "direction")
        if pair == (2, 5):
            scale = edge.scale
            if kind == "scale":
                assert scale is not None
                scale *= 1.8
            move = edge.translation if kind == "scale" else -edge.translation
            edge = RelativeEdge(2, 5, edge.rotation, move, scale)
        edges.append(edge)
    verdict = verify_edges(edges, _names(7))
    assert _rejected(verdict) == {(2, 5)}
    assert "triangles with other photos do not close" in verdict.rejected[0].reason


def test_unknown_directions_are_not_compared():
    poses, units = _poses(5, 0)
    edges = [
        RelativeEdge(i, j, _edge(poses, units, i, j, False).rotation, np.zeros(3))
        for i, j in itertools.combinations(range(5), 2)
    ]
    assert verify_edges(edges, _names(5)).rejected == []


@pytest.mark.parametrize("seed", range(5))
def test_two_unrelated_sets_with_a_few_wrong_pairs_are_two_components(seed):
    draw = np.random.default_rng(seed)
    poses, units = _poses(15, seed)
    poses[8:, :3, 3] += 100
    edges = [
        _edge(poses, units, i, j, scaled=False)
        for i, j in itertools.combinations(range(15), 2)
        if (i < 8) == (j < 8)
    ]
    across = list(itertools.product(range(8), range(8, 15)))
    wrong = [across[k] for k in draw.permutation(len(across))[:5]]
    edges += [_spoilt(_edge(poses, units, *pair, scaled=False), draw) for pair in wrong]
    verdict = verify_edges(edges, _names(15))
    assert _rejected(verdict) == set(wrong)
    assert verdict.components == [list(range(8)), list(range(8, 15))]


def _two_groups(joining, scaled=False):
    """Two complete groups of four, joined by the given exact pairs."""
    poses, units = _poses(8, 1)
    pairs = [p for p in itertools.combinations(range(8), 2) if (p[0] < 4) == (p[1] < 4)]
    return [
        _edge(poses, units, *pair, scaled)  # pyright: ignore
        for pair in [*pairs, *joining]
    ]


def test_groups_are_joined_by_pairs_that_agree_without_a_triangle():
    joining = [(0, 4), (1, 5), (2, 6)]
    verdict = verify_edges(_two_groups(joining), _names(8))
    assert verdict.rejected == []
    assert not set(joining) & set(verdict.confirmed)
    wrong = _spoilt(_two_groups([(3, 7)])[-1], np.random.default_rng(0))
    verdict = verify_edges([*_two_groups(joining), wrong], _names(8))
    assert _rejected(verdict) == {(3, 7)}
    assert verdict.components == [list(range(8))]


def test_too_few_pairs_do_not_join_groups():
    verdict = verify_edges(_two_groups([(0, 4), (1, 5)]), _names(8))
    assert _rejected(verdict) == {(0, 4), (1, 5)}
    assert "groups of 4 and 4 photos too few agree" in verdict.rejected[0].reason
    assert verdict.components == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_chain_without_triangles_and_a_lone_wrong_triangle_are_left_alone():
    poses, units = _poses(4, 2)
    chain = [_edge(poses, units, k, k + 1, False) for k in range(3)]
    assert verify_edges(chain, _names(4)).rejected == []
    wrong = _spoilt(_edge(poses, units, 0, 2, False), np.random.default_rng(1))
    assert verify_edges([*chain, wrong], _names(4)).rejected == []  # any of the three may be it


def test_a_pair_against_the_long_way_round_is_named():
    poses, units = _poses(8, 4)
    strip = [(i, j) for i, j in itertools.combinations(range(8), 2) if j - i <= 2]
    edges = [_edge(poses, units, *pair, False) for pair in strip]
    edges.append(_spoilt(_edge(poses, units, 0, 7, False), np.random.default_rng(2)))
    verdict = verify_edges(edges, _names(8))
    assert _rejected(verdict) == {(0, 7)}
    assert "the way over other pairs differs by" in verdict.rejected[0].reason


# -- the building with four equal fronts -----------------------------------------------------------


@pytest.fixture(scope="module")
def photos():
    return [building.photo(view) for view in range(building.VIEWS)]


def _relative(i, j):
    return building.camera(j).cam_from_world @ building.camera(i).world_from_cam


def _front(photos, i, j, second_from_first):
    """What each of two photos sees in front of the other's surfaces, under a relative pose."""
    total = None
    for own, other, pose in (
        (photos[j], photos[i], second_from_first @ photos[i].camera.cam_from_world),
        (photos[i], photos[j], np.linalg.inv(second_from_first) @ photos[j].camera.cam_from_world),
    ):
        seen = other.points @ pose[:3, :3].T + pose[:3, 3]
        found = front_evidence(ObservedDepth(own.depth, own.camera.K), seen)
        total = found if total is None else total + found
    return total


def _building_edges(photos):
    relative = {pair: _relative(*pair) for pair in building.true_pairs()}
    relative |= {(i, j): _relative(i, taken) for (i, j), taken in building.mistaken_pairs().items()}
    return [
        RelativeEdge(i, j, pose[:3, :3], pose[:3, 3], front=_front(photos, i, j, pose))
        for (i, j), pose in sorted(relative.items())
    ]


def test_look_alike_fronts_are_told_apart_by_what_must_have_been_seen(photos):
    edges = _building_edges(photos)
    assert len(building.mistaken_pairs()) > len(
        building.true_pairs()
    )  # most pairs are wrong, and agree
    verdict = verify_edges(edges, _names(building.VIEWS))
    assert verdict.kept == building.true_pairs()
    assert _rejected(verdict) == set(building.mistaken_pairs())
    assert verdict.components == [list(range(building.VIEWS))]
    reasons = {r.reason.split(" points ")[-1] for r in verdict.rejected}
    assert "would lie in front of surfaces that the other photo sees" in reasons


def test_a_wrong_pair_taints_those_that_agree_with_it(photos):
    """Where only some wrong pairs show something impossible, the others fall with them."""
    mistaken = building.mistaken_pairs()
    chosen = np.random.default_rng(0).permutation(len(mistaken))[: len(mistaken) // 5]
    hidden = {list(mistaken)[k] for k in chosen}
    edges = [
        RelativeEdge(e.first, e.second, e.rotation, e.translation)
        if (e.first, e.second) in hidden
        else e
        for e in _building_edges(photos)
    ]
    verdict = verify_edges(edges, _names(building.VIEWS))
    assert _rejected(verdict) == set(mistaken)
    assert verdict.components == [list(range(building.VIEWS))]
    assert any("agrees with a pair that cannot be right" in r.reason for r in verdict.rejected)


def test_sparse_points_of_posed_cameras_are_negative_evidence_too(photos):
    draw = np.random.default_rng(0)
    sparse = [p.points[draw.permutation(len(p.points))[:300]] for p in photos]
    right = building.camera(0), building.camera(2)
    found = camera_front_evidence(right, (sparse[0], sparse[2]))
    assert found.checked > 100
    assert found.share < 0.02
    turn = np.linalg.inv(building.camera(6).cam_from_world) @ building.camera(0).cam_from_world
    taken = sparse[6] @ turn[:3, :3] - turn[:3, 3] @ turn[:3, :3]  # view 6 placed at view 0
    found = camera_front_evidence((building.camera(0), building.camera(0)), (sparse[0], taken))
    assert found.share > 0.08


def test_nothing_is_compared_where_nothing_is_seen():
    blind = ObservedDepth(np.full((4, 5), np.nan), building.camera(0).K)
    evidence = front_evidence(blind, np.array([[0, 0, 1.0], [np.nan, 0, 1], [0, 0, -1]]))
    assert evidence == FrontEvidence(0, 0)
    assert evidence.share == 0


def test_points_behind_a_surface_or_near_its_outline_say_nothing():
    K = np.array([[10.0, 0, 5], [0, 10, 5], [0, 0, 1]])
    depth = np.full((10, 10), 4.0)
    depth[:, :5] = 2.0
    rows, columns = np.mgrid[:10, :10] + 0.5
    rays = np.stack([(columns - 5) / 10, (rows - 5) / 10, np.ones((10, 10))], -1).reshape(-1, 3)
    observed = ObservedDepth(depth, K)
    assert front_evidence(observed, 5.0 * rays).in_front == 0
    assert front_evidence(observed, 3.0 * rays) == FrontEvidence(100, 40)  # column 5 is an outline
    assert front_evidence(observed, 1.9 * rays) == FrontEvidence(100, 40)  # 2.0 is within tolerance
    assert front_evidence(observed, 1.0 * rays) == FrontEvidence(100, 100)


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ([(0, 3)], r"edge \(0, 3\) must join two of the 3 images"),
        ([(1, 1)], r"edge \(1, 1\) must join two"),
        ([(0, 1), (1, 0)], r"edge \(0, 1\) is given twice"),
    ],
)
def test_impossible_edges_are_named(pairs, match):
    edges = [RelativeEdge(i, j, np.eye(3), np.ones(3)) for i, j in pairs]
    with pytest.raises(ValueError, match=match):
        verify_edges(edges, _names(3))


def test_no_edges_leave_every_image_alone():
    assert verify_edges([], _names(2)).components == [[0], [1]]
