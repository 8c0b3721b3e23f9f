"""Pictures of depth, confidence, normals and matches."""

import numpy as np
import pytest

from weav3r.inference.pictures import (
    beside,
    confidence_picture,
    depth_picture,
    matches_picture,
    normals_picture,
    point_colors,
    source_colors,
)


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


def test_a_surer_pixel_is_brighter_and_the_ceiling_is_the_brightest() -> None:
    confidence = np.array([[1.0, 2.0, 4.0, 8.0, np.nan]])
    picture = confidence_picture(confidence, ceiling=4.0)
    brightness = picture.sum(-1).astype(int)[0]
    assert brightness[0] < brightness[1] < brightness[2] == brightness[3]
    assert picture[0, 4].tolist() == [40, 40, 40]
    hidden = confidence_picture(confidence, confidence > 2)
    assert (hidden[0, :2] == 40).all() and (hidden[0, 2] != 40).any()
    with pytest.raises(ValueError, match=r"expected an \(H, W\) confidence map"):
        confidence_picture(confidence[0])


def test_normals_of_planes() -> None:
    K = np.array([[50.0, 0, 16], [0, 50, 12], [0, 0, 1]])
    y, x = (np.mgrid[:24, :32] + 0.5 - np.array([12, 16])[:, None, None]) / 50
    facing = normals_picture(np.full((24, 32), 2.0), K)
    assert (facing[0] == 40).all() and (facing[5, 5] == [128, 128, 255]).all()
    right = normals_picture(2 / (1 - x), K)  # farther on the right: it faces there
    assert right[12, 16, 0] > 160 and abs(int(right[12, 16, 1]) - 128) < 3
    floor = normals_picture(2 / (1 + y), K)  # nearer below: it faces up
    assert floor[12, 16, 1] > 160
    steps = np.full((24, 32), 2.0)
    steps[:, 16:] = 3
    assert (normals_picture(steps, K)[12, 15:17] == 40).all()


def test_points_are_coloured_by_photo_source_or_confidence() -> None:
    photo = np.array([[200, 10, 10], [200, 10, 10]], dtype=np.uint8)
    arguments = photo, np.array([1.0, 9.0]), np.array([0, 9]), 9.0
    assert point_colors("photo", *arguments) is photo
    assert point_colors("confidence", *arguments).tolist() == [[68, 1, 84], [253, 231, 37]]
    shaded = point_colors("source", *arguments).astype(int)
    assert (shaded <= source_colors(np.array([0, 9]))).all() and (shaded[0] != shaded[1]).any()
    assert source_colors(0).tolist() == source_colors(8).tolist()
    with pytest.raises(ValueError, match="color must be 'photo', 'source' or 'confidence'"):
        point_colors("red", *arguments)  # type: ignore[arg-type]


def test_matches_are_drawn_between_the_photos() -> None:
    left, right = np.zeros((20, 30, 3), np.uint8), np.zeros((24, 20, 3), np.uint8)
    xy = np.array([[5.0, 5.0], [10.0, 10.0]])
    picture = np.asarray(matches_picture(left, right, xy, xy, np.array([True, False])))
    assert picture.shape == (24, 30 + 8 + 20, 3)
    green, red = picture[5, 20].astype(int), picture[10, 25].astype(int)
    assert green[1] > 100 > green[0] and red[0] > 80 > red[1]
    assert (
        np.asarray(matches_picture(left, right, xy[:0], xy[:0], xy[:0, 0] > 0))[:20] <= 20
    ).all()
    marked = matches_picture(left, right, xy, xy, xy[:, 0] > 0, scale=2, marked=((5, 5), (9, 9)))
    assert marked.size == (2 * 58, 2 * 24)
    assert (np.asarray(marked) == (255, 200, 40)).all(-1).any()


def test_pictures_side_by_side() -> None:
    dark = np.zeros((4, 3, 3), np.uint8)
    both = beside(dark, dark, gap=2)
    assert both.shape == (4, 8, 3) and (both[:, 3:5] == 255).all() and not both[:, 5:].any()
