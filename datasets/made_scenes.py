"""Procedural scenes written as a data set: to try fine-tuning, or for programs that want files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from .layout import FORMAT, INDEX, VERSION, VIEWS
from .procedural.generator import ProceduralScenes
from .textures import TextureBank, default_bank

Look = Literal["photo", "night", "thermal"]
LOOKS: tuple[Look, ...] = ("photo", "night", "thermal")

_MILLIMETRES = 1000
_HELD_OUT = 0.2  # share of the scenes
_HOT = np.array([[4, 3, 20], [90, 15, 110], [190, 55, 85], [245, 130, 30], [252, 245, 170]], float)


def make_data_set(
    folder: str | Path,
    scenes: int = 10,
    views: int = 8,
    size: tuple[int, int] = (192, 256),
    look: Look = "photo",
    fov_deg: tuple[float, float] = (35.0, 90.0),
    seed: int = 0,
    textures: TextureBank | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render scenes of the generator into a new folder in our layout, with exact depth.

    Args:
        folder: made; must not hold anything yet.
        scenes: how many; the last fifth is the split "val".
        views: photos of each scene, 2 to 8.
        size: (height, width) of the photos.
        look: "photo", "night" (dark, noisy, nearly grey) or "thermal" (false colours, blurred, dark
            things are hot): stand-ins for domains that a network has never seen.
        fov_deg: range of the field of view along the long side.
        seed: of the scenes.
        textures: tiles of the surfaces; None loads `default_bank()`.
        progress: told the scenes done and their number.

    Returns:
        `folder`.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: a number makes no sense, or the look is unknown.
    """
    folder = Path(folder)
    if look not in LOOKS:
        raise ValueError(f"look must be one of {', '.join(LOOKS)}, got {look!r}")
    if scenes < 2 or not 2 <= views <= 8:
        raise ValueError(f"expected 2 scenes or more of 2 to 8 views, got {scenes} of {views}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    bank = default_bank() if textures is None else textures
    source = ProceduralScenes(
        *size, views, seed, bank, overlap=(0.3, 0.9), fov_deg=fov_deg, relight_chance=0
    )
    lines = []
    for number in range(scenes):
        lines += _write_scene(source, number, folder, look)
        if progress is not None:
            progress(number + 1, scenes)
    names = [_name(number) for number in range(scenes)]
    kept = scenes - max(1, round(_HELD_OUT * scenes))
    document = {
        "format": FORMAT,
        "version": VERSION,
        "unit": "metre",
        "from": f"generated, look {look}, seed {seed}",
        "splits": {"train": names[:kept], "val": names[kept:]},
    }
    (folder / VIEWS).write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return folder


def restyle(image: UInt8[np.ndarray, "h w 3"], look: Look, seed: int) -> UInt8[np.ndarray, "h w 3"]:
    """Give a photo another look; the geometry stays."""
    if look == "photo":
        return image
    rng = np.random.default_rng(seed)
    grey = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    if look == "night":
        dark = 0.75 * grey[..., None] + 0.25 * image
        dark = 255 * (dark / 255) ** 1.6 * 0.35 + rng.normal(0, 6, image.shape)
        return np.clip(dark, 0, 255).round().astype(np.uint8)
    small = Image.fromarray(grey.round().astype(np.uint8)).reduce(2)
    heat = 1 - np.asarray(small.resize(image.shape[1::-1], Image.Resampling.BICUBIC)) / 255.0
    low, high = np.quantile(heat, [0.02, 0.98])
    heat = np.clip((heat - low) / max(high - low, 1e-6), 0, 1)
    steps = np.linspace(0, 1, len(_HOT))
    coloured = np.stack([np.interp(heat, steps, _HOT[:, c]) for c in range(3)], -1)
    return coloured.round().astype(np.uint8)


def _name(number: int) -> str:
    return f"scene{number:03d}"


def _write_scene(
    source: ProceduralScenes, number: int, folder: Path, look: Look
) -> list[dict[str, Any]]:
    batch = source.batch(number, 1)
    lines = []
    for view in range(batch.num_views):
        pixels = ((batch.images[0, view] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        image = restyle(pixels.permute(1, 2, 0).cpu().numpy(), look, 100 * number + view)
        depth = torch.where(batch.valid[0, view], batch.depth[0, view], 0.0).cpu().numpy()
        names = {
            "image": f"images/{_name(number)}/{view:02d}.jpg",
            "depth": f"depth/{_name(number)}/{view:02d}.png",
        }
        for name in names.values():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / names["image"], quality=95)
        stored = np.clip((depth * _MILLIMETRES).round(), 0, 65535).astype(np.uint16)
        stored[depth * _MILLIMETRES > 65535] = 0  # too far for the file: unknown
        Image.fromarray(stored).save(folder / names["depth"])
        lines.append(
            {
                "scene": _name(number),
                "name": f"{view:02d}.jpg",
                "image": names["image"],
                "size": list(image.shape[:2]),
                "K": batch.K[0, view].double().tolist(),
                "world_from_cam": _orthonormal(batch.world_from_cam[0, view].double().numpy()),
                "depth": {"file": names["depth"], "scale": 1 / _MILLIMETRES},
            }
        )
    return lines


def _orthonormal(pose: np.ndarray) -> list[list[float]]:
    """The nearest rigid pose: the generator's are float32."""
    U, _, Vt = np.linalg.svd(pose[:3, :3])
    pose = pose.copy()
    pose[:3, :3] = U @ Vt
    return pose.tolist()
