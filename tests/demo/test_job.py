"""What the button of the page does and what it leaves, without the page."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

import weav3r
from weav3r.demo.job import JobOptions, JobResult, run_job
from weav3r.demo.results import CHECKPOINT, Format, Results, ResultsCache, ViewOptions, early_map
from weav3r.inference.observer import EarlyDepth
from weav3r.inference.scene import Scene
from weav3r.models import TwoViewModel, load_model

SIZE = 96


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return load_model("weav3r-small", device="cpu")


@pytest.fixture(scope="module")
def photos() -> list[Path]:
    return sorted(weav3r.example_photos()["toy"].iterdir())


@pytest.fixture(scope="module")
def run(
    model: TwoViewModel, photos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[JobResult, Path]:
    """One run on a pair of photos, a mask, a mask of no photo, and a file that is neither."""
    uploads, folder = tmp_path_factory.mktemp("uploads"), tmp_path_factory.mktemp("run")
    broken, masks = uploads / "note.jpg", [uploads / "toy_1_mask.png", uploads / "other.png"]
    broken.write_text("no photo")
    mask = np.full((460, 608), 255, np.uint8)
    mask[:, :100] = 0
    for file in masks:
        Image.fromarray(mask).save(file)
    stages: list[str] = []
    shown: list[EarlyDepth] = []
    result = run_job(
        [*photos, broken],
        folder,
        model,
        JobOptions(size=SIZE, focal_px=460, masks=masks),
        progress=lambda stage, done, total: stages.append(stage),
        observer=shown.append,
    )
    (folder / CHECKPOINT).write_text("weav3r-small")
    assert {"encode", "depth"} <= set(stages)
    assert [depth.final for depth in shown] == [False, False, True, True]
    return result, folder


@pytest.fixture
def results(run: tuple[JobResult, Path]) -> Results:
    return Results(run[1])


def test_the_scene_knows_what_was_said(run: tuple[JobResult, Path], results: Results) -> None:
    result, _ = run
    assert (result.placed, result.photos) == (2, 2)
    assert any("note.jpg" in note for note in result.notes)
    assert any("other.png belongs to no photo" in note for note in result.notes)
    scene = results.scene
    assert scene.images == ["toy_1.jpg", "toy_2.jpg"]
    assert [camera.K[0, 0] for camera in scene.cameras if camera] == [460, 460]
    assert np.isnan(scene.depth(0)[:, :9]).all() and np.isfinite(scene.depth(1)[:, :9]).any()


def test_the_view_follows_the_filters(results: Results) -> None:
    plain = ViewOptions(consistent=False, max_distance=None, min_confidence=1.0)
    everything = results.view(plain)
    assert everything.kept == everything.total == everything.shown
    strict = results.view(replace(plain, min_confidence=5.0, max_distance=1.2))
    assert strict.kept < everything.kept and strict.total == everything.total
    assert results.view(plain).file == everything.file != strict.file
    scene = trimesh.load_scene(str(strict.file))
    (points,) = [g for name, g in scene.geometry.items() if name == "points"]
    assert len(points.vertices) == 4 * strict.shown
    for changed in ({"drawing": "points"}, {"drawing": "surfaces"}, {"color": "source"}):
        assert results.view(replace(strict_options(), **changed)).file.stat().st_size > 1000
    assert len(list(results.folder.glob("view-*.glb"))) <= 4
    filtered = results.view(replace(plain, consistent=True, sky=True, max_error=0.05))
    assert filtered.kept < everything.kept


def strict_options() -> ViewOptions:
    return ViewOptions(min_confidence=2.0, point_size=2.0)


@pytest.mark.parametrize("kind", ["depth", "confidence", "normals"])
def test_maps_lie_beside_their_photos(results: Results, kind) -> None:
    maps = results.maps(kind)
    assert [name for _, name in maps] == results.scene.images
    for file, _ in maps:
        with Image.open(file) as picture:
            assert picture.size == (2 * SIZE + 6, 80)


def test_early_maps_have_names_of_their_own(tmp_path: Path) -> None:
    flat = np.ones((8, 9), np.float32)
    early = EarlyDepth(3, "a.jpg", np.zeros((8, 9, 3), np.uint8), flat, flat, final=False)
    assert early_map(early, tmp_path) != early_map(replace(early, final=True), tmp_path)


def test_two_photos_are_matched_once(results: Results, model: TwoViewModel) -> None:
    found = results.match("toy_1.jpg", "toy_2.jpg", model)
    again = results.match("toy_1.jpg", "toy_2.jpg", model)
    assert np.array_equal(found.xy1, again.xy1) and found.fits.sum() > 50
    x, y = results.point_in_left(101, 80)
    there = found.find(x, y)
    assert there is not None
    assert "in the right photo" in results.point_text(found, (x, y), there)
    with Image.open(results.matches_picture(found, ((x, y), there[:2]))) as picture:
        assert picture.size == (2 * (2 * SIZE + 8), 160)
    with pytest.raises(ValueError, match="choose two different photos"):
        results.match("toy_1.jpg", "toy_1.jpg", model)
    with pytest.raises(KeyError, match="no image"):
        results.match("toy_1.jpg", "../scene.npz", model)


FORMATS: list[Format] = ["glb", "ply", "npz", "colmap", "transforms", "nerfstudio", "report"]


@pytest.fixture(scope="module")
def downloads(run: tuple[JobResult, Path]) -> dict[str, Path]:
    results = Results(run[1])
    return {format: results.download(format, ViewOptions()) for format in FORMATS}


def test_downloads_are_complete(downloads: dict[str, Path], run: tuple[JobResult, Path]) -> None:
    assert [file.name for file in downloads.values()] == [
        *("scene.glb", "scene.ply", "scene.npz", "colmap.zip"),
        *("transforms.json", "nerfstudio.zip", "report.html"),
    ]
    assert all(file.is_relative_to(run[1]) for file in downloads.values())
    colmap = set(zipfile.ZipFile(downloads["colmap"]).namelist())
    assert {"sparse/0/cameras.bin", "images/toy_1.jpg", "images/toy_2.jpg"} <= colmap
    frames = json.loads(downloads["transforms"].read_text())["frames"]
    with zipfile.ZipFile(downloads["nerfstudio"]) as nerfstudio:
        assert {frame["file_path"] for frame in frames} <= set(nerfstudio.namelist())
    assert Scene.load(downloads["npz"]).images == ["toy_1.jpg", "toy_2.jpg"]


def test_points_in_the_files_are_those_that_are_shown(results: Results) -> None:
    options = strict_options()
    kept = results.view(options).kept
    cloud = trimesh.load(results.download("ply", options))
    assert len(cloud.vertices) == kept  # type: ignore[union-attr]
    glb = trimesh.load_scene(str(results.download("glb", options)))
    assert len(glb.geometry["points"].vertices) == kept


def test_an_unknown_download_is_an_error(results: Results) -> None:
    with pytest.raises(ValueError, match="there is no download 'exe'"):
        results.download("exe", ViewOptions())  # type: ignore[arg-type]


def test_no_path_of_the_server_is_in_what_leaves_it(
    downloads: dict[str, Path], run: tuple[JobResult, Path]
) -> None:
    result, folder = run
    secret = str(folder).encode()
    assert all(str(folder) not in note for note in result.notes)
    with np.load(downloads["npz"]) as archive:
        assert archive["paths"].tolist() == ["", ""]
        assert str(folder) not in str(archive["meta"])
    for file in downloads.values():
        assert secret not in file.read_bytes()
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                assert all(secret not in archive.read(name) for name in archive.namelist())


def test_unusable_photos_are_an_error_without_paths(model: TwoViewModel, tmp_path: Path) -> None:
    broken, folder = tmp_path / "note.jpg", tmp_path / "run"
    broken.write_text("no photo")
    folder.mkdir()
    with pytest.raises(ValueError, match=r"note\.jpg is not a photo") as error:
        run_job([broken], folder, model, JobOptions(size=SIZE))
    assert str(tmp_path) not in str(error.value)


def test_what_the_library_refuses_has_no_path_either(
    model: TwoViewModel, photos: list[Path], tmp_path: Path
) -> None:
    small = tmp_path / "toy_1.png"
    Image.new("L", (10, 10), 255).save(small)
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"toy_1\.jpg") as error:
        run_job(photos, tmp_path / "run", model, JobOptions(size=SIZE, masks=[small]))
    assert str(tmp_path) not in str(error.value)


def test_the_last_results_stay_in_memory(run: tuple[JobResult, Path], tmp_path: Path) -> None:
    cache = ResultsCache(count=1)
    first = cache.get(run[1])
    assert first is not None and cache.get(run[1]) is first
    assert cache.get(tmp_path) is None and cache.get(run[1]) is first
    cache.forget(run[1])
    assert cache.get(run[1]) is not first
