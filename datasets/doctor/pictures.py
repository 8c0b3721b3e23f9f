"""Pictures for the doctor's report: photos, depth, and one view carried into another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..posed_set import PosedSet
from .agreement import DepthEvidence
from .conventions import AS_STORED, Convention
from .findings import ViewPictures
from .probes import Probe, SceneProbes, colours

_PAIRS = 6


def view_pictures(
    data: PosedSet, scenes: Sequence[SceneProbes], meant: Convention, scale: float
) -> list[ViewPictures]:
    """Photos of some pairs, and the first carried into the second as stored and as meant."""
    found = []
    share = max(1, -(-_PAIRS // max(1, len(scenes))))
    for scene in scenes:
        for a, b in scene.pairs[:: max(1, len(scene.pairs) // share)][:share]:
            first, second = scene.probes[a], scene.probes[b]
            pictures = {
                "photo": first.view.image,
                "depth": colours(np.where(first.view.valid, first.view.depth, 0)),
                "partner": second.view.image,
                "carried over, as stored": carried(scene, first, second, AS_STORED, 1.0),
            }
            if meant is not AS_STORED or scale != 1:
                pictures["carried over, as probably meant"] = carried(
                    scene, first, second, meant, scale
                )
            names = [data.views[probe.index].name for probe in (first, second)]
            found.append(ViewPictures(f"{scene.scene}: {names[0]} and {names[1]}", pictures))
    return found[:_PAIRS]


def carried(
    scene: SceneProbes, first: Probe, second: Probe, convention: Convention, scale: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Paint every pixel of the first view where it lands in the second; black where none does."""
    height, width = first.thin.depth.shape
    rows, columns = np.nonzero(first.thin.depth)
    count = len(rows)
    evidence = DepthEvidence(
        (first, second),
        (scene.poses, scene.poses),
        np.zeros(count, dtype=np.int64),
        np.ones(count, dtype=np.int64),
        np.stack([columns, rows], -1) + 0.5,
        first.thin.depth[rows, columns].astype(np.float64),
    )
    canvas = np.zeros((*second.thin.depth.shape, 3), dtype=np.uint8)
    if count == 0:
        return canvas
    photo = Image.fromarray(first.view.image).resize((width, height), Image.Resampling.BOX)
    cell, depth, inside = evidence.landing(convention, scale)
    order = np.argsort(-depth[inside])  # the nearest is painted last
    x, y = cell[inside][order].T
    canvas[y, x] = np.asarray(photo)[rows, columns][inside][order]
    return canvas
