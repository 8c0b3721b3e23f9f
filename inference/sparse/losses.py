"""Robust losses of the sparse alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


def gamma_loss(distance: NDArray[Any], gamma: float) -> Float64Array:
    """Concave (gamma < 1) or convex (gamma > 1) power of a distance with slope one at zero.

    `(d + o)^gamma - o^gamma` with `o = gamma^(1 / (1 - gamma))`; gamma = 1 is the distance itself.
    """
    offset = _offset(gamma)
    return (np.asarray(distance, np.float64) + offset) ** gamma - offset**gamma


def gamma_weight(distance: NDArray[Any], gamma: float, floor: float) -> Float64Array:
    """Weight of a squared distance that has the gradient of the loss there.

    Args:
        distance: at least zero.
        gamma: see `gamma_loss`.
        floor: smaller distances count as this one, where the weight would grow without bound.
    """
    distance = np.maximum(distance, floor)
    return gamma * (distance + _offset(gamma)) ** (gamma - 1.0) / distance


def _offset(gamma: float) -> float:
    return 0.0 if gamma == 1.0 else (1.0 / gamma) ** (1.0 / (gamma - 1.0))
