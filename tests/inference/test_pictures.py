"""Pictures of depth maps."""

import numpy as np
import pytest

from weav3r.inference.pictures import depth_picture


def test_near_is_brighter_than_far_and_invalid_is_grey() -> None:
    depth = np.linspace(1, 10, 64, dtype=np.float32).reshape(8, 8)
    depth[0, 0], depth[1, 1], depth[2, 2], depth[3, 3] = np.nan, -1, 0, np.inf
    picture = depth_picture(depth)
    assert (picture.shape, picture.dtype) == ((8, 8, 3), np.uint8)
    for k in range(4):
        assert picture[k, k].tolist() == [40, 40, 40]
    brightness = picture.sum(-1).astype(int)[depth > 0].reshape(-1)
    assert brightness[0] > brightness[-2]
    assert picture[0, 1].tolist() == [253, 231, 37] and picture[7, 7].tolist() == [68, 1, 84]


def test_the_unit_does_not_matter_and_outliers_take_no_colours() -> None:
    depth = np.random.default_rng(0).uniform(1, 3, (40, 50))
    assert (depth_picture(depth) == depth_picture(depth * 1000)).all()
    spoiled = depth.copy()
    spoiled[0, 0] = 1e-6
    change = depth_picture(spoiled).astype(int) - depth_picture(depth)
    assert np.abs(change).mean() < 2  # the percentile moves by one sample of 2000


def test_a_mask_hides_pixels_and_flat_or_empty_maps_are_fine() -> None:
    depth = np.full((4, 5), 2.0)
    valid = np.zeros((4, 5), dtype=bool)
    assert (depth_picture(depth, valid) == 40).all()
    valid[1:3] = True
    picture = depth_picture(depth, valid)
    assert (picture[0] == 40).all() and (picture[1:3] == picture[1, 0]).all()
    assert (depth_picture(np.full((2, 2), np.nan)) == 40).all()


def test_wrong_shapes_are_errors() -> None:
    with pytest.raises(ValueError, match=r"expected an \(H, W\) depth map"):
        depth_picture(np.zeros((3, 4, 1)))
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(4, 3\)"):
        depth_picture(np.zeros((3, 4)), np.ones((4, 3), dtype=bool))
