"""Building a texture bank: licences per file, safe unpacking, crops, index. Nothing is fetched:
the clients are replaced by functions that hand out packages made here."""

import csv
import importlib.util
import io
import logging
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weav3r.datasets import texture_packages
from weav3r.datasets.texture_catalogue import SOURCES, Selection, TextureSource
from weav3r.datasets.texture_crops import CROP_SIZE, SeenCrops, choose_crops, read_image
from weav3r.datasets.texture_licences import DebianCopyright, declared_licence, licence_tier
from weav3r.datasets.texture_packages import (
    SourceUnavailableError,
    fetch_deb,
    fetch_wheel,
    package_version,
    safe_target,
    unpack_tar,
    unpack_zip,
)
from weav3r.datasets.texture_painters import paint
from weav3r.datasets.texture_sources import build_texture_bank, package_images
from weav3r.datasets.textures import TextureBank

COPYRIGHT = """Format: 1.0
Upstream-Name: demo

Files: *
Copyright: 2001, Everyone
License: GPL-2+

Files:
 images/free?.png
 images/also*.png
Copyright: 2002, Ada
           2003, Bob
License: public-domain
 Taken from morgue-file.com, given away.

Files: images/free2.png
Copyright: 2004, Cleo
License: CC-BY-4.0
Comment: her own photograph

License: GPL-2+
 Long text.
"""
METADATA = "Metadata-Version: 2.1\nName: demo\nLicense: MIT\n\nReadme"
DEMO = TextureSource("demo==1.2", "wheel", 1, (Selection("demo/textures", "material", 4),))


def picture(index: int, size: int = 256) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(paint(index, seed=0, size=size)).save(buffer, "PNG")
    return buffer.getvalue()


def make_wheel(path: Path, files: dict[str, bytes], metadata: str = METADATA) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("demo-1.2.dist-info/METADATA", metadata)
        for name, content in files.items():
            wheel.writestr(name, content)
    return path


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Make the clients hand out a package made beforehand; returns the commands they were given."""

    def install(package: Path) -> list[list[str]]:
        commands: list[list[str]] = []

        def run(command: Sequence[str], folder: Path) -> None:
            commands.append(list(command))
            shutil.copy(package, folder)

        monkeypatch.setattr(texture_packages, "_run", run)
        return commands

    return install


@pytest.mark.parametrize(
    ("licence", "tier"),
    [
        ("public-domain", "A"),
        ("CC0-1.0", "A"),
        ("Expat", "A"),
        ("Modified BSD", "A"),
        ("BSD-3-clause-Google", "A"),
        ("Apache-2.0 AND BSD-3-Clause", "A"),
        ("CC-BY-3.0-USA", "B"),
        ("CC-BY-4.0 and CC0", "B"),
        ("CC-BY-SA-4.0 or CC-BY-3.0", "B"),
        ("GPL-2+ or MIT", "A"),
        ("GPL-2+ and MIT", "C"),
        ("CC-BY-SA-3.0", "C"),
        ("CC BY-NC 4.0", "C"),
        ("CC-BY-ND-4.0", "C"),
        ("LGPL-2.1", "C"),
        ("Free-Art-License", "C"),
        ("something new", "C"),
        ("unknown", "C"),
        ("", "C"),
    ],
)
def test_tier_of_a_licence(licence: str, tier: str) -> None:
    assert licence_tier(licence) == tier


def test_last_matching_stanza_decides() -> None:
    parsed = DebianCopyright.parse(COPYRIGHT)
    other, free, by = (parsed.lookup(f"images/{name}.png") for name in ("other", "free1", "free2"))
    assert other is not None and other.licence == "GPL-2+"
    assert free is not None and free.licence == "public-domain"
    assert free.author == "2002, Ada 2003, Bob" and "morgue-file" in free.note
    assert by is not None and (by.licence, by.note) == ("CC-BY-4.0", "her own photograph")


def test_copyright_patterns_know_only_stars_question_marks_and_backslashes() -> None:
    stanza = "Files: a/*.png b[1].png c\\*.png\nLicense: MIT"
    parsed = DebianCopyright.parse(stanza)
    assert parsed.lookup("a/deep/er/x.png") is not None
    assert parsed.lookup("b[1].png") is not None and parsed.lookup("b1.png") is None
    assert parsed.lookup("c*.png") is not None and parsed.lookup("cc.png") is None


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT\nLicense: other", "MIT"),
        ("License: BSD\n more text", "BSD"),
        (
            "Classifier: Topic :: X\nClassifier: License :: OSI Approved :: MIT License",
            "MIT License",
        ),
        ("Name: x", "unknown"),
    ],
)
def test_declared_licence_of_a_wheel(metadata: str, licence: str) -> None:
    assert declared_licence(metadata) == licence


def test_title_of_the_licence_file_counts_last() -> None:
    assert declared_licence("Name: x", "\nMIT License\n\nCopyright") == "MIT License"
    assert declared_licence("License: BSD", "MIT License") == "BSD"
    assert declared_licence("Name: x", "My own terms") == "unknown"


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "C:\\x.png", ""])
def test_unsafe_archive_names_have_no_target(name: str, tmp_path: Path) -> None:
    assert safe_target(tmp_path, name) is None


def test_zip_members_cannot_climb_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("../evil.png", b"x")
        opened.writestr("good/fine.png", b"y")
        opened.writestr("good/code.py", b"z")
    with caplog.at_level(logging.WARNING):
        unpack_zip(archive, tmp_path / "out", lambda name: name.endswith(".png"))
    assert [path.name for path in tmp_path.rglob("*.p*")] == ["fine.png"]
    assert "unsafe path: ../evil.png" in caplog.text


def test_tar_links_and_climbing_members_are_left_alone(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, kind in [
            ("./a/fine.png", tarfile.REGTYPE),
            ("../evil.png", tarfile.REGTYPE),
            ("a/link.png", tarfile.SYMTYPE),
            ("a/hard.png", tarfile.LNKTYPE),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            member.size = 3 if kind == tarfile.REGTYPE else 0
            opened.addfile(member, io.BytesIO(b"abc"))
    buffer.seek(0)
    unpack_tar(buffer, tmp_path / "out", lambda name: True)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["fine.png"]


def test_broken_zip_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / "demo-1.2-py3-none-any.whl"
    broken.write_bytes(b"no zip")
    with pytest.raises(SourceUnavailableError, match=r"demo-1\.2.* cannot be read"):
        unpack_zip(broken, tmp_path / "out", lambda name: True)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("demo-1.2-py3-none-any.whl", "1.2"),
        ("x-data_1.4+dfsg-2_all.deb", "1.4+dfsg-2"),
        ("x.whl", "unknown"),
    ],
)
def test_version_comes_from_the_file_name(name: str, version: str) -> None:
    assert package_version(Path(name)) == version


def test_missing_clients_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceUnavailableError, match="pip is not installed"):
        fetch_wheel("demo==1.2", tmp_path)
    with pytest.raises(SourceUnavailableError, match="apt-get and dpkg-deb are needed"):
        fetch_deb("demo", tmp_path)


def test_failing_client_is_reported_with_its_last_line(tmp_path: Path) -> None:
    script = "import sys; print('first', file=sys.stderr); sys.exit('no such package')"
    with pytest.raises(SourceUnavailableError, match="python.* failed: no such package"):
        texture_packages._run([shutil.which("python3") or "python", "-c", script], tmp_path)
    with pytest.raises(SourceUnavailableError, match="no-such-client failed"):
        texture_packages._run([str(tmp_path / "no-such-client")], tmp_path)


def test_crops_are_distinct_and_textured() -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((600, 900, 3), 128, np.uint8)
    pixels[:, 450:] = np.tile(paint(1, seed=0, size=512), (2, 1, 1))[:600, :450]
    crops = choose_crops(Image.fromarray(pixels), "photo", 5, rng)
    assert 1 <= len(crops) <= 5
    assert all(crop.pixels.shape == (CROP_SIZE, CROP_SIZE, 3) for crop in crops)
    flat = Image.new("RGB", (600, 600), (90, 90, 90))
    assert choose_crops(flat, "photo", 5, rng) == []
    assert choose_crops(flat.resize((100, 600)), "photo", 5, rng) == []


def test_near_duplicates_are_recognised() -> None:
    seen, first = SeenCrops(0.4), paint(0, seed=0, size=CROP_SIZE)
    noisy = np.clip(
        first.astype(int) + np.random.default_rng(0).integers(-3, 4, first.shape), 0, 255
    )
    assert seen.add(first)
    assert not seen.add(noisy.astype(np.uint8))
    assert seen.add(paint(3, seed=0, size=CROP_SIZE))


def test_normal_maps_are_left_out() -> None:
    pixels = paint(0, seed=0, size=256).astype(int) // 4 + np.array([100, 100, 190])
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    assert choose_crops(image, "material", 4, np.random.default_rng(0)) == []


def test_transparency(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 16:48] = (200, 10, 10, 255)
    Image.fromarray(pixels).save(tmp_path / "sign.png")
    assert read_image(tmp_path / "sign.png", "material", rng) is None
    sign = read_image(tmp_path / "sign.png", "signage", rng)
    assert sign is not None and sign.size == (CROP_SIZE, CROP_SIZE)
    assert sign.getpixel((CROP_SIZE // 2, CROP_SIZE // 2)) == (200, 10, 10)
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", "photo", rng) is None


def test_bank_from_a_wheel(tmp_path: Path, offer: Callable[..., list[list[str]]]) -> None:
    files = {
        "demo/textures/brick.png": picture(2),
        "demo/textures/same_as_brick.png": picture(2),
        "demo/textures/brick_normal.png": picture(3),
        "demo/textures/broken.png": b"no image",
        "demo/other/elsewhere.png": picture(1),
        "demo/__init__.py": b"raise RuntimeError",
    }
    commands = offer(make_wheel(tmp_path / "demo-1.2-py3-none-any.whl", files))
    told: list[str] = []
    report = build_texture_bank(tmp_path / "bank", sources=[DEMO], progress=told.append)
    assert commands[0][-1] == "demo==1.2" and "--no-deps" in commands[0]
    assert told[0] == "demo==1.2: fetching 1 MB"
    with (report.folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert report.crops == len(rows) == len(list(report.folder.glob("*.jpg"))) >= 1
    assert {row["source_file"] for row in rows} == {"demo/textures/brick.png"}
    assert {(row["licence"], row["tier"], row["version"]) for row in rows} == {("MIT", "A", "1.2")}
    assert "MIT: demo authors (1 images)" in (report.folder / "ATTRIBUTION.md").read_text()
    assert len(TextureBank.from_folder(report.folder, size=16)) == report.crops
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "demo-1.2-py3-none-any.whl"]


def test_bank_is_replaced_but_other_folders_are_refused(
    tmp_path: Path, offer: Callable[..., list[list[str]]]
) -> None:
    offer(make_wheel(tmp_path / "demo-1.2-py3-none-any.whl", {"demo/textures/a.png": picture(2)}))
    first = build_texture_bank(tmp_path / "bank", sources=[DEMO])
    again = build_texture_bank(tmp_path / "bank", sources=[DEMO])
    assert first == again
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").touch()
    with pytest.raises(FileExistsError, match="something else than a texture bank"):
        build_texture_bank(tmp_path / "holiday", sources=[DEMO])


def test_source_that_cannot_be_used_is_skipped_with_a_warning(
    tmp_path: Path, offer: Callable[..., list[list[str]]], caplog: pytest.LogCaptureFixture
) -> None:
    pictures = {"demo/textures/a.png": picture(2)}
    offer(make_wheel(tmp_path / "demo-1.2-py3-none-any.whl", pictures, "License: GPL-3"))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RuntimeError, match="no texture source gave any crop.*'GPL-3'"),
    ):
        build_texture_bank(tmp_path / "bank", sources=[DEMO])
    assert "skipping texture source demo==1.2" in caplog.text
    assert not (tmp_path / "bank").exists()


def test_unknown_source_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown texture source 'nothing'; known: .*miniworld"):
        build_texture_bank(tmp_path / "bank", sources=["nothing"])


DEB_DEMO = TextureSource(
    "demo-data",
    "deb",
    1,
    (Selection("usr/share/demo/images", "photo", 4, copyright_prefix="images/"),),
    archives=r"\.pk3$",
)


def deb_tree(root: Path) -> Path:
    images = root / "usr/share/demo/images"
    images.mkdir(parents=True)
    for index, name in enumerate(["other", "free1", "free2"]):
        (images / f"{name}.png").write_bytes(picture(index))
    documents = root / "usr/share/doc/demo-data"
    documents.mkdir(parents=True)
    (documents / "copyright").write_text(COPYRIGHT)
    return root


@pytest.mark.parametrize(("strict", "expected"), [(True, ["free2"]), (False, ["free1", "free2"])])
def test_images_of_a_deb_are_chosen_by_licence(
    strict: bool, expected: list[str], tmp_path: Path
) -> None:
    chosen = list(package_images(DEB_DEMO, deb_tree(tmp_path), strict))
    assert [image.path.stem for image in chosen] == expected
    assert chosen[-1].licence.licence == "CC-BY-4.0"
    assert chosen[-1].inside == "usr/share/demo/images/free2.png"


def test_deb_without_a_copyright_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match="no copyright file"):
        list(package_images(DEB_DEMO, tmp_path, strict=True))
    with pytest.raises(SourceUnavailableError, match="no METADATA"):
        list(package_images(DEMO, tmp_path, strict=True))


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_bank_from_a_real_deb_with_an_inner_archive(
    tmp_path: Path, offer: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = deb_tree(tmp_path / "tree")
    with zipfile.ZipFile(root / "usr/share/demo/more.pk3", "w") as inner:
        inner.writestr("free2.png", picture(7))
    (root / "DEBIAN").mkdir()
    control = "Package: demo-data\nVersion: 3.4-1\nArchitecture: all\nMaintainer: A <a@b.c>\n"
    (root / "DEBIAN/control").write_text(control + "Description: pictures\n")
    package = tmp_path / "demo-data_3.4-1_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(root), str(package)]
    subprocess.run(command, check=True, capture_output=True)
    offer(package)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    inside = Selection("inner/more", "photo", 4, copyright_prefix="images/")
    source = TextureSource("demo-data", "deb", 1, (*DEB_DEMO.selections, inside), r"\.pk3$")
    report = build_texture_bank(tmp_path / "bank", sources=[source])
    with (report.folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = {row["source_file"] for row in rows}
    assert files == {"usr/share/demo/images/free2.png", "inner/more/free2.png"}
    assert {row["version"] for row in rows} == {"3.4-1"}
    attribution = (report.folder / "ATTRIBUTION.md").read_text()
    assert "CC-BY-4.0: 2004, Cleo" in attribution and "`inner/more/free2.png`" in attribution


def test_catalogue_is_consistent() -> None:
    names = [source.name.partition("==")[0] for source in SOURCES]
    assert len(names) == len(set(names))
    for source in SOURCES:
        assert source.selections
        # A wheel is pinned, so that the licence that was read stays the licence that is used.
        assert ("==" in source.name) == (source.kind == "wheel")
        for selection in source.selections:
            assert selection.licence is None or licence_tier(selection.licence) == "A"
