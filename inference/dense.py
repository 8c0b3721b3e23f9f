"""Dense depth for photos whose cameras are known.

Two roads. `sweep_depth` compares the network's descriptors across photos along each pixel's viewing
ray (plane sweep) and regularises the cost by semi-global matching; it needs little from the network
but texture. `pointmap_depth` fuses the depths that the network regressed and needs a network that
regresses well. `check_consistency` then asks of every depth whether the other photos agree.

References: Collins, "A Space-Sweep Approach to True Multi-Image Matching", CVPR 1996;
Hirschmueller, "Stereo Processing by Semiglobal Matching and Mutual Information", PAMI 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry.camera import Camera

_FINER = 2  # the neighbours' descriptors are sampled at 1 / _FINER pixel


@dataclass(frozen=True)
class SweepOptions:
    """How descriptors become depth.

    Attributes:
        stride: depth is computed at every `stride`-th network pixel and interpolated.
        planes: number of inverse depths tried (at most).
        small_step, large_step: costs of a change by one plane and by more between neighbours
            (similarities lie in [-1, 1]).
        temperature: of the softmax over planes that gives the confidence.
        agreement: relative depth difference below which two photos agree.
    """

    stride: int = 2
    planes: int = 128
    small_step: float = 0.05
    large_step: float = 0.6
    temperature: float = 0.05
    agreement: float = 0.03


@dataclass(frozen=True)
class DepthMap:
    """Depth of one photo at network resolution.

    Attributes:
        depth: (H, W) float32, z in world units; NaN where unknown.
        confidence: (H, W) float32, from 1 (a guess) upwards.
    """

    depth: np.ndarray
    confidence: np.ndarray


def choose_neighbours(
    cameras: dict[int, Camera],
    shared_points: dict[tuple[int, int], np.ndarray],
    count: int = 3,
) -> dict[int, list[int]]:
    """For every photo, those that show the same points from a usefully different direction.

    Args:
        cameras: registered photos.
        shared_points: (i, j) with i < j -> (n, 3) world points that both observe.
        count: neighbours per photo.

    Returns:
        Neighbours of each photo, best first. The score is the number of shared points, each
        weighted by a function of its triangulation angle that is highest between 5 and 20 degrees.
    """
    scores: dict[int, list[tuple[float, int]]] = {i: [] for i in cameras}
    for (i, j), points in shared_points.items():
        if i not in cameras or j not in cameras or len(points) < 8:
            continue
        a, b = cameras[i].center - points, cameras[j].center - points
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosine = (a * b).sum(-1) / np.maximum(lengths, 1e-300)  # a point in a camera has no angle
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        weight = np.minimum(angle / 5.0, 1.0) * np.exp(-((np.maximum(angle - 20, 0) / 15) ** 2))
        score = float(weight.sum())
        if score > 0:
            scores[i].append((score, j))
            scores[j].append((score, i))
    return {i: [j for _, j in sorted(s, reverse=True)[:count]] for i, s in scores.items()}


def depth_range(depths: np.ndarray) -> tuple[float, float]:
    """Nearest and farthest depth to try around the sparse depths seen in a photo."""
    if not len(depths):  # nothing known: the scene's median depth is one
        return 0.1, 10.0
    near, far = np.percentile(depths, [1.0, 99.0])
    return max(0.6 * float(near), 1e-6), 2.0 * float(far)


def sweep_depth(
    camera: Camera,
    neighbours: Sequence[Camera],
    descriptors: Sequence[tuple[Tensor, Tensor]],
    near: float,
    far: float,
    options: SweepOptions | None = None,
) -> DepthMap:
    """Depth of one photo by comparing descriptors along its viewing rays.

    Args:
        camera: the photo's camera at network size.
        neighbours: cameras of the other photos at their network sizes.
        descriptors: per neighbour, (H, W, D) of the photo and (Hj, Wj, D) of the neighbour, unit
            vectors that are comparable with each other.
        near, far: range of depths, world units.
        options: see `SweepOptions`.

    Returns:
        Depth everywhere, with a confidence of 1 + 9 x (probability of the best depth).
    """
    options = options or SweepOptions()
    height, width = camera.height, camera.width
    stride = options.stride
    rows = np.arange(stride // 2, height, stride)
    columns = np.arange(stride // 2, width, stride)
    u, v = np.meshgrid(columns + 0.5, rows + 0.5)
    pixels = np.stack([u, v], -1).reshape(-1, 2)
    count = _plane_count(camera, neighbours, near, far, options)
    inverse = np.linspace(1.0 / near, 1.0 / far, count)
    similarity = _similarity_volume(
        camera, neighbours, descriptors, pixels, (rows, columns), inverse
    )
    volume = similarity.reshape(len(rows), len(columns), count)
    cost = semi_global(1.0 - volume, options.small_step, options.large_step)
    best = cost.argmin(-1)
    depth = 1.0 / _sub_plane(cost, best, inverse)
    # the evidence is the unsmoothed similarity near the chosen plane against all other planes
    probability = np.exp((volume - volume.max(-1, keepdims=True)) / options.temperature)
    probability /= probability.sum(-1, keepdims=True)
    window = np.clip(best[..., None] + np.arange(-2, 3), 0, count - 1)
    evidence = np.take_along_axis(probability, window, -1).sum(-1)
    evidence *= np.clip(np.take_along_axis(volume, best[..., None], -1)[..., 0], 0, 1)
    return DepthMap(
        _upsample(depth, height, width, stride, nearest_across=0.05),
        1.0 + 9.0 * _upsample(np.clip(evidence, 0, 1), height, width, stride),
    )


def _plane_count(
    camera: Camera, neighbours: Sequence[Camera], near: float, far: float, options: SweepOptions
) -> int:
    """Planes needed for steps below a pixel in the most sensitive neighbour."""
    centre = np.array([[camera.width / 2, camera.height / 2]])
    longest = 0.0
    for other in neighbours:
        ends = [camera.unproject(centre, np.array([z])) for z in (near, far)]
        (a, za), (b, zb) = (other.project(e) for e in ends)
        if za[0] > 0 and zb[0] > 0:
            longest = max(longest, float(np.linalg.norm(a - b)))
    return int(np.clip(longest / 0.7, 32, options.planes)) if longest else options.planes


def _similarity_volume(
    camera: Camera,
    neighbours: Sequence[Camera],
    descriptors: Sequence[tuple[Tensor, Tensor]],
    pixels: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray],
    inverse: np.ndarray,
) -> np.ndarray:
    """(pixels, planes) mean similarity of the better half of the neighbours that see the point."""
    rays = camera.unproject(pixels, np.ones(len(pixels))) - camera.center  # world, unit z
    rows, columns = (torch.from_numpy(g) for g in grid)
    volumes = []
    for other, (reference, target) in zip(neighbours, descriptors, strict=True):
        query = reference[rows][:, columns].reshape(len(pixels), -1)
        projection = other.K @ other.cam_from_world[:3, :3]
        direction = torch.from_numpy(rays @ projection.T).float()  # (n, 3) homogeneous pixels
        origin = projection @ camera.center + other.K @ other.cam_from_world[:3, 3]
        start = torch.from_numpy(origin).float()
        fine = _enlarge(target, _FINER)
        flat = fine.reshape(-1, fine.shape[-1])
        height, width = fine.shape[:2]
        volume = torch.full((len(inverse), len(pixels)), float("nan"))
        for k, w in enumerate(inverse.tolist()):
            point = direction + start * w  # z * (direction / z) + origin, up to the factor z
            x, y = _FINER * point[:, 0] / point[:, 2], _FINER * point[:, 1] / point[:, 2]
            inside = (point[:, 2] > 0) & (x >= 0) & (y >= 0) & (x < width) & (y < height)
            column = x.nan_to_num(0).clamp(0, width - 1).long()
            index = y.nan_to_num(0).clamp(0, height - 1).long() * width + column
            score = (query * flat[index]).sum(-1)
            volume[k] = torch.where(inside, score, torch.nan)
        volumes.append(volume.T.numpy())
    stack = np.stack(volumes)  # (J, n, planes)
    stack = np.where(np.isnan(stack), -1.0, stack)
    stack = -np.sort(-stack, axis=0)[: max(1, (len(volumes) + 1) // 2)]
    seen = stack > -1.0
    total = np.where(seen, stack, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
    return np.where(seen.any(0), total, 0.0).astype(np.float32)


def _enlarge(descriptors: Tensor, factor: int) -> Tensor:
    """(H, W, D) to (factor H, factor W, D), bilinear, so that the nearest sample is near enough."""
    channels_first = descriptors.permute(2, 0, 1)[None]
    larger = F.interpolate(
        channels_first, scale_factor=factor, mode="bilinear", align_corners=False
    )
    return F.normalize(larger[0].permute(1, 2, 0), dim=-1).contiguous()


def semi_global(cost: np.ndarray, small_step: float, large_step: float) -> np.ndarray:
    """Aggregate matching costs along eight directions.

    Args:
        cost: (H, W, P) cost of each plane.
        small_step: penalty for moving to a neighbouring plane between adjacent pixels.
        large_step: penalty for any larger jump.

    Returns:
        (H, W, P) sum of the path costs over all directions.

    Reference: Hirschmueller, PAMI 2008, eq. 14.
    """
    total = np.zeros_like(cost)
    for flip_rows in (False, True):
        for transpose, slope in ((False, 0), (True, 0), (False, 1), (False, -1)):
            view = cost.transpose(1, 0, 2) if transpose else cost
            out = total.transpose(1, 0, 2) if transpose else total
            if flip_rows:
                view, out = view[::-1], out[::-1]
            previous = view[0]
            out[0] += previous
            for row in range(1, len(view)):
                before = _shift(previous, slope)
                floor = before.min(-1, keepdims=True)
                best = np.minimum(before, floor + large_step)
                best[:, 1:] = np.minimum(best[:, 1:], before[:, :-1] + small_step)
                best[:, :-1] = np.minimum(best[:, :-1], before[:, 1:] + small_step)
                previous = view[row] + best - floor
                out[row] += previous
    return total


def _shift(row: np.ndarray, slope: int) -> np.ndarray:
    """Neighbour along a diagonal path; the border repeats."""
    if slope == 0:
        return row
    if slope > 0:
        return np.concatenate([row[:1], row[:-1]])
    return np.concatenate([row[1:], row[-1:]])


def _sub_plane(cost: np.ndarray, best: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Inverse depth at the vertex of the parabola through the costs around the best plane."""
    planes = len(inverse)
    centre = np.clip(best, 1, planes - 2)
    a, b, c = (np.take_along_axis(cost, (centre + d)[..., None], -1)[..., 0] for d in (-1, 0, 1))
    curvature = a - 2 * b + c
    safe = np.where(curvature > 1e-9, curvature, 1.0)
    offset = np.where(curvature > 1e-9, 0.5 * (a - c) / safe, 0.0)
    position = centre + np.clip(offset, -1.0, 1.0)
    return np.interp(position, np.arange(planes), inverse)


def _upsample(
    values: np.ndarray, height: int, width: int, stride: int, nearest_across: float | None = None
) -> np.ndarray:
    """Strided samples to full size: bilinear, but nearest where relative steps are larger."""
    small = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    rows = (torch.arange(height) - stride // 2) / stride
    columns = (torch.arange(width) - stride // 2) / stride
    y = 2 * (rows / max(small.shape[2] - 1, 1)) - 1
    x = 2 * (columns / max(small.shape[3] - 1, 1)) - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]

    def sample(mode: str) -> Tensor:
        return F.grid_sample(small, grid, mode=mode, padding_mode="border", align_corners=True)

    smooth = sample("bilinear")[0, 0]
    if nearest_across is None:
        return smooth.numpy()
    nearest = sample("nearest")[0, 0]
    jump = (smooth - nearest).abs() > nearest_across * nearest.abs()
    return torch.where(jump, nearest, smooth).numpy()


def pointmap_depth(
    depths: Sequence[np.ndarray],
    confidences: Sequence[np.ndarray],
    anchors: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> DepthMap:
    """Fuse the depth maps that the network regressed for one photo in several pairs.

    Args:
        depths: (H, W) z of the photo's own pointmap in each pair, in that pair's scale.
        confidences: (H, W) of each, >= 1.
        anchors: rows (n,), columns (n,) and depths (n,) in world units that fix the scale of each
            map (robustly: the median ratio).

    Returns:
        The mean weighted by log confidence, and the largest confidence.

    Raises:
        ValueError: if there is nothing to fuse.
    """
    if not depths:
        raise ValueError("a photo without any pair has no depth to fuse")
    rows, columns, known = anchors
    total = np.zeros_like(depths[0], dtype=np.float64)
    mass = np.zeros_like(total)
    for depth, confidence in zip(depths, confidences, strict=True):
        predicted = depth[rows, columns]
        usable = (predicted > 1e-6) & (known > 0)
        scale = np.median(known[usable] / predicted[usable]) if usable.any() else 1.0
        weight = np.log(np.maximum(confidence, 1.0)) + 1e-3
        total += weight * scale * depth
        mass += weight
    fused = (total / mass).astype(np.float32)
    return DepthMap(
        np.where(fused > 0, fused, np.nan),
        np.max(np.stack(list(confidences)), axis=0).astype(np.float32),
    )


def check_consistency(
    maps: dict[int, DepthMap],
    cameras: dict[int, Camera],
    neighbours: dict[int, list[int]],
    agreement: float = 0.03,
) -> dict[int, np.ndarray]:
    """Share of the neighbours in whose depth map each pixel's point lies on the surface.

    Args:
        maps: depth maps at network size.
        cameras: cameras at network size.
        neighbours: photos to compare each one with.
        agreement: largest relative difference of depth that counts as the same surface.

    Returns:
        (H, W) float32 in [0, 1] per photo; pixels that no neighbour sees get 0.
    """
    shares = {}
    for i, own in maps.items():
        camera = cameras[i]
        u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        pixels = np.stack([u, v], -1).reshape(-1, 2)
        depth = own.depth.reshape(-1)
        known = np.isfinite(depth)
        world = camera.unproject(pixels[known], depth[known])
        votes, seen = np.zeros(len(world)), np.zeros(len(world))
        for j in neighbours.get(i, []):
            if j not in maps:
                continue
            other = cameras[j]
            xy, z = other.project(world)
            inside = (z > 0) & (xy >= 0).all(-1)
            inside &= (xy[:, 0] < other.width) & (xy[:, 1] < other.height)
            index = np.floor(np.where(inside[:, None], xy, 0)).astype(int)
            there = maps[j].depth[index[:, 1], index[:, 0]]
            inside &= np.isfinite(there)
            # a point behind the other photo's surface is hidden there, which is no contradiction
            hidden = z > there * (1 + 5 * agreement)
            votes += inside & (np.abs(there - z) <= agreement * z)
            seen += inside & ~hidden
        share = np.zeros(len(depth), np.float32)
        share[known] = np.where(seen > 0, votes / np.maximum(seen, 1), 0.0)
        shares[i] = share.reshape(camera.height, camera.width)
    return shares
