"""What a real sensor does to linear light: lines exposed one by one, photons, a colour mosaic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .rng import SceneRandom

_BILINEAR = ((0.25, 0.5, 0.25), (0.5, 1.0, 0.5), (0.25, 0.5, 0.25))  # red and blue, one in four
_BILINEAR_GREEN = ((0.0, 0.25, 0.0), (0.25, 1.0, 0.25), (0.0, 0.25, 0.0))  # one in two


@dataclass(frozen=True)
class Sensor:
    """The sensors of n photographs, each tensor (n,).

    Attributes:
        well: electrons of a pixel at linear light 1; few mean a high ISO.
        read_noise: deviation in linear light.
        row_noise: the same for a whole line.
        flicker: amplitude of the exposure's change from line to line, under flickering lamps.
        periods: of the flicker over the height.
        phase_rad: of the flicker.
        start: place in the table of noise.
        mosaic: whether colours are interpolated from one of three at each pixel.
    """

    well: Tensor
    read_noise: Tensor
    row_noise: Tensor
    flicker: Tensor
    periods: Tensor
    phase_rad: Tensor
    start: Tensor
    mosaic: Tensor

    @classmethod
    def draw(cls, rng: SceneRandom, num_views: int, table_size: int) -> Sensor:
        """Draw the sensors of all views; ISO differs between the views of a scene."""
        V = num_views
        iso = rng.log_uniform(1.0, 40.0, V)
        sensor = cls(
            well=20_000.0 / iso,
            read_noise=rng.log_uniform(2e-4, 8e-4, 1) * iso.sqrt(),
            row_noise=rng.log_uniform(5e-5, 4e-4, 1) * iso.sqrt(),
            flicker=rng.uniform(0.0, 0.15, V) * rng.chance(0.25, V),
            periods=rng.uniform(0.3, 3.0, V),
            phase_rad=rng.uniform(0.0, 2.0 * math.pi, V),
            start=rng.integers(table_size, V),
            mosaic=rng.chance(0.5, 1).expand(-1, V),
        )
        return sensor._map(lambda x: x.flatten(0, 1))

    def rows(self, start: int, stop: int) -> Sensor:
        """Keep some photographs."""
        return self._map(lambda x: x[start:stop])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Sensor:
        return Sensor(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def expose(
        self, light: Float[Tensor, "n 3 h w"], noise: Float[Tensor, " t"]
    ) -> Float[Tensor, "n 3 h w"]:
        """Turn linear light into what is read out, in the same unit, not below 0.

        Args:
            light: mean of a dark picture about 0.1.
            noise: table of standard normal numbers, its length a power of two.
        """
        n, _, H, W = light.shape

        def column(x: Tensor) -> Tensor:
            return x[:, None, None, None]

        line = torch.arange(H, device=light.device)[:, None] / H
        angle = column(self.periods) * (2.0 * math.pi) * line + column(self.phase_rad)
        light = light * (1.0 + column(self.flicker) * torch.sin(angle))
        count = light[0].numel() + H
        index = self.start[:, None] + torch.arange(count, device=light.device)
        drawn = noise[index & (len(noise) - 1)]
        pixels, lines = drawn[:, H:].view(light.shape), drawn[:, :H].view(n, 1, H, 1)
        variance = light.clamp(0.0, 4.0) / column(self.well) + column(self.read_noise).square()
        light = light + pixels * variance.sqrt() + lines * column(self.row_noise)
        rows = torch.nonzero(self.mosaic)[:, 0]
        if rows.numel():
            light = light.index_copy(0, rows, _through_mosaic(light[rows]))
        return light.clamp_(min=0.0)


def _through_mosaic(light: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Keep one colour of each pixel, in Bayer's pattern, and interpolate the others."""
    _, _, H, W = light.shape
    odd_row = (torch.arange(H, device=light.device) % 2)[:, None]
    odd_column = torch.arange(W, device=light.device) % 2
    red, blue = (1 - odd_row) * (1 - odd_column), odd_row * odd_column
    masks = torch.stack([red, 1 - red - blue, blue]).to(light.dtype)
    kernels = torch.tensor([_BILINEAR, _BILINEAR_GREEN, _BILINEAR], device=light.device)
    padded = F.pad(light * masks, (1, 1, 1, 1), mode="reflect")  # keeps the pattern at the border
    return F.conv2d(padded, kernels[:, None], groups=3)
