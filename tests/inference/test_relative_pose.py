"""How the camera moved between two photos: doubts, lengths and words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.images import View
from weav3r.inference.matching.descriptors import Matches
from weav3r.inference.relative_pose import describe_pose, pose_of_pair

HEIGHT, WIDTH = 480, 640
K = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])


def make_view(name: str) -> View:
    ledger = Ledger.from_file_size(HEIGHT, WIDTH).resized(HEIGHT // 2, WIDTH // 2)
    return View(name, None, torch.zeros(3, HEIGHT // 2, WIDTH // 2), ledger)


def make_pair(sure_are_wrong: bool = False) -> tuple[Matches, View, View, np.ndarray]:
    """Matches on a curved surface; two metres lie between the cameras."""
    rng = np.random.default_rng(0)
    xy1 = rng.uniform([20, 20], [620, 460], (300, 2))
    depth = 8 + np.sin(xy1[:, 0] / 60) + np.cos(xy1[:, 1] / 45)
    motion = np.eye(4)
    motion[:3, 3] = [-2.0, 0, 0]
    first, second = (Camera(K, pose, HEIGHT, WIDTH) for pose in (np.eye(4), motion))
    xy2 = second.project(first.unproject(xy1, depth))[0]
    if sure_are_wrong:
        xy2[:60] = rng.uniform([0, 0], [640, 480], (60, 2))
    confidence = np.linspace(1, 0.1, 300).astype(np.float32)
    matches = Matches(xy1.astype(np.float32), xy2.astype(np.float32), confidence)
    return matches, make_view("a.jpg"), make_view("b.jpg"), motion


def metric_result() -> Any:
    """Pointmaps of the true depths, as far as the lengths are read from them."""
    y, x = np.mgrid[: HEIGHT // 2, : WIDTH // 2] * 2.0 + 1.0
    depth = torch.from_numpy(8 + np.sin(x / 60) + np.cos(y / 45))
    pointmap = torch.stack([depth, depth, depth], -1)
    view = SimpleNamespace(view1=SimpleNamespace(pointmap=pointmap))
    # Of the second photo the depths are those of the first, moved sideways: right in the median.
    return SimpleNamespace(forward=view, backward=view)


def test_a_metric_checkpoint_gives_the_length() -> None:
    matches, view1, view2, motion = make_pair()
    found = pose_of_pair(matches, view1, view2, K, K, result=metric_result(), metric=True)
    assert found.metric and found.kind == "general"
    np.testing.assert_allclose(found.cam2_from_cam1[:3, 3], motion[:3, 3], atol=0.1)
    assert "2 m" in "\n".join(describe_pose(found, estimated_focal=False))
    unscaled = pose_of_pair(matches, view1, view2, K, K)
    assert not unscaled.metric
    assert np.linalg.norm(unscaled.cam2_from_cam1[:3, 3]) == pytest.approx(1)
    text = "\n".join(describe_pose(unscaled, estimated_focal=False))
    assert "length unknown" in text and "1.00 right" in text and "focal" not in text


def test_a_motion_that_the_surest_matches_deny_is_refused() -> None:
    matches, view1, view2, motion = make_pair(sure_are_wrong=True)
    found = pose_of_pair(matches, view1, view2, K, K)
    assert not found and found.kind == "no_common_motion" and not found.inliers.any()
    assert "of the 30 surest" in found.reason
    np.testing.assert_allclose(found.alternatives[0][:3, 3], motion[:3, 3] / 2, atol=0.05)
    (line,) = describe_pose(found, estimated_focal=True)
    assert line.startswith("no camera motion found (no common motion): ")


def test_a_turn_is_told_in_words() -> None:
    matches, view1, view2, _ = make_pair()
    still = Matches(matches.xy1, matches.xy1, matches.confidence)
    lines = describe_pose(pose_of_pair(still, view1, view2, K, K), estimated_focal=False)
    assert "the camera only turned" in lines[-1] and not any("ahead" in line for line in lines)


@pytest.mark.parametrize(("focal", "zoom"), [("auto", 1.0), ("separate", 1.3)])
def test_unknown_focal_lengths(focal: Any, zoom: float) -> None:
    matches, view1, view2, _ = make_pair()
    centre = np.array([WIDTH / 2, HEIGHT / 2], np.float32)
    zoomed = Matches(matches.xy1, centre + zoom * (matches.xy2 - centre), matches.confidence)
    found = pose_of_pair(zoomed, view1, view2, focal=focal)
    assert found and found.K2[0, 0] / found.K1[0, 0] == pytest.approx(zoom, rel=0.02)
    assert f"{found.K1[0, 0]:.0f}" in describe_pose(found, estimated_focal=True)[-1]


def test_wrong_arguments_are_diagnosed() -> None:
    matches, view1, view2, _ = make_pair()
    with pytest.raises(ValueError, match="both K1 and K2"):
        pose_of_pair(matches, view1, view2, K)
    with pytest.raises(ValueError, match="focal must be"):
        pose_of_pair(matches, view1, view2, focal="any")  # pyright: ignore
