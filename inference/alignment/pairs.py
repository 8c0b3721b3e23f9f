"""Cameras from pointmaps: the pairs' predictions on a grid, aligned component by component.

The solver is that of `dense_alignment`; here pairs are reduced to its grid as they are decoded, and
images that no pair connects are told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ...geometry.pointmap import focal_from_pointmap
from ..predict import PairResult
from .dense import DenseAlignment, DenseOptions, align_samples
from .samples import Float64Array, ImageSamples, Samples

GRID = 45  # pixels per side of the sampling grid: 2025 observations per image and pair


@dataclass(frozen=True)
class AlignmentOptions:
    """How pointmaps become cameras.

    Attributes:
        max_rounds: upper limit of the solver's sweeps.
        tolerance: stop when two sweeps in a row lower the objective by less than this share.
        shared_focal: one focal length for all images (in pixels of the network's long side).
        min_confidence: observations with a confidence below get no weight.
    """

    max_rounds: int = 100
    tolerance: float = 3e-6
    shared_focal: bool = False
    min_confidence: float = 1.0


@dataclass(frozen=True)
class AlignedCameras:
    """Result of the alignment for one connected component.

    Attributes:
        images: indices of the images, ascending.
        cam_from_world: (N, 4, 4) float64, the frame of the first image.
        focal_px: (N,) float64, pixels of the network's input.
        grid_depth: (N, GRID, GRID) float64, depth of the sampling grid's pixels, world units.
        objective: final value, see `dense_alignment`.
        residuals: directed edge (frame, other) -> weighted mean distance over the median depth.
        rounds: sweeps done.
    """

    images: list[int]
    cam_from_world: np.ndarray
    focal_px: np.ndarray
    grid_depth: np.ndarray
    objective: float
    residuals: dict[tuple[int, int], float]
    rounds: int


@dataclass(frozen=True)
class PairSamples:
    """A directed pair on the sampling grid: everything the alignment needs of it.

    Attributes:
        frame, other: image indices; both pointmaps are in the camera frame of `frame`.
        points: (2, n, 3) float64, of `frame` and of `other`.
        confidence: (2, n) float64.
        sizes: ((H, W), (H, W)) of the two images, network pixels.
        focal_px: of `frame`, from its own pointmap.
    """

    frame: int
    other: int
    points: Tensor
    confidence: Tensor
    sizes: tuple[tuple[int, int], tuple[int, int]]
    focal_px: float


def sample_pair(result: PairResult) -> tuple[PairSamples, PairSamples]:
    """Reduce a pair to its two directed samples on the grid."""
    directed = []
    for frame, other, prediction in (
        (result.first, result.second, result.forward),
        (result.second, result.first, result.backward),
    ):
        a, b = prediction.view1, prediction.view2
        sizes = (tuple(a.pointmap.shape[:2]), tuple(b.pointmap.shape[:2]))
        focal = focal_from_pointmap(a.pointmap[None], a.confidence[None])
        directed.append(
            PairSamples(
                frame,
                other,
                torch.stack([_on_grid(a.pointmap), _on_grid(b.pointmap)]).double(),
                torch.stack([_on_grid(a.confidence), _on_grid(b.confidence)]).double(),
                sizes,  # type: ignore[arg-type]
                float(focal.reshape(-1)[0]),
            )
        )
    return directed[0], directed[1]


def align_pairs(
    samples: Iterable[PairSamples], num_images: int, options: AlignmentOptions | None = None
) -> list[AlignedCameras]:
    """Align all pairs; images that no pair connects end in different components.

    Args:
        samples: directed pairs, as from `sample_pair`, in any order.
        num_images: number of images; those without a pair are in no component.
        options: see `AlignmentOptions`.

    Returns:
        One `AlignedCameras` per connected component of two images or more, largest first.
    """
    options = options or AlignmentOptions()
    edges = sorted(samples, key=lambda e: (e.frame, e.other))
    if not edges:
        return []
    graph = coo_matrix(
        (np.ones(len(edges)), ([e.frame for e in edges], [e.other for e in edges])),
        shape=(num_images, num_images),
    )
    _, label = connected_components(graph, directed=False)
    components = []
    for k in np.unique(label):
        images = [int(i) for i in np.nonzero(label == k)[0]]
        inside = [e for e in edges if label[e.frame] == k and e.frame != e.other]
        if len(images) > 1 and inside:
            components.append(_align_component(images, inside, options))
    return sorted(components, key=lambda c: (-len(c.images), c.images[0]))


def _on_grid(x: Tensor) -> Tensor:
    rows = torch.linspace(0, x.shape[0] - 1, GRID).round().long()
    columns = torch.linspace(0, x.shape[1] - 1, GRID).round().long()
    return x[rows][:, columns].reshape(GRID * GRID, *x.shape[2:])


def grid_xy(size: tuple[int, int]) -> Float64Array:
    """(n, 2) pixel centres of the sampling grid, row by row."""
    rows, columns = (np.round(np.linspace(0, n - 1, GRID)) + 0.5 for n in size)
    x, y = np.meshgrid(columns, rows)
    return np.stack([x, y], -1).reshape(-1, 2)


def samples_on_grid(
    edges: Sequence[PairSamples], images: Sequence[int], min_confidence: float = 1.0
) -> Samples:
    """Collect the pairs of connected images by image, as the solver wants them."""
    number = {image: n for n, image in enumerate(images)}
    pairs = np.array([[number[e.frame], number[e.other]] for e in edges])
    row = np.zeros((len(edges), 2), np.intp)
    collected = []
    for n in range(len(images)):
        edge, side = np.nonzero(pairs == n)
        row[edge, side] = np.arange(len(edge))
        shown = list(zip(edge.tolist(), side.tolist(), strict=True))
        size = edges[edge[0]].sizes[side[0]]
        points = torch.stack([edges[e].points[s] for e, s in shown]).float().numpy()
        sure = torch.stack([edges[e].confidence[s] for e, s in shown]).float().numpy()
        finite = np.isfinite(points).all(-1) & np.isfinite(sure)
        points = np.where(finite[..., None], points, 0)
        sure = np.where(finite & (sure >= min_confidence), sure, 0)
        collected.append(ImageSamples(size, grid_xy(size), points, sure, edge, side))
    score = np.array([float(e.confidence.mean(-1).prod()) for e in edges])
    return Samples(pairs, score, collected, row)


def _align_component(
    images: list[int], edges: Sequence[PairSamples], options: AlignmentOptions
) -> AlignedCameras:
    result = align_samples(
        samples_on_grid(edges, images, options.min_confidence),
        DenseOptions(
            max_sweeps=options.max_rounds,
            tolerance=options.tolerance,
            shared_focal=options.shared_focal,
            focal_evidence=False,  # a network errs in the same way in all pairs
        ),
    )
    poses, depth = _in_first_camera(result)
    shares = zip(edges, result.residual.tolist(), strict=True)
    return AlignedCameras(
        images=images,
        cam_from_world=poses,
        focal_px=result.focal_px,
        grid_depth=depth,
        objective=result.objective[-1],
        residuals={(e.frame, e.other): r for e, r in shares},
        rounds=len(result.objective) - 1,
    )


def _in_first_camera(result: DenseAlignment) -> tuple[Float64Array, Float64Array]:
    """Poses and depths with the first camera at the identity and a median depth of one."""
    depth = np.stack(result.grid_depth).reshape(-1, GRID, GRID)
    scale = 1.0 / float(np.median(depth))
    poses = result.cam_from_world @ np.linalg.inv(result.cam_from_world[0])
    poses[:, :3, 3] *= scale
    return poses, depth * scale
