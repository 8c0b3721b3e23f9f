"""Match metrics: hand-computed cases and agreement with an independent kit."""

import numpy as np
import pytest

from weav3r.evaluation.match_metrics import (
    depth_errors_px,
    disparity_errors_px,
    epipolar_errors_px,
    homography_errors_px,
    reference_scale,
    summarise_match_errors,
)

K = np.array([[320.0, 0, 160], [0, 320, 120], [0, 0, 1]])
SIZE = (240, 320)  # pixels at 640 are twice the image's
SIDEWAYS = np.array([[1.0, 0, 0, -1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def random_geometry(seed):
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    transform = np.eye(4)
    transform[:3, :3] = rotation * np.sign(np.linalg.det(rotation))
    transform[:3, 3] = generator.normal(size=3)
    K2 = np.array([[400.0, 0, 300], [0, 420, 200], [0, 0, 1]])
    return generator, K2, transform, (400, 640)


def test_epipolar_error_of_a_sideways_move_is_the_difference_of_rows():
    xy1 = np.array([[100.0, 50], [100, 50], [30, 80]])
    xy2 = np.array([[60.0, 50], [60, 51.5], [200, 78]])
    errors = epipolar_errors_px(xy1, xy2, K, K, SIDEWAYS, SIZE, SIZE)
    assert errors == pytest.approx([0, 3, 4])


def test_epipolar_error_does_not_see_the_scale_of_the_translation():
    generator, K2, transform, size2 = random_geometry(3)
    xy1, xy2 = generator.uniform(0, 240, (2, 20, 2))
    longer = transform.copy()
    longer[:3, 3] *= 11
    once = epipolar_errors_px(xy1, xy2, K, K2, transform, SIZE, size2)
    assert epipolar_errors_px(xy1, xy2, K, K2, longer, SIZE, size2) == pytest.approx(once)


def test_homography_error():
    H = np.array([[1.0, 0, -12], [0, 1, 0], [0, 0, 1]])
    xy1, xy2 = np.array([[50.0, 60], [50, 60]]), np.array([[38.0, 60], [38, 62]])
    assert homography_errors_px(xy1, xy2, H, SIZE) == pytest.approx([0, 4])
    to_infinity = np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, -50]])
    assert homography_errors_px(xy1[:1], np.ones((1, 2)), to_infinity, SIZE)[0] == np.inf


def test_disparity_error_and_the_pixel_that_holds_a_position():
    disparity = np.zeros((4, 8))
    disparity[1, 5] = 2.0
    xy1 = np.array([[5.0, 1.0], [5.99, 1.99], [6.0, 1.5], [-1, 1]])
    errors = disparity_errors_px(xy1, xy1 - [2, 0], disparity, (4, 8))
    assert errors[:2] == pytest.approx([0, 0])
    assert np.isnan(errors[2:]).all()


def test_depth_error_knows_occlusion_and_ignorance():
    depth1 = np.full(SIZE, 4.0)
    depth1[:, 200:] = 0
    # A point at depth 4 and pixel (160, 120) is on the axis; a metre to the left it lies at -80 px.
    xy1 = np.array([[160.0, 120], [160, 120], [250, 120]])
    xy2 = np.array([[80.0, 120], [80, 121], [170, 120]])
    errors = depth_errors_px(xy1, xy2, depth1, K, K, SIDEWAYS, SIZE)
    assert errors[:2] == pytest.approx([0, 2])
    assert np.isnan(errors[2])
    wall_in_front = np.full(SIZE, 2.0)
    occluded = depth_errors_px(xy1, xy2, depth1, K, K, SIDEWAYS, SIZE, wall_in_front)
    assert np.isinf(occluded[:2]).all()
    same_depth = depth_errors_px(xy1, xy2, depth1, K, K, SIDEWAYS, SIZE, np.full(SIZE, 3.9))
    assert same_depth[:2] == pytest.approx([0, 2])


def test_a_point_behind_the_second_camera_has_no_match():
    behind = np.eye(4)
    behind[2, 3] = -9
    xy = np.array([[100.0, 100]])
    assert depth_errors_px(xy, xy, np.full(SIZE, 4.0), K, K, behind, SIZE)[0] == np.inf


def test_summary_leaves_out_the_unknown():
    errors = np.array([0.5, 2.0, 4.0, np.inf, np.nan])
    xy1 = np.array([[1.0, 1], [300, 200], [5, 5], [6, 6], [7, 7]])
    summary = summarise_match_errors(errors, xy1, SIZE)
    assert (summary.matches, summary.checked) == (5, 4)
    assert summary.inliers == {1.0: 1, 3.0: 2, 5.0: 3}
    assert summary.precision == {1.0: 0.25, 3.0: 0.5, 5.0: 0.75}
    assert summary.coverage == 2 / 256


def test_no_match_at_all_is_no_precision():
    summary = summarise_match_errors(np.zeros(0), np.zeros((0, 2)), SIZE)
    assert summary.matches == 0
    assert summary.precision[3.0] == 0
    assert summary.coverage == 0


def test_reference_scale_uses_the_long_side():
    assert reference_scale((320, 240)) == 2
    assert reference_scale((100, 1280)) == 0.5


def test_match_metrics_agree_with_evalkit(evalkit):
    """evalkit counts pixel centres at integers and gives sizes as (width, height)."""
    generator, K2, transform, size2 = random_geometry(5)
    transform[:3, :3] = np.eye(3)
    xy1 = generator.uniform(-3, [SIZE[1] + 3, SIZE[0] + 3], (300, 2))
    xy2 = generator.uniform(0, size2[::-1], (300, 2))
    to_integers = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    kit = evalkit.matches
    old = xy1 - 0.5, xy2 - 0.5, K - to_integers, K2 - to_integers
    ours = epipolar_errors_px(xy1, xy2, K, K2, transform, SIZE, size2)
    theirs = kit.epipolar_errors(*old, transform, SIZE[::-1], size2[::-1])
    assert ours == pytest.approx(theirs)
    depth1, depth2 = generator.uniform(-0.5, 8, SIZE), generator.uniform(-0.5, 8, size2)
    ours = depth_errors_px(xy1, xy2, depth1, K, K2, transform, size2, depth2)
    theirs = kit.depth_errors(
        *old[:2], np.maximum(depth1, 0), *old[2:], transform, size2[::-1], np.maximum(depth2, 0)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    disparity = np.maximum(generator.uniform(-5, 40, SIZE), 0)
    ours = disparity_errors_px(xy1, xy2, disparity, size2)
    np.testing.assert_allclose(ours, kit.disparity_errors(*old[:2], disparity, size2[::-1]))
    mine = summarise_match_errors(ours, xy1, SIZE)
    other = kit.summarise(ours, old[0], SIZE[::-1])
    assert mine.checked == other["epi_checked"]
    for threshold in (1, 3, 5):
        assert mine.inliers[float(threshold)] == other[f"epi_inliers@{threshold}"]
        assert mine.precision[float(threshold)] == other[f"epi_precision@{threshold}"]
