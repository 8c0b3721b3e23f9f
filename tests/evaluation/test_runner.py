"""The two-view runner on tiny sets with methods whose result is known."""

import csv
import json
import re

import numpy as np
import pytest

from weav3r.evaluation.match_metrics import PairMatches
from weav3r.evaluation.records import ALL_SETS, PairSettings
from weav3r.evaluation.runner import RobustPose, evaluate_pairs, robust_relative_pose
from weav3r.geometry.camera import Camera

QUICK = PairSettings(bootstrap_resamples=20)


class ShiftMethod:
    """Returns the true matches of both tiny sets (12 pixels to the left), or of anything."""

    description = {"shift": 12, "weights_sha256": "abc"}

    def __call__(self, path1, path2):
        grid = np.stack(np.meshgrid(np.arange(15.5, 120, 7), np.arange(12.5, 90, 6)), -1)
        xy1 = grid.reshape(-1, 2)
        if path2.name == "c.png":
            xy1 = xy1[:3]
        return PairMatches(xy1, xy1 - [12.0, 0], None)


def nothing(path1, path2):
    return PairMatches(np.zeros((0, 2)), np.zeros((0, 2)))


def broken(path1, path2):
    raise RuntimeError("out of luck")


def misshapen(path1, path2):
    return PairMatches(np.zeros((3, 2)), np.zeros((4, 2)))


def not_finite(path1, path2):
    return PairMatches(np.full((3, 2), np.nan), np.zeros((3, 2)))


def true_pose(xy1, xy2, K1, K2, size1, size2, max_error_px):
    transform = np.eye(4)
    transform[0, 3] = -1
    return RobustPose(transform if len(xy1) > 5 else None, np.ones(len(xy1), bool))


def by_group(report, group):
    return {s.method: s for s in (*report.sets, *report.overall, *report.bands) if s.group == group}


def test_true_matches_score_one_and_failures_zero(eval_root):
    seen = []
    report = evaluate_pairs(
        eval_root,
        ["wall", "strip"],
        {"true": ShiftMethod(), "empty": nothing},
        QUICK,
        estimator=true_pose,
        progress=seen.append,
    )
    assert [(p.done, p.total) for p in seen] == [(i, 6) for i in range(6)]
    wall = by_group(report, "wall")
    assert wall["true"].pose is not None and wall["true"].pose.auc[5.0] == 1
    assert wall["true"].pairs == 1
    for kind in ("epipolar", "depth", "homography", "epipolar_inliers"):
        assert wall["true"].precision[kind].precision[1.0] == 1, kind
    strip = by_group(report, "strip")
    assert strip["true"].pose is None
    assert strip["true"].precision["disparity"].precision[1.0] == 1
    assert strip["true"].precision["disparity"].coverage > 0.3
    assert wall["empty"].pose is not None and wall["empty"].pose.auc[20.0] == 0
    assert wall["empty"].pose.failed == 1
    assert wall["empty"].precision["depth"].precision[5.0] == 0
    negatives = wall["true"].negatives
    assert negatives is not None and (negatives.pairs, negatives.mean_matches) == (1, 3)
    overall = by_group(report, ALL_SETS)
    assert overall["true"].pose is not None and overall["true"].pose.auc[5.0] == 1
    assert overall["true"].auc_intervals[5.0].low == 1
    assert by_group(report, "high")["true"].pairs == 1
    (difference,) = report.differences
    assert (difference.method, difference.other) == ("true", "empty")
    assert difference.auc[5.0] == 1 and difference.intervals[20.0].low == 1
    assert "| true - empty | +100.0/+100.0/+100.0 |" in report.to_markdown()


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (broken, "RuntimeError: out of luck"),
        (misshapen, r"xy1 and xy2 of one shape \(N, 2\)"),
        (not_finite, "not finite"),
    ],
)
def test_a_method_that_fails_is_scored_as_failure_and_named(eval_root, caplog, method, text):
    report = evaluate_pairs(eval_root, ["wall"], {"bad": method}, QUICK, estimator=true_pose)
    summary = by_group(report, "wall")["bad"]
    assert summary.errors == 2 and summary.pose is not None and summary.pose.failed == 1
    assert re.search(text, report.records[0].error or "")
    assert "a.png" in caplog.text


def test_nothing_to_do_is_an_error(eval_root):
    with pytest.raises(ValueError, match="methods is empty"):
        evaluate_pairs(eval_root, ["wall"], {})
    with pytest.raises(ValueError, match=r"nothing to evaluate: sets \[\]"):
        evaluate_pairs(eval_root, [], {"a": nothing})
    (eval_root / "sets" / "wall" / "pairs.json").unlink()
    with pytest.raises(ValueError, match=r"of them without pairs: \['wall'\]"):
        evaluate_pairs(eval_root, ["wall"], {"a": nothing})


def test_max_pairs_takes_the_first(eval_root):
    report = evaluate_pairs(eval_root, ["wall"], {"a": nothing}, QUICK, max_pairs=1)
    assert len(report.records) == 1


def scene_matches(size1, size2, seed=0, outliers=0):
    """True matches of a random scene in images of different sizes, and the geometry."""
    generator = np.random.default_rng(seed)
    angle = np.radians(15)
    cam2_from_cam1 = np.eye(4)
    cam2_from_cam1[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)],
    ]  # fmt: skip
    cam2_from_cam1[:3, 3] = [-1.0, 0.1, 0.2]
    cameras = [
        Camera(
            K=np.array([[max(s), 0, s[1] / 2], [0, max(s), s[0] / 2], [0, 0, 1.0]]),
            cam_from_world=pose,
            height=s[0],
            width=s[1],
        )
        for s, pose in ((size1, np.eye(4)), (size2, cam2_from_cam1))
    ]
    points = generator.uniform([-1, -1, 3], [1, 1, 6], (120, 3))
    xy1, xy2 = (camera.project(points)[0] for camera in cameras)
    xy2[:outliers] = generator.uniform(0, min(size2), (outliers, 2))
    return xy1, xy2, cameras[0].K, cameras[1].K, cam2_from_cam1


@pytest.mark.parametrize("size1, size2", [((480, 640), (480, 640)), ((300, 200), (1500, 2000))])
def test_robust_pose_finds_the_true_pose_at_any_size(size1, size2):
    xy1, xy2, K1, K2, truth = scene_matches(size1, size2, outliers=30)
    pose = robust_relative_pose(xy1, xy2, K1, K2, size1, size2, 1.0)
    assert pose.cam2_from_cam1 is not None
    direction = truth[:3, 3] / np.linalg.norm(truth[:3, 3])
    assert np.allclose(pose.cam2_from_cam1[:3, :3], truth[:3, :3], atol=1e-3)
    assert np.allclose(pose.cam2_from_cam1[:3, 3], direction, atol=1e-3)
    assert pose.inliers[30:].all() and pose.inliers[:30].sum() < 10


def test_robust_pose_repeats_and_gives_up_below_five_matches():
    sizes = (480, 640), (480, 640)
    xy1, xy2, K1, K2, _ = scene_matches(*sizes, outliers=60)
    once, twice = (robust_relative_pose(xy1, xy2, K1, K2, *sizes, 1.0) for _ in range(2))
    assert once.cam2_from_cam1 is not None and twice.cam2_from_cam1 is not None
    assert np.array_equal(once.cam2_from_cam1, twice.cam2_from_cam1)
    few = robust_relative_pose(xy1[:4], xy2[:4], K1, K2, *sizes, 1.0)
    assert few.cam2_from_cam1 is None and few.inliers.tolist() == [False] * 4


def test_a_doubted_pose_is_scored_without_inliers():
    sizes = (480, 640), (480, 640)
    xy1, xy2, K1, K2, _ = scene_matches(*sizes, outliers=60)
    doubted = robust_relative_pose(xy1[:60], xy2[:60], K1, K2, *sizes, 1.0)  # all wrong
    assert doubted.cam2_from_cam1 is not None and not doubted.inliers.any()


def test_report_files_say_everything(eval_root, tmp_path):
    report = evaluate_pairs(
        eval_root,
        ["wall", "strip"],
        {"true": ShiftMethod(), "bad": broken},
        QUICK,
        estimator=true_pose,
    )
    json_path, markdown_path, csv_path = report.write(tmp_path / "out")
    content = json.loads(json_path.read_text())
    assert content["data_sha256"]["wall/images/a.png"] == report.data_sha256["wall/images/a.png"]
    assert content["methods"]["true"]["weights_sha256"] == "abc"
    assert content["environment"]["packages"]["pycolmap"]
    assert content["settings"]["seed"] == 0
    assert content["records"][0]["precision"]["depth"]["precision"]["3"] == 1
    bad = [r for r in content["records"] if r["method"] == "bad"]
    assert bad[0]["pose_error"]["rotation_deg"] == "inf"
    markdown = markdown_path.read_text()
    assert "| wall | true | 1 | 100.0/100.0/100.0 |" in markdown
    assert "## Negative pairs" in markdown and "weights_sha256 abc" in markdown
    assert "| strip | true | disparity | 1.00/1.00/1.00 |" in markdown
    with open(csv_path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0]["depth_precision@3"] == "1.0" and rows[0]["error_deg"] != ""
    assert "out of luck" in rows[-1]["error"]


def test_intervals_can_be_switched_off(eval_root):
    settings = PairSettings(bootstrap_resamples=0)
    report = evaluate_pairs(
        eval_root, ["wall"], {"true": ShiftMethod()}, settings, estimator=true_pose
    )
    assert by_group(report, "wall")["true"].auc_intervals == {}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the kit leaves files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_records_agree_with_evalkit(evalkit, eval_root, tmp_path):
    """evalkit, given our matches and poses as a prediction, comes to the same numbers."""

    def noisy(path1, path2):
        generator = np.random.default_rng(len(path2.name))
        xy1 = generator.uniform(10, 90, (60, 2))
        return PairMatches(xy1, xy1 - [12, 0] + generator.normal(0, 0.6, (60, 2)))

    report = evaluate_pairs(
        eval_root, ["wall", "strip"], {"noisy": noisy}, QUICK, predictions=tmp_path
    )
    for set_name in ("wall", "strip"):
        theirs = evalkit.evaluate.eval_scene(
            str(eval_root / "sets"), {"name": set_name, "set": set_name}, str(tmp_path / "noisy")
        )["pairs"]["all"]
        ours = by_group(report, set_name)["noisy"]
        if ours.pose is not None:
            for threshold, value in ours.pose.auc.items():
                assert value == pytest.approx(theirs["pose"][f"auc@{threshold:g}"])
        for kind, key in (
            ("epipolar", "epi"),
            ("depth",) * 2,
            ("homography",) * 2,
            ("disparity",) * 2,
        ):
            assert (kind in ours.precision) == (key in theirs)
            if kind in ours.precision:
                for threshold, value in ours.precision[kind].precision.items():
                    assert value == pytest.approx(theirs[key][f"{key}_precision@{threshold:g}"])
