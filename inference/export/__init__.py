"""Writing a scene to files: one module per format, none of them ever changes the scene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .colmap import save_colmap
from .glb import save_glb
from .html import save_html
from .nerfstudio import save_nerfstudio
from .npz import SCENE_FILE, load_npz, save_npz
from .ply import save_ply

if TYPE_CHECKING:
    from ..scene import Scene

FORMAT_OF_SUFFIX = {
    ".glb": "glb",
    ".ply": "ply",
    ".npz": "npz",
    ".json": "nerfstudio",
    ".html": "html",
}
_WRITERS = {
    "glb": save_glb,
    "ply": save_ply,
    "npz": save_npz,
    "nerfstudio": save_nerfstudio,
    "html": save_html,
}
_FILE_IN_FOLDER = {"npz": SCENE_FILE, "nerfstudio": "transforms.json"}
_HELP = (
    "use a name that ends in .glb, .ply, .npz, .json or .html, or a folder (format 'colmap', "
    "'npz' or 'nerfstudio')"
)


def check_target(path: Path, format: str | None = None) -> str:
    """Name the writer for `path` before any long work is done; see `Scene.save`.

    Returns:
        The format: "glb", "ply", "npz", "nerfstudio", "html" or "colmap".

    Raises:
        ValueError: unknown suffix or format, or a file where a folder is needed and vice versa.
    """
    known = (*_WRITERS, "colmap")
    if format is not None and format not in known:
        raise ValueError(f"unknown format {format!r}; there are {', '.join(known)}")
    suffix = path.suffix.lower()
    is_folder = path.is_dir() or suffix == "" or format == "colmap"
    if not is_folder:
        chosen = format or FORMAT_OF_SUFFIX.get(suffix)
        if chosen is None:
            raise ValueError(f"cannot tell the format of {path.name!r} from its suffix; {_HELP}")
        return chosen
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, but format {format or 'colmap'!r} needs a folder")
    if format in ("glb", "ply", "html"):
        raise ValueError(
            f"{path} is a folder; format {format!r} writes one file, name it *.{format}"
        )
    return format or "colmap"


def save_scene(scene: Scene, path: Path, format: str | None = None, **options: Any) -> Path:
    """Write a scene; see `Scene.save`.

    Raises:
        ValueError: see `check_target`.
    """
    chosen = check_target(path, format)
    is_folder = path.is_dir() or path.suffix == "" or chosen == "colmap"
    if not is_folder:
        return _WRITERS[chosen](scene, path, **options)
    if chosen in _FILE_IN_FOLDER:
        _WRITERS[chosen](scene, path / _FILE_IN_FOLDER[chosen], **options)
        return path
    save_colmap(scene, path, **options)
    if format is None:
        save_npz(scene, path / SCENE_FILE)
    return path


__all__ = [
    "FORMAT_OF_SUFFIX",
    "check_target",
    "load_npz",
    "save_colmap",
    "save_glb",
    "save_html",
    "save_nerfstudio",
    "save_npz",
    "save_ply",
    "save_scene",
]
