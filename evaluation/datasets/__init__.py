"""Readers of the public benchmarks' own layouts: into sets of pairs, or maps with queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..localization_sets import LocalizationSet
from ..readers import EvaluationSet, list_sets, read_set
from .multi_view import read_co3d, read_dtu, read_eth3d, read_imc, read_realestate10k, read_strecha
from .pair_lists import read_megadepth1500, read_scannet1500
from .relocalization import read_aachen, read_cambridge, read_map_free, read_seven_scenes

Reader = TypeVar("Reader")
AnySet = TypeVar("AnySet", EvaluationSet, LocalizationSet)

PAIR_LAYOUTS: Mapping[str, Callable[[Path], list[EvaluationSet]]] = {
    "scannet1500": read_scannet1500,
    "megadepth1500": read_megadepth1500,
    "co3d": read_co3d,
    "re10k": read_realestate10k,
    "eth3d": read_eth3d,
    "dtu": read_dtu,
    "imc": read_imc,
    "mapfree": read_map_free,
    "strecha": read_strecha,
}
"""Layouts of image pairs with relative poses; "plain" is the library's own."""

MAP_LAYOUTS: Mapping[str, Callable[[Path], list[LocalizationSet]]] = {
    "7scenes": read_seven_scenes,
    "cambridge": read_cambridge,
    "aachen": read_aachen,
}
"""Layouts of a map with queries."""

LAYOUTS = ("plain", *PAIR_LAYOUTS, *MAP_LAYOUTS)


def read_pair_sets(
    root: Path | str, layout: str = "plain", names: Sequence[str] | None = None
) -> list[EvaluationSet]:
    """Read the sets of image pairs below a folder.

    Args:
        root: where the data set lies.
        layout: one of `PAIR_LAYOUTS`, or "plain" (see `readers`).
        names: only these sets, in this order; None takes all that have pairs.

    Raises:
        FileNotFoundError: the folder, a set or a file that it names is not there.
        ValueError: the layout is unknown or has no pairs, or a file does not follow it.
    """
    root = _folder(root)
    if layout == "plain":
        wanted = list_sets(root) if names is None else list(dict.fromkeys(names))
        found = [read_set(root, name) for name in wanted]
    else:
        found = _named(_reader(PAIR_LAYOUTS, layout, "pairs")(root), names, root)
    if names is None:
        found = [data for data in found if data.pairs]
    without = [data.name for data in found if not data.pairs]
    if without or not found:
        raise ValueError(
            f"nothing to evaluate: sets {[data.name for data in found]}, of them without pairs: "
            f"{without}"
        )
    return found


def read_maps(
    root: Path | str, layout: str, names: Sequence[str] | None = None
) -> list[LocalizationSet]:
    """Read the maps with queries below a folder; arguments as for `read_pair_sets`."""
    root = _folder(root)
    return _named(_reader(MAP_LAYOUTS, layout, "maps with queries")(root), names, root)


def _folder(root: Path | str) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no evaluation folder {root}")
    return root


def _reader(layouts: Mapping[str, Reader], layout: str, what: str) -> Reader:
    if layout not in layouts:
        raise ValueError(f"no layout of {what} {layout!r}; there are {', '.join(layouts)}")
    return layouts[layout]


def _named(sets: list[AnySet], names: Sequence[str] | None, root: Path) -> list[AnySet]:
    if names is None:
        return sets
    by_name = {data.name: data for data in sets}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise FileNotFoundError(f"no set {missing} in {root}; it has {sorted(by_name)}")
    return [by_name[name] for name in names]
