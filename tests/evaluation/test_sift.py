"""SIFT as a method: COLMAP's own matches, known shifts, determinism, the network's input size."""

import numpy as np
import pycolmap
import pytest

from weav3r.evaluation.sift import SiftMethod, SiftOptions, match_sift_descriptors


@pytest.fixture
def wall(eval_root):
    images = eval_root / "sets" / "wall" / "images"
    return images / "a.png", images / "b.png"


def test_matches_of_a_shifted_texture_are_shifted_and_repeat(wall):
    matches = SiftMethod()(*wall)
    assert len(matches.xy1) > 30
    assert np.median(matches.xy1 - matches.xy2, axis=0) == pytest.approx([12, 0], abs=0.05)
    assert matches.confidence is not None and np.all(np.diff(matches.confidence) <= 0)
    again = SiftMethod()(*wall)
    assert np.array_equal(matches.xy1, again.xy1) and np.array_equal(matches.xy2, again.xy2)


def test_the_matching_is_colmaps(wall):
    method = SiftMethod()
    features = [method.features(path) for path in wall]
    pairs, _ = match_sift_descriptors(*(f.descriptors for f in features))
    matcher = pycolmap.FeatureMatcher.create(
        pycolmap.FeatureMatchingOptions(use_gpu=False, num_threads=1), pycolmap.Device.cpu
    )
    shapes = [
        np.tile(np.array([1, 0], np.float32), (len(f.xy), 1)) for f in features
    ]  # scale, angle
    keypoints = [
        pycolmap.keypoints_from_matrix(np.hstack([f.xy.astype(np.float32), shape]))
        for f, shape in zip(features, shapes, strict=True)
    ]
    descriptors = [
        pycolmap.FeatureDescriptors(type=pycolmap.FeatureExtractorType.SIFT, data=f.descriptors)
        for f in features
    ]
    theirs = matcher.match(keypoints[0], descriptors[0], keypoints[1], descriptors[1])
    assert set(map(tuple, pairs.tolist())) == set(map(tuple, theirs.tolist()))


def test_ratio_and_mutual_tests_by_hand():
    basis = np.zeros((4, 128), np.uint8)
    basis[np.arange(4), np.arange(4)] = 255
    basis[np.arange(4), np.arange(4) + 10] = 255
    basis[:, 50:52] = 255  # norm 510: nearly the 512 of a unit vector
    pairs, confidence = match_sift_descriptors(basis, basis[[2, 0, 3]], max_ratio=0.99)
    assert pairs.tolist() == [[0, 1], [2, 0], [3, 2]]
    assert (confidence > 0.5).all()
    twins = np.concatenate([basis[:1], basis[:1]])
    assert len(match_sift_descriptors(basis, twins)[0]) == 0  # two equals decide nothing
    one_way = match_sift_descriptors(basis, basis[[2, 0, 3]], max_ratio=1.01, mutual=False)[0]
    assert len(one_way) >= 3
    assert len(match_sift_descriptors(basis[:1], basis)[0]) == 0


def test_at_the_networks_size_positions_stay_in_original_pixels(wall):
    method = SiftMethod(SiftOptions(max_size=64))
    xy = method.features(wall[0]).xy
    assert xy[:, 0].max() > 70  # of 128, not of 64
    assert (xy >= 0).all() and (xy <= [128, 96]).all()
    matches = SiftMethod(SiftOptions(max_size=128))(*wall)
    assert np.median(matches.xy1 - matches.xy2, axis=0) == pytest.approx([12, 0], abs=0.05)


def test_features_are_cached_up_to_a_limit(wall):
    method = SiftMethod(SiftOptions(cached_images=1))
    first = method.features(wall[0])
    assert method.features(wall[0]) is first
    method.features(wall[1])
    assert method.features(wall[0]) is not first


def test_a_blank_image_has_no_matches(tmp_path):
    from PIL import Image

    path = tmp_path / "blank.png"
    Image.new("L", (64, 48)).save(path)
    assert len(SiftMethod()(path, path).xy1) == 0


def test_description_names_the_options():
    description = SiftMethod(max_size=320).description
    assert description["max_size"] == 320 and description["pycolmap"]


def test_a_tiny_max_size_is_refused():
    with pytest.raises(ValueError, match="max_size must be at least 16"):
        SiftMethod(SiftOptions(max_size=8))
