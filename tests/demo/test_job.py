"""What the button of the page does, without the page."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import weav3r
from weav3r.demo.job import JobResult, Limits, copy_photos, run_job
from weav3r.inference.scene import Scene
from weav3r.models import TwoViewModel, load_model

SIZE = 96


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return load_model("weav3r-small", device="cpu")


@pytest.fixture(scope="module")
def result(model: TwoViewModel, tmp_path_factory: pytest.TempPathFactory) -> JobResult:
    """One run on a pair of photos and a file that is none."""
    uploads, folder = tmp_path_factory.mktemp("uploads"), tmp_path_factory.mktemp("run")
    broken = uploads / "note.jpg"
    broken.write_text("no photo")
    photos = sorted(weav3r.example_photos()["toy"].iterdir())
    stages: list[tuple[str, int, int]] = []
    done = run_job(
        [*photos, broken],
        folder,
        model,
        size=SIZE,
        progress=lambda *stage: stages.append(stage),
    )
    assert {"encode", "depth"} <= {name for name, _, _ in stages}
    return done


def test_everything_is_written_into_the_folder_of_the_run(result: JobResult) -> None:
    folder = result.model.parent
    names = [file.name for file in result.downloads]
    assert names == [
        *("scene.glb", "scene.ply", "scene.npz", "transforms.json"),
        *("colmap.zip", "nerfstudio.zip"),
    ]
    for file in [*result.downloads, *(file for file, _ in result.pictures)]:
        assert file.is_relative_to(folder) and file.stat().st_size > 0
    captions = [caption for _, caption in result.pictures]
    assert captions == ["toy_1.jpg", "toy_1.jpg, depth", "toy_2.jpg", "toy_2.jpg, depth"]
    with Image.open(result.pictures[0][0]) as photo, Image.open(result.pictures[1][0]) as depth:
        assert photo.size == depth.size == (SIZE, 80)


def test_the_archives_are_complete(result: JobResult) -> None:
    downloads = {file.name: file for file in result.downloads}
    colmap = set(zipfile.ZipFile(downloads["colmap.zip"]).namelist())
    assert {"sparse/0/cameras.bin", "images/toy_1.jpg", "images/toy_2.jpg"} <= colmap
    with zipfile.ZipFile(downloads["nerfstudio.zip"]) as nerfstudio:
        held = set(nerfstudio.namelist())
        frames = json.loads(nerfstudio.read("transforms.json"))["frames"]
    assert {frame["file_path"] for frame in frames} <= held


def test_no_path_of_the_server_is_in_what_leaves_it(result: JobResult) -> None:
    folder = str(result.model.parent)
    assert "note.jpg: is not an image" in result.report
    assert folder not in result.report
    downloads = {file.name: file for file in result.downloads}
    with np.load(downloads["scene.npz"]) as archive:
        assert archive["paths"].tolist() == ["", ""]
        assert folder not in str(archive["meta"])
    assert Scene.load(downloads["scene.npz"]).images == ["toy_1.jpg", "toy_2.jpg"]
    for file in result.downloads:
        assert folder.encode() not in file.read_bytes()
    for archive_name in ("colmap.zip", "nerfstudio.zip"):
        with zipfile.ZipFile(downloads[archive_name]) as archive:
            assert all(folder.encode() not in archive.read(name) for name in archive.namelist())


def test_unusable_photos_are_an_error_without_paths(model: TwoViewModel, tmp_path: Path) -> None:
    broken, run = tmp_path / "note.jpg", tmp_path / "run"
    broken.write_text("no photo")
    run.mkdir()
    with pytest.raises(ValueError, match=r"note\.jpg: is not an image") as error:
        run_job([broken], run, model, size=SIZE)
    assert str(tmp_path) not in str(error.value)


def test_photos_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    files = []
    for number in range(3):
        files.append(tmp_path / str(number) / "photo.png")
        files[-1].parent.mkdir()
        Image.new("RGB", (20, 20), (number, 0, 0)).save(files[-1])
    copies = copy_photos(files, tmp_path / "copies", Limits())
    assert [copy.name for copy in copies] == ["photo.png", "photo-2.png", "photo-3.png"]
    assert [copy.read_bytes() for copy in copies] == [file.read_bytes() for file in files]


def test_limits(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.effect_noise((1100, 1000), 80).save(photo)  # noise does not compress: over 1 MB
    target = tmp_path / "copies"
    with pytest.raises(ValueError, match="there are no photos"):
        copy_photos([], target, Limits())
    with pytest.raises(ValueError, match="3 photos are too many; at most 2"):
        copy_photos([photo] * 3, target, Limits(photos=2))
    with pytest.raises(ValueError, match=r"photo\.png is larger than 1 MB"):
        copy_photos([photo], target, Limits(megabytes=1))
    with pytest.raises(ValueError, match=r"photo\.png has more than 1 megapixels"):
        copy_photos([photo], target, Limits(megapixels=1))
    assert not target.exists()


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "photo.png"
    Image.new("L", (100, 100)).save(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"photo\.png has more than 50 megapixels"):
        copy_photos([photo], tmp_path / "copies", Limits())
