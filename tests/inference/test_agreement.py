"""How much of the matches fits the cameras found from all of them."""

from __future__ import annotations

import numpy as np
import pytest

from weav3r.geometry.camera import Camera
from weav3r.inference.agreement import (
    agreeing_share,
    epipolar_error_px,
    number_of_surest,
    surest_agreeing,
)

K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])


def camera(x: float, turn_deg: float = 0.0) -> Camera:
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = -pose[:3, :3] @ [x, 0, 0]
    return Camera(K, pose, 480, 640)


def seen(cameras: list[Camera], i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """100 points in front of two cameras."""
    points = np.random.default_rng(0).uniform((-1, -1, 4), (2, 1, 8), (100, 3))
    return cameras[i].project(points)[0], cameras[j].project(points)[0]


@pytest.fixture
def cameras() -> list[Camera]:
    return [camera(0), camera(0.5, 3), camera(1, -4)]


def test_right_cameras_explain_everything(cameras) -> None:
    matches = {pair: seen(cameras, *pair) for pair in ((0, 1), (0, 2), (1, 2))}
    assert agreeing_share(matches, [dict(enumerate(cameras))], 1.0) == 1
    error = epipolar_error_px(cameras[0], cameras[1], *matches[(0, 1)])
    assert error.max() < 1e-9
    xy1, xy2 = matches[(0, 1)]
    shifted = epipolar_error_px(cameras[0], cameras[1], xy1, xy2 + [0, 4])
    assert np.median(shifted) == pytest.approx(4 / np.sqrt(2), rel=0.1)  # shared by both photos


def test_a_wrong_camera_disagrees(cameras) -> None:
    matches = {pair: seen(cameras, *pair) for pair in ((0, 1), (0, 2), (1, 2))}
    wrong = {0: cameras[0], 1: cameras[1], 2: camera(1, 60)}
    assert agreeing_share(matches, [wrong], 1.0) < 0.5
    behind = {0: cameras[0], 1: camera(-0.5, 3)}  # the same lines, met behind the cameras
    assert agreeing_share({(0, 1): matches[(0, 1)]}, [behind], 5.0) < 0.2


def test_models_apart_and_photos_without_camera(cameras) -> None:
    matches = {pair: seen(cameras, *pair) for pair in ((0, 1), (0, 2))}
    apart = [{0: cameras[0], 1: cameras[1]}, {2: cameras[2]}]
    assert agreeing_share(matches, apart, 1.0) == 0.5
    assert agreeing_share(matches, apart[:1], 1.0) == 1
    assert agreeing_share(matches, [], 1.0) == 1


def test_the_surest_are_a_tenth_but_enough_to_ask() -> None:
    assert [number_of_surest(n) for n in (0, 5, 100, 3000)] == [0, 5, 20, 300]
    inliers = np.arange(40, dtype=np.float32).reshape(10, 4)
    surest = np.concatenate([inliers[:3], inliers[:1] + 0.5])
    assert surest_agreeing(surest, inliers) == 0.75
    assert surest_agreeing(surest, inliers[:0]) == 0
    assert surest_agreeing(surest[:0], inliers) == 1
