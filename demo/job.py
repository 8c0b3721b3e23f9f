"""What the button of the page does: check the photos, reconstruct, write the files to show."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..inference.pictures import depth_picture
from ..inference.pipeline import reconstruct
from ..inference.scene import Scene
from ..models.two_view import TwoViewModel

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Limits:
    """What one run may take.

    Attributes:
        photos: number of photos.
        megabytes: size of each file.
        megapixels: size of each picture.
    """

    photos: int = 20
    megabytes: int = 30
    megapixels: int = 50


@dataclass(frozen=True)
class JobResult:
    """Files of a run, all inside its folder.

    Attributes:
        model: the GLB.
        pictures: (file, caption) of each photo and of its depth.
        report: text.
        downloads: GLB, PLY, NPZ, and archives for COLMAP and nerfstudio.
    """

    model: Path
    pictures: list[tuple[Path, str]]
    report: str
    downloads: list[Path]


def copy_photos(files: Sequence[str | Path], folder: Path, limits: Limits) -> list[Path]:
    """Copy photos into `folder` under different names.

    Raises:
        ValueError: there are none, too many, or one is too large; the message names it.
    """
    if not files:
        raise ValueError("there are no photos: add some, or pick an example")
    if len(files) > limits.photos:
        raise ValueError(f"{len(files)} photos are too many; at most {limits.photos} are taken")
    for file in map(Path, files):
        _check_size(file, limits)
    folder.mkdir(parents=True)
    copies: list[Path] = []
    for file in map(Path, files):
        target, number = folder / file.name, 1
        while target.exists():
            number += 1
            target = folder / f"{file.stem}-{number}{file.suffix}"
        copies.append(Path(shutil.copyfile(file, target)))
    return copies


def run_job(
    files: Sequence[str | Path],
    folder: Path,
    model: TwoViewModel,
    *,
    size: int | None = None,
    surface: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> JobResult:
    """Reconstruct photos and write everything the page shows into `folder`.

    Args:
        files: the photos; copied first, so that the originals may go at any time.
        folder: an existing folder of this run.
        model: the network.
        size: long side of the network's input in pixels; default: the best measured.
        surface: show surfaces instead of points.
        limits: what is refused.
        progress: called with (stage, done, total).

    Raises:
        ValueError: the photos cannot be used; no path of the server is in the message.
    """
    photos = folder / "photos"
    copies = copy_photos(files, photos, limits or Limits())
    try:
        scene = reconstruct(copies, model, size=size, progress=progress or False)
    except ValueError as error:
        raise ValueError(_without_folder(str(error), photos)) from error
    scene = _without_paths(scene, photos)
    model_file = folder / "scene.glb"
    scene.save(model_file, mesh=surface)
    return JobResult(
        model=model_file,
        pictures=_write_pictures(scene, folder / "pictures"),
        report=scene.report.summary(),
        downloads=[model_file, *_write_downloads(scene, folder, photos)],
    )


def _check_size(file: Path, limits: Limits) -> None:
    if file.stat().st_size > limits.megabytes * 2**20:
        raise ValueError(f"{file.name} is larger than {limits.megabytes} MB")
    try:
        with Image.open(file) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        width = height = None
    except (OSError, ValueError, SyntaxError):
        return  # not a picture: the reconstruction says so, and goes on without it
    if width is None or height is None or width * height > limits.megapixels * 1_000_000:
        raise ValueError(f"{file.name} has more than {limits.megapixels} megapixels")


def _without_folder(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "").replace(f"{folder}\\", "")


def _without_paths(scene: Scene, folder: Path) -> Scene:
    """Take the server's paths out of what leaves it."""
    problems = [
        dataclasses.replace(
            problem,
            path=Path(problem.path).name,
            reason=_without_folder(problem.reason, folder),
        )
        for problem in scene.report.problems
    ]
    views = [dataclasses.replace(view, path=None) for view in scene.views]
    report = dataclasses.replace(scene.report, problems=problems)
    return dataclasses.replace(scene, views=views, report=report)


def _write_pictures(scene: Scene, folder: Path) -> list[tuple[Path, str]]:
    folder.mkdir()
    pictures: list[tuple[Path, str]] = []
    for index, name in enumerate(scene.images):
        for kind, pixels in (
            ("photo", scene.colors(index)),
            ("depth", depth_picture(scene.depth(index), scene.valid(index))),
        ):
            file = folder / f"{index:03d}-{kind}.png"
            Image.fromarray(pixels).save(file)
            pictures.append((file, f"{name}, {kind}" if kind == "depth" else name))
    return pictures


def _write_downloads(scene: Scene, folder: Path, photos: Path) -> list[Path]:
    with_photos = dataclasses.replace(
        scene,
        views=[dataclasses.replace(view, path=photos / view.name) for view in scene.views],
    )
    files = [scene.save(folder / "scene.ply"), scene.save(folder / "scene.npz", compressed=True)]
    colmap, nerfstudio = folder / "colmap", folder / "nerfstudio"
    with_photos.save(colmap, format="colmap", copy_images=True)
    with_photos.save(nerfstudio, format="nerfstudio", copy_images=True)
    files.append(nerfstudio / "transforms.json")
    for source in (colmap, nerfstudio):
        files.append(Path(shutil.make_archive(str(source), "zip", source)))
    return files
