"""Depth maps, pointmaps and the focal length hidden in them, batched and differentiable."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def pixel_grid(
    height: int,
    width: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Centres (x, y) of all pixels, (H, W, 2): the top-left one is (0.5, 0.5)."""
    y = torch.arange(height, device=device, dtype=dtype) + 0.5
    x = torch.arange(width, device=device, dtype=dtype) + 0.5
    return torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)], -1)


def unproject(xy: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """Lift pixels to points of the camera frame.

    Args:
        xy: (*b, ..., 2) pixels.
        depth: (*b, ...) along the optical axis; where it is not positive the result is NaN, with
            zero gradient.
        K: (*b, 3, 3), its batch axes aligned to the left of those of `xy`.

    Returns:
        (*b, ..., 3) in units of `depth`.

    Reference: Hartley & Zisserman, Multiple View Geometry, eq. 6.8 inverted.
    """
    K = _align_intrinsics(K, depth.ndim)
    visible = depth > 0
    z = torch.where(visible, depth, 1)
    y = (xy[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    x = (xy[..., 0] - K[..., 0, 2] - K[..., 0, 1] * y) / K[..., 0, 0]
    points = torch.stack(torch.broadcast_tensors(x * z, y * z, z), dim=-1)
    return torch.where(visible[..., None], points, torch.nan)


def unproject_depth(depth: Tensor, K: Tensor) -> Tensor:
    """Lift depth maps to pointmaps in the camera frame.

    Args:
        depth: (..., H, W) along the optical axis; where it is not positive the result is NaN, with
            zero gradient.
        K: (..., 3, 3) in pixels at the size of `depth`.

    Returns:
        (..., H, W, 3) in units of `depth`.

    Raises:
        ValueError: if K is for other batch axes.
    """
    if depth.ndim < 2:
        raise ValueError(f"expected depth (..., H, W), got {tuple(depth.shape)}")
    if K.ndim - 2 not in (0, depth.ndim - 2):
        raise ValueError(
            f"expected one K per depth map or a single one, got K {tuple(K.shape)} for depth "
            f"{tuple(depth.shape)}"
        )
    grid = pixel_grid(depth.shape[-2], depth.shape[-1], device=depth.device, dtype=depth.dtype)
    return unproject(grid, depth, K)


def project(points: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Project points of the camera frame.

    Args:
        points: (*b, ..., 3).
        K: (*b, 3, 3), its batch axes aligned to the left of those of `points`.

    Returns:
        xy (*b, ..., 2) in pixels, NaN with zero gradient for points not in front of the camera,
        possibly outside the image; depth (*b, ...), also where it is not positive.

    Reference: Hartley & Zisserman, Multiple View Geometry, eq. 6.8.
    """
    if points.shape[-1:] != (3,):
        raise ValueError(f"expected points (..., 3), got {tuple(points.shape)}")
    K = _align_intrinsics(K, points.ndim - 1)
    depth = points[..., 2]
    visible = depth > 0
    z = torch.where(visible, depth, 1)
    x, y = points[..., 0] / z, points[..., 1] / z
    u = K[..., 0, 0] * x + K[..., 0, 1] * y + K[..., 0, 2]
    v = K[..., 1, 1] * y + K[..., 1, 2]
    xy = torch.stack(torch.broadcast_tensors(u, v), dim=-1)
    return torch.where(visible[..., None], xy, torch.nan), depth


def normals(pointmap: Tensor) -> Tensor:
    """Unit surface normals of pointmaps (..., H, W, 3), facing the camera at the origin.

    Central differences inside, one-sided ones at the border; NaN where a needed neighbour is NaN or
    the surface has no extent.
    """
    if pointmap.ndim < 3 or pointmap.shape[-1] != 3 or min(pointmap.shape[-3:-1]) < 2:
        raise ValueError(
            f"expected a pointmap (..., H, W, 3) of 2x2 or more, got {tuple(pointmap.shape)}"
        )
    across = torch.gradient(pointmap, dim=-2)[0]
    down = torch.gradient(pointmap, dim=-3)[0]
    normal = torch.linalg.cross(across, down)
    normal = torch.where((normal * pointmap).sum(-1, keepdim=True) > 0, -normal, normal)
    length = normal.norm(dim=-1, keepdim=True)
    positive = length > 0
    return torch.where(positive, normal / torch.where(positive, length, 1), torch.nan)


def focal_from_pointmap(
    pointmap: Tensor,
    confidence: Tensor | None = None,
    principal_point: Tensor | None = None,
    method: Literal["weiszfeld", "median"] = "weiszfeld",
    focal_range: tuple[float, float] = (0.0, float("inf")),
) -> Tensor:
    """Estimate the focal length that explains pointmaps given in their own camera frame.

    Args:
        pointmap: (..., H, W, 3), of any scale; NaN points do not vote.
        confidence: (..., H, W) weights of the votes; None counts every pixel once.
        principal_point: (..., 2) in pixels (x, y); None is the centre of the image.
        method: "weiszfeld" minimises the sum of distances `|q - f r|` between pixels and projected
            points by ten re-weighted least-squares steps; "median" takes the (weighted) median of
            the votes `x Z/X` and `y Z/Y`.
        focal_range: bounds of the result, relative to the focal length of a 60 degree field of view
            along the longer side.

    Returns:
        (...,) in pixels at the size of the pointmap.

    Reference: Wang et al., DUSt3R: Geometric 3D Vision Made Easy, CVPR 2024, section 3.3
        (Weiszfeld).
    """
    if pointmap.ndim < 3 or pointmap.shape[-1] != 3:
        raise ValueError(f"expected a pointmap (..., H, W, 3), got {tuple(pointmap.shape)}")
    height, width = pointmap.shape[-3:-1]
    if confidence is not None and confidence.shape != pointmap.shape[:-1]:
        raise ValueError(
            f"expected confidence {tuple(pointmap.shape[:-1])}, got {tuple(confidence.shape)}"
        )
    if principal_point is None:
        principal_point = pointmap.new_tensor([width / 2, height / 2])
    pixels = pixel_grid(height, width, pointmap.device, pointmap.dtype)
    pixels = (pixels - principal_point[..., None, None, :]).expand(*pointmap.shape[:-1], 2)
    pixels = pixels.flatten(-3, -2)  # (..., N, 2)
    points = pointmap.flatten(-3, -2)
    weight = None if confidence is None else confidence.flatten(-2)
    if method == "weiszfeld":
        focal = _focal_weiszfeld(pixels, points, weight)
    elif method == "median":
        focal = _focal_median(pixels, points, weight)
    else:
        raise ValueError(f'method must be "weiszfeld" or "median", got {method!r}')
    # The focal length at which the longer side spans 60 degrees.
    reference = max(height, width) / (2 * 3**-0.5)
    return focal.clamp(focal_range[0] * reference, focal_range[1] * reference)


def _focal_weiszfeld(pixels: Tensor, points: Tensor, weight: Tensor | None) -> Tensor:
    ratio = points[..., :2] / points[..., 2:]
    known = ratio.isfinite()
    ratio = torch.where(known, ratio, 0)
    mass = (
        known.all(-1).to(ratio.dtype) if weight is None else torch.where(known.all(-1), weight, 0)
    )
    dot_pixel = (ratio * pixels).sum(-1)
    dot_ratio = ratio.square().sum(-1)
    tiny = torch.finfo(ratio.dtype).tiny
    focal = (mass * dot_pixel).sum(-1) / (mass * dot_ratio).sum(-1).clamp_min(tiny)
    for _ in range(10):
        distance = (pixels - focal[..., None, None] * ratio).norm(dim=-1)
        share = mass / distance.clamp_min(1e-8)
        focal = (share * dot_pixel).sum(-1) / (share * dot_ratio).sum(-1).clamp_min(tiny)
    return focal


def _focal_median(pixels: Tensor, points: Tensor, weight: Tensor | None) -> Tensor:
    votes = (pixels * points[..., 2:] / points[..., :2]).flatten(-2)  # (..., 2N)
    if weight is None:
        return votes.nanmedian(dim=-1).values
    mass = torch.where(votes.isnan(), 0, weight.repeat_interleave(2, dim=-1))
    order = votes.nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=-float("inf")).argsort(
        -1
    )
    cumulative = mass.gather(-1, order).cumsum(-1)
    half = cumulative[..., -1:] / 2
    middle = torch.searchsorted(cumulative.contiguous(), half.contiguous())
    return votes.gather(-1, order).gather(-1, middle.clamp_max(votes.shape[-1] - 1))[..., 0]


def _align_intrinsics(K: Tensor, axes: int) -> Tensor:
    """Give K (*b, 3, 3) free axes so that its batch axes align to the left of `axes` axes."""
    if K.shape[-2:] != (3, 3):
        raise ValueError(f"expected K (..., 3, 3), got {tuple(K.shape)}")
    free = axes - (K.ndim - 2)
    if free < 0:
        raise ValueError(
            f"K has {K.ndim - 2} batch axes but the points only {axes}; insert axes of size 1"
        )
    return K.reshape(*K.shape[:-2], *(1,) * free, 3, 3)
