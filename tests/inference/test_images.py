"""Loading photos: every format and every defect, sizes, pixels, orientation and focal length."""

import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational

from weav3r.inference._decode import decode
from weav3r.inference.images import ImageProblem, load_images, network_size

GOLDEN = Path(__file__).parents[1] / "golden"
UPRIGHT = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def photo(height=96, width=128, seed=0):
    """A smooth colourful picture, so that JPEG and resampling change it little."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def one(path, **options):
    """The only view of a file that must load without any problem."""
    loaded = load_images([path], **{"size": 64, **options})
    assert loaded.problems == []
    return loaded.views[0]


# -- formats and pixel types ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "webp", "tif", "bmp", "gif", "ppm", "avif", "JPG"]
)
def test_formats(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    picture = photo()
    picture.save(path)
    view = one(path, size=128)
    assert view.image.shape == (3, 96, 128)
    assert view.image.dtype == torch.float32
    assert view.name == path.name and view.path == path
    assert view.mask is None and view.exif_focal_px is None
    difference = np.abs(view.rgb.astype(int) - np.asarray(picture))
    assert difference.mean() < 12  # a GIF has 256 colours
    assert -1 <= float(view.image.min()) and float(view.image.max()) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_colour_modes(tmp_path, mode):
    path = tmp_path / "a.tif" if mode in ("CMYK", "YCbCr") else tmp_path / "a.png"
    picture = photo().convert("RGB" if mode == "HSV" else mode)
    # Pillow 12 cannot read back the uncompressed YCbCr file that it writes.
    picture.save(path, **({"compression": "tiff_lzw"} if mode == "YCbCr" else {}))
    expected = np.asarray(picture.convert("RGB"), dtype=int)
    assert np.abs(one(path, size=128).rgb - expected).max() <= 2


def test_cmyk_jpeg(tmp_path):
    photo().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    expected = np.asarray(photo().convert("CMYK").convert("RGB"), dtype=int)
    assert np.abs(one(tmp_path / "a.jpg", size=128).rgb - expected).mean() < 4


def test_lab(tmp_path):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = ImageCms.profileToProfile(photo(), srgb, lab, outputMode="LAB")
    assert picture is not None
    picture.save(tmp_path / "lab.tif")
    view = load_images(tmp_path, size=128).views[0]
    assert np.abs(view.rgb.astype(int) - np.asarray(photo())).mean() < 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 128).round().astype(np.uint16)
    Image.fromarray(np.tile(ramp, (96, 1))).save(tmp_path / f"a.{suffix}")
    row = one(tmp_path / f"a.{suffix}", size=128).rgb[0, :, 0].astype(float)
    np.testing.assert_allclose(row, ramp / 257, atol=0.51)


def test_sixteen_bit_big_endian_grey(tmp_path):
    ramp = np.linspace(0, 65535, 32).round().astype(">u2")
    header = b"P5 32 32 65535\n"  # a PGM with two bytes per pixel is big-endian
    (tmp_path / "a.pgm").write_bytes(header + np.tile(ramp, (32, 1)).tobytes())
    row = one(tmp_path / "a.pgm", size=32, patch_size=8).rgb[0, :, 0].astype(float)
    np.testing.assert_allclose(row, ramp.astype(float) / 257, atol=0.51)


def png16_rgb(pixels):
    """Bytes of a 16-bit RGB PNG, which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_sixteen_bit_rgb_is_scaled_not_clipped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (32, 32, 3))
    (tmp_path / "a.png").write_bytes(png16_rgb(pixels))
    rgb = one(tmp_path / "a.png", size=32, patch_size=8).rgb
    np.testing.assert_allclose(rgb, pixels / 257, atol=1.01)  # the decoder keeps the high byte


@pytest.mark.parametrize(("top", "dtype"), [(1.0, "f"), (255, "f"), (65535, "i"), (255, "i")])
def test_32_bit_grey(tmp_path, top, dtype):
    ramp = np.linspace(0, top, 128)
    ramp = ramp.astype(np.float32) if dtype == "f" else ramp.round().astype(np.int32)
    Image.fromarray(np.tile(ramp, (96, 1))).save(tmp_path / "a.tif")
    row = one(tmp_path / "a.tif", size=128).rgb[0, :, 0].astype(float)
    np.testing.assert_allclose(row, ramp / top * 255, atol=0.51)


def test_grey_of_an_odd_range_is_stretched_and_noted(tmp_path):
    ramp = np.tile(np.linspace(-7, 1e6, 128, dtype=np.float32), (96, 1))
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    loaded = load_images([tmp_path / "a.tif"], size=128)
    assert "stretched" in loaded.problems[0].reason and not loaded.problems[0].skipped
    assert loaded.skipped == [] and len(loaded) == 1
    assert loaded.views[0].rgb[0, 0, 0] == 0 and loaded.views[0].rgb[0, -1, 0] == 255


@pytest.mark.parametrize("kind", ["RGBA", "P"])
def test_transparent_pixels_are_masked(tmp_path, kind):
    if kind == "RGBA":
        picture = photo().convert("RGBA")
        picture.paste((9, 9, 9, 0), (0, 0, 64, 96))
        picture.save(tmp_path / "a.png")
    else:
        picture = Image.new("P", (128, 96), 1)
        picture.putpalette([0, 0, 0, 200, 100, 50])
        picture.paste(0, (0, 0, 64, 96))
        picture.save(tmp_path / "a.png", transparency=0)
    mask = one(tmp_path / "a.png").mask
    assert mask is not None and mask.shape == (48, 64) and mask.dtype == torch.bool
    assert not mask[:, :31].any() and mask[:, 33:].all()


def test_a_wholly_transparent_image_is_a_problem(tmp_path):
    Image.new("RGBA", (64, 64), (1, 2, 3, 0)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="transparent everywhere"):
        load_images([tmp_path / "a.png"], size=64)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_animations_give_their_first_frame_and_a_note(tmp_path, suffix):
    first, second = photo(seed=1), photo(seed=2)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second, first])
    loaded = load_images(tmp_path, size=128)
    assert [p.reason for p in loaded.problems] == ["has 3 frames; only the first is used"]
    assert loaded.skipped == []
    difference = np.abs(loaded.views[0].rgb.astype(int) - np.asarray(first)).mean()
    assert difference < 10


def test_arrays_and_pil_images(tmp_path):
    pixels = np.asarray(photo())
    photo(seed=3).save(tmp_path / "x.png")
    loaded = load_images([pixels, photo(seed=1).convert("L"), tmp_path / "x.png"], size=128)
    assert [v.name for v in loaded.views] == ["image_0000", "image_0001", "x.png"]
    assert [v.path for v in loaded.views] == [None, None, tmp_path / "x.png"]
    assert np.abs(loaded.views[0].rgb.astype(int) - pixels).max() <= 1
    assert len(load_images(pixels, size=64)) == len(load_images(photo(), size=64)) == 1


@pytest.mark.parametrize("bad", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.float32)])
def test_arrays_of_another_kind(bad):
    with pytest.raises(ValueError, match=r"image_0000: is an array .* expected \(H, W, 3\) uint8"):
        load_images([bad])


# -- orientation and ledger -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    picture = photo(96, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    picture.save(tmp_path / f"a.{suffix}", exif=exif, quality=95, **lossless)
    how = UPRIGHT[orientation]
    upright = picture if how is None else picture.transpose(how)
    view = one(tmp_path / f"a.{suffix}", size=96)
    assert view.size == (upright.height, upright.width) == view.ledger.original_size
    assert view.ledger.stored_size == (96, 64)
    assert view.ledger.exif_orientation == orientation
    assert np.abs(view.rgb.astype(int) - np.asarray(upright)).mean() < 3
    # A pixel found in the view lies where the ledger says it lies in the stored file.
    stored = np.asarray(picture).astype(int)
    for row, column in [(5, 7), (50, 30), (20, 58)]:
        original = view.ledger.points_to_original(np.array([column + 0.5, row + 0.5]))
        x, y = np.floor(view.ledger.points_to_stored(original)).astype(int)
        assert np.abs(stored[y, x] - view.rgb[row, column]).max() < 16


def test_an_undefined_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    photo().save(tmp_path / "a.jpg", exif=exif)
    assert one(tmp_path / "a.jpg").ledger.exif_orientation == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_stays_aligned(tmp_path, orientation):
    """A JPEG decoded at a quarter of a size that four does not divide must not shift."""
    blobs = photo(401, 603, seed=5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    blobs.save(tmp_path / "a.jpg", exif=exif, quality=98)
    assert decode(tmp_path / "a.jpg", reduce_to=150).rgb.size != decode(tmp_path / "a.jpg").rgb.size
    small = one(tmp_path / "a.jpg", size=50, patch_size=10).rgb.astype(float)
    blobs.save(tmp_path / "b.png", exif=exif)
    full = one(tmp_path / "b.png", size=50, patch_size=10).rgb.astype(float)
    assert np.abs(small - full).mean() < 0.6


def test_reduced_decoding_knows_where_the_last_partial_pixel_lies(tmp_path):
    """603x401 at a quarter is 150.75x100.25: the decoder fills up to 151x101, at the far ends."""
    exif = Image.Exif()
    for orientation, box in {1: (0, 0, 150.75, 100.25), 3: (0.25, 0.75, 151, 101)}.items():
        exif[0x0112] = orientation
        photo(401, 603).save(tmp_path / "a.jpg", exif=exif)
        assert decode(tmp_path / "a.jpg", reduce_to=150).box == box
    exif[0x0112] = 6  # stored x runs down, stored y runs left
    photo(401, 603).save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg", reduce_to=150).box == (0.75, 0, 101, 150.75)


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(16, 5000),
    width=st.integers(16, 5000),
    size=st.sampled_from([224, 448, 512, 518]),
    patch=st.sampled_from([14, 16]),
)
def test_fit_keeps_nearly_everything_and_stays_isotropic(height, width, size, patch):
    try:
        h, w = network_size(height, width, size, patch)
    except ValueError:
        assert max(height, width) / min(height, width) > size / (3 * patch)
        return
    assert h % patch == w % patch == 0 and min(h, w) >= 2 * patch
    assert max(h, w) == size // patch * patch
    kept = min(width / height, w / h) / max(width / height, w / h)
    short = min(height, width) / max(height, width) * max(h, w)
    assert kept >= min(short, min(h, w)) / max(short, min(h, w)) - 1e-9
    assert abs(short - min(h, w)) <= patch / 2 + 1e-6
    if height == width:
        assert h == w


@pytest.mark.parametrize("shape", [(480, 641), (77, 64), (1000, 750), (90, 133)])
def test_the_ledger_describes_the_pixels(tmp_path, shape):
    """A ramp that encodes its own coordinates reads as the ledger's map at every network pixel."""
    height, width = shape
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5) / height
    ramp = np.stack(np.broadcast_arrays(x[None], y[:, None], 0.5), -1)
    Image.fromarray((ramp * 255).round().astype(np.uint8)).save(tmp_path / "a.png")
    view = one(tmp_path / "a.png", size=128)
    scale = view.ledger.network_from_original
    assert abs(scale[0, 0] / scale[1, 1] - 1) < 0.012  # crops are whole pixels
    h, w = view.size
    rows, columns = np.mgrid[4 : h - 4, 4 : w - 4] + 0.5
    original = view.ledger.points_to_original(np.stack([columns, rows], -1))
    seen = view.rgb[4 : h - 4, 4 : w - 4] / 255
    np.testing.assert_allclose(seen[..., 0], original[..., 0] / width, atol=0.006)
    np.testing.assert_allclose(seen[..., 1], original[..., 1] / height, atol=0.006)


def test_square_images():
    assert network_size(300, 300) == (512, 512)
    assert network_size(300, 300, square_ok=False) == (384, 512)


# -- the published loader -------------------------------------------------------------------------


def test_reference_sizes():
    rows = json.loads((GOLDEN / "load_images_sizes.json").read_text())["rows"]
    assert len(rows) > 40
    for width, height, size, square_ok, patch, [expected] in rows:
        got = network_size(
            height, width, size, patch, layout="reference", square_ok=bool(square_ok)
        )
        assert list(got) == expected, (width, height, size, square_ok, patch)


def test_reference_table_of_resizes_and_crops():
    from weav3r.inference.images import _reference_plan

    table = np.load(GOLDEN / "image_loading.npz")["table"]
    for row in table:
        mode, size, patch, square_ok, w, h, rw, rh, _, *numbers = row.split()
        left, top, right, bottom, out_w, out_h = map(float, numbers)
        if min(out_w, out_h) == 0:
            with pytest.raises(ValueError, match="too elongated"):
                _reference_plan(int(h), int(w), int(size), int(patch), square_ok == "1")
            continue
        plan = _reference_plan(int(h), int(w), int(size), int(patch), square_ok == "1")
        assert plan.resized == (int(rh), int(rw)), row
        assert plan.crop == (int(top), int(left), int(out_h), int(out_w)), row


@pytest.mark.parametrize(("size", "key"), [(32, "down32_img"), (96, "up96_img_u8")])
def test_reference_pixels(tmp_path, size, key):
    data = np.load(GOLDEN / "load_images_pixels.npz")
    Image.fromarray(data["image_u8_hwc"]).save(tmp_path / "a.png")
    view = one(tmp_path / "a.png", size=size, layout="reference")
    expected = data[key][0].transpose(1, 2, 0)
    if expected.dtype != np.uint8:
        expected = np.round((expected * 0.5 + 0.5) * 255)
    assert view.rgb.shape == expected.shape
    assert np.abs(view.rgb.astype(int) - expected).max() <= 1  # Pillow's filters, one grey level


@pytest.mark.parametrize(("size", "step"), [(64, 1), (128, 1), (224, 7)])
def test_reference_pixels_of_other_sizes(tmp_path, size, step):
    data = np.load(GOLDEN / "image_loading.npz")
    Image.fromarray(data["src"]).save(tmp_path / "a.png")
    view = one(tmp_path / "a.png", size=size, layout="reference")
    got = view.image[:, ::step, ::step].numpy()
    np.testing.assert_allclose(got, data[f"out_size{size}"], atol=2.1 / 255)  # one grey level


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reference_orientation(tmp_path, orientation):
    data = np.load(GOLDEN / "image_loading.npz")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(data["exif_src"]).save(tmp_path / "a.png", exif=exif)
    view = one(tmp_path / "a.png", size=64, layout="reference")
    np.testing.assert_allclose(view.image, data[f"exif_{orientation}"], atol=2.1 / 255)


# -- focal length ---------------------------------------------------------------------------------


def focal_of(tmp_path, height=96, width=128, orientation=1, **tags):
    numbers = dict(f35=0xA405, mm=0x920A, w=0xA002, h=0xA003, xres=0xA20E, unit=0xA210)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, value in tags.items():
        exif.get_ifd(0x8769)[numbers[name]] = value
    photo(height, width).save(tmp_path / "a.jpg", exif=exif)
    return one(tmp_path / "a.jpg", size=96).exif_focal_px


def test_focal_from_the_35_mm_equivalent_uses_the_diagonal(tmp_path):
    # 160 px of diagonal on the 43.27 mm of a full frame
    assert focal_of(tmp_path, f35=27) == pytest.approx(27 * 160 / np.hypot(36, 24))
    assert focal_of(tmp_path, f35=27, orientation=6) == pytest.approx(27 * 160 / np.hypot(36, 24))


def test_focal_from_the_sensor_resolution(tmp_path):
    resolution: dict[str, Any]
    resolution = dict(mm=IFDRational(43, 10), xres=IFDRational(1280, 1), w=128, h=96)
    assert focal_of(tmp_path, **resolution, unit=3) == pytest.approx(4.3 * 128)
    assert focal_of(tmp_path, **resolution, unit=2) == pytest.approx(4.3 * 1280 / 25.4)
    resolution.update(w=256, h=192)  # the file was halved after the exposure
    assert focal_of(tmp_path, **resolution, unit=3) == pytest.approx(4.3 * 64)


@pytest.mark.parametrize(
    "tags",
    [
        dict(mm=4.3),
        dict(f35=0),
        dict(f35=27, w=128, h=128),  # cropped
        dict(f35=1),  # no lens is that wide
        dict(f35=27, mm=4.3, xres=12800.0, unit=3, w=128, h=96),  # the two ways disagree
        dict(mm=4.3, xres=1280.0, unit=1, w=128, h=96),  # no unit
    ],
)
def test_focal_stays_open_when_exif_is_ambiguous(tmp_path, tags):
    assert focal_of(tmp_path, **tags) is None


# -- files that cannot be used --------------------------------------------------------------------


def bad_files(folder):
    photo().save(folder / "good.jpg")
    whole = (folder / "good.jpg").read_bytes()
    photo(seed=1).save(folder / "x.png")
    png = (folder / "x.png").read_bytes()
    (folder / "x.png").unlink()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "truncated.png").write_bytes(png[: len(png) // 2])
    (folder / "flipped.png").write_bytes(png[:200] + bytes(b ^ 255 for b in png[200:]))
    (folder / "header.png").write_bytes(png[:20])
    (folder / "text.jpg").write_text("this is not a picture")
    (folder / "noise.jpg").write_bytes(bytes(range(256)) * 4)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "copy.jpg").write_bytes(whole)
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("RGB", (4000, 40)).save(folder / "thin.png")
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (folder / "page.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "notes.txt").write_text("ignored")
    (folder / ".hidden.jpg").write_bytes(whole)
    (folder / "sub.jpg").mkdir()


REASONS = {
    "truncated.jpg": "damaged or cut short",
    "truncated.png": "damaged or cut short",
    "flipped.png": "damaged or cut short",
    "header.png": "not an image|damaged",
    "text.jpg": "not an image.*text",
    "noise.jpg": "not an image.*data",
    "empty.jpg": "empty file",
    "good.jpg": "duplicate of copy.jpg",
    "pixel.png": "only 1x1 pixels",
    "thin.png": r"too elongated \(4000x40\)",
    "photo.heic": "pillow-heif|damaged|not an image",
    "page.jpg": "not an image",
    "dangling.jpg": "not a regular file",
}


def test_bad_files_are_named_with_their_reason_and_the_rest_goes_on(tmp_path):
    bad_files(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_images(tmp_path, size=64)
    assert [view.name for view in loaded.views] == ["copy.jpg"]
    reasons = {Path(p.path).name: p.reason for p in loaded.problems}
    assert set(reasons) == set(REASONS)
    for name, pattern in REASONS.items():
        assert re.search(pattern, reasons[name]), (name, reasons[name])
    assert all(p.skipped for p in loaded.problems)


def test_nothing_usable_is_one_error_that_lists_every_file(tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(ValueError) as error:
        load_images(tmp_path)
    lines = str(error.value).splitlines()
    assert lines[0] == "none of the 2 images can be used:"
    assert lines[1].startswith(f"  {tmp_path / 'a.jpg'}: is not an image")
    assert lines[2] == f"  {tmp_path / 'b.jpg'}: is an empty file"


def test_unreadable_files(tmp_path, monkeypatch):
    photo().save(tmp_path / "a.jpg")
    photo(seed=1).save(tmp_path / "b.jpg")
    real = Image.open

    def guarded(path, *args, **kwargs):  # chmod does not stop root
        if Path(path).name == "a.jpg":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", guarded)
    loaded = load_images(tmp_path, size=64)
    assert [p.reason for p in loaded.problems] == ["cannot be read: permission denied"]
    assert len(loaded) == 1


def test_megapixel_limits(tmp_path, monkeypatch):
    photo().save(tmp_path / "small.png")
    Image.new("L", (2000, 1500)).save(tmp_path / "large.png")
    loaded = load_images(tmp_path, size=64, max_megapixels=2.9)
    assert "is too large with 3 megapixels; the limit is 3" in loaded.problems[0].reason
    assert len(load_images(tmp_path, size=64, max_megapixels=3.1)) == 2
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)  # Pillow warns: not our user's matter
    assert load_images(tmp_path, size=64).problems == []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # Pillow refuses
    assert "is too large" in load_images(tmp_path, size=64).problems[0].reason


def test_warnings_of_pillow_become_notes_of_their_own_file(tmp_path, monkeypatch):
    for index in range(12):
        photo(seed=index).save(tmp_path / f"{index}.png")
    real = Image.open

    def warns(path, *args, **kwargs):
        if int(Path(path).stem) % 3 == 0:
            warnings.warn(f"corrupt EXIF data in {Path(path).stem}", stacklevel=1)
            time.sleep(0.01)  # so that the threads overlap
            warnings.warn(f"corrupt EXIF data in {Path(path).stem}", stacklevel=1)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_images(tmp_path, size=64)
    assert [v.name for v in loaded.views] == [f"{i}.png" for i in range(12)]
    assert [(Path(p.path).stem, p.reason) for p in loaded.problems] == [
        (str(i), f"while reading: corrupt EXIF data in {i}") for i in (0, 3, 6, 9)
    ]
    assert loaded.skipped == []


def test_damaged_exif_does_not_stop_an_image(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x920A] = 4.0
    photo().save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    at = data.index(b"Exif\0\0") + 6 + 8
    (tmp_path / "a.jpg").write_bytes(data[:at] + b"\xff\xff" + data[at + 2 :])  # 65535 tags
    loaded = load_images(tmp_path, size=64)
    assert len(loaded) == 1 and loaded.skipped == []


# -- what may be given ----------------------------------------------------------------------------


def test_folders_are_read_in_natural_order(tmp_path):
    for index, name in enumerate(["img10.png", "img2.png", "IMG1.png", "b.png"]):
        photo(seed=index).save(tmp_path / name)
    names = [view.name for view in load_images(str(tmp_path), size=64).views]
    assert names == ["b.png", "IMG1.png", "img2.png", "img10.png"]


def test_lists_keep_their_order_and_get_unique_names(tmp_path):
    paths = []
    names = ["b/0/x.png", "a/0/x.png", "a/1/x.png"]
    for index, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True)
        photo(seed=index).save(tmp_path / name)
        paths.append(tmp_path / name)
    assert [v.name for v in load_images(paths, size=64).views] == [
        "b/0/x.png",
        "a/0/x.png",
        "a/1/x.png",
    ]
    assert [v.name for v in load_images(paths[1:], size=64).views] == ["0/x.png", "1/x.png"]
    again = load_images([paths[0], paths[0]], size=64)
    assert [p.reason for p in again.problems] == ["duplicate of x.png"]


def test_a_wrong_suffix_does_not_matter_for_a_given_file(tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "upload")
    assert one(tmp_path / "upload").name == "upload"


def test_progress(tmp_path):
    photo().save(tmp_path / "a.png")
    calls = []
    load_images(
        [tmp_path / "a.png", np.asarray(photo())], size=64, progress=lambda *x: calls.append(x)
    )
    assert calls == [(1, 2), (2, 2)]


def test_missing_files_are_named(tmp_path):
    photo().save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*nowhere"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no such file: .*gone.jpg"):
        load_images([tmp_path / "a.png", tmp_path / "gone.jpg"])


def test_folders_without_images(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no images in .*: it holds 1 other files .*\.jpg"):
        load_images(tmp_path)
    with pytest.raises(ValueError, match="is a folder"):
        load_images([tmp_path])
    with pytest.raises(ValueError, match="list of images is empty"):
        load_images([])


@pytest.mark.parametrize(
    ("argument", "match"), [(5, "got int"), ([5], "got int"), (None, "got NoneType")]
)
def test_wrong_types(argument, match):
    with pytest.raises(TypeError, match=match):
        load_images(argument)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(size=16), "at least two patches of 16 px, got size=16"),
        (dict(patch_size=0), "at least two patches"),
        (dict(layout="pad"), "layout must be 'fit' or 'reference', got 'pad'"),
    ],
)
def test_wrong_options(options, match):
    with pytest.raises(ValueError, match=match):
        load_images(np.asarray(photo()), **options)


def test_problems_read_as_a_sentence():
    assert str(ImageProblem("a.jpg", "is an empty file")) == "a.jpg: is an empty file"
