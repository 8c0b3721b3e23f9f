"""Painters: small functions that draw one random surface texture each.

Every painter takes a NumPy generator and a size and returns a float32 array ``(S, S, 3)`` of sRGB
values in 0..255 (values may slightly leave the range; the caller clips). Only NumPy and Pillow are
used. Hard-edged patterns are drawn at twice the size and averaged down, so edges are anti-aliased.

The families follow what makes two photographs matchable or hard to match: self-similar noise with
natural image spectra, occluding shapes ("dead leaves": Lee, Mumford and Huang, "Occlusion models
for natural images", IJCV 2001), repeated structure (brick, tiles, windows), text, and nearly plain
walls.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Painter = Callable[[np.random.Generator, int], np.ndarray]
Colour = tuple[int, int, int]

_GLYPHS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&%?!+"


def fractal_noise(
    rng: np.random.Generator, size: int, exponent: float, channels: int = 1
) -> np.ndarray:
    """Draw periodic Gaussian noise whose amplitude falls as frequency ** -exponent.

    Args:
        rng: source of randomness.
        size: side in pixels; the noise wraps around at the borders.
        exponent: 0 is white noise, about 1 resembles natural images, 2 is cloud-like.
        channels: number of independent fields.

    Returns:
        Float32 ``(size, size, channels)``, zero mean and unit standard deviation per channel.
    """
    fy = np.fft.fftfreq(size)[:, None, None]
    fx = np.fft.rfftfreq(size)[None, :, None]
    radius = np.hypot(fx, fy)
    radius[0, 0] = 1.0
    white = rng.standard_normal((size, size, channels))
    spectrum = np.fft.rfft2(white, axes=(0, 1)) * radius**-exponent
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(size, size), axes=(0, 1))
    field /= field.std(axis=(0, 1), keepdims=True) + 1e-12
    return field.astype(np.float32)


def _colour(rng: np.random.Generator, saturation: float = 0.5) -> np.ndarray:
    """Draw an sRGB colour (3,) in 0..255: usually muted, now and then strong."""
    hue = rng.random()
    strength = saturation * rng.random() ** 2
    return 255.0 * np.array(colorsys.hsv_to_rgb(hue, strength, rng.uniform(0.12, 0.95)))


def _vary(rng: np.random.Generator, colour: np.ndarray, spread: float) -> Colour:
    """Shift a colour's brightness by ``spread`` (0..255 scale) and its tint by a third of that."""
    shifted = colour + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    red, green, blue = np.clip(shifted, 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _canvas(colour: np.ndarray, size: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a canvas of twice the final size and its pen."""
    red, green, blue = np.clip(colour, 0, 255).astype(int)
    image = Image.new("RGB", (2 * size, 2 * size), (int(red), int(green), int(blue)))
    return image, ImageDraw.Draw(image)


def _finish(image: Image.Image, size: int) -> np.ndarray:
    """Average a drawn canvas down to the final size."""
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float32)


def _grain(rng: np.random.Generator, size: int, lowest: float, highest: float) -> np.ndarray:
    """Grey surface irregularity (S, S, 1) with a random strength in [lowest, highest]."""
    return fractal_noise(rng, size, rng.uniform(0.5, 1.3)) * rng.uniform(lowest, highest)


def _tinted_noise(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """Three noise fields that share most of their variation, as the channels of photographs do."""
    shared = fractal_noise(rng, size, exponent)
    own = fractal_noise(rng, size, exponent, channels=3)
    return shared + rng.uniform(0.05, 0.5) * own


def paint_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stone, dirt, carpet, cloud: noise with an exponent between 0.5 and 2."""
    noise = _tinted_noise(rng, size, rng.uniform(0.5, 2.0))
    return (_colour(rng) + rng.uniform(10, 50) * noise).astype(np.float32)


def paint_plaster(rng: np.random.Generator, size: int) -> np.ndarray:
    """A nearly plain wall: faint blotches, faint grain."""
    base = 0.4 * _colour(rng) + rng.uniform(90, 150)
    blotches = _tinted_noise(rng, size, rng.uniform(1.2, 2.0)) * rng.uniform(1, 6)
    return (base + blotches + _grain(rng, size, 0.5, 4)).astype(np.float32)


def paint_dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Discs, ellipses and boxes of all sizes hiding one another."""
    image, pen = _canvas(_colour(rng), size)
    palette = [_colour(rng, 0.7) for _ in range(6)]
    unit = size / 128
    for radius in np.sort(np.exp(rng.uniform(np.log(3), np.log(64), 300)))[::-1] * unit:
        x, y = rng.uniform(0, 2 * size, 2)
        fill = _vary(rng, palette[rng.integers(len(palette))], 30)
        if rng.random() < 0.35:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        else:
            corners = 4 if rng.random() < 0.5 else 12
            pen.polygon(_oval(rng, x, y, radius, rng.uniform(0.25, 1), corners), fill=fill)
    return _finish(image, size) + _grain(rng, size, 1, 12)


def _oval(
    rng: np.random.Generator, x: float, y: float, radius: float, aspect: float, corners: int
) -> list[tuple[float, float]]:
    """Corners of a randomly turned regular polygon squeezed by ``aspect``."""
    turn = rng.uniform(0, np.pi)
    angles = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    along, across = radius * np.cos(angles), radius * aspect * np.sin(angles)
    xs = x + along * np.cos(turn) - across * np.sin(turn)
    ys = y + along * np.sin(turn) + across * np.cos(turn)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def paint_brick(rng: np.random.Generator, size: int) -> np.ndarray:
    """Courses of bricks or stone blocks with mortar, each brick a shade of its own."""
    image, pen = _canvas(_colour(rng, 0.2), size)
    base, spread = _colour(rng), rng.uniform(4, 30)
    height = max(4, round(rng.uniform(0.08, 0.3) * size))
    width, mortar = (
        round(height * rng.uniform(1, 3.5)),
        max(1, round(rng.uniform(0.01, 0.03) * size)),
    )
    shift = width // 2 if rng.random() < 0.75 else 0
    for course, top in enumerate(range(0, 2 * size, height)):
        for left in range(-shift * (course % 2), 2 * size, width):
            box = (left + mortar, top + mortar, left + width - 1, top + height - 1)
            pen.rectangle(box, fill=_vary(rng, base, spread))
    return _finish(image, size) + _grain(rng, size, 3, 18)


def paint_tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Chequered or plain tiles with joints, some with an inlay."""
    joint = _colour(rng, 0.2)
    image, pen = _canvas(joint, size)
    colours = _colour(rng), _colour(rng)
    step, gap = round(rng.uniform(0.15, 0.6) * size), round(rng.uniform(0, 0.02) * size)
    chequered, inlay, spread = rng.random() < 0.6, rng.uniform(0, 0.35), rng.uniform(1, 14)
    inlaid = rng.random() < 0.4
    for row, top in enumerate(range(0, 2 * size, step)):
        for column, left in enumerate(range(0, 2 * size, step)):
            colour = colours[(row + column) % 2 if chequered else 0]
            box = (left + gap, top + gap, left + step - 1, top + step - 1)
            pen.rectangle(box, fill=_vary(rng, colour, spread))
            if inlaid:
                x, y, radius = left + step / 2, top + step / 2, inlay * step
                diamond = [(x - radius, y), (x, y - radius), (x + radius, y), (x, y + radius)]
                pen.polygon(diamond, fill=_vary(rng, colours[1], spread))
    return _finish(image, size) + _grain(rng, size, 1, 10)


def paint_facade(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wall with rows of framed windows; no two windows equally bright."""
    image, pen = _canvas(_colour(rng), size)
    rows, columns = rng.integers(2, 6), rng.integers(2, 7)
    cell_height, cell_width = 2 * size / rows, 2 * size / columns
    tall, wide, border = rng.uniform(0.4, 0.75), rng.uniform(0.3, 0.7), rng.uniform(1, 4)
    glass, frame, spread = rng.uniform(15, 110, 3), _colour(rng), rng.uniform(8, 30)
    cornice = rng.random() < 0.4
    for row in range(rows):
        if cornice:
            y = row * cell_height
            pen.rectangle((0, y, 2 * size, y + 0.04 * cell_height + 2), fill=_vary(rng, frame, 4))
        for column in range(columns):
            left = (column + 0.5 - wide / 2) * cell_width
            top = (row + 0.5 - tall / 2) * cell_height
            right, bottom = left + wide * cell_width, top + tall * cell_height
            outer = (left - border, top - border, right + border, bottom + border)
            pen.rectangle(outer, fill=_vary(rng, frame, 8))
            pen.rectangle((left, top, right, bottom), fill=_vary(rng, glass, spread))
            if rng.random() < 0.7:
                middle = (left + right) / 2
                pen.line((middle, top, middle, bottom), fill=_vary(rng, frame, 4), width=2)
            if rng.random() < 0.5:
                middle = (top + bottom) / 2
                pen.line((left, middle, right, middle), fill=_vary(rng, frame, 4), width=2)
    return _finish(image, size) + _grain(rng, size, 2, 14)


def paint_stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Parallel bands, straight or wavy, sharp or soft, in any direction."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.06, 0.35) * size
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    across = xs * np.cos(angle) + ys * np.sin(angle)
    across = across + fractal_noise(rng, size, 1.8)[..., 0] * rng.uniform(0, 0.05) * size
    phase = across / period
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    if rng.random() < 0.6:
        # A steep ramp instead of a step keeps the band edges about one pixel wide.
        wave = np.clip((wave - rng.uniform(0.25, 0.75)) * period / 3 + 0.5, 0, 1)
    # Each band gets its own brightness, so that bands can be told apart.
    shade = rng.normal(0, rng.uniform(0, 14), 64)[np.floor(phase).astype(int) % 64]
    blend = wave[..., None] * _colour(rng) + (1 - wave[..., None]) * _colour(rng)
    return (blend + shade[..., None] + _grain(rng, size, 2, 14)).astype(np.float32)


def paint_planks(rng: np.random.Generator, size: int) -> np.ndarray:
    """Wooden boards: stretched grain, dark joints, end cuts at random places."""
    count = int(rng.integers(2, 8))
    hue, strength = rng.uniform(0.04, 0.12), rng.uniform(0.15, 0.65)
    wood = 255.0 * np.array(colorsys.hsv_to_rgb(hue, strength, rng.uniform(0.35, 0.85)))
    grain = fractal_noise(rng, size, rng.uniform(0.8, 1.4))[..., 0]
    stretch = int(rng.integers(4, 9))
    board = np.minimum(np.arange(size) * count // size, count - 1)
    shift = rng.integers(0, size, count)[board]
    columns = (np.arange(size)[None, :] // stretch + shift[:, None]) % size
    lines = grain[np.arange(size)[:, None], columns]
    lines = (lines + np.roll(lines, 1, 1) + np.roll(lines, 2, 1) + np.roll(lines, 3, 1)) / 4
    tone = rng.normal(0, rng.uniform(4, 18), count)[board][:, None]
    image = wood + (tone + lines * rng.uniform(6, 24))[..., None]
    joints = np.flatnonzero(np.diff(board)) + 1
    image[joints] *= 0.45
    for index in range(count):
        rows = np.flatnonzero(board == index)
        image[rows, rng.integers(0, size)] *= 0.5
    if rng.random() < 0.5:
        image = image.transpose(1, 0, 2)
    return (image + _grain(rng, size, 0.5, 4)).astype(np.float32)


def paint_poster(rng: np.random.Generator, size: int) -> np.ndarray:
    """A printed sheet: blocks of colour, a frame, and words of several sizes."""
    image, pen = _canvas(_colour(rng, 0.8), size)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(0, 2 * size, 2)
        width, height = rng.uniform(0.2, 1.4, 2) * size
        pen.rectangle((x, y, x + width, y + height), fill=_vary(rng, _colour(rng, 0.9), 0))
    for _ in range(rng.integers(4, 14)):
        length = int(rng.integers(1, 10))
        word = "".join(_GLYPHS[i] for i in rng.integers(0, len(_GLYPHS), length))
        place = tuple(rng.uniform(-0.1, 1.7, 2) * size)
        font_size = float(np.exp(rng.uniform(np.log(0.1), np.log(0.7)))) * size
        fill = _vary(rng, _colour(rng, 0.9), 0)
        _write(image, pen, place, word, font_size, fill, upright=rng.random() < 0.8)
    if rng.random() < 0.3:
        edge = round(rng.uniform(0.02, 0.1) * size)
        outline = _vary(rng, _colour(rng), 0)
        pen.rectangle((0, 0, 2 * size - 1, 2 * size - 1), outline=outline, width=edge)
    return _finish(image, size) + _grain(rng, size, 0.5, 5)


def _write(
    image: Image.Image,
    pen: ImageDraw.ImageDraw,
    place: tuple[float, ...],
    word: str,
    font_size: float,
    fill: Colour,
    upright: bool,
) -> None:
    """Write a word along the rows, or along the columns when not upright.

    The bitmap font that Pillow falls back to without FreeType has one size; it is scaled up.
    """
    font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(word)
    mask = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2), 0)
    try:
        font = ImageFont.load_default(size=font_size)
        left, top, right, bottom = font.getbbox(word)
        mask = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2), 0)
        ImageDraw.Draw(mask).text((1 - left, 1 - top), word, fill=255, font=font)
    except (ImportError, OSError):
        ImageDraw.Draw(mask).text((1 - left, 1 - top), word, fill=255, font=font)
        scale = font_size / max(1, mask.height)
        mask = mask.resize((max(1, round(mask.width * scale)), max(1, round(font_size))))
    if not upright:
        mask = mask.transpose(Image.Transpose.ROTATE_90)
    pen.bitmap((round(place[0]), round(place[1])), mask, fill=fill)


def paint_foliage(rng: np.random.Generator, size: int) -> np.ndarray:
    """Layers of pointed leaves, dark behind and light in front."""
    hue, strength = rng.uniform(0.12, 0.42), rng.uniform(0.2, 0.7)
    dark = 255.0 * np.array(colorsys.hsv_to_rgb(hue, strength, 0.12))
    image, pen = _canvas(dark, size)
    length, slim = rng.uniform(0.06, 0.25) * size, rng.uniform(0.15, 0.45)
    count = int(min(700, 9 * (2 * size) ** 2 / (length * length * slim * 8)))
    for index in range(count):
        value = 0.15 + 0.6 * (index / count) + rng.normal(0, 0.08)
        leaf = colorsys.hsv_to_rgb(
            (hue + rng.normal(0, 0.025)) % 1, strength, float(np.clip(value, 0.08, 0.95))
        )
        x, y = rng.uniform(0, 2 * size, 2)
        turn, half = rng.uniform(0, 2 * np.pi), length * rng.uniform(0.5, 1.2)
        along = half * np.array([-1, -0.4, 0.3, 1, 0.3, -0.4])
        across = half * slim * np.array([0, 0.8, 0.9, 0, -0.9, -0.8])
        xs = x + along * np.cos(turn) - across * np.sin(turn)
        ys = y + along * np.sin(turn) + across * np.cos(turn)
        fill = _vary(rng, 255.0 * np.array(leaf), 6)
        pen.polygon(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=fill)
    return _finish(image, size) + _grain(rng, size, 1, 8)


def paint_relief(rng: np.random.Generator, size: int) -> np.ndarray:
    """A rough surface lit from the side: the shading of a random height field (Lambert)."""
    height = fractal_noise(rng, size, rng.uniform(1.2, 2.2))[..., 0]
    if rng.random() < 0.4:
        height = -np.abs(height)  # ridges, as in cracked or hammered stone
    slope_y, slope_x = np.gradient(height * rng.uniform(0.02, 0.08) * size)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(height)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.2)
    light = np.array(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    shading = 0.25 + np.clip(normal @ light, 0, None)
    albedo = _colour(rng) + rng.uniform(2, 20) * _tinted_noise(rng, size, 1.0)
    return (albedo * (shading / shading.mean())[..., None]).astype(np.float32)


# Order matters: texture i of a procedural bank is painted by PAINTERS[i % len(PAINTERS)].
PAINTERS: dict[str, Painter] = {
    "noise": paint_noise,
    "dead_leaves": paint_dead_leaves,
    "brick": paint_brick,
    "facade": paint_facade,
    "plaster": paint_plaster,
    "poster": paint_poster,
    "relief": paint_relief,
    "planks": paint_planks,
    "tiles": paint_tiles,
    "foliage": paint_foliage,
    "stripes": paint_stripes,
}


def paint(index: int, seed: int, size: int) -> np.ndarray:
    """Paint texture number ``index`` of the endless series that ``seed`` names.

    Returns:
        Uint8 ``(size, size, 3)`` sRGB; depends on nothing but the three arguments.
    """
    rng = np.random.default_rng([seed, index])
    painter = list(PAINTERS.values())[index % len(PAINTERS)]
    return np.clip(np.rint(painter(rng, size)), 0, 255).astype(np.uint8)
