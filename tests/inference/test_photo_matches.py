"""Matches of a collection, and the COLMAP database made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch

import weav3r
from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.export.colmap_database import select_tracks
from weav3r.inference.images import View
from weav3r.inference.known.values import Given, Known, KnownView, resolve
from weav3r.inference.matching.descriptors import Matches
from weav3r.inference.photo_matches import PhotoMatches, match_photos

HEIGHT, WIDTH, FOCAL = 480, 640, 600.0


def make_cameras(count: int) -> list[Camera]:
    """On an arc around the origin, 12 degrees apart, looking at it from five units away."""
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    cameras = []
    for k in range(count):
        c, s = np.cos(np.radians(12.0 * k)), np.sin(np.radians(12.0 * k))
        pose = np.array([[c, 0, s, 0], [0, 1, 0, 0.1 * k], [-s, 0, c, 5], [0, 0, 0, 1]])
        cameras.append(Camera(K=K, cam_from_world=pose, height=HEIGHT, width=WIDTH))
    return cameras


def make_view(index: int) -> View:
    ledger = Ledger.from_file_size(HEIGHT, WIDTH).resized(HEIGHT // 2, WIDTH // 2)
    return View(f"{index}.jpg", None, torch.zeros(3, HEIGHT // 2, WIDTH // 2), ledger)


def collection(cameras: list[Camera], outliers: float = 0.2) -> PhotoMatches:
    """Every pair sees the same points, to half a pixel; some matches are wrong."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1.2, 1.2, (250, 3))
    seen = [c.project(points)[0] + rng.normal(0, 0.3, (250, 2)) for c in cameras]
    pairs = {}
    for i in range(len(cameras)):
        for j in range(i + 1, len(cameras)):
            xy2 = seen[j].copy()
            wrong = rng.random(250) < outliers
            xy2[wrong] = rng.uniform([0, 0], [WIDTH, HEIGHT], (int(wrong.sum()), 2))
            ones = np.ones(250, np.float32)
            pairs[(i, j)] = Matches(seen[i].astype(np.float32), xy2.astype(np.float32), ones)
    views = [make_view(i) for i in range(len(cameras))]
    return PhotoMatches(views, pairs, [FOCAL] * len(cameras), Given(), [])


def test_colmap_maps_the_exported_database(tmp_path: Path) -> None:
    truth = make_cameras(4)
    written = collection(truth).save_colmap_database(tmp_path / "new" / "matches.db")
    assert written.images == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert all(count > 150 for count in written.inliers.values()) and len(written.inliers) == 6
    assert "4 images" in str(written) and "6 of them with a two-view geometry" in str(written)
    with pycolmap.Database.open(written.path) as database:
        assert [image.name for image in database.read_all_images()] == written.images
        assert database.num_cameras() == 1  # equal photos share one
        assert database.num_keypoints_for_image(1) == written.keypoints[0]
        assert database.num_verified_image_pairs() == 6
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    options = pycolmap.IncrementalPipelineOptions(num_threads=1, extract_colors=False)
    models = pycolmap.incremental_mapping(written.path, tmp_path, tmp_path, options)
    pycolmap.logging.minloglevel = before
    (model,) = models.values()
    assert model.num_reg_images() == 4
    found = {}
    for image in model.images.values():
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().matrix()
        found[image.image_id - 1] = Camera(truth[0].K, pose, HEIGHT, WIDTH)
    want, got = (c[3].cam_from_world @ c[0].world_from_cam for c in (truth, found))
    np.testing.assert_allclose(got[:3, :3], want[:3, :3], atol=0.02)


def test_names_with_spaces_and_known_cameras(tmp_path: Path) -> None:
    found = collection(make_cameras(2), outliers=0.0)
    views = [replace(v, name=f"my photo {k}.jpg") for k, v in enumerate(found.views)]
    K = np.array([[700.0, 0, 320], [0, 690, 240], [0, 0, 1]])
    given = resolve(Known(default=KnownView(K=K)), views)
    known = replace(found, views=views, given=given)
    written = known.save_colmap_database(tmp_path / "a b.db")
    assert written.inliers[(0, 1)] > 200
    with pycolmap.Database.open(written.path) as database:
        assert database.read_image(2).name == "my photo 1.jpg"
        (camera,) = database.read_all_cameras()
        assert camera.has_prior_focal_length
        np.testing.assert_array_equal(camera.calibration_matrix(), K)


def test_long_tracks_and_merged_key_points() -> None:
    whole = collection(make_cameras(3), outliers=0.0)
    pairs = {(0, 1): whole.pairs[(0, 1)], (0, 2): whole.pairs[(0, 2)].select(np.arange(100))}
    found = replace(whole, pairs=pairs)
    every, _ = found.tracks()
    assert [len(xy) for xy in every] == [250, 250, 100]
    long, rows = found.tracks(min_length=3)
    assert [len(xy) for xy in long] == [100, 100, 100]
    xy1, xy2 = (xy[rows[(0, 1)][:, k]] for k, xy in enumerate(long[:2]))
    kept, given = np.hstack([xy1, xy2]), np.hstack([pairs[(0, 1)].xy1, pairs[(0, 1)].xy2])[:100]
    assert set(map(tuple, kept.tolist())) == set(map(tuple, given.tolist()))
    coarse, _ = found.tracks(merge_px=20.0)
    assert all(len(a) > len(b) for a, b in zip(every, coarse, strict=True))


def test_tracks_join_over_images() -> None:
    ids = lambda *values: np.array(values, np.int64)  # noqa: E731
    kept, pairs = select_tracks([(0, 1, ids(5, 7), ids(2, 9)), (2, 1, ids(4), ids(9))], 4, 3)
    assert [k.tolist() for k in kept] == [[7], [9], [4], []]
    assert {pair: rows.tolist() for pair, rows in pairs.items()} == {
        (0, 1): [[0, 0]],
        (1, 2): [[0, 0]],
    }
    kept, pairs = select_tracks([], 2)
    assert [len(k) for k in kept] == [0, 0] and pairs == {}


def test_wrong_arguments_are_diagnosed(tmp_path: Path) -> None:
    found = collection(make_cameras(2))
    with pytest.raises(ValueError, match="min_track_length must be at least 2"):
        found.save_colmap_database(tmp_path / "a.db", min_track_length=1)
    with pytest.raises(ValueError, match="merge_px must not be negative"):
        found.save_colmap_database(tmp_path / "a.db", merge_px=-1)
    photo = next(iter(weav3r.example_photos()["toy"].glob("*.jpg")))
    with pytest.raises(ValueError, match="at least two usable photos"):
        match_photos([photo], progress=False)


def test_a_folder_of_real_photos_goes_to_colmap(tmp_path: Path) -> None:
    found = weav3r.match_photos(weav3r.example_photos()["toy"], size=224, progress=False)
    written = found.save_colmap_database(tmp_path / "toy.db")
    assert written.images == ["toy_1.jpg", "toy_2.jpg"]
    assert written.inliers[(0, 1)] > 0.5 * written.matches[(0, 1)] > 200
