"""The renderer fused for one CPU core: tiles of 256 rays, every stage a loop that vectorises.

Geometry repeats `render_torch` operation by operation, hence no fast-math there (a fused or
reordered operation would change bits); colours may use it. Solids are dropped per tile by bounding
spheres, with a margin far above rounding, so the drop never changes a hit.

All rows of a tile lie in one flat buffer at constant offsets: that is how LLVM can tell that they
do not overlap, and it vectorises the loops without run-time checks.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from . import _packed as pk
from ._packed import PackedScene
from .scene import INVERSE_TAU, NO_HIT, SINE_COEFFICIENTS, TextureTable

_SIDE = 16
_TILE = _SIDE * _SIDE

_F = np.float32
_ZERO, _HALF, _ONE, _TWO, _QUARTER = _F(0), _F(0.5), _F(1), _F(2), _F(0.25)
_FAR, _TINY, _TINY_A = _F(NO_HIT), _F(1e-9), _F(1e-12)
_NEAR, _RANGE, _FLAT = _F(pk.NEAR_M), _F(pk.GROUND_RANGE_M), _F(1e-7)
_C1, _C3, _C5, _C7 = (_F(c) for c in SINE_COEFFICIENTS)
_INVERSE_TAU, _QUARTER_TURN = _F(INVERSE_TAU), _F(0.5 * math.pi)
_FRACTIONS = np.array(pk.march_fractions(), dtype=np.float32)
_REFINE = pk.REFINE_STEPS
_SECANT_LOW, _SECANT_HIGH = _F(0.02), _F(0.98)
_LIFT = _F(2e-3)

# Rows of the tile buffer.
_NAMES = (
    "ox oy oz dx dy dz vx vy vz length inverse t id face near limit blocked l0 l1 l2 p0 p1 p2 "
    "enter leave candidate start stop before gap0 low lowgap high highgap found after gap1 "
    "px py pz nx ny nz mx my mz projection side"
).split()
_ROW = {name: index * _TILE for index, name in enumerate(_NAMES)}
_ROWS = len(_NAMES) * _TILE
_OX, _OY, _OZ, _DX, _DY, _DZ = (_ROW[n] for n in ("ox", "oy", "oz", "dx", "dy", "dz"))
_VX, _VY, _VZ, _LEN, _INV = (_ROW[n] for n in ("vx", "vy", "vz", "length", "inverse"))
_T, _ID, _FACE, _NEAR_T = (_ROW[n] for n in ("t", "id", "face", "near"))
_LIMIT, _BLOCKED = _ROW["limit"], _ROW["blocked"]
_L0, _L1, _L2, _P0, _P1, _P2 = (_ROW[n] for n in ("l0", "l1", "l2", "p0", "p1", "p2"))
_ENTER, _LEAVE, _CANDIDATE = (_ROW[n] for n in ("enter", "leave", "candidate"))
_START, _STOP, _BEFORE, _GAP0 = (_ROW[n] for n in ("start", "stop", "before", "gap0"))
_LOW, _LOWGAP, _HIGH, _HIGHGAP = (_ROW[n] for n in ("low", "lowgap", "high", "highgap"))
_FOUND, _AFTER, _GAP1 = (_ROW[n] for n in ("found", "after", "gap1"))
_PX, _PY, _PZ, _NX, _NY, _NZ = (_ROW[n] for n in ("px", "py", "pz", "nx", "ny", "nz"))
_MX, _MY, _MZ, _PROJECTION, _SIDE_ROW = (_ROW[n] for n in ("mx", "my", "mz", "projection", "side"))

_QUADRIC, _CUTS, _CENTER = pk.S_QUADRIC, pk.S_CUTS, pk.S_CENTER

_exact = njit(cache=True, nogil=True, error_model="numpy")
_fast = njit(cache=True, nogil=True, error_model="numpy", fastmath=True)


# ------------------------------------------------------------------------------------- geometry


@_exact
def _away_from_zero(x):
    return _TINY if abs(x) < _TINY else x


@_exact
def _slabs(buf, solid):
    """Clip the tile's rays against the box of a solid."""
    m00, m01, m02 = solid[0], solid[1], solid[2]
    m10, m11, m12 = solid[3], solid[4], solid[5]
    m20, m21, m22 = solid[6], solid[7], solid[8]
    cx, cy, cz = solid[_CENTER], solid[_CENTER + 1], solid[_CENTER + 2]
    for i in range(_TILE):
        x, y, z = buf[_OX + i] - cx, buf[_OY + i] - cy, buf[_OZ + i] - cz
        o0 = m00 * x + m01 * y + m02 * z
        o1 = m10 * x + m11 * y + m12 * z
        o2 = m20 * x + m21 * y + m22 * z
        dx, dy, dz = buf[_DX + i], buf[_DY + i], buf[_DZ + i]
        d0 = _away_from_zero(m00 * dx + m01 * dy + m02 * dz)
        d1 = _away_from_zero(m10 * dx + m11 * dy + m12 * dz)
        d2 = _away_from_zero(m20 * dx + m21 * dy + m22 * dz)
        inverse = _ONE / d0
        middle, half = -o0 * inverse, abs(inverse)
        enter, leave = middle - half, middle + half
        face = _ZERO
        inverse = _ONE / d1
        middle, half = -o1 * inverse, abs(inverse)
        low, high = middle - half, middle + half
        face = _ONE if low > enter else face
        enter = low if low > enter else enter
        leave = high if high < leave else leave
        inverse = _ONE / d2
        middle, half = -o2 * inverse, abs(inverse)
        low, high = middle - half, middle + half
        face = _TWO if low > enter else face
        enter = low if low > enter else enter
        leave = high if high < leave else leave
        buf[_P0 + i], buf[_P1 + i], buf[_P2 + i] = o0, o1, o2
        buf[_L0 + i], buf[_L1 + i], buf[_L2 + i] = d0, d1, d2
        buf[_ENTER + i], buf[_LEAVE + i], buf[_CANDIDATE + i] = enter, leave, face


@_exact
def _quadric(buf, solid):
    """Clip the rays further against the quadric."""
    qa, qz, lz = solid[_QUADRIC], solid[_QUADRIC + 1], solid[_QUADRIC + 2]
    k, sign = solid[_QUADRIC + 3], solid[_QUADRIC + 4]
    three = _F(3)
    for i in range(_TILE):
        o0, o1, o2 = buf[_P0 + i], buf[_P1 + i], buf[_P2 + i]
        d0, d1, d2 = buf[_L0 + i], buf[_L1 + i], buf[_L2 + i]
        a = qa * (d0 * d0 + d1 * d1) + qz * (d2 * d2)
        b = qa * (o0 * d0 + o1 * d1) + qz * (o2 * d2) + lz * (_HALF * d2)
        c = qa * (o0 * o0 + o1 * o1) + qz * (o2 * o2) + lz * o2 + k
        a = _TINY_A if abs(a) < _TINY_A else a
        discriminant = b * b - a * c
        hits = discriminant > _ZERO
        root = math.sqrt(discriminant if hits else _ZERO)
        inverse = _ONE / a
        root0, root1 = (-b - root) * inverse, (root - b) * inverse
        first = root0 if root0 < root1 else root1
        last = root1 if root0 < root1 else root0
        upwards = sign * d2 > _ZERO
        closed_low, closed_high = first if hits else _FAR, last if hits else -_FAR
        open_low, open_high = last if upwards else -_FAR, _FAR if upwards else first
        low, high = closed_low if a > _ZERO else open_low, closed_high if a > _ZERO else open_high
        enter, leave, face = buf[_ENTER + i], buf[_LEAVE + i], buf[_CANDIDATE + i]
        buf[_CANDIDATE + i] = three if low > enter else face
        buf[_ENTER + i] = low if low > enter else enter
        buf[_LEAVE + i] = high if high < leave else leave


@_exact
def _cut(buf, solid, cut):
    """Clip the rays further against one half-space."""
    base = _CUTS + 4 * cut
    n0, n1, n2, h = solid[base], solid[base + 1], solid[base + 2], solid[base + 3]
    number = _F(4) if cut == 0 else _F(5)
    for i in range(_TILE):
        slope = _away_from_zero(n0 * buf[_L0 + i] + n1 * buf[_L1 + i] + n2 * buf[_L2 + i])
        t = (h - (n0 * buf[_P0 + i] + n1 * buf[_P1 + i] + n2 * buf[_P2 + i])) / slope
        enter, leave, face = buf[_ENTER + i], buf[_LEAVE + i], buf[_CANDIDATE + i]
        inwards = (slope <= _ZERO) & (t > enter)
        buf[_CANDIDATE + i] = number if inwards else face
        buf[_ENTER + i] = t if inwards else enter
        buf[_LEAVE + i] = t if (slope > _ZERO) & (t < leave) else leave


@_exact
def _clip(buf, solid):
    _slabs(buf, solid)
    if solid[pk.S_HAS_QUADRIC] > _ZERO:
        _quadric(buf, solid)
    if solid[pk.S_HAS_CUT] > _ZERO:
        _cut(buf, solid, 0)
    if solid[pk.S_HAS_CUT + 1] > _ZERO:
        _cut(buf, solid, 1)


@_exact
def _keep_closest(buf, number):
    for i in range(_TILE):
        enter, t = buf[_ENTER + i], buf[_T + i]
        closer = (enter < buf[_LEAVE + i]) & (enter > buf[_NEAR_T + i]) & (enter < t)
        buf[_T + i] = enter if closer else t
        buf[_ID + i] = number if closer else buf[_ID + i]
        buf[_FACE + i] = buf[_CANDIDATE + i] if closer else buf[_FACE + i]


@_exact
def _mark_blocked(buf):
    for i in range(_TILE):
        enter = buf[_ENTER + i]
        hit = (enter < buf[_LEAVE + i]) & (enter > _ZERO) & (enter < buf[_LIMIT + i])
        buf[_BLOCKED + i] = _ONE if hit else buf[_BLOCKED + i]


@_exact
def _start_rays(buf):
    """Lengths of the rays, and nothing hit yet."""
    for i in range(_TILE):
        dx, dy, dz = buf[_DX + i], buf[_DY + i], buf[_DZ + i]
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        inverse = _ONE / length
        buf[_LEN + i], buf[_INV + i], buf[_NEAR_T + i] = length, inverse, _NEAR * inverse
        buf[_T + i], buf[_ID + i], buf[_FACE + i] = _FAR, -_ONE, _ZERO


@_exact
def _room(buf, rest, number):
    """Hit the walls from inside."""
    cx, cy, cz = (
        rest[pk.G_ROOM_CENTER],
        rest[pk.G_ROOM_CENTER + 1],
        rest[pk.G_ROOM_CENTER + 2],
    )
    hx, hy, hz = rest[pk.G_ROOM_HALF], rest[pk.G_ROOM_HALF + 1], rest[pk.G_ROOM_HALF + 2]
    no_ceiling = rest[pk.G_CEILING] <= _ZERO
    for i in range(_TILE):
        d, o = _away_from_zero(buf[_DX + i]), buf[_OX + i] - cx
        t = (hx - (o if d > _ZERO else -o)) / abs(d)
        face = _ZERO
        d, o = _away_from_zero(buf[_DY + i]), buf[_OY + i] - cy
        wall = (hy - (o if d > _ZERO else -o)) / abs(d)
        face = _ONE if wall < t else face
        t = wall if wall < t else t
        d, o = _away_from_zero(buf[_DZ + i]), buf[_OZ + i] - cz
        wall = (hz - (o if d > _ZERO else -o)) / abs(d)
        face = _TWO if wall < t else face
        t = wall if wall < t else t
        seen = (t > _ZERO) & (t < _FAR) & (not (no_ceiling & (face == _TWO) & (d > _ZERO)))
        buf[_T + i] = t if seen else _FAR
        buf[_ID + i] = number if seen else -_ONE
        buf[_FACE + i] = face


@_exact
def _wave(phase):
    turns = phase * _INVERSE_TAU
    turns = turns - np.floor(turns + _HALF)
    folded = _QUARTER - abs(abs(turns) - _QUARTER)
    square = folded * folded
    value = folded * (_C1 + square * (_C3 + square * (_C5 + square * _C7)))
    return -value if turns < _ZERO else value


@_exact
def _ground_gap_before(buf, waves):
    """`gap0` = height of the rays above the ground at `before`."""
    for i in range(_TILE):
        buf[_GAP0 + i] = _ZERO
    for k in range(waves.shape[0]):
        fx, fy, phase, amplitude = waves[k, 0], waves[k, 1], waves[k, 2], waves[k, 3]
        for i in range(_TILE):
            t = buf[_BEFORE + i]
            x, y = buf[_OX + i] + t * buf[_DX + i], buf[_OY + i] + t * buf[_DY + i]
            buf[_GAP0 + i] = buf[_GAP0 + i] + amplitude * _wave(fx * x + fy * y + phase)
    for i in range(_TILE):
        buf[_GAP0 + i] = (buf[_OZ + i] + buf[_BEFORE + i] * buf[_DZ + i]) - buf[_GAP0 + i]


@_exact
def _ground_gap_after(buf, waves):
    """`gap1` = height of the rays above the ground at `after`."""
    for i in range(_TILE):
        buf[_GAP1 + i] = _ZERO
    for k in range(waves.shape[0]):
        fx, fy, phase, amplitude = waves[k, 0], waves[k, 1], waves[k, 2], waves[k, 3]
        for i in range(_TILE):
            t = buf[_AFTER + i]
            x, y = buf[_OX + i] + t * buf[_DX + i], buf[_OY + i] + t * buf[_DY + i]
            buf[_GAP1 + i] = buf[_GAP1 + i] + amplitude * _wave(fx * x + fy * y + phase)
    for i in range(_TILE):
        buf[_GAP1 + i] = (buf[_OZ + i] + buf[_AFTER + i] * buf[_DZ + i]) - buf[_GAP1 + i]


@_exact
def _secant(low_gap, high_gap, smallest, largest):
    drop = low_gap - high_gap
    fraction = low_gap / (drop if drop > _TINY else _ONE)
    fraction = fraction if fraction > smallest else smallest
    return fraction if fraction < largest else largest


@_exact
def _ground(buf, rest, waves, number):
    """Hit the height field."""
    bound = rest[pk.G_BOUND]
    reached = False
    for i in range(_TILE):
        dz, oz = buf[_DZ + i], buf[_OZ + i]
        dz = -_FLAT if abs(dz) < _FLAT else dz
        top, bottom = (bound - oz) / dz, (-bound - oz) / dz
        start, stop = top if top < bottom else bottom, bottom if top < bottom else top
        start = start if start > _ZERO else _ZERO
        end = _RANGE * buf[_INV + i]
        stop = stop if stop < end else end
        buf[_START + i], buf[_STOP + i], buf[_BEFORE + i] = start, stop, start
        reached |= stop > start
    if not reached:
        return
    _ground_gap_before(buf, waves)
    for i in range(_TILE):
        buf[_LOW + i], buf[_LOWGAP + i] = buf[_BEFORE + i], buf[_GAP0 + i]
        buf[_HIGH + i], buf[_HIGHGAP + i] = buf[_BEFORE + i], buf[_GAP0 + i]
        buf[_FOUND + i] = _ZERO
    for step in range(_FRACTIONS.shape[0]):
        fraction = _FRACTIONS[step]
        for i in range(_TILE):
            buf[_AFTER + i] = buf[_START + i] + (buf[_STOP + i] - buf[_START + i]) * fraction
        _ground_gap_after(buf, waves)
        missing = False
        for i in range(_TILE):
            gap0, gap1 = buf[_GAP0 + i], buf[_GAP1 + i]
            possible = buf[_STOP + i] > buf[_START + i]
            fresh = buf[_FOUND + i] == _ZERO
            crossed = (gap0 > _ZERO) & (gap1 <= _ZERO) & fresh & possible
            buf[_LOW + i] = buf[_BEFORE + i] if crossed else buf[_LOW + i]
            buf[_LOWGAP + i] = gap0 if crossed else buf[_LOWGAP + i]
            buf[_HIGH + i] = buf[_AFTER + i] if crossed else buf[_HIGH + i]
            buf[_HIGHGAP + i] = gap1 if crossed else buf[_HIGHGAP + i]
            buf[_FOUND + i] = _ONE if crossed else buf[_FOUND + i]
            buf[_BEFORE + i], buf[_GAP0 + i] = buf[_AFTER + i], gap1
            missing |= fresh & possible & (not crossed)
        if not missing:
            break
    for step in range(_REFINE):
        for i in range(_TILE):
            low, high = buf[_LOW + i], buf[_HIGH + i]
            if step % 2 == 0:
                probe = low + (high - low) * _secant(
                    buf[_LOWGAP + i], buf[_HIGHGAP + i], _SECANT_LOW, _SECANT_HIGH
                )
            else:
                probe = _HALF * (low + high)
            buf[_AFTER + i] = probe
        _ground_gap_after(buf, waves)
        for i in range(_TILE):
            probe, gap = buf[_AFTER + i], buf[_GAP1 + i]
            above = gap > _ZERO
            buf[_LOW + i] = probe if above else buf[_LOW + i]
            buf[_LOWGAP + i] = gap if above else buf[_LOWGAP + i]
            buf[_HIGH + i] = buf[_HIGH + i] if above else probe
            buf[_HIGHGAP + i] = buf[_HIGHGAP + i] if above else gap
    for i in range(_TILE):
        low, high = buf[_LOW + i], buf[_HIGH + i]
        t = low + (high - low) * _secant(buf[_LOWGAP + i], buf[_HIGHGAP + i], _ZERO, _ONE)
        closer = (buf[_FOUND + i] > _ZERO) & (t < buf[_T + i])
        buf[_T + i] = t if closer else buf[_T + i]
        buf[_ID + i] = number if closer else buf[_ID + i]
        buf[_FACE + i] = _TWO if closer else buf[_FACE + i]


@_exact
def _trace(buf, solids, rest, waves, keep, kept):
    """First hits of the tile's rays against the kept solids, the room and the ground."""
    _start_rays(buf)
    num_solids = solids.shape[0]
    if rest[pk.G_INDOOR] > _ZERO:
        _room(buf, rest, _F(num_solids))
    if rest[pk.G_GROUND] > _ZERO:
        _ground(buf, rest, waves, _F(num_solids + 1))
    for j in range(kept):
        _clip(buf, solids[keep[j]])
        _keep_closest(buf, _F(keep[j]))


@_exact
def _contains(solid, x, y, z):
    x, y, z = x - solid[_CENTER], y - solid[_CENTER + 1], z - solid[_CENTER + 2]
    o0 = solid[0] * x + solid[1] * y + solid[2] * z
    o1 = solid[3] * x + solid[4] * y + solid[5] * z
    o2 = solid[6] * x + solid[7] * y + solid[8] * z
    if not ((abs(o0) < _ONE) & (abs(o1) < _ONE) & (abs(o2) < _ONE)):
        return False
    if solid[pk.S_HAS_QUADRIC] > _ZERO:
        qa, qz, lz = solid[_QUADRIC], solid[_QUADRIC + 1], solid[_QUADRIC + 2]
        c = qa * (o0 * o0 + o1 * o1) + qz * (o2 * o2) + lz * o2 + solid[_QUADRIC + 3]
        if c >= _ZERO:
            return False
    for cut in range(2):
        base = _CUTS + 4 * cut
        if solid[pk.S_HAS_CUT + cut] > _ZERO:
            if solid[base] * o0 + solid[base + 1] * o1 + solid[base + 2] * o2 >= solid[base + 3]:
                return False
    return solid[pk.S_ACTIVE] > _ZERO


@_exact
def _inside_any(solids, x, y, z):
    for p in range(solids.shape[0]):
        if _contains(solids[p], x, y, z):
            return True
    return False


# -------------------------------------------------------------------------------------- culling


@_exact
def _cull_cone(solids, buf, last, keep):
    """Keep the solids whose bounding sphere meets the cone of the tile's camera rays.

    `last` is the number of rays in a row of the tile minus one, and of rows minus one.
    """
    ox, oy, oz = float(buf[_OX]), float(buf[_OY]), float(buf[_OZ])
    ax, ay, az = 0.0, 0.0, 0.0
    corners = (0, last[0], last[1] * _SIDE, last[1] * _SIDE + last[0])
    for i in corners:
        inverse = 1.0 / buf[_LEN + i]
        ax += buf[_DX + i] * inverse
        ay += buf[_DY + i] * inverse
        az += buf[_DZ + i] * inverse
    norm = math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax / norm, ay / norm, az / norm
    lowest = 1.0
    for i in corners:
        inverse = 1.0 / buf[_LEN + i]
        lowest = min(lowest, (ax * buf[_DX + i] + ay * buf[_DY + i] + az * buf[_DZ + i]) * inverse)
    half_angle = math.acos(max(-1.0, min(1.0, lowest))) + 1e-4
    kept = 0
    for p in range(solids.shape[0]):
        if solids[p, pk.S_ACTIVE] <= _ZERO:
            continue
        x = solids[p, _CENTER] - ox
        y = solids[p, _CENTER + 1] - oy
        z = solids[p, _CENTER + 2] - oz
        distance = math.sqrt(x * x + y * y + z * z)
        radius = solids[p, pk.S_RADIUS] * 1.02 + 1e-3 + 1e-5 * distance
        if distance > radius:
            angle = math.acos(max(-1.0, min(1.0, (x * ax + y * ay + z * az) / distance)))
            if angle > half_angle + math.asin(radius / distance):
                continue
        keep[kept] = p
        kept += 1
    return kept


@_exact
def _cull_capsule(solids, buf, count, keep):
    """Keep the solids that may lie between the tile's surface points and the light.

    Rows o and d hold the shadow rays; a ray with limit 0 is off.
    """
    x0, y0, z0 = math.inf, math.inf, math.inf
    x1, y1, z1 = -math.inf, -math.inf, -math.inf
    any_ray = -1
    for i in range(count):
        if buf[_LIMIT + i] > _ZERO:
            any_ray = i
            x0, x1 = min(x0, buf[_OX + i]), max(x1, buf[_OX + i])
            y0, y1 = min(y0, buf[_OY + i]), max(y1, buf[_OY + i])
            z0, z1 = min(z0, buf[_OZ + i]), max(z1, buf[_OZ + i])
    if any_ray < 0:
        return 0
    cx, cy, cz = 0.5 * (x0 + x1), 0.5 * (y0 + y1), 0.5 * (z0 + z1)
    spread = 0.5 * math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2 + (z1 - z0) ** 2)
    i = any_ray
    if buf[_LIMIT + i] > _ONE:  # the sun: one direction for all
        dx, dy, dz, end = float(buf[_DX + i]), float(buf[_DY + i]), float(buf[_DZ + i]), math.inf
    else:  # the lamp: one end for all
        dx = float(buf[_OX + i]) + buf[_DX + i] - cx
        dy = float(buf[_OY + i]) + buf[_DY + i] - cy
        dz = float(buf[_OZ + i]) + buf[_DZ + i] - cz
        end = 1.0
    square = max(dx * dx + dy * dy + dz * dz, 1e-12)
    kept = 0
    for p in range(solids.shape[0]):
        if solids[p, pk.S_ACTIVE] <= _ZERO:
            continue
        x, y, z = solids[p, _CENTER] - cx, solids[p, _CENTER + 1] - cy, solids[p, _CENTER + 2] - cz
        t = max(0.0, min(end, (x * dx + y * dy + z * dz) / square))
        gap = math.sqrt((x - t * dx) ** 2 + (y - t * dy) ** 2 + (z - t * dz) ** 2)
        distance = math.sqrt(x * x + y * y + z * z)
        if gap <= spread * 1.001 + solids[p, pk.S_RADIUS] * 1.02 + 1e-3 + 1e-5 * distance:
            keep[kept] = p
            kept += 1
    return kept


# -------------------------------------------------------------------------------------- surfaces


@_exact
def _surfaces(buf, solids, materials, rest, waves, view, count):
    """Fill position, normal, texture frame, and turn the rows o and d into shadow rays."""
    num_solids = solids.shape[0]
    indoor = rest[pk.G_INDOOR] > _ZERO
    for i in range(count):
        number = int(buf[_ID + i])
        dx, dy, dz = buf[_DX + i], buf[_DY + i], buf[_DZ + i]
        buf[_VX + i], buf[_VY + i], buf[_VZ + i] = dx, dy, dz
        if number < 0:
            buf[_LIMIT + i] = _ZERO
            continue
        t, face = buf[_T + i], int(buf[_FACE + i])
        x, y, z = buf[_OX + i] + t * dx, buf[_OY + i] + t * dy, buf[_OZ + i] + t * dz
        projection, side = face, False
        if number == num_solids + 1:
            slope_x, slope_y = _ZERO, _ZERO
            for k in range(waves.shape[0]):
                fx, fy = waves[k, 0], waves[k, 1]
                slope = waves[k, 3] * _wave(fx * x + fy * y + waves[k, 2] + _QUARTER_TURN)
                slope_x, slope_y = slope_x + fx * slope, slope_y + fy * slope
            nx, ny, nz = -slope_x, -slope_y, _ONE
            mx, my, mz = x, y, z
        elif number == num_solids:
            nx = (-_ONE if dx > _ZERO else _ONE) if face == 0 else _ZERO
            ny = (-_ONE if dy > _ZERO else _ONE) if face == 1 else _ZERO
            nz = (-_ONE if dz > _ZERO else _ONE) if face == 2 else _ZERO
            mx = x - rest[pk.G_ROOM_CENTER]
            my = y - rest[pk.G_ROOM_CENTER + 1]
            mz = z - rest[pk.G_ROOM_CENTER + 2]
            side = (mx if face == 0 else (my if face == 1 else mz)) > _ZERO
        else:
            s = solids[number]
            px, py, pz = x - s[_CENTER], y - s[_CENTER + 1], z - s[_CENTER + 2]
            l0 = s[0] * px + s[1] * py + s[2] * pz
            l1 = s[3] * px + s[4] * py + s[5] * pz
            l2 = s[6] * px + s[7] * py + s[8] * pz
            h0, h1, h2 = materials[number, 0], materials[number, 1], materials[number, 2]
            mx, my, mz = l0 * h0, l1 * h1, l2 * h2
            n0, n1, n2 = _ZERO, _ZERO, _ZERO
            if face == 0:
                n0 = _ONE if l0 > _ZERO else -_ONE
                side = mx > _ZERO
            elif face == 1:
                n1 = _ONE if l1 > _ZERO else -_ONE
                side = my > _ZERO
            elif face == 2:
                n2 = _ONE if l2 > _ZERO else -_ONE
                side = mz > _ZERO
            elif face == 3:
                n0 = _TWO * s[_QUADRIC] * l0
                n1 = _TWO * s[_QUADRIC] * l1
                n2 = _TWO * s[_QUADRIC + 1] * l2 + s[_QUADRIC + 2]
            else:
                base = _CUTS + 4 * (face - 4)
                n0, n1, n2 = s[base], s[base + 1], s[base + 2]
            nx = s[0] * n0 + s[3] * n1 + s[6] * n2
            ny = s[1] * n0 + s[4] * n1 + s[7] * n2
            nz = s[2] * n0 + s[5] * n1 + s[8] * n2
            if face >= 3:
                tilt0, tilt1, tilt2 = abs(n0 / h0), abs(n1 / h1), abs(n2 / h2)
                if face == 3:
                    flat = tilt2 * tilt2 > _TWO * (tilt0 * tilt0 + tilt1 * tilt1)
                    projection = 2 if flat else 3
                else:
                    projection = 1 if tilt1 > tilt0 else 0
                    projection = 2 if tilt2 > max(tilt0, tilt1) else projection
        scale = _ONE / math.sqrt(nx * nx + ny * ny + nz * nz)
        nx, ny, nz = nx * scale, ny * scale, nz * scale
        if nx * dx + ny * dy + nz * dz > _ZERO:
            nx, ny, nz = -nx, -ny, -nz
        buf[_PX + i], buf[_PY + i], buf[_PZ + i] = x, y, z
        buf[_NX + i], buf[_NY + i], buf[_NZ + i] = nx, ny, nz
        buf[_MX + i], buf[_MY + i], buf[_MZ + i] = mx, my, mz
        buf[_PROJECTION + i], buf[_SIDE_ROW + i] = _F(projection), _ONE if side else _ZERO
        lift = _LIFT * (t * buf[_LEN + i])
        x, y, z = x + nx * lift, y + ny * lift, z + nz * lift
        buf[_OX + i], buf[_OY + i], buf[_OZ + i] = x, y, z
        if indoor:
            buf[_DX + i] = view[pk.V_LAMP] - x
            buf[_DY + i] = view[pk.V_LAMP + 1] - y
            buf[_DZ + i] = view[pk.V_LAMP + 2] - z
            buf[_LIMIT + i] = _ONE
        else:
            buf[_DX + i] = view[pk.V_SUN]
            buf[_DY + i] = view[pk.V_SUN + 1]
            buf[_DZ + i] = view[pk.V_SUN + 2]
            buf[_LIMIT + i] = _FAR


# --------------------------------------------------------------------------------------- shading


@_fast
def _corners(size, offsets, tile, u, v, level):
    """First texel of the two rows, the two columns, and the position between them."""
    side = size >> level
    mask, base = side - 1, offsets[level] + np.int64(tile) * side * side
    x, y = (u - np.floor(u)) * _F(side) - _HALF, (v - np.floor(v)) * _F(side) - _HALF
    x0, y0 = np.floor(x), np.floor(y)
    ix, iy = np.int64(x0), np.int64(y0)
    row0, row1 = base + (iy & mask) * side, base + ((iy + 1) & mask) * side
    return row0, row1, ix & mask, (ix + 1) & mask, x - x0, y - y0


@_fast
def _bilinear_rgb(packed, size, offsets, tile, u, v, level):
    """Sample one level; 65025 times linear r, g, b."""
    row0, row1, column0, column1, fx, fy = _corners(size, offsets, tile, u, v, level)
    a, b = packed[row0 + column0], packed[row0 + column1]
    c, d = packed[row1 + column0], packed[row1 + column1]
    wa, wb = (_ONE - fx) * (_ONE - fy), fx * (_ONE - fy)
    wc, wd = (_ONE - fx) * fy, fx * fy
    red = wa * _F((a & 255) ** 2) + wb * _F((b & 255) ** 2)
    red += wc * _F((c & 255) ** 2) + wd * _F((d & 255) ** 2)
    a, b, c, d = a >> 8, b >> 8, c >> 8, d >> 8
    green = wa * _F((a & 255) ** 2) + wb * _F((b & 255) ** 2)
    green += wc * _F((c & 255) ** 2) + wd * _F((d & 255) ** 2)
    a, b, c, d = a >> 8, b >> 8, c >> 8, d >> 8
    blue = wa * _F((a & 255) ** 2) + wb * _F((b & 255) ** 2)
    blue += wc * _F((c & 255) ** 2) + wd * _F((d & 255) ** 2)
    return red, green, blue


@_fast
def _bilinear_mean(packed, size, offsets, tile, u, v, level):
    """Sample one level; 65025 times the mean of the channels."""
    row0, row1, column0, column1, fx, fy = _corners(size, offsets, tile, u, v, level)
    a = _F(((packed[row0 + column0] >> 24) & 255) ** 2)
    b = _F(((packed[row0 + column1] >> 24) & 255) ** 2)
    c = _F(((packed[row1 + column0] >> 24) & 255) ** 2)
    d = _F(((packed[row1 + column1] >> 24) & 255) ** 2)
    top, bottom = a + (b - a) * fx, c + (d - c) * fx
    return top + (bottom - top) * fy


@_fast
def _levels(offsets, lod):
    """The finer of the two mip levels to mix, and the share of the coarser."""
    lod = min(max(lod, _ZERO), _F(offsets.shape[0] - 1))
    level = np.int64(lod)
    return level, lod - _F(level)


@_fast
def _sample_rgb(packed, size, offsets, tile, u, v, lod):
    level, blend = _levels(offsets, lod)
    r, g, b = _bilinear_rgb(packed, size, offsets, tile, u, v, level)
    if blend > _F(1e-3):
        r1, g1, b1 = _bilinear_rgb(packed, size, offsets, tile, u, v, level + 1)
        r, g, b = r + (r1 - r) * blend, g + (g1 - g) * blend, b + (b1 - b) * blend
    scale = _F(1.0 / 65025.0)
    return r * scale, g * scale, b * scale


@_fast
def _sample_mean(packed, size, offsets, tile, u, v, lod):
    level, blend = _levels(offsets, lod)
    mean = _bilinear_mean(packed, size, offsets, tile, u, v, level)
    if blend > _F(1e-3):
        coarse = _bilinear_mean(packed, size, offsets, tile, u, v, level + 1)
        mean += (coarse - mean) * blend
    return mean * _F(1.0 / 65025.0)


@_fast
def _shade(buf, rgb, pixels, count, materials, textures, rest, view, packed, size, offsets):
    """Write linear radiance of the tile's rays."""
    indoor = rest[pk.G_INDOOR] > _ZERO
    for i in range(count):
        number = int(buf[_ID + i])
        out = pixels[i]
        inverse = buf[_INV + i]
        dx, dy, dz = buf[_VX + i] * inverse, buf[_VY + i] * inverse, buf[_VZ + i] * inverse
        if number < 0:
            weight = math.sqrt(min(max(dz, _ZERO), _ONE))
            stretch = _F(0.6) / (abs(dz) + _QUARTER)
            tile = int(rest[pk.G_SKY_TEXTURE])
            mean = _sample_mean(packed, size, offsets, tile, dx * stretch, dy * stretch, _TWO)
            gain = _F(0.8) + _HALF * mean
            for c in range(3):
                horizon, zenith = rest[pk.G_HORIZON + c], rest[pk.G_ZENITH + c]
                rgb[out, c] = (horizon + (zenith - horizon) * weight) * gain
            continue
        nx, ny, nz = buf[_NX + i], buf[_NY + i], buf[_NZ + i]
        mx, my, mz = buf[_MX + i], buf[_MY + i], buf[_MZ + i]
        material = materials[number]
        projection, face = int(buf[_PROJECTION + i]), int(buf[_FACE + i])
        if projection == 3:
            radius = _HALF * (material[0] + material[1])
            u, v = math.atan2(my / material[1], mx / material[0]) * radius, -mz
        elif projection == 0:
            u, v = my, -mz
        elif projection == 1:
            u, v = mx, -mz
        else:
            u, v = mx, my
        cos, sin = material[pk.M_COS], material[pk.M_SIN]
        group = min(face, 3)
        tile, second_tile = textures[number, group], textures[number, (group + 1) & 3]
        inverse_tile = material[pk.M_INVERSE_TILE + group]
        u, v = (u * cos - v * sin) * inverse_tile, (u * sin + v * cos) * inverse_tile
        facing = max(-(nx * dx + ny * dy + nz * dz), _F(0.08))
        distance = buf[_T + i] * buf[_LEN + i]
        footprint = distance * view[pk.V_PIXEL] / math.sqrt(facing) * inverse_tile * _F(size)
        lod = math.log(max(footprint, _F(1e-3))) * _F(1.4426950408889634)
        shift = _F(7.31) * _F(group) + _F(3.57) * buf[_SIDE_ROW + i]
        offset_u, offset_v = material[pk.M_OFFSET], material[pk.M_OFFSET + 1]
        r, g, b = _sample_rgb(
            packed, size, offsets, tile, u + offset_u + shift, v + offset_v + shift, lod
        )
        u2 = (_F(0.8) * u - _F(0.6) * v) * _F(0.27) - offset_u + shift
        v2 = (_F(0.6) * u + _F(0.8) * v) * _F(0.27) - offset_v + shift
        mean = _sample_mean(packed, size, offsets, second_tile, u2, v2, lod - _F(1.889))
        layer = _F(0.62) + _F(0.76) * mean

        lx, ly, lz = (
            view[pk.V_LAMP] - buf[_PX + i],
            view[pk.V_LAMP + 1] - buf[_PY + i],
            view[pk.V_LAMP + 2] - buf[_PZ + i],
        )
        lamp_distance = max(math.sqrt(lx * lx + ly * ly + lz * lz), _F(1e-3))
        inverse_lamp = _ONE / lamp_distance
        sx, sy, sz = view[pk.V_SUN], view[pk.V_SUN + 1], view[pk.V_SUN + 2]
        sun_cos = max(nx * sx + ny * sy + nz * sz, _ZERO)
        lamp_cos = max((nx * lx + ny * ly + nz * lz) * inverse_lamp, _ZERO)
        reach = _HALF * lamp_distance / rest[pk.G_UNIT]
        fall_off = _ONE / (_F(0.35) + reach * reach)
        blocked = buf[_BLOCKED + i] > _ZERO
        share = _ONE
        if indoor:
            share = _F(0.15) if blocked else _ONE
            lamp_cos *= share
            hx, hy, hz = lx * inverse_lamp - dx, ly * inverse_lamp - dy, lz * inverse_lamp - dz
        else:
            share = _ZERO if blocked else _ONE
            sun_cos *= share
            hx, hy, hz = sx - dx, sy - dy, sz - dz
        highlight = _ZERO
        if material[pk.M_SPECULAR] > _ZERO:
            norm = max(math.sqrt(hx * hx + hy * hy + hz * hz), _F(1e-6))
            shine = max((nx * hx + ny * hy + nz * hz) / norm, _ZERO)
            shine = shine * shine * shine
            shine = shine * shine
            shine = shine * shine
            shine = shine * shine
            highlight = _HALF * material[pk.M_SPECULAR] * shine * share
        hemisphere, lamp_gain = _F(0.6) + _F(0.4) * nz, lamp_cos * fall_off
        for c in range(3):
            base = (r if c == 0 else (g if c == 1 else b)) * layer
            albedo = base * material[pk.M_GAIN + c] + material[pk.M_BIAS + c]
            albedo = min(max(albedo, _F(0.01)), _ONE)
            light = (
                view[pk.V_AMBIENT + c] * hemisphere
                + view[pk.V_SUN_COLOR + c] * sun_cos
                + view[pk.V_LAMP_COLOR + c] * lamp_gain
            )
            rgb[out, c] = albedo * light + highlight


# ----------------------------------------------------------------------------------------- drivers


@_exact
def _camera_rays(buf, pixels, view, top, left, height, width):
    """Fill a tile with the rays of pixel centres, the last row and column repeated at the border.

    Returns the last row and column that exist.
    """
    last_row = min(_SIDE, height - top) - 1
    last_column = min(_SIDE, width - left) - 1
    fx, fy, cx, cy = view[pk.V_FX], view[pk.V_FY], view[pk.V_CX], view[pk.V_CY]
    r = view[pk.V_ROTATION : pk.V_ROTATION + 9]
    ox, oy, oz = view[pk.V_ORIGIN], view[pk.V_ORIGIN + 1], view[pk.V_ORIGIN + 2]
    for row in range(_SIDE):
        v = top + min(row, last_row)
        y = ((_F(v) + _HALF) - cy) / fy
        for column in range(_SIDE):
            u = left + min(column, last_column)
            x = ((_F(u) + _HALF) - cx) / fx
            i = row * _SIDE + column
            buf[_OX + i], buf[_OY + i], buf[_OZ + i] = ox, oy, oz
            buf[_DX + i] = r[0] * x + r[1] * y + r[2]
            buf[_DY + i] = r[3] * x + r[4] * y + r[5]
            buf[_DZ + i] = r[6] * x + r[7] * y + r[8]
            pixels[i] = v * width + u
    return last_row, last_column


@_exact
def _render_views(
    solids, materials, textures, rest, waves, views, packed, size, offsets, height, width, shadows,
    rgb, depth, surface_id, inside,
):  # fmt: skip
    buf = np.zeros(_ROWS, np.float32)
    pixels = np.zeros(_TILE, np.int64)
    keep = np.zeros(solids.shape[1], np.int64)
    everything = _TILE
    for b in range(views.shape[0]):
        for v in range(views.shape[1]):
            view = views[b, v]
            inside[b, v] = _inside_any(
                solids[b], view[pk.V_ORIGIN], view[pk.V_ORIGIN + 1], view[pk.V_ORIGIN + 2]
            )
            for top in range(0, height, _SIDE):
                for left in range(0, width, _SIDE):
                    last_row, last_column = _camera_rays(
                        buf, pixels, view, top, left, height, width
                    )
                    _start_rays(buf)
                    kept = _cull_cone(solids[b], buf, (last_column, last_row), keep)
                    _trace(buf, solids[b], rest[b], waves[b], keep, kept)
                    for i in range(_TILE):
                        depth[b, v, pixels[i]] = buf[_T + i]
                        surface_id[b, v, pixels[i]] = int(buf[_ID + i])
                        buf[_BLOCKED + i] = _ZERO
                    _surfaces(buf, solids[b], materials[b], rest[b], waves[b], view, everything)
                    if shadows:
                        kept = _cull_capsule(solids[b], buf, everything, keep)
                        for j in range(kept):
                            _clip(buf, solids[b, keep[j]])
                            _mark_blocked(buf)
                    _shade(
                        buf, rgb[b, v], pixels, everything, materials[b], textures[b], rest[b],
                        view, packed, size, offsets,
                    )  # fmt: skip


@_exact
def _cast_rays(solids, rest, waves, origins, directions, t, surface_id, inside):
    buf = np.zeros(_ROWS, np.float32)
    keep = np.zeros(solids.shape[1], np.int64)
    count = directions.shape[2]
    for b in range(directions.shape[0]):
        kept = 0
        for p in range(solids.shape[1]):
            if solids[b, p, pk.S_ACTIVE] > _ZERO:
                keep[kept] = p
                kept += 1
        for c in range(directions.shape[1]):
            x, y, z = origins[b, c, 0], origins[b, c, 1], origins[b, c, 2]
            inside[b, c] = _inside_any(solids[b], x, y, z)
            for start in range(0, count, _TILE):
                for i in range(_TILE):
                    n = min(start + i, count - 1)
                    buf[_OX + i], buf[_OY + i], buf[_OZ + i] = x, y, z
                    buf[_DX + i] = directions[b, c, n, 0]
                    buf[_DY + i] = directions[b, c, n, 1]
                    buf[_DZ + i] = directions[b, c, n, 2]
                _trace(buf, solids[b], rest[b], waves[b], keep, kept)
                for i in range(min(_TILE, count - start)):
                    t[b, c, start + i] = buf[_T + i]
                    surface_id[b, c, start + i] = int(buf[_ID + i])


def render_numba(
    packed: PackedScene,
    views: Tensor,
    textures: TextureTable,
    height: int,
    width: int,
    shadows: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Render views on one core, without the GIL; arguments and results as `render_torch`."""
    shape = (*views.shape[:2], height * width)
    rgb, depth = torch.empty(*shape, 3), torch.empty(shape)
    surface_id = torch.empty(shape, dtype=torch.int32)
    inside = torch.empty(shape[:2], dtype=torch.bool)
    arguments = [
        *_arrays(packed.solids, packed.materials, packed.textures, packed.globals, packed.waves),
        *_arrays(views, textures.packed),
        textures.size,
        np.array(textures.offsets, dtype=np.int64),
        height,
        width,
        shadows,
        *_arrays(rgb, depth, surface_id, inside),
    ]
    _render_views(*arguments)
    return rgb, depth, surface_id, inside[..., None].expand(shape)


def cast_numba(
    packed: PackedScene, origins: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cast rays on one core, without the GIL; see `render.cast`."""
    shape = directions.shape[:3]
    t = torch.empty(shape)
    surface_id = torch.empty(shape, dtype=torch.int32)
    inside = torch.empty(shape[:2], dtype=torch.bool)
    _cast_rays(
        *_arrays(packed.solids, packed.globals, packed.waves, origins, directions),
        *_arrays(t, surface_id, inside),
    )
    return t, surface_id, inside[..., None].expand(shape)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]
