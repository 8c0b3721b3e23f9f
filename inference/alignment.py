"""Cameras from pointmaps: fuse the pairwise predictions into one scene, deterministically.

The objective is DUSt3R's global alignment (Wang et al., "DUSt3R: Geometric 3D Vision Made Easy",
CVPR 2024, eq. 5): one similarity per directed pair, one pinhole camera and one depth map per image,
confidence-weighted distances between both. It is minimised without a learning rate: the L1
distances by iteratively reweighted least squares, the pair similarities in closed form (weighted
Procrustes), the cameras by Gauss-Newton with every pixel's depth eliminated. Because the weighted
squares of all observations of a pixel reduce to one weighted mean, the cost per round is linear in
the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor

from ..geometry.pointmap import focal_from_pointmap
from ..geometry.transforms import Similarity, weighted_procrustes
from .predict import PairResult

GRID = 45  # pixels per side of the sampling grid: 2025 observations per image and pair


@dataclass(frozen=True)
class AlignmentOptions:
    """How pointmaps become cameras.

    Attributes:
        max_rounds: upper limit of the alternations.
        tolerance: stop when the objective falls by less than this share in a round.
        shared_focal: one focal length for all images (in pixels of the network's long side).
        min_confidence: observations with a confidence at or below get no weight.
    """

    max_rounds: int = 100
    tolerance: float = 1e-5
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
        objective: final value of the confidence-weighted mean distance.
        residuals: directed edge (frame, other) -> weighted mean distance over the scene's extent.
        rounds: alternations done.
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


def _grid_rays(size: tuple[int, int]) -> Tensor:
    """(n, 2) offsets of the grid's pixel centres from the image centre, pixels."""
    height, width = size
    rows = torch.linspace(0, height - 1, GRID).round() + 0.5 - height / 2
    columns = torch.linspace(0, width - 1, GRID).round() + 0.5 - width / 2
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).double()


def _align_component(
    images: list[int], edges: Sequence[PairSamples], options: AlignmentOptions
) -> AlignedCameras:
    number = {image: n for n, image in enumerate(images)}
    pair = torch.tensor([[number[e.frame], number[e.other]] for e in edges])  # (E, 2)
    points = torch.stack([e.points for e in edges])  # (E, 2, n, 3)
    confidence = torch.stack([e.confidence for e in edges])
    weight0 = torch.log(confidence.clamp(min=1.0)) * (confidence > options.min_confidence)
    weight0 = torch.where(weight0.sum((1, 2), keepdim=True) > 1e-6, weight0, 1e-3)  # (E, 2, n)
    sizes = {number[e.frame]: e.sizes[0] for e in edges}
    sizes |= {number[e.other]: e.sizes[1] for e in edges}
    offsets = torch.stack([_grid_rays(sizes[n]) for n in range(len(images))])  # (N, n, 2)
    focal = _initial_focals(edges, number, len(images), sizes)
    cam_from_world, depth = _initial_poses(pair, points, confidence, len(images))
    state = _State(pair, points, weight0, offsets, options.shared_focal)
    previous = float("inf")
    rounds, objective = 0, previous
    while rounds < options.max_rounds:
        rounds += 1
        world = _world_points(offsets, focal, cam_from_world, depth)
        similarity, weight, objective = state.fit_pairs(world)
        mean, mass = state.observed_means(similarity, weight)
        cam_from_world, focal = state.fit_cameras(cam_from_world, focal, mean, mass)
        depth = _depth_on_rays(offsets, focal, cam_from_world, mean)
        cam_from_world, depth = _fix_gauge(cam_from_world, depth)
        if previous - objective < options.tolerance * objective and rounds > 8:
            break
        previous = objective
    world = _world_points(offsets, focal, cam_from_world, depth)
    similarity, weight, objective = state.fit_pairs(world)
    per_edge = state.edge_residuals(similarity, world)
    return AlignedCameras(
        images=images,
        cam_from_world=cam_from_world.numpy(),
        focal_px=focal.numpy(),
        grid_depth=depth.reshape(-1, GRID, GRID).numpy(),
        objective=float(objective),
        residuals={(e.frame, e.other): float(r) for e, r in zip(edges, per_edge, strict=True)},
        rounds=rounds,
    )


def _initial_focals(
    edges: Sequence[PairSamples],
    number: dict[int, int],
    count: int,
    sizes: dict[int, tuple[int, int]],
) -> Tensor:
    """Per image the median of the focal lengths of its own pointmaps, kept within sane bounds."""
    votes: list[list[float]] = [[] for _ in range(count)]
    for e in edges:
        if np.isfinite(e.focal_px):
            votes[number[e.frame]].append(e.focal_px)
    focal = []
    for n in range(count):
        long_side = max(sizes[n])
        value = float(np.median(votes[n])) if votes[n] else 1.2 * long_side
        focal.append(min(max(value, 0.3 * long_side), 5.0 * long_side))
    return torch.tensor(focal, dtype=torch.float64)


def _initial_poses(
    pair: Tensor, points: Tensor, confidence: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Chain camera-to-camera similarities along the most confident spanning tree.

    The own-frame pointmap of an image is the weighted mean over the pairs in which it is the frame,
    after scaling each to the first of them.
    """
    own: dict[int, Tensor] = {}
    own_weight: dict[int, Tensor] = {}
    for e in range(len(pair)):
        i = int(pair[e, 0])
        x, c = points[e, 0], confidence[e, 0]
        if i not in own:
            own[i], own_weight[i] = x * c[:, None], c
        else:
            reference = own[i] / own_weight[i][:, None]
            scale = (c * (x * reference).sum(-1)).sum() / (c * (x * x).sum(-1)).sum()
            own[i] = own[i] + scale * x * c[:, None]
            own_weight[i] = own_weight[i] + c
    for i in own:
        own[i] = own[i] / own_weight[i][:, None]
    for e in range(len(pair)):  # an image that is never the frame of a pair
        own.setdefault(int(pair[e, 1]), points[e, 1])
    score = confidence[:, 0].mean(-1) * confidence[:, 1].mean(-1)
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for e in range(len(pair)):
        i, j = int(pair[e, 0]), int(pair[e, 1])
        key = (min(i, j), max(i, j))
        if key not in best or float(score[e]) > best[key][0]:
            best[key] = (float(score[e]), e)
    rows, columns = zip(*best, strict=True)
    cost = [1.0 / best[k][0] for k in best]
    tree = minimum_spanning_tree(coo_matrix((cost, (rows, columns)), shape=(count, count))).tocoo()
    neighbours: dict[int, list[tuple[int, int]]] = {n: [] for n in range(count)}
    for i, j in zip(tree.row.tolist(), tree.col.tolist(), strict=True):
        e = best[(min(i, j), max(i, j))][1]
        neighbours[i].append((j, e))
        neighbours[j].append((i, e))
    world_from: dict[int, Similarity] = {0: Similarity.identity(dtype=torch.float64)}
    queue = [0]
    while queue:
        i = queue.pop(0)
        for j, e in neighbours[i]:
            if j in world_from:
                continue
            frame, other = int(pair[e, 0]), int(pair[e, 1])
            to_frame = weighted_procrustes(own[frame], points[e, 0], confidence[e, 0])
            to_other = weighted_procrustes(own[other], points[e, 1], confidence[e, 1])
            frame_from_other = to_frame.inverse().compose(to_other)
            step = frame_from_other if i == frame else frame_from_other.inverse()
            world_from[j] = world_from[i].compose(step)
            queue.append(j)
    cam_from_world = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    depth = torch.zeros(count, points.shape[2], dtype=torch.float64)
    for n in range(count):
        rotation, translation = world_from[n].rotation, world_from[n].translation
        cam_from_world[n, :3, :3] = rotation.T
        cam_from_world[n, :3, 3] = -rotation.T @ translation
        depth[n] = (own[n][:, 2] * world_from[n].scale).clamp(min=1e-6)
    return cam_from_world, depth


def _rays(offsets: Tensor, focal: Tensor) -> Tensor:
    """(N, n, 3) viewing rays with unit z."""
    return torch.cat([offsets / focal[:, None, None], torch.ones_like(offsets[..., :1])], -1)


def _world_points(offsets: Tensor, focal: Tensor, cam_from_world: Tensor, depth: Tensor) -> Tensor:
    camera_points = _rays(offsets, focal) * depth[..., None]
    centred = camera_points - cam_from_world[:, None, :3, 3]
    return torch.einsum("vji,vnj->vni", cam_from_world[:, :3, :3], centred)


def _depth_on_rays(offsets: Tensor, focal: Tensor, cam_from_world: Tensor, world: Tensor) -> Tensor:
    """Depth of the point of each viewing ray that is nearest to the observed mean."""
    ray = _rays(offsets, focal)
    camera_points = torch.einsum("vij,vnj->vni", cam_from_world[:, :3, :3], world)
    camera_points = camera_points + cam_from_world[:, None, :3, 3]
    return ((ray * camera_points).sum(-1) / (ray * ray).sum(-1)).clamp(min=1e-6)


def _fix_gauge(cam_from_world: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """First camera at the identity, median depth of all images one."""
    cam_from_world = cam_from_world @ torch.linalg.inv(cam_from_world[0])
    scale = 1.0 / depth.median()
    cam_from_world[:, :3, 3] *= scale
    return cam_from_world, depth * scale


class _State:
    """The observations of a component, and the closed-form steps over them."""

    def __init__(
        self, pair: Tensor, points: Tensor, weight0: Tensor, offsets: Tensor, shared_focal: bool
    ) -> None:
        self.pair, self.points, self.weight0 = pair, points, weight0
        self.offsets, self.shared_focal = offsets, shared_focal
        self.floor = 1e-4  # of the distances in the reweighting; the median depth is one

    def fit_pairs(self, world: Tensor) -> tuple[Similarity, Tensor, Tensor]:
        """Similarity of every pair onto the current world points, with weights for L1 distances."""
        edges = len(self.pair)
        target = world[self.pair].reshape(edges, -1, 3)  # (E, 2n, 3)
        source = self.points.reshape(edges, -1, 3)
        weight0 = self.weight0.reshape(edges, -1)
        weight = weight0
        similarity = weighted_procrustes(source, target, weight)
        for _ in range(2):
            distance = (similarity.apply(source) - target).norm(dim=-1)
            weight = weight0 / distance.clamp(min=self.floor)
            similarity = weighted_procrustes(source, target, weight)
        distance = (similarity.apply(source) - target).norm(dim=-1)
        objective = (weight0 * distance).sum() / weight0.sum()
        weight = weight0 / distance.clamp(min=self.floor)
        return similarity, weight.reshape(self.weight0.shape), objective

    def observed_means(self, similarity: Similarity, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean (N, n, 3) of all observations of each pixel, and their summed weight."""
        edges, _, n, _ = self.points.shape
        observed = similarity.apply(self.points.reshape(edges, -1, 3)).reshape(edges, 2, n, 3)
        count = len(self.offsets)
        total = observed.new_zeros(count, n, 3)
        mass = observed.new_zeros(count, n)
        for side in (0, 1):
            total.index_add_(0, self.pair[:, side], observed[:, side] * weight[:, side, :, None])
            mass.index_add_(0, self.pair[:, side], weight[:, side])
        return total / mass.clamp(min=1e-12)[..., None], mass

    def fit_cameras(
        self, cam_from_world: Tensor, focal: Tensor, mean: Tensor, mass: Tensor, steps: int = 3
    ) -> tuple[Tensor, Tensor]:
        """Gauss-Newton on pose and log focal of each image; each pixel's depth is eliminated."""
        mass = mass / mass.mean(dim=1, keepdim=True).clamp(min=1e-12)
        for _ in range(steps):
            p = torch.einsum("vij,vnj->vni", cam_from_world[:, :3, :3], mean)
            p = p + cam_from_world[:, None, :3, 3]
            q = _rays(self.offsets, focal)
            qq = (q * q).sum(-1, keepdim=True)
            depth = (q * p).sum(-1, keepdim=True) / qq
            residual = p - depth * q
            along = q / qq.sqrt()
            jacobian = torch.cat(
                [
                    torch.eye(3, dtype=p.dtype).expand(*p.shape[:2], 3, 3),
                    -_skew(p),
                    (depth * torch.cat([q[..., :2], torch.zeros_like(q[..., :1])], -1))[..., None],
                ],
                -1,
            )  # (N, n, 3, 7)
            jacobian = jacobian - along[..., None] * (along[..., None] * jacobian).sum(
                -2, keepdim=True
            )
            # large residuals come from wrong depths in front of the camera: Huber-like weights
            size = residual.norm(dim=-1)
            typical = size.median(dim=1, keepdim=True).values.clamp(min=1e-9)
            weight = mass * (3 * typical / size.clamp(min=1e-12)).clamp(max=1.0)
            hessian = torch.einsum("vnri,vn,vnrj->vij", jacobian, weight, jacobian)
            gradient = torch.einsum("vnri,vn,vnr->vi", jacobian, weight, residual)
            hessian = hessian + 1e-9 * hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[
                :, None, None
            ] * torch.eye(7, dtype=p.dtype)
            if self.shared_focal:
                step = _solve_with_shared_last(hessian, gradient)
            else:
                step = torch.linalg.solve(hessian, gradient)
            cam_from_world = _apply_step(cam_from_world, -step[:, :6])
            focal = focal * torch.exp((-step[:, 6]).clamp(-0.2, 0.2))
            limit = self.offsets.abs().amax((1, 2)) * 2
            focal = torch.minimum(torch.maximum(focal, 0.25 * limit), 8 * limit)
        return cam_from_world, focal

    def edge_residuals(self, similarity: Similarity, world: Tensor) -> Tensor:
        """Weighted mean distance of every pair, over the median depth (one)."""
        edges = len(self.pair)
        target = world[self.pair].reshape(edges, -1, 3)
        distance = (similarity.apply(self.points.reshape(edges, -1, 3)) - target).norm(dim=-1)
        weight = self.weight0.reshape(edges, -1)
        return (weight * distance).sum(-1) / weight.sum(-1).clamp(min=1e-12)


def _solve_with_shared_last(hessian: Tensor, gradient: Tensor) -> Tensor:
    """Solve all 7x7 systems with one common last unknown (Schur complement on it)."""
    a, b, c = hessian[:, :6, :6], hessian[:, :6, 6], hessian[:, 6, 6]
    g, h = gradient[:, :6], gradient[:, 6]
    ab, ag = torch.linalg.solve(a, b), torch.linalg.solve(a, g)
    shared = (h - (b * ag).sum(-1)).sum() / (c - (b * ab).sum(-1)).sum().clamp(min=1e-12)
    return torch.cat([ag - ab * shared, shared.expand(len(g), 1)], -1)


def _skew(v: Tensor) -> Tensor:
    zero = torch.zeros_like(v[..., 0])
    x, y, z = v.unbind(-1)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*v.shape[:-1], 3, 3)


def _apply_step(cam_from_world: Tensor, step: Tensor) -> Tensor:
    """Left-multiply each pose by the small rigid motion (translation, rotation vector)."""
    rotation = torch.linalg.matrix_exp(_skew(step[:, 3:6]))
    moved = cam_from_world.clone()
    moved[:, :3, :3] = rotation @ cam_from_world[:, :3, :3]
    moved[:, :3, 3] = (rotation @ cam_from_world[:, :3, 3:])[..., 0] + step[:, :3]
    return moved
