"""Similarity of images from tokens: the same places are found, repeatably, in any order."""

import numpy as np
import pytest
import torch

from weav3r.inference.graph.kinds import connected_components, make_pairs
from weav3r.inference.graph.retrieval import (
    RetrievalOptions,
    farthest_images,
    image_similarity,
    learn_vocabulary,
    learn_whitening,
    select_tokens,
    word_similarity,
)
from weav3r.models.two_view import EncodedImages

PLACES, PHOTOS, OPTIONS = 3, 5, RetrievalOptions(words=8)


def _encoded(tokens):
    return EncodedImages(tokens[None], torch.zeros(1, len(tokens), 2), (64, 64))


def _collection(seed=0):
    """Photos of three places: each sees 30 of its place's 45 things, and 60 of everyone's."""
    draw = torch.Generator().manual_seed(seed)
    things = 2 * torch.randn(PLACES, 45, 32, generator=draw)
    everywhere = torch.randn(90, 32, generator=draw) + 2.0  # walls and sky: a common direction
    photos = []
    for place in range(PLACES):
        for _ in range(PHOTOS):
            own = things[place][torch.randperm(45, generator=draw)[:30]]
            common = everywhere[torch.randperm(90, generator=draw)[:60]]
            tokens = torch.cat([own, common])
            photos.append(tokens + 0.3 * torch.randn(tokens.shape, generator=draw))
    return photos


def test_photos_of_a_place_are_more_alike_than_others():
    similarity = image_similarity([_encoded(t) for t in _collection()], OPTIONS)
    place = np.repeat(np.arange(PLACES), PHOTOS)
    same = place[:, None] == place
    nearest = np.argsort(-(similarity - 2 * np.eye(len(place))), axis=1)[:, :3]
    assert np.take_along_axis(same, nearest, 1).all()
    pairs = make_pairs(len(place), "retrieval-3-components", similarity=similarity)
    groups = connected_components(len(place), pairs)
    assert groups == [list(range(k * PHOTOS, (k + 1) * PHOTOS)) for k in range(PLACES)]


def test_similarity_is_symmetric_bounded_and_repeatable():
    encoded = [_encoded(t) for t in _collection()]
    similarity = image_similarity(encoded, OPTIONS)
    assert similarity.dtype == np.float32
    assert (similarity == similarity.T).all()
    assert (similarity.diagonal() == 1).all()
    assert similarity.min() >= 0
    assert similarity.max() <= 1
    assert np.array_equal(similarity, image_similarity(encoded, OPTIONS))


def test_a_copy_is_the_most_similar_image():
    photos = _collection()
    similarity = image_similarity([_encoded(t) for t in [*photos, photos[4].flip(0)]], OPTIONS)
    assert similarity[-1, 4] == pytest.approx(1.0, abs=1e-4)
    assert similarity[-1, :4].max() < 0.9


def test_half_precision_features_and_different_sizes_are_read():
    photos = _collection()
    similarity = image_similarity(
        [_encoded(t[: 90 - k].half()) for k, t in enumerate(photos)], OPTIONS
    )
    assert np.isfinite(similarity).all()
    assert image_similarity([_encoded(photos[0])]).tolist() == [[1.0]]


def test_no_image_has_no_similarity():
    with pytest.raises(ValueError, match="at least one encoded image"):
        image_similarity([])


def test_whitened_features_have_unit_covariance_and_shrinkage_damps():
    features = torch.cat(_collection())
    whitened = learn_whitening([features]).apply(features).double()
    covariance = torch.cov(whitened.T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(32, dtype=torch.float64), atol=1e-4, rtol=0)
    damped = learn_whitening([features], shrinkage=0.5, dimensions=8).apply(features)
    assert damped.shape[1] == 8
    assert damped.var(0).max() < 1


def test_few_features_make_a_small_vocabulary():
    features = torch.eye(3)
    vocabulary = learn_vocabulary(features, words=10)
    assert sorted(vocabulary.argmax(1).tolist()) == [0, 1, 2]
    assert word_similarity([features], vocabulary).shape == (1, 1)


def test_no_token_and_no_key_may_be_asked_for():
    features, index = select_tokens(torch.ones(2, 4, 3), torch.ones(2, 4), 0)
    assert features.shape == (2, 0, 3)
    assert index.shape == (2, 0)
    assert farthest_images(np.eye(3), 0) == ([], [])


def test_farthest_images_start_in_the_middle_and_never_repeat():
    similarity = np.array([[1, 0.2, 0.9], [0.2, 1, 0.3], [0.9, 0.3, 1]])
    assert farthest_images(similarity, 9) == ([2, 1, 0], [0.0, 0.7, pytest.approx(0.1)])
