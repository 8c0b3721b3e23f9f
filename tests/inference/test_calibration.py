"""Expected errors: the table, the depth steps, and what a scene makes of both."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from weav3r.geometry.camera import Camera
from weav3r.inference.calibration import Calibration, ErrorTable, calibration_of, depth_steps
from weav3r.inference.scene import Scene
from weav3r.models.config import PRESETS
from weav3r.models.loading import empty_model

K = np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]])


def table() -> ErrorTable:
    return ErrorTable(
        confidence=np.array([1.0, 4.0]),
        depth_step=np.array([0.01, 0.1]),
        error=np.array([[0.2, 0.1], [0.6, 0.3]]),
    )


def calibration() -> Calibration:
    return Calibration({"sweep": table()}, {"scenes": 3})


def camera_at(
    x: float, y: float = 0.0, z: float = 0.0, height: int = 48, width: int = 64
) -> Camera:
    pose = np.eye(4)
    pose[:3, 3] = [-x, -y, -z]
    return Camera(K=K, cam_from_world=pose, height=height, width=width)


def test_the_table_is_exact_at_its_knots_linear_in_logarithms_and_constant_beyond():
    confidence = np.array([1.0, 4.0, 2.0, 0.5, 9.0, np.nan])
    step = np.array([0.01, 0.1, 0.01, 0.001, 1.0, 0.01])
    found = table()(confidence, step)
    np.testing.assert_allclose(found[:5], [0.2, 0.3, 0.15, 0.2, 0.3])
    assert np.isnan(found[5])
    middle = table()(np.array([2.0]), np.array([np.sqrt(0.001)]))
    np.testing.assert_allclose(middle, 0.3)  # the mean of all four


def test_a_table_of_one_cell_is_a_constant():
    one = ErrorTable(np.array([2.0]), np.array([0.05]), np.array([[0.25]]))
    assert (one(np.array([1.0, 7.0]), np.array([0.001, 1.0])) == 0.25).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": np.array([4.0, 1.0])}, "confidence must be positive and increasing"),
        ({"depth_step": np.array([0.0, 1.0])}, "depth_step must be positive and increasing"),
        ({"error": np.zeros((1, 2))}, r"error must have the shape \(2, 2\)"),
        ({"error": np.full((2, 2), 1.5)}, "lie in 0..1"),
    ],
)
def test_wrong_tables_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(table(), **change)


def test_plain_data_and_back():
    data = json.loads(json.dumps(calibration().to_dict()))
    back = Calibration.from_dict(data)
    np.testing.assert_array_equal(back.roads["sweep"].error, table().error)
    assert back.fitted_on == {"scenes": 3}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "not a calibration: 'version'"),
        ({"version": 99, "roads": {}}, "format 99, this weav3r reads up to 1"),
        ({"version": 1, "roads": {"sweep": {"confidence": [1]}}}, "'depth_step'"),
        ({"version": 1, "roads": []}, "not a calibration"),
    ],
)
def test_other_data_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict(data)


def test_a_step_moves_the_point_by_one_pixel():
    depth = np.full((48, 64), 5.0)
    here, there = camera_at(0.0), camera_at(0.5)
    steps = depth_steps(here, [there], depth)
    pixels = np.array([[40.5, 20.5], [50.5, 30.5]])
    share = steps[[20, 30], [40, 50]].astype(float)
    near, far = (
        there.project(here.unproject(pixels, 5.0 * (1 + sign * share / 2)))[0] for sign in (-1, 1)
    )
    moved = np.linalg.norm(near - far, axis=-1)
    np.testing.assert_allclose(moved, 1.0, atol=0.12)  # the image plane is not a sphere


def test_the_widest_baseline_that_sees_the_point_counts():
    depth = np.full((48, 64), 5.0)
    here, near, far = camera_at(0.0), camera_at(0.1), camera_at(1.0)
    both = depth_steps(here, [near, far], depth)
    alone = depth_steps(here, [near], depth)
    assert both[24, 60] == depth_steps(here, [far], depth)[24, 60] < alone[24, 60] / 5
    assert (both <= alone).all()
    assert both[24, 3] == alone[24, 3]  # the far camera does not see this side


def test_unseen_points_and_missing_depths():
    depth = np.full((48, 64), 5.0)
    depth[0, 0] = np.nan
    behind = camera_at(0.3, z=20.0)
    steps = depth_steps(camera_at(0.0), [behind], depth)
    assert np.isnan(steps[0, 0]) and (steps.reshape(-1)[1:] == 1).all()
    assert np.isnan(depth_steps(camera_at(0.0), [], np.full((2, 2), np.nan))).all()


def test_of_many_photos_the_telling_ones_are_asked():
    depth = np.full((48, 64), 5.0)
    others = [camera_at(0.01 * k) for k in range(1, 12)]
    few, every = (depth_steps(camera_at(0.0), others, depth, limit) for limit in (2, 99))
    assert np.mean(few / every) < 1.05


@pytest.fixture
def calibrated(plane_scene: Scene) -> Scene:
    report = replace(plane_scene.report, settings={"depth": "sweep"})
    return replace(plane_scene, report=report, calibration=calibration())


def test_an_uncalibrated_scene_gives_none_and_refuses_a_largest_error(plane_scene):
    assert plane_scene.expected_error(0) is None
    with pytest.raises(ValueError, match="max_error needs a calibrated checkpoint"):
        plane_scene.masks(consistent=False, max_error=0.1)


def test_a_road_that_was_not_fitted_gives_none(calibrated):
    other = replace(calibrated, report=replace(calibrated.report, settings={"depth": "pointmaps"}))
    assert other.expected_error(0) is None
    apart = replace(calibrated, components=[[0, 1, 2], [3]])
    assert apart.expected_error(3) is None and apart.expected_error(0) is not None


def test_expected_errors_of_a_scene(calibrated):
    error = calibrated.expected_error(1)
    assert error.dtype == np.float32 and error.shape == (48, 64)
    assert (np.isfinite(error) == calibrated.views[1].valid).all()
    known = error[np.isfinite(error)]
    assert 0.1 <= known.min() < known.max() <= 0.6
    assert error[40, 60] < error[40, 8]  # the surer side
    assert calibrated.expected_error(1, original=True).shape == (200, 256)
    scaled = calibrated.scaled(7.0)
    np.testing.assert_allclose(scaled.expected_error(1), error, rtol=1e-4)


def test_points_are_chosen_by_their_error(calibrated):
    masks = calibrated.masks(consistent=False, max_error=0.3)
    assert masks[4] is None  # without a camera
    cloud = calibrated.point_cloud(masks=masks)
    assert 0 < len(cloud) < len(calibrated.point_cloud())
    assert cloud.confidence.min() > 1


def test_npz_keeps_the_calibration_and_the_errors(calibrated, tmp_path):
    path = calibrated.save(tmp_path / "scene.npz")
    back = Scene.load(path)
    np.testing.assert_array_equal(back.expected_error(2), calibrated.expected_error(2))
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["expected_error_00002"], calibrated.expected_error(2))
        assert "expected_error_00004" not in arrays


def test_the_page_tells_the_error(calibrated, tmp_path):
    page = calibrated.save(tmp_path / "a.html").read_text()
    median = np.median(calibrated.expected_error(0)[calibrated.valid(0)])
    assert f"expected error of the depths {median:.1%} (median)" in page
    page = replace(calibrated, calibration=None).save(tmp_path / "b.html").read_text()
    assert "expected error" not in page


def test_what_a_network_knows_about_its_errors(caplog):
    model = empty_model(PRESETS["weav3r-small"])
    assert calibration_of(model) is None
    model.calibration = calibration().to_dict()
    assert calibration_of(model) is not None
    model.calibration = {"version": 1}
    with caplog.at_level(logging.WARNING):
        assert calibration_of(model) is None
    assert "errors are not estimated" in caplog.text
