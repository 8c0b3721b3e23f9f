"""From linear radiance to stored images: exposure, lens, tone curve, sensor noise, JPEG.

All parameters are drawn per view; some choices (grey-scale, base exposure) per scene. The
arithmetic is elementwise or exact, so that the result of a scene does not depend on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .rng import SceneRandom

_NOISE_BITS = 20

# Annex K of the JPEG standard (ITU-T T.81), luminance and chrominance, for quality 50.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *([99] * 32),
)  # fmt: skip


@dataclass(frozen=True)
class PhotometricOptions:
    """How often the less usual effects happen (probabilities for a view, `grey` for a scene)."""

    motion_blur: float = 0.12
    low_resolution: float = 0.12
    sharpened: float = 0.3
    jpeg: float = 0.8
    grey: float = 0.06
    strong_exposure: float = 0.15


class CameraPipeline:
    """Applies the photometric model; holds its noise table and DCT matrix."""

    def __init__(
        self, device: torch.device | str = "cpu", options: PhotometricOptions | None = None
    ) -> None:
        self.options = options or PhotometricOptions()
        stream = SceneRandom.from_indices(0, torch.zeros(1, dtype=torch.int64))
        self._noise = stream.normal(1 << _NOISE_BITS)[0].to(device)
        k = torch.arange(8, dtype=torch.float64)
        dct = 0.5 * torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16)
        dct[0] *= math.sqrt(0.5)
        self._dct = dct.float().to(device)
        self._tables = [
            torch.tensor(t, dtype=torch.float32, device=device).reshape(8, 8) / 255.0
            for t in (_LUMINANCE, _CHROMINANCE)
        ]

    def __call__(
        self, rng: SceneRandom, radiance: Float[Tensor, "b v h w 3"]
    ) -> Float[Tensor, "b v 3 h w"]:
        """Return images in [-1, 1] with 256 levels."""
        B, V, H, W, _ = radiance.shape
        o = self.options
        x = radiance.permute(0, 1, 4, 2, 3).contiguous()  # (B, V, 3, H, W)
        x = _tone(rng, x * _gain(rng, x, o.strong_exposure), H, W)
        x = x.reshape(B * V, 3, H, W)
        x = _on_subset(_views(rng.chance(o.low_resolution, V)), _lower_resolution, x)
        sigma = _views(rng.uniform(0.25, 0.75, V) * (0.7 + 0.3 * min(H, W) / 224.0))
        x = _blur(x, sigma)
        moved = _views(rng.chance(o.motion_blur, V))
        angle, length = _views(rng.uniform(0.0, math.pi, V)), _views(rng.uniform(0.8, 2.2, V))
        x = _on_subset(moved, _motion_blur, x, angle, length)
        amount = _views(rng.uniform(0.2, 1.0, V))
        x = _on_subset(_views(rng.chance(o.sharpened, V)), _sharpen, x, amount)
        x = self._add_noise(rng, x, V)
        quality = _views(rng.uniform(0.0, 1.0, V))
        x = _on_subset(_views(rng.chance(o.jpeg, V)), self._jpeg, x, quality)
        grey = rng.chance(o.grey, 1).expand(B, V).reshape(-1)
        x = _on_subset(grey, _grey, x)
        x = torch.round(x.clamp(0.0, 1.0) * 255.0) * (2.0 / 255.0) - 1.0
        return x.reshape(B, V, 3, H, W)

    def _add_noise(self, rng: SceneRandom, x: Tensor, num_views: int) -> Tensor:
        """Add read noise and signal-dependent shot noise."""
        _, C, H, W = x.shape
        start = _views(rng.integers(1 << _NOISE_BITS, num_views, C))[..., None]
        index = (start + torch.arange(H * W, device=x.device)) & ((1 << _NOISE_BITS) - 1)
        noise = self._noise[index].reshape(x.shape)
        read = _views(rng.uniform(0.0, 1.0, num_views)).square() * 0.02
        shot = _views(rng.uniform(0.0, 1.0, num_views)).square() * 0.035
        strength = torch.sqrt(x.clamp(0.0, 1.0)) * _image(shot) + _image(read)
        return x + noise * strength

    def _jpeg(self, x: Tensor, quality: Tensor) -> Tensor:
        """Quantise 8x8 blocks of luminance and of half-size chrominance."""
        _, _, H, W = x.shape
        x = F.pad(x, (0, -W % 16, 0, -H % 16), mode="replicate")
        r, g, b = x.unbind(1)
        luminance = 0.299 * r + 0.587 * g + 0.114 * b
        chroma = torch.stack([(b - luminance) * 0.564, (r - luminance) * 0.713], 1)
        chroma = _halve(chroma)
        # quality 95 to 30 in libjpeg's terms: the tables times 0.1 to 1.67
        scale = 0.1 + 1.5 * quality * quality * quality
        luminance = self._quantise(luminance[:, None] - 0.5, self._tables[0], scale)[:, 0] + 0.5
        chroma = self._quantise(chroma, self._tables[1], scale)
        blue, red = chroma.repeat_interleave(2, 2).repeat_interleave(2, 3).unbind(1)
        green = luminance - 0.3441 * blue - 0.7141 * red
        out = torch.stack([luminance + 1.402 * red, green, luminance + 1.772 * blue], 1)
        return out[..., :H, :W]

    def _quantise(self, x: Tensor, table: Tensor, scale: Tensor) -> Tensor:
        n, c, H, W = x.shape
        blocks = x.reshape(n, c, H // 8, 8, W // 8, 8).transpose(3, 4)  # (n, c, h, w, 8, 8)
        coefficients = self._dct @ blocks @ self._dct.T
        step = table * scale.reshape(-1, 1, 1, 1, 1, 1)
        coefficients = torch.round(coefficients / step) * step
        blocks = self._dct.T @ coefficients @ self._dct
        return blocks.transpose(3, 4).reshape(n, c, H, W)


def _views(x: Tensor) -> Tensor:
    """(B, V, ...) -> (B V, ...)."""
    return x.flatten(0, 1)


def _image(x: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1)."""
    return x[:, None, None, None]


def _on_subset(mask: Tensor, function, x: Tensor, *arguments: Tensor) -> Tensor:
    """Apply a function to the images where `mask` holds."""
    rows = torch.nonzero(mask)[:, 0]
    if not rows.numel():
        return x
    return x.index_copy(0, rows, function(x[rows], *(a[rows] for a in arguments)))


def _gain(rng: SceneRandom, x: Tensor, strong_chance: float) -> Tensor:
    """Exposure and white balance as one factor per channel, (B, V, 3, 1, 1)."""
    V = x.shape[1]
    # an integer sum does not depend on the order of its terms
    sample = (x[..., 1::4, 1::4].clamp(0.0, 8.0) * 65536.0).to(torch.int64)
    mean = sample.flatten(2).sum(-1).to(torch.float32) / (65536.0 * sample[0, 0].numel())
    level = rng.uniform(0.16, 0.42, 1) * torch.exp(0.2 * rng.normal(V))
    strong = rng.chance(strong_chance, V)
    level = torch.where(strong, level * torch.exp(0.45 * rng.normal(V)), level)
    balance = 1.0 + 0.05 * rng.normal(1, 3) + 0.025 * rng.normal(V, 3)
    balance = balance + 0.1 * rng.normal(V, 3) * strong[..., None]
    gain = (level / mean.clamp_min(1e-3))[..., None] * balance.clamp(0.5, 1.6)
    return gain[..., None, None]


def _tone(rng: SceneRandom, x: Tensor, height: int, width: int) -> Tensor:
    """Vignette, soft shoulder, gamma and an S-curve; linear (B, V, 3, H, W) -> display 0..1."""
    V = x.shape[1]
    row = torch.linspace(-1.0, 1.0, height, device=x.device).square()[:, None]
    column = torch.linspace(-1.0, 1.0, width, device=x.device).square()
    dim = rng.uniform(0.0, 1.0, V).square() * 0.25
    x = x * (1.0 - dim[..., None, None, None] * (row + column))
    x = x / (1.0 + rng.uniform(0.1, 0.35, V)[..., None, None, None] * x)
    gamma = 1.0 / (2.2 * rng.uniform(0.85, 1.15, V))[..., None, None, None]
    x = torch.exp(torch.log(x.clamp(1e-5, 1.3)) * gamma)
    contrast = rng.uniform(-0.35, 0.9, V)[..., None, None, None]
    x = x.clamp(max=1.0)
    return x + contrast * x * (1.0 - x) * (2.0 * x - 1.0)


def _blur(x: Tensor, sigma_px: Tensor) -> Tensor:
    """Blur by Gaussians of five taps, one width for each image."""
    side1 = torch.exp(-0.5 / (sigma_px * sigma_px))
    side2 = torch.exp(-2.0 / (sigma_px * sigma_px))
    total = 1.0 + 2.0 * side1 + 2.0 * side2
    w0, w1, w2 = (_image(w / total) for w in (torch.ones_like(total), side1, side2))
    H, W = x.shape[-2:]
    p = F.pad(x, (2, 2, 0, 0), mode="replicate")
    x = w0 * x + w1 * (p[..., 1 : W + 1] + p[..., 3 : W + 3]) + w2 * (p[..., :W] + p[..., 4:])
    p = F.pad(x, (0, 0, 2, 2), mode="replicate")
    near, far = p[..., 1 : H + 1, :] + p[..., 3 : H + 3, :], p[..., :H, :] + p[..., 4:, :]
    return w0 * x + w1 * near + w2 * far


def _motion_blur(x: Tensor, angle_rad: Tensor, length_px: Tensor) -> Tensor:
    """Average along a line of the given half length (below 2.5 px) through each pixel."""
    H, W = x.shape[-2:]
    p = F.pad(x, (2, 2, 2, 2), mode="replicate")
    c, s = torch.cos(angle_rad), torch.sin(angle_rad)
    out, total = torch.zeros_like(x), torch.zeros_like(c)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            away = (dx * s - dy * c).abs()
            along = (dx * c + dy * s).abs()
            weight = (1.0 - away).clamp_min(0.0) * (length_px + 0.5 - along).clamp(0.0, 1.0)
            out = out + _image(weight) * p[..., dy + 2 : dy + 2 + H, dx + 2 : dx + 2 + W]
            total = total + weight
    return out / _image(total)


def _sharpen(x: Tensor, amount: Tensor) -> Tensor:
    """Unsharp mask with its halo."""
    soft = _blur(x, torch.full_like(amount, 1.0))
    return x + _image(amount) * (x - soft)


def _halve(x: Tensor) -> Tensor:
    rows = x[..., 0::2, :] + x[..., 1::2, :]
    return 0.25 * (rows[..., 0::2] + rows[..., 1::2])


def _lower_resolution(x: Tensor) -> Tensor:
    """Halve the resolution and interpolate back."""
    H, W = x.shape[-2:]
    small = _halve(F.pad(x, (0, W % 2, 0, H % 2), mode="replicate"))
    return F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[..., :H, :W]


def _grey(x: Tensor) -> Tensor:
    value = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    return value.expand_as(x)
