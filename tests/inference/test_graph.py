"""The pair graph: sorted, without self pairs, connected, and equal to the published graphs."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weav3r.inference.graph import connected_components, is_connected, make_pairs

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


graphs = st.one_of(
    st.sampled_from(["auto", "complete", "swin", "logwin", "oneref"]),
    st.builds("{}-{}".format, st.sampled_from(["swin", "logwin"]), st.integers(1, 60)),
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


@pytest.mark.parametrize("graph", ["", "swim-3", "complete-3", "swin-x", "auto-5", "swin--3"])
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
    ],
)
def test_impossible_graphs_are_named(n, graph, cyclic, match):
    with pytest.raises(ValueError, match=match):
        make_pairs(n, graph, cyclic)


def test_components_are_sorted_by_size_then_by_first_image():
    assert connected_components(6, [(4, 5), (1, 3), (3, 5)]) == [[1, 3, 4, 5], [0], [2]]
    assert connected_components(2, []) == [[0], [1]]
