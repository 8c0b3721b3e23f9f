"""Things on a table or on the floor, and loose shapes in the air."""

from __future__ import annotations

import torch
from torch import Tensor

from .indoor import add_wall_fittings
from .placement import (
    CLUTTER,
    FAMILIES,
    TAU,
    Group,
    Layout,
    Placement,
    against_wall,
    on_top,
    random_rotation,
    rolling_ground,
    rotation_z,
    small_size,
    spread_over_walls,
    usual_size,
    vector,
)
from .rng import SceneRandom
from .templates import UPRIGHT_ROUND, is_one_of, pick_templates

_TABLES = {"table": 2.0, "box": 1.0, "round_table": 1.0, "desk": 0.7}
_BACKGROUND = {"shelf": 1.0, "cabinet": 1.0, "box": 1.0, "sofa": 0.5, "plant": 0.5, "chair": 0.5}
_SHAPES = {"box": 3.0, "rounded": 2.0, "ball": 2.0, "cylinder": 2.0, "cone": 1.0, "wedge": 1.0,
           "cut_box": 1.0, "chair": 0.5, "stairs": 0.4, "house": 0.4, "stack": 1.0}  # fmt: skip


def lay_tabletop(rng: SceneRandom) -> Layout:
    """Lay out small things on a table or on the floor, mostly indoors."""
    unit = rng.log_uniform(0.06, 0.2)
    reach = unit[:, None] * rng.uniform(3.0, 6.0, 1)
    on_table = rng.chance(0.65, 1)
    room = torch.cat([reach * rng.uniform(1.7, 3.0, 2), reach * rng.uniform(1.2, 2.0, 1)], -1)
    room = torch.where(on_table, room.clamp_min(1.2), room)
    top = torch.where(on_table, rng.uniform(0.4, 0.9, 1), 0.0)
    indoor = rng.chance(0.75, 1)
    place = Placement(rng)
    half = vector(reach * rng.uniform(0.9, 1.3, 1), reach * rng.uniform(0.7, 1.2, 1), top / 2.0)
    zero = torch.zeros_like(reach)
    table = pick_templates(rng, _TABLES, 1)
    place.add(table, (zero, zero, top / 2.0), half, where=on_table, large=True, focus=0.3)
    lower = _scatter(rng, place, CLUTTER, unit, reach, top, usual_chance=0.5, fly_chance=0.0)
    _stack(rng, place, CLUTTER, unit, lower)
    _background(rng, place, room, torch.where(on_table, 1.0, 0.0), reach)
    add_wall_fittings(rng, place, room, 4, 0.6, where=indoor)
    return _close(rng, place, "tabletop", unit, reach, top, room, indoor[:, 0])


def lay_shapes(rng: SceneRandom) -> Layout:
    """Lay out big plain shapes, half of them in the air: nothing to recognise, only geometry."""
    unit = rng.log_uniform(0.5, 2.0)
    reach = unit[:, None] * rng.uniform(3.0, 6.0, 1)
    room = torch.cat([reach * rng.uniform(1.7, 3.0, 2), reach * rng.uniform(1.2, 2.0, 1)], -1)
    top = torch.zeros_like(reach)
    place = Placement(rng)
    lower = _scatter(rng, place, _SHAPES, unit, reach, top, usual_chance=0.0, fly_chance=0.5)
    _stack(rng, place, _SHAPES, unit, lower)
    _background(rng, place, room, torch.zeros_like(reach), reach)
    return _close(rng, place, "shapes", unit, reach, top, room, rng.chance(0.4))


def _free_size(rng: SceneRandom, template: Tensor, unit: Tensor) -> Tensor:
    """Random half sizes of about one unit; round things keep round."""
    half = unit[:, None, None] * rng.log_uniform(0.4, 1.5, template.shape[1], 3)
    same = vector(half[..., 0], half[..., 0], half[..., 2])
    return torch.where(is_one_of(template, UPRIGHT_ROUND)[..., None], same, half)


def _scatter(
    rng: SceneRandom,
    place: Placement,
    weights: dict[str, float],
    unit: Tensor,
    reach: Tensor,
    top: Tensor,
    usual_chance: float,
    fly_chance: float,
) -> Group:
    """Scatter objects over a disc at height `top`; flying and some other ones are tumbled."""
    n = 9
    template = pick_templates(rng, weights, n)
    usual = small_size(rng, template, unit)
    usual_scene = rng.chance(usual_chance, 1, 1)
    half = torch.where(usual_scene, usual, _free_size(rng, template, unit))
    half = torch.minimum(half, 1.6 * unit[:, None, None])
    angle = rng.uniform(0.0, TAU, n)
    radius = torch.sqrt(rng.uniform(0.0, 0.72, n)) * reach
    flying = rng.chance(fly_chance, n)
    z = top + half[..., 2] + flying * rng.uniform(0.0, 3.0, n) * unit[:, None]
    tumbled = (flying | rng.chance(0.12, n))[..., None, None]
    upright = rotation_z(rng.uniform(0.0, TAU, n))
    rotation = torch.where(tumbled, random_rotation(rng, n), upright)
    center = (radius * torch.cos(angle), radius * torch.sin(angle), z)
    return place.add(template, center, half, chance=0.9, rotation=rotation)


def _stack(
    rng: SceneRandom, place: Placement, weights: dict[str, float], unit: Tensor, lower: Group
) -> None:
    """Put smaller objects on the first ones."""
    n = 6
    template = pick_templates(rng, weights, n)
    fitting = lower.half_size[:, :n] * rng.uniform(0.5, 0.95, n, 3)
    half = torch.minimum(0.7 * _free_size(rng, template, unit), fitting)
    host = torch.arange(n, device=rng.device).expand(rng.batch_size, n)
    upright = lower.rotation[:, :n, 2, 2] > 0.999
    place.add(
        template,
        on_top(rng, lower, host, half, 0.3),
        half,
        rng.uniform(0.0, TAU, n),
        chance=0.55,
        where=upright & lower.active[:, :n],
    )


def _background(
    rng: SceneRandom, place: Placement, room: Tensor, furnished: Tensor, reach: Tensor
) -> None:
    """Put furniture (where `furnished`) or large shapes along the walls."""
    n = 4
    template = pick_templates(rng, _BACKGROUND, n)
    free = reach[..., None] * rng.log_uniform(0.2, 0.7, n, 3)
    half = torch.where(furnished[..., None] > 0, usual_size(rng, template), free)
    half = torch.minimum(half, 0.6 * room[:, None])
    wall, along = spread_over_walls(rng, n, 1)
    xy, yaw = against_wall(wall, along, half, room)
    center = torch.cat([xy, half[..., 2:]], -1)
    place.add(template, center, half, yaw, chance=0.6, large=True, focus=0.1)


def _close(
    rng: SceneRandom,
    place: Placement,
    kind: str,
    unit: Tensor,
    reach: Tensor,
    top: Tensor,
    room: Tensor,
    indoor: Tensor,
) -> Layout:
    B, device = rng.batch_size, rng.device
    objects, focus = place.finish()
    side = (1.5 * reach).expand(B, 2)
    side = torch.where(indoor[:, None], torch.minimum(side, 0.92 * room[:, :2]), side)
    low = top[:, 0] + 0.4 * unit
    high = low + 5.0 * unit
    high = torch.where(indoor, torch.minimum(high, 1.9 * room[:, 2]), high)
    high = torch.maximum(high, low + 0.1 * unit)
    ground = rolling_ground(rng, 4.0 * unit, 0.5, 0.08)
    return Layout(
        objects=objects,
        room_center=torch.cat([torch.zeros(B, 2, device=device), room[:, 2:]], -1),
        room_half_size=room,
        indoor=indoor,
        ceiling=rng.chance(0.85),
        has_ground=~indoor,
        ground_waves=ground["ground_waves"],
        ground_amplitude=ground["ground_amplitude"] * ~indoor[:, None],
        unit_m=unit,
        eye_low=torch.cat([-side, low[:, None]], -1),
        eye_high=torch.cat([side, high[:, None]], -1),
        focus=focus,
        kind=torch.full((B,), FAMILIES.index(kind), device=device),
    )
