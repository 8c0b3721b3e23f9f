"""Matches of a whole collection of photos, for other programs or for known cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from ..models.loading import load_model
from ..models.two_view import TwoViewModel
from .alignment.pairs import sample_pair
from .defaults import inference_size
from .export.colmap_database import (
    DatabaseImage,
    VerificationSettings,
    select_tracks,
    write_database,
)
from .graph.kinds import make_pairs, reads_similarity
from .graph.retrieval import image_similarity
from .images import ImageProblem, View, load_images
from .known.sfm import known_camera
from .known.values import Given, KnownSource, as_known, masked_matches, resolve, with_masks
from .matching.descriptors import Matches, MatchingOptions, match_pair, merge_matches
from .predict import Precision, encode_views, predict_pairs
from .progress import make_progress
from .sfm import SfmOptions

_FEW_PHOTOS = 4  # beyond, each point is seen more often, so each pair may be sparser


@dataclass(frozen=True)
class DatabaseSummary:
    """What was written into a COLMAP database.

    Attributes:
        path: of the database.
        images: names in it; image i has the id i + 1.
        keypoints: number of key points of each.
        matches: (i, j) -> number of matches.
        inliers: (i, j) -> number of them that fit the two-view geometry, 0 where there is none.
        rotated: photos whose file is stored turned (EXIF): key points are in the upright picture.
    """

    path: Path
    images: list[str]
    keypoints: list[int]
    matches: dict[tuple[int, int], int]
    inliers: dict[tuple[int, int], int]
    rotated: list[str]

    def __str__(self) -> str:
        verified = sum(count > 0 for count in self.inliers.values())
        lines = [
            f"{len(self.images)} images, {sum(self.keypoints)} key points, {len(self.matches)} "
            f"pairs with matches, {verified} of them with a two-view geometry "
            f"({sum(self.inliers.values())} inliers)"
        ]
        if self.rotated:
            lines.append(
                "stored turned, make them upright before COLMAP reads their pixels: "
                + ", ".join(self.rotated)
            )
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class PhotoMatches:
    """Matches between the photos of a collection, in original pixels.

    Attributes:
        views: the photos as the network saw them.
        pairs: (i, j), i < j -> matches with `xy1` in photo i, surest first.
        focal_px: per photo, the focal length that EXIF, or else the network, believes in.
        given: what is known of the photos.
        problems: files that were skipped, and warnings about used ones.
    """

    views: list[View]
    pairs: dict[tuple[int, int], Matches]
    focal_px: list[float]
    given: Given
    problems: list[ImageProblem]

    def save_colmap_database(
        self,
        path: str | Path,
        *,
        min_track_length: int = 2,
        merge_px: float = 0.0,
        share_camera: bool = True,
        seed: int = 0,
    ) -> DatabaseSummary:
        """Write a database that `colmap mapper`, `glomap mapper` or pycolmap can go on from.

        Cameras are pinholes with the known intrinsics, or with the EXIF or network's focal length
        as a start; two-view geometries are verified by COLMAP.

        Args:
            path: of the database, replaced if it exists.
            min_track_length: key points in tracks of fewer photos are left out, with their matches.
            merge_px: key points that fall into one cell of this size, in pixels of the network's
                input, become one at their mean; 0 merges equal positions only.
            share_camera: one camera for all photos of equal size and EXIF focal length.
            seed: of the verification.

        Raises:
            ValueError: an argument is out of range.
        """
        if min_track_length < 2:
            raise ValueError(f"min_track_length must be at least 2, got {min_track_length}")
        if not (np.isfinite(merge_px) and merge_px >= 0):
            raise ValueError(f"merge_px must not be negative, got {merge_px}")
        keypoints, pairs = self.tracks(min_track_length, merge_px)
        lenses = self._lenses(share_camera)
        images = [
            DatabaseImage(view.name, self._camera(i, lenses), lenses[i], keypoints[i])
            for i, view in enumerate(self.views)
        ]
        sfm = SfmOptions()
        scale = max(view.pixel_scale for view in self.views)
        settings = VerificationSettings(
            max_error_px=sfm.max_error_network_px * scale,
            min_inliers=sfm.min_inliers,
            min_inlier_ratio=sfm.min_inlier_ratio,
            seed=seed,
        )
        path = Path(path)
        return DatabaseSummary(
            path=path,
            images=[view.name for view in self.views],
            keypoints=[len(xy) for xy in keypoints],
            matches={pair: len(rows) for pair, rows in pairs.items()},
            inliers=write_database(path, images, pairs, settings),
            rotated=[view.name for view in self.views if view.ledger.exif_orientation != 1],
        )

    def tracks(
        self, min_length: int = 2, merge_px: float = 0.0
    ) -> tuple[list[NDArray[np.float32]], dict[tuple[int, int], NDArray[np.int64]]]:
        """Key points (n, 2) of each photo, original pixels, and matches as rows of them.

        Args:
            min_length: see `select_tracks`.
            merge_px: see `save_colmap_database`.
        """
        named: list[list[np.ndarray]] = [[] for _ in self.views]
        for (i, j), matches in self.pairs.items():
            named[i].append(matches.xy1)
            named[j].append(matches.xy2)
        merged = [self._merged(k, parts, merge_px) for k, parts in enumerate(named)]
        used = [0] * len(self.views)
        rows = []
        for (i, j), matches in self.pairs.items():
            ids = []
            for k in (i, j):
                ids.append(merged[k][1][used[k] : used[k] + len(matches)])
                used[k] += len(matches)
            rows.append((i, j, ids[0], ids[1]))
        kept, pairs = select_tracks(rows, len(self.views), min_length)
        return [xy[ids] for (xy, _), ids in zip(merged, kept, strict=True)], pairs

    def _merged(
        self, index: int, parts: list[np.ndarray], merge_px: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Distinct key points of a photo, and which of them each of the positions is."""
        xy = np.concatenate([np.zeros((0, 2), np.float32), *parts])
        cells = xy
        if merge_px > 0:
            network = np.asarray(self.views[index].ledger.points_to_network(xy))
            cells = np.floor(network / merge_px)
        _, inverse = np.unique(cells, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1).astype(np.int64)
        count = np.maximum(np.bincount(inverse), 1)
        sums = [np.bincount(inverse, xy[:, k].astype(np.float64)) for k in (0, 1)]
        return (np.stack(sums, axis=1) / count[:, None]).astype(np.float32), inverse

    def _lenses(self, share: bool) -> list[int]:
        """Number of the camera of each photo."""
        numbers: dict[tuple[Any, ...], int] = {}
        lenses = []
        for index, view in enumerate(self.views):
            K = self.given.intrinsics.get(index)
            exif = None if view.exif_focal_px is None else round(view.exif_focal_px)
            key = (view.ledger.original_size, exif if K is None else K.tobytes())
            lenses.append(numbers.setdefault(key if share else (index,), len(numbers)))
        return lenses

    def _camera(self, index: int, lenses: list[int]) -> pycolmap.Camera:
        view, K = self.views[index], self.given.intrinsics.get(index)
        height, width = view.ledger.original_size
        if K is not None:
            return known_camera(K, height, width)
        guesses = [
            f for f, lens in zip(self.focal_px, lenses, strict=True) if lens == lenses[index]
        ]
        camera = pycolmap.Camera.create_from_model_name(
            0, "SIMPLE_PINHOLE", float(np.median(guesses)), width, height
        )
        camera.has_prior_focal_length = view.exif_focal_px is not None
        return camera


def match_photos(
    photos: Any,
    model: TwoViewModel | str | Path = "weav3r-small",
    *,
    device: str = "auto",
    size: int | None = None,
    graph: str = "auto",
    known: KnownSource | None = None,
    focal_px: float | None = None,
    matching: MatchingOptions | None = None,
    min_confidence: float = 0.0,
    batch_size: int = 2,
    precision: Precision = "float32",
    progress: bool | Callable[[str, int, int], None] = True,
) -> PhotoMatches:
    """Match the photos of a collection with each other.

    Args:
        photos: a folder, or a list of files, (H, W, 3) uint8 RGB arrays or PIL images.
        model: a loaded model, or anything that `load_model` takes.
        device: "auto", "cpu", "cuda", ...; ignored for a loaded model.
        size: long side of the network's input in pixels; default: the best measured for the model.
        graph: which pairs are matched, as in `reconstruct`.
        known: intrinsics and masks that are known, as in `reconstruct`.
        focal_px: known focal length of all photos, in original pixels.
        matching: see `MatchingOptions`; the default is that of `reconstruct`.
        min_confidence: matches below are dropped.
        batch_size: pairs decoded at once.
        precision: of the network's matrix products, see `reconstruct`.
        progress: False for silence, True for a bar in the terminal, or a function that receives
            (stage, done, total).

    Raises:
        FileNotFoundError: a photo or folder does not exist.
        ValueError: fewer than two photos are usable, or an option is unknown.
        ConventionError: something known follows another convention; the message names it.
    """
    if not isinstance(model, TwoViewModel):
        model = load_model(model, device=device)
    with make_progress(progress) as show:
        size = inference_size(model) if size is None else size
        loaded = load_images(photos, size=size, patch_size=model.config.patch_size)
        if len(loaded.views) < 2:
            skipped = "; ".join(str(problem) for problem in loaded.skipped)
            raise ValueError(f"matching needs at least two usable photos {skipped}".strip())
        given = resolve(as_known(known, focal_px), loaded.views)
        views = with_masks(loaded.views, given)
        with show.stage("encode", len(views)) as advance:
            encoded = encode_views(model, views, progress=advance, precision=precision)
        by_similarity = reads_similarity(len(views), graph)
        similarity = image_similarity(encoded) if by_similarity else None
        wanted = make_pairs(len(views), graph, similarity=similarity)
        if matching is None:
            few = len(views) <= _FEW_PHOTOS
            matching = MatchingOptions() if few else MatchingOptions(step=6, search_stride=3)
        pairs: dict[tuple[int, int], Matches] = {}
        votes: list[list[float]] = [[] for _ in views]
        with show.stage("decode and match", len(wanted)) as advance:
            for result in predict_pairs(model, encoded, wanted, batch_size, precision):
                i, j = result.first, result.second
                found = merge_matches(
                    *match_pair(result, views[i], views[j], matching, model.device)
                )
                found = masked_matches(found, views[i], views[j])
                pairs[(i, j)] = found.select(found.confidence >= min_confidence)
                for k, sample in zip((i, j), sample_pair(result), strict=True):
                    if np.isfinite(sample.focal_px) and sample.focal_px > 0:
                        votes[k].append(sample.focal_px * views[k].pixel_scale)
                advance(1)
    focals = [_focal(view, own) for view, own in zip(views, votes, strict=True)]
    ordered = {pair: pairs[pair] for pair in sorted(pairs)}
    return PhotoMatches(views, ordered, focals, given, list(loaded.problems))


def _focal(view: View, votes: list[float]) -> float:
    """EXIF's focal length, or the median of the network's, kept sane."""
    if view.exif_focal_px is not None:
        return view.exif_focal_px
    long_side = max(view.ledger.original_size)
    guess = float(np.median(votes)) if votes else 1.2 * long_side
    return float(np.clip(guess, 0.6 * long_side, 2.0 * long_side))
