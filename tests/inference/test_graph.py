"""The pair graph: sorted, without self pairs, connected, and equal to the published graphs."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree

from weav3r.inference.graph.kinds import (
    connected_components,
    is_connected,
    limit_distance,
    make_pairs,
    maximum_spanning_tree,
    reads_similarity,
    retrieval_pairs,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pairs.npz")
RECORDED = sorted(
    key
    for key in GOLDEN.files
    if re.fullmatch(r"(complete|swin|logwin|oneref)[-a-z0-9]*\|sym=0\|N=\d", key)
)


@pytest.mark.parametrize("key", RECORDED)
def test_equals_the_published_graph_as_a_set_without_its_self_pairs(key):
    name, _, n = key.split("|")
    expected = {(min(i, j), max(i, j)) for i, j in GOLDEN[key].tolist() if i != j}
    assert set(make_pairs(int(n[2:]), name)) == expected


def test_enough_published_graphs_were_recorded():
    assert len(RECORDED) > 80


@pytest.mark.parametrize("key", [key for key in GOLDEN.files if "|sym=1|" in key])
def test_symmetrised_published_graphs_are_both_directions_of_ours(key):
    name, _, n = key.split("|")
    name, _, prefilter = name.partition("+")
    pairs = make_pairs(int(n[2:]), name)
    if prefilter:
        pairs = limit_distance(pairs, int(prefilter[3:]), cyclic=prefilter.startswith("cyc"))
    expected = {(i, j) for i, j in GOLDEN[key].tolist() if i != j}
    assert {*pairs, *((j, i) for i, j in pairs)} == expected


RETRIEVED = [
    key for key in GOLDEN.files if re.fullmatch(r"retrieval-\d+-\d+\|first=\d+\|N=\d+", key)
]


@pytest.mark.parametrize("key", RETRIEVED)
def test_equals_the_published_retrieval_graph(key):
    name, first, n = key.split("|")
    keys, nearest = map(int, name.split("-")[1:])
    similarity = GOLDEN[f"retrieval_sim|{n}"]
    pairs = retrieval_pairs(
        similarity, max(nearest - 1, 0), keys, int(first.removeprefix("first=")), connected=False
    )
    assert pairs == sorted({(min(i, j), max(i, j)) for i, j in GOLDEN[key].tolist()})


def test_enough_published_retrieval_graphs_were_recorded():
    assert len(RETRIEVED) == 25


graphs = st.one_of(
    st.sampled_from(["auto", "complete", "swin", "logwin", "oneref"]),
    st.builds("{}-{}".format, st.sampled_from(["swin", "logwin", "video"]), st.integers(1, 60)),
)


@given(n=st.integers(1, 120), graph=graphs, cyclic=st.sampled_from([None, True, False]))
def test_sorted_unique_connected_and_without_self_pairs(n, graph, cyclic):
    pairs = make_pairs(n, graph, cyclic)
    assert pairs == sorted(set(pairs))
    assert all(0 <= i < j < n for i, j in pairs)
    assert is_connected(n, pairs)


def test_auto_is_complete_up_to_twenty_images_and_linear_above():
    assert make_pairs(20) == make_pairs(20, "complete")
    for n in (21, 100, 1000, 5000):
        pairs = make_pairs(n)
        assert n <= len(pairs) <= 10 * n
        assert {(i, i + 1) for i in range(n - 1)} <= set(pairs)


def test_noncyclic_windows_do_not_go_around_the_end():
    assert make_pairs(5, "swin-1") == [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]
    assert make_pairs(5, "swin-1-noncyclic") == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert make_pairs(5, "swin-1", cyclic=False) == make_pairs(5, "swin-1-noncyclic")


def test_one_image_has_no_pairs():
    assert make_pairs(1) == []


@pytest.mark.parametrize(
    "graph",
    [
        "",
        "swim-3",
        "complete-3",
        "swin-x",
        "auto-5",
        "swin--3",
        "swin-1-2",
        "oneref-0-1",
        "retrieval-1-2-3",
        "retrieval-2-cyclic",
        "video-2-cyclic",
        "swin-2-components",
    ],
)
def test_unknown_graph_lists_the_known_ones(graph):
    with pytest.raises(ValueError, match=r"unknown pair graph.*'auto', 'complete', 'swin-<w>'"):
        make_pairs(4, graph)


@pytest.mark.parametrize(
    ("n", "graph", "cyclic", "match"),
    [
        (0, "auto", None, "at least one image"),
        (3, "oneref-3", None, "image 3 does not exist"),
        (3, "swin-0", None, "window must be at least 1"),
        (3, "swin-2-noncyclic", True, "contradicts cyclic=True"),
        (3, "video-0", None, "window must be at least 1"),
        (3, "retrieval-2", None, "needs the similarity of the images"),
    ],
)
def test_impossible_graphs_are_named(n, graph, cyclic, match):
    with pytest.raises(ValueError, match=match):
        make_pairs(n, graph, cyclic)


def test_components_are_sorted_by_size_then_by_first_image():
    assert connected_components(6, [(4, 5), (1, 3), (3, 5)]) == [[1, 3, 4, 5], [0], [2]]
    assert connected_components(2, []) == [[0], [1]]


def test_video_is_linear_ordered_and_jumps_far():
    for n, window in ((7, 2), (100, 5), (1000, 3)):
        pairs = make_pairs(n, f"video-{window}")
        assert {(i, i + d) for d in range(1, window + 1) for i in range(n - d)} <= set(pairs)
        assert len(pairs) <= (window + 2) * n
        assert max(j - i for i, j in pairs) >= min(n // 4, n - 1)
    assert make_pairs(9, "video-2") == sorted(
        [(i, i + 1) for i in range(8)]
        + [(i, i + 2) for i in range(7)]
        + [(0, 4), (2, 6), (4, 8)]
        + [(0, 8)]
    )


def _similarity(n, seed, sides=1):
    """Random similarity; images of different sides are all less alike than those of one side."""
    x = np.random.default_rng(seed).uniform(0.5, 1.0, (n, n))
    side = np.arange(n) % sides
    return np.where(side[:, None] == side, x, 0.4 * x)


@given(n=st.integers(1, 60), k=st.integers(0, 12), sides=st.integers(1, 4), seed=st.integers(0, 99))
def test_retrieval_is_connected_and_linear(n, k, sides, seed):
    similarity = _similarity(n, seed, sides)
    pairs = make_pairs(n, f"retrieval-{k}", similarity=similarity)
    assert pairs == sorted(set(pairs))
    assert all(0 <= i < j < n for i, j in pairs)
    assert is_connected(n, pairs)
    assert len(pairs) <= k * n + n - 1


def test_retrieval_leaves_components_apart_on_request():
    pairs = make_pairs(12, "retrieval-2-components", similarity=_similarity(12, 0, sides=2))
    assert connected_components(12, pairs) == [list(range(0, 12, 2)), list(range(1, 12, 2))]


def test_retrieval_takes_the_most_similar_images_and_ignores_the_diagonal():
    similarity = np.eye(4) * -5 + [[0, 9, 1, 2], [9, 0, 1, 3], [1, 1, 0, 4], [2, 3, 4, 0]]
    assert make_pairs(4, "retrieval-1", similarity=similarity) == [(0, 1), (1, 3), (2, 3)]
    assert make_pairs(4, "retrieval-1-components", similarity=similarity) == [(0, 1), (2, 3)]
    assert make_pairs(4, "retrieval-0-2", similarity=similarity) == [(0, 1), (1, 3), (2, 3)]


@given(n=st.integers(1, 30), seed=st.integers(0, 99))
def test_maximum_spanning_tree_has_the_largest_sum(n, seed):
    similarity = _similarity(n, seed)
    similarity = 0.5 * (similarity + similarity.T)
    tree = maximum_spanning_tree(similarity)
    assert len(tree) == n - 1
    assert is_connected(n, tree)
    expected = -minimum_spanning_tree(-np.triu(similarity, 1)).sum()
    assert sum(similarity[i, j] for i, j in tree) == pytest.approx(expected)


def test_auto_compares_similar_images_above_twenty():
    similarity = _similarity(30, 1)
    pairs = make_pairs(30, similarity=similarity)
    retrieved = make_pairs(30, "retrieval-8", similarity=similarity)
    assert set(pairs) == {*retrieved, *make_pairs(30, "swin-1-noncyclic")}
    assert pairs == sorted(pairs)
    assert make_pairs(20, similarity=similarity[:20, :20]) == make_pairs(20, "complete")
    assert not reads_similarity(20, "auto")
    assert reads_similarity(21, "auto")
    assert reads_similarity(3, "retrieval-2")
    assert not reads_similarity(100, "swin-3")


@pytest.mark.parametrize("similarity", [np.ones((3, 3)), np.full((4, 4), np.nan)])
def test_wrong_similarities_are_named(similarity):
    with pytest.raises(ValueError, match=r"must be finite and \(4, 4\), got"):
        make_pairs(4, "retrieval-2", similarity=similarity)


def test_distance_around_the_end_counts_from_the_largest_index():
    assert limit_distance([(4, 0), (0, 1), (1, 3)], 1) == [(0, 1)]
    assert limit_distance([(4, 0), (0, 1), (1, 3)], 1, cyclic=True) == [(4, 0), (0, 1)]
    assert limit_distance([], 1) == []
