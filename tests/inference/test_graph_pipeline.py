"""Photos choose their pairs by the features that were computed anyway."""

import numpy as np
import pytest

import weav3r
from weav3r.inference.graph import kinds as graphs
from weav3r.inference.graph.kinds import is_connected


@pytest.fixture(scope="module")
def photos():
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    return [np.kron(image, np.ones((8, 8, 1), np.uint8)) for image in coarse]


@pytest.fixture(scope="module")
def model():
    return weav3r.load_model("weav3r-small", device="cpu")


def test_retrieval_is_a_graph_that_reconstruct_knows(photos, model):
    scene = weav3r.reconstruct(
        photos, model, size=48, graph="retrieval-1", depth="pointmaps", progress=False
    )
    assert 3 <= len(scene.report.pairs) <= 4
    assert is_connected(4, scene.report.pairs)
    assert "choose pairs" in scene.report.timings_s


def test_many_photos_are_compared_with_similar_ones_by_default(photos, model, monkeypatch):
    monkeypatch.setattr(graphs, "COMPLETE_UP_TO", 3)
    scene = weav3r.reconstruct(photos, model, size=48, depth="pointmaps", progress=False)
    assert "choose pairs" in scene.report.timings_s


def test_one_photo_needs_no_similar_one(photos, model):
    scene = weav3r.reconstruct(photos[:1], model, size=48, graph="retrieval-1", progress=False)
    assert scene.report.pairs == [(0, 0)]
