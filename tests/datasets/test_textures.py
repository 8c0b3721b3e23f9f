"""Texture banks: same seed same pixels, files in a fixed order, clear errors."""

import io
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weav3r.datasets.texture_painters import PAINTERS, fractal_noise, paint
from weav3r.datasets.textures import TextureBank, default_bank, default_bank_folder

COLOURS = {"b/red.png": (255, 0, 0), "a.png": (0, 255, 0), "c.jpg": (0, 0, 255)}


def encoded(
    colour: tuple[int, int, int], size: tuple[int, int] = (24, 40), kind: str = "PNG"
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, colour in COLOURS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(colour, kind="JPEG" if name.endswith("jpg") else "PNG"))
    (root / "notes.txt").write_text("not an image")
    return root


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=".")
    return path


@pytest.fixture
def no_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("WEAV3R_TEXTURES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", range(len(PAINTERS)), ids=list(PAINTERS))
def test_each_painter_is_reproducible_and_not_blank(kind: int) -> None:
    first, again = paint(kind, seed=3, size=32), paint(kind, seed=3, size=32)
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, paint(kind, seed=4, size=32))
    assert first.std() > 0.5


def test_fractal_noise_has_the_stated_spectrum() -> None:
    field = fractal_noise(np.random.default_rng(0), 128, exponent=1.0)[..., 0]
    amplitude = np.abs(np.fft.fft2(field))
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None])
    band = (radius > 0.02) & (radius < 0.4)
    slope = np.polyfit(np.log(radius[band]), np.log(amplitude[band]), 1)[0]
    # About 8000 Rayleigh-distributed samples: the slope's standard error is near 0.02.
    assert slope == pytest.approx(-1.0, abs=0.1)
    assert field.mean() == pytest.approx(0, abs=1e-4)
    assert field.std() == pytest.approx(1, abs=1e-4)


def test_longer_procedural_bank_starts_with_the_shorter_one() -> None:
    short = TextureBank.procedural(seed=1, count=4, size=16)
    long = TextureBank.procedural(seed=1, count=13, size=16)
    np.testing.assert_array_equal(long.pixels[:4], short.pixels)
    assert len(long) == 13 and long.size == 16 and long.names[:4] == short.names


@pytest.mark.parametrize("origin", ["folder", "archive"])
def test_files_come_in_name_order(origin: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(origin)
    read = TextureBank.from_folder if origin == "folder" else TextureBank.from_tar
    bank = read(path, size=8)
    assert [Path(name).name for name in bank.names] == ["a.png", "red.png", "c.jpg"]
    # JPEG may be off by two grey levels on a flat colour.
    np.testing.assert_allclose(
        bank.pixels[:, 4, 4].astype(int), [(0, 255, 0), (255, 0, 0), (0, 0, 255)], atol=2
    )


def test_limit_draws_a_seeded_subset_in_order(folder: Path) -> None:
    everything = TextureBank.from_folder(folder, size=8)
    some = TextureBank.from_folder(folder, size=8, limit=2, seed=5)
    again = TextureBank.from_folder(folder, size=8, limit=2, seed=5)
    assert some.names == again.names and len(some) == 2
    assert list(some.names) == [name for name in everything.names if name in some.names]
    assert len(TextureBank.from_folder(folder, size=8, limit=99)) == 3
    with pytest.raises(ValueError, match="limit must be at least 1 or None, got 0"):
        TextureBank.from_folder(folder, size=8, limit=0)


def test_centre_square_is_kept_and_transparency_becomes_grey(tmp_path: Path) -> None:
    wide = np.zeros((16, 48, 4), np.uint8)
    wide[:, 16:32] = (255, 255, 255, 255)
    wide[:, 24:32, 3] = 0
    Image.fromarray(wide, "RGBA").save(tmp_path / "wide.png")
    pixels = TextureBank.from_folder(tmp_path, size=16).pixels[0]
    assert (pixels[:, :8] == 255).all() and (pixels[:, 8:] == 128).all()


def test_broken_file_is_skipped_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.png").write_bytes(b"not really a PNG")
    with caplog.at_level(logging.WARNING):
        bank = TextureBank.from_folder(folder, size=8)
    assert len(bank) == 2
    assert "skipping texture a.png" in caplog.text


def test_extended_joins_banks_of_one_size() -> None:
    small = TextureBank.procedural(count=1, size=8)
    joined = small.extended(TextureBank.procedural(seed=1, count=2, size=8))
    assert len(joined) == 3 and joined.names[0] == small.names[0]
    with pytest.raises(ValueError, match="cannot join textures of 8 and 16 pixels"):
        small.extended(TextureBank.procedural(count=1, size=16))


def test_table_holds_the_pixels_in_linear_light() -> None:
    bank = TextureBank.procedural(count=3, size=8)
    table = bank.table
    assert table is bank.table and (table.count, table.size) == (3, 8)
    level0 = table.linear(table.packed[: 3 * 64])[:, :3].reshape(3, 8, 8, 3).numpy()
    expected = (bank.pixels / 255.0) ** 2.2
    # A texel stores the root of linear light in steps of 1/255: error at most 1/255.
    np.testing.assert_allclose(level0, expected, atol=1 / 255)


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    good = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"uint8 of shape \(T, S, S, 3\), got float32"):
        TextureBank(good.astype(np.float32), ("a",))
    with pytest.raises(ValueError, match="at least one texture"):
        TextureBank(good[:0], ())
    with pytest.raises(ValueError, match="one name per texture"):
        TextureBank(good, ("a", "b"))
    with pytest.raises(ValueError, match="power of two of at least 8, got 100"):
        TextureBank.procedural(size=100)
    with pytest.raises(ValueError, match="count must be at least 1"):
        TextureBank.procedural(count=0)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        TextureBank.from_folder(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        TextureBank.from_tar(tmp_path / "missing.tar")
    with pytest.raises(FileNotFoundError, match="no readable image .*weav3r data textures"):
        TextureBank.from_folder(tmp_path)


def test_default_bank_prefers_path_then_variable_then_cache(
    folder: Path, archive: Path, no_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = default_bank_folder()
    assert cache == no_photos / "weav3r" / "textures"
    cache.mkdir(parents=True)
    (cache / "only.jpg").write_bytes(encoded((9, 9, 9), kind="JPEG"))
    assert default_bank(size=8).names == ("only.jpg",)
    monkeypatch.setenv("WEAV3R_TEXTURES", str(folder))
    assert len(default_bank(size=8)) == 3
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.png").write_bytes(encoded((1, 2, 3)))
    assert default_bank(other, size=8).names == ("mine.png",)
    assert len(default_bank(archive, size=8)) == 3
    monkeypatch.setenv("WEAV3R_TEXTURES", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        default_bank(size=8)


@pytest.mark.usefixtures("no_photos")
def test_default_bank_paints_when_there_are_no_photos(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        bank = default_bank(size=8)
    assert len(bank) == 192 and bank.names[0] == "painted-0-0"
    assert "weav3r data textures" in caplog.text


def test_cache_folder_falls_back_to_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_bank_folder() == tmp_path / ".cache" / "weav3r" / "textures"
