"""Depth metrics: alignments, missing pixels, and agreement with an independent kit."""

import numpy as np
import pytest

from weav3r.evaluation.depth_metrics import depth_error, resize_nearest, sample_depth

TRUTH = np.random.default_rng(0).uniform(1, 10, 2000)


@pytest.mark.parametrize("alignment", ["median", "scale", "scale_shift"])
def test_a_scale_is_aligned_away(alignment):
    error = depth_error(0.2 * TRUTH, TRUTH, alignment)
    assert error is not None
    assert error.abs_rel == pytest.approx(0, abs=1e-12) and error.delta_1 == 1
    assert error.rmse_log == pytest.approx(0, abs=1e-12)


def test_without_alignment_the_scale_counts():
    error = depth_error(2 * TRUTH, TRUTH, "none")
    assert error is not None
    assert (error.abs_rel, error.delta_1) == (pytest.approx(1), 0)
    assert error.rmse_log == pytest.approx(np.log(2))


def test_only_scale_and_shift_takes_a_shift_away():
    shifted = 0.5 * TRUTH + 1
    both, scale = depth_error(shifted, TRUTH, "scale_shift"), depth_error(shifted, TRUTH, "scale")
    assert both is not None and both.abs_rel == pytest.approx(0, abs=1e-10)
    assert scale is not None and scale.abs_rel > 0.02
    assert depth_error(np.ones(2000), TRUTH, "scale_shift") == depth_error(
        np.ones(2000), TRUTH, "scale"
    )


def test_leaving_pixels_out_gains_nothing():
    holes = TRUTH.copy()
    holes[:500] = [np.nan, 0, -1, np.inf, np.nan] * 100
    error = depth_error(holes, TRUTH)
    assert error is not None
    assert error.missing == 0.25 and error.delta_1 == 0.75
    assert error.abs_rel == pytest.approx(0.25, abs=0.01)
    nothing = depth_error(np.full(2000, np.nan), TRUTH)
    assert nothing is not None and (nothing.abs_rel, nothing.delta_1) == (1, 0)


def test_too_little_truth_is_none():
    truth = np.where(np.arange(2000) < 19, TRUTH, 0)
    assert depth_error(TRUTH, truth) is None


def test_errors_of_the_caller():
    with pytest.raises(ValueError, match="one shape"):
        depth_error(TRUTH[:5], TRUTH)
    with pytest.raises(ValueError, match="alignment must be"):
        depth_error(TRUTH, TRUTH, "best")  # type: ignore[arg-type]


def test_sampling_is_exact_on_a_ramp_and_careful_at_holes():
    rows, columns = np.mgrid[:6, :8]
    ramp = 1.0 + 2 * (columns + 0.5) + 3 * (rows + 0.5)
    xy = np.random.default_rng(1).uniform(0.5, [7.5, 5.5], (50, 2))
    assert sample_depth(ramp, xy) == pytest.approx(1 + 2 * xy[:, 0] + 3 * xy[:, 1])
    ramp[:, 4:] = np.nan
    ramp[0, 0] = 0
    assert sample_depth(ramp, np.array([[3.9, 3.0]]))[0] == pytest.approx(ramp[2:4, 3].mean())
    assert np.isnan(sample_depth(ramp, np.array([[4.6, 3.0], [0.0, 0.0]]))).all()


def test_resize_nearest():
    depth = np.array([[1.0, 2], [3, 4]])
    assert resize_nearest(depth, (2, 2)) is depth
    assert resize_nearest(depth, (4, 2)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]


@pytest.mark.parametrize("alignment", ["none", "median", "scale", "scale_shift"])
def test_depth_metrics_agree_with_evalkit(evalkit, alignment):
    generator = np.random.default_rng(3)
    depth = TRUTH * generator.lognormal(0, 0.3, 2000) * 0.7 - 0.4
    depth[generator.random(2000) < 0.1] = np.nan
    truth = np.where(generator.random(2000) < 0.2, 0, TRUTH)
    ours, theirs = (
        depth_error(depth, truth, alignment),
        evalkit.depth.metrics(depth, truth, alignment),
    )
    assert ours is not None
    assert ours.pixels == theirs["pixels"] and ours.missing == pytest.approx(theirs["missing"])
    assert ours.abs_rel == pytest.approx(theirs["absrel"])
    assert ours.delta_1 == pytest.approx(theirs["d1"])
    assert ours.rmse_log == pytest.approx(theirs["rmse_log"])


def test_sampling_agrees_with_evalkit(evalkit):
    generator = np.random.default_rng(4)
    depth = generator.uniform(-1, 5, (30, 40))
    xy = generator.uniform([-1, -1], [41, 31], (200, 2))
    theirs = evalkit.depth.sample_bilinear(np.where(depth > 0, depth, np.nan), xy - 0.5, (40, 30))
    np.testing.assert_allclose(sample_depth(depth, xy), theirs)
    assert np.array_equal(
        resize_nearest(depth, (17, 55)), evalkit.depth.resize_nearest(depth, (17, 55))
    )
