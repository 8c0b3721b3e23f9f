"""Localise photos against a map: similar photos, matches, points behind them, robust pose."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import overload

import numpy as np
import pycolmap
import torch
from PIL import Image

from ...geometry.camera import check_intrinsics
from ...models.loading import load_model
from ...models.two_view import EncodedImages, TwoViewModel
from .._sources import ImageSource, Source, list_sources, unique_names
from ..defaults import inference_size
from ..images import View, load_images
from ..known.values import KnownSource, as_known, resolve
from ..matching.methods import MatcherOptions, match_views
from ..predict import PairResult, Precision, encode_views, predict_pairs
from ..progress import make_progress
from .database import Database, DatabasePhoto, DatabaseSource, open_database
from .map_free import MAP_SUFFIXES, localize_against_photo
from .pose import MIN_INLIERS, solve_pose
from .ranking import Ranking
from .result import Localization

_MAX_ERROR_NETWORK_PX = 2.5


@dataclass(frozen=True)
class LocalizerOptions:
    """How photos are localised.

    Attributes:
        top_k: photos of the map that a query is matched with.
        min_inliers: fewest matches that must agree on a pose.
        max_error_px: largest reprojection error of an inlier, original pixels of the query; None:
            2.5 pixels of the network's input.
        max_points: matches that the pose is sought in; more are thinned, surest first.
        matching: how predictions become matches; None is the default for the checkpoint.
        seed: of the robust estimation.
    """

    top_k: int = 8
    min_inliers: int = MIN_INLIERS
    max_error_px: float | None = None
    max_points: int = 20_000
    matching: MatcherOptions | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.max_error_px is not None and not self.max_error_px > 0:
            raise ValueError(f"max_error_px must be positive, got {self.max_error_px}")


@dataclass(frozen=True)
class Correspondences:
    """Pixels of a query and the world points that were found behind their matches.

    Attributes:
        xy: (N, 2) original pixels of the query.
        xyz: (N, 3) world.
        matches: how many matches there were before those without a known point were left out.
    """

    xy: np.ndarray
    xyz: np.ndarray
    matches: int


class Localizer:
    """A map whose photos are encoded once, ready for any number of queries."""

    def __init__(
        self,
        scene: DatabaseSource,
        model: TwoViewModel | str | Path = "weav3r-small",
        *,
        photos: str | os.PathLike[str] | None = None,
        options: LocalizerOptions | None = None,
        device: str = "auto",
        size: int | None = None,
        precision: Precision = "float32",
        progress: bool | Callable[[str, int, int], None] = False,
    ) -> None:
        """Open the map and encode its photos; see `localize` for the arguments."""
        self.database: Database = open_database(scene, photos)
        self.options = options or LocalizerOptions()
        self.model = model if isinstance(model, TwoViewModel) else load_model(model, device=device)
        self.size = inference_size(self.model) if size is None else size
        self.precision: Precision = precision
        patch = self.model.config.patch_size
        with make_progress(progress) as show:
            with show.stage("photos of the map", len(self.database)) as advance:
                self._views: list[View] = []
                for photo in self.database.photos:
                    self._views.append(photo.view(self.size, patch))
                    advance(1)
            with show.stage("encode the map", len(self.database)) as advance:
                self._encoded = encode_views(
                    self.model, self._views, progress=advance, precision=precision
                )
        self._ranking = Ranking(self._encoded)

    @property
    def description(self) -> dict[str, object]:
        """What a report writes down about this method."""
        return {"size": self.size, "top_k": self.options.top_k, "precision": self.precision}

    def similar(self, query: View) -> list[tuple[int, float]]:
        """The photos of the map most similar to a query as (index, similarity), best first."""
        return self._rank(self._encode(query))

    def localize(
        self,
        query: View,
        K: np.ndarray | None = None,
        *,
        references: Sequence[int] | None = None,
        camera: pycolmap.Camera | None = None,
    ) -> Localization:
        """Localise one loaded photo.

        Args:
            query: from `load_images`.
            K: (3, 3) intrinsics in original pixels; None estimates a focal length.
            references: indices of the photos of the map to use; None retrieves them.
            camera: COLMAP camera with a lens distortion, instead of K; the result's `K` and `xy`
                are then those of the photo without its distortion.
        """
        encoded = self._encode(query)
        if references is None:
            references = [index for index, _ in self._rank(encoded)]
        found = self._correspondences(query, encoded, references)
        names = tuple(self.database.photos[i].name for i in references)
        return self._solve(query, found, K, camera, names)

    def _encode(self, query: View) -> EncodedImages:
        return encode_views(self.model, [query], precision=self.precision)[0]

    def _rank(self, encoded: EncodedImages) -> list[tuple[int, float]]:
        return self._ranking.rank(encoded, self.options.top_k)

    def _correspondences(
        self, query: View, encoded: EncodedImages, references: Sequence[int]
    ) -> Correspondences:
        chosen = [*(self._encoded[i] for i in references), encoded]
        pairs = [(k, len(references)) for k in range(len(references))]
        results = predict_pairs(self.model, chosen, pairs, precision=self.precision)
        parts = []
        for result in results:
            index = references[result.first]
            parts.append(
                _lifted(
                    result,
                    self._views[index],
                    query,
                    self.database.photos[index],
                    self.options.matching,
                    self.model.device,
                )
            )
        return _joined(parts)

    def _solve(
        self,
        query: View,
        found: Correspondences,
        K: np.ndarray | None,
        camera: pycolmap.Camera | None,
        names: tuple[str, ...],
    ) -> Localization:
        max_error_px = self.options.max_error_px or _MAX_ERROR_NETWORK_PX * query.pixel_scale
        return localization_from_points(
            query.name,
            query.ledger.original_size,
            found,
            K,
            camera=camera,
            references=names,
            metric=self.database.metric,
            max_error_px=max_error_px,
            options=self.options,
        )


def localization_from_points(
    name: str,
    size: tuple[int, int],
    found: Correspondences,
    K: np.ndarray | None,
    *,
    max_error_px: float,
    camera: pycolmap.Camera | None = None,
    references: tuple[str, ...] = (),
    metric: bool = False,
    options: LocalizerOptions | None = None,
) -> Localization:
    """Localise from pixels with known points, whatever found them; arguments as in `Localizer`."""
    options = options or LocalizerOptions()
    xy, xyz = found.xy[: options.max_points], found.xyz[: options.max_points]
    if camera is not None:
        K = np.array(camera.calibration_matrix(), dtype=np.float64)
        rays = np.asarray(camera.cam_from_img(xy), dtype=np.float64).reshape(-1, 2)
        xy = np.column_stack([rays, np.ones(len(rays))]) @ K[:2].T
    solved = solve_pose(
        xy,
        xyz,
        size,
        K,
        max_error_px=max_error_px,
        min_inliers=options.min_inliers,
        seed=options.seed,
    )
    estimate = solved.estimate
    reason = estimate.reason
    if reason and len(xy) < options.min_inliers:
        reason = (
            f"{found.matches} matches with {', '.join(references) or 'the map'}, "
            f"{len(xy)} of them at known points; {options.min_inliers} are needed"
        )
    return Localization(
        name=name,
        cam_from_world=estimate.cam_from_world if estimate else None,
        K=estimate.K if estimate else K,
        size=size,
        xy=xy,
        xyz=xyz,
        inliers=estimate.inliers,
        covariance=solved.covariance,
        confidence=solved.confidence,
        scale="metric" if metric else "relative",
        references=references,
        focal=solved.focal if estimate or K is not None else "unknown",
        reason=reason,
    )


def _lifted(
    result: PairResult,
    reference: View,
    query: View,
    photo: DatabasePhoto,
    matching: MatcherOptions | None,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixels of the query, world points or NaN, confidence) of one photo of the map."""
    matches = match_views(result, reference, query, matching, device)
    return matches.xy2.astype(np.float64), photo.points.at(matches.xy1), matches.confidence


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Correspondences:
    """Correspondences of all photos together, surest first."""
    xy, xyz, confidence = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    known = np.isfinite(xyz).all(axis=1)
    order = np.argsort(-confidence[known], kind="stable")
    return Correspondences(xy[known][order], xyz[known][order], len(xy))


@overload
def localize(
    query: ImageSource,
    scene: DatabaseSource,
    model: TwoViewModel | str | Path = ...,
    *,
    photos: str | os.PathLike[str] | None = ...,
    known: KnownSource | None = ...,
    K: np.ndarray | None = ...,
    focal_px: float | None = ...,
    top_k: int = ...,
    options: LocalizerOptions | None = ...,
    device: str = ...,
    size: int | None = ...,
    precision: Precision = ...,
    progress: bool | Callable[[str, int, int], None] = ...,
) -> Localization: ...
@overload
def localize(
    query: Sequence[ImageSource],
    scene: DatabaseSource,
    model: TwoViewModel | str | Path = ...,
    *,
    photos: str | os.PathLike[str] | None = ...,
    known: KnownSource | None = ...,
    K: np.ndarray | None = ...,
    focal_px: float | None = ...,
    top_k: int = ...,
    options: LocalizerOptions | None = ...,
    device: str = ...,
    size: int | None = ...,
    precision: Precision = ...,
    progress: bool | Callable[[str, int, int], None] = ...,
) -> list[Localization]: ...
def localize(
    query: ImageSource | Sequence[ImageSource],
    scene: DatabaseSource,
    model: TwoViewModel | str | Path = "weav3r-small",
    *,
    photos: str | os.PathLike[str] | None = None,
    known: KnownSource | None = None,
    K: np.ndarray | None = None,
    focal_px: float | None = None,
    top_k: int = 8,
    options: LocalizerOptions | None = None,
    device: str = "auto",
    size: int | None = None,
    precision: Precision = "float32",
    progress: bool | Callable[[str, int, int], None] = False,
) -> Localization | list[Localization]:
    """Find where photos were taken.

    Args:
        query: one photo, or a list of photos (files, (H, W, 3) uint8 arrays or PIL images).
        scene: the map: a `Scene`, a saved one (scene.npz or its folder; it holds all that is
            needed, the photos may be gone), a COLMAP model folder with its photos, a `Database`,
            or ONE reference photo (map-free: the world is the reference's camera).
        model: a loaded model, or anything that `load_model` takes.
        photos: folder of the map's photos, where they are not where they were.
        known: intrinsics of the queries by file name, as in `reconstruct`.
        K: (3, 3) intrinsics of all queries, in original pixels.
        focal_px: focal length of all queries. Without any of the three it is estimated.
        top_k: photos of the map that each query is matched with.
        options: everything else about the search; its `top_k` counts, not the argument.
        device: "auto", "cpu", "cuda", ...; ignored for a loaded model.
        size: long side of the network's input in pixels; default: the best measured for the model.
        precision: of the network's matrix products, see `reconstruct`.
        progress: True for a bar in the terminal, or a function that receives (stage, done, total).

    Returns:
        One `Localization` for one photo, a list for a list, in its order. A photo that cannot be
        read or localised gives one without a pose that says why.

    Raises:
        FileNotFoundError: a query, the map or a photo of it does not exist.
        ValueError: the map holds no camera, or the model cannot match as `options` say.
    """
    single = isinstance(query, str | os.PathLike | Image.Image) or (
        isinstance(query, np.ndarray) and query.ndim == 3
    )
    if single and isinstance(query, str | os.PathLike) and Path(query).is_dir():
        raise ValueError(f"{query} is a folder; give a list of photos")
    sources = list_sources(query)
    network = model if isinstance(model, TwoViewModel) else load_model(model, device=device)
    size = inference_size(network) if size is None else size
    options = options or LocalizerOptions(top_k=top_k)
    intrinsics = _Intrinsics(known, K, focal_px)
    photo = _photo_path(scene)
    if photo is not None:
        reference = load_images([photo], size, network.config.patch_size).views[0]

        def locate(view: View) -> Localization:
            own, others = intrinsics.of(view), intrinsics.of(reference)
            return localize_against_photo(
                view, reference, network, own, others, options.matching, options.min_inliers
            )
    else:
        localizer = Localizer(
            scene,
            network,
            photos=photos,
            options=options,
            size=size,
            precision=precision,
            progress=progress,
        )

        def locate(view: View) -> Localization:
            return localizer.localize(view, intrinsics.of(view))

    answers = []
    with (
        make_progress(progress) as show,
        show.stage("localise", len(sources)) as advance,
    ):
        for source, name in zip(sources, unique_names(sources), strict=True):
            answers.append(_localize_one(source, name, size, network.config.patch_size, locate))
            advance(1)
    return answers[0] if single else answers


def _localize_one(
    source: Source, name: str, size: int, patch_size: int, locate: Callable[[View], Localization]
) -> Localization:
    """One photo of a list; one that cannot be read must not stop the others."""
    try:
        view = load_images([source], size, patch_size).views[0]
    except ValueError as error:
        return Localization(name, reason=" ".join(str(error).split()))
    return locate(View(name, view.path, view.image, view.ledger, view.exif_focal_px, view.mask))


class _Intrinsics:
    """Intrinsics of a photo, from whichever of the three arguments gives them."""

    def __init__(
        self, known: KnownSource | None, K: np.ndarray | None, focal_px: float | None
    ) -> None:
        if K is not None and (known is not None or focal_px is not None):
            raise ValueError("give one of known, K and focal_px")
        self._K = None if K is None else check_intrinsics(K)
        self._known = as_known(known, focal_px)

    def of(self, view: View) -> np.ndarray | None:
        if self._K is not None:
            return self._K
        stem = PurePath(view.name).stem
        named = {n: v for n, v in self._known.views.items() if PurePath(n).stem == stem}
        given = resolve(replace(self._known, views=named, distances={}), [view])
        return given.views[0].K if 0 in given.views else None


def _photo_path(scene: DatabaseSource) -> Path | None:
    """The reference photo of a map-free query; None for a map."""
    if not isinstance(scene, str | os.PathLike):
        return None
    path = Path(scene)
    return path if path.is_file() and path.suffix.lower() not in MAP_SUFFIXES else None
