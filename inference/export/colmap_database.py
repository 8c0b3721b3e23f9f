"""COLMAP databases: matches of a collection of photos, for COLMAP, GLOMAP or hloc to go on from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...geometry._colmap import quiet_colmap
from ._files import written_at_once

PairRows = dict[tuple[int, int], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class DatabaseImage:
    """One photo of a database.

    Attributes:
        name: path below the folder that COLMAP is given as --image_path.
        camera: its intrinsics; photos with the same `lens` share the first one's.
        lens: number of the camera.
        keypoints: (n, 2) float32, original upright pixels, centres at half-integers.
    """

    name: str
    camera: pycolmap.Camera
    lens: int
    keypoints: NDArray[np.float32]


@dataclass(frozen=True)
class VerificationSettings:
    """How the matches of a pair become a two-view geometry.

    Attributes:
        max_error_px: inlier threshold in original pixels.
        min_inliers: a pair with fewer is left without a geometry.
        min_inlier_ratio: the same for their share.
        seed: of RANSAC.
    """

    max_error_px: float
    min_inliers: int = 24
    min_inlier_ratio: float = 0.15
    seed: int = 0


def select_tracks(
    matches: Sequence[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]],
    num_images: int,
    min_length: int = 2,
) -> tuple[list[NDArray[np.int64]], PairRows]:
    """Join matches to tracks and keep the key points of the long ones.

    A track is everything that matches connect, directly or over other key points; its length is
    the number of its key points. One that went astray may hold two of the same image.

    Args:
        matches: (first, second, ids (m,), ids (m,)): key points of `first` and of `second` that
            match; the ids are whole numbers of any meaning, not negative.
        num_images: in all.
        min_length: shortest track that is kept.

    Returns:
        Ids of the kept key points per image, in the order in which `matches` names them; and per
        pair (i, j), i < j, the matches (m, 2) as rows of these lists, each once, ordered by ids.
        Pairs without any are left out.
    """
    named = [(k, ids) for i, j, a, b in matches for k, ids in ((i, a), (j, b))]
    image = np.concatenate([np.zeros(0, np.int64), *(np.full(len(ids), k) for k, ids in named)])
    ids = np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in named)]).astype(np.int64)
    stride = int(ids.max(initial=0)) + 1
    keys, first_seen, node = np.unique(image * stride + ids, return_index=True, return_inverse=True)
    nodes = np.split(node.reshape(-1), np.cumsum([len(part) for _, part in named], dtype=int))[:-1]
    a, b = (np.concatenate([node[:0].reshape(-1), *nodes[side::2]]) for side in (0, 1))
    links = coo_array((np.ones(len(a)), (a, b)), shape=(len(keys), len(keys)))
    track = connected_components(links, directed=False)[1]
    kept = np.bincount(track)[track] >= min_length
    row = np.full(len(keys), -1)
    chosen: list[NDArray[np.int64]] = []
    for k in range(num_images):
        mine = np.flatnonzero(kept & (keys // stride == k))
        mine = mine[np.argsort(first_seen[mine])]
        row[mine] = np.arange(len(mine))
        chosen.append(keys[mine] % stride)
    pairs: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
    for (i, j, *_), a, b in zip(matches, nodes[::2], nodes[1::2], strict=True):
        both = np.stack([a, b] if i < j else [b, a], axis=1)
        pairs.setdefault((min(i, j), max(i, j)), []).append(both[kept[a]])
    rows = {pair: row[np.unique(np.concatenate(parts), axis=0)] for pair, parts in pairs.items()}
    return chosen, {pair: found for pair, found in rows.items() if len(found)}


def write_database(
    path: Path,
    images: Sequence[DatabaseImage],
    pairs: PairRows,
    settings: VerificationSettings,
) -> dict[tuple[int, int], int]:
    """Write cameras, images, key points, matches and verified two-view geometries.

    Image i gets the id i + 1. The database appears at `path` when it is complete, and replaces
    what was there.

    Args:
        path: of the database; missing folders are made.
        images: the photos.
        pairs: (i, j), i < j -> (m, 2) matches as rows of the two lists of key points.
        settings: of the geometric verification, which is COLMAP's own.

    Returns:
        (i, j) -> number of inliers of the two-view geometry, 0 where there is none.
    """
    with written_at_once(path) as temporary:
        temporary.unlink()  # SQLite makes its file itself
        with quiet_colmap(), pycolmap.Database.open(temporary) as database:
            _write_images(database, images)
            for (i, j), rows in pairs.items():
                database.write_matches(i + 1, j + 1, rows.astype(np.uint32))
        _verify(temporary, list(pairs), settings)
        with pycolmap.Database.open(temporary) as database:
            for image in database.read_all_images():
                image.name = images[image.image_id - 1].name
                database.update_image(image)
            return {(i, j): _num_inliers(database, i + 1, j + 1) for i, j in pairs}


def _write_images(database: pycolmap.Database, images: Sequence[DatabaseImage]) -> None:
    lenses: dict[int, tuple[int, int]] = {}  # -> camera id, rig id
    for index, entry in enumerate(images):
        if entry.lens not in lenses:
            camera = pycolmap.Camera(entry.camera.todict())
            camera.camera_id = database.write_camera(camera)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            lenses[entry.lens] = camera.camera_id, database.write_rig(rig)
        camera_id, rig_id = lenses[entry.lens]
        image = pycolmap.Image(name=_plain_name(index), camera_id=camera_id, image_id=index + 1)
        database.write_image(image, use_image_id=True)
        frame = pycolmap.Frame(frame_id=index + 1, rig_id=rig_id)
        frame.add_data_id(image.data_id)
        database.write_frame(frame, use_frame_id=True)
        database.write_keypoints(index + 1, entry.keypoints.astype(np.float32))


def _verify(path: Path, pairs: Sequence[tuple[int, int]], settings: VerificationSettings) -> None:
    if not pairs:
        return
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = settings.min_inliers
    options.min_inlier_ratio = settings.min_inlier_ratio
    options.detect_watermark = False
    options.ransac.max_error = settings.max_error_px
    options.ransac.min_inlier_ratio = max(0.05, settings.min_inlier_ratio)
    options.ransac.random_seed = settings.seed
    options.ransac.num_threads = 1
    with quiet_colmap(), tempfile.TemporaryDirectory(prefix="weav3r-pairs-") as folder:
        listing = Path(folder) / "pairs.txt"
        listing.write_text("".join(f"{_plain_name(i)} {_plain_name(j)}\n" for i, j in pairs))
        pycolmap.set_random_seed(settings.seed)
        pycolmap.verify_matches(path, listing, options)


def _plain_name(index: int) -> str:
    """While it is verified: lists of pairs cannot hold names with spaces."""
    return f"{index:06d}"


def _num_inliers(database: pycolmap.Database, image_id1: int, image_id2: int) -> int:
    if not database.exists_two_view_geometry(image_id1, image_id2):
        return 0
    return len(database.read_two_view_geometry(image_id1, image_id2).inlier_matches)
