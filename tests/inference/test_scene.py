"""The scene: geometry in original pixels, selection of points, scale, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from weav3r.inference.report import SceneReport
from weav3r.inference.scene import Scene, Tracks

NORMAL, OFFSET = np.array([-0.15, 0.1, 1.0]), 4.0


def on_plane(points, atol=2e-6):
    np.testing.assert_allclose(points @ NORMAL, OFFSET, atol=atol * 10)  # float32 depth


def test_lists_what_it_holds(plane_scene):
    scene = plane_scene
    assert len(scene) == 5
    assert scene.images == [f"photo_{k}.jpg" for k in range(5)]
    assert scene.cameras[4] is None and scene.cameras[0].height == 200
    assert scene.components == [[0, 1, 2, 3]]
    assert repr(scene) == "Scene(4 of 5 images placed, scale='relative')"
    assert scene.index("photo_2.jpg") == scene.index(-3) == 2


def test_points_lie_on_the_surface_at_both_sizes(plane_scene):
    for k in range(4):
        points = plane_scene.points(k)
        assert points.shape == (48, 64, 3) and points.dtype == np.float32
        keep = np.isfinite(points).all(-1)
        assert (keep == plane_scene.valid(k)).all() and not keep[0, :5].any()
        on_plane(points[keep])
        large = plane_scene.points(k, original=True)
        assert large.shape == (200, 256, 3)
        assert np.isnan(large[:4]).all()  # rows that the network did not see
        keep = np.isfinite(large).all(-1)
        on_plane(large[keep], atol=5e-3)  # depth is repeated over 4x4 pixels of a slanted plane


def test_points_of_the_original_project_onto_their_own_pixels(plane_scene):
    points = plane_scene.points(1, original=True)
    rows, columns = np.nonzero(np.isfinite(points).all(-1))
    xy, _ = plane_scene.cameras[1].project(points[rows, columns])
    np.testing.assert_allclose(xy, np.stack([columns, rows], -1) + 0.5, atol=1e-3)


def test_maps_at_original_size(plane_scene):
    assert plane_scene.depth(0).dtype == np.float32
    assert np.isnan(plane_scene.depth(0)[0, :5]).all()
    assert plane_scene.depth(0, original=True).shape == (200, 256)
    confidence = plane_scene.confidence(0, original=True)
    assert confidence.shape == (200, 256)
    assert 1 <= np.nanmin(confidence) and np.nanmax(confidence) <= 5
    colors = plane_scene.colors("photo_0.jpg", original=True)
    assert colors.shape == (200, 256, 3) and colors.dtype == np.uint8
    assert (plane_scene.colors(0) == plane_scene.views[0].rgb).all()


def test_results_are_copies(plane_scene):
    for get in (plane_scene.depth, plane_scene.confidence, plane_scene.colors):
        before = get(0)
        get(0)[:] = 0
        np.testing.assert_array_equal(get(0), before)


def test_confidence_threshold(plane_scene):
    high = plane_scene.points(0, min_confidence=3.0)
    assert np.isnan(high[:, :31]).all() and np.isfinite(high[:, 33:]).all()
    scene = replace(plane_scene, min_confidence=3.0)
    np.testing.assert_array_equal(scene.points(0), high)
    assert len(scene.point_cloud()) < len(scene.point_cloud(min_confidence=1.0))


def test_point_cloud_gathers_the_placed_images(plane_scene):
    cloud = plane_scene.point_cloud()
    assert len(cloud) == 4 * (48 * 64 - 5)
    assert cloud.points.dtype == np.float32 and cloud.colors.dtype == np.uint8
    assert set(cloud.view) == {0, 1, 2, 3}
    on_plane(cloud.points)
    expected = (127 + 100 * np.sin(2 * cloud.points)).astype(int)
    assert np.abs(cloud.colors - expected).max() <= 1


def test_point_budget_is_exact_even_and_repeatable(plane_scene):
    cloud = plane_scene.point_cloud(max_points=1000)
    assert len(cloud) == 1000
    assert np.bincount(cloud.view, minlength=4).min() > 200
    again = plane_scene.point_cloud(max_points=1000)
    np.testing.assert_array_equal(cloud.points, again.points)
    everything = plane_scene.point_cloud()
    known = {tuple(row) for row in np.c_[everything.points, everything.colors].tolist()}
    assert all(tuple(row) in known for row in np.c_[cloud.points, cloud.colors].tolist())
    assert len(plane_scene.point_cloud(max_points=10**6)) == len(everything)


def test_voxels(plane_scene):
    cloud = plane_scene.point_cloud(voxel=0.25)
    cells = np.floor(plane_scene.point_cloud().points / 0.25)
    assert len(cloud) == len(np.unique(cells, axis=0))
    on_plane(cloud.points, atol=1e-5)
    assert len(plane_scene.point_cloud(voxel=0.25, max_points=20)) == 20
    empty = plane_scene.point_cloud(voxel=0.25, min_confidence=99)
    assert len(empty) == 0


def test_masks(plane_scene):
    mask = np.zeros((48, 64), dtype=bool)
    mask[10:20, 10:20] = True
    cloud = plane_scene.point_cloud(masks=[mask, None, ~mask & False, mask, None])
    assert np.bincount(cloud.view, minlength=4).tolist() == [100, 48 * 64 - 5, 0, 100]
    with pytest.raises(ValueError, match=r"mask 1 must have the network size \(48, 64\)"):
        plane_scene.point_cloud(masks=[None, mask[:5], None, None, None])


def test_components_are_never_mixed(plane_scene):
    scene = replace(plane_scene, components=[[0, 3], [1, 2]])
    assert set(scene.point_cloud().view) == {0, 3}
    assert set(scene.point_cloud(component=1).view) == {1, 2}
    assert "2 components" in repr(scene)
    with pytest.raises(ValueError, match="component 2 does not exist; the scene has 2"):
        scene.point_cloud(component=2)


def test_scaled(plane_scene):
    tracks = Tracks(
        np.ones((1, 3)), np.zeros(1, int), np.zeros(1, int), np.ones((1, 2)), np.ones(1)
    )
    scene = replace(plane_scene, tracks=tracks)
    twice = scene.scaled(2.0)
    assert (scene.scale, twice.scale, scene.scaled(2.0, metric=False).scale) == (
        "relative",
        "metric",
        "relative",
    )
    np.testing.assert_allclose(twice.points(2), 2 * scene.points(2), rtol=1e-5)
    np.testing.assert_allclose(twice.cameras[3].center, 2 * scene.cameras[3].center)
    np.testing.assert_array_equal(twice.tracks.points, 2)
    assert twice.extent() == pytest.approx(2 * scene.extent(), rel=1e-3)
    with pytest.raises(ValueError, match="positive and finite, got 0"):
        scene.scaled(0)


def test_extent_covers_cameras_and_points(plane_scene):
    assert 3 < plane_scene.extent() < 12


def test_a_scene_without_cameras(plane_scene):
    scene = Scene(views=[replace(v, camera=None) for v in plane_scene.views])
    assert scene.components == []
    with pytest.raises(ValueError, match="no image could be placed"):
        scene.point_cloud()
    with pytest.raises(ValueError, match="photo_1.jpg has no camera"):
        scene.points(1)
    assert np.isfinite(scene.depth(1)).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(components=[[0, 1]]), "exactly once"),
        (dict(components=[[0, 1, 2, 3, 4]]), "exactly once"),
        (dict(components=[[0, 1], [1, 2, 3]]), "exactly once"),
        (dict(scale="metres"), "scale must be 'metric' or 'relative', got 'metres'"),
    ],
)
def test_inconsistent_scenes(plane_scene, change, match):
    with pytest.raises(ValueError, match=match):
        replace(plane_scene, **change)


def test_inconsistent_views(plane_scene):
    view = plane_scene.views[0]
    with pytest.raises(ValueError, match=r"photo_0.jpg: depth must have the shape \(48, 64\)"):
        replace(view, depth=view.depth[:5])
    with pytest.raises(ValueError, match="the camera is for 48x64 pixels, the original image has"):
        replace(view, camera=view.camera.resized(48, 64))


def test_unknown_images(plane_scene):
    with pytest.raises(IndexError, match="image 5 does not exist; the scene has 5"):
        plane_scene.depth(5)
    with pytest.raises(KeyError, match="no image 'x.jpg' in this scene"):
        plane_scene.depth("x.jpg")


@pytest.mark.parametrize(
    ("options", "match"),
    [(dict(max_points=0), "max_points must be at least 1"), (dict(voxel=0.0), "positive length")],
)
def test_wrong_selections(plane_scene, options, match):
    with pytest.raises(ValueError, match=match):
        plane_scene.point_cloud(**options)


def test_report_survives_json(plane_scene):
    report = plane_scene.report
    again = SceneReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert report["model"] == dict(report)["model"] == "weav3r-small"
    with pytest.raises(KeyError, match="no such entry: 'speed'"):
        report["speed"]
    assert SceneReport.from_dict({"future": 1}) == SceneReport()


def test_report_summary_names_everything(plane_scene):
    text = str(plane_scene.report)
    for part in (
        "4 of 5 images placed, from 3 pairs",
        "not placed (1):\n  photo_4.jpg",
        "skipped files (1):\n  x.jpg: is an empty file",
        "notes on files (1):\n  photo_0.jpg: has 2 frames",
        "photo_3.jpg - photo_4.jpg: only 3 of 90 matches fit",
        "few matches",
        "encode 1.2 s, align 0.5 s; in all 1.8 s",
        "model: weav3r-small",
    ):
        assert part in text
    assert "... and 5 more" in replace(plane_scene.report, warnings=["x"] * 15).summary()
    assert "2 separate groups" in replace(plane_scene.report, components=[["a"], ["b"]]).summary()
