"""Localisation: points behind pixels, maps, poses with their covariance, whole queries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from scipy.spatial.transform import Rotation

import weav3r
from weav3r.geometry.camera import Camera
from weav3r.inference.localization.database import (
    Database,
    DatabasePhoto,
    database_from_scene,
    open_database,
)
from weav3r.inference.localization.localizer import Localizer, LocalizerOptions
from weav3r.inference.localization.pixel_points import DepthPoints, TrackPoints, sample_surface
from weav3r.inference.localization.pose import confidence_of, occupied_cells, solve_pose
from weav3r.inference.localization.result import Localization, read_poses, write_poses
from weav3r.inference.scene import Scene
from weav3r.models.two_view import TwoViewModel

SIZE = 96  # of the network; the photos are 256 x 200


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return weav3r.load_model("weav3r-small", device="cpu")


def a_camera() -> Camera:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0.1, -0.2, 0.05]).as_matrix()
    pose[:3, 3] = [0.3, -0.1, 0.4]
    K = np.array([[500.0, 0, 330], [0, 510, 235], [0, 0, 1]])
    return Camera(K=K, cam_from_world=pose, height=480, width=640)


def points_before(camera: Camera, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    xy = rng.uniform([0, 0], [camera.width, camera.height], (count, 2))
    return xy, camera.unproject(xy, rng.uniform(2, 6, count))


# -- points behind pixels ------------------------------------------------------------------------


def test_depth_points_of_a_plane_are_exact_at_any_map_size() -> None:
    camera = a_camera()
    small = camera.resized(48, 64)
    rows, columns = np.mgrid[:48, :64] + 0.5
    rays = small.unproject(np.stack([columns, rows], -1), np.ones((48, 64))) - small.center
    normal, offset = np.array([0.2, -0.1, 1.0]), 5.0
    depth = (offset - small.center @ normal) / (rays @ normal)
    xy = np.random.default_rng(0).uniform([10, 10], [630, 470], (50, 2))
    points = DepthPoints(camera, depth).at(xy)
    np.testing.assert_allclose(points @ normal, offset, rtol=1e-9)
    np.testing.assert_allclose(camera.project(points)[0], xy, atol=1e-6)


def test_two_surfaces_are_never_mixed() -> None:
    depth = np.full((4, 6), 2.0)
    depth[:, 3:] = 8.0
    depth[0, 0] = np.nan
    xy = np.array([[2.9, 2.0], [3.1, 2.0], [0.4, 0.4], [1.2, 1.4], [-1.0, 2.0], [np.nan, 2.0]])
    expected = [2.0, 8.0, np.nan, 2.0, np.nan, np.nan]
    np.testing.assert_array_equal(sample_surface(depth, xy), expected)


def test_tracks_speak_for_their_surroundings_only_and_respect_the_lens() -> None:
    camera = a_camera()
    lens = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=640, height=480, params=[500.0, 330, 235, -0.1]
    )
    rng = np.random.default_rng(0)
    rays = np.column_stack([rng.uniform(-0.3, 0.3, (200, 2)), np.ones(200)])
    xyz = (4.0 * rays - camera.cam_from_world[:3, 3]) @ camera.cam_from_world[:3, :3]
    xy = np.asarray(lens.img_from_cam(rays))
    tracks = TrackPoints(lens, camera.cam_from_world, xy, xyz, radius_px=8.0)
    np.testing.assert_allclose(tracks.at(xy), xyz, atol=1e-6)
    assert np.isnan(tracks.at(np.array([[639.0, 479.0]]))).all()
    near = xy[:1] + [1.5, -1.0]
    beside = tracks.at(near)[0] @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    assert beside[2] == pytest.approx(4.0)  # all points are 4 deep
    np.testing.assert_allclose(np.asarray(lens.img_from_cam(beside[None])), near, atol=1e-4)


def test_no_track_says_nothing() -> None:
    lens = pycolmap.Camera(model="SIMPLE_PINHOLE", width=8, height=8, params=[8.0, 4, 4])
    none = TrackPoints(lens, np.eye(4), np.zeros((0, 2)), np.zeros((0, 3)), radius_px=5.0)
    assert np.isnan(none.at(np.array([[1.0, 2.0]]))).all()


# -- pose ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_pose_and_focal_length_from_exact_points(known: bool) -> None:
    camera = a_camera()
    K = camera.K.copy()
    if not known:
        K = np.array([[505.0, 0, 320], [0, 505, 240], [0, 0, 1]])
        camera = Camera(K, camera.cam_from_world, 480, 640)
    xy, xyz = points_before(camera, 80)
    xyz[:20] += 1.0  # outliers
    solved = solve_pose(xy, xyz, (480, 640), K if known else None)
    np.testing.assert_allclose(solved.estimate.cam_from_world, camera.cam_from_world, atol=1e-5)
    np.testing.assert_allclose(solved.estimate.K, K, rtol=1e-5)
    assert not solved.estimate.inliers[:20].any()
    assert solved.focal == ("given" if known else "estimated")
    assert solved.confidence == confidence_of(occupied_cells(xy[20:], (480, 640)))


def test_agreement_by_chance_is_no_pose() -> None:
    """Thousands of wrong matches always bring some together; what is right stands out."""
    camera = a_camera()
    rng = np.random.default_rng(5)
    xy, xyz = points_before(camera, 4000)
    wrong = rng.uniform([0, 0], [640, 480], xy.shape)
    solved = solve_pose(wrong, xyz, (480, 640), camera.K, min_inliers=4)
    assert not solved.estimate and "no more than chance would make" in solved.estimate.reason
    assert solved.covariance is None and solved.confidence == 0
    wrong[:150] = xy[:150]
    solved = solve_pose(wrong, xyz, (480, 640), camera.K)
    np.testing.assert_allclose(solved.estimate.cam_from_world, camera.cam_from_world, atol=1e-2)


def test_confidence_counts_cells_not_points() -> None:
    xy = np.array([[1.0, 1.0], [2.0, 2.0], [41.0, 1.0], [639.9, 479.9], [640.0, 480.0]])
    assert occupied_cells(xy, (480, 640)) == 3
    assert confidence_of(16) == 0.5


def test_covariance_is_that_of_repeated_noise() -> None:
    camera = a_camera()
    xy, xyz = points_before(camera, 60)
    cells = occupied_cells(xy, (480, 640))
    moves, claimed = [], []
    for seed in range(60):
        noisy = xy + np.random.default_rng(seed).normal(0, 0.5, xy.shape)
        solved = solve_pose(noisy, xyz, (480, 640), camera.K)
        difference = solved.estimate.cam_from_world @ np.linalg.inv(camera.cam_from_world)
        moves.append(np.r_[Rotation.from_matrix(difference[:3, :3]).as_rotvec(), difference[:3, 3]])
        assert solved.covariance is not None
        claimed.append(solved.covariance * cells / len(xy))
    observed = np.cov(np.array(moves).T)
    ratio = np.sqrt(np.diag(observed) / np.diag(np.mean(claimed, axis=0)))
    assert np.all((ratio > 0.7) & (ratio < 1.4))  # 60 draws: standard deviations to about 10 %


# -- maps ----------------------------------------------------------------------------------------


def test_a_saved_scene_needs_no_photos(
    plane_scene: Scene, tmp_path: Path, model: TwoViewModel
) -> None:
    plane_scene.save(tmp_path / "map" / "scene.npz")
    query = tmp_path / "query.jpg"
    shutil.copy(plane_scene.views[1].path or "", query)
    for view in plane_scene.views:
        assert view.path is not None
        view.path.unlink()
    truth = plane_scene.cameras[1]
    assert truth is not None
    found = weav3r.localize(query, tmp_path / "map", model, K=truth.K, size=64)
    assert found and "photo_1.jpg" in found.references
    assert found.center is not None
    np.testing.assert_allclose(found.center, truth.center, atol=0.2)  # 4 from the plane
    assert found.camera is not None and found.camera.width == 256
    assert found.num_inliers > 100 and found.position_sigma < 0.2
    assert "photo" not in found.summary() and found.summary().startswith("query.jpg: at (")


def test_many_queries_do_not_disturb_each_other(
    plane_scene: Scene, tmp_path: Path, model: TwoViewModel
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    paths = [plane_scene.views[k].path for k in (0, 3)]
    assert paths[0] is not None and paths[1] is not None
    known = {v.name: {"K": v.camera.K} for v in plane_scene.views if v.camera is not None}
    options: dict[str, Any] = {"known": known, "size": SIZE}
    answers = weav3r.localize([paths[0], broken, paths[1]], plane_scene, model, **options)
    assert [bool(a) for a in answers] == [True, False, True]
    assert "broken.jpg" in answers[1].reason
    alone = weav3r.localize(paths[1], plane_scene, model, **options)
    assert alone.cam_from_world is not None
    np.testing.assert_array_equal(alone.cam_from_world, answers[2].cam_from_world)


def test_focal_length_is_estimated_when_nothing_says_it(
    plane_scene: Scene, model: TwoViewModel
) -> None:
    path = plane_scene.views[0].path
    assert path is not None
    found = weav3r.localize(path, plane_scene, model, size=SIZE)
    assert found.focal in ("estimated", "unknown")  # a plane may leave it open
    given = weav3r.localize(path, plane_scene, model, size=SIZE, focal_px=231.0)
    assert given.focal == "given" and given.K is not None and given.K[0, 0] == 231


def test_a_query_that_shows_something_else_is_refused_with_a_reason(
    plane_scene: Scene, model: TwoViewModel
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 256, 3), dtype=np.uint8)
    options = LocalizerOptions(min_inliers=200)
    found = weav3r.localize(noise, plane_scene, model, size=SIZE, options=options, focal_px=230.0)
    assert not found and found.reason and found.confidence == 0
    assert "not localised" in found.summary()


def test_colmap_models_are_maps(plane_scene: Scene, tmp_path: Path, model: TwoViewModel) -> None:
    folder = tmp_path / "model"
    plane_scene.save(folder, format="colmap", copy_images=True)
    database = open_database(folder)
    assert len(database) == 4 and not database.metric
    photo, truth = database.photos[0], plane_scene.cameras[0]
    assert truth is not None
    points = photo.points.at(np.array([[60.0, 60.0], [128.0, 100.0]]))
    np.testing.assert_allclose(truth.project(points)[0], [[60, 60], [128, 100]], atol=1e-6)
    normal = np.array([-0.15, 0.1, 1.0])
    np.testing.assert_allclose(points @ normal, 4.0, atol=0.03)  # near points of the same plane
    query = folder / "images" / "photo_0.jpg"
    found = weav3r.localize(query, folder, model, K=truth.K, size=SIZE)
    assert found.center is not None
    np.testing.assert_allclose(found.center, truth.center, atol=0.1)


def test_missing_photos_of_a_map_are_named(plane_scene: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "far" / "model"
    plane_scene.save(folder, format="colmap", copy_images=True)
    shutil.move(folder / "images", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"photos of .* were not found: photo_0.jpg"):
        open_database(folder)
    assert len(open_database(folder, tmp_path / "elsewhere")) == 4
    (tmp_path / "elsewhere" / "photo_3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"has photo_3.jpg, which is not in .*--photos"):
        open_database(folder, tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="is no folder of photos"):
        open_database(folder, tmp_path / "nowhere")


def test_moved_photos_of_a_scene_matter_only_at_another_size(
    plane_scene: Scene, tmp_path: Path
) -> None:
    photo = database_from_scene(plane_scene, tmp_path).photos[0]
    assert photo.view(64, 16).size == (48, 64)
    gone = DatabasePhoto("x.jpg", None, photo.points)
    with pytest.raises(FileNotFoundError, match=r"photo x.jpg of the map .*--photos"):
        gone.view(64, 16)


def test_what_is_no_map_is_refused(plane_scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no map at"):
        open_database(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is no map: looked for scene.npz"):
        open_database(tmp_path / "empty")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "images.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match="is no readable COLMAP model"):
        open_database(tmp_path / "damaged")
    with pytest.raises(ValueError, match="holds no camera"):
        database_from_scene(Scene([v for v in plane_scene.views if v.camera is None]))
    with pytest.raises(ValueError, match="component 3 does not exist"):
        database_from_scene(plane_scene, component=3)
    with pytest.raises(ValueError, match="holds no posed photo"):
        Database(())


def test_wrong_arguments_are_named(plane_scene: Scene, tmp_path: Path, model: TwoViewModel) -> None:
    with pytest.raises(ValueError, match="is a folder; give a list of photos"):
        weav3r.localize(tmp_path, plane_scene, model)
    with pytest.raises(FileNotFoundError, match="no such file"):
        weav3r.localize(tmp_path / "q.jpg", plane_scene, model)
    with pytest.raises(ValueError, match="give one of known, K and focal_px"):
        path = plane_scene.views[0].path
        weav3r.localize(path or "", plane_scene, model, K=np.eye(3), focal_px=3.0)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        LocalizerOptions(top_k=0)
    with pytest.raises(ValueError, match="max_error_px must be positive"):
        LocalizerOptions(max_error_px=0.0)


def test_retrieval_finds_the_photo_itself(plane_scene: Scene, model: TwoViewModel) -> None:
    localizer = Localizer(plane_scene, model, size=SIZE)
    view = localizer.database.photos[2].view(SIZE, 16)
    (best, similarity), *others = localizer.similar(view)
    assert best == 2 and similarity == pytest.approx(1.0, abs=1e-5)
    assert all(s <= similarity for _, s in others)
    assert localizer.description["top_k"] == 8


# -- map-free ------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_map_free_against_one_photo(plane_scene: Scene, model: TwoViewModel, known: bool) -> None:
    paths = [plane_scene.views[k].path for k in (0, 3)]
    assert paths[0] is not None and paths[1] is not None
    focal_px = 231.0 if known else None
    found = weav3r.localize(paths[1], paths[0], model, size=SIZE, focal_px=focal_px)
    assert found.references == ("photo_0.jpg",) and found.scale == "relative"
    assert bool(found) != bool(found.reason)
    if found:
        assert found.covariance is not None and found.covariance.shape == (6, 6)
        assert 0 < found.confidence < 1
        assert np.linalg.eigvalsh(found.covariance).min() >= 0


# -- files and the command -----------------------------------------------------------------------


def test_poses_come_back_from_a_file(tmp_path: Path) -> None:
    pose = a_camera().cam_from_world
    found = [
        Localization("a.jpg", pose, a_camera().K, (480, 640)),
        Localization("b.jpg", reason="too dark"),
    ]
    back = read_poses(write_poses(tmp_path / "new" / "poses.txt", found))
    assert list(back) == ["a.jpg"]
    np.testing.assert_allclose(back["a.jpg"], pose, atol=1e-10)
    content = json.loads(write_poses(tmp_path / "poses.json", found).read_text())
    assert [one["reason"] for one in content] == ["", "too dark"]
    np.testing.assert_allclose(content[0]["cam_from_world"], pose)
    with pytest.raises(ValueError, match=r"use .txt or .json"):
        write_poses(tmp_path / "poses.csv", found)
    with pytest.raises(ValueError, match="has a space"):
        write_poses(tmp_path / "poses.txt", [Localization("a b.jpg", pose)])
    (tmp_path / "bad.txt").write_text("# fine\n\na.jpg 1 0 0 0 1 2\n")
    with pytest.raises(ValueError, match=r"bad.txt:3: expected name qw qx qy qz tx ty tz"):
        read_poses(tmp_path / "bad.txt")


def test_command(plane_scene: Scene, tmp_path: Path, run) -> None:
    plane_scene.save(tmp_path / "scene.npz")
    photo, truth = plane_scene.views[0].path, plane_scene.cameras[0]
    assert truth is not None
    out = tmp_path / "poses.txt"
    arguments = ("--scene", tmp_path / "scene.npz", "--size", SIZE, "--focal", 231, "-o", out)
    outcome = run("localize", photo, *arguments)
    assert outcome.status == 0, outcome.err
    assert "1 of 1 photos localised" in outcome.out and "photo_0.jpg: at (" in outcome.out
    assert list(read_poses(out)) == ["photo_0.jpg"]
    wrong = run("localize", photo, "--scene", tmp_path / "none")
    assert wrong.status == 2 and "--scene" in wrong.err
    wrong = run("localize", photo, "--scene", tmp_path / "scene.npz", "-o", "poses.csv")
    assert wrong.status == 2 and ".txt or .json" in wrong.err
