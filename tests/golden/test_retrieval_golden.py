"""Retrieval pieces against the published implementation's recorded results."""

import numpy as np
import pytest
import torch

from weav3r.inference.graph.retrieval import (
    Whitening,
    farthest_images,
    learn_whitening,
    select_tokens,
    weighted_descriptor,
    word_similarity,
)


@pytest.fixture(scope="module")
def recorded(golden):
    return {key: torch.from_numpy(value) for key, value in golden("retrieval").items()}


def test_whitening_is_learnt_up_to_the_signs_of_its_axes(recorded):
    ours = learn_whitening([recorded["whiten_X"][:100], recorded["whiten_X"][100:]])
    torch.testing.assert_close(ours.mean[None], recorded["whiten_m"], rtol=1e-9, atol=1e-12)
    theirs = recorded["whiten_P"]
    sign = torch.sign((ours.projection * theirs).sum(0))
    torch.testing.assert_close(ours.projection * sign, theirs, rtol=1e-6, atol=1e-9)


def test_whitening_is_applied(recorded):
    whitening = Whitening(recorded["whiten_m"][0], recorded["whiten_P"])
    torch.testing.assert_close(
        whitening.apply(recorded["whiten_in"]), recorded["whiten_out"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("count", [7, 100, -0.25])
def test_tokens_of_highest_attention_are_kept(recorded, count):
    features = recorded["whiten_in"]
    kept, index = select_tokens(features, features.norm(dim=-1), count)
    assert torch.equal(index, recorded[f"select_{count}_idx"])
    torch.testing.assert_close(kept, recorded[f"select_{count}_feat"])


def test_weighted_descriptor(recorded):
    features = recorded["whiten_in"]
    ours = weighted_descriptor(features, features.norm(dim=-1))
    torch.testing.assert_close(ours, recorded["spoc"], rtol=1e-4, atol=1e-5)


def test_binary_match_kernel_scores_and_ranks(recorded):
    features, image = recorded["asmk_feat"], recorded["asmk_ids"]
    groups = [features[image == k] for k in range(5)]
    scores = word_similarity(groups, recorded["asmk_centroids"], binary=True)
    torch.testing.assert_close(scores.double(), recorded["asmk_scores"], rtol=1e-5, atol=1e-7)
    assert torch.equal(scores.argsort(1, descending=True), recorded["asmk_ranks"])


@pytest.mark.parametrize("first", [4, 3, 0])
def test_farthest_images(recorded, first):
    picked, gaps = farthest_images(recorded["asmk_scores"].numpy(), 4, first)
    assert picked == recorded[f"fps_first{first}"].tolist()
    np.testing.assert_allclose(gaps, recorded[f"fps_first{first}_dist"].numpy(), atol=1e-12)
