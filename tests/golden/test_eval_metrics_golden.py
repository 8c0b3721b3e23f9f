"""Pose and localisation metrics against the reference's numbers."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from weav3r.evaluation.localization import localization_error, summarise_localization
from weav3r.evaluation.pose_metrics import mean_average_accuracy, relative_pose_error

REFERENCE_THRESHOLDS = ((0.1, 1.0), (0.25, 2.0), (0.5, 5.0), (5.0, 10.0))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "eval_metrics.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def test_localisation_errors_and_the_summary_line(golden: dict[str, np.ndarray]) -> None:
    errors = [
        localization_error(np.linalg.inv(estimate), np.linalg.inv(truth))
        for estimate, truth in zip(golden["pr_cam2w"], golden["gt_cam2w"], strict=True)
    ]
    np.testing.assert_allclose([e.position for e in errors], golden["trans_err"], rtol=1e-9)
    np.testing.assert_allclose([e.rotation_deg for e in errors], golden["rot_err_deg"], rtol=1e-6)
    line = summarise_localization(errors, REFERENCE_THRESHOLDS).line("demo")
    expected = re.sub(r"np\.float64\(([^)]*)\)", r"\1", str(golden["visloc_summary"]))
    # Medians are printed with all their digits, the last ones of which depend on the order of sums.
    ours, theirs = (re.split(r"(\d+\.\d+)", text.strip()) for text in (line, expected))
    assert ours[::2] == theirs[::2]
    np.testing.assert_allclose(
        [float(x) for x in ours[1::2]], [float(x) for x in theirs[1::2]], rtol=1e-9
    )


def test_relative_errors_of_all_pairs_and_their_auc(golden: dict[str, np.ndarray]) -> None:
    """The reference compares the direction to camera j in camera i's frame, folds its sign, and
    averages over whole degrees."""
    estimated, truth = (np.linalg.inv(golden[key]) for key in ("pr_cam2w", "gt_cam2w"))
    errors = [
        relative_pose_error(
            estimated[i] @ np.linalg.inv(estimated[j]),
            truth[i] @ np.linalg.inv(truth[j]),
            fold_sign=True,
        )
        for i, j in itertools.combinations(range(len(truth)), 2)
    ]
    np.testing.assert_allclose([e.rotation_deg for e in errors], golden["rel_rot_deg"], rtol=1e-4)
    np.testing.assert_allclose(
        [e.direction_deg for e in errors], golden["rel_trans_deg"], rtol=1e-4
    )
    combined = [e.combined_deg for e in errors]
    for degrees in (5, 10, 30):
        area = mean_average_accuracy(combined, degrees)
        assert area == pytest.approx(float(golden[f"auc{degrees}"]), rel=1e-9)
