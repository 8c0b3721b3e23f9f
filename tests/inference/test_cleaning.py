"""Floating points and sky, found without touching confidences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from weav3r.inference.cleaning import joined, near_mask, sky_mask
from weav3r.inference.scene import Scene


def with_floaters(scene: Scene, index: int) -> Scene:
    """Pull a block of one photo's depth towards its camera, with low confidence."""
    view = scene.views[index]
    depth, confidence = view.depth.copy(), view.confidence.copy()
    depth[20:30, 20:30] *= 0.6
    confidence[20:30, 20:30] = 1.0
    views = list(scene.views)
    views[index] = dataclasses.replace(view, depth=depth, confidence=confidence)
    return dataclasses.replace(scene, views=views)


def test_floaters_are_masked_and_the_rest_stays(plane_scene: Scene) -> None:
    scene = with_floaters(plane_scene, 1)
    before = [view.confidence.copy() for view in scene.views]
    masks = scene.masks()
    found = masks[1]
    assert found is not None
    assert not found[21:29, 21:29].any()
    outside = np.ones_like(found)
    outside[20:30, 20:30] = False
    assert found[outside].all()
    assert all(m is None or m.all() for i, m in enumerate(masks) if i != 1)
    for view, confidence in zip(scene.views, before, strict=True):
        np.testing.assert_array_equal(view.confidence, confidence)
    assert len(scene.point_cloud(masks=masks)) == len(scene.point_cloud()) - (~found).sum()


def test_a_clean_scene_loses_nothing(plane_scene: Scene) -> None:
    assert all(mask is None or mask.all() for mask in plane_scene.masks())


def test_photos_without_camera_have_no_mask(plane_scene: Scene) -> None:
    masks = plane_scene.masks()
    assert [m is None for m in masks] == [camera is None for camera in plane_scene.cameras]


def test_surer_points_stay(plane_scene: Scene) -> None:
    scene = with_floaters(plane_scene, 1)
    view = scene.views[1]
    sure = dataclasses.replace(view, confidence=np.full_like(view.confidence, 99.0))
    views = [*scene.views[:1], sure, *scene.views[2:]]
    masks = dataclasses.replace(scene, views=views).masks()
    assert masks[1] is not None and masks[1].all()


@pytest.mark.parametrize("tolerance", [-0.1, 1.0])
def test_tolerance_is_a_share(plane_scene: Scene, tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance is a share of the depth"):
        plane_scene.masks(tolerance=tolerance)


def test_sky() -> None:
    rgb = np.full((60, 80, 3), (90, 120, 60), np.uint8)  # meadow
    rgb[:25] = (110, 160, 230)  # blue sky
    rgb[:25, 40:] = (225, 228, 230)  # and clouds
    rgb[40:50, 10:20] = (110, 160, 230)  # a small blue thing on the ground
    expected = np.zeros((60, 80), bool)
    expected[:25] = True
    np.testing.assert_array_equal(sky_mask(rgb), expected)


def test_no_sky() -> None:
    assert not sky_mask(np.full((60, 80, 3), (90, 60, 40), np.uint8)).any()


def test_sky_is_left_out_of_the_points(plane_scene: Scene) -> None:
    masks = plane_scene.masks(consistent=False, sky=True)
    for mask, view in zip(masks, plane_scene.views, strict=True):
        assert mask is not None
        np.testing.assert_array_equal(mask, ~sky_mask(view.rgb))


def test_joining_masks() -> None:
    a, b = np.array([True, True, False]), np.array([True, False, True])
    both = joined([{0: a}, {0: b, 2: b}], 3)
    assert both[0] is not None and both[0].tolist() == [True, False, False]
    assert both[1] is None and both[2] is b


def test_far_pixels_are_found() -> None:
    depth = np.array([[1.0, 2, 2, 3, 9, np.nan, -1]])
    assert near_mask(depth, 4).tolist() == [[True, True, True, True, False, True, True]]
    assert near_mask(depth * np.nan, 4).all()
    with pytest.raises(ValueError, match="positive multiple of the median"):
        near_mask(depth, 0)
