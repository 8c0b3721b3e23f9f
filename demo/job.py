"""What the Run button does: take the photos, reconstruct, store the scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..inference.export.npz import SCENE_FILE
from ..inference.known.files import read_mask
from ..inference.known.values import Known, KnownView
from ..inference.observer import Observer
from ..inference.pipeline import reconstruct
from ..inference.scene import Scene
from ..models.two_view import TwoViewModel
from .uploads import Limits, Progress, take_uploads

PHOTOS, MASKS = "photos", "masks"
"""Names of the folders inside a run's folder."""


@dataclass(frozen=True)
class JobResult:
    """What a run left in its folder: the scene as `SCENE_FILE`, the photos in `PHOTOS`.

    Attributes:
        scene: the file.
        placed: photos that were joined with another one.
        photos: photos in all.
        notes: what the person should know of the files, one line each.
    """

    scene: Path
    placed: int
    photos: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class JobOptions:
    """What the person chose; see `reconstruct`.

    Attributes:
        size: long side of the network's input in pixels; None: the best measured.
        graph: which pairs are compared.
        focal_px: known focal length in pixels of the photos; None: unknown.
        masks: files; each belongs to the photo of its name and leaves out what is black.
    """

    size: int | None = None
    graph: str = "auto"
    focal_px: float | None = None
    masks: Sequence[str | Path] = ()


def run_job(
    files: Sequence[str | Path],
    folder: Path,
    model: TwoViewModel,
    options: JobOptions | None = None,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> JobResult:
    """Reconstruct photos and store the scene in `folder`.

    Args:
        files: the photos and videos; copied first, so that the originals may go at any time.
        folder: an existing folder of this run.
        model: the network.
        options: what the person chose.
        limits: what is refused.
        progress: called with (stage, done, total).
        observer: sees the depth of each photo.

    Raises:
        ValueError: the photos cannot be used; no path of the server is in the message.
    """
    options = options or JobOptions()
    photos = folder / PHOTOS
    taken = take_uploads(files, photos, limits, progress=progress)
    known, notes = _known(options.masks, folder / MASKS, taken.photos, limits)
    try:
        scene = reconstruct(
            taken.photos,
            model,
            size=options.size,
            graph=options.graph,
            known=known,
            focal_px=options.focal_px,
            progress=progress or False,
            observer=observer,
        )
    except ValueError as error:
        raise ValueError(_without_folder(str(error), photos)) from error
    scene = _without_paths(scene, photos)
    return JobResult(
        scene=scene.save(folder / SCENE_FILE),
        placed=len(scene) - len(scene.report.unregistered),
        photos=len(scene),
        notes=[*taken.notes, *notes],
    )


def with_photos(scene: Scene, folder: Path) -> Scene:
    """A stored scene that knows its photos again, for exporters that copy them."""
    photos = folder / PHOTOS
    views = [dataclasses.replace(view, path=photos / view.name) for view in scene.views]
    return dataclasses.replace(scene, views=views)


def _known(
    masks: Sequence[str | Path], folder: Path, photos: Sequence[Path], limits: Limits | None
) -> tuple[Known | None, list[str]]:
    """Masks by the names of their photos, and what to say about those without one."""
    if not masks:
        return None, []
    taken = take_uploads(masks, folder, limits)
    names = {photo.stem.lower(): photo.name for photo in photos}
    views, notes = {}, [f"mask {note}" for note in taken.notes]
    for file in taken.photos:
        stem = file.stem.lower()
        ways = (stem, stem.removesuffix("_mask"), stem.removesuffix("-mask"), Path(stem).stem)
        name = next((names[way] for way in ways if way in names), None)
        if name is None:
            notes.append(f"mask {file.name} belongs to no photo: give it the name of its photo")
            continue
        views[name] = KnownView(mask=read_mask(file))
    return (Known(views) if views else None), notes


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
