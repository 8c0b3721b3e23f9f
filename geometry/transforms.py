"""Rigid and similarity transforms, batched and differentiable.

Poses are 4x4 matrices whose names chain by cancelling: `cam1_from_cam0 = cam1_from_world @
world_from_cam0`. Leading axes are batch axes. Nothing here waits for the GPU, and mixed precision
is switched off inside, because a pose rounded to bfloat16 is wrong by several millimetres per
metre.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def make_rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """Assemble 4x4 rigid transforms.

    Args:
        rotation: (..., 3, 3).
        translation: (..., 3); its batch axes broadcast against those of `rotation`.

    Returns:
        (..., 4, 4).
    """
    if rotation.shape[-2:] != (3, 3) or translation.shape[-1:] != (3,):
        raise ValueError(
            f"expected rotation (..., 3, 3) and translation (..., 3), got {tuple(rotation.shape)} "
            f"and {tuple(translation.shape)}"
        )
    batch = torch.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    top = torch.cat(
        [rotation.expand(*batch, 3, 3), translation.expand(*batch, 3).unsqueeze(-1)], dim=-1
    )  # (..., 3, 4)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1
    return torch.cat([top, bottom], dim=-2)


def rigid_inverse(transform: Tensor) -> Tensor:
    """Invert rigid transforms (..., 4, 4) by transposing the rotation; no linear solve."""
    _check_matrix(transform)
    with torch.autocast(transform.device.type, enabled=False):
        transposed = transform[..., :3, :3].mT
        return make_rigid(transposed, -(transposed @ transform[..., :3, 3:])[..., 0])


def compose(*transforms: Tensor) -> Tensor:
    """Multiply transforms (..., 4, 4): `compose(c_from_b, b_from_a)` is `c_from_a`."""
    if not transforms:
        raise ValueError("compose needs at least one transform")
    for transform in transforms:
        _check_matrix(transform)
    result = transforms[0]
    with torch.autocast(result.device.type, enabled=False):
        for transform in transforms[1:]:
            result = result @ transform
    return result


def transform_points(transform: Tensor, points: Tensor) -> Tensor:
    """Apply affine transforms to points.

    Args:
        transform: (*b, 4, 4), one per leading batch axis of `points`.
        points: (*b, ..., 3), for example (B, H, W, 3) with (B, 4, 4). Batch axes of size 1
            broadcast.

    Returns:
        Points of the broadcast shape.

    Raises:
        ValueError: if the last axes are wrong or `transform` has more batch axes than `points`.
    """
    _check_matrix(transform)
    return _affine(transform[..., :3, :3], transform[..., :3, 3], points)


def rotation_angle_deg(rotation_a: Tensor, rotation_b: Tensor) -> Tensor:
    """Angle in degrees [0, 180] of the rotation between two rotations (..., 3, 3).

    Uses atan2 of the sine and cosine, accurate at 0 and at 180 degrees alike, where acos of the
    trace is not.
    """
    with torch.autocast(rotation_a.device.type, enabled=False):
        relative = rotation_a @ rotation_b.mT
    skew = relative - relative.mT
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1).norm(dim=-1)
    cosine = relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    return torch.rad2deg(torch.atan2(sine, cosine))


def rotation_from_quaternion(quaternion_wxyz: Tensor) -> Tensor:
    """Rotations (..., 3, 3) of quaternions (..., 4) in wxyz order, of any length but zero."""
    if quaternion_wxyz.shape[-1:] != (4,):
        raise ValueError(f"expected quaternions (..., 4), got {tuple(quaternion_wxyz.shape)}")
    unit = quaternion_wxyz / quaternion_wxyz.norm(dim=-1, keepdim=True)
    import roma  # brings torch's compiler with it, 120 MB: only when needed

    return roma.unitquat_to_rotmat(unit.roll(-1, dims=-1))


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """Unit quaternions (..., 4), wxyz with w >= 0, of rotations (..., 3, 3)."""
    if rotation.shape[-2:] != (3, 3):
        raise ValueError(f"expected rotations (..., 3, 3), got {tuple(rotation.shape)}")
    import roma

    quaternion = roma.rotmat_to_unitquat(rotation).roll(1, dims=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def look_at(center: Tensor, target: Tensor, up: Tensor | None = None) -> Tensor:
    """Pose of a camera at `center` that looks at `target`.

    Args:
        center: camera centre in the world, (..., 3).
        target: the point on the optical axis, (..., 3), other than `center`.
        up: the world direction that shall appear upward in the image, (..., 3); (0, -1, 0) when
            None, which is up in a world whose axes are those of an upright OpenCV camera. Where it
            is parallel to the viewing direction, the roll is free and some valid pose is returned.

    Returns:
        cam_from_world, (..., 4, 4).
    """
    if up is None:
        up = center.new_zeros(3) - torch.eye(3, dtype=center.dtype, device=center.device)[1]
    forward = torch.nn.functional.normalize(target - center, dim=-1)
    up = torch.nn.functional.normalize(up, dim=-1).expand_as(forward)
    # The world axis least aligned with the view, for a view along `up`.
    spare = torch.nn.functional.one_hot(forward.abs().argmin(dim=-1), 3).to(forward.dtype)
    right = torch.linalg.cross(forward, up)
    parallel = right.norm(dim=-1, keepdim=True) < 1e-4
    right = torch.where(parallel, torch.linalg.cross(forward, spare), right)
    right = torch.nn.functional.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    cam_from_world_rotation = torch.stack([right, down, forward], dim=-2)
    translation = -(cam_from_world_rotation @ center.expand_as(forward).unsqueeze(-1))[..., 0]
    return make_rigid(cam_from_world_rotation, translation)


@dataclass(frozen=True, eq=False)
class Similarity:
    """`x -> scale * rotation @ x + translation`, batched.

    Attributes:
        scale: (...,), positive.
        rotation: (..., 3, 3).
        translation: (..., 3), in units of the target frame.
    """

    scale: Tensor
    rotation: Tensor
    translation: Tensor

    @classmethod
    def identity(
        cls,
        *batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Similarity:
        """The similarity that changes nothing, with the given batch axes."""
        return cls(
            scale=torch.ones(batch, device=device, dtype=dtype),
            rotation=torch.eye(3, device=device, dtype=dtype).expand(*batch, 3, 3),
            translation=torch.zeros(*batch, 3, device=device, dtype=dtype),
        )

    def apply(self, points: Tensor) -> Tensor:
        """Map points (*b, ..., 3); the batch axes align from the left as in `transform_points`."""
        return _affine(self.scale[..., None, None] * self.rotation, self.translation, points)

    def inverse(self) -> Similarity:
        """The similarity that undoes this one."""
        scale = 1 / self.scale
        rotation = self.rotation.mT
        with torch.autocast(self.scale.device.type, enabled=False):
            rotated = (rotation @ self.translation.unsqueeze(-1))[..., 0]
        return Similarity(scale, rotation, -scale[..., None] * rotated)

    def compose(self, first: Similarity) -> Similarity:
        """The similarity `x -> self(first(x))`."""
        with torch.autocast(self.scale.device.type, enabled=False):
            rotated = (self.rotation @ first.translation.unsqueeze(-1))[..., 0]
            rotation = self.rotation @ first.rotation
        return Similarity(
            self.scale * first.scale,
            rotation,
            self.scale[..., None] * rotated + self.translation,
        )

    def matrix(self) -> Tensor:
        """The 4x4 matrices (..., 4, 4) `[[scale * rotation, translation], [0, 1]]`."""
        return make_rigid(self.scale[..., None, None] * self.rotation, self.translation)


def weighted_procrustes(
    source: Tensor, target: Tensor, weights: Tensor | None = None, with_scale: bool = True
) -> Similarity:
    """Find the similarity that maps `source` onto `target` best in the least-squares sense.

    Minimises `sum w |s R x + t - y|^2`. Coplanar points have a unique answer (never a reflection).
    For collinear points the turn about the line is free and one of the minimisers is returned; with
    one point, or no weight at all, scale is 1. Gradients stay finite in all these cases.

    Args:
        source: (..., N, 3).
        target: (..., N, 3); batch axes broadcast against those of `source`.
        weights: (..., N), not negative; None counts every point once. Points that are not finite in
            `source` or `target`, or whose weight is zero, count for nothing, even in the gradients.
        with_scale: False fixes the scale to 1.

    Returns:
        target_from_source, computed in float32 or better.

    Reference: Umeyama, Least-squares estimation of transformation parameters between two point
        patterns,
    PAMI 1991, eqs. 40-43; Schoenemann 1966 for the rotation.
    """
    if source.shape[-1:] != (3,) or target.shape[-2:] != source.shape[-2:] or source.ndim < 2:
        raise ValueError(
            "expected source and target of one shape (..., N, 3), got "
            f"{tuple(source.shape)} and {tuple(target.shape)}"
        )
    if weights is not None and weights.shape[-1:] != source.shape[-2:-1]:
        raise ValueError(
            f"expected weights (..., {source.shape[-2]}), one per point, got {tuple(weights.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(source.dtype, target.dtype), torch.float32)
    source, target = torch.broadcast_tensors(source.to(dtype), target.to(dtype))
    weight = torch.ones_like(source[..., 0]) if weights is None else weights.to(dtype)
    use = source.isfinite().all(-1) & target.isfinite().all(-1) & (weight > 0)
    weight = torch.where(use, weight, 0)
    source = torch.where(use[..., None], source, 0)
    target = torch.where(use[..., None], target, 0)
    with torch.autocast(source.device.type, enabled=False):
        return _procrustes(source, target, weight, with_scale)


def _procrustes(source: Tensor, target: Tensor, weight: Tensor, with_scale: bool) -> Similarity:
    """Weighted Procrustes of finite points in full precision."""
    tiny = torch.finfo(source.dtype).tiny
    weight = (weight / weight.sum(-1, keepdim=True).clamp_min(tiny)).unsqueeze(-1)  # (..., N, 1)
    source_mean = (weight * source).sum(-2)
    target_mean = (weight * target).sum(-2)
    source_centred = source - source_mean.unsqueeze(-2)
    target_centred = target - target_mean.unsqueeze(-2)
    source_variance = (weight * source_centred.square()).sum((-2, -1))
    target_variance = (weight * target_centred.square()).sum((-2, -1))
    covariance = (weight * target_centred).mT @ source_centred  # (..., 3, 3)
    # Unit size, so that roma's damping of ill-conditioned gradients is relative to the data.
    size = (source_variance * target_variance).detach().sqrt().clamp_min(tiny)
    import roma

    rotation = roma.special_procrustes(covariance / size[..., None, None], gradient_eps=1e-6)
    assert isinstance(rotation, Tensor)  # a pair only when singular values are asked for
    if with_scale:
        # The rounding of the mean alone would leave this much of a single place.
        rounding = (16 * torch.finfo(source.dtype).eps) ** 2
        usable = source_variance > rounding * (weight * source.square()).sum((-2, -1)) + tiny
        scale = (rotation * covariance).sum((-2, -1)) / torch.where(usable, source_variance, 1)
        scale = torch.where(usable, scale, 1)
    else:
        scale = torch.ones_like(source_variance)
    rotated = (rotation @ source_mean.unsqueeze(-1))[..., 0]
    return Similarity(scale, rotation, target_mean - scale[..., None] * rotated)


def _affine(linear: Tensor, translation: Tensor, points: Tensor) -> Tensor:
    """`linear @ points + translation`, the map's batch axes aligned to the left of the points'."""
    batch_axes = linear.ndim - 2
    if points.shape[-1:] != (3,) or points.ndim - 1 < batch_axes:
        raise ValueError(
            f"expected points (..., 3) with at least the {batch_axes} batch axes of the transform "
            f"{tuple(linear.shape[:-2])}, got {tuple(points.shape)}; insert axes of size 1"
        )
    free_axes = points.ndim - 1 - batch_axes
    if free_axes == 0:
        points = points.unsqueeze(-2)
    shape = points.shape
    flat = points.reshape(*shape[:batch_axes], -1, 3)
    with torch.autocast(points.device.type, enabled=False):
        moved = flat @ linear.mT.to(flat.dtype) + translation.to(flat.dtype).unsqueeze(-2)
    moved = moved.reshape(*moved.shape[:-2], *shape[batch_axes:-1], 3)
    return moved.squeeze(-2) if free_axes == 0 else moved


def _check_matrix(transform: Tensor) -> None:
    if transform.shape[-2:] != (4, 4):
        raise ValueError(f"expected transforms (..., 4, 4), got {tuple(transform.shape)}")
