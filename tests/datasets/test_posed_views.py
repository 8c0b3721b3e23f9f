"""Single posed views: points, correspondences, and crops that keep the camera right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from weav3r.datasets.correspondences import reciprocal_pixels, sample_pixel_pairs
from weav3r.datasets.crops import (
    apply_homography_crop,
    automatic_range_px,
    best_windows,
    homography_crop,
    random_windows,
    rotate_pixels,
    rotate_quarters,
    transpose_intrinsics,
    transpose_pixels,
)
from weav3r.datasets.posed_view import K_from_integer_centres, K_to_integer_centres, PosedView


def plane_view(x: float = 0.0, size: tuple[int, int] = (40, 56)) -> PosedView:
    """Look at the plane z = 4 + y / 2 from (x, 0, 0); the picture shows world x and y."""
    height, width = size
    K = np.array([[50.0, 0, 30], [0, 52, 19], [0, 0, 1]])
    pose = np.eye(4)
    pose[0, 3] = x
    slope = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    depth = np.repeat((4 / (1 - slope / 2))[:, None], width, 1).astype(np.float32)
    blank = PosedView(np.zeros((*size, 3), np.uint8), depth, K, pose)
    world = blank.pointmap_world
    image = np.clip(np.stack([world[..., 0] * 30 + 128, world[..., 1] * 30 + 128], -1), 0, 255)
    image = np.concatenate([image, np.zeros((*size, 1))], -1).round().astype(np.uint8)
    return dataclasses.replace(blank, image=image)


def assert_on_plane(view: PosedView, atol: float = 1e-5) -> None:
    points = view.pointmap_world[view.valid]
    np.testing.assert_allclose(points[:, 2], 4 + points[:, 1] / 2, atol=atol)


def test_points_and_their_pixels_agree() -> None:
    view = plane_view(0.3)
    assert_on_plane(view)
    xy = (view.pointmap_in_cam @ view.K.T)[..., :2] / view.depth[..., None]
    rows, columns = np.mgrid[: view.size[0], : view.size[1]] + 0.5
    np.testing.assert_allclose(xy, np.stack([columns, rows], -1), atol=1e-4)
    np.testing.assert_array_equal(K_to_integer_centres(K_from_integer_centres(view.K)), view.K)


def test_a_view_of_mixed_sizes_is_refused() -> None:
    view = plane_view()
    with pytest.raises(ValueError, match=r"expected depth \(40, 56\)"):
        dataclasses.replace(view, depth=view.depth[1:])
    with pytest.raises(ValueError, match=r"expected K \(3, 3\)"):
        dataclasses.replace(view, K=np.eye(4))


def test_reciprocal_pixels_show_the_same_point() -> None:
    first, second = plane_view(), plane_view(0.4)
    pixels1, pixels2 = reciprocal_pixels(first, second)
    assert len(pixels1) > 1500
    inner = (pixels2 > 0).all(1) & (pixels2 < [55, 39]).all(1)
    points1 = first.pointmap_world[pixels1[inner, 1], pixels1[inner, 0]]
    points2 = second.pointmap_world[pixels2[inner, 1], pixels2[inner, 0]]
    # Half a pixel at most, and a pixel is 0.08 wide at a depth of 4.
    assert np.abs(points1 - points2).max() < 0.06


def test_pixels_without_depth_can_be_left_out() -> None:
    first, second = plane_view(), plane_view(0.4)
    depth = first.depth.copy()
    depth[:20] = 0
    holes = dataclasses.replace(first, depth=depth)
    pixels1, _ = reciprocal_pixels(holes, second, both_valid=True)
    assert len(pixels1) > 500 and (pixels1[:, 1] >= 20).all()
    assert len(reciprocal_pixels(holes, second)[0]) >= len(pixels1)


def test_sampled_pairs_fill_up_from_the_other_kind() -> None:
    first, second = plane_view(), plane_view(0.4)
    matches, sizes = reciprocal_pixels(first, second), (first.size, second.size)
    number = len(matches[0])
    unmatched = 40 * 56 - number
    few = sample_pixel_pairs(matches, sizes, 100, 1.0, np.random.default_rng(0))
    assert not few.valid.any()
    known = {tuple(p) for p in matches[0].tolist()}
    assert not known & {tuple(p) for p in few.pixels1.tolist()}
    filled = sample_pixel_pairs(matches, sizes, unmatched + 50, 1.0, np.random.default_rng(0))
    assert filled.valid.sum() == 50 and filled.valid[:50].all()
    everything = sample_pixel_pairs(matches, sizes, number, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(everything.pixels1, matches[0])
    with pytest.raises(ValueError, match="ask for fewer"):
        sample_pixel_pairs(matches, sizes, 40 * 56 + 1, 0.5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="negative_share"):
        sample_pixel_pairs(matches, sizes, 10, 1.5, np.random.default_rng(0))


def test_a_homography_crop_shows_the_same_world() -> None:
    view = plane_view(0.3)
    crop = homography_crop(view.K, (12.0, 6.0, 44.0, 34.0), (42, 48))
    np.testing.assert_allclose(crop.old_from_new @ crop.old_from_new.T, np.eye(3), atol=1e-12)
    seen = apply_homography_crop(view, crop)
    assert seen.size == (42, 48)
    np.testing.assert_array_equal(seen.K[:2, 2], [24, 21])
    assert seen.valid.mean() > 0.9
    # The depth comes from the nearest pixel: half a pixel of 0.08, along the slope of the plane.
    assert_on_plane(seen, atol=0.06)
    shown = (seen.image[..., :2].astype(float) - 128) / 30
    inner = np.zeros(seen.size, bool)
    inner[3:-3, 3:-3] = True
    inner &= seen.valid
    gap = np.abs(shown - seen.pointmap_world[..., :2])[inner]
    assert np.quantile(gap, 0.99) < 0.1


def test_the_sky_stays_sky_in_a_crop() -> None:
    view = plane_view()
    depth = view.depth.copy()
    depth[:10] = -1
    sky = dataclasses.replace(view, depth=depth)
    seen = apply_homography_crop(sky, homography_crop(view.K, (10.0, 0.0, 50.0, 30.0)))
    assert (seen.depth < 0).any() and (seen.depth > 0).any()
    assert not seen.valid[seen.depth < 0].any()


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no pixel"):
        homography_crop(plane_view().K, (10.2, 5.0, 10.4, 20.0))


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_a_turned_view_shows_the_same_world(quarters: int) -> None:
    view = plane_view(0.3)
    turned = rotate_quarters(view, quarters)
    assert_on_plane(turned)
    points = np.rot90(view.pointmap_world, quarters)
    np.testing.assert_allclose(turned.pointmap_world, points, atol=1e-5)
    pixels = np.array([[3, 5], [55, 0]])
    column, row = rotate_pixels(pixels, view.size, quarters).T
    np.testing.assert_array_equal(turned.image[row, column], view.image[pixels[:, 1], pixels[:, 0]])
    back = rotate_quarters(turned, -quarters)
    np.testing.assert_allclose(back.K, view.K)
    np.testing.assert_allclose(back.world_from_cam, view.world_from_cam, atol=1e-12)


def test_transposed_intrinsics_project_to_transposed_pixels() -> None:
    view = plane_view()
    points = view.pointmap_in_cam[::7, ::9].reshape(-1, 3)
    xy, transposed = (
        (points @ K.T)[:, :2] / points[:, 2:] for K in (view.K, transpose_intrinsics(view.K))
    )
    np.testing.assert_allclose(transposed, transpose_pixels(xy))


def test_windows_lie_inside_and_share_a_shape() -> None:
    windows = random_windows((300, 500), (160, 512), 120.0, 40, np.random.default_rng(1))
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] <= [500, 300]).all()
    extent = windows[:, 2:] - windows[:, :2]
    np.testing.assert_allclose(extent, extent[:1].repeat(40, 0))
    assert extent[0, 0] / extent[0, 1] == pytest.approx(512 / 160, rel=0.01)
    assert automatic_range_px((480, 640), (384, 512)) == 120
    assert automatic_range_px((384, 512), (384, 512)) == pytest.approx(38.4)


def test_the_windows_with_most_matches_are_chosen() -> None:
    windows = np.array([[0.0, 0, 10, 10], [10, 0, 20, 10]])
    pixels1 = np.array([[1, 1], [12, 3], [13, 3], [15, 9]])
    pixels2 = np.array([[2, 2], [3, 3], [4, 4], [12, 5]])
    assert best_windows(windows, windows, pixels1, pixels2) == (1, 0)
