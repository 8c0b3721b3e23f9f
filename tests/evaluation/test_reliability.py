"""Calibration: samples against the truth, the fit, the diagram and the report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weav3r.evaluation.error_fit import fit_table, monotone, scene_weights
from weav3r.evaluation.error_samples import (
    ErrorSamples,
    TrueScene,
    collect_errors,
    procedural_scenes,
    sample_errors,
    set_scenes,
)
from weav3r.evaluation.readers import SparseDepth
from weav3r.evaluation.reliability import (
    FITTED,
    HELD_OUT,
    ReliabilityReport,
    fit_calibration,
    measure_reliability,
    reliability,
    reliability_groups,
)
from weav3r.evaluation.reliability_page import reliability_page
from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.scene import Scene, SceneView
from weav3r.models.config import ModelConfig
from weav3r.models.two_view import TwoViewModel

HEIGHT, WIDTH = 48, 64


def drawn(count: int = 6000, scenes: int = 6, seed: int = 0) -> ErrorSamples:
    """Pixels whose median error is 0.8 step^0.5 / confidence."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(1, 10, count)
    step = np.exp(rng.uniform(np.log(0.005), np.log(0.5), count))
    error = rng.exponential(0.8 / np.log(2) * step**0.5 / confidence)
    return ErrorSamples(
        *(values.astype(np.float32) for values in (confidence, step, error)),
        scene=(np.arange(count) % scenes).astype(np.int32),
        scenes=tuple(f"scene {k}" for k in range(scenes)),
    )


def true_scene(scale: float = 1.0) -> tuple[Scene, TrueScene, np.ndarray]:
    """Two photos of a slanted surface; the depth of the left half is 10 % too large."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    truth = (4 + 0.02 * columns + 0.01 * rows).astype(np.float32)
    wrong = np.where(columns < WIDTH // 2 - 2, 1.1, 1.0)
    views = []
    for k in range(2):
        pose = np.eye(4)
        pose[0, 3] = -0.4 * k
        K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
        views.append(
            SceneView(
                name=f"{k}.png",
                path=None,
                ledger=Ledger.from_file_size(HEIGHT, WIDTH),
                camera=Camera(K, pose, HEIGHT, WIDTH),
                rgb=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
                depth=(scale * truth * wrong).astype(np.float32),
                confidence=(1 + columns / WIDTH).astype(np.float32),
            )
        )
    return Scene(views=views), TrueScene("plane", [], [truth, truth]), truth


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_errors_are_measured_after_one_factor(scale):
    scene, truth, _ = true_scene(scale)
    samples = sample_errors(scene, truth, pixels_per_photo=500)
    assert len(samples) == 1000 and samples.scenes == ("plane",)
    left = samples.confidence < 1.4
    np.testing.assert_allclose(samples.error[left], 0.1, atol=1e-4)
    np.testing.assert_allclose(samples.error[~left & (samples.confidence > 1.5)], 0, atol=1e-4)
    assert (samples.depth_step > 0).all()


def test_single_points_are_a_truth_too():
    scene, truth, depth = true_scene()
    xy = np.random.default_rng(0).uniform(2, [WIDTH - 2, HEIGHT - 2], (60, 2))
    known = 4 + 0.02 * (xy[:, 0] - 0.5) + 0.01 * (xy[:, 1] - 0.5)
    points = replace(truth, depths=[SparseDepth(xy, known), None])
    samples = sample_errors(scene, points)
    assert len(samples) == 60
    right = samples.confidence > 1.5
    np.testing.assert_allclose(samples.error[right], 0, atol=1e-3)


def test_groups_have_factors_of_their_own_and_small_ones_are_left_out():
    scene, truth, _ = true_scene()
    larger = replace(scene.views[1], depth=3 * scene.views[1].depth)
    apart = replace(scene, views=[scene.views[0], larger], components=[[0], [1]])
    assert sample_errors(apart, truth).error.max() < 0.12
    few = replace(truth, depths=[np.zeros((HEIGHT, WIDTH), np.float32)] * 2)
    assert len(sample_errors(scene, few)) == 0


def test_joined_samples_keep_their_scenes():
    joined = ErrorSamples.joined([drawn(60, 2), drawn(30, 3)])
    assert len(joined) == 90 and len(joined.scenes) == 5
    assert joined.scene.min() == 0 and joined.scene.max() == 4
    weight = scene_weights(joined)
    np.testing.assert_allclose(np.bincount(joined.scene, weight), 0.2)
    assert len(ErrorSamples.joined([])) == 0


def test_the_fit_finds_the_law_of_the_errors():
    table = fit_table(drawn(60_000))
    fresh = drawn(20_000, seed=1)
    predicted = table(fresh.confidence, fresh.depth_step)
    law = 0.8 * fresh.depth_step**0.5 / fresh.confidence
    assert np.median(np.abs(np.log(predicted / law))) < 0.25
    assert reliability(predicted, fresh).calibration_error < 0.01


def test_a_fitted_table_is_monotone_even_where_the_data_are_not():
    samples = drawn(4000)
    odd = replace(samples, error=samples.error[::-1].copy())
    table = fit_table(odd)
    assert (np.diff(table.error, axis=1) <= 1e-9).all()
    assert (np.diff(table.error, axis=0) >= -1e-9).all()


def test_equal_confidences_make_one_cell():
    samples = replace(drawn(4000), confidence=np.ones(4000, np.float32))
    table = fit_table(samples)
    assert table.confidence.tolist() == [1.0]


def test_too_few_pixels_are_refused():
    with pytest.raises(ValueError, match="needs at least 1000 pixels with a true depth, got 60"):
        fit_table(drawn(60))
    with pytest.raises(ValueError, match="no pixel with an estimate"):
        reliability(np.zeros(0), drawn(0, 1))


def test_monotone_tables():
    already = np.array([[0.3, 0.2], [0.5, 0.2]])
    np.testing.assert_allclose(monotone(already, np.ones((2, 2))), already, atol=1e-9)
    # by hand: one row that rises is its mean, everywhere
    np.testing.assert_allclose(monotone(np.array([[0.1, 0.3]]), np.ones((1, 2))), 0.2)


def test_reliability_by_hand():
    samples = ErrorSamples(
        confidence=np.ones(4, np.float32),
        depth_step=np.ones(4, np.float32),
        error=np.array([0.01, 0.03, 0.2, 5.0], np.float32),
        scene=np.zeros(4, np.int32),
        scenes=("one",),
    )
    found = reliability(np.array([0.02, 0.02, 0.4, 0.4]), samples, bins=2)
    assert [b.pixels for b in found.bins] == [2, 2]
    assert [b.observed for b in found.bins] == pytest.approx([0.01, 0.2])  # lower medians
    assert found.bins[1].mean == pytest.approx(0.6)  # 5.0 is cut at 1
    assert found.calibration_error == pytest.approx((0.01 + 0.2) / 2)
    assert found.covered == pytest.approx(0.5)
    assert found.within == (1.0, 0.5)


def test_report_and_page(tmp_path):
    fitting, other = {"sweep": drawn(4000, 8)}, {"sweep": drawn(3000, seed=2)}
    calibration = fit_calibration(fitting, {"note": "<made up>"})
    assert calibration.fitted_on == {"note": "<made up>", "scenes": {"sweep": 8}}
    groups = reliability_groups({FITTED: fitting, HELD_OUT: other}, calibration)
    assert [group.name for group in groups] == [FITTED, HELD_OUT]
    held = groups[1]
    assert held.after is not None
    assert held.after.rank_correlation > held.before.rank_correlation
    report = ReliabilityReport("<b>net", groups, {"seed": 1}, calibration, True)
    paths = report.write(tmp_path / "out")
    data = json.loads(paths[0].read_text())
    assert data["groups"][1]["after"]["calibration_error"] == held.after.calibration_error
    page = paths[1].read_text()
    assert "&lt;b&gt;net" in page and "<b>net" not in page and page.count("<svg") == 2
    assert "not calibrated" in reliability_page(
        replace(report, groups=reliability_groups({HELD_OUT: other}, None), calibration=None)
    )
    assert f"calibration error {held.before.calibration_error:.3f} as it is" in report.summary()
    with pytest.raises(ValueError, match="no scene with a true depth"):
        reliability_groups({HELD_OUT: {}}, None)


def test_a_road_with_few_scenes_stays_uncalibrated(caplog):
    fitted = fit_calibration({"sweep": drawn(4000, 8), "single": drawn(4000, 7)}, {})
    assert list(fitted.roads) == ["sweep"] and "fewer than 8 scenes: single" in caplog.text
    with pytest.raises(ValueError, match="needs 8 scenes that could be reconstructed, got 7"):
        fit_calibration({"single": drawn(4000, 7)}, {})


def test_procedural_scenes_do_not_depend_on_where_one_starts():
    first, second = list(procedural_scenes(2))
    assert len(first.photos) == len(first.depths) == 2
    (again,) = procedural_scenes(1, first=1)
    assert second.name == again.name == "procedural-1"
    pixels = second.photos[0]
    assert isinstance(pixels, np.ndarray)
    np.testing.assert_array_equal(pixels, again.photos[0])
    assert pixels.shape == (384, 512, 3) and pixels.dtype == np.uint8


def test_sets_give_neighbours_with_their_truth(eval_root):
    (wall,) = set_scenes(eval_root, max_photos=2)
    assert wall.name == "wall" and [Path(str(p)).name for p in wall.photos] == ["a.png", "b.png"]
    assert isinstance(wall.depths[0], np.ndarray)
    with pytest.raises(ValueError, match="set strip has no true depth"):
        list(set_scenes(eval_root, ["strip"]))


TINY = ModelConfig(
    name="tiny",
    image_size=(32, 48),
    encoder_dim=24,
    encoder_depth=1,
    encoder_heads=2,
    decoder_dim=24,
    decoder_depth=2,
    decoder_heads=2,
    point_mode="ray",
)


def test_an_untrained_network_goes_the_whole_way(eval_root):
    model = TwoViewModel(TINY).eval()
    report = measure_reliability(model, eval_root, held_out=0, max_photos=2, size=48)
    assert report.calibration is None and not report.fitted
    assert {group.road for group in report.groups} == {"pointmaps", "single"}
    assert all(group.after is None for group in report.groups)
    with pytest.raises(ValueError, match="nothing to measure"):
        measure_reliability(model, held_out=0)


def test_a_scene_that_fails_is_left_out(tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "small.png")
    truth = TrueScene("bad", [broken, broken], [None, None])
    lone = TrueScene("lone", [tmp_path / "small.png"], [None])
    found = collect_errors([truth, lone], TwoViewModel(TINY).eval(), ["pointmaps"], size=48)
    assert len(found["pointmaps"]) == 0
    assert "bad by pointmaps" in caplog.text
