"""Rooms: furniture along the walls and in the middle, clutter on top, fittings on the walls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .placement import (
    CLUTTER,
    FAMILIES,
    TAU,
    Group,
    Layout,
    Placement,
    against_wall,
    join_groups,
    no_ground,
    on_top,
    small_size,
    spread_over_walls,
    usual_size,
    vector,
)
from .rng import SceneRandom
from .templates import INDEX, is_one_of, pick_templates

_FURNITURE = {"sofa": 2.0, "shelf": 2.5, "cabinet": 2.5, "desk": 2.0, "bed": 1.0, "table": 1.0,
              "floor_lamp": 0.7, "plant": 0.7, "screen": 0.3}  # fmt: skip
_FREE_STANDING = {"table": 2.5, "round_table": 1.5, "chair": 3.0, "sofa": 1.0, "plant": 0.8,
                  "floor_lamp": 0.6, "box": 0.8, "rounded": 0.6, "cylinder": 0.5,
                  "figure": 0.3}  # fmt: skip
_ON_WALL = {"window": 2.0, "door": 1.6, "picture": 3.0, "panel": 1.5, "radiator": 0.8,
            "wall_shelf": 1.2}  # fmt: skip
_FLAT_TOP = ("table", "round_table", "desk", "cabinet", "shelf", "box", "bed")


def furnish_room(rng: SceneRandom) -> Layout:
    """Lay out furnished rooms and halls."""
    B, device = rng.batch_size, rng.device
    place = Placement(rng)
    plan = rng.uniform(1.5, 3.8, 2) * torch.where(rng.chance(0.15, 1), 1.8, 1.0)
    room = torch.cat([plan, rng.uniform(1.15, 1.65, 1)], -1)
    hosts = join_groups(_wall_furniture(rng, place, room), _floor_furniture(rng, place, room))
    _small_things(rng, place, hosts)
    add_wall_fittings(rng, place, room, 8, 0.8)
    _trim(rng, place, room)
    objects, focus = place.finish()
    return Layout(
        objects=objects,
        room_center=torch.cat([torch.zeros_like(plan), room[:, 2:]], -1),
        room_half_size=room,
        indoor=torch.ones(B, dtype=torch.bool, device=device),
        ceiling=rng.chance(0.92),
        has_ground=torch.zeros(B, dtype=torch.bool, device=device),
        **no_ground(rng),
        unit_m=torch.ones(B, device=device),
        eye_low=torch.cat([-0.9 * plan, rng.uniform(0.4, 1.1, 1)], -1),
        eye_high=torch.cat([0.9 * plan, (1.85 * room[:, 2:]).clamp(max=2.0)], -1),
        focus=focus,
        kind=torch.full((B,), FAMILIES.index("room"), device=device),
    )


def _wall_furniture(rng: SceneRandom, place: Placement, room: Tensor) -> Group:
    n = 6
    template = pick_templates(rng, _FURNITURE, n)
    half = torch.minimum(usual_size(rng, template), 0.9 * room[:, None])
    wall, along = spread_over_walls(rng, n, 2)
    xy, yaw = against_wall(wall, along, half + 0.02, room)
    return place.add(template, torch.cat([xy, half[..., 2:]], -1), half, yaw, chance=0.8)


def _floor_furniture(rng: SceneRandom, place: Placement, room: Tensor) -> Group:
    """Put furniture anywhere; most chairs stand around the first piece, which is often a table."""
    n = 5
    template = pick_templates(rng, _FREE_STANDING, n)
    first = torch.where(rng.chance(0.6, 1), INDEX["table"], template[:, :1])
    template = torch.cat([first, template[:, 1:]], 1)
    half = small_size(rng, template, rng.uniform(0.15, 0.45))
    half = torch.minimum(half, 0.9 * room[:, None])
    inner = 0.8 * (room[:, None, :2] - 0.5).clamp_min(0.1)
    xy = rng.uniform(-1.0, 1.0, n, 2) * inner
    yaw = rng.integers(4, n) * (math.pi / 2) + rng.normal(n) * 0.12
    seated = is_one_of(template, ("chair",)) & rng.chance(0.6, n)
    distance = half[:, :1, 1:2] + 0.25
    # the front of a chair, -y turned by its yaw, faces the table
    beside = xy[:, :1] + distance * vector(-torch.sin(yaw), torch.cos(yaw))
    xy = torch.where(seated[..., None], beside, xy)
    yaw = torch.where(seated | rng.chance(0.7, n), yaw, 1.7 * yaw)
    return place.add(template, torch.cat([xy, half[..., 2:]], -1), half, yaw, chance=0.75)


def _small_things(rng: SceneRandom, place: Placement, hosts: Group) -> None:
    """Put clutter on flat tops."""
    n = 8
    flat = is_one_of(hosts.template, _FLAT_TOP) & hosts.active
    score = rng.uniform(0.0, 1.0, n, flat.shape[1]) + 2.0 * flat[:, None]
    host = score.argmax(-1)
    template = pick_templates(rng, CLUTTER, n)
    half = small_size(rng, template, rng.uniform(0.05, 0.16))
    half = half * torch.where(is_one_of(template, ("plant",)), 0.45, 1.0)[..., None]
    center = on_top(rng, hosts, host, half, 0.75)
    found = torch.gather(flat, 1, host)
    place.add(template, center, half, rng.uniform(0.0, TAU, n), chance=0.8, where=found, focus=0.7)


def add_wall_fittings(
    rng: SceneRandom,
    place: Placement,
    room: Tensor,
    count: int,
    chance: float,
    where: Tensor | None = None,
) -> None:
    """Hang windows, doors, pictures and the like on the walls of a room of half sizes (B, 3)."""
    template = pick_templates(rng, _ON_WALL, count)
    half = usual_size(rng, template)
    poster = is_one_of(template, ("panel",)) & rng.chance(0.3, count)  # as high as the room
    big = vector(rng.uniform(0.6, 2.2, count), half[..., 1], 0.85 * room[:, None, 2])
    half = torch.where(poster[..., None], big, half)
    aspect = rng.log_uniform(0.4, 1.6, count, 2)
    aspect = vector(aspect[..., 0], torch.ones_like(aspect[..., 0]), aspect[..., 1])
    half = torch.where(is_one_of(template, ("picture",))[..., None], half * aspect, half)
    half = torch.minimum(half, 0.96 * room[:, None])
    wall, along = spread_over_walls(rng, count, max(1, count // 4))
    xy, yaw = against_wall(wall, along, half, room)
    free = (2.0 * room[:, None, 2] - 2.0 * half[..., 2]).clamp_min(0.0)
    lift = free * rng.uniform(0.35, 0.8, count)
    lift = torch.where(is_one_of(template, ("door",)) | poster, 0.0, lift)
    lift = torch.where(is_one_of(template, ("radiator",)), 0.08, lift)
    center = torch.cat([xy, (half[..., 2] + lift)[..., None]], -1)
    place.add(template, center, half, yaw, chance=chance, where=where, large=True, focus=0.8)


def _trim(rng: SceneRandom, place: Placement, room: Tensor) -> None:
    """Add skirting boards, a ceiling with a surface of its own, a carpet and a lamp."""
    x, y, z = (room[:, None, k] for k in range(3))
    zero = torch.zeros_like(x)
    wall = torch.arange(4, device=rng.device).expand(rng.batch_size, 4)
    height = rng.uniform(0.03, 0.09, 1)
    half = vector(torch.where(wall < 2, y, x), rng.uniform(0.006, 0.02, 1), height)
    xy, yaw = against_wall(wall, torch.zeros_like(half[..., 0]), half, room)
    some = rng.chance(0.55, 1)
    place.add("box", torch.cat([xy, half[..., 2:]], -1), half, yaw, where=some, focus=0.0)
    half = vector(x, y, rng.uniform(0.01, 0.03, 1))
    place.add("box", (zero, zero, 2 * z - half[..., 2]), half, chance=0.85, large=True, focus=0.0)
    half = vector(rng.uniform(0.5, 1.4, 1), rng.uniform(0.4, 1.0, 1), rng.uniform(0.004, 0.012, 1))
    center = (x * rng.uniform(-0.4, 0.4, 1), y * rng.uniform(-0.4, 0.4, 1), half[..., 2])
    place.add("box", center, half, rng.uniform(-0.2, 0.2, 1), chance=0.45, large=True, focus=0.3)
    half = torch.tensor([0.22, 0.22, 0.3], device=rng.device) * rng.log_uniform(0.7, 1.4, 1, 1)
    center = (x * rng.uniform(-0.4, 0.4, 1), y * rng.uniform(-0.4, 0.4, 1), 2 * z - half[..., 2])
    place.add("hanging_lamp", center, half, chance=0.4, focus=0.2)
