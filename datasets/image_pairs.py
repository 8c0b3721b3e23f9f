"""Pairs of photos without any geometry, for cross-view completion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_VALIDATION = "val"


@dataclass(frozen=True)
class ImagePairs:
    """Photo pairs that overlap.

    Attributes:
        root: folder that the names are relative to.
        names: file names of the first and the second photo of each pair.
    """

    root: Path
    names: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]:
        """Read a pair as RGB.

        Raises:
            ValueError: naming the file, if it cannot be read.
        """
        first, second = self.names[index]
        return _read(self.root / first), _read(self.root / second)


def read_image_pairs(folder: str | Path) -> ImagePairs:
    """Read the list of pairs of a folder.

    Understood are `pairs.txt` (two relative names a line, separated by blanks), `listing.txt` (one
    name a line; the photos are `<name>_1.jpg` and `<name>_2.jpg`), `#` starting a comment in both,
    and, without either, all files `<name>_1.<ext>` that have their `<name>_2.<ext>`. Photos below a
    folder whose name has "val" in it are left out of the last two, as in CroCo's data.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if there is no pair, or a line cannot be understood.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    table, listing = root / "pairs.txt", root / "listing.txt"
    if table.is_file():
        names = [_two_names(line, table) for line in _lines(table)]
    elif listing.is_file():
        names = [(f"{line}_1.jpg", f"{line}_2.jpg") for line in _lines(listing)]
        names = [pair for pair in names if _trained_on(pair[0])]
    else:
        names = _pairs_by_name(root)
    if not names:
        raise ValueError(
            f"{root} has no pairs of photos: it needs pairs.txt, listing.txt or files named "
            "NAME_1.jpg and NAME_2.jpg"
        )
    return ImagePairs(root, tuple(names))


def _lines(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def _two_names(line: str, path: Path) -> tuple[str, str]:
    parts = line.replace(",", " ").split()
    if len(parts) != 2:
        raise ValueError(f"{path}: expected two file names a line, got {line!r}")
    return parts[0], parts[1]


def _trained_on(name: str) -> bool:
    return not any(_VALIDATION in part for part in Path(name).parts[:-1])


def _pairs_by_name(root: Path) -> list[tuple[str, str]]:
    found = []
    for suffix in (".jpg", ".jpeg", ".png"):
        for first in sorted(root.rglob(f"*_1{suffix}")):
            second = first.with_name(first.name[: -len(f"_1{suffix}")] + f"_2{suffix}")
            names = first.relative_to(root).as_posix(), second.relative_to(root).as_posix()
            if second.is_file() and _trained_on(names[0]):
                found.append(names)
    return found


def _read(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a photo: {error}") from error
