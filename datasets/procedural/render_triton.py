"""The renderer fused for a GPU: one Triton program a tile of 16x8 pixels, one pixel a thread.

Geometry repeats `render_torch` operation by operation with correctly rounded divisions and roots
and without fused multiply-add, so it has the same bits. Solids are dropped per tile by bounding
spheres, with a margin far above rounding. `TRITON_INTERPRET=1` runs the kernels on a CPU.
"""
# Kernels are another language in Python's syntax, and Triton is often not installed.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _packed as pk
from ._packed import PackedScene
from .render_torch import inside_any
from .scene import INVERSE_TAU, NO_HIT, SINE_COEFFICIENTS, TextureTable

_ROWS, _COLUMNS, _RAYS = 8, 16, 128

_FAR = tl.constexpr(NO_HIT)
_NEAR, _RANGE = tl.constexpr(pk.NEAR_M), tl.constexpr(pk.GROUND_RANGE_M)
_C1, _C3, _C5, _C7 = (tl.constexpr(c) for c in SINE_COEFFICIENTS)
_INVERSE_TAU, _QUARTER_TURN = tl.constexpr(INVERSE_TAU), tl.constexpr(0.5 * math.pi)
_MARCH, _REFINE = tl.constexpr(pk.MARCH_STEPS), tl.constexpr(pk.REFINE_STEPS)

_S = tl.constexpr(pk.SOLID_COLUMNS)
_CENTER, _QUADRIC, _CUTS = (tl.constexpr(c) for c in (pk.S_CENTER, pk.S_QUADRIC, pk.S_CUTS))
_RADIUS, _ACTIVE = tl.constexpr(pk.S_RADIUS), tl.constexpr(pk.S_ACTIVE)
_HAS_QUADRIC, _HAS_CUT = tl.constexpr(pk.S_HAS_QUADRIC), tl.constexpr(pk.S_HAS_CUT)

_M = tl.constexpr(pk.MATERIAL_COLUMNS)
_INVERSE_TILE, _OFFSET = tl.constexpr(pk.M_INVERSE_TILE), tl.constexpr(pk.M_OFFSET)
_COS, _SIN = tl.constexpr(pk.M_COS), tl.constexpr(pk.M_SIN)
_GAIN, _BIAS = tl.constexpr(pk.M_GAIN), tl.constexpr(pk.M_BIAS)
_SPECULAR = tl.constexpr(pk.M_SPECULAR)

_G = tl.constexpr(pk.GLOBAL_COLUMNS)
_ROOM_CENTER, _ROOM_HALF = tl.constexpr(pk.G_ROOM_CENTER), tl.constexpr(pk.G_ROOM_HALF)
_INDOOR, _CEILING = tl.constexpr(pk.G_INDOOR), tl.constexpr(pk.G_CEILING)
_GROUND, _BOUND = tl.constexpr(pk.G_GROUND), tl.constexpr(pk.G_BOUND)
_HORIZON, _ZENITH = tl.constexpr(pk.G_HORIZON), tl.constexpr(pk.G_ZENITH)
_UNIT, _SKY_TEXTURE = tl.constexpr(pk.G_UNIT), tl.constexpr(pk.G_SKY_TEXTURE)

_V = tl.constexpr(pk.VIEW_COLUMNS)
_SUN, _SUN_COLOR, _AMBIENT = (tl.constexpr(c) for c in (pk.V_SUN, pk.V_SUN_COLOR, pk.V_AMBIENT))
_LAMP, _LAMP_COLOR = tl.constexpr(pk.V_LAMP), tl.constexpr(pk.V_LAMP_COLOR)
_ROTATION, _ORIGIN = tl.constexpr(pk.V_ROTATION), tl.constexpr(pk.V_ORIGIN)
_FX, _FY, _CX, _CY = (tl.constexpr(c) for c in (pk.V_FX, pk.V_FY, pk.V_CX, pk.V_CY))
_PIXEL = tl.constexpr(pk.V_PIXEL)


# ------------------------------------------------------------------------------------- geometry


@triton.jit
def _away_from_zero(x):
    return tl.where(tl.abs(x) < 1e-9, 1e-9, x)


@triton.jit
def _row_dot(row, x, y, z):
    """Dot product with three numbers in memory."""
    return tl.load(row) * x + tl.load(row + 1) * y + tl.load(row + 2) * z


@triton.jit
def _clip(solid, ox, oy, oz, dx, dy, dz):
    """Entry, exit and entry constraint of rays through one solid; see `render_torch._bounds`."""
    x, y, z = (
        ox - tl.load(solid + _CENTER),
        oy - tl.load(solid + _CENTER + 1),
        oz - tl.load(solid + _CENTER + 2),
    )
    o0, o1, o2 = (
        _row_dot(solid, x, y, z),
        _row_dot(solid + 3, x, y, z),
        _row_dot(solid + 6, x, y, z),
    )
    d0 = _away_from_zero(_row_dot(solid, dx, dy, dz))
    d1 = _away_from_zero(_row_dot(solid + 3, dx, dy, dz))
    d2 = _away_from_zero(_row_dot(solid + 6, dx, dy, dz))
    inverse = tl.div_rn(1.0, d0)
    middle = -o0 * inverse
    half = tl.abs(inverse)
    enter = middle - half
    leave = middle + half
    face = tl.zeros_like(enter).to(tl.int32)
    inverse = tl.div_rn(1.0, d1)
    middle = -o1 * inverse
    half = tl.abs(inverse)
    face = tl.where(middle - half > enter, 1, face)
    enter = tl.maximum(enter, middle - half)
    leave = tl.minimum(leave, middle + half)
    inverse = tl.div_rn(1.0, d2)
    middle = -o2 * inverse
    half = tl.abs(inverse)
    face = tl.where(middle - half > enter, 2, face)
    enter = tl.maximum(enter, middle - half)
    leave = tl.minimum(leave, middle + half)
    if tl.load(solid + _HAS_QUADRIC) > 0:
        qa = tl.load(solid + _QUADRIC)
        qz = tl.load(solid + _QUADRIC + 1)
        lz = tl.load(solid + _QUADRIC + 2)
        k = tl.load(solid + _QUADRIC + 3)
        sign = tl.load(solid + _QUADRIC + 4)
        a = qa * (d0 * d0 + d1 * d1) + qz * (d2 * d2)
        b = qa * (o0 * d0 + o1 * d1) + qz * (o2 * d2) + lz * (0.5 * d2)
        c = qa * (o0 * o0 + o1 * o1) + qz * (o2 * o2) + lz * o2 + k
        a = tl.where(tl.abs(a) < 1e-12, 1e-12, a)
        discriminant = b * b - a * c
        hits = discriminant > 0
        root = tl.sqrt_rn(tl.where(hits, discriminant, 0.0))
        inverse = tl.div_rn(1.0, a)
        root0 = (-b - root) * inverse
        root1 = (root - b) * inverse
        first = tl.minimum(root0, root1)
        last = tl.maximum(root0, root1)
        upwards = sign * d2 > 0
        low = tl.where(a > 0, tl.where(hits, first, _FAR), tl.where(upwards, last, -_FAR))
        high = tl.where(a > 0, tl.where(hits, last, -_FAR), tl.where(upwards, _FAR, first))
        face = tl.where(low > enter, 3, face)
        enter = tl.maximum(enter, low)
        leave = tl.minimum(leave, high)
    for cut in tl.static_range(2):
        if tl.load(solid + _HAS_CUT + cut) > 0:
            n = solid + _CUTS + 4 * cut
            slope = _away_from_zero(_row_dot(n, d0, d1, d2))
            t = tl.div_rn(tl.load(n + 3) - _row_dot(n, o0, o1, o2), slope)
            inwards = (slope <= 0) & (t > enter)
            face = tl.where(inwards, 4 + cut, face)
            enter = tl.where(inwards, t, enter)
            leave = tl.where((slope > 0) & (t < leave), t, leave)
    return enter, leave, face


@triton.jit
def _wall(o, d, center, half):
    d = _away_from_zero(d)
    offset = o - center
    return tl.div_rn(half - tl.where(d > 0, offset, -offset), tl.abs(d))


@triton.jit
def _room(rest, ox, oy, oz, dx, dy, dz):
    """Distance to the walls from inside and the axis of the wall."""
    t = _wall(ox, dx, tl.load(rest + _ROOM_CENTER), tl.load(rest + _ROOM_HALF))
    face = tl.zeros_like(t).to(tl.int32)
    wall = _wall(oy, dy, tl.load(rest + _ROOM_CENTER + 1), tl.load(rest + _ROOM_HALF + 1))
    face = tl.where(wall < t, 1, face)
    t = tl.minimum(t, wall)
    wall = _wall(oz, dz, tl.load(rest + _ROOM_CENTER + 2), tl.load(rest + _ROOM_HALF + 2))
    face = tl.where(wall < t, 2, face)
    t = tl.minimum(t, wall)
    no_ceiling = tl.zeros_like(t) + tl.load(rest + _CEILING) <= 0
    open_top = (face == 2) & (_away_from_zero(dz) > 0) & no_ceiling
    seen = (open_top == 0) & (t > 0)
    return tl.where(seen, t, _FAR), face


@triton.jit
def _wave(phase):
    turns = phase * _INVERSE_TAU
    turns = turns - tl.floor(turns + 0.5)
    folded = 0.25 - tl.abs(tl.abs(turns) - 0.25)
    square = folded * folded
    value = folded * (_C1 + square * (_C3 + square * (_C5 + square * _C7)))
    return tl.where(turns < 0, -value, value)


@triton.jit
def _gap(waves, W: tl.constexpr, t, ox, oy, oz, dx, dy, dz):
    """Height of the ray above the ground."""
    x = ox + t * dx
    y = oy + t * dy
    height = tl.zeros_like(t)
    for k in range(W):
        wave = waves + 4 * k
        phase = tl.load(wave) * x + tl.load(wave + 1) * y + tl.load(wave + 2)
        height = height + tl.load(wave + 3) * _wave(phase)
    return (oz + t * dz) - height


@triton.jit
def _secant(low_gap, high_gap, smallest: tl.constexpr, largest: tl.constexpr):
    drop = low_gap - high_gap
    fraction = tl.div_rn(low_gap, tl.where(drop > 1e-9, drop, 1.0))
    fraction = tl.where(fraction > smallest, fraction, smallest)
    return tl.where(fraction < largest, fraction, largest)


@triton.jit
def _ground(rest, waves, fractions, W: tl.constexpr, inverse_length, ox, oy, oz, dx, dy, dz):
    """Distance to the height field."""
    bound = tl.load(rest + _BOUND)
    slope = tl.where(tl.abs(dz) < 1e-7, -1e-7, dz)
    top = tl.div_rn(bound - oz, slope)
    bottom = tl.div_rn(-bound - oz, slope)
    start = tl.minimum(top, bottom)
    start = tl.where(start > 0, start, 0.0)
    stop = tl.minimum(tl.maximum(top, bottom), _RANGE * inverse_length)
    before = start
    gap_before = _gap(waves, W, start, ox, oy, oz, dx, dy, dz)
    low = before
    low_gap = gap_before
    high = before
    high_gap = gap_before
    found = start > 1e30  # nothing yet
    for step in range(_MARCH):
        after = start + (stop - start) * tl.load(fractions + step)
        gap_after = _gap(waves, W, after, ox, oy, oz, dx, dy, dz)
        crossed = (gap_before > 0) & (gap_after <= 0) & (found == 0) & (stop > start)
        low = tl.where(crossed, before, low)
        low_gap = tl.where(crossed, gap_before, low_gap)
        high = tl.where(crossed, after, high)
        high_gap = tl.where(crossed, gap_after, high_gap)
        found = found | crossed
        before = after
        gap_before = gap_after
    for step in tl.static_range(_REFINE):
        if step % 2 == 0:
            probe = low + (high - low) * _secant(low_gap, high_gap, 0.02, 0.98)
        else:
            probe = 0.5 * (low + high)
        gap_probe = _gap(waves, W, probe, ox, oy, oz, dx, dy, dz)
        above = gap_probe > 0
        low = tl.where(above, probe, low)
        low_gap = tl.where(above, gap_probe, low_gap)
        high = tl.where(above, high, probe)
        high_gap = tl.where(above, high_gap, gap_probe)
    t = low + (high - low) * _secant(low_gap, high_gap, 0.0, 1.0)
    return tl.where(found, t, _FAR)


@triton.jit
def _in_cone(solid, ox, oy, oz, ax, ay, az, cos_half, sin_half):
    """Whether a solid's bounding sphere meets a cone of rays from one origin."""
    x = tl.load(solid + _CENTER) - ox
    y = tl.load(solid + _CENTER + 1) - oy
    z = tl.load(solid + _CENTER + 2) - oz
    distance = tl.sqrt(x * x + y * y + z * z)
    radius = tl.load(solid + _RADIUS) * 1.02 + 1e-3 + 1e-5 * distance
    sine = tl.minimum(radius / tl.maximum(distance, 1e-6), 1.0)
    widest = cos_half * tl.sqrt(1.0 - sine * sine) - sin_half * sine - 1e-3
    return (radius >= distance) | (x * ax + y * ay + z * az >= widest * distance)


@triton.jit
def _trace(
    solids, rest, waves, fractions,
    P: tl.constexpr, W: tl.constexpr, CONE: tl.constexpr, ox, oy, oz, dx, dy, dz,
):  # fmt: skip
    """First hit of rays with one origin: t, surface number, constraint or axis, |d|."""
    length = tl.sqrt_rn(dx * dx + dy * dy + dz * dz)
    inverse_length = tl.div_rn(1.0, length)
    near = _NEAR * inverse_length
    t = tl.zeros_like(length) + _FAR
    face = tl.zeros_like(length).to(tl.int32)
    number = face - 1
    if tl.load(rest + _INDOOR) > 0:
        wall, axis = _room(rest, ox, oy, oz, dx, dy, dz)
        closer = wall < t
        t = tl.where(closer, wall, t)
        number = tl.where(closer, P, number)
        face = axis
    if tl.load(rest + _GROUND) > 0:
        ground = _ground(rest, waves, fractions, W, inverse_length, ox, oy, oz, dx, dy, dz)
        closer = ground < t
        t = tl.where(closer, ground, t)
        number = tl.where(closer, P + 1, number)
        face = tl.where(closer, 2, face)
    ax, ay, az = 0.0, 0.0, 0.0
    cos_half, sin_half = 1.0, 0.0
    if CONE:
        ux, uy, uz = dx * inverse_length, dy * inverse_length, dz * inverse_length
        ax, ay, az = tl.sum(ux, 0), tl.sum(uy, 0), tl.sum(uz, 0)
        norm = tl.sqrt(ax * ax + ay * ay + az * az)
        ax, ay, az = ax / norm, ay / norm, az / norm
        cos_half = tl.minimum(tl.min(ux * ax + uy * ay + uz * az, 0), 1.0)
        sin_half = tl.sqrt(1.0 - cos_half * cos_half)
    for p in range(P):
        solid = solids + p * _S
        keep = tl.load(solid + _ACTIVE) > 0
        if CONE:
            keep = keep & _in_cone(solid, ox, oy, oz, ax, ay, az, cos_half, sin_half)
        if keep:
            enter, leave, candidate = _clip(solid, ox, oy, oz, dx, dy, dz)
            closer = (enter < leave) & (enter > near) & (enter < t)
            t = tl.where(closer, enter, t)
            number = tl.where(closer, p, number)
            face = tl.where(closer, candidate, face)
    return t, number, face, length


@triton.jit
def _occluded(solids, P: tl.constexpr, ox, oy, oz, dx, dy, dz, limit, use, is_lamp):
    """Whether solids lie on the shadow rays before t = limit; 1.0 or 0.0."""
    blocked = tl.zeros_like(ox)
    # A capsule around all rays: a ball of the start points swept towards the light.
    x0, x1 = tl.min(tl.where(use, ox, 1e30), 0), tl.max(tl.where(use, ox, -1e30), 0)
    y0, y1 = tl.min(tl.where(use, oy, 1e30), 0), tl.max(tl.where(use, oy, -1e30), 0)
    z0, z1 = tl.min(tl.where(use, oz, 1e30), 0), tl.max(tl.where(use, oz, -1e30), 0)
    cx, cy, cz = 0.5 * (x0 + x1), 0.5 * (y0 + y1), 0.5 * (z0 + z1)
    wx, wy, wz = x1 - x0, y1 - y0, z1 - z0
    spread = 0.5 * tl.sqrt(wx * wx + wy * wy + wz * wz)
    # The lamp is where all rays end, the sun where they all point.
    lx = tl.max(tl.where(use, tl.where(is_lamp, ox + dx, dx), -1e30), 0)
    ly = tl.max(tl.where(use, tl.where(is_lamp, oy + dy, dy), -1e30), 0)
    lz = tl.max(tl.where(use, tl.where(is_lamp, oz + dz, dz), -1e30), 0)
    lx, ly, lz = (
        tl.where(is_lamp, lx - cx, lx),
        tl.where(is_lamp, ly - cy, ly),
        tl.where(is_lamp, lz - cz, lz),
    )
    end = tl.where(is_lamp, 1.0, 1e30)
    square = tl.maximum(lx * lx + ly * ly + lz * lz, 1e-12)
    for p in range(P):
        solid = solids + p * _S
        x = tl.load(solid + _CENTER) - cx
        y = tl.load(solid + _CENTER + 1) - cy
        z = tl.load(solid + _CENTER + 2) - cz
        t = tl.minimum(tl.maximum((x * lx + y * ly + z * lz) / square, 0.0), end)
        gx, gy, gz = x - t * lx, y - t * ly, z - t * lz
        gap = tl.sqrt(gx * gx + gy * gy + gz * gz)
        margin = 2e-3 + 1e-4 * tl.sqrt(x * x + y * y + z * z)
        near = gap <= spread * 1.01 + tl.load(solid + _RADIUS) * 1.02 + margin
        if near & (tl.load(solid + _ACTIVE) > 0):
            enter, leave, _ = _clip(solid, ox, oy, oz, dx, dy, dz)
            hit = (enter < leave) & (enter > 0) & (enter < limit)
            blocked = tl.where(hit, 1.0, blocked)
    return blocked


# --------------------------------------------------------------------------------------- shading


@triton.jit
def _texel(packed, index, weight, r, g, b, m):
    """Add one weighted texel."""
    texel = tl.load(packed + index)
    r0 = (texel & 255).to(tl.float32)
    g0 = ((texel >> 8) & 255).to(tl.float32)
    b0 = ((texel >> 16) & 255).to(tl.float32)
    m0 = ((texel >> 24) & 255).to(tl.float32)
    return r + weight * r0 * r0, g + weight * g0 * g0, b + weight * b0 * b0, m + weight * m0 * m0


@triton.jit
def _bilinear(packed, size: tl.constexpr, count, tile, u, v, level):
    """Sample one mip level; 65025 times linear r, g, b and their mean."""
    side = (tl.zeros_like(level) + size) >> level
    base = ((4 * size * size - 4 * side * side) // 3) * count + tile * side * side
    x = (u - tl.floor(u)) * side.to(tl.float32) - 0.5
    y = (v - tl.floor(v)) * side.to(tl.float32) - 0.5
    x0, y0 = tl.floor(x), tl.floor(y)
    fx, fy = x - x0, y - y0
    ix, iy = x0.to(tl.int32), y0.to(tl.int32)
    mask = side - 1
    row0, row1 = base + (iy & mask) * side, base + ((iy + 1) & mask) * side
    column0, column1 = ix & mask, (ix + 1) & mask
    r = tl.zeros_like(u)
    g, b, m = r, r, r
    r, g, b, m = _texel(packed, row0 + column0, (1.0 - fx) * (1.0 - fy), r, g, b, m)
    r, g, b, m = _texel(packed, row0 + column1, fx * (1.0 - fy), r, g, b, m)
    r, g, b, m = _texel(packed, row1 + column0, (1.0 - fx) * fy, r, g, b, m)
    r, g, b, m = _texel(packed, row1 + column1, fx * fy, r, g, b, m)
    return r, g, b, m


@triton.jit
def _trilinear(
    packed, size: tl.constexpr, count, levels: tl.constexpr, tile, u, v, lod
):  # fmt: skip
    """Linear r, g, b and their mean."""
    lod = tl.minimum(tl.maximum(lod, 0.0), levels - 1.0)
    level = lod.to(tl.int32)
    blend = lod - level.to(tl.float32)
    r, g, b, m = _bilinear(packed, size, count, tile, u, v, level)
    r1, g1, b1, m1 = _bilinear(packed, size, count, tile, u, v, tl.minimum(level + 1, levels - 1))
    scale = 1.0 / 65025.0
    return (
        (r + (r1 - r) * blend) * scale,
        (g + (g1 - g) * blend) * scale,
        (b + (b1 - b) * blend) * scale,
        (m + (m1 - m) * blend) * scale,
    )


@triton.jit
def _atan2(y, x):
    """Angle of (x, y) to 3e-7 (polynomial of Cephes' atanf)."""
    ax, ay = tl.abs(x), tl.abs(y)
    z = tl.minimum(ax, ay) / tl.maximum(tl.maximum(ax, ay), 1e-30)
    large = z > 0.41421356
    w = tl.where(large, (z - 1.0) / (z + 1.0), z)
    s = w * w
    p = ((8.05374449538e-2 * s - 1.38776856032e-1) * s + 1.99777106478e-1) * s
    p = (p - 3.33329491539e-1) * s * w + w
    p = tl.where(large, p + 0.785398163397448, p)
    p = tl.where(ay > ax, 1.570796326794897 - p, p)
    p = tl.where(x < 0, 3.141592653589793 - p, p)
    return tl.where(y < 0, -p, p)


@triton.jit
def _render_kernel(
    solids, materials, textures, globals_, waves, views, packed, fractions,
    rgb, depth, surface_id,
    height, width, V, count,
    P: tl.constexpr, W: tl.constexpr,
    size: tl.constexpr, levels: tl.constexpr, SHADOWS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    view_index = tl.program_id(1)
    scene = view_index // V
    solids += scene * P * _S
    materials += scene * (P + 2) * _M
    textures += scene * (P + 2) * 4
    rest = globals_ + scene * _G
    waves += scene * W * 4
    view = views + view_index * _V

    tiles_in_row = (width + COLUMNS - 1) // COLUMNS
    lane = tl.arange(0, ROWS * COLUMNS)
    row = (tl.program_id(0) // tiles_in_row) * ROWS + lane // COLUMNS
    column = (tl.program_id(0) % tiles_in_row) * COLUMNS + lane % COLUMNS
    stored = (row < height) & (column < width)
    u = tl.minimum(column, width - 1).to(tl.float32) + 0.5
    v = tl.minimum(row, height - 1).to(tl.float32) + 0.5
    x = tl.div_rn(u - tl.load(view + _CX), tl.load(view + _FX))
    y = tl.div_rn(v - tl.load(view + _CY), tl.load(view + _FY))
    r = view + _ROTATION
    dx = tl.load(r) * x + tl.load(r + 1) * y + tl.load(r + 2)
    dy = tl.load(r + 3) * x + tl.load(r + 4) * y + tl.load(r + 5)
    dz = tl.load(r + 6) * x + tl.load(r + 7) * y + tl.load(r + 8)
    ox = tl.load(view + _ORIGIN)
    oy = tl.load(view + _ORIGIN + 1)
    oz = tl.load(view + _ORIGIN + 2)
    t, number, face, length = _trace(
        solids, rest, waves, fractions, P, W, True, ox, oy, oz, dx, dy, dz
    )
    pixel = view_index.to(tl.int64) * height * width + row * width + column
    tl.store(depth + pixel, t, mask=stored)
    tl.store(surface_id + pixel, number, mask=stored)

    # The surface; see `render_torch._surface`.
    seen = number >= 0
    is_room, is_ground, is_solid = number == P, number == P + 1, seen & (number < P)
    t = tl.where(seen, t, 0.0)
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    s = solids + tl.minimum(tl.maximum(number, 0), P - 1) * _S
    px = x - tl.load(s + _CENTER)
    py = y - tl.load(s + _CENTER + 1)
    pz = z - tl.load(s + _CENTER + 2)
    l0, l1, l2 = (
        _row_dot(s, px, py, pz),
        _row_dot(s + 3, px, py, pz),
        _row_dot(s + 6, px, py, pz),
    )
    qa, qz, lz = tl.load(s + _QUADRIC), tl.load(s + _QUADRIC + 1), tl.load(s + _QUADRIC + 2)
    cut = s + _CUTS + tl.where(face == 5, 4, 0)
    n0 = tl.where(face == 0, tl.where(l0 > 0, 1.0, -1.0), 0.0)
    n1 = tl.where(face == 1, tl.where(l1 > 0, 1.0, -1.0), 0.0)
    n2 = tl.where(face == 2, tl.where(l2 > 0, 1.0, -1.0), 0.0)
    n0 = tl.where(face == 3, 2.0 * qa * l0, tl.where(face > 3, tl.load(cut), n0))
    n1 = tl.where(face == 3, 2.0 * qa * l1, tl.where(face > 3, tl.load(cut + 1), n1))
    n2 = tl.where(face == 3, 2.0 * qz * l2 + lz, tl.where(face > 3, tl.load(cut + 2), n2))
    nx = tl.load(s) * n0 + tl.load(s + 3) * n1 + tl.load(s + 6) * n2
    ny = tl.load(s + 1) * n0 + tl.load(s + 4) * n1 + tl.load(s + 7) * n2
    nz = tl.load(s + 2) * n0 + tl.load(s + 5) * n1 + tl.load(s + 8) * n2
    nx = tl.where(is_room, tl.where(face == 0, tl.where(dx > 0, -1.0, 1.0), 0.0), nx)
    ny = tl.where(is_room, tl.where(face == 1, tl.where(dy > 0, -1.0, 1.0), 0.0), ny)
    nz = tl.where(is_room, tl.where(face == 2, tl.where(dz > 0, -1.0, 1.0), 0.0), nz)
    if tl.load(rest + _GROUND) > 0:
        slope_x = tl.zeros_like(t)
        slope_y = tl.zeros_like(t)
        for k in range(W):
            wave = waves + 4 * k
            fx, fy = tl.load(wave), tl.load(wave + 1)
            slope = tl.load(wave + 3) * _wave(fx * x + fy * y + tl.load(wave + 2) + _QUARTER_TURN)
            slope_x = slope_x + fx * slope
            slope_y = slope_y + fy * slope
        nx = tl.where(is_ground, -slope_x, nx)
        ny = tl.where(is_ground, -slope_y, ny)
        nz = tl.where(is_ground, 1.0, nz)
    nz = tl.where(seen, nz, 1.0)
    scale = tl.div_rn(1.0, tl.sqrt_rn(nx * nx + ny * ny + nz * nz))
    nx, ny, nz = nx * scale, ny * scale, nz * scale
    backwards = nx * dx + ny * dy + nz * dz > 0
    nx = tl.where(backwards, -nx, nx)
    ny = tl.where(backwards, -ny, ny)
    nz = tl.where(backwards, -nz, nz)

    slot = tl.maximum(number, 0)
    material = materials + slot * _M
    h0, h1, h2 = tl.load(material), tl.load(material + 1), tl.load(material + 2)
    tilt0, tilt1, tilt2 = (
        tl.abs(tl.div_rn(n0, h0)),
        tl.abs(tl.div_rn(n1, h1)),
        tl.abs(tl.div_rn(n2, h2)),
    )
    dominant = tl.where(tilt1 > tilt0, 1, 0)
    dominant = tl.where(tilt2 > tl.maximum(tilt0, tilt1), 2, dominant)
    around = tl.where(tilt2 * tilt2 > 2.0 * (tilt0 * tilt0 + tilt1 * tilt1), 2, 3)
    projection = tl.where(is_solid & (face == 3), around, face)
    projection = tl.where(is_solid & (face > 3), dominant, projection)
    mx = tl.where(is_room, x - tl.load(rest + _ROOM_CENTER), l0 * h0)
    my = tl.where(is_room, y - tl.load(rest + _ROOM_CENTER + 1), l1 * h1)
    mz = tl.where(is_room, z - tl.load(rest + _ROOM_CENTER + 2), l2 * h2)
    mx, my, mz = tl.where(is_ground, x, mx), tl.where(is_ground, y, my), tl.where(is_ground, z, mz)
    along = tl.where(face == 0, mx, tl.where(face == 1, my, mz))
    side = (along > 0) & (face < 3) & (is_ground == 0)

    # Light.
    indoor = tl.load(rest + _INDOOR) > 0
    sx, sy, sz = tl.load(view + _SUN), tl.load(view + _SUN + 1), tl.load(view + _SUN + 2)
    lamp_x, lamp_y, lamp_z = (
        tl.load(view + _LAMP),
        tl.load(view + _LAMP + 1),
        tl.load(view + _LAMP + 2),
    )
    share = tl.zeros_like(t) + 1.0
    if SHADOWS:
        lift = 2e-3 * (t * length)
        qx, qy, qz = x + nx * lift, y + ny * lift, z + nz * lift
        blocked = _occluded(
            solids,
            P,
            qx,
            qy,
            qz,
            tl.where(indoor, lamp_x - qx, sx),
            tl.where(indoor, lamp_y - qy, sy),
            tl.where(indoor, lamp_z - qz, sz),
            tl.where(indoor, 1.0, _FAR),
            seen,
            indoor,
        )
        share = tl.where(blocked > 0, tl.where(indoor, 0.15, 0.0), 1.0)
    inverse_length = 1.0 / length
    dx, dy, dz = dx * inverse_length, dy * inverse_length, dz * inverse_length
    lx, ly, lz = lamp_x - x, lamp_y - y, lamp_z - z
    lamp_distance = tl.maximum(tl.sqrt(lx * lx + ly * ly + lz * lz), 1e-3)
    lx, ly, lz = lx / lamp_distance, ly / lamp_distance, lz / lamp_distance
    sun_gain = tl.maximum(nx * sx + ny * sy + nz * sz, 0.0) * tl.where(indoor, 1.0, share)
    reach = 0.5 * lamp_distance / tl.load(rest + _UNIT)
    lamp_gain = tl.maximum(nx * lx + ny * ly + nz * lz, 0.0) / (0.35 + reach * reach)
    lamp_gain = lamp_gain * tl.where(indoor, share, 1.0)
    hx, hy, hz = (
        tl.where(indoor, lx, sx) - dx,
        tl.where(indoor, ly, sy) - dy,
        tl.where(indoor, lz, sz) - dz,
    )
    norm = tl.maximum(tl.sqrt(hx * hx + hy * hy + hz * hz), 1e-6)
    shine = tl.maximum((nx * hx + ny * hy + nz * hz) / norm, 0.0)
    shine = shine * shine * shine
    shine = shine * shine
    shine = shine * shine
    shine = shine * shine
    highlight = 0.5 * tl.load(material + _SPECULAR) * shine * share
    hemisphere = 0.6 + 0.4 * nz

    # Texture.
    angle = _atan2(my / h1, mx / h0)
    tu = tl.where(projection == 0, my, mx)
    tu = tl.where(projection == 3, angle * (0.5 * (h0 + h1)), tu)
    tv = tl.where(projection == 2, my, -mz)
    group = tl.minimum(face, 3)
    inverse_tile = tl.load(material + _INVERSE_TILE + group)
    cos, sin = tl.load(material + _COS), tl.load(material + _SIN)
    u, v = (tu * cos - tv * sin) * inverse_tile, (tu * sin + tv * cos) * inverse_tile
    facing = tl.maximum(-(nx * dx + ny * dy + nz * dz), 0.08)
    footprint = t * length * tl.load(view + _PIXEL) / tl.sqrt(facing) * inverse_tile * size
    lod = tl.log2(tl.maximum(footprint, 1e-3))
    shift = 7.31 * group.to(tl.float32) + tl.where(side, 3.57, 0.0)
    offset_u, offset_v = tl.load(material + _OFFSET), tl.load(material + _OFFSET + 1)
    tile = tl.load(textures + slot * 4 + group)
    red, green, blue, _ = _trilinear(
        packed, size, count, levels, tile, u + offset_u + shift, v + offset_v + shift, lod
    )
    tile = tl.load(textures + slot * 4 + ((group + 1) & 3))
    # One lookup serves the second layer of surfaces and the clouds of the sky.
    u2 = (0.8 * u - 0.6 * v) * 0.27 - offset_u + shift
    v2 = (0.6 * u + 0.8 * v) * 0.27 - offset_v + shift
    stretch = 0.6 / (tl.abs(dz) + 0.25)
    _, _, _, mean = _trilinear(
        packed,
        size,
        count,
        levels,
        tl.where(seen, tile, tl.load(rest + _SKY_TEXTURE).to(tl.int32)),
        tl.where(seen, u2, dx * stretch),
        tl.where(seen, v2, dy * stretch),
        tl.where(seen, lod - 1.889, 2.0),
    )
    layer = 0.62 + 0.76 * mean
    weight = tl.sqrt(tl.minimum(tl.maximum(dz, 0.0), 1.0))
    for c in tl.static_range(3):
        if c == 0:
            base = red
        elif c == 1:
            base = green
        else:
            base = blue
        albedo = base * layer * tl.load(material + _GAIN + c) + tl.load(material + _BIAS + c)
        albedo = tl.minimum(tl.maximum(albedo, 0.01), 1.0)
        light = (
            tl.load(view + _AMBIENT + c) * hemisphere
            + tl.load(view + _SUN_COLOR + c) * sun_gain
            + tl.load(view + _LAMP_COLOR + c) * lamp_gain
        )
        horizon, zenith = tl.load(rest + _HORIZON + c), tl.load(rest + _ZENITH + c)
        sky = (horizon * (1.0 - weight) + zenith * weight) * (0.8 + 0.5 * mean)
        color = tl.where(seen, albedo * light + highlight, sky)
        tl.store(rgb + pixel * 3 + c, color, mask=stored)


@triton.jit
def _cast_kernel(
    solids, globals_, waves, fractions, origins, directions, t_out, surface_id,
    C, N,
    P: tl.constexpr, W: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    camera = tl.program_id(1)
    scene = camera // C
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    index = camera.to(tl.int64) * N + tl.minimum(ray, N - 1)
    t, number, _, _ = _trace(
        solids + scene * P * _S,
        globals_ + scene * _G,
        waves + scene * W * 4,
        fractions,
        P,
        W,
        False,
        tl.load(origins + camera * 3),
        tl.load(origins + camera * 3 + 1),
        tl.load(origins + camera * 3 + 2),
        tl.load(directions + index * 3),
        tl.load(directions + index * 3 + 1),
        tl.load(directions + index * 3 + 2),
    )
    tl.store(t_out + index, t, mask=ray < N)
    tl.store(surface_id + index, number, mask=ray < N)


# --------------------------------------------------------------------------------------- drivers


def render_triton(
    packed: PackedScene,
    views: Tensor,
    textures: TextureTable,
    height: int,
    width: int,
    shadows: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Render views on a GPU; arguments and results as `render_torch`."""
    batch, num_views = views.shape[:2]
    shape = (batch, num_views, height * width)
    rgb, depth = views.new_empty(*shape, 3), views.new_empty(shape)
    surface_id = views.new_empty(shape, dtype=torch.int32)
    tiles = triton.cdiv(height, _ROWS) * triton.cdiv(width, _COLUMNS)
    _render_kernel[(tiles, batch * num_views)](
        packed.solids,
        packed.materials,
        packed.textures,
        packed.globals,
        packed.waves,
        views.contiguous(),
        textures.packed,
        _fractions(views),
        rgb,
        depth,
        surface_id,
        height,
        width,
        num_views,
        textures.count,
        P=packed.solids.shape[1],
        W=packed.waves.shape[1],
        size=textures.size,
        levels=textures.levels,
        SHADOWS=shadows,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        num_warps=4,
        enable_fp_fusion=False,
    )
    inside = inside_any(packed, views[..., pk.V_ORIGIN : pk.V_ORIGIN + 3])
    return rgb, depth, surface_id, inside[..., None].expand(shape)


def cast_triton(
    packed: PackedScene, origins: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cast rays on a GPU; see `render.cast`."""
    batch, cameras, count = directions.shape[:3]
    t = directions.new_empty(directions.shape[:3])
    surface_id = torch.empty_like(t, dtype=torch.int32)
    _cast_kernel[(triton.cdiv(count, _RAYS), batch * cameras)](
        packed.solids,
        packed.globals,
        packed.waves,
        _fractions(directions),
        origins.contiguous(),
        directions.contiguous(),
        t,
        surface_id,
        cameras,
        count,
        P=packed.solids.shape[1],
        W=packed.waves.shape[1],
        RAYS=_RAYS,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return t, surface_id, inside_any(packed, origins)[..., None].expand(t.shape)


def _fractions(like: Tensor) -> Tensor:
    return torch.tensor(pk.march_fractions(), dtype=torch.float32, device=like.device)
