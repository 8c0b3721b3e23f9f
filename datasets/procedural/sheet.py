"""Contact sheets: look at generated scenes before training on them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..views import ViewBatch
from .correspondence import dense_correspondence
from .generator import ProceduralScenes
from .placement import FAMILIES

_CAPTION_PX = 12
_BATCH = 8

# Five colours from near to far, interpolated between.
_COLOURS = np.array(
    [[252, 253, 191], [252, 137, 97], [183, 55, 121], [81, 18, 124], [10, 8, 40]], dtype=np.float64
)


def make_contact_sheet(
    scenes: ProceduralScenes, count: int, start_index: int = 0, across: int = 3
) -> Image.Image:
    """Draw scenes as tiles of view 1, view 2, depth of view 1 and its covisible part.

    Args:
        scenes: the generator, with at least two views.
        count: number of scenes.
        start_index: first scene.
        across: scenes in a row.

    Raises:
        ValueError: if `count` or `across` is below 1 or the scenes have one view only.
    """
    if count < 1 or across < 1:
        raise ValueError(f"count and across must be at least 1, got {count} and {across}")
    if scenes.num_views < 2:
        raise ValueError("a contact sheet needs scenes with at least two views, got one")
    tiles: list[Image.Image] = []
    while len(tiles) < count:
        size = min(_BATCH, count - len(tiles))
        tiles += draw_tiles(scenes.batch(start_index + len(tiles), size))
    width, height = tiles[0].size
    rows = -(-len(tiles) // across)
    sheet = Image.new("RGB", (min(across, len(tiles)) * width, rows * height))
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % across * width, k // across * height))
    return sheet


def draw_tiles(batch: ViewBatch) -> list[Image.Image]:
    """Draw each scene of a batch as one captioned strip of four pictures."""
    _, covisible = dense_correspondence(batch, 0, 1)
    tiles = []
    for b in range(batch.batch_size):
        first, second = (_to_bytes(batch.images[b, v]) for v in (0, 1))
        depth = _colour_depth(batch.depth[b, 0], batch.valid[b, 0])
        seen = first * covisible[b, ..., None].cpu().numpy()
        strip = np.concatenate([first, second, depth, seen.astype(np.uint8)], 1)
        tiles.append(_with_caption(strip, _caption(batch, b)))
    return tiles


def _caption(batch: ViewBatch, b: int) -> str:
    words = [f"#{int(batch.seeds[b])}"]
    if batch.kind is not None:
        words.append(FAMILIES[int(batch.kind[b])])
    if batch.overlap is not None:
        there, back = float(batch.overlap[b, 0, 1]), float(batch.overlap[b, 1, 0])
        words.append(f"overlap {there:.2f}/{back:.2f}")
    forward = batch.world_from_cam[b, :2, :3, 2]
    cosine = float((forward[0] * forward[1]).sum().clamp(-1, 1))
    words.append(f"turn {np.degrees(np.arccos(cosine)):.0f}")
    return " ".join(words)


def _to_bytes(image: Tensor) -> np.ndarray:
    value = ((image.permute(1, 2, 0) + 1.0) * 127.5).round().clamp(0, 255)
    return value.to(torch.uint8).cpu().numpy()


def _colour_depth(depth: Tensor, valid: Tensor) -> np.ndarray:
    """Colour the logarithm of depth, near is bright; invalid pixels are blue-grey."""
    z, ok = depth.cpu().numpy(), valid.cpu().numpy()
    picture = np.full((*z.shape, 3), (70, 90, 110), dtype=np.uint8)
    if ok.any():
        log = np.log(np.where(ok, z, 1.0))
        low, high = np.percentile(log[ok], [1, 99])
        share = np.clip((log - low) / max(high - low, 0.05), 0.0, 1.0) * (len(_COLOURS) - 1)
        k = np.minimum(share.astype(int), len(_COLOURS) - 2)
        part = (share - k)[..., None]
        colour = _COLOURS[k] * (1.0 - part) + _COLOURS[k + 1] * part
        picture = np.where(ok[..., None], colour, picture).astype(np.uint8)
    return picture


def _with_caption(strip: np.ndarray, text: str) -> Image.Image:
    height, width = strip.shape[:2]
    tile = Image.new("RGB", (width + 2, height + _CAPTION_PX), (20, 20, 20))
    tile.paste(Image.fromarray(strip), (0, _CAPTION_PX))
    ImageDraw.Draw(tile).text((2, 0), text, fill=(230, 230, 230))
    return tile
