"""Fitting a table of expected errors to pixels whose error is known."""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

from ..inference.calibration import LARGEST_ERROR, ErrorTable
from .error_samples import ErrorSamples, weighted_median

CONFIDENCE_LEVELS, STEP_LEVELS = 16, 6
MIN_SAMPLES = 1000
_EMPTY_WEIGHT = 1e-4  # of all pixels
_SWEEPS = 300
_FINEST = 0.02  # logarithm of the ratio of values that are told apart


def fit_table(
    samples: ErrorSamples,
    confidence_levels: int = CONFIDENCE_LEVELS,
    step_levels: int = STEP_LEVELS,
) -> ErrorTable:
    """Fit the median error over confidence and depth step; every scene counts the same.

    Medians of cells, then the nearest table that falls with the confidence and rises with the
    step, where a cell weighs as much as its pixels. An empty cell starts from its row and column.

    Args:
        samples: of one road.
        confidence_levels, step_levels: cells at most along each axis.

    Raises:
        ValueError: for fewer than 1000 pixels.

    Reference: Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass
    probability estimates", KDD 2002 (isotonic calibration), along two axes.
    """
    if len(samples) < MIN_SAMPLES:
        raise ValueError(
            f"a calibration needs at least {MIN_SAMPLES} pixels with a true depth, got "
            f"{len(samples)}; give more scenes"
        )
    error = np.minimum(samples.error, LARGEST_ERROR).astype(np.float64)
    weight = scene_weights(samples)
    column, confidence = _cells(samples.confidence, weight, confidence_levels)
    row, step = _cells(samples.depth_step, weight, step_levels)
    shape = len(step), len(confidence)
    by_row, by_column = (
        np.array([weighted_median(error[at == k], weight[at == k]) for k in range(count)])
        for at, count in ((row, shape[0]), (column, shape[1]))
    )
    table = np.outer(by_row, by_column) / max(weighted_median(error, weight), 1e-9)
    mass = np.full(shape, _EMPTY_WEIGHT)
    for r, c in np.ndindex(shape):
        inside = (row == r) & (column == c)
        if inside.any():
            table[r, c] = weighted_median(error[inside], weight[inside])
            mass[r, c] += float(weight[inside].sum())
    table = monotone(np.minimum(table, LARGEST_ERROR), mass)
    return ErrorTable(confidence, step, np.clip(table, 0.0, LARGEST_ERROR))


def scene_weights(samples: ErrorSamples) -> np.ndarray:
    """Weight (N,) of each pixel so that all scenes weigh the same and the sum is 1."""
    counts = np.bincount(samples.scene, minlength=len(samples.scenes))
    return 1.0 / (counts[samples.scene] * max(np.count_nonzero(counts), 1))


def _cells(values: np.ndarray, weight: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cell (N,) of each value, and the middle of each cell; the cells have about equal mass.

    A value that many pixels share, such as the lowest confidence, gets a cell of its own.
    """
    values = np.exp(np.round(np.log(values.astype(np.float64)) / _FINEST) * _FINEST)
    order = np.argsort(values, kind="stable")
    ranked, cumulated = values[order], np.cumsum(weight[order])
    levels = np.arange(1, count) / count * cumulated[-1]
    edges = np.unique(ranked[np.minimum(np.searchsorted(cumulated, levels), len(ranked) - 1)])
    cell = np.searchsorted(edges, values, side="left")
    _, cell = np.unique(cell, return_inverse=True)
    parts = [cell == k for k in range(cell.max() + 1)]
    middle = np.array([weighted_median(values[part], weight[part]) for part in parts])
    return cell, middle


def monotone(table: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Nearest table (least squares) that falls along the rows and rises down the columns.

    Reference: Dykstra & Robertson, "An algorithm for isotonic regression for two or more
    independent variables", Annals of Statistics 1982.
    """
    fitted = table.astype(np.float64)
    along = np.zeros_like(fitted)
    down = np.zeros_like(fitted)
    for _ in range(_SWEEPS):
        start = fitted - along
        fitted = np.stack(
            [
                isotonic_regression(values, weights=w, increasing=False).x
                for values, w in zip(start, weight, strict=True)
            ]
        )
        along = fitted - start
        start = fitted - down
        fitted = np.stack(
            [
                isotonic_regression(values, weights=w).x
                for values, w in zip(start.T, weight.T, strict=True)
            ],
            axis=1,
        )
        down = fitted - start
    return fitted
