"""Thin structures: railings, wires and crossed rods, in the last slots of a scene."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from .placement import Layout, vector
from .rng import SceneRandom
from .scene import NO_CUT
from .templates import Solids

_RODS = 10
_ROD = (1.0, 0.0, 0.0, -1.0, 0.0)  # a cylinder around the local z axis


def add_thin(rng: SceneRandom, layout: Layout, solids: Solids) -> Solids:
    """Return the solids with up to ten thin rods in each of two thirds of the scenes.

    They take the last slots; a crowded scene loses the least important parts of its objects there.
    """
    start, end = _rods(rng, layout)
    B, P = solids.active.shape
    axis = end - start
    length = axis.norm(dim=-1).clamp_min(1e-3)
    scale = layout.unit_m.clamp(0.05, 1.5)[:, None]
    radius = rng.log_uniform(0.006, 0.03, 1) * scale * rng.log_uniform(0.8, 1.25, _RODS)
    last = slice(P - _RODS, P)
    exists = rng.chance(0.66, 1) & rng.chance(0.9, _RODS)
    half = vector(radius, radius, 0.5 * length) * exists[..., None]
    focus = layout.focus.argmax(1, keepdim=True).expand(-1, _RODS)

    def put(name: str, value: Tensor) -> Tensor:
        old: Tensor = getattr(solids, name).clone()
        mask = exists.reshape(*exists.shape, *[1] * (old.ndim - 2))
        old[:, last] = torch.where(mask, value, old[:, last])
        return old

    quadric = torch.tensor(_ROD, device=rng.device).expand(B, _RODS, 5)
    cuts = torch.tensor([NO_CUT, NO_CUT], device=rng.device).expand(B, _RODS, 2, 4)
    return replace(
        solids,
        center=put("center", 0.5 * (start + end)),
        half_size=put("half_size", half),
        rotation=put("rotation", _frame(axis / length[..., None])),
        quadric=put("quadric", quadric),
        cuts=put("cuts", cuts),
        owner=put("owner", focus),
        active=put("active", exists),
    )


def _rods(rng: SceneRandom, layout: Layout) -> tuple[Tensor, Tensor]:
    """Ends (B, n, 3) of the rods, metres: a railing, wires overhead, or a tangle."""
    objects, unit = layout.objects, layout.unit_m[:, None]
    host = (layout.focus * rng.uniform(0.2, 1.0, layout.focus.shape[1])).argmax(1)
    row = torch.arange(len(host), device=rng.device)
    middle, size = objects.center[row, host], objects.half_size[row, host]
    eye = 0.5 * (layout.eye_low + layout.eye_high) - middle  # between cameras and what they see
    angle = torch.atan2(eye[:, 1:2], eye[:, :1]) + 0.5 * rng.normal(1)
    out = vector(angle.cos(), angle.sin(), torch.zeros_like(angle))
    along = vector(-angle.sin(), angle.cos(), torch.zeros_like(angle))
    reach = torch.minimum(size[:, :2].amax(-1, keepdim=True), 3.0 * unit)
    foot = middle[:, None] + out * (reach * rng.uniform(0.9, 1.8, 1))[..., None]
    foot[..., 2] = (middle[:, 2] - size[:, 2])[:, None]
    up = torch.zeros_like(foot)
    up[..., 2] = 1.0

    k = torch.arange(_RODS, device=rng.device)
    width = unit * rng.log_uniform(0.6, 2.5, 1)
    height = unit * rng.log_uniform(0.4, 1.2, 1)
    place = (k.clamp(max=_RODS - 3) / (_RODS - 3) - 0.5) * 2.0 * width
    base = foot + along * place[..., None]
    rail = k >= _RODS - 2
    level = torch.where(k == _RODS - 1, 1.0, 0.15) * height
    railing_start = torch.where(
        rail[:, None], foot - along * width[..., None] + up * level[..., None], base
    )
    railing_end = torch.where(
        rail[:, None],
        foot + along * width[..., None] + up * level[..., None],
        base + up * height[..., None],
    )

    wire = unit * rng.uniform(0.6, 2.5, _RODS)
    drift = rng.normal(2, _RODS)[..., None] * 0.25 * unit[..., None, None]
    wires_start = foot - along * 3.0 * unit[..., None] + out * drift[:, 0] + up * wire[..., None]
    wires_end = foot + along * 3.0 * unit[..., None] + out * drift[:, 1] + up * wire[..., None]

    tangle = rng.normal(2, _RODS, 3) * 0.5 * unit[..., None, None]
    tangle[..., 2] = tangle[..., 2].abs() * 1.5
    kind = rng.integers(3, 1)[..., None]

    def choose(railing: Tensor, wires: Tensor, free: Tensor) -> Float[Tensor, "b n 3"]:
        return torch.where(kind == 0, railing, torch.where(kind == 1, wires, free))

    return (
        choose(railing_start, wires_start, foot + tangle[:, 0]),
        choose(railing_end, wires_end, foot + tangle[:, 1]),
    )


def _frame(z: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3 3"]:
    """Rotations whose third column is z."""
    other = torch.where(z[..., 2:].abs() < 0.9, *_axes(z))
    x = torch.linalg.cross(other, z, dim=-1)
    x = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return torch.stack([x, torch.linalg.cross(z, x, dim=-1), z], -1)


def _axes(like: Tensor) -> tuple[Tensor, Tensor]:
    up, side = torch.zeros_like(like), torch.zeros_like(like)
    up[..., 2], side[..., 0] = 1.0, 1.0
    return up, side
