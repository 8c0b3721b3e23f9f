"""Localisation metrics on cases computed by hand, and the runner on a map with known matches."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from weav3r.evaluation.localization import (
    NOT_LOCALIZED,
    LocalizationError,
    localization_error,
    precision_and_auc,
    summarise_localization,
    virtual_correspondence_error_px,
    virtual_points,
)
from weav3r.evaluation.localization_report import LocalizationReport
from weav3r.evaluation.localization_runner import LocalizationSettings, evaluate_localization
from weav3r.evaluation.localization_sets import (
    LocalizationQuery,
    LocalizationSet,
    localizable,
    split_for_localization,
)
from weav3r.evaluation.match_metrics import PairMatches
from weav3r.evaluation.protocol import check_same_protocol, compare_with_earlier
from weav3r.evaluation.readers import read_set
from weav3r.geometry.camera import Camera
from weav3r.inference.localization.database import Database, DatabasePhoto
from weav3r.inference.localization.pixel_points import DepthPoints

QUICK = LocalizationSettings(top_k=2, bootstrap_resamples=20)
K = np.array([[100.0, 0, 64], [0, 100.0, 48], [0, 0, 1]])
SIZE = (96, 128)


def moved(x: float = 0.0, turn_deg: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", turn_deg, degrees=True).as_matrix()
    pose[0, 3] = -x
    return pose


# -- metrics -------------------------------------------------------------------------------------


def test_errors_of_a_known_motion() -> None:
    error = localization_error(moved(0.3, 4.0) @ moved(0.1), moved(0.1))
    assert error.rotation_deg == pytest.approx(4.0)
    assert error.position == pytest.approx(0.3)
    assert localization_error(None, np.eye(4)) == NOT_LOCALIZED
    assert localization_error(np.ones((4, 4)), np.eye(4)) == NOT_LOCALIZED


def test_thresholds_are_strict_and_failures_count() -> None:
    errors = [LocalizationError(0.25, 1.0), LocalizationError(0.2, 1.9), NOT_LOCALIZED]
    summary = summarise_localization(errors, ((0.25, 2.0), (0.3, 2.0)))
    assert summary.recall == {(0.25, 2.0): 1 / 3, (0.3, 2.0): 2 / 3}
    assert (summary.queries, summary.failed, summary.median_position) == (3, 1, 0.25)
    assert summarise_localization(errors[1:]).median_position == float("inf")
    assert np.isnan(summarise_localization([]).median_rotation_deg)
    assert "acc@0.25m,2deg=33.333" in summary.line("x")


def test_virtual_correspondences_of_a_sideways_motion() -> None:
    """Moved by t, a point at depth z goes f t / z pixels to the side."""
    grid = virtual_points()
    assert grid.shape == (196, 3)
    np.testing.assert_allclose([grid[:, 2].min(), grid[:, 2].max()], [1.8, 3.6])
    wide = np.array([[400.0, 0, 2000], [0, 400, 2000], [0, 0, 1]])  # nothing leaves the image
    error = virtual_correspondence_error_px(
        moved(0.02), np.eye(4), wide, (4000, 4000), reference_size=None
    )
    assert error == pytest.approx(np.mean(400 * 0.02 / grid[:, 2]))
    scaled = virtual_correspondence_error_px(moved(0.02), np.eye(4), wide, (4000, 4000))
    assert scaled == pytest.approx(error * 720 / 4000)
    assert virtual_correspondence_error_px(None, np.eye(4), K, SIZE) == float("inf")
    behind = virtual_correspondence_error_px(
        moved(turn_deg=180.0), np.eye(4), K, SIZE, reference_size=None
    )
    assert behind == pytest.approx(np.hypot(*SIZE))
    assert virtual_correspondence_error_px(np.eye(4), np.eye(4), K, SIZE) == 0


def test_average_precision_by_hand() -> None:
    # sorted by confidence: right, wrong, right, failed
    correct, confidence = [True, False, True, False], [0.9, 0.8, 0.7, -np.inf]
    share, area = precision_and_auc(correct, confidence)
    assert share == 0.5
    assert area == pytest.approx(0.25 * 1.0 + 0.25 * 2 / 3)
    assert precision_and_auc([True, False], [1.0, 1.0]) == (0.5, pytest.approx(0.25))
    assert np.isnan(precision_and_auc([], [])).all()
    with pytest.raises(ValueError, match="must pair up"):
        precision_and_auc([True], [1.0, 2.0])


# -- runner --------------------------------------------------------------------------------------


class Map:
    """Cameras that slide along a slanted plane, with exact matches between any two of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cameras: dict[str, Camera] = {}
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        self.xy = np.stack([columns, rows], -1)
        photos = []
        for number in range(4):
            path = folder / f"{number}.jpg"
            path.write_bytes(bytes([number]))
            camera = Camera(K, moved(0.2 * number, 3.0 * number), *SIZE)
            self.cameras[path.name] = camera
            points = DepthPoints(camera, self.depth(camera))
            photos.append(DatabasePhoto(path.name, path, points))
        asked = "2.jpg"
        query = LocalizationQuery(
            asked, folder / asked, SIZE, K, self.cameras[asked].cam_from_world
        )
        self.set = LocalizationSet(
            name="slide",
            folder=folder,
            database=Database(tuple(p for p in photos if p.name != asked), metric=True),
            queries=(query,),
            protocol="three photos, one query",
            data_files=tuple(sorted(folder.glob("*.jpg"))),
        )

    def depth(self, camera: Camera) -> np.ndarray:
        rays = camera.unproject(self.xy, np.ones(SIZE)) - camera.center
        normal = np.array([0.1, 0.2, 1.0])
        return (4.0 - camera.center @ normal) / (rays @ normal)

    def __call__(self, path1: Path, path2: Path) -> PairMatches:
        first, second = self.cameras[path1.name], self.cameras[path2.name]
        xy1 = self.xy[::8, ::8].reshape(-1, 2)
        points = DepthPoints(first, self.depth(first)).at(xy1)
        return PairMatches(xy1, second.project(points)[0])


class InOrder:
    description = {"ranks": "in order"}

    def rank(self, queries, database, count):
        return [list(range(count)) for _ in queries]


def broken(path1, path2):
    raise RuntimeError("out of luck")


def nothing(path1, path2):
    return PairMatches(np.zeros((0, 2)), np.zeros((0, 2)))


def run(tmp_path: Path, settings: LocalizationSettings = QUICK, **methods) -> LocalizationReport:
    world = Map(tmp_path)
    return evaluate_localization([world.set], methods or {"true": world}, InOrder(), settings)


def test_true_matches_find_the_query_and_failures_have_reasons(tmp_path: Path) -> None:
    world = Map(tmp_path)
    seen = []
    report = evaluate_localization(
        [world.set],
        {"true": world, "broken": broken, "nothing": nothing},
        InOrder(),
        QUICK,
        progress=seen.append,
    )
    true, bad, empty = report.records
    assert true.pose_error is not None
    assert true.pose_error.position < 1e-4 and true.pose_error.rotation_deg < 1e-3
    assert true.references == ("0.jpg", "1.jpg") and true.inliers > 100
    assert bad.error is not None and "0.jpg: RuntimeError: out of luck" in bad.error
    assert bad.pose_error == NOT_LOCALIZED and "0 matches with 0.jpg, 1.jpg" in bad.reason
    assert empty.error is None and empty.cam_from_world is None
    assert [s.total for s in seen] == [3, 3, 3]
    by_method = {group.method: group for group in report.sets}
    assert by_method["true"].summary.recall[0.05, 5.0] == 1
    assert by_method["broken"].summary.failed == 1 and by_method["broken"].errors == 1
    assert by_method["true"].intervals[5.0, 10.0].low == 1


def test_focal_length_may_be_unknown(tmp_path: Path) -> None:
    settings = LocalizationSettings(top_k=3, known_intrinsics=False, bootstrap_resamples=0)
    report = run(tmp_path, settings)
    assert report.records[0].references == ("0.jpg", "1.jpg", "3.jpg")
    assert "unknown focal" in report.to_markdown()
    assert report.sets[0].intervals == {}


def test_files_say_everything(tmp_path: Path) -> None:
    report = run(tmp_path)
    paths = report.write(tmp_path / "out")
    content = json.loads(paths[0].read_text())
    assert content["retrieval"]["ranks"] == "in order"
    assert content["settings"]["top_k"] == 2 and len(content["data_sha256"]) == 4
    assert "slide: three photos, one query" in paths[1].read_text()
    with open(paths[2], newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["query"] == "2.jpg" and float(row["position_error"]) < 1e-4


def test_a_rerun_gives_the_same_numbers(tmp_path: Path) -> None:
    first, second = run(tmp_path), run(tmp_path)
    (a,), (b,) = first.records, second.records
    assert a.cam_from_world is not None and b.cam_from_world is not None
    np.testing.assert_array_equal(a.cam_from_world, b.cam_from_world)
    assert first.sets[0].intervals == second.sets[0].intervals


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to localise"):
        evaluate_localization([], {"broken": broken}, InOrder())


def test_listed_references_and_secret_poses(tmp_path: Path) -> None:
    world = Map(tmp_path)
    query = LocalizationQuery("2.jpg", tmp_path / "2.jpg", SIZE, K, None)
    data = LocalizationSet(
        "secret",
        tmp_path,
        world.set.database,
        (query,),
        "listed",
        (),
        references={"2.jpg": ("3.jpg", "unknown.jpg", "1.jpg")},
    )
    report = evaluate_localization([data], {"true": world}, InOrder(), QUICK)
    assert report.records[0].references == ("3.jpg", "1.jpg")
    assert report.records[0].pose_error is None and report.records[0].cam_from_world is not None
    assert report.overall[0].summary.queries == 0


# -- protocols -----------------------------------------------------------------------------------


def test_runs_of_one_protocol_compare_and_others_are_refused(tmp_path: Path) -> None:
    report = run(tmp_path)
    report.write(tmp_path / "earlier")
    table = compare_with_earlier(report, tmp_path / "earlier")
    assert "| now | true |" in table and "| earlier | true |" in table
    other = run(tmp_path, LocalizationSettings(top_k=2, max_error_px=8.0, bootstrap_resamples=7))
    expected = r"different protocols.*settings.max_error_px: 8.0 against 4.0$"
    with pytest.raises(ValueError, match=expected):
        compare_with_earlier(other, tmp_path / "earlier" / "localization.json")
    unknown = run(tmp_path, LocalizationSettings(top_k=2, known_intrinsics=False))
    with pytest.raises(ValueError, match=r"settings.known_intrinsics: False against True"):
        compare_with_earlier(unknown, tmp_path / "earlier")
    two_views = tmp_path / "report.json"
    two_views.write_text('{"settings": {}}')
    with pytest.raises(ValueError, match="measures something else"):
        compare_with_earlier(report, two_views)
    with pytest.raises(FileNotFoundError, match="no earlier report at"):
        compare_with_earlier(report, tmp_path / "nowhere")


def test_other_data_is_another_protocol(tmp_path: Path) -> None:
    one = {"settings": {}, "data_sha256": {"a": "1"}, "records": []}
    with pytest.raises(ValueError, match="data a: 1 against 2"):
        check_same_protocol(one, {**one, "data_sha256": {"a": "2"}}, "these")
    check_same_protocol(one, one, "these")


# -- the plain layout ----------------------------------------------------------------------------


def test_the_plain_layout_is_cut_into_map_and_queries(eval_root: Path) -> None:
    data = read_set(eval_root, "wall").subset(["a.png", "b.png"])
    assert not localizable(data)
    with pytest.raises(ValueError, match="cannot be cut into a map and queries"):
        split_for_localization(data)
    images = {f"{number}{name}": image for number in "12" for name, image in data.images.items()}
    cut = split_for_localization(replace(data, images=images), query_every=3)
    assert [query.name for query in cut.queries] == ["b.png"]
    assert [photo.name for photo in cut.database.photos] == ["a.png", "a.png"]
    points = cut.database.photos[0].points.at(np.array([[64.0, 48.0]]))
    np.testing.assert_allclose(points, [[0, 0, 4.0]], atol=1e-6)
    assert "2 photos, 1 queries" in cut.protocol and "dense depth" in cut.protocol
