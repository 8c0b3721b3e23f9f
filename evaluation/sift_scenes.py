"""SIFT and COLMAP's incremental mapping as a reconstruction method, to compare with.

Everything is COLMAP's with its own defaults: features, matching of all pairs, verification and
mapping with unknown focal lengths (one per image size). Where that gives no model, a relaxed start
is tried, as people do.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from ..inference.images import View, load_images
from ..inference.known.values import Given
from ..inference.report import SceneReport
from ..inference.scene import Scene, SceneView
from ..inference.sfm import (
    SfmOptions,
    SparseModel,
    quiet_colmap,
    sparse_model,
    write_database,
)
from .sift import SiftMethod, SiftOptions, match_sift_descriptors

_FOCAL_GUESS = 1.2  # of the long side, as COLMAP has it
_PICTURE_SIZE = 128  # long side of the pictures that the scene carries along


class SiftSceneMethod:
    """Image files in, `Scene` out: cameras of the largest model, no dense depth."""

    def __init__(self, options: SiftOptions | None = None, *, max_size: int | None = None) -> None:
        """Set up; the options are those of `SiftMethod`."""
        self.features = SiftMethod(options, max_size=max_size)

    @property
    def description(self) -> Mapping[str, object]:
        """What a report writes down about this method."""
        return {**self.features.description, "mapping": "pycolmap incremental"}

    def __call__(self, paths: list[Path]) -> Scene:
        """Reconstruct image files."""
        start = time.perf_counter()
        views = load_images(paths, size=_PICTURE_SIZE).views
        found = [self.features.features(view.path) for view in views if view.path is not None]
        pairs = {}
        for i, j in itertools.combinations(range(len(found)), 2):
            rows, _ = match_sift_descriptors(found[i].descriptors, found[j].descriptors)
            if len(rows):
                pairs[(i, j)] = rows.astype(np.uint32)
        matched = time.perf_counter()
        model = _map(views, [f.xy for f in found], pairs)
        timings = {"match": matched - start, "map": time.perf_counter() - matched}
        return _scene(views, model, timings)


def _map(
    views: Sequence[View], keypoints: list[np.ndarray], pairs: dict[tuple[int, int], np.ndarray]
) -> SparseModel | None:
    """The model with most photos; None where there is none."""
    guesses = [_FOCAL_GUESS * max(view.ledger.original_size) for view in views]
    with quiet_colmap(), tempfile.TemporaryDirectory(prefix="weav3r-sift-") as name:
        folder = Path(name)
        database = folder / "database.db"
        write_database(database, views, keypoints, pairs, guesses, SfmOptions(), Given())
        listed = folder / "pairs.txt"
        listed.write_text("".join(f"{i:06d} {j:06d}\n" for i, j in pairs))
        geometry = pycolmap.TwoViewGeometryOptions()
        geometry.ransac.random_seed = 0
        pycolmap.set_random_seed(0)
        pycolmap.verify_matches(database, listed, geometry)
        for relaxed in (False, True):
            output = folder / ("relaxed" if relaxed else "strict")
            output.mkdir()
            models = pycolmap.incremental_mapping(database, folder, output, _settings(relaxed))
            if models:
                best = max(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()))
                return sparse_model(best)
    return None


def _settings(relaxed: bool) -> pycolmap.IncrementalPipelineOptions:
    settings = pycolmap.IncrementalPipelineOptions()
    settings.min_model_size = 2
    settings.extract_colors = False
    settings.num_threads = 1
    settings.random_seed = 0
    if relaxed:
        settings.mapper.init_min_tri_angle = 4.0
        settings.mapper.init_max_forward_motion = 1.0
        settings.mapper.init_min_num_inliers = 40
    return settings


def _scene(views: Sequence[View], model: SparseModel | None, timings: dict[str, float]) -> Scene:
    cameras = {} if model is None else model.cameras
    placed = sorted(cameras)
    return Scene(
        views=[
            SceneView(
                name=view.name,
                path=view.path,
                ledger=view.ledger,
                camera=cameras.get(i),
                rgb=view.rgb,
                depth=np.full(view.size, np.nan, np.float32),
                confidence=np.ones(view.size, np.float32),
            )
            for i, view in enumerate(views)
        ],
        components=[placed] if placed else [],
        report=SceneReport(
            images=[view.name for view in views],
            components=[[views[i].name for i in placed]] if placed else [],
            timings_s=timings,
            model="sift",
        ),
    )
