"""Could chance have made these matches agree? And how well do they fix the pose?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Dense matching errs in patches: what lies within a cell of this share of the long side is one
# witness, however many matches it holds.
_CELLS_PER_LONG_SIDE = 32


def witnesses(xy: Float64Array, agree: BoolArray, size: tuple[int, int]) -> tuple[int, int]:
    """Cells of an image that hold matches, and cells in which at least half of them agree.

    Args:
        xy: (N, 2) pixels.
        agree: (N,) bool.
        size: (height, width).
    """
    if not len(xy):
        return 0, 0
    side = max(size) / _CELLS_PER_LONG_SIDE
    cells = np.floor(xy / side).astype(np.int64)
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    held, right = np.bincount(cell), np.bincount(cell, agree)
    return len(held), int((2 * right >= held).sum())


def log10_false_alarms(
    number: int, agreeing: int, sample: int, solutions: int, chance: float
) -> float:
    """Logarithm of how often a search would find so many agreeing matches in random ones.

    Args:
        number: independent matches.
        agreeing: those that agree with the best model.
        sample: matches that determine a model, which agree with it by construction.
        solutions: models that one sample gives.
        chance: probability that a random match agrees with a given model.

    Returns:
        log10 of the expected number of such models; infinity if nothing was left to agree.

    Reference: Moisan & Stival, A probabilistic criterion to detect rigid point matches between two
        images and estimate the fundamental matrix, IJCV 2004.
    """
    if agreeing <= sample or agreeing > number:
        return np.inf

    def log10_choose(n: int, k: int) -> float:
        return float((gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(10))

    return (
        np.log10(solutions * max(number - sample, 1))
        + log10_choose(number, agreeing)
        + log10_choose(agreeing, sample)
        + (agreeing - sample) * np.log10(min(chance, 1.0))
    )


def line_chance(max_error_px: float, size: tuple[int, int]) -> float:
    """Probability that a random point of an image is within the Sampson distance of a line."""
    height, width = size
    # Half of the correction of a Sampson distance falls to each image.
    band = 2 * np.sqrt(2) * max_error_px
    return float(min(1.0, band * np.hypot(height, width) / (height * width)))


def point_chance(max_error_px: float, size: tuple[int, int]) -> float:
    """Probability that a random point of an image is within a distance of a point."""
    return float(min(1.0, np.pi * max_error_px**2 / (size[0] * size[1])))


def robust_sigma(residuals: Float64Array) -> float:
    """Standard deviation of the bulk of residuals that scatter around zero."""
    return float(1.4826 * np.median(np.abs(residuals))) if len(residuals) else 0.0
