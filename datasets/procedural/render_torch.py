"""The reference renderer in plain PyTorch: slow, readable, on any device.

Geometry uses only single float32 additions, multiplications, divisions, square roots and
comparisons in a fixed order, so the other kernels can repeat it to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _packed as pk
from ._packed import PackedScene
from .scene import NO_HIT, TextureTable, wave

Vec = Sequence[Tensor]


# ------------------------------------------------------------------------------------- geometry


def _dot(a: Vec, b: Vec) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _sqrt(x: Tensor) -> Tensor:
    """Correctly rounded root (checked for all mantissas); torch's own on a CPU is MKL's, which is
    an ulp off for one number in six."""
    return x.double().sqrt().float()


def _away_from_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1e-9, 1e-9, x)


@dataclass(frozen=True)
class _Bounds:
    """Entry and exit of rays through one solid; `face` is the constraint that made the entry."""

    enter: Tensor
    leave: Tensor
    face: Tensor


def _bounds(origin: Vec, direction: Vec, solid: list[Tensor]) -> _Bounds:
    """Clip rays against a solid, given as its packed columns broadcast to the rays."""
    offset = [origin[i] - solid[pk.S_CENTER + i] for i in range(3)]
    rows = [solid[3 * i : 3 * i + 3] for i in range(3)]
    o = [_dot(rows[i], offset) for i in range(3)]
    d = [_away_from_zero(_dot(rows[i], direction)) for i in range(3)]
    inverse = 1.0 / d[0]
    middle, half = -o[0] * inverse, inverse.abs()
    enter, leave = middle - half, middle + half
    face = torch.zeros_like(enter, dtype=torch.int32)
    for axis in (1, 2):
        inverse = 1.0 / d[axis]
        middle, half = -o[axis] * inverse, inverse.abs()
        low = middle - half
        face = torch.where(low > enter, axis, face)
        enter = torch.maximum(enter, low)
        leave = torch.minimum(leave, middle + half)

    qa, qz, lz, k, sign = solid[pk.S_QUADRIC : pk.S_QUADRIC + 5]
    a = qa * (d[0] * d[0] + d[1] * d[1]) + qz * (d[2] * d[2])
    b = qa * (o[0] * d[0] + o[1] * d[1]) + qz * (o[2] * d[2]) + lz * (0.5 * d[2])
    c = qa * (o[0] * o[0] + o[1] * o[1]) + qz * (o[2] * o[2]) + lz * o[2] + k
    a = torch.where(a.abs() < 1e-12, 1e-12, a)
    discriminant = b * b - a * c
    root = _sqrt(torch.where(discriminant > 0, discriminant, 0.0))
    inverse = 1.0 / a
    root0, root1 = (-b - root) * inverse, (root - b) * inverse
    first, last = torch.minimum(root0, root1), torch.maximum(root0, root1)
    hits, closed, upwards = discriminant > 0, a > 0, sign * d[2] > 0
    low = torch.where(closed, torch.where(hits, first, NO_HIT), torch.where(upwards, last, -NO_HIT))
    high = torch.where(
        closed, torch.where(hits, last, -NO_HIT), torch.where(upwards, NO_HIT, first)
    )
    use = solid[pk.S_HAS_QUADRIC] > 0
    face = torch.where(use & (low > enter), 3, face)
    enter = torch.where(use & (low > enter), low, enter)
    leave = torch.where(use & (high < leave), high, leave)

    for cut in range(2):
        n = solid[pk.S_CUTS + 4 * cut : pk.S_CUTS + 4 * cut + 3]
        slope = _away_from_zero(_dot(n, d))
        t = (solid[pk.S_CUTS + 4 * cut + 3] - _dot(n, o)) / slope
        use, outwards = solid[pk.S_HAS_CUT + cut] > 0, slope > 0
        face = torch.where(use & ~outwards & (t > enter), 4 + cut, face)
        enter = torch.where(use & ~outwards & (t > enter), t, enter)
        leave = torch.where(use & outwards & (t < leave), t, leave)
    return _Bounds(enter, leave, face)


def _contains(origin: Vec, solid: list[Tensor]) -> Tensor:
    """Whether a solid contains the origins."""
    offset = [origin[i] - solid[pk.S_CENTER + i] for i in range(3)]
    o = [_dot(solid[3 * i : 3 * i + 3], offset) for i in range(3)]
    qa, qz, lz, k, _ = solid[pk.S_QUADRIC : pk.S_QUADRIC + 5]
    c = qa * (o[0] * o[0] + o[1] * o[1]) + qz * (o[2] * o[2]) + lz * o[2] + k
    inside = (o[0].abs() < 1) & (o[1].abs() < 1) & (o[2].abs() < 1)
    inside &= ~(solid[pk.S_HAS_QUADRIC] > 0) | (c < 0)
    for cut in range(2):
        n = solid[pk.S_CUTS + 4 * cut : pk.S_CUTS + 4 * cut + 3]
        outside = _dot(n, o) >= solid[pk.S_CUTS + 4 * cut + 3]
        inside &= ~((solid[pk.S_HAS_CUT + cut] > 0) & outside)
    return inside & (solid[pk.S_ACTIVE] > 0)


def _room_hit(origin: Vec, direction: Vec, rest: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Distance to the wall that ends the ray inside the room, and its axis."""
    walls = []
    for axis in range(3):
        d = _away_from_zero(direction[axis])
        offset = origin[axis] - rest[pk.G_ROOM_CENTER + axis]
        half = rest[pk.G_ROOM_HALF + axis]
        walls.append((half - torch.where(d > 0, offset, -offset)) / d.abs())
    axis_hit = torch.where(walls[1] < walls[0], 1, 0)
    distance = torch.minimum(walls[0], walls[1])
    axis_hit = torch.where(walls[2] < distance, 2, axis_hit).to(torch.int32)
    distance = torch.minimum(distance, walls[2])
    open_top = (axis_hit == 2) & (_away_from_zero(direction[2]) > 0) & ~(rest[pk.G_CEILING] > 0)
    seen = (rest[pk.G_INDOOR] > 0) & ~open_top & (distance > 0)
    return torch.where(seen, distance, NO_HIT), axis_hit


def _ground_gap(origin: Vec, direction: Vec, t: Tensor, waves: list[list[Tensor]]) -> Tensor:
    """Height of the ray above the ground at t."""
    x, y = origin[0] + t * direction[0], origin[1] + t * direction[1]
    height = torch.zeros_like(t)
    for fx, fy, phase, amplitude in waves:
        height = height + amplitude * wave(fx * x + fy * y + phase)
    return (origin[2] + t * direction[2]) - height


def _ground_hit(
    origin: Vec,
    direction: Vec,
    inverse_length: Tensor,
    rest: list[Tensor],
    waves: list[list[Tensor]],
) -> Tensor:
    """March through the slab that holds the ground, then refine the first crossing."""
    bound = rest[pk.G_BOUND]
    dz = torch.where(direction[2].abs() < 1e-7, -1e-7, direction[2])
    top, bottom = (bound - origin[2]) / dz, (-bound - origin[2]) / dz
    start = torch.minimum(top, bottom)
    start = torch.where(start > 0, start, 0.0)
    stop = torch.minimum(torch.maximum(top, bottom), pk.GROUND_RANGE_M * inverse_length)

    def gap(t: Tensor) -> Tensor:
        return _ground_gap(origin, direction, t, waves)

    before, gap_before = start, gap(start)
    low, low_gap, high, high_gap = before, gap_before, before, gap_before
    found = torch.zeros_like(start, dtype=torch.bool)
    for fraction in pk.march_fractions():
        after = start + (stop - start) * fraction
        gap_after = gap(after)
        crossed = (gap_before > 0) & (gap_after <= 0) & ~found & (stop > start)
        low, low_gap = torch.where(crossed, before, low), torch.where(crossed, gap_before, low_gap)
        high, high_gap = (
            torch.where(crossed, after, high),
            torch.where(crossed, gap_after, high_gap),
        )
        found = found | crossed
        before, gap_before = after, gap_after
    for step in range(pk.REFINE_STEPS):
        if step % 2 == 0:
            fraction = _secant(low_gap, high_gap, 0.02, 0.98)
            probe = low + (high - low) * fraction
        else:
            probe = 0.5 * (low + high)
        gap_probe = gap(probe)
        above = gap_probe > 0
        low, low_gap = torch.where(above, probe, low), torch.where(above, gap_probe, low_gap)
        high, high_gap = torch.where(above, high, probe), torch.where(above, high_gap, gap_probe)
    t = low + (high - low) * _secant(low_gap, high_gap, 0.0, 1.0)
    return torch.where(found & (rest[pk.G_GROUND] > 0), t, NO_HIT)


def _secant(low_gap: Tensor, high_gap: Tensor, smallest: float, largest: float) -> Tensor:
    drop = low_gap - high_gap
    fraction = low_gap / torch.where(drop > 1e-9, drop, 1.0)
    fraction = torch.where(fraction > smallest, fraction, smallest)
    return torch.where(fraction < largest, fraction, largest)


@dataclass(frozen=True)
class _Scenes:
    """Packed columns, each a tensor that broadcasts against rays (B, C, N)."""

    solids: list[list[Tensor]]
    rest: list[Tensor]
    waves: list[list[Tensor]]

    @staticmethod
    def of(packed: PackedScene) -> _Scenes:
        def columns(x: Tensor) -> list[Tensor]:
            return [c[:, None, None] for c in x.unbind(-1)]

        return _Scenes(
            [columns(x) for x in packed.solids.unbind(1)],
            columns(packed.globals),
            [columns(x) for x in packed.waves.unbind(1)],
        )


@dataclass(frozen=True)
class _Hits:
    """First hits of rays (B, C, N): distance, surface, constraint or wall axis, and |d|."""

    t: Tensor
    surface_id: Tensor
    face: Tensor
    length: Tensor


def _trace(scenes: _Scenes, origin: Vec, direction: Vec) -> _Hits:
    num_solids = len(scenes.solids)
    length = _sqrt(_dot(direction, direction))
    inverse_length = 1.0 / length
    t, face = _room_hit(origin, direction, scenes.rest)
    surface = torch.where(t < NO_HIT, num_solids, -1).to(torch.int32)
    ground = _ground_hit(origin, direction, inverse_length, scenes.rest, scenes.waves)
    closer = ground < t
    t, surface = torch.where(closer, ground, t), torch.where(closer, num_solids + 1, surface)
    face = torch.where(closer, 2, face)
    near = pk.NEAR_M * inverse_length
    for index, solid in enumerate(scenes.solids):
        bounds = _bounds(origin, direction, solid)
        closer = (bounds.enter < bounds.leave) & (bounds.enter > near) & (bounds.enter < t)
        closer &= solid[pk.S_ACTIVE] > 0
        t, surface = torch.where(closer, bounds.enter, t), torch.where(closer, index, surface)
        face = torch.where(closer, bounds.face, face)
    return _Hits(t, surface, face, length)


def cast_torch(
    packed: PackedScene, origins: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cast rays; see `render.cast`."""
    scenes = _Scenes.of(packed)
    origin = _vec(origins[:, :, None])
    hits = _trace(scenes, origin, _vec(directions))
    inside = inside_any(packed, origins)
    return hits.t, hits.surface_id, inside[..., None].expand(hits.t.shape)


def inside_any(packed: PackedScene, origins: Tensor) -> Tensor:
    """Whether any solid contains the origins (B, C, 3); (B, C) bool."""
    solids = [column[:, None] for column in packed.solids.unbind(-1)]  # (B, 1, P)
    return _contains(_vec(origins[:, :, None]), solids).any(-1)


def _vec(x: Tensor) -> Vec:
    a, b, c = x.unbind(-1)
    return a, b, c


def _occluded(scenes: _Scenes, origin: Vec, direction: Vec, limit: Tensor) -> Tensor:
    """Whether a solid lies on the ray before t = limit."""
    blocked = torch.zeros_like(origin[0], dtype=torch.bool)
    for solid in scenes.solids:
        bounds = _bounds(origin, direction, solid)
        hit = (bounds.enter < bounds.leave) & (bounds.enter > 0) & (bounds.enter < limit)
        blocked = blocked | (hit & (solid[pk.S_ACTIVE] > 0))
    return blocked


# -------------------------------------------------------------------------------------- surfaces


@dataclass(frozen=True)
class _Surface:
    """Surface points of rays (B, V, N): position, normal towards the camera, texture frame.

    `projection` is the local axis across which the tile lies, 3 for around the local z axis.
    """

    position: Vec
    normal: Vec
    local: Vec
    projection: Tensor
    side: Tensor


def _gather(table: Tensor, surface_id: Tensor) -> Tensor:
    """Rows (B, V, N, ...) of a (B, M, ...) table."""
    scene = torch.arange(table.shape[0], device=table.device)[:, None, None]
    return table[scene, surface_id.long()]


def _surface(
    packed: PackedScene, scenes: _Scenes, origin: Vec, direction: Vec, hits: _Hits
) -> _Surface:
    """Derive position and normal; same bits in every kernel, since the shadow ray starts here."""
    num_solids = len(scenes.solids)
    t = torch.where(hits.surface_id >= 0, hits.t, 0.0)
    x = tuple(origin[i] + t * direction[i] for i in range(3))
    is_room, is_ground = hits.surface_id == num_solids, hits.surface_id == num_solids + 1
    solid = list(_gather(packed.solids, hits.surface_id.clamp(0, num_solids - 1)).unbind(-1))
    offset = [x[i] - solid[pk.S_CENTER + i] for i in range(3)]
    rows = [solid[3 * i : 3 * i + 3] for i in range(3)]
    local = [_dot(rows[i], offset) for i in range(3)]
    qa, qz, lz = solid[pk.S_QUADRIC : pk.S_QUADRIC + 3]
    cut0, cut1 = (solid[pk.S_CUTS + 4 * c : pk.S_CUTS + 4 * c + 3] for c in range(2))
    gradient = (2.0 * qa * local[0], 2.0 * qa * local[1], 2.0 * qz * local[2] + lz)
    face = hits.face
    n_local = []
    for axis in range(3):
        flat = torch.where(face == axis, torch.where(local[axis] > 0, 1.0, -1.0), 0.0)
        n = torch.where(face == 3, gradient[axis], flat)
        n_local.append(torch.where(face == 4, cut0[axis], torch.where(face == 5, cut1[axis], n)))
    normal = [
        rows[0][j] * n_local[0] + rows[1][j] * n_local[1] + rows[2][j] * n_local[2]
        for j in range(3)
    ]
    slope_x, slope_y = torch.zeros_like(t), torch.zeros_like(t)
    for fx, fy, phase, amplitude in scenes.waves:
        slope = amplitude * wave(fx * x[0] + fy * x[1] + phase + 0.5 * math.pi)
        slope_x, slope_y = slope_x + fx * slope, slope_y + fy * slope
    ground_normal = (-slope_x, -slope_y, torch.ones_like(t))
    for j in range(3):
        wall = torch.where(face == j, torch.where(direction[j] > 0, -1.0, 1.0), 0.0)
        normal[j] = torch.where(is_ground, ground_normal[j], torch.where(is_room, wall, normal[j]))
    scale = 1.0 / _sqrt(_dot(normal, normal))
    normal = [n * scale for n in normal]
    backwards = _dot(normal, direction) > 0
    normal = [torch.where(backwards, -n, n) for n in normal]

    half = _gather(packed.materials, hits.surface_id.clamp(min=0))
    metric = []
    for j in range(3):
        from_room = x[j] - scenes.rest[pk.G_ROOM_CENTER + j]
        inner = torch.where(is_room, from_room, local[j] * half[..., j])
        metric.append(torch.where(is_ground, x[j], inner))
    tilt = [(n_local[j] / half[..., j]).abs() for j in range(3)]
    dominant = torch.where(tilt[1] > tilt[0], 1, 0)
    dominant = torch.where(tilt[2] > torch.maximum(tilt[0], tilt[1]), 2, dominant)
    is_solid = ~(is_room | is_ground)
    around = torch.where(tilt[2] * tilt[2] > 2.0 * (tilt[0] * tilt[0] + tilt[1] * tilt[1]), 2, 3)
    projection = torch.where(is_solid & (face == 3), around, face)
    projection = torch.where(is_solid & (face > 3), dominant, projection)
    along = torch.where(face == 0, metric[0], torch.where(face == 1, metric[1], metric[2]))
    side = (along > 0) & (face < 3) & ~is_ground
    return _Surface(x, normal, metric, projection, side)


# --------------------------------------------------------------------------------------- shading


def _texel(textures: TextureTable, tile: Tensor, level: Tensor, x: Tensor, y: Tensor) -> Tensor:
    side = textures.size >> level
    offsets = torch.tensor(textures.offsets, device=tile.device)
    row = (y % side) * side + x % side
    return textures.linear(textures.packed[offsets[level] + tile * side * side + row])


def _bilinear(textures: TextureTable, tile: Tensor, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
    """Sample one mip level, tiles repeated; (..., 4) with the mean of the channels last."""
    side = (textures.size >> level).float()
    x, y = (u - u.floor()) * side - 0.5, (v - v.floor()) * side - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    ix, iy = x0.long(), y0.long()
    top = _texel(textures, tile, level, ix, iy) * (1 - fx)
    top = top + _texel(textures, tile, level, ix + 1, iy) * fx
    bottom = _texel(textures, tile, level, ix, iy + 1) * (1 - fx)
    bottom = bottom + _texel(textures, tile, level, ix + 1, iy + 1) * fx
    return top * (1 - fy) + bottom * fy


def sample_textures(
    textures: TextureTable, tile: Tensor, u: Tensor, v: Tensor, level_of_detail: Tensor
) -> Tensor:
    """Sample repeated tiles trilinearly.

    Args:
        textures: the table.
        tile: (...) int.
        u: (...) in tiles, along a row.
        v: (...) in tiles, down a column.
        level_of_detail: (...) log2 of the pixel's footprint in texels of level 0.

    Returns:
        (..., 4) linear r, g, b and their mean.
    """
    lod = level_of_detail.clamp(0, textures.levels - 1)
    level = lod.floor().long()
    blend = (lod - level)[..., None]
    fine = _bilinear(textures, tile.long(), u, v, level)
    coarse = _bilinear(textures, tile.long(), u, v, (level + 1).clamp(max=textures.levels - 1))
    return fine * (1 - blend) + coarse * blend


def _albedo(
    packed: PackedScene,
    textures: TextureTable,
    hits: _Hits,
    surface: _Surface,
    direction: Vec,
    pixel: Tensor,
) -> Tensor:
    slot = hits.surface_id.clamp(min=0)
    material = _gather(packed.materials, slot)
    m, projection = surface.local, surface.projection
    radius = 0.5 * (material[..., 0] + material[..., 1])
    angle = torch.atan2(m[1] / material[..., 1], m[0] / material[..., 0])
    u = torch.where(projection == 0, m[1], m[0])
    u = torch.where(projection == 3, angle * radius, u)
    v = torch.where(projection == 2, m[1], -m[2])
    cos, sin = material[..., pk.M_COS], material[..., pk.M_SIN]
    u, v = u * cos - v * sin, u * sin + v * cos

    group = hits.face.clamp(max=3).long()
    second_group = (group + 1) % 4
    inverse = material[..., pk.M_INVERSE_TILE : pk.M_INVERSE_TILE + 4]
    inverse = inverse.gather(-1, group[..., None])[..., 0]
    tiles = _gather(packed.textures, slot)
    tile = tiles.gather(-1, group[..., None])[..., 0]
    second_tile = tiles.gather(-1, second_group[..., None])[..., 0]
    u, v = u * inverse, v * inverse
    facing = -_dot(surface.normal, direction) / hits.length
    facing = facing.clamp(min=0.08)
    footprint = hits.t * hits.length * pixel / facing.sqrt() * inverse * textures.size
    footprint = torch.where(hits.surface_id >= 0, footprint, 1.0)
    lod = torch.log2(footprint.clamp(min=1e-3))
    shift = 7.31 * group + 3.57 * surface.side
    offset_u, offset_v = material[..., pk.M_OFFSET], material[..., pk.M_OFFSET + 1]
    first = sample_textures(textures, tile, u + offset_u + shift, v + offset_v + shift, lod)
    # A larger, turned layer: repeated tiles would make matches ambiguous.
    u2, v2 = (0.8 * u - 0.6 * v) * 0.27 - offset_u, (0.6 * u + 0.8 * v) * 0.27 - offset_v
    second = sample_textures(textures, second_tile, u2 + shift, v2 + shift, lod - 1.889)
    rgb = first[..., :3] * (0.62 + 0.76 * second[..., 3:])
    gain = material[..., pk.M_GAIN : pk.M_GAIN + 3]
    return (rgb * gain + material[..., pk.M_BIAS : pk.M_BIAS + 3]).clamp(0.01, 1)


def _sky(packed: PackedScene, textures: TextureTable, direction: Vec, length: Tensor) -> Tensor:
    x, y, z = (d / length for d in direction)
    rest = packed.globals[:, None, None]
    horizon, zenith = rest[..., pk.G_HORIZON : pk.G_ZENITH], rest[..., pk.G_ZENITH : pk.G_UNIT]
    weight = z.clamp(0, 1).sqrt()[..., None]
    stretch = 0.6 / (z.abs() + 0.25)
    tile = rest[..., pk.G_SKY_TEXTURE].expand(x.shape)
    clouds = sample_textures(textures, tile, x * stretch, y * stretch, torch.full_like(x, 2.0))
    return (horizon * (1 - weight) + zenith * weight) * (0.8 + 0.5 * clouds[..., 3:])


def render_torch(
    packed: PackedScene,
    views: Tensor,
    textures: TextureTable,
    height: int,
    width: int,
    shadows: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Render views; see `render.render`.

    Args:
        packed: B scenes.
        views: (B, V, 32) from `pack_views`.
        textures: the tiles.
        height: pixels.
        width: pixels.
        shadows: whether to cast shadow rays.

    Returns:
        rgb (B, V, N, 3), depth, surface_id and inside (B, V, N), N = height * width.
    """
    scenes = _Scenes.of(packed)
    view = [c[..., None] for c in views.unbind(-1)]
    column = torch.arange(width, device=views.device, dtype=torch.float32) + 0.5
    row = torch.arange(height, device=views.device, dtype=torch.float32) + 0.5
    x = (column.repeat(height) - view[pk.V_CX]) / view[pk.V_FX]
    y = (row.repeat_interleave(width) - view[pk.V_CY]) / view[pk.V_FY]
    r = view[pk.V_ROTATION : pk.V_ROTATION + 9]
    direction = tuple(r[3 * i] * x + r[3 * i + 1] * y + r[3 * i + 2] for i in range(3))
    origin = tuple(view[pk.V_ORIGIN : pk.V_ORIGIN + 3])
    hits = _trace(scenes, origin, direction)
    inside = inside_any(packed, views[..., pk.V_ORIGIN : pk.V_ORIGIN + 3])
    rgb = _shade(packed, scenes, textures, view, origin, direction, hits, shadows)
    return rgb, hits.t, hits.surface_id, inside[..., None].expand(hits.t.shape)


def _shade(
    packed: PackedScene,
    scenes: _Scenes,
    textures: TextureTable,
    view: list[Tensor],
    origin: Vec,
    direction: Vec,
    hits: _Hits,
    shadows: bool,
) -> Tensor:
    """Linear radiance (B, V, N, 3) of the hits."""
    surface = _surface(packed, scenes, origin, direction, hits)
    n, indoor = surface.normal, scenes.rest[pk.G_INDOOR] > 0
    sun = view[pk.V_SUN : pk.V_SUN + 3]
    to_lamp = [view[pk.V_LAMP + i] - surface.position[i] for i in range(3)]
    lamp_distance = _dot(to_lamp, to_lamp).sqrt().clamp(min=1e-3)
    sun_cos = _dot(n, sun).clamp(min=0)
    lamp_cos = (_dot(n, to_lamp) / lamp_distance).clamp(min=0)
    reach = 0.5 * lamp_distance / scenes.rest[pk.G_UNIT]
    fall_off = 1.0 / (0.35 + reach * reach)
    sun_share, lamp_share = torch.ones_like(hits.t), torch.ones_like(hits.t)
    if shadows:
        t = torch.where(hits.surface_id >= 0, hits.t, 0.0)
        lift = 2e-3 * (t * hits.length)
        start = tuple(surface.position[i] + n[i] * lift for i in range(3))
        to_light = tuple(
            torch.where(indoor, view[pk.V_LAMP + i] - start[i], sun[i]) for i in range(3)
        )
        limit = torch.where(indoor, 1.0, NO_HIT)
        blocked = _occluded(scenes, start, to_light, limit)
        sun_share = torch.where(blocked & ~indoor, 0.0, 1.0)
        lamp_share = torch.where(blocked & indoor, 0.15, 1.0)

    hemisphere = 0.6 + 0.4 * n[2]
    sun_gain, lamp_gain = sun_cos * sun_share, lamp_cos * fall_off * lamp_share
    halfway = [
        torch.where(indoor, to_lamp[i] / lamp_distance, sun[i]) - direction[i] / hits.length
        for i in range(3)
    ]
    norm = _dot(halfway, halfway).sqrt().clamp(min=1e-6)
    shine = (_dot(n, halfway) / norm).clamp(min=0)
    shine = shine * shine * shine
    shine = shine * shine
    shine = shine * shine
    shine = shine * shine  # to the 24th
    specular = _gather(packed.materials, hits.surface_id.clamp(min=0))[..., pk.M_SPECULAR]
    highlight = 0.5 * specular * shine * torch.where(indoor, lamp_share, sun_share)
    albedo = _albedo(packed, textures, hits, surface, direction, view[pk.V_PIXEL])
    light = [
        view[pk.V_AMBIENT + i] * hemisphere
        + view[pk.V_SUN_COLOR + i] * sun_gain
        + view[pk.V_LAMP_COLOR + i] * lamp_gain
        for i in range(3)
    ]
    lit = albedo * torch.stack(light, -1) + highlight[..., None]
    sky = _sky(packed, textures, direction, hits.length)
    return torch.where((hits.surface_id >= 0)[..., None], lit, sky)
