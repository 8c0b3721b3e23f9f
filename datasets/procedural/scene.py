"""What a batch of procedural scenes is: the tensors that the renderer reads, and nothing else.

World frame: metres, z up. Cameras are OpenCV (+x right, +y down, +z forward).

Every solid is convex and lives in an affine local frame, where a point is
`l = diag(1 / half_size) @ rotation.T @ (x_world - center)`. It is the intersection of

* the unit box `|l_x| <= 1, |l_y| <= 1, |l_z| <= 1`,
* the quadric `qa (l_x^2 + l_y^2) + qz l_z^2 + lz l_z + k <= 0`,
* two half-spaces `n . l <= h`, given as rows `(n_x, n_y, n_z, h)`.

A quadric or a half-space that contains the whole unit box is ignored exactly (`NO_QUADRIC` and
`NO_CUT` are such values), so a plain box costs three slabs only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

NO_HIT = 1e9
"""Depth of a pixel that sees nothing."""

NO_QUADRIC = (1.0, 1.0, 0.0, -4.0, 0.0)
"""A sphere around the unit box: plain boxes."""

NO_CUT = (0.0, 0.0, 1.0, 10.0)
"""A half-space that contains the unit box."""


@dataclass(frozen=True)
class SceneBatch:
    """B scenes of P solids each, one room or one ground, and the light of V views.

    Material slots are numbered like surfaces: solids 0..P-1, P the room, P + 1 the ground.
    An unused solid has `half_size` 0.

    Attributes:
        center: (B, P, 3) of the solids, metres, world.
        half_size: (B, P, 3) metres along the local axes; any side <= 0 makes the slot empty.
        rotation: (B, P, 3, 3) world_from_local.
        quadric: (B, P, 5) qa, qz, lz, k, sign. With A the quadratic term along the ray, a cone
            (A < 0) has two nappes: sign < 0 keeps the one towards -z local, > 0 the one towards +z.
        cuts: (B, P, 2, 4) half-spaces in local coordinates.
        room_center: (B, 3) of the inside-out box.
        room_half_size: (B, 3) metres.
        indoor: (B,) bool, whether the room exists.
        ceiling: (B,) bool, False opens the top of the room to the sky.
        ground_waves: (B, W, 3) fx, fy in rad/m and phase in rad of the height field.
        ground_amplitude: (B, W) metres.
        has_ground: (B,) bool.
        texture: (B, P + 2, 4) int32 tile of the faces across x, y, z and of curved or cut faces.
        texture_size_m: (B, P + 2, 4) metres that one tile spans.
        texture_offset: (B, P + 2, 2) in tiles.
        texture_rotation: (B, P + 2) rad, turns the tile in the plane of its face.
        tint_gain: (B, P + 2, 3); albedo = clamp(texture * gain + bias, 0.01, 1).
        tint_bias: (B, P + 2, 3).
        specular: (B, P + 2) strength of the highlight.
        sun_direction: (B, V, 3) unit, from the scene to the sun.
        sun_color: (B, V, 3) linear radiance; casts shadows outdoors only.
        ambient: (B, V, 3) linear, stronger from above.
        lamp_position: (B, V, 3) metres, world.
        lamp_color: (B, V, 3) linear; casts shadows indoors only.
        sky_color: (B, 2, 3) at the horizon and at the zenith, linear.
        sky_texture: (B,) int32 tile of the clouds.
        unit_m: (B,) typical size of an object, metres; scales the fall-off of the lamp.
        kind: (B,) int64, which family of layouts drew the scene.
    """

    center: Tensor
    half_size: Tensor
    rotation: Tensor
    quadric: Tensor
    cuts: Tensor
    room_center: Tensor
    room_half_size: Tensor
    indoor: Tensor
    ceiling: Tensor
    ground_waves: Tensor
    ground_amplitude: Tensor
    has_ground: Tensor
    texture: Tensor
    texture_size_m: Tensor
    texture_offset: Tensor
    texture_rotation: Tensor
    tint_gain: Tensor
    tint_bias: Tensor
    specular: Tensor
    sun_direction: Tensor
    sun_color: Tensor
    ambient: Tensor
    lamp_position: Tensor
    lamp_color: Tensor
    sky_color: Tensor
    sky_texture: Tensor
    unit_m: Tensor
    kind: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return self.center.shape[0]

    @property
    def num_solids(self) -> int:
        """P, which is also the surface id of the room; P + 1 is the ground."""
        return self.center.shape[1]

    @property
    def num_views(self) -> int:
        """V."""
        return self.sun_direction.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.center.device

    def to(self, device: torch.device | str) -> SceneBatch:
        """Return the same scenes on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def select(self, index: Tensor | slice) -> SceneBatch:
        """Return the scenes that `index` picks along B."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def cat(batches: Sequence[SceneBatch]) -> SceneBatch:
        """Join batches of equal P, W and V along B."""
        names = [f.name for f in fields(SceneBatch)]
        return SceneBatch(**{n: torch.cat([getattr(b, n) for b in batches]) for n in names})

    def validate(self) -> None:
        """Check shapes and types.

        Raises:
            ValueError: if a field has another shape than the batch implies.
            TypeError: if a field has another dtype than its kind (float32, int or bool).
        """
        if self.center.ndim != 3 or self.sun_direction.ndim != 3 or self.ground_waves.ndim != 3:
            raise ValueError(
                "center must be (B, P, 3), sun_direction (B, V, 3) and ground_waves (B, W, 3), got "
                f"{tuple(self.center.shape)}, {tuple(self.sun_direction.shape)} and "
                f"{tuple(self.ground_waves.shape)}"
            )
        sizes = {"P": self.num_solids, "V": self.num_views, "W": self.ground_waves.shape[1]}
        sizes["M"] = self.num_solids + 2
        for name, (dims, dtype) in _LAYOUT.items():
            value: Tensor = getattr(self, name)
            expected = (self.batch_size, *(sizes.get(d) or int(d) for d in dims.split()))
            if tuple(value.shape) != expected:
                raise ValueError(
                    f"SceneBatch.{name} must have shape {expected}, got {tuple(value.shape)}"
                )
            if dtype is not None and value.dtype != dtype:
                raise TypeError(f"SceneBatch.{name} must be {dtype}, got {value.dtype}")


_FLOAT, _INT, _BOOL = torch.float32, torch.int32, torch.bool
_LAYOUT: dict[str, tuple[str, torch.dtype | None]] = {
    "center": ("P 3", _FLOAT),
    "half_size": ("P 3", _FLOAT),
    "rotation": ("P 3 3", _FLOAT),
    "quadric": ("P 5", _FLOAT),
    "cuts": ("P 2 4", _FLOAT),
    "room_center": ("3", _FLOAT),
    "room_half_size": ("3", _FLOAT),
    "indoor": ("", _BOOL),
    "ceiling": ("", _BOOL),
    "ground_waves": ("W 3", _FLOAT),
    "ground_amplitude": ("W", _FLOAT),
    "has_ground": ("", _BOOL),
    "texture": ("M 4", _INT),
    "texture_size_m": ("M 4", _FLOAT),
    "texture_offset": ("M 2", _FLOAT),
    "texture_rotation": ("M", _FLOAT),
    "tint_gain": ("M 3", _FLOAT),
    "tint_bias": ("M 3", _FLOAT),
    "specular": ("M", _FLOAT),
    "sun_direction": ("V 3", _FLOAT),
    "sun_color": ("V 3", _FLOAT),
    "ambient": ("V 3", _FLOAT),
    "lamp_position": ("V 3", _FLOAT),
    "lamp_color": ("V 3", _FLOAT),
    "sky_color": ("2 3", _FLOAT),
    "sky_texture": ("", _INT),
    "unit_m": ("", _FLOAT),
    "kind": ("", None),
}


@dataclass(frozen=True)
class RenderedViews:
    """V views of B scenes.

    Attributes:
        rgb: (B, V, H, W, 3) float32 linear radiance, >= 0, not clipped from above.
        depth: (B, V, H, W) float32 z along the optical axis in metres at the pixel centre,
            `NO_HIT` where nothing is seen.
        surface_id: (B, V, H, W) int32: -1 nothing, 0..P-1 a solid, P the room, P + 1 the ground.
        inside: (B, V, H, W) bool, whether the camera sits inside a solid (constant per view).
    """

    rgb: Tensor
    depth: Tensor
    surface_id: Tensor
    inside: Tensor


@dataclass(frozen=True)
class TextureTable:
    """Mip-mapped texture tiles in linear light, in one flat table.

    A texel is one int32: bytes (low to high) r, g, b and the mean of the three, each the square
    root of linear light in 1/255. So decoding is one multiplication, dark tones keep their
    precision as in sRGB, and a lookup is one gather of 4 bytes. Level l holds `count` tiles of
    side `size >> l`, tile after tile, row after row, from `offsets[l]`.

    Attributes:
        packed: (n,) int32 texels.
        size: side of level 0 in texels, a power of two.
        levels: number of mip levels.
        offsets: first texel of each level.
        count: number of tiles.
    """

    packed: Tensor
    size: int
    levels: int
    offsets: tuple[int, ...]
    count: int

    @staticmethod
    def from_uint8(
        tiles: Tensor, levels: int | None = None, device: torch.device | str | None = None
    ) -> TextureTable:
        """Build the table of display-referred tiles (gamma 2.2).

        Args:
            tiles: (T, S, S, 3) uint8, S a power of two.
            levels: number of mip levels; down to one texel by default.
            device: where the table goes; that of `tiles` by default.

        Raises:
            TypeError: if the tiles are not uint8.
            ValueError: if the shape is wrong, S is no power of two, or the table would be too large
                for 32-bit offsets.
        """
        if tiles.dtype != torch.uint8:
            raise TypeError(f"tiles must be uint8, got {tiles.dtype}")
        if tiles.ndim != 4 or tiles.shape[1] != tiles.shape[2] or tiles.shape[3] != 3:
            raise ValueError(f"tiles must be (T, S, S, 3), got {tuple(tiles.shape)}")
        count, size = tiles.shape[0], tiles.shape[1]
        if count == 0 or size & (size - 1):
            raise ValueError(
                f"need at least one tile of a power-of-two side, got {count} of {size}"
            )
        deepest = int(math.log2(size)) + 1
        levels = deepest if levels is None else min(levels, deepest)
        decode = (torch.arange(256, device=tiles.device) / 255.0) ** 2.2
        sizes = [size >> level for level in range(levels)]
        offsets = [count * sum(s * s for s in sizes[:level]) for level in range(levels)]
        total = count * sum(s * s for s in sizes)
        if total >= 2**31:
            raise ValueError(f"{count} tiles of {size} px need more than 2^31 texels; use fewer")
        packed = torch.empty(total, dtype=torch.int32, device=tiles.device)
        for start in range(0, count, 256):  # a few tiles at a time: float copies are 4x larger
            level_rgb = decode[tiles[start : start + 256].int()].permute(0, 3, 1, 2)
            for side, offset in zip(sizes, offsets, strict=True):
                chunk = _pack_texels(level_rgb)
                begin = offset + start * side * side
                packed[begin : begin + chunk.numel()] = chunk
                if side > 1:
                    level_rgb = F.avg_pool2d(level_rgb, 2)
        return TextureTable(packed.to(device or tiles.device), size, levels, tuple(offsets), count)

    def to(self, device: torch.device | str) -> TextureTable:
        """Return the same table on another device."""
        return replace(self, packed=self.packed.to(device))

    def linear(self, texels: Tensor) -> Tensor:
        """Decode packed texels (...) to linear r, g, b, mean (..., 4) in 0..1."""
        parts = [(texels >> shift) & 255 for shift in (0, 8, 16, 24)]
        root = torch.stack(parts, -1).float() * (1.0 / 255.0)
        return root * root


def _pack_texels(rgb: Tensor) -> Tensor:
    """Encode linear (T, 3, s, s) as flat int32 texels."""
    rgbm = torch.cat([rgb, rgb.mean(1, keepdim=True)], 1)
    code = (rgbm.clamp(0, 1).sqrt() * 255.0).round().to(torch.int64)
    word = code[:, 0] | (code[:, 1] << 8) | (code[:, 2] << 16) | (code[:, 3] << 24)
    return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32).flatten()


# Coefficients of sine on a quarter turn, odd polynomial in the phase in turns (Taylor, degree 7;
# error 1.6e-4). Every kernel evaluates exactly this polynomial, since the bits of a library sine
# differ between them.
SINE_COEFFICIENTS = tuple(
    (-1) ** k * math.tau ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(4)
)
INVERSE_TAU = 1.0 / math.tau


def wave(phase_rad: Tensor) -> Tensor:
    """Evaluate the ground's sine the same way in every kernel (error below 2e-4)."""
    turns = phase_rad * INVERSE_TAU
    turns = turns - torch.floor(turns + 0.5)  # -1/2 .. 1/2
    folded = 0.25 - (turns.abs() - 0.25).abs()  # 0 .. 1/4
    square = folded * folded
    c1, c3, c5, c7 = SINE_COEFFICIENTS
    value = folded * (c1 + square * (c3 + square * (c5 + square * c7)))
    return torch.where(turns < 0, -value, value)


def ground_height(scene: SceneBatch, xy: Tensor) -> Tensor:
    """Height of the ground below world points.

    Args:
        scene: B scenes; `has_ground` is not looked at.
        xy: (B, ..., 2) metres.

    Returns:
        (B, ...) metres.
    """
    shape = (scene.batch_size,) + (1,) * (xy.ndim - 2)
    height = torch.zeros_like(xy[..., 0])
    for k in range(scene.ground_waves.shape[1]):
        fx, fy, phase = (scene.ground_waves[:, k, i].view(shape) for i in range(3))
        amplitude = scene.ground_amplitude[:, k].view(shape)
        height = height + amplitude * wave(fx * xy[..., 0] + fy * xy[..., 1] + phase)
    return height
