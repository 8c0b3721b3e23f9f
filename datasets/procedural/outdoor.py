"""Streets, facades and squares."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .placement import (
    FAMILIES,
    TAU,
    Group,
    Layout,
    Placement,
    rolling_ground,
    small_size,
    usual_size,
    vector,
)
from .rng import SceneRandom
from .templates import INDEX, is_one_of, pick_templates, usual_half_size

_BUILDINGS = {"block": 4.0, "gabled": 2.0, "setback": 1.5, "house": 1.5, "tower": 0.5,
              "church": 0.5}  # fmt: skip
_STREET_THINGS = {"car": 3.0, "van": 1.0, "tree": 2.5, "conifer": 0.5, "street_lamp": 1.5,
                  "figure": 1.5, "bench": 0.7, "bush": 1.0, "statue": 0.3, "box": 0.8,
                  "cylinder": 0.4, "rock": 0.3, "stairs": 0.2}  # fmt: skip
_ON_FRONTS = {"window_sill": 4.0, "window": 2.0, "door": 1.5, "balcony": 1.0, "awning": 0.7,
              "picture": 0.7}  # fmt: skip
_WINDOWS = {"window_sill": 3.0, "window": 1.5, "picture": 1.0}
_RELIEF = {"box": 4.0, "ball": 2.0, "cylinder": 1.5, "rounded": 2.0, "cut_box": 1.5, "wedge": 0.7,
           "statue": 0.7, "column": 0.7}  # fmt: skip
_FITTINGS = {"balcony": 1.5, "picture": 1.5, "awning": 1.0, "panel": 1.5, "cylinder": 0.7,
             "pediment": 0.8, "wall_shelf": 0.5}  # fmt: skip
_WINGS = {"block": 2.0, "box": 1.0, "gabled": 1.0}
_FORECOURT = {"basin": 1.5, "statue": 1.5, "bench": 1.0, "bush": 1.2, "figure": 1.5, "car": 0.8,
              "tree": 0.8, "stairs": 0.5, "rock": 0.5, "box": 0.7, "street_lamp": 0.5}  # fmt: skip
_MONUMENTS = {"church": 2.0, "tower": 1.5, "house": 2.0, "gate": 1.5, "statue": 1.0, "basin": 1.0,
              "gabled": 1.0, "stairs": 0.5, "rock": 0.7, "tree": 0.7, "setback": 1.0}  # fmt: skip
_IN_THE_OPEN = {**_STREET_THINGS, "conifer": 1.5, "rock": 1.5, "bush": 2.0, "cone": 0.3,
                "wedge": 0.3}  # fmt: skip


def _close(
    rng: SceneRandom,
    place: Placement,
    kind: str,
    unit: Tensor,
    ground: dict[str, Tensor],
    eye_low: Tensor,
    eye_high: Tensor,
) -> Layout:
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
        eye_low=eye_low,
        eye_high=eye_high,
        focus=focus,
        kind=torch.full((B,), FAMILIES.index(kind), device=device),
        **ground,
    )


def _sides(rng: SceneRandom) -> Tensor:
    return torch.tensor([-1.0, 1.0], device=rng.device)


# ------------------------------------------------------------------------------------ streets


def lay_street(rng: SceneRandom) -> Layout:
    """Lay out a street along y with buildings on both sides."""
    place = Placement(rng)
    road = rng.uniform(2.5, 8.0, 1)  # half width
    plot = rng.uniform(3.5, 8.0, 1)  # half length of a plot
    _things_on_fronts(rng, place, _rows_of_buildings(rng, place, road, plot))
    _kerbside(rng, place, road, plot)
    unit = rng.uniform(2.0, 4.0)
    lift = torch.where(rng.chance(0.2, 1), 4.0, 0.0)  # from a first floor
    return _close(
        rng,
        place,
        "street",
        unit,
        rolling_ground(rng, 3.0 * unit, 0.4, 0.03),
        torch.cat([-0.85 * road, -4.0 * plot, 1.1 + 0.3 * lift], -1),
        torch.cat([0.85 * road, 3.5 * plot, 2.0 + lift], -1),
    )


def _rows_of_buildings(rng: SceneRandom, place: Placement, road: Tensor, plot: Tensor) -> Group:
    n = 8
    k = torch.arange(n, device=rng.device)
    side = 1.0 - 2.0 * (k % 2)
    template = pick_templates(rng, _BUILDINGS, n)
    usual = usual_half_size(template, 1.0)
    half = vector(
        plot * rng.uniform(0.75, 1.0, n),
        usual[..., 1] * rng.uniform(0.6, 1.0, n),
        usual[..., 2] * rng.log_uniform(0.5, 1.3, n),
    )
    x = side * (road + rng.uniform(0.0, 1.0, n) + half[..., 1])
    y = ((k // 2) - 1.5) * 2.0 * plot + rng.normal(n) * 0.3
    yaw = -side.expand_as(x) * (math.pi / 2)
    rows = place.add(template, (x, y, half[..., 2] - 0.3), half, yaw, chance=0.9, large=True)
    template = pick_templates(rng, _BUILDINGS, 1)  # closes the street
    half = usual_size(rng, template)
    center = (2.0 * rng.normal(1), 4.5 * plot + half[..., 1], half[..., 2] - 0.3)
    place.add(template, center, half, math.pi, chance=0.6, large=True, focus=0.5)
    return rows


def _things_on_fronts(rng: SceneRandom, place: Placement, rows: Group) -> None:
    """Put windows, doors and the like on the fronts that face the street."""
    n = 8
    template = pick_templates(rng, _ON_FRONTS, n)
    half = usual_size(rng, template)
    host = rng.integers(rows.template.shape[1], n)
    index = host[..., None].expand(-1, -1, 3)
    owner = torch.gather(rows.center, 1, index)
    size = torch.gather(rows.half_size, 1, index)
    side = 1.0 - 2.0 * (host % 2)
    lift = torch.where(is_one_of(template, ("door",)), 0.0, rng.uniform(0.8, 5.0, n))
    z = torch.minimum(half[..., 2] + lift, 2.0 * size[..., 2] - half[..., 2] - 0.3)
    x = owner[..., 0] - side * (size[..., 1] + half[..., 1] * 0.6)
    y = owner[..., 1] + rng.uniform(-0.8, 0.8, n) * size[..., 0]
    standing = torch.gather(rows.active, 1, host)
    yaw = -side * (math.pi / 2)
    place.add(template, (x, y, z), half, yaw, chance=0.85, where=standing, focus=0.5)


def _kerbside(rng: SceneRandom, place: Placement, road: Tensor, plot: Tensor) -> None:
    """Line the street with cars, trees, lamps and people, and lay pavements."""
    n = 8
    template = pick_templates(rng, _STREET_THINGS, n)
    half = small_size(rng, template, rng.uniform(0.3, 0.8))
    side = 1.0 - 2.0 * rng.integers(2, n)
    x = side * road * rng.uniform(0.35, 0.85, n)
    k = torch.arange(n, device=rng.device)
    y = (k + rng.uniform(0.0, 1.0, n) - n / 2) * 0.8 * plot
    yaw = torch.where(rng.chance(0.8, n), math.pi / 2, rng.uniform(0.0, TAU, n))
    place.add(template, (x, y, half[..., 2] - 0.02), half, yaw, chance=0.75)
    half = vector(road * rng.uniform(0.1, 0.3, 2), 6.0 * plot, torch.full_like(plot, 0.07))
    x = _sides(rng) * (road - half[..., 0])
    center = (x, torch.zeros_like(x), torch.full_like(x, 0.02))
    place.add("box", center, half, where=rng.chance(0.6, 1), focus=0.0)


# ------------------------------------------------------------------------------------ facades


def lay_facade(rng: SceneRandom) -> Layout:
    """Lay out one richly structured wall: windows, portal, columns and ledges, or a free relief."""
    place = Placement(rng)
    width, height = rng.log_uniform(2.0, 8.0, 1), rng.log_uniform(1.8, 6.0, 1)  # half sizes
    zero = torch.zeros_like(width)
    wall = vector(width, zero + 1.5, height + 0.3)
    place.add("box", (zero, zero + 1.5, height - 0.3), wall, large=True)
    columns = 2 + rng.integers(4, 1)
    rows = 1 + rng.integers(3, 1)
    free = rng.chance(0.4, 1)
    entrance = rng.integers(5, 1) % columns
    _openings(rng, place, width, height, columns, rows, entrance, free)
    _ledges_and_pillars(rng, place, width, height, columns, rows)
    n = 4
    template = pick_templates(rng, _FITTINGS, n)
    half = small_size(rng, template, rng.uniform(0.1, 0.3)) * rng.log_uniform(0.5, 1.3, n, 1)
    x, z = rng.uniform(-0.85, 0.85, n) * width, rng.uniform(0.25, 1.8, n) * height
    place.add(template, (x, -0.8 * half[..., 1], z), half, chance=0.6)
    _surroundings(rng, place, width, height)
    unit = 0.35 * torch.minimum(width, height)
    reach = torch.maximum(width, height)
    near, far = reach * rng.uniform(0.5, 1.2, 1), reach * rng.uniform(1.2, 2.6, 1)
    high = 1.9 + rng.chance(0.25, 1) * height
    return _close(
        rng,
        place,
        "facade",
        unit[:, 0],
        rolling_ground(rng, 4.0 * unit[:, 0], 0.3, 0.04),
        torch.cat([-1.2 * width, -far, zero + 0.7], -1),
        torch.cat([1.2 * width, -near, high], -1),
    )


def _openings(
    rng: SceneRandom,
    place: Placement,
    width: Tensor,
    height: Tensor,
    columns: Tensor,
    rows: Tensor,
    entrance: Tensor,
    free: Tensor,
) -> None:
    """Add a grid of windows with an entrance below, or (`free`) bosses all over the wall."""
    n = 10
    k = torch.arange(n, device=rng.device)
    column, row = k % columns, k // columns  # (B, n)
    cell_x, cell_z = width / columns, height / rows
    style = pick_templates(rng, _WINDOWS, 1)
    window = torch.where(rng.chance(0.2, n), pick_templates(rng, _WINDOWS, n), style)
    share = vector(
        rng.uniform(0.35, 0.75, 1), rng.uniform(0.05, 0.25, 1), rng.uniform(0.45, 0.8, 1)
    )
    cell = vector(cell_x, torch.ones_like(cell_x), cell_z)
    window_half = cell * share * rng.log_uniform(0.92, 1.08, n, 3)
    boss = pick_templates(rng, _RELIEF, n)
    boss_half = torch.minimum(width, height)[..., None] * rng.log_uniform(0.06, 0.4, n, 3)
    boss_half = boss_half * torch.tensor([1.0, 0.5, 1.0], device=rng.device)
    half = torch.where(free[..., None], boss_half, window_half)
    entrance_x = (2 * entrance + 1) * cell_x - width
    x = torch.where(free, rng.uniform(-0.9, 0.9, n) * width, (2 * column + 1) * cell_x - width)
    z = torch.where(free, rng.uniform(0.05, 1.85, n) * height, (2 * row + 1) * cell_z)
    out = torch.where(free, rng.uniform(-0.3, 0.6, n), 0.7) * half[..., 1]
    in_grid = (row < rows) & ~((row == 0) & (column == entrance))
    template = torch.where(free, boss, window)
    place.add(template, (x, -out, z), half, chance=0.95, where=free | in_grid)
    door = pick_templates(rng, {"portal": 3.0, "door": 1.0}, 1)
    half = vector(0.8 * cell_x, rng.uniform(0.2, 0.6, 1), (0.95 * cell_z).clamp(max=2.2))
    center = (entrance_x, -0.6 * half[..., 1], half[..., 2])
    place.add(door, center, half, where=~free | rng.chance(0.5, 1), focus=2.0)


def _ledges_and_pillars(
    rng: SceneRandom, place: Placement, width: Tensor, height: Tensor, columns: Tensor, rows: Tensor
) -> None:
    """Structure the wall along the borders of its cells."""
    n = 4
    k = torch.arange(n, device=rng.device)
    half = vector(1.01 * width, rng.uniform(0.05, 0.35, n), rng.uniform(0.04, 0.16, n))
    z = torch.minimum(k * 2.0 * height / rows, 2.0 * height - half[..., 2])
    center = (torch.zeros_like(z), -0.5 * half[..., 1], z)
    place.add("box", center, half, chance=0.65, where=k <= rows, focus=0.5)
    n = 5
    k = torch.arange(n, device=rng.device)
    cell = width / columns
    thickness = rng.uniform(0.08, 0.2, 1) * cell
    half = vector(thickness, thickness.clamp_min(0.1), 0.98 * height)
    x = k * 2.0 * cell - width
    center = (x, -0.7 * half[..., 1], half[..., 2])
    template = torch.where(rng.chance(0.5, 1), INDEX["pilaster"], INDEX["column"])
    some = rng.chance(0.45, 1) & (k <= columns)
    place.add(template.expand(-1, n), center, half.expand(-1, n, 3), where=some, focus=0.7)


def _surroundings(rng: SceneRandom, place: Placement, width: Tensor, height: Tensor) -> None:
    """Add side wings and things in front of the wall."""
    n = 2
    depth = rng.uniform(1.0, 5.0, n)
    half = vector(rng.uniform(1.0, 4.0, n), depth, height * rng.uniform(0.6, 1.3, n))
    x = _sides(rng) * (width + half[..., 0] + 0.05)
    forward = rng.uniform(-1.0, 0.9, n).clamp_min(0.0) * depth
    template = pick_templates(rng, _WINGS, n)
    center = (x, depth - forward, half[..., 2] - 0.3)
    place.add(template, center, half, chance=0.65, large=True, focus=0.3)
    n = 6
    template = pick_templates(rng, _FORECOURT, n)
    half = small_size(rng, template, rng.uniform(0.2, 0.5))
    k = torch.arange(n, device=rng.device)
    x = ((k + rng.uniform(0.0, 1.0, n)) / n * 2.2 - 1.1) * width
    y = -rng.uniform(0.1, 0.9, n) * torch.maximum(width, height) - half[..., 1]
    yaw = rng.uniform(0.0, TAU, n)
    place.add(template, (x, y, half[..., 2] - 0.03), half, yaw, chance=0.45, focus=0.7)


# ------------------------------------------------------------------------------------ squares


def lay_square(rng: SceneRandom) -> Layout:
    """Lay out a monument, a house or a tree in the open, mostly with buildings around."""
    place = Placement(rng)
    template = pick_templates(rng, _MONUMENTS, 1)
    half = usual_size(rng, template)
    size = half.amax(-1)
    center = (0.3 * rng.normal(1), 0.3 * rng.normal(1), 0.97 * half[..., 2])
    place.add(template, center, half, rng.uniform(0.0, TAU, 1), large=True, focus=6.0)
    n = 7
    k = torch.arange(n, device=rng.device)
    ring = size * rng.uniform(2.2, 5.0, 1) + 8.0
    angle = (k + rng.uniform(0.0, 0.8, n)) * (TAU / n)
    template = pick_templates(rng, _BUILDINGS, n)
    half = usual_size(rng, template)
    center = (ring * torch.cos(angle), ring * torch.sin(angle), half[..., 2] - 0.5)
    town, yaw = rng.chance(0.7, 1), angle - math.pi / 2
    place.add(template, center, half, yaw, chance=0.8, where=town, large=True, focus=0.4)
    n = 12
    template = pick_templates(rng, _IN_THE_OPEN, n)
    half = small_size(rng, template, 0.12 * size[:, 0] + 0.2)
    angle, radius = rng.uniform(0.0, TAU, n), size * rng.uniform(1.1, 3.5, n)
    center = (radius * torch.cos(angle), radius * torch.sin(angle), 0.93 * half[..., 2])
    place.add(template, center, half, rng.uniform(0.0, TAU, n), chance=0.75)
    unit, reach = 0.5 * size[:, 0], 3.2 * size
    high = 2.0 + rng.chance(0.25, 1) * size
    return _close(
        rng,
        place,
        "square",
        unit,
        rolling_ground(rng, 2.5 * unit, 0.7, 0.12),
        torch.cat([-reach, -reach, torch.ones_like(reach)], -1),
        torch.cat([reach, reach, high], -1),
    )
