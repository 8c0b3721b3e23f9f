"""Readers of the layouts that data sets come in, each in its own file, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..layout import INDEX, PAIRS, read_layout
from ..pair_table import load_pairs
from ..posed_set import PosedSet
from . import (
    colmap,
    indoor_scans,
    landmarks,
    nerfstudio,
    object_sequences,
    rgbd,
    scannet,
    synthetic,
    waymo,
)


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set.

    Attributes:
        title: for people.
        detect: whether a folder looks like it.
        read: reads its index.
    """

    title: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], PosedSet]


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "weav3r": Layout("our own", lambda f: (f / INDEX).is_file(), read_layout),
        "colmap": Layout("COLMAP model with photos", colmap.detect, colmap.read),
        "nerfstudio": Layout("nerfstudio transforms.json", nerfstudio.detect, nerfstudio.read),
        "rgbd": Layout("TUM RGB-D sequence", rgbd.detect, rgbd.read),
        "scannet": Layout("unpacked ScanNet scene", scannet.detect, scannet.read),
        "co3d": Layout(
            "Co3D v2, prepared", object_sequences.detect_co3d, object_sequences.read_co3d
        ),
        "wildrgbd": Layout(
            "WildRGB-D, prepared", object_sequences.detect_wildrgbd, object_sequences.read_wildrgbd
        ),
        "scannetpp": Layout(
            "ScanNet++, prepared", indoor_scans.detect_scannetpp, indoor_scans.read_scannetpp
        ),
        "arkitscenes": Layout(
            "ARKitScenes, prepared", indoor_scans.detect_arkitscenes, indoor_scans.read_arkitscenes
        ),
        "megadepth": Layout(
            "MegaDepth, prepared", landmarks.detect_megadepth, landmarks.read_megadepth
        ),
        "blendedmvs": Layout(
            "BlendedMVS, prepared", landmarks.detect_blendedmvs, landmarks.read_blendedmvs
        ),
        "staticthings": Layout(
            "StaticThings3D, prepared", synthetic.detect_staticthings, synthetic.read_staticthings
        ),
        "waymo": Layout("Waymo, prepared", waymo.detect, waymo.read),
        "tartanair": Layout("TartanAir", synthetic.detect_tartanair, synthetic.read_tartanair),
        "habitat": Layout("Habitat, prepared", synthetic.detect_habitat, synthetic.read_habitat),
    }
)
"""Every layout that is read, by name; the first that fits a folder is taken."""


def detect_layout(folder: Path) -> str:
    """Name the layout of a folder.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it looks like none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    for name, layout in LAYOUTS.items():
        if layout.detect(folder):
            return name
    known = ", ".join(f"{name} ({layout.title})" for name, layout in LAYOUTS.items())
    raise ValueError(f"{folder} looks like no data set; layouts that are read: {known}")


def open_data_set(folder: Path | str, layout: str | None = None) -> PosedSet:
    """Read the index of a data set; pairs that were mined into its folder replace its own.

    Args:
        folder: the data set.
        layout: a name of `LAYOUTS`; None looks at the folder.

    Raises:
        FileNotFoundError: the folder or a file of its index does not exist.
        ValueError: the layout is unknown, or the index cannot be read.
    """
    path = Path(folder)
    name = layout or detect_layout(path)
    if name not in LAYOUTS:
        raise ValueError(f"unknown layout {name!r}; one of {', '.join(LAYOUTS)}")
    data = LAYOUTS[name].read(path)
    mined = path / PAIRS
    if name != "weav3r" and mined.is_file():
        return data.with_pairs(load_pairs(mined, [view.key for view in data.views]))
    return data
