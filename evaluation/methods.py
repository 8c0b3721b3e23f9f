"""Methods by name, as a command line gives them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..inference.matching.methods import MATCHERS, Matcher
from .match_metrics import MatchesLike
from .network import NetworkMatcher
from .runner import PairMethod
from .sift import SiftMethod


class FunctionMethod:
    """Somebody else's function of two image paths as a method.

    It returns anything with `xy1` and `xy2`, (N, 2) in pixels of the original upright images with
    centres at half-integers, and perhaps `confidence`; see `match_metrics.MatchesLike`.
    """

    def __init__(self, name: str, function: Callable[[Path, Path], MatchesLike]) -> None:
        self.name = name
        self.function = function

    @property
    def description(self) -> Mapping[str, object]:
        """The function's name, and what it says about itself in its own `description`."""
        return {"function": self.name, **getattr(self.function, "description", {})}

    def __call__(self, path1: Path, path2: Path) -> MatchesLike:
        """Call the function."""
        return self.function(path1, path2)


def make_method(name: str, *, device: str = "auto", size: int | None = None) -> PairMethod:
    """Make a method from its name.

    Args:
        name: "sift"; "sift@640", SIFT on images of that long side; "module:function" or
            "file.py:function", a function of two image paths, see `FunctionMethod`; else a
            checkpoint as `load_model` takes it, perhaps with a matcher of `MATCHERS`, as in
            "weav3r-small:gated".
        device: of a checkpoint.
        size: long side of a checkpoint's input; None takes its best.

    Raises:
        FileNotFoundError, ValueError: there is no such checkpoint, module, file or function, or
            the checkpoint lacks the descriptors that the matcher needs.
    """
    if name == "sift":
        return SiftMethod()
    if name.startswith("sift@"):
        pixels = name.removeprefix("sift@")
        if not pixels.isdigit():
            raise ValueError(f"method {name}: expected a size in pixels after the @")
        return SiftMethod(max_size=int(pixels))
    if not is_checkpoint(name):
        module, _, function = name.rpartition(":")
        return FunctionMethod(name, _load_function(module, function))
    checkpoint, matcher = split_matcher(name)
    return NetworkMatcher(checkpoint, device=device, size=size, matcher=matcher)


def is_checkpoint(name: str) -> bool:
    """Whether `make_method` would load a network for a name."""
    _, colon, function = split_matcher(name)[0].rpartition(":")
    return not (name == "sift" or name.startswith("sift@") or colon and function.isidentifier())


def split_matcher(name: str) -> tuple[str, Matcher | None]:
    """The checkpoint and the matcher of "weav3r-small:gated"; None where none is named."""
    checkpoint, _, last = name.rpartition(":")
    for matcher in MATCHERS:
        if checkpoint and last == matcher and Path(checkpoint).suffix != ".py":
            return checkpoint, matcher
    return name, None


def _load_function(module: str, function: str) -> Callable[[Path, Path], Any]:
    path = Path(module)
    if path.suffix == ".py":
        if not path.is_file():
            raise FileNotFoundError(f"method {module}:{function}: no file {module}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None  # a .py file always has both
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    else:
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"method {module}:{function}: {error}; give an installed module or file.py:function"
            ) from error
    found = getattr(loaded, function, None)
    if not callable(found):
        raise ValueError(f"method {module}:{function}: {module} has no function {function}")
    return found
