"""Pixels whose depth and true depth are known: what calibration and reliability are made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..inference.calibration import CalibratedRoad
from ..inference.pipeline import reconstruct
from ..inference.scene import Scene
from ..models.two_view import TwoViewModel
from .depth_metrics import resize_nearest, sample_depth
from .readers import EvaluationSet, SparseDepth, list_sets, read_set

logger = logging.getLogger(__name__)

PROCEDURAL_SEED = 402_653_189
"""Of the scenes that calibration draws; recipes for training use others."""

PIXELS_PER_PHOTO = 2000
MIN_PIXELS = 20
_PHOTOS_OF_SCENE = (2, 2, 2, 3)  # in turn
_OVERLAP = (0.5, 0.95)  # of neighbouring photos, as people take them
_FOV_DEG = (45.0, 75.0)  # along the long side; one camera takes all photos of a scene
_GOLDEN = 0.6180339887  # its multiples are spread evenly, however many scenes there are
_SIZE = (384, 512)

TrueDepth = np.ndarray | SparseDepth | None


@dataclass(frozen=True)
class TrueScene:
    """Photos with their true depths.

    Attributes:
        name: of the scene.
        photos: files, or (H, W, 3) uint8 RGB arrays.
        depths: per photo the dense z (any size of the same shape, 0 where unknown), single points,
            or None.
    """

    name: str
    photos: Sequence[Path | np.ndarray]
    depths: Sequence[TrueDepth]


@dataclass(frozen=True)
class ErrorSamples:
    """Pixels with an estimated and a true depth, of one road to depth.

    Attributes:
        confidence: (N,) float32.
        depth_step: (N,) float32, see `inference.calibration.depth_steps`.
        error: (N,) float32, |s d - t| / t with s the median of t / d of the pixel's group, weighted
            by the logarithm of the confidence.
        scene: (N,) int32, index into `scenes`.
        scenes: names of the scenes.
    """

    confidence: np.ndarray
    depth_step: np.ndarray
    error: np.ndarray
    scene: np.ndarray
    scenes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.error)

    def select(self, rows: np.ndarray) -> ErrorSamples:
        """Some of the pixels, by a mask or by index."""
        return ErrorSamples(
            *(getattr(self, f.name)[rows] for f in fields(self)[:-1]), scenes=self.scenes
        )

    @classmethod
    def joined(cls, parts: Sequence[ErrorSamples]) -> ErrorSamples:
        """Put samples of different scenes together."""
        starts = np.cumsum([0, *(len(part.scenes) for part in parts)])
        numbers = [part.scene + start for part, start in zip(parts, starts, strict=False)]
        empty = np.zeros(0, np.float32)
        return cls(
            *(
                np.concatenate([empty, *(getattr(part, key) for part in parts)])
                for key in ("confidence", "depth_step", "error")
            ),
            scene=np.concatenate([np.zeros(0, np.int32), *numbers]).astype(np.int32),
            scenes=tuple(name for part in parts for name in part.scenes),
        )


def procedural_scenes(
    count: int, first: int = 0, seed: int = PROCEDURAL_SEED, textures: Path | None = None
) -> Iterator[TrueScene]:
    """Render scenes of two or three photos, 512x384, as one camera in one light would take them.

    The scenes that training draws are harder: other cameras and other light from view to view.

    Args:
        count: how many.
        first: index of the first; a scene depends on its index and the seed only.
        seed: of the endless set.
        textures: see `datasets.textures.default_bank`.
    """
    from ..datasets.procedural.generator import ProceduralScenes
    from ..datasets.textures import default_bank

    bank = default_bank(textures)
    for index in range(first, first + count):
        photos = _PHOTOS_OF_SCENE[index % len(_PHOTOS_OF_SCENE)]
        fov = _FOV_DEG[0] + (index * _GOLDEN) % 1.0 * (_FOV_DEG[1] - _FOV_DEG[0])
        source = ProceduralScenes(
            *_SIZE,
            num_views=photos,
            seed=seed,
            textures=bank,
            overlap=_OVERLAP,
            fov_deg=(fov, fov),
            relight_chance=0.0,
        )
        views = source.batch(index, 1)
        pixels = ((views.images[0].permute(0, 2, 3, 1).numpy() + 1) * 127.5).round()
        yield TrueScene(
            name=f"procedural-{index}",
            photos=list(pixels.astype(np.uint8)),
            depths=list(views.depth[0].numpy()),
        )


def set_scenes(
    eval_root: Path | str, sets: Sequence[str] | None = None, max_photos: int = 4
) -> Iterator[TrueScene]:
    """Real photos with true depth, from sets in the plain layout.

    Args:
        eval_root: folder with the sets, see `readers.read_set`.
        sets: their names; None: all that have a depth.
        max_photos: of a larger set, so many neighbours in the order of the file are taken.
    """
    for name in list_sets(eval_root) if sets is None else sets:
        data = read_set(eval_root, name)
        known = [i for i in data.images.values() if i.depth_path or i.sparse_depth_path]
        if not known:
            if sets is not None:
                raise ValueError(f"set {name} has no true depth; it cannot be used here")
            continue
        yield _true_scene(data, max_photos)


def _true_scene(data: EvaluationSet, max_photos: int) -> TrueScene:
    images = list(data.images.values())
    start = max(0, (len(images) - max_photos) // 2)
    chosen = images[start : start + max_photos]
    depths = [d if (d := i.depth()) is not None else i.sparse_depth() for i in chosen]
    return TrueScene(data.name, [i.path for i in chosen], depths)


def collect_errors(
    scenes: Iterable[TrueScene],
    model: TwoViewModel,
    roads: Sequence[CalibratedRoad],
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> dict[str, ErrorSamples]:
    """Reconstruct scenes by every road and compare pixels with the truth.

    Args:
        scenes: with their truth.
        model: the network.
        roads: "sweep" and "pointmaps" reconstruct all photos of a scene, "single" its first one.
        progress: called with the name of each scene before it is done.
        options: of `reconstruct`.

    Returns:
        Road -> samples. A scene that cannot be reconstructed gives none; the log names it.
    """
    parts: dict[str, list[ErrorSamples]] = {road: [] for road in roads}
    for truth in scenes:
        if progress is not None:
            progress(truth.name)
        with TemporaryDirectory(
            prefix="weav3r-errors-"
        ) as job:  # the roads share the network's work
            for road in roads:
                found = _reconstructed(truth, model, road, {"job": job, **options})
                if found is not None:
                    parts[road].append(sample_errors(found, truth))
    return {road: ErrorSamples.joined(found) for road, found in parts.items()}


def _reconstructed(
    truth: TrueScene, model: TwoViewModel, road: CalibratedRoad, options: dict[str, Any]
) -> Scene | None:
    photos = list(truth.photos)
    if len(photos) < 2 and road != "single":
        return None
    if road == "single":
        photos = photos[:1]
    else:
        options = {**options, "depth": road}
    try:
        return reconstruct(photos, model, **{"progress": False, **options})
    except ValueError as error:  # one bad scene must not end the run
        logger.warning("%s by %s: %s", truth.name, road, error)
        return None


def sample_errors(
    scene: Scene, truth: TrueScene, pixels_per_photo: int = PIXELS_PER_PHOTO
) -> ErrorSamples:
    """Compare a reconstruction with the truth at random pixels (fixed seed).

    Every group of cameras is brought to the truth by one factor, the median of true over estimated
    depth, weighted by the logarithm of the confidence: without a known distance the scale of a
    scene is free, and whoever fixes it looks at what is sure. Photos are taken in order, so the
    scene must have been made from a prefix of `truth.photos`.

    Args:
        scene: the reconstruction.
        truth: of the same photos, in the same order.
        pixels_per_photo: at most so many.
    """
    rng = np.random.default_rng(0)
    columns: list[list[np.ndarray]] = [[], [], []]
    for members in scene.components:
        found = [_at_truth(scene, i, truth.depths[i], pixels_per_photo, rng) for i in members]
        confidence, step, depth, known = (
            np.concatenate(parts) for parts in zip(*found, strict=True)
        )
        if len(known) < MIN_PIXELS:
            continue
        factor = weighted_median(known / depth, np.log(np.maximum(confidence, 1.0)) + 1e-3)
        for column, values in zip(
            columns, (confidence, step, np.abs(factor * depth - known) / known), strict=True
        ):
            column.append(values.astype(np.float32))
    confidence, step, error = (
        np.concatenate([np.zeros(0, np.float32), *column]) for column in columns
    )
    return ErrorSamples(confidence, step, error, np.zeros(len(error), np.int32), (truth.name,))


def weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    """The smallest value (N,) with half of the weight (N,) at or below it."""
    order = np.argsort(values)
    cumulated = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(cumulated, cumulated[-1] / 2)])


def _at_truth(
    scene: Scene, i: int, truth: TrueDepth, limit: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, depth step, estimate and truth (n,) of random pixels of one photo."""
    view = scene.views[i]
    if truth is None or not view.valid.any():
        empty = np.zeros(0)
        return empty, empty, empty, empty
    height, width = view.depth.shape
    if isinstance(truth, SparseDepth):
        xy = np.asarray(view.ledger.points_to_network(truth.xy))
        inside = (xy >= 0).all(-1) & (xy[:, 0] < width) & (xy[:, 1] < height)
        xy, known = xy[inside], truth.depth[inside]
        rows, columns = np.floor(xy[:, 1]).astype(int), np.floor(xy[:, 0]).astype(int)
        depth = sample_depth(np.where(view.valid, view.depth, np.nan), xy)
    else:
        rows, columns = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
        dense = resize_nearest(truth, view.ledger.original_size)
        xy = np.asarray(view.ledger.points_to_original(np.stack([columns, rows], -1) + 0.5))
        at = np.floor(xy).astype(int)
        inside = (at >= 0).all(-1) & (at[:, 0] < dense.shape[1]) & (at[:, 1] < dense.shape[0])
        known = np.where(inside, dense[at[:, 1] * inside, at[:, 0] * inside], 0)
        depth = np.where(view.valid, view.depth, np.nan)[rows, columns]
    (usable,) = np.nonzero(np.isfinite(depth) & (depth > 0) & np.isfinite(known) & (known > 0))
    few = np.sort(rng.permutation(len(usable))[:limit])
    rows, columns = rows[usable[few]], columns[usable[few]]
    steps = scene.depth_steps(i)[rows, columns]
    confidence = view.confidence[rows, columns]
    return confidence, steps, depth[usable[few]], known[usable[few]]
