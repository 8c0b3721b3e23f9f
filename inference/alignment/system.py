"""Linear system of the dense alignment: pairs eliminated, a banded system of the images left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import reverse_cuthill_mckee

from .samples import Float64Array

CAMERA = 9  # shift, turn, log focal, principal point
COLUMNS = CAMERA + 4  # and the motions of the surface
FOCAL = 6


@dataclass(eq=False)
class Normal:
    """Weighted normal equations: pairs (E, 7), images (N, 13), and what couples them."""

    objective: float
    penalty: float  # negative log-likelihood of the priors
    pair_hessian: Float64Array
    pair_gradient: Float64Array
    coupling: Float64Array  # (E, 2, 7, 13)
    image_hessian: Float64Array
    image_gradient: Float64Array
    edge_objective: Float64Array


class System:
    """Which pairs link which images, and in which order the images are eliminated."""

    def __init__(self, pairs: NDArray[np.intp], count: int) -> None:
        self.pairs = pairs
        neighbours = np.sort(pairs, axis=1)
        self.links, self.link = np.unique(neighbours, axis=0, return_inverse=True)
        self.link = self.link.reshape(-1)
        graph = coo_matrix((np.ones(len(self.links)), self.links.T), shape=(count, count)).tocsr()
        order = reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True)
        self.place = np.empty(count, np.intp)
        self.place[order] = np.arange(count)

    def solve(
        self,
        normal: Normal,
        right_e: Float64Array,
        right_v: Float64Array,
        free: NDArray[np.bool_],
        damping: float,
    ) -> tuple[Float64Array, Float64Array]:
        """Eliminate the pairs, solve for the images, substitute back."""
        pairs, columns = self.pairs, right_e.shape[-1]
        coupling = normal.coupling * free[pairs][:, :, None]
        flat = np.concatenate([coupling[:, 0], coupling[:, 1]], -1)  # (E, 7, 26)
        hessian = _damped(normal.pair_hessian, damping)
        solved = np.linalg.solve(hessian, np.concatenate([flat, right_e], -1))
        reduced = np.swapaxes(flat, 1, 2) @ solved  # (E, 26, 26 + columns)
        image = _damped(normal.image_hessian, damping) * free[:, :, None] * free[:, None]
        k = np.arange(COLUMNS)
        image[:, k, k] += ~free
        right = right_v * free[..., None]
        split = 2 * COLUMNS
        for side, at in ((0, slice(0, COLUMNS)), (1, slice(COLUMNS, split))):
            np.subtract.at(image, pairs[:, side], reduced[:, at, at])
            np.subtract.at(right, pairs[:, side], reduced[:, at, split:])
        swapped = pairs[:, 0] > pairs[:, 1]
        cross = -reduced[:, :COLUMNS, COLUMNS:split]
        cross[swapped] = np.swapaxes(cross[swapped], 1, 2)
        links = np.zeros((len(self.links), COLUMNS, COLUMNS))
        np.add.at(links, self.link, cross)
        found = self._solve_images(image, links, right)
        both = found[pairs].reshape(len(pairs), split, columns)
        return solved[..., split:] - solved[..., :split] @ both, found

    def _solve_images(
        self, diagonal: Float64Array, links: Float64Array, right: Float64Array
    ) -> Float64Array:
        """Cholesky of the banded system in an order that keeps linked images close."""
        count, place = len(diagonal), self.place
        a, b = place[self.links[:, 0]], place[self.links[:, 1]]
        lower = np.where((a > b)[:, None, None], links, np.swapaxes(links, 1, 2))
        row = np.concatenate([np.arange(count), np.maximum(a, b)])
        column = np.concatenate([np.arange(count), np.minimum(a, b)])
        order = np.argsort(place)
        blocks = np.concatenate([diagonal[order], lower])
        bandwidth = COLUMNS * (int((row - column).max()) + 1)
        band = np.zeros((bandwidth, count * COLUMNS))
        k = np.arange(COLUMNS)
        i = (row[:, None, None] * COLUMNS + k[:, None]) + 0 * k
        j = (column[:, None, None] * COLUMNS + k) + 0 * k[:, None]
        use = i >= j
        band[(i - j)[use], j[use]] = blocks[use]
        rhs = right[order].reshape(count * COLUMNS, -1)
        found = solveh_banded(band, rhs, overwrite_ab=True, lower=True, check_finite=False)
        return found.reshape(count, COLUMNS, -1)[place]


def _damped(hessian: Float64Array, damping: float) -> Float64Array:
    k = np.arange(hessian.shape[-1])
    diagonal = hessian[..., k, k]
    hessian = hessian.copy()
    hessian[..., k, k] += damping * diagonal + 1e-12 * diagonal.max(-1, keepdims=True) + 1e-30
    return hessian
