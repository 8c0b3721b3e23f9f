"""Exact correspondences between the views of a batch.

A point of view i is covisible in view j if it projects into view j onto a pixel that shows the same
place. "The same place" cannot be a fixed depth tolerance: on surfaces seen at a grazing angle,
neighbouring pixels lie far apart, and a fixed tolerance leaves stripes. So a point of the same
surface may be as far from the pixel's own point as that pixel's neighbours are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..views import ViewBatch
from .cameras import into_frame

_CANDIDATES = 16


@dataclass(frozen=True)
class Correspondences:
    """Pairs of pixels that show the same point.

    Attributes:
        xy1: in the first view; pixel centres.
        xy2: in the second view; sub-pixel, pixel centres at half-integers.
        valid: False for entries that fill up pairs of views with too few correspondences.
    """

    xy1: Float[Tensor, "b n 2"]
    xy2: Float[Tensor, "b n 2"]
    valid: Bool[Tensor, "b n"]


def dense_correspondence(
    batch: ViewBatch, i: int, j: int
) -> tuple[Float[Tensor, "b h w 2"], Bool[Tensor, "b h w"]]:
    """Find every pixel of view i in view j.

    Returns:
        xy_in_j: where the pixel's point projects to in view j; anything where it is not covisible.
        covisible: whether view j sees the point.
    """
    B, (H, W) = batch.batch_size, batch.size
    pixels = torch.arange(H * W, device=batch.images.device).expand(B, -1)
    xy, visible = _find(batch, i, j, pixels)
    return xy.reshape(B, H, W, 2), visible.reshape(B, H, W)


def overlap_matrix(batch: ViewBatch, stride: int = 4) -> Float[Tensor, "b v v"]:
    """Estimate which share of view i's valid pixels view j sees, on every `stride`-th pixel."""
    V, (H, W), device = batch.num_views, batch.size, batch.images.device
    rows = torch.arange(stride // 2, H, stride, device=device)
    columns = torch.arange(stride // 2, W, stride, device=device)
    pixels = (rows[:, None] * W + columns).reshape(1, -1).expand(batch.batch_size, -1)
    matrix = torch.ones(batch.batch_size, V, V, device=device)
    for i in range(V):
        valid = torch.gather(batch.valid[:, i].flatten(1), 1, pixels)
        count = valid.float().sum(-1).clamp_min(1.0)
        for j in range(V):
            if i != j:
                matrix[:, i, j] = _find(batch, i, j, pixels)[1].float().sum(-1) / count
    return matrix


def sample_correspondences(
    batch: ViewBatch, i: int, j: int, count: int, generator: torch.Generator | None = None
) -> Correspondences:
    """Draw correspondences at random, no pixel of either view twice.

    They are looked for among 16 times as many pixels (the same ones in every scene, at random), so
    views that share less than about a tenth may give fewer valid ones than there are.

    Args:
        batch: B scenes.
        i: first view.
        j: second view.
        count: n, at most the number of pixels.
        generator: source of randomness, on the device of the batch.

    Raises:
        ValueError: if `count` is not between 1 and the number of pixels.
    """
    B, (H, W), device = batch.batch_size, batch.size, batch.images.device
    if not 1 <= count <= H * W:
        raise ValueError(f"count must be between 1 and {H * W} (all pixels), got {count}")
    tried = min(H * W, max(_CANDIDATES * count, 4096))
    order = torch.randperm(H * W, generator=generator, device=device)
    pixels = order[:tried].expand(B, -1)
    xy, visible = _find(batch, i, j, pixels)
    valid = visible & _first_of_its_pixel(xy, visible, H, W)
    front = torch.argsort((~valid).to(torch.uint8), dim=1, stable=True)[:, :count]
    pixels, valid = torch.gather(pixels, 1, front), torch.gather(valid, 1, front)
    xy2 = torch.gather(xy, 1, front[..., None].expand(-1, -1, 2))
    xy1 = torch.stack([pixels % W, pixels // W], -1).to(torch.float32) + 0.5
    return Correspondences(xy1, torch.where(valid[..., None], xy2, 0.5), valid)


def _first_of_its_pixel(
    xy: Float[Tensor, "b n 2"], valid: Bool[Tensor, "b n"], height: int, width: int
) -> Bool[Tensor, "b n"]:
    """Mark one entry for each pixel that valid entries fall into."""
    cell = _cell(xy, height, width)
    cell = torch.where(valid, cell, height * width)
    ordered, order = torch.sort(cell, dim=1, stable=True)
    fresh = torch.ones_like(valid)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(valid).scatter(1, order, fresh)


def _cell(xy: Float[Tensor, "b n 2"], height: int, width: int) -> Int[Tensor, "b n"]:
    x = xy[..., 0].clamp(0, width - 1).long()
    y = xy[..., 1].clamp(0, height - 1).long()
    return y * width + x


def _find(
    batch: ViewBatch, i: int, j: int, pixels: Int[Tensor, "b n"]
) -> tuple[Float[Tensor, "b n 2"], Bool[Tensor, "b n"]]:
    """Project some pixels of view i into view j and test whether they are seen there."""
    H, W = batch.size
    map_i, map_j = (batch.pointmap_world[:, k].flatten(1, 2) for k in (i, j))
    valid_j = batch.valid[:, j].flatten(1)
    surface_i, surface_j = (batch.surface_id[:, k].flatten(1) for k in (i, j))

    def points(pointmap: Tensor, index: Tensor) -> Tensor:
        return torch.gather(pointmap, 1, index[..., None].expand(-1, -1, 3))

    here = points(map_i, pixels)
    pose, K = batch.world_from_cam[:, j], batch.K[:, j]
    in_camera = into_frame(pose[:, None, :3, :3], here - pose[:, None, :3, 3])
    z = in_camera[..., 2]
    front = z > 1e-3
    safe = torch.where(front, z, 1.0)
    x = K[:, None, 0, 0] * in_camera[..., 0] / safe + K[:, None, 0, 2]
    y = K[:, None, 1, 1] * in_camera[..., 1] / safe + K[:, None, 1, 2]
    inside = front & (x >= 0) & (x < W) & (y >= 0) & (y < H)
    xy = torch.stack([x, y], -1)
    cell = _cell(xy, H, W)
    usable = inside & torch.gather(valid_j, 1, cell)
    usable = usable & torch.gather(batch.valid[:, i].flatten(1), 1, pixels)

    there = points(map_j, cell)
    error = _distance(here, there)
    footprint = z / K[:, None, 0, 0]
    same = torch.gather(surface_j, 1, cell) == torch.gather(surface_i, 1, pixels)
    spacing = _spacing(map_j, valid_j, there, cell, H, W)
    reach = footprint + torch.where(same, torch.minimum(spacing, 0.6 * z), 0.0)
    return xy, usable & (error < reach)


def _spacing(
    pointmap: Float[Tensor, "b p 3"],
    valid: Bool[Tensor, "b p"],
    center: Float[Tensor, "b n 3"],
    cell: Int[Tensor, "b n"],
    height: int,
    width: int,
) -> Float[Tensor, "b n"]:
    """Distance to the neighbours of a pixel: nearer one of each axis, larger of the axes."""
    x, y = cell % width, cell // width

    def to(neighbour: Tensor, exists: Tensor) -> Tensor:
        index = torch.where(exists, neighbour, cell)
        point = torch.gather(pointmap, 1, index[..., None].expand(-1, -1, 3))
        usable = exists & torch.gather(valid, 1, index)
        return torch.where(usable, _distance(point, center), torch.inf)

    across = torch.minimum(to(cell - 1, x > 0), to(cell + 1, x < width - 1))
    along = torch.minimum(to(cell - width, y > 0), to(cell + width, y < height - 1))
    across, along = (torch.where(torch.isfinite(d), d, 0.0) for d in (across, along))
    return torch.maximum(across, along)


def _distance(
    a: Float[Tensor, "*shape 3"], b: Float[Tensor, "*shape 3"]
) -> Float[Tensor, "*shape"]:
    d = a - b
    return torch.sqrt(d[..., 0] * d[..., 0] + d[..., 1] * d[..., 1] + d[..., 2] * d[..., 2])
