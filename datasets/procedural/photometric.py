"""From linear radiance to stored images: exposure, lens, tone curve, sensor noise, JPEG.

All parameters are drawn per view; some choices (grey-scale, base exposure) per scene. The
arithmetic is elementwise or exact, so that the result of a scene does not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .rng import SceneRandom
from .sensor import Sensor

_NOISE_BITS = 20
_CACHED_FLOATS = 1 << 19

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
    low_resolution: float = 0.08
    sharpened: float = 0.3
    jpeg: float = 0.8
    grey: float = 0.06
    strong_exposure: float = 0.15


@dataclass(frozen=True)
class _Shots:
    """The parameters of n photographs, each tensor (n,) unless said."""

    level: Tensor  # mean linear brightness
    balance: Tensor  # (n, 3)
    vignette: Tensor
    shoulder: Tensor
    gamma: Tensor
    contrast: Tensor
    halved: Tensor
    sigma_px: Tensor
    moved: Tensor
    angle_rad: Tensor
    length_px: Tensor
    sharpened: Tensor
    sharpness: Tensor
    noise_start: Tensor  # (n, 3)
    read_noise: Tensor
    shot_noise: Tensor
    jpeg: Tensor
    jpeg_scale: Tensor
    grey: Tensor

    @classmethod
    def draw(
        cls, rng: SceneRandom, num_views: int, short_side: int, options: PhotometricOptions
    ) -> _Shots:
        """Draw the photographs of all views of the scenes of `rng`."""
        V = num_views
        level = rng.uniform(0.10, 0.27, 1) * torch.exp(0.2 * rng.normal(V))
        strong = rng.chance(options.strong_exposure, V)
        level = torch.where(strong, level * torch.exp(0.45 * rng.normal(V)), level)
        balance = 1.0 + 0.05 * rng.normal(1, 3) + 0.025 * rng.normal(V, 3)
        balance = balance + 0.1 * rng.normal(V, 3) * strong[..., None]
        quality = rng.uniform(0.0, 1.0, V)
        shots = cls(
            level=level,
            balance=balance.clamp(0.5, 1.6),
            vignette=rng.uniform(0.0, 1.0, V).square() * 0.25,
            shoulder=rng.uniform(0.15, 0.6, V),
            gamma=1.0 / (2.2 * rng.uniform(0.85, 1.15, V)),
            contrast=rng.uniform(-0.35, 0.9, V),
            halved=rng.chance(options.low_resolution, V),
            sigma_px=rng.uniform(0.15, 0.65, V) * (0.7 + 0.3 * short_side / 224.0),
            moved=rng.chance(options.motion_blur, V),
            angle_rad=rng.uniform(0.0, math.pi, V),
            length_px=rng.uniform(0.8, 2.2, V),
            sharpened=rng.chance(options.sharpened, V),
            sharpness=rng.uniform(0.2, 1.0, V),
            noise_start=rng.integers(1 << _NOISE_BITS, V, 3),
            read_noise=rng.uniform(0.0, 1.0, V).square() * 0.02,
            shot_noise=rng.uniform(0.0, 1.0, V).square() * 0.035,
            jpeg=rng.chance(options.jpeg, V),
            # quality 95 to 30 in libjpeg's terms
            jpeg_scale=0.1 + 1.5 * quality * quality * quality,
            grey=rng.chance(options.grey, 1).expand(-1, V),
        )
        return shots._map(lambda x: x.flatten(0, 1))

    def rows(self, start: int, stop: int) -> _Shots:
        """Keep some photographs."""
        return self._map(lambda x: x[start:stop])

    def _map(self, function: Callable[[Tensor], Tensor]) -> _Shots:
        return _Shots(**{f.name: function(getattr(self, f.name)) for f in fields(self)})


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
        self, rng: SceneRandom, radiance: Float[Tensor, "b v h w 3"], sensors: bool = False
    ) -> Float[Tensor, "b v 3 h w"]:
        """Return images in [-1, 1] with 256 levels.

        Args:
            rng: streams of the scenes.
            radiance: linear.
            sensors: use `Sensor` for the noise.
        """
        B, V, H, W, _ = radiance.shape
        shots = _Shots.draw(rng, V, min(H, W), self.options)
        sensor = Sensor.draw(rng.fork("sensor"), V, 1 << _NOISE_BITS) if sensors else None
        if sensor is not None:
            none = torch.zeros_like(shots.read_noise)
            shots = replace(shots, read_noise=none, shot_noise=none)
        linear = radiance.flatten(0, 1)
        images = linear.new_empty(B * V, 3, H, W)
        # a CPU works on pieces that stay in its cache; that is three times as fast
        step = max(1, _CACHED_FLOATS // (3 * H * W)) if linear.device.type == "cpu" else B * V
        for start in range(0, B * V, step):
            stop = min(start + step, B * V)
            part = None if sensor is None else sensor.rows(start, stop)
            images[start:stop] = self._develop(shots.rows(start, stop), linear[start:stop], part)
        return images.reshape(B, V, 3, H, W)

    def _develop(self, shots: _Shots, linear: Tensor, sensor: Sensor | None) -> Tensor:
        """(n, H, W, 3) -> (n, 3, H, W)."""
        x = _expose(shots, linear.permute(0, 3, 1, 2).contiguous())
        if sensor is not None:
            x = sensor.expose(x, self._noise)
        x = _tone(shots, x)
        x = _on_subset(shots.halved, _lower_resolution, x)
        x = _blur(x, shots.sigma_px)
        x = _on_subset(shots.moved, _motion_blur, x, shots.angle_rad, shots.length_px)
        x = _on_subset(shots.sharpened, _sharpen, x, shots.sharpness)
        x = self._add_noise(shots, x)
        x = _on_subset(shots.jpeg, self._jpeg, x, shots.jpeg_scale)
        x = _on_subset(shots.grey, _grey, x)
        return x.clamp_(0.0, 1.0).mul_(255.0).round_().mul_(2.0 / 255.0).sub_(1.0)

    def _add_noise(self, shots: _Shots, x: Tensor) -> Tensor:
        """Add read noise and signal-dependent shot noise."""
        H, W = x.shape[-2:]
        index = shots.noise_start[..., None] + torch.arange(H * W, device=x.device)
        noise = self._noise[index & ((1 << _NOISE_BITS) - 1)].reshape(x.shape)
        strength = x.clamp(0.0, 1.0).sqrt_().mul_(_image(shots.shot_noise))
        return x + noise * strength.add_(_image(shots.read_noise))

    def _jpeg(self, x: Tensor, scale: Tensor) -> Tensor:
        """Quantise 8x8 blocks of luminance and of half-size chrominance."""
        _, _, H, W = x.shape
        if H % 16 or W % 16:
            x = F.pad(x, (0, -W % 16, 0, -H % 16), mode="replicate")
        r, g, b = x.unbind(1)
        luminance = 0.299 * r + 0.587 * g + 0.114 * b
        chroma = torch.stack([(b - luminance) * 0.564, (r - luminance) * 0.713], 1)
        chroma = _halve(chroma)
        luminance = self._quantise(luminance[:, None] - 0.5, self._tables[0], scale)[:, 0] + 0.5
        chroma = self._quantise(chroma, self._tables[1], scale)
        blue, red = chroma.repeat_interleave(2, 2).repeat_interleave(2, 3).unbind(1)
        green = luminance - 0.3441 * blue - 0.7141 * red
        out = torch.stack([luminance + 1.402 * red, green, luminance + 1.772 * blue], 1)
        return out[..., :H, :W]

    def _quantise(self, x: Tensor, table: Tensor, scale: Tensor) -> Tensor:
        n, c, H, W = x.shape
        D = self._dct
        blocks = x.reshape(n, c, H // 8, 8, W // 8, 8).transpose(3, 4)  # (n, c, h, w, 8, 8)
        spectrum = (blocks @ D.T).transpose(-1, -2) @ D.T  # its transpose
        step = table.T * scale.reshape(-1, 1, 1, 1, 1, 1)
        spectrum = torch.round(spectrum / step) * step
        blocks = (spectrum @ D).transpose(-1, -2) @ D
        return blocks.transpose(3, 4).reshape(n, c, H, W)


def _image(x: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1)."""
    return x[:, None, None, None]


def _on_subset(
    mask: Tensor, function: Callable[..., Tensor], x: Tensor, *arguments: Tensor
) -> Tensor:
    """Apply a function to the images where `mask` holds."""
    rows = torch.nonzero(mask)[:, 0]
    if not rows.numel():
        return x
    return x.index_copy(0, rows, function(x[rows], *(a[rows] for a in arguments)))


def _expose(shots: _Shots, x: Tensor) -> Tensor:
    """Expose and dim the corners; linear (n, 3, H, W)."""
    H, W = x.shape[-2:]
    # expose for the geometric mean, which a bright sky moves little; summed as integers, since
    # their sum does not depend on the order of its terms
    sample = (x[..., 1::4, 1::4].clamp(2e-3, 8.0).log_() * 65536.0).to(torch.int64).flatten(1)
    mean = torch.exp(sample.sum(-1).to(torch.float32) / (65536.0 * sample.shape[1]))
    gain = (shots.level / mean)[:, None] * shots.balance
    row = torch.linspace(-1.0, 1.0, H, device=x.device).square()[:, None]
    column = torch.linspace(-1.0, 1.0, W, device=x.device).square()
    return x * gain[..., None, None] * (1.0 - _image(shots.vignette) * (row + column))


def _tone(shots: _Shots, x: Tensor) -> Tensor:
    """Compress the highlights; linear (n, 3, H, W) -> display 0..1."""
    x = x / (1.0 + _image(shots.shoulder) * x)
    x = x.clamp_(1e-5, 1.3).log_().mul_(_image(shots.gamma)).exp_().clamp_(max=1.0)
    return x + _image(shots.contrast) * x * (1.0 - x) * (2.0 * x - 1.0)


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
