"""Photos in, cameras and dense 3D out.

    import weav3r

    scene = weav3r.reconstruct("photos/")
    scene.save("scene.glb")

The public names are imported on first use, so that `import weav3r` itself is immediate.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from importlib.resources import files as _files
from pathlib import Path as _Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .inference.known.values import Known, KnownView, prior
    from .inference.localization.localizer import Localizer, localize
    from .inference.localization.result import Localization
    from .inference.photo_matches import PhotoMatches, match_photos
    from .inference.pipeline import reconstruct
    from .inference.scene import Scene
    from .inference.two_view import PairMatch, match
    from .models import load_model

__version__ = _version("weav3r")
__all__ = [
    "Known",
    "KnownView",
    "Localization",
    "Localizer",
    "PairMatch",
    "PhotoMatches",
    "Scene",
    "example_photos",
    "load_model",
    "localize",
    "match",
    "match_photos",
    "prior",
    "reconstruct",
]

_HOME = {
    "Known": ".inference.known.values",
    "KnownView": ".inference.known.values",
    "Localization": ".inference.localization.result",
    "Localizer": ".inference.localization.localizer",
    "PairMatch": ".inference.two_view",
    "PhotoMatches": ".inference.photo_matches",
    "Scene": ".inference.scene",
    "load_model": ".models",
    "localize": ".inference.localization.localizer",
    "match": ".inference.two_view",
    "match_photos": ".inference.photo_matches",
    "prior": ".inference.known.values",
    "reconstruct": ".inference.pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'weav3r' has no attribute {name!r}")
    return getattr(_import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def example_photos() -> dict[str, _Path]:
    """Folders of the bundled example photos by name; SOURCES.md beside them has the licences."""
    root = _Path(str(_files("weav3r") / "examples"))
    return {p.name: p for p in sorted(root.iterdir()) if p.is_dir()}
