"""Normal equations of the sparse alignment: core depths eliminated, cameras left.

Every row depends on two images and on one core depth. Core depths meet in no row, so that they are
eliminated one by one (Schur complement), image after image; no more than the rows of one image are
in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import csr_matrix

from .problem import Cores, Float64Array, IntArray
from .state import State
from .terms import Rows, Term, residuals


@dataclass(eq=False)
class CoreBlock:
    """Core depths of one image and what they are coupled with.

    Attributes:
        cores: where they lie among all.
        parameters: (c,) camera parameters that they are coupled with.
        coupling: (n, c).
        hessian, gradient: (n,).
    """

    cores: slice
    parameters: IntArray
    coupling: Float64Array
    hessian: Float64Array
    gradient: Float64Array

    def joined(self, other: CoreBlock) -> CoreBlock:
        """This block and that of another term on the same core depths."""
        return CoreBlock(
            cores=self.cores,
            parameters=np.concatenate([self.parameters, other.parameters]),
            coupling=np.concatenate([self.coupling, other.coupling], 1),
            hessian=self.hessian + other.hessian,
            gradient=self.gradient + other.gradient,
        )


@dataclass(eq=False)
class Normal:
    """Weighted normal equations; the last parameter collects what is held, see `hold`.

    Attributes:
        hessian, gradient: (K + 1, K + 1), (K + 1,) of the cameras.
        blocks: of the core depths; none where they are held.
    """

    hessian: Float64Array
    gradient: Float64Array
    blocks: list[CoreBlock] = field(default_factory=list)

    def hold(self, parameters: IntArray) -> None:
        """Take parameters out."""
        self.hessian[parameters] = 0
        self.hessian[:, parameters] = 0
        self.gradient[parameters] = 0
        for block in self.blocks:
            block.coupling[:, np.isin(block.parameters, parameters)] = 0

    def solve(self, damping: float, count: int) -> tuple[Float64Array, Float64Array]:
        """Step of the cameras' parameters (K + 1,) and of all `count` core depths.

        Raises:
            LinAlgError: the damping is too small.
        """
        hessian, right = self.hessian.copy(), -self.gradient
        inverses = []
        for block in self.blocks:
            inverse = 1.0 / (block.hessian * (1 + damping) + 1e-12 * block.hessian.max() + 1e-30)
            inverses.append(inverse)
            scaled = block.coupling * inverse[:, None]
            # parameters of two images may be the same one: shared intrinsics
            np.subtract.at(
                hessian,
                (block.parameters[:, None], block.parameters[None]),
                block.coupling.T @ scaled,
            )
            np.add.at(right, block.parameters, block.gradient @ scaled)
        diagonal = self.hessian.diagonal()
        k = np.arange(len(hessian))
        held = diagonal <= 0
        hessian[k, k] += damping * diagonal + 1e-10 * diagonal
        hessian[held] = 0
        hessian[:, held] = 0
        hessian[held, held] = 1
        right[held] = 0
        step = cho_solve(cho_factor(hessian, lower=True, overwrite_a=True), right)
        if not np.isfinite(step).all():
            raise LinAlgError("the step is not finite")
        depth_step = np.zeros(count)
        for block, inverse in zip(self.blocks, inverses, strict=True):
            coupled = block.coupling @ step[block.parameters]
            depth_step[block.cores] = -(block.gradient + coupled) * inverse
        return step, depth_step


def build(
    terms: Sequence[Term], state: State, cores: Cores, columns: IntArray, free_depth: bool
) -> Normal:
    """Collect the normal equations of all terms.

    Args:
        terms: the losses.
        state: where they are linearised.
        cores: canonical depths.
        columns: (N, 10) parameter of each column of each image; the largest one is held.
        free_depth: whether core depths may change.
    """
    size = int(columns.max()) + 1
    normal = Normal(np.zeros((size, size)), np.zeros(size))
    blocks: dict[int, CoreBlock] = {}
    for term in terms:
        for source, rows, targets in term.links.by_source():
            found = residuals(term, state, cores, rows, True)
            root = np.sqrt(term.weights(found.residual, rows))
            found = Rows(
                found.residual * root[:, None],
                found.by_source * root[:, None, None],
                found.by_target * root[:, None, None],
                found.by_core * root[:, None],
            )
            _add_cameras(normal, found, columns, source, rows.start, targets)
            if free_depth:
                core = term.links.source.core[rows] - cores.start[source]
                block = _core_block(found, columns, source, rows.start, targets, core, cores)
                blocks[source] = block.joined(blocks[source]) if source in blocks else block
    normal.blocks = list(blocks.values())
    return normal


def _add_cameras(
    normal: Normal,
    found: Rows,
    columns: IntArray,
    source: int,
    start: int,
    targets: list[tuple[int, slice]],
) -> None:
    own = columns[source]
    flat = found.by_source.reshape(-1, found.by_source.shape[-1])
    _scatter(normal, own, own, flat.T @ flat)
    np.add.at(normal.gradient, own, found.residual.reshape(-1) @ flat)
    for target, rows in targets:
        part = slice(rows.start - start, rows.stop - start)
        a = found.by_source[part].reshape(-1, len(own))
        b = found.by_target[part].reshape(-1, len(own))
        other = columns[target]
        cross = a.T @ b
        _scatter(normal, own, other, cross)
        _scatter(normal, other, own, cross.T)
        _scatter(normal, other, other, b.T @ b)
        np.add.at(normal.gradient, other, found.residual[part].reshape(-1) @ b)


def _scatter(normal: Normal, rows: IntArray, columns: IntArray, block: Float64Array) -> None:
    np.add.at(normal.hessian, (rows[:, None], columns[None]), block)


def _core_block(
    found: Rows,
    columns: IntArray,
    source: int,
    start: int,
    targets: list[tuple[int, slice]],
    core: IntArray,
    cores: Cores,
) -> CoreBlock:
    count = int(cores.start[source + 1] - cores.start[source])
    gather = csr_matrix(
        (np.ones(len(core)), (core, np.arange(len(core)))), shape=(count, len(core))
    )
    by_core = found.by_core[..., None]
    parts = [gather @ (by_core * found.by_source).sum(1)]
    for _, rows in targets:
        part = slice(rows.start - start, rows.stop - start)
        parts.append(gather[:, part] @ (by_core[part] * found.by_target[part]).sum(1))
    both = np.stack([(found.by_core**2).sum(1), (found.by_core * found.residual).sum(1)], -1)
    hessian, gradient = (gather @ both).T
    return CoreBlock(
        cores=slice(int(cores.start[source]), int(cores.start[source + 1])),
        parameters=columns[[source, *(target for target, _ in targets)]].reshape(-1),
        coupling=np.concatenate(parts, 1),
        hessian=hessian,
        gradient=gradient,
    )
