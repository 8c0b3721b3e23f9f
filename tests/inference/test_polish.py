"""Final polish: bundle adjustment of cameras that came another way."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from weav3r.geometry.camera import Camera
from weav3r.inference.known.values import Known, KnownView, as_known, resolve
from weav3r.inference.polish import polish_cameras
from weav3r.inference.sfm import MatchGraph

_spec = importlib.util.spec_from_file_location(
    "known_world", Path(__file__).with_name("known_world.py")
)
assert _spec is not None and _spec.loader is not None
known_world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(known_world)

COUNT = 4
TRUTH: list[Camera] = known_world.make_cameras(COUNT)
VIEWS = [known_world.make_view(f"{k}") for k in range(COUNT)]


def graph(images: int = COUNT) -> MatchGraph:
    found = MatchGraph(COUNT)
    for i, j in itertools.combinations(range(images), 2):
        found.add(i, j, known_world.make_matches(TRUTH[i], TRUTH[j], seed=i))
        found.add(i, j, known_world.make_matches(TRUTH[j], TRUTH[i], seed=j).swapped())
    return found


def shaken(sigma: float) -> dict[int, Camera]:
    rng = np.random.default_rng(1)
    cameras = {}
    for i, camera in enumerate(TRUTH):
        pose = camera.cam_from_world.copy()
        pose[:3, :3] = Rotation.from_rotvec(rng.normal(0, sigma, 3)).as_matrix() @ pose[:3, :3]
        pose[:3, 3] += rng.normal(0, sigma, 3)
        K = camera.K.copy()
        K[[0, 1], [0, 1]] *= 1 + sigma
        cameras[i] = Camera(K, pose, camera.height, camera.width)
    return cameras


def direction_errors(cameras: dict[int, Camera]) -> float:
    """Largest angle in degrees between relative rotations and the true ones."""
    worst = 0.0
    for i, j in itertools.combinations(sorted(cameras), 2):
        found, truth = (
            c[j].cam_from_world[:3, :3] @ c[i].cam_from_world[:3, :3].T
            for c in (cameras, dict(enumerate(TRUTH)))
        )
        worst = max(worst, np.degrees(Rotation.from_matrix(found @ truth.T).magnitude()))
    return worst


def test_shaken_cameras_come_back() -> None:
    cameras = shaken(0.02)
    assert direction_errors(cameras) > 1
    (model,) = polish_cameras(VIEWS, graph(), cameras, [[0, 1, 2, 3]])
    # 0.4 px of noise at a focal length of 600 px, averaged over hundreds of points
    assert direction_errors(model.cameras) < 0.1
    assert model.cameras[0].K[0, 0] == pytest.approx(known_world.FOCAL, rel=0.01)
    assert len(model.points) > 200 and model.errors_px.mean() < 1
    assert len(model.observations[0][1]) > 200


def test_every_component_is_adjusted_by_itself() -> None:
    models = polish_cameras(VIEWS, graph(), shaken(0.01), [[0, 1], [2, 3]])
    assert [sorted(m.cameras) for m in models] == [[0, 1], [2, 3]]


def test_known_intrinsics_are_held() -> None:
    K = TRUTH[0].K.copy()
    K[[0, 1], [0, 1]] = 610.0
    known = as_known(Known({f"{k}.jpg": KnownView(K=K) for k in range(COUNT)}))
    cameras = {i: Camera(K, c.cam_from_world, c.height, c.width) for i, c in shaken(0.01).items()}
    (model,) = polish_cameras(VIEWS, graph(), cameras, [[0, 1, 2, 3]], given=resolve(known, VIEWS))
    assert all(np.array_equal(c.K, K) for c in model.cameras.values())


def test_a_photo_without_points_is_not_in_its_model() -> None:
    models = polish_cameras(VIEWS, graph(images=3), shaken(0.01), [[0, 1, 2, 3]])
    assert [sorted(m.cameras) for m in models] == [[0, 1, 2]]


def test_without_matches_there_is_no_model() -> None:
    assert polish_cameras(VIEWS, MatchGraph(COUNT), shaken(0.01), [[0, 1, 2, 3]]) == []
