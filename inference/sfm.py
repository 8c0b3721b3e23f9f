"""Cameras and sparse points from matches: the road that measures better where matches are good.

Every grid anchor of an image is seen at one fixed place in that image and at sub-pixel places in
all images it was matched with, so it is the hub of a multi-view track by construction. Geometric
verification, mapping and bundle adjustment are COLMAP's (through pycolmap).

Reference: Schoenberger & Frahm, "Structure-from-Motion Revisited", CVPR 2016.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pycolmap

from ..geometry._colmap import quiet_colmap
from ..geometry.camera import Camera
from .agreement import SUREST_AGREE, agreeing_share, number_of_surest, surest_agreeing
from .contradictions import drop_contradicted
from .graph.verification import VerificationOptions
from .images import View
from .known.sfm import group_key, hold_known, known_camera, seed_model, weigh_focals
from .known.values import Given
from .matching.descriptors import Matches

_FAR_FOCAL, _FOCAL_ATTEMPTS = 1.3, 3  # ratio of found and guessed focal length; mappings at most
_FOCAL_SHARES = (0.1, 50.0)  # of the long side: beyond are degenerate solutions, not lenses


@dataclass(frozen=True)
class SfmOptions:
    """How matches become cameras.

    Attributes:
        max_error_network_px: inlier threshold, in pixels of the network's input.
        min_inliers: a pair with fewer geometrically consistent matches is rejected.
        min_inlier_ratio: the same for the share of consistent matches.
        verification: when pairs contradict each other, see `verify_edges`; None believes all.
        min_agreement: pairs are held against each other only where the cameras found from all of
            them leave more than the rest of the matches unexplained, as look-alikes do.
        share_focal: one focal length for all photos of equal size and EXIF focal length.
        seed: of every RANSAC and of the mapper.
        threads: of the mapper; one thread makes the result repeatable to the bit.
    """

    max_error_network_px: float = 1.5
    min_inliers: int = 24
    min_inlier_ratio: float = 0.15
    verification: VerificationOptions | None = VerificationOptions(front_share=0.06)
    min_agreement: float = 0.9
    share_focal: bool = True
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class PairVerification:
    """What geometric verification said about a pair.

    Attributes:
        num_matches: matches looked at.
        num_inliers: those that fit one camera motion.
        accepted: whether the pair is believed.
        reason: why not, one clause.
    """

    num_matches: int
    num_inliers: int
    accepted: bool
    reason: str = ""


@dataclass(frozen=True)
class SparseModel:
    """Cameras and points of one connected component, in its own similarity frame.

    Attributes:
        cameras: image index -> camera in original pixels.
        points: (M, 3) float64 world points.
        errors_px: (M,) mean reprojection error of each point, original pixels.
        observations: image index -> (xy (n, 2) original pixels, point (n,) index into `points`).
    """

    cameras: dict[int, Camera]
    points: np.ndarray
    errors_px: np.ndarray
    observations: dict[int, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SfmResult:
    """All components, largest first, and the verdict on every pair."""

    models: list[SparseModel]
    pairs: dict[tuple[int, int], PairVerification] = field(default_factory=dict)


class MatchGraph:
    """Collects the matches of all pairs and gives every image one list of key points."""

    def __init__(self, num_images: int) -> None:
        self._xy: list[list[np.ndarray]] = [[] for _ in range(num_images)]
        self._count = [0] * num_images
        self._pairs: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
        self._surest: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)

    def add(self, first: int, second: int, matches: Matches) -> None:
        """Append matches between two images (`xy1` in `first`), the surest first."""
        n = len(matches)
        start1, start2 = self._count[first], self._count[second]
        self._xy[first].append(matches.xy1)
        self._xy[second].append(matches.xy2)
        self._count[first] += n
        self._count[second] += n
        rows = np.stack([start1 + np.arange(n), start2 + np.arange(n)], axis=1)
        self._pairs[(first, second)].append(rows)
        positions = np.concatenate([matches.xy1, matches.xy2], axis=1, dtype=np.float32)
        self._surest[(first, second)].append(positions[: number_of_surest(n)])

    def finish(self) -> tuple[list[np.ndarray], dict[tuple[int, int], np.ndarray]]:
        """Key points (n, 2) float32 per image, identical positions merged, and matches per pair."""
        keypoints, index = [], []
        for parts in self._xy:
            xy = np.concatenate(parts) if parts else np.zeros((0, 2), np.float32)
            unique, inverse = np.unique(xy, axis=0, return_inverse=True)
            keypoints.append(unique.astype(np.float32))
            index.append(inverse.reshape(-1))
        pairs = {}
        for (first, second), parts in self._pairs.items():
            rows = np.concatenate(parts)
            rows = np.stack([index[first][rows[:, 0]], index[second][rows[:, 1]]], axis=1)
            pairs[(first, second)] = np.unique(rows, axis=0).astype(np.uint32)
        return keypoints, pairs

    def surest(self, pair: tuple[int, int]) -> np.ndarray:
        """The surest matches of a pair, (n, 4) float32: x and y in both images."""
        return np.concatenate(self._surest[pair])


def reconstruct_from_matches(
    views: Sequence[View],
    graph: MatchGraph,
    focal_guess_px: Sequence[float],
    options: SfmOptions | None = None,
    given: Given | None = None,
) -> SfmResult:
    """Estimate cameras and points from matches.

    Args:
        views: the photos; sizes and EXIF focal lengths are read from them.
        graph: matches between them.
        focal_guess_px: per photo, a starting focal length in original pixels, used where the file
            has no EXIF focal length.
        options: see `SfmOptions`.
        given: what is known; fixed intrinsics are held, and where two photos or more have a fixed
            pose, mapping starts from these and holds them.

    Returns:
        Components with at least two registered photos, and the verdict on each pair.
    """
    options, given = options or SfmOptions(), given or Given()
    keypoints, pairs = graph.finish()
    with quiet_colmap(), tempfile.TemporaryDirectory(prefix="weav3r-sfm-") as folder:
        database_path = Path(folder) / "database.db"
        write_database(database_path, views, keypoints, pairs, focal_guess_px, options, given)
        verdicts = verify_pairs(database_path, Path(folder), views, pairs, options)
        best: list[SparseModel] = []
        if any(verdict.accepted for verdict in verdicts.values()):
            best = _map_best(database_path, Path(folder), len(views), options, given)
            for attempt, look in enumerate((_doubted, _contradicted)):
                if not _unexplained(database_path, keypoints, views, verdicts, best, options):
                    break
                wrong = look(database_path, graph, keypoints, views, verdicts, options)
                verdicts |= wrong
                if wrong:
                    again = Path(folder) / f"again{attempt}"
                    again.mkdir()
                    best = _map_best(database_path, again, len(views), options, given)
            best = _from_found_focals(database_path, Path(folder), best, len(views), options, given)
    return SfmResult(best, verdicts)


def _map_best(
    database_path: Path, folder: Path, count: int, options: SfmOptions, given: Given
) -> list[SparseModel]:
    """Map strictly, then loosely where photos are left over; the one that places more counts."""
    best: list[SparseModel] = []
    for relaxed in (False, True):
        models = _map(database_path, folder, options, relaxed, given)
        if _registered(models) > _registered(best):
            best = models
        if _registered(best) == count:
            break
    return best


def _from_found_focals(
    database_path: Path,
    folder: Path,
    models: list[SparseModel],
    count: int,
    options: SfmOptions,
    given: Given,
) -> list[SparseModel]:
    """Map again from the focal lengths found where they are far from those guessed.

    From a far guess bundle adjustment stops half-way, with cameras that turn too little or too
    much; a photo of a small thing from afar hardly shows its focal length. Two photos do not tell
    it well enough to believe them against the guess.
    """
    for attempt in range(_FOCAL_ATTEMPTS):
        if _registered(models) < 3 or not _take_found_focals(database_path, models[0]):
            break
        again = folder / f"focal{attempt}"
        again.mkdir()
        found = _map_best(database_path, again, count, options, given)
        if _registered(found) < _registered(models):
            break
        models = found
    return models


def _take_found_focals(database_path: Path, model: SparseModel) -> bool:
    """Write a model's focal lengths into the database; say whether any was far from its guess."""
    far = False
    with pycolmap.Database.open(database_path) as database:
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        for image in database.read_all_images():
            camera = cameras[image.camera_id]
            found = model.cameras.get(image.image_id - 1)
            if found is None or camera.has_prior_focal_length:
                continue
            ratio = found.focal_px / camera.mean_focal_length()
            if max(ratio, 1 / ratio) > _FAR_FOCAL:
                far = True
                camera.params = [found.focal_px, *camera.params[1:]]
                database.update_camera(camera)
    return far


def _unexplained(
    database_path: Path,
    keypoints: list[np.ndarray],
    views: Sequence[View],
    verdicts: dict[tuple[int, int], PairVerification],
    models: Sequence[SparseModel],
    options: SfmOptions,
) -> bool:
    """Whether the cameras contradict so many matches that some pairs must be wrong."""
    matches = {}
    with pycolmap.Database.open(database_path) as database:
        for (i, j), verdict in verdicts.items():
            if verdict.accepted:
                rows = database.read_two_view_geometry(i + 1, j + 1).inlier_matches
                matches[(i, j)] = keypoints[i][rows[:, 0]], keypoints[j][rows[:, 1]]
    max_error = options.max_error_network_px * max(v.pixel_scale for v in views)
    share = agreeing_share(matches, [model.cameras for model in models], max_error)
    return share < options.min_agreement


def judge_pairs(
    views: Sequence[View],
    graph: MatchGraph,
    focal_guess_px: Sequence[float],
    options: SfmOptions | None = None,
    given: Given | None = None,
) -> dict[tuple[int, int], PairVerification]:
    """Say which pairs fit one camera motion and are not contradicted by the others.

    Args:
        views: the photos.
        graph: matches between them.
        focal_guess_px: as of `reconstruct_from_matches`.
        options: see `SfmOptions`.
        given: what is known.
    """
    options, given = options or SfmOptions(), given or Given()
    keypoints, pairs = graph.finish()
    with quiet_colmap(), tempfile.TemporaryDirectory(prefix="weav3r-pairs-") as folder:
        path = Path(folder) / "database.db"
        write_database(path, views, keypoints, pairs, focal_guess_px, options, given)
        verdicts = verify_pairs(path, Path(folder), views, pairs, options)
        return verdicts | _contradicted(path, graph, keypoints, views, verdicts, options)


def _doubted(
    database_path: Path,
    graph: MatchGraph,
    keypoints: list[np.ndarray],
    views: Sequence[View],
    verdicts: dict[tuple[int, int], PairVerification],
    options: SfmOptions,
) -> dict[tuple[int, int], PairVerification]:
    """The pairs whose surest matches do not fit the motion, taken out of the database."""
    doubted = {}
    if options.verification is None:
        return {}
    with pycolmap.Database.open(database_path) as database:
        for pair in [pair for pair, verdict in verdicts.items() if verdict.accepted]:
            i, j = pair
            rows = database.read_two_view_geometry(i + 1, j + 1).inlier_matches
            inliers = np.concatenate([keypoints[i][rows[:, 0]], keypoints[j][rows[:, 1]]], axis=1)
            agree = surest_agreeing(graph.surest(pair), inliers)
            if agree < SUREST_AGREE:
                database.delete_two_view_geometry(i + 1, j + 1)
                reason = f"only {100 * agree:.0f} % of the surest matches fit the camera motion"
                doubted[pair] = replace(verdicts[pair], accepted=False, reason=reason)
    return doubted


def _contradicted(
    database_path: Path,
    graph: MatchGraph,
    keypoints: list[np.ndarray],
    views: Sequence[View],
    verdicts: dict[tuple[int, int], PairVerification],
    options: SfmOptions,
) -> dict[tuple[int, int], PairVerification]:
    """The pairs that the others refute, taken out of the database."""
    if options.verification is None:
        return {}
    accepted = [pair for pair, verdict in verdicts.items() if verdict.accepted]
    max_error = options.max_error_network_px * max(v.pixel_scale for v in views)
    dropped = drop_contradicted(
        database_path, keypoints, accepted, max_error, options.verification, options.seed
    )
    return {
        pair: replace(verdicts[pair], accepted=False, reason=reason)
        for pair, reason in dropped.items()
    }


def _registered(models: list[SparseModel]) -> int:
    return len(models[0].cameras) if models else 0


def _image_name(index: int) -> str:
    return f"{index:06d}"


def camera_groups(views: Sequence[View], share: bool, given: Given) -> list[int]:
    """Camera number of each photo; photos of one size and EXIF focal length share a camera."""
    groups: dict[tuple, int] = {}
    numbers = []
    for index, view in enumerate(views):
        exif = None if view.exif_focal_px is None else round(view.exif_focal_px)
        lens = group_key(given, index) or exif
        key = (view.ledger.original_size, lens) if share else (index,)
        numbers.append(groups.setdefault(key, len(groups)))
    return numbers


def write_database(
    path: Path,
    views: Sequence[View],
    keypoints: list[np.ndarray],
    pairs: dict[tuple[int, int], np.ndarray],
    focal_guess_px: Sequence[float],
    options: SfmOptions,
    given: Given,
) -> None:
    """Write cameras, key points and matches; image i of the photos is image i + 1 there.

    Args:
        path: of the new database.
        views: the photos.
        keypoints: per photo (n, 2) original pixels.
        pairs: rows of matched key points per pair.
        focal_guess_px: where no focal length is known otherwise, see `reconstruct_from_matches`.
        options: whether photos share cameras.
        given: known intrinsics.
    """
    groups = camera_groups(views, options.share_focal, given)
    with pycolmap.Database.open(path) as database:
        rig_of_group: dict[int, tuple[int, pycolmap.Camera]] = {}
        for index, view in enumerate(views):
            if groups[index] not in rig_of_group:
                rig_of_group[groups[index]] = _write_camera(
                    database,
                    view,
                    [focal_guess_px[i] for i, g in enumerate(groups) if g == groups[index]],
                    given.intrinsics.get(index),
                )
            rig_id, camera = rig_of_group[groups[index]]
            image = pycolmap.Image(
                name=_image_name(index), camera_id=camera.camera_id, image_id=index + 1
            )
            database.write_image(image, use_image_id=True)
            frame = pycolmap.Frame(frame_id=index + 1, rig_id=rig_id)
            frame.add_data_id(image.data_id)
            database.write_frame(frame, use_frame_id=True)
            database.write_keypoints(index + 1, keypoints[index].astype(np.float32))
        for (first, second), rows in pairs.items():
            database.write_matches(first + 1, second + 1, rows)


def _write_camera(
    database: pycolmap.Database, view: View, guesses_px: list[float], K: np.ndarray | None
) -> tuple[int, pycolmap.Camera]:
    height, width = view.ledger.original_size
    exif = view.exif_focal_px
    if K is not None:
        camera = known_camera(K, height, width)
    else:
        focal = exif if exif is not None else float(np.median(guesses_px))
        camera = pycolmap.Camera.create_from_model_name(0, "SIMPLE_PINHOLE", focal, width, height)
        camera.has_prior_focal_length = exif is not None
    camera.camera_id = database.write_camera(camera)
    rig = pycolmap.Rig()
    rig.add_ref_sensor(camera.sensor_id)
    return database.write_rig(rig), camera


def verify_pairs(
    database_path: Path,
    folder: Path,
    views: Sequence[View],
    pairs: dict[tuple[int, int], np.ndarray],
    options: SfmOptions,
) -> dict[tuple[int, int], PairVerification]:
    """Verify the pairs of a database geometrically; the inliers are written into it."""
    pairs_path = folder / "pairs.txt"
    pairs_path.write_text("".join(f"{_image_name(i)} {_image_name(j)}\n" for i, j in pairs))
    geometry = pycolmap.TwoViewGeometryOptions()
    geometry.min_num_inliers = options.min_inliers
    geometry.min_inlier_ratio = options.min_inlier_ratio
    geometry.detect_watermark = False
    geometry.ransac.max_error = options.max_error_network_px * max(v.pixel_scale for v in views)
    geometry.ransac.min_inlier_ratio = max(0.05, options.min_inlier_ratio)
    geometry.ransac.random_seed = options.seed
    geometry.ransac.num_threads = options.threads
    pycolmap.set_random_seed(options.seed)
    pycolmap.verify_matches(database_path, pairs_path, geometry)
    verdicts = {}
    with pycolmap.Database.open(database_path) as database:
        for first, second in pairs:
            inliers = 0
            if database.exists_two_view_geometry(first + 1, second + 1):
                found = database.read_two_view_geometry(first + 1, second + 1)
                inliers = len(found.inlier_matches)
            total, accepted = len(pairs[(first, second)]), inliers >= options.min_inliers
            reason = "" if accepted else f"only {inliers} of {total} matches fit one camera motion"
            verdicts[(first, second)] = PairVerification(total, inliers, accepted, reason)
    return verdicts


def _map(
    database_path: Path, folder: Path, options: SfmOptions, relaxed: bool, given: Given
) -> list[SparseModel]:
    settings = pycolmap.IncrementalPipelineOptions()
    settings.min_num_matches = options.min_inliers
    settings.min_model_size = 2
    settings.multiple_models = True
    settings.max_model_overlap = 2
    settings.extract_colors = False
    settings.num_threads = options.threads
    settings.random_seed = options.seed
    settings.triangulation.ignore_two_view_tracks = False
    settings.mapper.abs_pose_min_num_inliers = options.min_inliers
    settings.mapper.abs_pose_min_inlier_ratio = 0.12 if relaxed else 0.2
    settings.mapper.init_min_num_inliers = 30 if relaxed else 80
    settings.mapper.init_min_tri_angle = 1.5 if relaxed else 8.0
    if relaxed:
        settings.mapper.init_max_forward_motion = 1.0
        settings.mapper.filter_min_tri_angle = 0.5
        settings.triangulation.min_angle = 0.5
    output = folder / ("relaxed" if relaxed else "strict")
    output.mkdir()
    hold_known(settings, database_path, given)
    seed = seed_model(database_path, output, given, settings)
    settings.fix_existing_frames = seed is not None
    found = pycolmap.incremental_mapping(
        database_path, folder, output, settings, input_path=seed or ""
    )
    for reconstruction in found.values():
        weigh_focals(reconstruction, given)
    models = [
        sparse_model(reconstruction) for reconstruction in found.values() if _usable(reconstruction)
    ]
    models = [model for model in models if len(model.cameras) >= 2]
    models.sort(key=lambda m: (-len(m.cameras), -len(m.points), min(m.cameras)))
    return _without_shared_images(models)


def _without_shared_images(models: list[SparseModel]) -> list[SparseModel]:
    """Keep each image in the largest component that holds it; a component needs two images."""
    taken: set[int] = set()
    kept = []
    for model in models:
        own = set(model.cameras) - taken
        if len(own) < 2:
            continue
        taken |= own
        kept.append(model if len(own) == len(model.cameras) else _part(model, own))
    return kept


def _part(model: SparseModel, images: set[int]) -> SparseModel:
    """Some images of a model, with the points that they observe."""
    observations = {i: seen for i, seen in model.observations.items() if i in images}
    used = np.unique(np.concatenate([point for _, point in observations.values()]))
    return SparseModel(
        cameras={i: camera for i, camera in model.cameras.items() if i in images},
        points=model.points[used],
        errors_px=model.errors_px[used],
        observations={i: (xy, np.searchsorted(used, p)) for i, (xy, p) in observations.items()},
    )


def _usable(reconstruction: pycolmap.Reconstruction) -> bool:
    """Whether bundle adjustment left cameras that can exist: it does not bound focal lengths."""
    ids = {reconstruction.image(i).camera_id for i in reconstruction.reg_image_ids()}
    for camera in (reconstruction.camera(i) for i in ids):
        low, high = (share * max(camera.height, camera.width) for share in _FOCAL_SHARES)
        if not low < camera.mean_focal_length() < high:
            return False
    return True


def sparse_model(reconstruction: pycolmap.Reconstruction) -> SparseModel:
    """Cameras and points of a reconstruction whose image i + 1 is photo i."""
    ids = sorted(reconstruction.point3D_ids())
    row = {point_id: i for i, point_id in enumerate(ids)}
    points = np.array([reconstruction.point3D(i).xyz for i in ids]).reshape(-1, 3)
    errors = np.array([reconstruction.point3D(i).error for i in ids]).reshape(-1)
    cameras, observations = {}, {}
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        camera = reconstruction.camera(image.camera_id)
        cam_from_world = np.eye(4)
        cam_from_world[:3] = image.cam_from_world().matrix()
        index = image_id - 1
        cameras[index] = Camera(
            K=camera.calibration_matrix(),
            cam_from_world=cam_from_world,
            height=camera.height,
            width=camera.width,
        )
        seen = [p for p in image.points2D if p.has_point3D()]
        observations[index] = (
            np.array([p.xy for p in seen]).reshape(-1, 2),
            np.array([row[p.point3D_id] for p in seen], dtype=np.int64),
        )
    return SparseModel(cameras, points, errors, observations)
