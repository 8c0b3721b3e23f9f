"""Buildings whose floors repeat the same windows, so that places look alike and are not."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import torch

from ..texture_painters import paint_facade
from .placement import Layout
from .rng import SceneRandom
from .scene import SceneBatch, TextureTable
from .templates import Solids, is_one_of

COUNT = 24
_BUILDINGS = ("block", "setback", "gabled", "house", "box")
_PLAIN = 180  # byte of the fourth channel that leaves the layer below as it is


def with_facades(table: TextureTable) -> TextureTable:
    """Return the table with `COUNT` painted facades after its tiles.

    As a second layer, which makes the repeats of a tile differ, they do nothing.
    """
    size = table.size
    rng = np.random.default_rng([zlib.crc32(b"facades"), size])
    tiles = np.stack([paint_facade(rng, size) for _ in range(COUNT)]).round().clip(0, 255)
    added = TextureTable.from_uint8(torch.from_numpy(tiles.astype(np.uint8)), table.levels)
    texels = (added.packed & 0x00FFFFFF) | torch.tensor(_PLAIN << 24).to(torch.int32)
    parts, offsets, length = [], [], 0
    for level in range(table.levels):
        area = (size >> level) ** 2
        first, second = table.count * area, COUNT * area
        old, new = table.offsets[level], added.offsets[level]
        parts += [
            table.packed[old : old + first],
            texels[new : new + second].to(table.packed.device),
        ]
        offsets.append(length)
        length += first + second
    return TextureTable(torch.cat(parts), size, table.levels, tuple(offsets), table.count + COUNT)


def paint_facades(
    rng: SceneRandom, scene: SceneBatch, layout: Layout, solids: Solids, first_tile: int
) -> SceneBatch:
    """Give seven buildings in ten a facade of windows, upright and in their usual size."""
    objects = layout.objects
    count = objects.template.shape[1]
    building = objects.large & is_one_of(objects.template, _BUILDINGS)
    building = building & ~layout.indoor[:, None] & rng.chance(0.7, count)
    shared = rng.chance(0.5, 1)  # a street of one style
    tile = rng.integers(COUNT, count)
    tile = first_tile + torch.where(shared, tile[:, :1], tile)
    height = rng.log_uniform(4.0, 12.0, count)  # of the two to five floors of a tile
    unit = (layout.unit_m[:, None] / 0.7).clamp(max=1.0)
    P = solids.owner.shape[1]

    chosen = torch.gather(building, 1, solids.owner) & solids.active
    chosen &= solids.half_size.amin(-1) > 0.25 * scene.unit_m[:, None]  # walls, not ledges
    tile, height = (torch.gather(x, 1, solids.owner) for x in (tile, height * unit))
    alike = torch.gather(rng.chance(0.6, count), 1, solids.owner)  # the others are weathered

    texture, size = scene.texture.clone(), scene.texture_size_m.clone()
    sides = texture[:, :P]
    sides[..., :2] = torch.where(chosen[..., None], tile[..., None], sides[..., :2]).int()
    sides[..., 2] = torch.where(chosen & alike, tile, sides[..., 2]).int()
    size[:, :P, :2] = torch.where(chosen[..., None], height[..., None], size[:, :P, :2])
    gain, bias = scene.tint_gain.clone(), scene.tint_bias.clone()
    faithful = rng.log_uniform(0.7, 1.1, P, 1) * (1.0 + 0.05 * rng.normal(P, 3))
    gain[:, :P] = torch.where(chosen[..., None], faithful, gain[:, :P])
    bias[:, :P] = torch.where(chosen[..., None], 0.01, bias[:, :P])
    turn = scene.texture_rotation.clone()
    turn[:, :P] = torch.where(chosen, 0.0, turn[:, :P])
    return replace(
        scene,
        texture=texture,
        texture_size_m=size,
        tint_gain=gain,
        tint_bias=bias,
        texture_rotation=turn,
    )
