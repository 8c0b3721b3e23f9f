"""Lay out scenes: rooms, streets, facades, squares, table tops and loose shapes.

Each family places objects for all its scenes of a batch at once; `draw_layouts` runs the families
on their scenes and joins the results. World frame: metres, z up, floor or mean ground at z = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .rng import SceneRandom
from .templates import (
    INDEX,
    UPRIGHT_ROUND,
    Objects,
    is_one_of,
    pick_templates,
    usual_half_size,
)

FAMILIES = ("room", "street", "facade", "square", "tabletop", "shapes")
FAMILY_WEIGHTS = (0.34, 0.10, 0.22, 0.12, 0.15, 0.07)

NUM_OBJECTS = 40
NUM_WAVES = 4


@dataclass(frozen=True)
class Layout:
    """Where everything stands in each of B scenes, and where a photographer may stand.

    Attributes:
        objects: N objects a scene, the important ones first.
        room_center, room_half_size: of the inside-out box, metres.
        indoor, ceiling, has_ground: see `SceneBatch`.
        ground_waves, ground_amplitude: see `SceneBatch`.
        unit_m: size of a typical object.
        eye_low, eye_high: box for the first camera; z counts from the ground below it.
        focus: probability that the first camera looks at each object (not normalised).
        kind: index into `FAMILIES`.
    """

    objects: Objects
    room_center: Float[Tensor, "b 3"]
    room_half_size: Float[Tensor, "b 3"]
    indoor: Bool[Tensor, " b"]
    ceiling: Bool[Tensor, " b"]
    has_ground: Bool[Tensor, " b"]
    ground_waves: Float[Tensor, "b w 3"]
    ground_amplitude: Float[Tensor, "b w"]
    unit_m: Float[Tensor, " b"]
    eye_low: Float[Tensor, "b 3"]
    eye_high: Float[Tensor, "b 3"]
    focus: Float[Tensor, "b n"]
    kind: Int[Tensor, " b"]


def rotation_z(yaw_rad: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 3 3"]:
    """Rotate about the vertical."""
    c, s = torch.cos(yaw_rad), torch.sin(yaw_rad)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1)
    return rows.reshape(*yaw_rad.shape, 3, 3)


def random_rotation(rng: SceneRandom, *shape: int) -> Float[Tensor, "b *shape 3 3"]:
    """Draw uniformly distributed rotations."""
    q = rng.normal(*shape, 4)
    w, x, y, z = (q / q.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6)).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    return torch.stack(rows, -1).reshape(*w.shape, 3, 3)


class _Placement:
    """Collects groups of objects of one family; `finish` pads them to `NUM_OBJECTS`."""

    def __init__(self, rng: SceneRandom) -> None:
        self.rng = rng
        self._groups: list[dict[str, Tensor]] = []

    def add(
        self,
        template: Tensor,
        center: Tensor,
        half_size: Tensor,
        yaw_rad: Tensor | float = 0.0,
        active: Tensor | bool = True,
        large: bool = False,
        focus: float = 1.0,
        rotation: Tensor | None = None,
    ) -> None:
        """Add (B, n) objects."""
        if rotation is None:
            yaw = torch.as_tensor(yaw_rad, device=template.device, dtype=torch.float32)
            rotation = rotation_z(yaw.expand(template.shape))
        on = torch.as_tensor(active, device=template.device).expand(template.shape)
        self._groups.append(
            {
                "template": template,
                "center": center,
                "half_size": half_size,
                "rotation": rotation,
                "active": on,
                "large": torch.full_like(on, large),
                "focus": on * focus,
            }
        )

    def finish(self) -> tuple[Objects, Tensor]:
        """Return the objects and their focus weights."""
        joined = {k: torch.cat([g[k] for g in self._groups], 1) for k in self._groups[0]}
        missing = NUM_OBJECTS - joined["template"].shape[1]
        if missing < 0:
            raise AssertionError(f"NUM_OBJECTS is too small by {-missing}")
        padded = {}
        for key, value in joined.items():
            filler = value.new_zeros((value.shape[0], missing, *value.shape[2:]))
            padded[key] = torch.cat([value, filler], 1)
        focus = padded.pop("focus")
        return Objects(**padded), focus


def _usual(rng: SceneRandom, template: Tensor, default_m: float = 0.3) -> Tensor:
    """Half sizes near the usual ones: +-30 % overall and +-15 % per axis."""
    count = template.shape[1]
    size = usual_half_size(template, default_m)
    size = size * rng.log_uniform(0.75, 1.35, count, 1) * rng.log_uniform(0.87, 1.15, count, 3)
    same = torch.stack([size[..., 0], size[..., 0], size[..., 2]], -1)
    return torch.where(is_one_of(template, UPRIGHT_ROUND)[..., None], same, size)


def _constant(template: str, like: Tensor, count: int) -> Tensor:
    index = INDEX[template]
    return torch.full((like.shape[0], count), index, dtype=torch.int64, device=like.device)


def _vector(*components: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*components), -1)


def _against_wall(
    wall: Tensor, along: Tensor, half_size: Tensor, room: Tensor
) -> tuple[Tensor, Tensor]:
    """Put objects with their backs to the walls +x, -x, +y, -y of a box around the origin.

    Args:
        wall: (B, n) 0..3.
        along: (B, n) position along the wall in -1..1.
        half_size: (B, n, 3).
        room: (B, 3) half sizes of the box.

    Returns:
        xy (B, n, 2) and yaw (B, n).
    """
    side = 1.0 - 2.0 * (wall % 2)
    across_x = wall < 2
    length = torch.where(across_x, room[:, None, 0], room[:, None, 1])
    breadth = torch.where(across_x, room[:, None, 1], room[:, None, 0])
    depth = side * (length - half_size[..., 1])
    shift = along * (breadth - half_size[..., 0]).clamp_min(0.0)
    xy = torch.where(across_x[..., None], _vector(depth, shift), _vector(shift, depth))
    yaw = torch.where(across_x, -side * (math.pi / 2), (1.0 - side) * (math.pi / 2))
    return xy, yaw


def _spread(rng: SceneRandom, count: int, per_wall: int) -> tuple[Tensor, Tensor]:
    """Walls in turn and stratified positions along them, so that few objects collide."""
    k = torch.arange(count, device=rng.device)
    wall = (k + rng.integers(4, 1)) % 4
    along = ((k // 4) % per_wall + rng.uniform(0.1, 0.9, count)) / per_wall * 2.0 - 1.0
    return wall, along


def _no_ground(rng: SceneRandom) -> dict[str, Tensor]:
    B, device = rng.batch_size, rng.device
    return {
        "ground_waves": torch.zeros(B, NUM_WAVES, 3, device=device),
        "ground_amplitude": torch.zeros(B, NUM_WAVES, device=device),
    }


def _waves(rng: SceneRandom, unit: Tensor, chance: float, slope: float) -> dict[str, Tensor]:
    """Rolling ground: wave lengths of about 4 to 40 units and slopes of at most `slope`."""
    frequency = rng.log_uniform(0.15, 1.5, NUM_WAVES) / unit[:, None]
    angle = rng.uniform(0.0, 2.0 * math.pi, NUM_WAVES)
    phase = rng.uniform(0.0, 2.0 * math.pi, NUM_WAVES)
    waves = _vector(frequency * torch.cos(angle), frequency * torch.sin(angle), phase)
    steep = rng.log_uniform(slope / 10.0, slope, 1) * rng.chance(chance, 1)
    share = rng.uniform(0.1, 0.5, NUM_WAVES)
    return {"ground_waves": waves, "ground_amplitude": steep * share / frequency}


_FURNITURE = {"sofa": 2.0, "shelf": 2.5, "cabinet": 2.5, "desk": 2.0, "bed": 1.0, "table": 1.0,
              "floor_lamp": 0.7, "plant": 0.7, "screen": 0.3}  # fmt: skip
_FREE_STANDING = {"table": 2.5, "round_table": 1.5, "chair": 3.0, "sofa": 1.0, "plant": 0.8,
                  "floor_lamp": 0.6, "box": 0.8, "rounded": 0.6, "cylinder": 0.5,
                  "figure": 0.3}  # fmt: skip
_ON_WALL = {"window": 2.0, "door": 1.6, "picture": 3.0, "panel": 1.5, "radiator": 0.8,
            "wall_shelf": 1.2}  # fmt: skip
_CLUTTER = {"box": 3.0, "rounded": 1.2, "ball": 1.0, "cylinder": 1.5, "mug": 1.0, "bottle": 1.2,
            "books": 2.5, "stack": 0.8, "toy": 1.2, "screen": 0.6, "plant": 0.5, "cone": 0.4,
            "wedge": 0.4, "cut_box": 0.5}  # fmt: skip
_FLAT_TOP = ("table", "round_table", "desk", "cabinet", "shelf", "box", "bed")


def _on_top(
    rng: SceneRandom,
    count: int,
    host: Tensor,
    host_center: Tensor,
    host_half: Tensor,
    spread: float,
) -> Tensor:
    """Points on the top faces of the given hosts (indices (B, count) into (B, n) objects)."""
    index = host[..., None].expand(-1, -1, 3)
    center = torch.gather(host_center, 1, index)
    half = torch.gather(host_half, 1, index)
    shift = rng.uniform(-spread, spread, count, 3) * half
    return _vector(
        center[..., 0] + shift[..., 0],
        center[..., 1] + shift[..., 1],
        center[..., 2] + half[..., 2],
    )


def _small_size(rng: SceneRandom, template: Tensor, typical_m: Tensor) -> Tensor:
    """Usual sizes, or random boxes of about `typical_m` for shapes without one."""
    count = template.shape[1]
    free = typical_m[:, None, None] * rng.log_uniform(0.45, 1.5, count, 3)
    usual = _usual(rng, template, 0.0)
    return torch.where(usual > 0.0, usual, free)


def _room_shell(rng: SceneRandom, place: _Placement, room: Tensor) -> None:
    """Add skirting boards, a ceiling of its own and a carpet."""
    wall = torch.arange(4, device=rng.device).expand(rng.batch_size, 4)
    breadth = torch.where(wall < 2, room[:, None, 1], room[:, None, 0])
    height = rng.uniform(0.03, 0.09, 1).expand(-1, 4)
    half = _vector(breadth, rng.uniform(0.006, 0.02, 1), height)
    xy, yaw = _against_wall(wall, torch.zeros_like(breadth), half, room)
    center = torch.cat([xy, height[..., None]], -1)
    place.add(_constant("box", room, 4), center, half, yaw, rng.chance(0.55, 1), focus=0.0)
    top = _vector(room[:, None, 0], room[:, None, 1], rng.uniform(0.01, 0.03, 1))
    center = _vector(torch.zeros_like(top[..., 0]), torch.zeros_like(top[..., 0]),
                     2.0 * room[:, None, 2] - top[..., 2])  # fmt: skip
    place.add(_constant("box", room, 1), center, top, 0.0, rng.chance(0.85, 1), True, 0.0)
    rug = _vector(rng.uniform(0.5, 1.4, 1), rng.uniform(0.4, 1.0, 1), rng.uniform(0.004, 0.012, 1))
    center = torch.cat([rng.uniform(-0.4, 0.4, 1, 2) * room[:, None, :2], rug[..., 2:]], -1)
    place.add(_constant("box", room, 1), center, rug, rng.uniform(-0.2, 0.2, 1),
              rng.chance(0.45, 1), True, 0.3)  # fmt: skip


def _add_wall_items(
    rng: SceneRandom, place: _Placement, room: Tensor, count: int, chance: float
) -> None:
    template = pick_templates(rng, _ON_WALL, count)
    wall, along = _spread(rng, count, max(1, count // 4))
    half = _usual(rng, template)
    full_wall = is_one_of(template, ("panel",)) & rng.chance(0.3, count)
    big = _vector(rng.uniform(0.6, 2.2, count), 0.015 + 0.0 * half[..., 1], 0.85 * room[:, None, 2])
    half = torch.where(full_wall[..., None], big, half)
    stretch = is_one_of(template, ("picture",))[..., None]
    aspect = rng.log_uniform(0.4, 1.6, count, 2)
    aspect = _vector(aspect[..., 0], torch.ones_like(aspect[..., 0]), aspect[..., 1])
    half = torch.where(stretch, half * aspect, half)
    half = torch.minimum(half, 0.96 * room[:, None].expand_as(half))
    xy, yaw = _against_wall(wall, along, half, room)
    tall = 2.0 * room[:, None, 2]
    level = half[..., 2] + (tall - 2.0 * half[..., 2]).clamp_min(0.0) * rng.uniform(
        0.35, 0.8, count
    )
    on_floor = is_one_of(template, ("door", "radiator")) | full_wall
    level = torch.where(on_floor, half[..., 2] + 0.08 * is_one_of(template, ("radiator",)), level)
    center = torch.cat([xy, level[..., None]], -1)
    place.add(template, center, half, yaw, rng.chance(chance, count), True, 0.8)


def _room(rng: SceneRandom) -> Layout:
    """Furnished rooms and halls."""
    B, device = rng.batch_size, rng.device
    place = _Placement(rng)
    plan = rng.uniform(1.5, 3.8, 2) * torch.where(rng.chance(0.15, 1), 1.8, 1.0)
    room = torch.cat([plan, rng.uniform(1.15, 1.65, 1)], -1)
    # furniture along the walls
    n = 6
    template = pick_templates(rng, _FURNITURE, n)
    half = _usual(rng, template)
    half = torch.minimum(half, 0.9 * room[:, None].expand_as(half))
    wall, along = _spread(rng, n, 2)
    xy, yaw = _against_wall(wall, along, half + 0.02, room)
    center = torch.cat([xy, half[..., 2:]], -1)
    place.add(template, center, half, yaw, rng.chance(0.8, n))
    wall_template, wall_center, wall_half = template, center, half
    # furniture on the floor: chairs around the first table, the rest anywhere
    m = 5
    template = pick_templates(rng, _FREE_STANDING, m)
    template[:, 0] = torch.where(rng.chance(0.6), INDEX["table"], template[:, 0])
    half = _small_size(rng, template, rng.uniform(0.15, 0.45))
    half = torch.minimum(half, 0.9 * room[:, None].expand_as(half))
    xy = rng.uniform(-1.0, 1.0, m, 2) * (room[:, None, :2] - 0.5).clamp_min(0.1) * 0.8
    turn = rng.integers(4, m) * (math.pi / 2) + rng.normal(m) * 0.12
    near = is_one_of(template, ("chair",)) & rng.chance(0.6, m)
    around = half[:, :1, 1] + 0.25
    beside = xy[:, :1] + around[..., None] * _vector(torch.sin(turn), -torch.cos(turn))
    xy = torch.where(near[..., None], beside, xy)
    center = torch.cat([xy, half[..., 2:]], -1)
    yaw = torch.where(near, turn + math.pi, torch.where(rng.chance(0.7, m), turn, turn * 1.7))
    place.add(template, center, half, yaw, rng.chance(0.75, m))
    # small things on flat tops
    k = 8
    hosts = torch.cat([wall_center, center], 1), torch.cat([wall_half, half], 1)
    host_ok = is_one_of(torch.cat([wall_template, template], 1), _FLAT_TOP)
    active = place._groups[0]["active"], place._groups[1]["active"]
    host_ok = host_ok & torch.cat(active, 1)
    score = rng.uniform(0.0, 1.0, k, n + m) + 2.0 * host_ok[:, None]
    host = score.argmax(-1)
    template = pick_templates(rng, _CLUTTER, k)
    half = _small_size(rng, template, rng.uniform(0.05, 0.16))
    half = half * torch.where(is_one_of(template, ("plant",)), 0.45, 1.0)[..., None]
    top = _on_top(rng, k, host, *hosts, spread=0.75)
    center = torch.cat([top[..., :2], top[..., 2:] + half[..., 2:]], -1)
    on = rng.chance(0.8, k) & torch.gather(host_ok, 1, host)
    place.add(template, center, half, rng.uniform(0.0, 2.0 * math.pi, k), on, focus=0.7)
    _add_wall_items(rng, place, room, 8, 0.8)
    _room_shell(rng, place, room)
    lamp = _constant("hanging_lamp", room, 1)
    half = _usual(rng, lamp)
    center = torch.cat([rng.uniform(-0.4, 0.4, 1, 2) * room[:, None, :2],
                        2.0 * room[:, None, 2:] - half[..., 2:]], -1)  # fmt: skip
    place.add(lamp, center, half, 0.0, rng.chance(0.4, 1), focus=0.2)
    objects, focus = place.finish()
    low = torch.cat([-0.9 * plan, rng.uniform(0.4, 1.1, 1)], -1)
    high = torch.cat([0.9 * plan, (1.85 * room[:, 2:]).clamp(max=2.0)], -1)
    return Layout(
        objects=objects,
        room_center=torch.cat([torch.zeros(B, 2, device=device), room[:, 2:]], -1),
        room_half_size=room,
        indoor=torch.ones(B, dtype=torch.bool, device=device),
        ceiling=rng.chance(0.92),
        has_ground=torch.zeros(B, dtype=torch.bool, device=device),
        **_no_ground(rng),
        unit_m=torch.ones(B, device=device),
        eye_low=low,
        eye_high=high,
        focus=focus,
        kind=torch.full((B,), FAMILIES.index("room"), device=device),
    )


_BUILDINGS = {"block": 4.0, "gabled": 2.0, "setback": 1.5, "house": 1.5, "tower": 0.5,
              "church": 0.5}  # fmt: skip
_STREET_THINGS = {"car": 3.0, "van": 1.0, "tree": 2.5, "conifer": 0.5, "street_lamp": 1.5,
                  "figure": 1.5, "bench": 0.7, "bush": 1.0, "statue": 0.3, "box": 0.8,
                  "cylinder": 0.4, "rock": 0.3, "stairs": 0.2}  # fmt: skip


def _outdoors(rng: SceneRandom, place: _Placement, unit: Tensor, kind: str, **rest) -> Layout:
    """Close an outdoor layout."""
    B, device = rng.batch_size, rng.device
    objects, focus = place.finish()
    return Layout(
        objects=objects,
        room_center=torch.zeros(B, 3, device=device),
        room_half_size=torch.ones(B, 3, device=device),
        indoor=torch.zeros(B, dtype=torch.bool, device=device),
        ceiling=torch.zeros(B, dtype=torch.bool, device=device),
        has_ground=torch.ones(B, dtype=torch.bool, device=device),
        unit_m=unit,
        focus=focus,
        kind=torch.full((B,), FAMILIES.index(kind), device=device),
        **rest,
    )


def _street(rng: SceneRandom) -> Layout:
    """A street along y with buildings on both sides."""
    place = _Placement(rng)
    road = rng.uniform(2.5, 8.0, 1)  # half width
    cell = rng.uniform(3.5, 8.0, 1)  # half length of a plot
    n = 8
    k = torch.arange(n, device=rng.device)
    side = 1.0 - 2.0 * (k % 2)
    template = pick_templates(rng, _BUILDINGS, n)
    half = usual_half_size(template, 1.0)
    half = torch.stack([cell * rng.uniform(0.75, 1.0, n), half[..., 1] * rng.uniform(0.6, 1.0, n),
                        half[..., 2] * rng.log_uniform(0.5, 1.3, n)], -1)  # fmt: skip
    x = side * (road + rng.uniform(0.0, 1.0, n) + half[..., 1])
    y = ((k // 2) - 1.5) * 2.0 * cell + rng.normal(n) * 0.3
    yaw = -side.expand_as(x) * (math.pi / 2)
    building_center = _vector(x, y, half[..., 2] - 0.3)
    place.add(template, building_center, half, yaw, rng.chance(0.9, n), True)
    building_half = half
    # the end of the street
    template = pick_templates(rng, _BUILDINGS, 1)
    half = _usual(rng, template)
    center = _vector(rng.normal(1) * 2.0, 4.5 * cell + half[..., 1], half[..., 2] - 0.3)
    place.add(template, center, half, math.pi, rng.chance(0.6, 1), True, 0.5)
    # windows and doors on the fronts
    m = 8
    template = pick_templates(rng, {"window_sill": 4.0, "window": 2.0, "door": 1.5, "balcony": 1.0,
                                    "awning": 0.7, "picture": 0.7}, m)  # fmt: skip
    half = _usual(rng, template)
    host = rng.integers(n, m)
    index = host[..., None].expand(-1, -1, 3)
    owner, size = torch.gather(building_center, 1, index), torch.gather(building_half, 1, index)
    front = 1.0 - 2.0 * (host % 2)
    level = torch.where(is_one_of(template, ("door",)), half[..., 2],
                        half[..., 2] + rng.uniform(0.8, 5.0, m))  # fmt: skip
    center = _vector(
        owner[..., 0] - front * (size[..., 1] + half[..., 1] * 0.6),
        owner[..., 1] + rng.uniform(-0.8, 0.8, m) * size[..., 0],
        torch.minimum(level, 2.0 * size[..., 2] - half[..., 2] - 0.3),
    )
    place.add(template, center, half, -front * (math.pi / 2), rng.chance(0.85, m), focus=0.5)
    # things along the kerb and pavements
    q = 8
    template = pick_templates(rng, _STREET_THINGS, q)
    half = _small_size(rng, template, rng.uniform(0.3, 0.8))
    kerb = 1.0 - 2.0 * rng.integers(2, q)
    x = kerb * road * rng.uniform(0.35, 0.85, q)
    y = (torch.arange(q, device=rng.device) + rng.uniform(0.0, 1.0, q) - q / 2) * cell * 0.8
    yaw = torch.where(rng.chance(0.8, q), math.pi / 2, rng.uniform(0.0, 6.28, q))
    place.add(template, _vector(x, y, half[..., 2] - 0.02), half, yaw, rng.chance(0.75, q))
    pavement = _vector(road * rng.uniform(0.1, 0.3, 2), 6.0 * cell + road * 0, 0.07 + road * 0)
    x = torch.tensor([-1.0, 1.0], device=rng.device) * (road - pavement[..., 0])
    place.add(_constant("box", road, 2), _vector(x, 0.0 * x, 0.02 + 0.0 * x), pavement, 0.0,
              rng.chance(0.6, 1), False, 0.0)  # fmt: skip
    unit = rng.uniform(2.0, 4.0)
    zero = torch.zeros_like(road[:, 0])
    lift = torch.where(rng.chance(0.2), 4.0, 0.0)
    return _outdoors(
        rng, place, unit, "street",
        **_waves(rng, 3.0 * unit, 0.4, 0.03),
        eye_low=torch.stack([-0.85 * road[:, 0], -4.0 * cell[:, 0], 1.1 + lift * 0.3], -1),
        eye_high=torch.stack([0.85 * road[:, 0], 3.5 * cell[:, 0], zero + 2.0 + lift], -1),
    )  # fmt: skip


def _facade(rng: SceneRandom) -> Layout:
    """One richly structured wall: windows, portal, columns, ledges, or a free relief."""
    B, device = rng.batch_size, rng.device
    place = _Placement(rng)
    width, height = rng.log_uniform(2.0, 8.0, 1), rng.log_uniform(1.8, 6.0, 1)  # half sizes
    zero = torch.zeros_like(width)
    wall = _vector(width, zero + 1.5, height + 0.3)
    place.add(_constant("box", width, 1), _vector(zero, zero + 1.5, height - 0.3), wall, 0.0, True,
              True, 1.0)  # fmt: skip
    # a grid of windows, one of its lowest cells is the entrance
    n = 10
    columns = 2 + rng.integers(4, 1)
    rows = ((n + columns - 1) // columns).clamp(max=3)
    k = torch.arange(n, device=device).expand(B, n)
    column, row = k % columns, k // columns
    cell_x, cell_z = width / columns, height / rows
    x = (2 * column + 1) * cell_x - width
    z = (2 * row + 1) * cell_z
    windows = {"window_sill": 3.0, "window": 1.5, "picture": 1.0}
    style = pick_templates(rng, windows, 1)
    template = torch.where(rng.chance(0.2, n), pick_templates(rng, windows, n), style)
    fill = _vector(rng.uniform(0.35, 0.75, 1) * cell_x, zero + rng.uniform(0.05, 0.25, 1),
                   rng.uniform(0.45, 0.8, 1) * cell_z)  # fmt: skip
    half = fill * rng.log_uniform(0.92, 1.08, n, 3)
    entrance = rng.integers(5, 1) % columns
    is_entrance = (row == 0) & (column == entrance)
    free = rng.chance(0.4, 1)  # a free relief instead of the grid
    reliefs = {"box": 4.0, "ball": 2.0, "cylinder": 1.5, "rounded": 2.0, "cut_box": 1.5,
               "wedge": 0.7, "statue": 0.7, "column": 0.7}  # fmt: skip
    relief = pick_templates(rng, reliefs, n)
    bump = torch.minimum(width, height)[..., None] * rng.log_uniform(0.06, 0.4, n, 3)
    bump = bump * torch.tensor([1.0, 0.5, 1.0], device=device)
    spot_x = rng.uniform(-0.9, 0.9, n) * width
    spot_z = rng.uniform(0.05, 1.85, n) * height
    x, z = torch.where(free, spot_x, x), torch.where(free, spot_z, z)
    half = torch.where(free[..., None], bump, half)
    template = torch.where(free, relief, template)
    active = (row < rows) & ~is_entrance & rng.chance(0.93, n) | free
    depth = torch.where(free, rng.uniform(-0.3, 0.6, n), 0.7) * half[..., 1]
    place.add(template, _vector(x, -depth, z), half, 0.0, active, focus=1.0)
    door = pick_templates(rng, {"portal": 3.0, "door": 1.0}, 1)
    half = _vector(0.8 * cell_x, rng.uniform(0.2, 0.6, 1), torch.minimum(0.95 * cell_z, zero + 2.2))
    x = (2 * entrance + 1) * cell_x - width
    place.add(door, _vector(x, -half[..., 1] * 0.6, half[..., 2]), half, 0.0,
              ~free | rng.chance(0.5, 1), focus=2.0)  # fmt: skip
    # ledges, plinth, pilasters or columns at the cell borders
    level = torch.tensor([0.0, 1.0, 2.0, 3.0], device=device) * 2.0 * cell_z
    ledge = _vector(width * 1.01, rng.uniform(0.05, 0.35, 4), rng.uniform(0.04, 0.16, 4))
    lift = torch.minimum(level, 2.0 * height - ledge[..., 2])
    on = rng.chance(0.65, 4) & (level <= 2.0 * height + 0.01)
    place.add(_constant("box", width, 4), _vector(0.0 * lift, -ledge[..., 1] * 0.5, lift), ledge,
              0.0, on, False, 0.5)  # fmt: skip
    m = 5
    border = torch.arange(m, device=device) * 2.0 * cell_x - width
    pillar = torch.where(rng.chance(0.5, 1), INDEX["pilaster"], INDEX["column"]).expand(B, m)
    thick = rng.uniform(0.08, 0.2, 1) * cell_x
    half = _vector(thick, torch.maximum(thick, zero + 0.1), 0.98 * height).expand(B, m, 3)
    on = rng.chance(0.45, 1) & (border <= width + 0.01)
    place.add(pillar, _vector(border, -half[..., 1] * 0.7, half[..., 2]), half, 0.0, on, focus=0.7)
    # fittings
    q = 4
    fittings = {"balcony": 1.5, "picture": 1.5, "awning": 1.0, "panel": 1.5, "cylinder": 0.7,
                "pediment": 0.8, "wall_shelf": 0.5}  # fmt: skip
    template = pick_templates(rng, fittings, q)
    half = _small_size(rng, template, rng.uniform(0.1, 0.3)) * rng.log_uniform(0.5, 1.3, q, 1)
    x, z = rng.uniform(-0.85, 0.85, q) * width, rng.uniform(0.25, 1.8, q) * height
    place.add(template, _vector(x, -half[..., 1] * 0.8, z), half, 0.0, rng.chance(0.6, q))
    # side wings and things in front
    wing = _vector(
        rng.uniform(1.0, 4.0, 2), rng.uniform(1.0, 5.0, 2), height * rng.uniform(0.6, 1.3, 2)
    )
    side = torch.tensor([-1.0, 1.0], device=device)
    forward = rng.uniform(-1.0, 0.9, 2) * wing[..., 1]
    place.add(pick_templates(rng, {"block": 2.0, "box": 1.0, "gabled": 1.0}, 2),
              _vector(side * (width + wing[..., 0] + 0.05), wing[..., 1] - forward.clamp_min(0.0),
                      wing[..., 2] - 0.3), wing, 0.0, rng.chance(0.65, 2), True, 0.3)  # fmt: skip
    f = 6
    template = pick_templates(rng, {"basin": 1.5, "statue": 1.5, "bench": 1.0, "bush": 1.2,
                                    "figure": 1.5, "car": 0.8, "tree": 0.8, "stairs": 0.5,
                                    "rock": 0.5, "box": 0.7, "street_lamp": 0.5}, f)  # fmt: skip
    half = _small_size(rng, template, rng.uniform(0.2, 0.5))
    reach = torch.maximum(width, height)
    y = -rng.uniform(0.1, 0.9, f) * reach - half[..., 1]
    x = ((torch.arange(f, device=device) + rng.uniform(0.0, 1.0, f)) / f * 2.2 - 1.1) * width
    place.add(template, _vector(x, y, half[..., 2] - 0.03), half, rng.uniform(0.0, 6.28, f),
              rng.chance(0.45, f), focus=0.7)  # fmt: skip
    unit = 0.35 * torch.minimum(width, height)[:, 0]
    close = rng.uniform(0.5, 1.2)
    far = reach[:, 0] * rng.uniform(1.2, 2.6)
    return _outdoors(
        rng, place, unit, "facade",
        **_waves(rng, 4.0 * unit, 0.3, 0.04),
        eye_low=torch.stack([-1.2 * width[:, 0], -far, 0.7 + zero[:, 0]], -1),
        eye_high=torch.stack([1.2 * width[:, 0], -close * reach[:, 0],
                              1.9 + rng.chance(0.25) * height[:, 0]], -1),
    )  # fmt: skip


def _square(rng: SceneRandom) -> Layout:
    """A monument, a house or trees in the open, with buildings around."""
    place = _Placement(rng)
    template = pick_templates(rng, {"church": 2.0, "tower": 1.5, "house": 2.0, "gate": 1.5,
                                    "statue": 1.0, "basin": 1.0, "gabled": 1.0, "stairs": 0.5,
                                    "rock": 0.7, "tree": 0.7, "setback": 1.0}, 1)  # fmt: skip
    half = _usual(rng, template)
    size = half.amax(-1)
    center = _vector(rng.normal(1) * 0.3, rng.normal(1) * 0.3, half[..., 2] * 0.97)
    place.add(template, center, half, rng.uniform(0.0, 6.28, 1), True, True, 6.0)
    wild = rng.chance(0.3, 1)  # no buildings around
    n = 7
    ring = size * rng.uniform(2.2, 5.0, 1) + 8.0
    angle = (torch.arange(n, device=rng.device) + rng.uniform(0.0, 0.8, n)) * (2 * math.pi / n)
    template = pick_templates(rng, _BUILDINGS, n)
    half = _usual(rng, template)
    place.add(template, _vector(ring * torch.cos(angle), ring * torch.sin(angle),
                                half[..., 2] - 0.5), half, angle - math.pi / 2,
              rng.chance(0.8, n) & ~wild, True, 0.4)  # fmt: skip
    m = 12
    things = {**_STREET_THINGS, "conifer": 1.5, "rock": 1.5, "bush": 2.0, "cone": 0.3, "wedge": 0.3}
    template = pick_templates(rng, things, m)
    half = _small_size(rng, template, 0.12 * size[:, 0] + 0.2)
    angle, radius = rng.uniform(0.0, 6.28, m), size * (1.1 + 2.4 * rng.uniform(0.0, 1.0, m))
    place.add(template, _vector(radius * torch.cos(angle), radius * torch.sin(angle),
                                half[..., 2] * 0.93), half, rng.uniform(0.0, 6.28, m),
              rng.chance(0.75, m))  # fmt: skip
    unit = 0.5 * size[:, 0]
    reach = 3.2 * size[:, 0]
    lift = torch.where(rng.chance(0.25), size[:, 0], 0.0)
    return _outdoors(
        rng, place, unit, "square",
        **_waves(rng, 2.5 * unit, 0.7, 0.12),
        eye_low=torch.stack([-reach, -reach, 0.0 * reach + 1.0], -1),
        eye_high=torch.stack([reach, reach, 2.0 + lift], -1),
    )  # fmt: skip


def _table_or_floor(rng: SceneRandom, loose: bool, kind: str) -> Layout:
    """Things on a table or on the floor (or, `loose`, shapes in the air), indoors or outdoors."""
    B, device = rng.batch_size, rng.device
    place = _Placement(rng)
    unit = rng.log_uniform(0.5, 2.0) if loose else rng.log_uniform(0.06, 0.2)
    on_table = rng.chance(0.0 if loose else 0.65, 1)
    reach = unit[:, None] * rng.uniform(3.0, 6.0, 1)
    indoor = rng.chance(0.4 if loose else 0.75)
    room = torch.cat([reach * rng.uniform(1.7, 3.0, 2), reach * rng.uniform(1.2, 2.0, 1)], -1)
    room = torch.where(on_table, room.clamp_min(1.2), room)
    table_top = torch.where(on_table, rng.uniform(0.4, 0.9, 1).expand(B, 1), 0.0)
    half = _vector(reach * rng.uniform(0.9, 1.3, 1), reach * rng.uniform(0.7, 1.2, 1),
                   (table_top / 2.0).clamp_min(0.02))  # fmt: skip
    template = pick_templates(rng, {"table": 2.0, "box": 1.0, "round_table": 1.0, "desk": 0.7}, 1)
    zero = torch.zeros_like(reach)
    place.add(template, _vector(zero, zero, half[..., 2]), half, 0.0, on_table, True, 0.3)
    n = 9
    things = {"box": 3.0, "rounded": 2.0, "ball": 2.0, "cylinder": 2.0, "cone": 1.0, "wedge": 1.0,
              "cut_box": 1.0}  # fmt: skip
    things |= {"chair": 0.5, "stairs": 0.4, "house": 0.4, "stack": 1.0} if loose else _CLUTTER
    template = pick_templates(rng, things, n)
    # loose shapes know no usual size; small ones keep theirs half of the time
    free = unit[:, None, None] * rng.log_uniform(0.4, 1.5, n, 3)
    same = _vector(free[..., 0], free[..., 0], free[..., 2])
    free = torch.where(is_one_of(template, UPRIGHT_ROUND)[..., None], same, free)
    usual = _small_size(rng, template, unit)
    half = torch.where(rng.chance(0.0 if loose else 0.5, 1)[..., None], usual, free)
    half = torch.minimum(half, 1.6 * unit[:, None, None].expand_as(half))
    angle, radius = rng.uniform(0.0, 6.28, n), torch.sqrt(rng.uniform(0.0, 1.0, n)) * reach * 0.85
    x, y = radius * torch.cos(angle), radius * torch.sin(angle)
    flying = rng.chance(0.5 if loose else 0.0, n)
    z = table_top + half[..., 2] + flying * rng.uniform(0.0, 3.0, n) * unit[:, None]
    tumbled = flying | rng.chance(0.12, n)
    rotation = torch.where(tumbled[..., None, None], random_rotation(rng, n),
                           rotation_z(rng.uniform(0.0, 6.28, n)))  # fmt: skip
    center = _vector(x, y, z)
    place.add(template, center, half, 0.0, rng.chance(0.9, n), False, 1.0, rotation)
    # stacked on the first ones
    k = 6
    host = torch.arange(k, device=device).expand(B, k)
    template = pick_templates(rng, things, k)
    small = torch.minimum(free[:, :k] * 0.7, half[:, :k] * rng.uniform(0.5, 0.95, k, 3))
    top = _on_top(rng, k, host, center, half, 0.3)
    on = rng.chance(0.55, k) & ~tumbled[:, :k] & place._groups[1]["active"][:, :k]
    place.add(template, _vector(top[..., 0], top[..., 1], top[..., 2] + small[..., 2]), small,
              rng.uniform(0.0, 6.28, k), on, focus=1.0)  # fmt: skip
    # behind: furniture or big shapes
    w = 4
    back = pick_templates(rng, {"shelf": 1.0, "cabinet": 1.0, "box": 1.0, "sofa": 0.5, "plant": 0.5,
                                "chair": 0.5}, w)  # fmt: skip
    wall, along = _spread(rng, w, 1)
    free = reach[..., None] * rng.log_uniform(0.2, 0.7, w, 3)
    size = torch.where(on_table[..., None], _usual(rng, back), free)
    size = torch.minimum(size, 0.6 * room[:, None].expand_as(size))
    xy, yaw = _against_wall(wall, along, size, room)
    place.add(back, torch.cat([xy, size[..., 2:]], -1), size, yaw, rng.chance(0.6, w), True, 0.1)
    _add_wall_items(rng, place, room, 4, 0.6)
    objects, focus = place.finish()
    # pictures on walls that do not exist outdoors
    hidden = torch.zeros(NUM_OBJECTS, dtype=torch.bool, device=device)
    hidden[1 + n + k + w : 1 + n + k + w + 4] = True
    objects = Objects(**{f.name: getattr(objects, f.name) for f in fields(Objects)} | {
        "active": objects.active & (indoor[:, None] | ~hidden)})  # fmt: skip
    span = 1.5 * reach[:, 0]
    near_room = torch.minimum(span[:, None], 0.92 * room[:, :2])
    side = torch.where(indoor[:, None], near_room, span[:, None].expand(B, 2))
    floor = table_top[:, 0] + 0.4 * unit
    ceiling = torch.where(
        indoor, torch.minimum(floor + 5.0 * unit, 1.9 * room[:, 2]), floor + 5 * unit
    )
    ground = _waves(rng, 4.0 * unit, 0.5, 0.08)
    ground["ground_amplitude"] = ground["ground_amplitude"] * ~indoor[:, None]
    return Layout(
        objects=objects,
        room_center=torch.cat([torch.zeros(B, 2, device=device), room[:, 2:]], -1),
        room_half_size=room,
        indoor=indoor,
        ceiling=rng.chance(0.85),
        has_ground=~indoor,
        unit_m=unit,
        eye_low=torch.cat([-side, floor[:, None]], -1),
        eye_high=torch.cat([side, torch.maximum(ceiling, floor + 0.1 * unit)[:, None]], -1),
        focus=focus * ~hidden,
        kind=torch.full((B,), FAMILIES.index(kind), device=device),
        **ground,
    )


def _tabletop(rng: SceneRandom) -> Layout:
    return _table_or_floor(rng, False, "tabletop")


def _shapes(rng: SceneRandom) -> Layout:
    return _table_or_floor(rng, True, "shapes")


_MAKERS: tuple[Callable[[SceneRandom], Layout], ...] = (
    _room,
    _street,
    _facade,
    _square,
    _tabletop,
    _shapes,
)


def draw_layouts(rng: SceneRandom) -> Layout:
    """Draw a family for each scene and lay the scene out."""
    kind = rng.fork("family").choice(FAMILY_WEIGHTS)
    rows, layouts = [], []
    for index, make in enumerate(_MAKERS):
        members = torch.nonzero(kind == index)[:, 0]
        if members.numel():
            rows.append(members)
            layouts.append(make(rng.fork("layout").select(members)))
    order = torch.argsort(torch.cat(rows))
    return _join(layouts, order)


def _join(parts: list, order: Tensor):
    """Join equal dataclasses of tensors along B and reorder their rows."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)[order]
    values = {f.name: [getattr(p, f.name) for p in parts] for f in fields(first)}
    return type(first)(**{name: _join(value, order) for name, value in values.items()})
