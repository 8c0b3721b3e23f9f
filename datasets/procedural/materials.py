"""Surfaces and light: which texture, tint and gloss every solid has, and how views are lit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .placement import Layout
from .rng import SceneRandom
from .scene import SceneBatch
from .templates import Solids, is_one_of

_GLASSY = ("window", "window_sill", "screen", "bottle", "car", "van")


def build_scene(
    rng: SceneRandom,
    layout: Layout,
    solids: Solids,
    num_textures: int,
    num_views: int,
    relight_chance: float = 0.25,
) -> SceneBatch:
    """Give a layout its surfaces and its light.

    Args:
        rng: streams of the scenes.
        layout: where things stand.
        solids: the parts of the objects.
        num_textures: tiles of the texture bank.
        num_views: V.
        relight_chance: share of scenes whose light differs from view to view.
    """
    surfaces = _surfaces(rng.fork("surfaces"), layout, solids, num_textures)
    light = _light(rng.fork("light"), layout, num_textures, num_views, relight_chance)
    return SceneBatch(
        center=solids.center,
        half_size=solids.half_size,
        rotation=solids.rotation,
        quadric=solids.quadric,
        cuts=solids.cuts,
        room_center=layout.room_center,
        room_half_size=layout.room_half_size,
        indoor=layout.indoor,
        ceiling=layout.ceiling,
        ground_waves=layout.ground_waves,
        ground_amplitude=layout.ground_amplitude,
        has_ground=layout.has_ground,
        unit_m=layout.unit_m,
        kind=layout.kind,
        **surfaces,
        **light,
    )


def _surfaces(
    rng: SceneRandom, layout: Layout, solids: Solids, num_textures: int
) -> dict[str, Tensor]:
    B, P = solids.owner.shape
    N = layout.objects.template.shape[1]
    M = P + 2

    def of_owner(x: Tensor) -> Tensor:  # (B, N, ...) -> (B, P, ...)
        flat = x.reshape(B, N, -1)
        index = solids.owner[..., None].expand(-1, -1, flat.shape[-1])
        return torch.gather(flat, 1, index).reshape(B, P, *x.shape[2:])

    # tiles: some scenes use a small palette, as real places repeat their materials
    palette = rng.integers(num_textures, 8)
    few = rng.chance(0.3, 1, 1)

    def tiles(*shape: int) -> Tensor:
        flat = rng.integers(8, *shape).reshape(B, -1)
        from_palette = torch.gather(palette, 1, flat).reshape(B, *shape)
        return torch.where(few, from_palette, rng.integers(num_textures, *shape))

    texture = tiles(M, 4)
    own = tiles(N, 1)
    keep = rng.chance(0.75, P, 1)
    texture[:, :P] = torch.where(keep, of_owner(own), texture[:, :P])
    one_tile = rng.chance(0.65, M, 1)
    one_tile[:, P] = False
    texture = torch.where(one_tile, texture[:, :, :1], texture)
    same_walls = rng.chance(0.6, 1)
    texture[:, P, 1] = torch.where(same_walls[:, 0], texture[:, P, 0], texture[:, P, 1])

    # tile sizes follow the object; large surfaces show one photograph or several tiles. Larger
    # ones would lack detail: a tile has 128 to 256 texels, and cameras come close.
    extent = of_owner(layout.objects.half_size.amax(-1))
    part = solids.half_size.amax(-1)
    size = torch.where(rng.chance(0.5, P), extent, part.clamp_min(1e-2))
    size = size * rng.log_uniform(0.35, 1.9, P)
    large = of_owner(layout.objects.large)
    size = torch.where(large, extent * rng.log_uniform(0.3, 2.2, P), size).clamp_min(0.02)
    room = layout.room_half_size.amax(-1, keepdim=True) * rng.log_uniform(0.3, 1.5, 1)
    ground = layout.unit_m[:, None] * rng.log_uniform(0.6, 4.0, 1)
    size = torch.cat([size, room, ground], 1)[..., None] * rng.log_uniform(0.85, 1.18, M, 4)

    # albedo = texture * gain + bias: mostly faithful, some plain, few strongly coloured
    gain = rng.log_uniform(0.5, 1.15, M, 1) * (1.0 + 0.06 * rng.normal(M, 3))
    bias = rng.uniform(-0.02, 0.08, M, 1).expand(B, M, 3)
    plain_chance = torch.where(layout.indoor, 0.3, 0.16)[:, None, None]
    plain = rng.chance(plain_chance, M, 1)
    plain[:, :P] = torch.where(
        rng.chance(0.7, P, 1), of_owner(rng.chance(plain_chance, N, 1)), plain[:, :P]
    )
    hue = 1.0 + 0.12 * rng.normal(M, 3) + 0.35 * rng.normal(M, 3) * rng.chance(0.15, M, 1)
    base = rng.log_uniform(0.08, 0.75, M, 1) * hue.clamp(0.3, 1.7)
    gain = torch.where(plain, gain * rng.log_uniform(0.06, 0.45, M, 1), gain)
    bias = torch.where(plain, base, bias)
    coloured = rng.chance(0.05, M, 1)
    gain = torch.where(coloured, gain * rng.uniform(0.35, 1.2, M, 3), gain)
    glass = of_owner(is_one_of(layout.objects.template, _GLASSY))
    dark = torch.cat([glass & rng.chance(0.35, P), torch.zeros_like(glass[:, :2])], 1)[..., None]
    gain, bias = torch.where(dark, 0.4 * gain, gain), torch.where(dark, 0.3 * bias, bias)
    shiny = torch.where(dark[..., 0], 0.7, 0.22)
    turn = torch.where(
        rng.chance(0.25, M), rng.uniform(0.0, 2.0 * math.pi, M), rng.integers(2, M) * (math.pi / 2)
    )
    return {
        "texture": texture.to(torch.int32),
        "texture_size_m": size,
        "texture_offset": rng.uniform(0.0, 50.0, M, 2),
        "texture_rotation": turn,
        "tint_gain": gain,
        "tint_bias": bias,
        "specular": rng.uniform(0.0, 0.5, M) * rng.chance(shiny, M),
    }


def _light(
    rng: SceneRandom, layout: Layout, num_textures: int, num_views: int, relight_chance: float
) -> dict[str, Tensor]:
    V = num_views
    indoor = layout.indoor[:, None]
    change = rng.chance(relight_chance, 1)

    def per_view(x: Tensor) -> Tensor:
        """Use the first view's draw everywhere unless the light changes: (B, V, ...)."""
        flag = change.reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(flag, x, x[:, :1])

    sun = rng.normal(V, 3)
    sun = torch.cat([sun[..., :2], sun[..., 2:].abs() + 0.35], -1)
    sun = sun / sun.square().sum(-1, keepdim=True).sqrt()
    tone = rng.normal(V, 2) * 0.1
    warm = torch.stack([1.0 + tone[..., 0], torch.ones_like(tone[..., 0]), 1.0 - tone[..., 1]], -1)
    clouds = torch.where(rng.chance(0.3, V), 0.08, 1.0)
    sun_power = torch.where(indoor, rng.uniform(0.0, 0.3, V), rng.uniform(0.3, 1.2, V) * clouds)
    ambient = (2.0 - warm) * rng.uniform(0.25, 0.7, V)[..., None]
    shift = rng.uniform(-0.75, 0.75, V, 2) * layout.room_half_size[:, None, :2]
    level = 2.0 * layout.room_half_size[:, None, 2] * rng.uniform(0.7, 0.95, V)
    lamp = torch.cat([shift, level[..., None]], -1)
    lamp_on = indoor & rng.chance(0.85, V)
    lamp_power = torch.where(lamp_on, rng.uniform(0.2, 1.1, V), 0.0)
    lamp_tone = 1.0 + 0.1 * rng.normal(V, 3)
    horizon = rng.log_uniform(0.3, 0.9, 1) * (1.0 + 0.07 * rng.normal(3))
    blue = torch.tensor([0.6, 0.4, 0.05], device=rng.device) * rng.uniform(0.0, 1.0, 1)
    return {
        "sun_direction": per_view(sun),
        "sun_color": per_view(warm * sun_power[..., None]),
        "ambient": per_view(ambient),
        "lamp_position": per_view(lamp),
        "lamp_color": per_view(lamp_tone * lamp_power[..., None]),
        "sky_color": torch.stack([horizon, horizon * (1.0 - blue)], 1),
        "sky_texture": rng.integers(num_textures).to(torch.int32),
    }
