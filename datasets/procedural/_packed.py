"""Scenes as the few flat float32 arrays that every kernel reads: one place decides what is derived.

Whatever is computed here (inverse sizes, bounds, cosines) has the same bits in all kernels.
The numba kernels freeze the constants below into their compiled code, and numba's cache notices
only changes of `render_numba.py` itself: after changing a constant here, touch that file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .scene import SceneBatch

# Columns of `PackedScene.solids`.
S_MATRIX, S_CENTER, S_QUADRIC, S_CUTS = 0, 9, 12, 17
S_RADIUS, S_HAS_QUADRIC, S_HAS_CUT, S_ACTIVE = 25, 26, 27, 29
SOLID_COLUMNS = 32

# Columns of `PackedScene.materials`.
M_HALF_SIZE, M_INVERSE_TILE, M_OFFSET, M_COS, M_SIN = 0, 3, 7, 9, 10
M_GAIN, M_BIAS, M_SPECULAR = 11, 14, 17
MATERIAL_COLUMNS = 20

# Columns of `PackedScene.globals`.
G_ROOM_CENTER, G_ROOM_HALF, G_INDOOR, G_CEILING, G_GROUND, G_BOUND = 0, 3, 6, 7, 8, 9
G_HORIZON, G_ZENITH, G_UNIT, G_SKY_TEXTURE = 10, 13, 16, 17
GLOBAL_COLUMNS = 20

# Columns of `PackedViews.views`.
V_SUN, V_SUN_COLOR, V_AMBIENT, V_LAMP, V_LAMP_COLOR = 0, 3, 6, 9, 12
V_ROTATION, V_ORIGIN, V_FX, V_FY, V_CX, V_CY, V_PIXEL = 15, 24, 27, 28, 29, 30, 31
VIEW_COLUMNS = 32

GROUND_RANGE_M = 400.0
"""The ground ends this far from the camera."""

NEAR_M = 1e-3
"""Hits closer than this to the ray's origin are ignored."""

MARCH_STEPS = 12
REFINE_STEPS = 4


@dataclass(frozen=True)
class PackedScene:
    """Solids, materials and the rest of B scenes, contiguous float32.

    Attributes:
        solids: (B, P, 32) local-from-world matrix row by row, centre, quadric, cuts, bounding
            radius and flags.
        materials: (B, P + 2, 20) half size, 1 / tile size, offset, rotation, tint, highlight.
        textures: (B, P + 2, 4) int32.
        globals: (B, 20) room, ground bound, sky, unit. The cloud tile is stored as a float, exact
            below 2^24.
        waves: (B, W, 4) fx, fy, phase, amplitude.
    """

    solids: Tensor
    materials: Tensor
    textures: Tensor
    globals: Tensor
    waves: Tensor

    def to(self, device: torch.device | str) -> PackedScene:
        """Return the same arrays on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def pack_scene(scene: SceneBatch) -> PackedScene:
    """Derive the arrays that the kernels read."""
    half = scene.half_size
    active = (half > 0).all(-1)
    safe = torch.where(active[..., None], half, torch.ones_like(half))
    matrix = scene.rotation.transpose(-1, -2) / safe[..., :, None]  # rows: local axes
    qa, qz, lz, k, _ = scene.quadric.unbind(-1)
    covers_box = (qa >= 0) & (qz >= 0) & (lz == 0) & (2 * qa + qz + k <= 0)
    has_cut = scene.cuts[..., :3].abs().sum(-1) > scene.cuts[..., 3]
    solids = half.new_zeros(*half.shape[:2], SOLID_COLUMNS)
    solids[..., S_MATRIX : S_MATRIX + 9] = matrix.flatten(-2)
    solids[..., S_CENTER : S_CENTER + 3] = scene.center
    solids[..., S_QUADRIC : S_QUADRIC + 5] = scene.quadric
    solids[..., S_CUTS : S_CUTS + 8] = scene.cuts.flatten(-2)
    solids[..., S_RADIUS] = half.norm(dim=-1)
    solids[..., S_HAS_QUADRIC] = (~covers_box).float()
    solids[..., S_HAS_CUT : S_HAS_CUT + 2] = has_cut.float()
    solids[..., S_ACTIVE] = active.float()

    batch, slots = scene.texture.shape[:2]
    materials = half.new_zeros(batch, slots, MATERIAL_COLUMNS)
    materials[:, : slots - 2, :3] = safe
    materials[:, slots - 2, :3] = scene.room_half_size
    materials[:, slots - 1, :3] = 1.0
    materials[..., M_INVERSE_TILE : M_INVERSE_TILE + 4] = 1.0 / scene.texture_size_m
    materials[..., M_OFFSET : M_OFFSET + 2] = scene.texture_offset
    materials[..., M_COS] = scene.texture_rotation.cos()
    materials[..., M_SIN] = scene.texture_rotation.sin()
    materials[..., M_GAIN : M_GAIN + 3] = scene.tint_gain
    materials[..., M_BIAS : M_BIAS + 3] = scene.tint_bias
    materials[..., M_SPECULAR] = scene.specular

    rest = half.new_zeros(batch, GLOBAL_COLUMNS)
    rest[:, G_ROOM_CENTER : G_ROOM_CENTER + 3] = scene.room_center
    rest[:, G_ROOM_HALF : G_ROOM_HALF + 3] = scene.room_half_size
    rest[:, G_INDOOR] = scene.indoor.float()
    rest[:, G_CEILING] = scene.ceiling.float()
    rest[:, G_GROUND] = scene.has_ground.float()
    rest[:, G_BOUND] = scene.ground_amplitude.abs().sum(-1) + 1e-4
    rest[:, G_HORIZON : G_ZENITH + 3] = scene.sky_color.flatten(-2)
    rest[:, G_UNIT] = scene.unit_m
    rest[:, G_SKY_TEXTURE] = scene.sky_texture.float()
    waves = torch.cat([scene.ground_waves, scene.ground_amplitude[..., None]], -1).contiguous()
    return PackedScene(solids, materials, scene.texture.contiguous(), rest, waves)


def pack_views(scene: SceneBatch, K: Tensor, world_from_cam: Tensor) -> Tensor:
    """Collect light and cameras of the views as (B, V, 32) float32."""
    views = K.new_zeros(*K.shape[:2], VIEW_COLUMNS)
    lights = (scene.sun_direction, scene.sun_color, scene.ambient, scene.lamp_position)
    views[..., :V_ROTATION] = torch.cat([*lights, scene.lamp_color], -1)
    views[..., V_ROTATION:V_ORIGIN] = world_from_cam[..., :3, :3].flatten(-2)
    views[..., V_ORIGIN:V_FX] = world_from_cam[..., :3, 3]
    views[..., V_FX], views[..., V_FY] = K[..., 0, 0], K[..., 1, 1]
    views[..., V_CX], views[..., V_CY] = K[..., 0, 2], K[..., 1, 2]
    views[..., V_PIXEL] = 1.0 / K[..., 0, 0]
    return views


def march_fractions() -> tuple[float, ...]:
    """Fractions of the way through the ground's slab at which its height is probed."""
    return tuple(((i + 1) / MARCH_STEPS) ** 2 for i in range(MARCH_STEPS))
