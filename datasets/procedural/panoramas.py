"""Panoramas around a scene: what the sky shows, and what shiny surfaces mirror."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from ..texture_painters import fractal_noise

_WIDTH = 512
_LIMIT = 64
_PAINTED = 12
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_BLUR = 4  # of one level against the next


@dataclass(frozen=True, eq=False)
class Panoramas:
    """Equirectangular pictures in linear light, each of mean 1, and two blurred copies.

    Attributes:
        levels: (N, H, 2 H, 3) each; column 0 looks along +x, the middle row is the horizon.
    """

    levels: tuple[Float[Tensor, "n h w 3"], ...]

    def __len__(self) -> int:
        return len(self.levels[0])

    @classmethod
    def of(cls, pictures: np.ndarray, device: torch.device | str = "cpu") -> Panoramas:
        """Take sRGB bytes (N, H, 2 H, 3).

        Raises:
            ValueError: if the pictures are not twice as wide as high.
        """
        if pictures.ndim != 4 or pictures.shape[2] != 2 * pictures.shape[1]:
            raise ValueError(f"panoramas must be (N, H, 2 H, 3), got {pictures.shape}")
        linear = (torch.from_numpy(pictures).to(device).float() / 255.0) ** 2.2
        rows = torch.arange(linear.shape[1], device=device) + 0.5
        area = torch.sin(rows * (math.pi / linear.shape[1]))[:, None, None]
        mean = (linear * area).mean((1, 2, 3), keepdim=True) / area.mean()
        levels = [linear / mean.clamp_min(1e-3)]
        for _ in range(2):
            small = F.avg_pool2d(levels[-1].permute(0, 3, 1, 2), _BLUR)
            levels.append(small.permute(0, 2, 3, 1).contiguous())
        return cls(tuple(levels))

    @classmethod
    def from_folder(cls, folder: str | Path, device: torch.device | str = "cpu") -> Panoramas:
        """Read the first 64 pictures of a folder, in the order of their names.

        Raises:
            FileNotFoundError: if there is no picture.
        """
        folder = Path(folder)
        paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in _SUFFIXES)[:_LIMIT]
        if not paths:
            raise FileNotFoundError(f"no panoramas ({', '.join(_SUFFIXES)}) in {folder}")
        pictures = []
        for path in paths:
            with Image.open(path) as image:
                small = image.convert("RGB").resize((_WIDTH, _WIDTH // 2), Image.Resampling.LANCZOS)
            pictures.append(np.asarray(small))
        return cls.of(np.stack(pictures), device)

    def to(self, device: torch.device | str) -> Panoramas:
        """Return the same pictures on another device."""
        return Panoramas(tuple(level.to(device) for level in self.levels))

    def look(
        self,
        picture: Int[Tensor, " n"],
        direction: tuple[Tensor, Tensor, Tensor],
        turn: Float[Tensor, " n"],
        level: int = 0,
    ) -> Float[Tensor, "n 3"]:
        """Return the light from directions (unit vectors, z up)."""
        table = self.levels[level]
        _, H, W, _ = table.shape
        x, y, z = direction
        u = (torch.atan2(y, x) * (0.5 / math.pi) + turn) * W - 0.5
        v = (torch.acos(z.clamp(-1.0, 1.0)) * (H / math.pi) - 0.5).clamp(0.0, H - 1.0)
        left, top = u.floor(), v.floor()
        a, b = (u - left)[:, None], (v - top)[:, None]
        left, top = left.long(), top.long()
        below = (top + 1).clamp(max=H - 1)
        flat = table.view(-1, 3)

        def texel(row: Tensor, column: Tensor) -> Tensor:
            return flat[(picture * H + row) * W + column % W]

        upper = texel(top, left) * (1 - a) + texel(top, left + 1) * a
        lower = texel(below, left) * (1 - a) + texel(below, left + 1) * a
        return upper * (1 - b) + lower * b


@functools.cache
def painted_panoramas() -> Panoramas:
    """Paint twelve horizons with hills, woods or towns under a clouded sky; 0.5 s, once."""
    return Panoramas.of(np.stack([_paint(index) for index in range(_PAINTED)]))


def _paint(index: int) -> np.ndarray:
    """One picture, sRGB bytes (H, W, 3)."""
    rng = np.random.default_rng([index, 0x9A7])
    W, H = _WIDTH, _WIDTH // 2
    elevation = (0.5 - (np.arange(H) + 0.5) / H)[:, None] * 180.0  # degrees
    high = np.clip(elevation / 60.0, 0.0, 1.0)[..., None] ** 0.5
    horizon = rng.uniform(150, 235) + rng.normal(0, 8, 3)
    zenith = rng.uniform(60, 150) + np.array([-20.0, 10.0, 60.0])
    clouds = fractal_noise(rng, W, 1.4)[:H] * rng.uniform(5, 30)
    picture = horizon * (1 - high) + zenith * high + clouds
    for distance in np.linspace(1.0, 0.0, int(rng.integers(2, 5))):
        line = _skyline(rng, W, 4.0 + 14.0 * (1 - distance))
        colour = rng.uniform(30, 120) * rng.uniform(0.85, 1.15, 3) * (1 - 0.6 * distance)
        colour = colour + horizon * 0.6 * distance
        relief = fractal_noise(rng, W, rng.uniform(0.6, 1.2))[:H] * 28.0 * (1 - 0.7 * distance)
        land = elevation < line
        picture = np.where(land[..., None], colour + relief, picture)
    return picture.clip(0, 255).astype(np.uint8)


def _skyline(rng: np.random.Generator, width: int, height_deg: float) -> np.ndarray:
    """Height of the horizon for each column, degrees: rolling, jagged or built."""
    kind = rng.integers(3)
    if kind == 2:
        edges = np.sort(rng.choice(np.arange(1, width), int(rng.integers(15, 50)), replace=False))
        heights = rng.uniform(0.1, 1.0, len(edges) + 1) ** 2
        return height_deg * np.repeat(heights, np.diff([0, *edges, width]))
    noise = fractal_noise(rng, width, 2.0 if kind == 0 else 1.2)[0, :, 0]
    return height_deg * (0.4 + 0.25 * noise)
