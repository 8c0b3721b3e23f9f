"""Pose metrics: hand-computed cases, invariances, and agreement with an independent kit."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from weav3r.evaluation.pose_metrics import (
    PoseError,
    all_pair_errors,
    bootstrap_intervals,
    direction_error_deg,
    fit_similarity,
    is_rigid,
    mean_average_accuracy,
    pose_auc,
    relative_focal_error,
    relative_pose_error,
    rotation_error_deg,
    summarise_pose_errors,
    trajectory_error,
)
from weav3r.geometry.camera import rigid_inverse_array


def rigid(rotation_vector_deg, translation):
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_rotvec(rotation_vector_deg, degrees=True).as_matrix()
    transform[:3, 3] = translation
    return transform


def arc_of_cameras(count=7, seed=0):
    generator = np.random.default_rng(seed)
    return {f"{i}": rigid([5.0 * i, 12.0 * i, 2.0], generator.normal(size=3)) for i in range(count)}


@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.01, 3.0, 90.0, 179.9])
def test_rotation_error_is_the_angle(angle):
    base = rigid([10, 20, 30], [0, 0, 0])[:3, :3]
    turned = Rotation.from_rotvec(np.array([1, 2, -2]) / 3 * angle, degrees=True).as_matrix() @ base
    # float64 keeps about 1e-14 rad of a rotation matrix: 1e-12 degrees with a margin of ten
    assert rotation_error_deg(turned, base) == pytest.approx(angle, abs=1e-11)


def test_direction_error():
    assert direction_error_deg([1, 0, 0], [5, 0, 0]) == 0
    assert direction_error_deg([1, 0, 0], [0, 0.1, 0]) == pytest.approx(90)
    assert direction_error_deg([1, 0, 0], [-2, 0, 0]) == pytest.approx(180)
    assert direction_error_deg([1, 0, 0], [1, 1e-9, 0]) == pytest.approx(np.degrees(1e-9))
    assert direction_error_deg([1, 0, 0], [0, 0, 0]) == 180
    assert direction_error_deg([np.nan, 0, 0], [1, 0, 0]) == 180


def test_relative_pose_error_ignores_scale_and_minds_the_sign():
    truth = rigid([0, 20, 0], [1, 0, 0.2])
    scaled = truth.copy()
    scaled[:3, 3] *= 7
    error = relative_pose_error(scaled, truth)
    assert error.rotation_deg == pytest.approx(0, abs=1e-11)
    assert error.direction_deg == pytest.approx(0, abs=1e-6)
    flipped = truth.copy()
    flipped[:3, 3] *= -1
    assert relative_pose_error(flipped, truth).direction_deg == pytest.approx(180)
    assert relative_pose_error(flipped, truth, fold_sign=True).combined_deg < 1e-6


@pytest.mark.parametrize(
    "estimate",
    [None, np.full((4, 4), np.nan), np.diag([1.0, 1, -1, 1]), 2 * np.eye(4), np.eye(3)],
)
def test_what_is_no_pose_is_a_failure(estimate):
    assert not is_rigid(estimate)
    assert relative_pose_error(estimate, np.eye(4)) == PoseError(float("inf"), float("inf"))


def test_a_short_true_baseline_scores_the_rotation_only():
    error = relative_pose_error(rigid([0, 3, 0], [1, 0, 0]), np.eye(4))
    assert np.isnan(error.direction_deg)
    assert error.combined_deg == pytest.approx(3)


def test_auc_by_hand():
    assert pose_auc([0.0, 0.0])[5.0] == 1
    assert pose_auc([np.inf] * 3)[20.0] == 0
    assert pose_auc([7.0])[5.0] == 0
    # One pair at 2 of 4: the curve rises from (0, 0) to (2, 1/2) and stays there up to 4:
    # 0.5 + 1 of 4.
    assert pose_auc([2.0, np.inf], [4])[4.0] == pytest.approx(1.5 / 4)
    # Two pairs at 1 and 3: (0,0) (1,.5) (3,1) (4,1): 0.25 + 1.5 + 1 of 4.
    assert pose_auc([3.0, 1.0], [4])[4.0] == pytest.approx(2.75 / 4)
    assert np.isnan(pose_auc([])[5.0])


def test_auc_refuses_nan():
    with pytest.raises(ValueError, match="give inf for a failed pair"):
        pose_auc([1.0, np.nan])


def test_auc_falls_when_an_error_grows():
    errors = np.random.default_rng(0).uniform(0, 30, 40)
    worse = errors.copy()
    worse[3] += 5
    assert pose_auc(worse)[20.0] <= pose_auc(errors)[20.0]


def test_mean_average_accuracy():
    assert mean_average_accuracy([0.5]) == 1
    assert mean_average_accuracy([15.5]) == 0.5
    assert mean_average_accuracy([np.inf]) == 0
    assert np.isnan(mean_average_accuracy([]))


def test_summary_counts_failures():
    summary = summarise_pose_errors(
        [PoseError(1.0, 2.0), PoseError(16.0, np.nan), PoseError(np.inf, np.inf)]
    )
    assert (summary.pairs, summary.failed) == (3, 1)
    assert summary.rotation_accuracy_15 == pytest.approx(1 / 3)
    assert summary.direction_accuracy_15 == pytest.approx(1 / 2)
    assert summary.median_rotation_deg == 16
    assert summary.median_direction_deg == np.inf


def test_trajectory_error_is_blind_to_a_similarity():
    truth = arc_of_cameras()
    rotation = Rotation.from_rotvec([0.3, 1.0, -0.5]).as_matrix()
    estimated = {}
    for name, cam_from_world in truth.items():
        world_from_cam = rigid_inverse_array(cam_from_world)
        moved = np.eye(4)
        moved[:3, :3] = rotation @ world_from_cam[:3, :3]
        moved[:3, 3] = 0.4 * rotation @ world_from_cam[:3, 3] + [5, -3, 2]
        estimated[name] = rigid_inverse_array(moved)
    error = trajectory_error(estimated, truth)
    assert (error.images, error.registered) == (7, 7)
    assert error.rmse < 1e-12
    assert error.scale == pytest.approx(2.5)
    assert error.median_rotation_deg < 1e-10
    pairs = all_pair_errors(estimated, truth)
    assert len(pairs) == 21
    assert max(pair.combined_deg for pair in pairs.values()) < 1e-6


def test_unregistered_images_fail_their_pairs():
    truth = arc_of_cameras()
    estimated = {name: pose if int(name) < 4 else None for name, pose in truth.items()}
    errors = [pair.combined_deg for pair in all_pair_errors(estimated, truth).values()]
    assert np.isinf(errors).sum() == 21 - 6
    assert trajectory_error(estimated, truth).registered == 4
    assert np.isnan(trajectory_error({"0": truth["0"]}, truth).rmse)


def test_fit_similarity_never_reflects():
    points = np.random.default_rng(1).normal(size=(40, 3))
    _, rotation, _ = fit_similarity(points, points * [1, 1, -1])
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_focal_error():
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    assert relative_focal_error(K, K) == 0
    assert relative_focal_error(np.diag([1.1, 1.1, 1]) @ K, K) == pytest.approx(0.1)


def test_bootstrap_intervals_hold_the_statistic_and_repeat():
    groups = [np.random.default_rng(2).uniform(0, 10, 30), np.random.default_rng(3).normal(5, 1, 9)]
    (interval,) = bootstrap_intervals(groups, np.mean, resamples=300)
    assert interval.low < np.mean([group.mean() for group in groups]) < interval.high
    assert [interval] == bootstrap_intervals(groups, np.mean, resamples=300)
    (wider,) = bootstrap_intervals(groups, np.mean, resamples=300, level=0.99)
    assert wider.low <= interval.low and wider.high >= interval.high
    (constant,) = bootstrap_intervals([np.full(5, 2.0)], np.mean, resamples=20)
    assert (constant.low, constant.high) == (2.0, 2.0)
    assert np.isnan(bootstrap_intervals([], np.mean)[0].low)


def test_bootstrap_of_several_statistics_draws_them_together():
    values = np.random.default_rng(5).normal(size=(40, 2))
    both = bootstrap_intervals([values], lambda rows: rows.mean(axis=0), resamples=200)
    for column, interval in enumerate(both):
        (alone,) = bootstrap_intervals([values[:, column]], np.mean, resamples=200)
        # a mean along an axis adds in another order: equal up to rounding
        assert (interval.low, interval.high) == pytest.approx((alone.low, alone.high))


def test_bootstrap_refuses_a_wrong_level():
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_intervals([np.ones(3)], np.mean, level=95)


def test_pose_metrics_agree_with_evalkit(evalkit):
    generator = np.random.default_rng(7)
    errors = np.concatenate([generator.exponential(8, 60), [np.inf] * 5])
    theirs = evalkit.pose.auc(errors, (5, 10, 20))
    assert pose_auc(errors) == pytest.approx({t: theirs[f"auc@{t:g}"] for t in (5.0, 10.0, 20.0)})
    assert mean_average_accuracy(errors) == pytest.approx(
        evalkit.pose.mean_average_accuracy(errors)
    )
    truth = arc_of_cameras(9, seed=4)
    estimated: dict[str, np.ndarray | None] = {
        name: rigid(generator.normal(size=3) * 4, generator.normal(size=3) * 0.05) @ pose
        for name, pose in truth.items()
    }
    estimated["3"] = None
    rotations, directions, keys = evalkit.pose.pairs_from_poses(estimated, truth)
    ours = all_pair_errors(estimated, truth)
    assert list(ours) == keys
    assert [e.rotation_deg for e in ours.values()] == pytest.approx(rotations)
    assert [e.direction_deg for e in ours.values()] == pytest.approx(directions)
    theirs, mine = evalkit.pose.ate(estimated, truth), trajectory_error(estimated, truth)
    assert (mine.images, mine.registered) == (theirs["images"], theirs["registered"])
    assert mine.rmse == pytest.approx(theirs["ate_rmse"])
    assert mine.relative == pytest.approx(theirs["ate_rel"])
    assert mine.scale == pytest.approx(theirs["scale"])
    assert mine.median_rotation_deg == pytest.approx(theirs["ate_rot_median"])
