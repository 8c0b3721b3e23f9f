"""The ledger against Pillow's own pixels, and round trips of pixels, intrinsics and maps."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from weav3r.geometry.ledger import Ledger


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Any chain of up to five resizes, crops and pads after any EXIF orientation."""
    sizes = st.integers(1, 300)
    ledger = Ledger.from_file_size(draw(sizes), draw(sizes), draw(st.integers(1, 8)))
    for step in draw(st.lists(st.sampled_from(["resize", "crop", "pad"]), max_size=5)):
        height, width = ledger.network_size
        if step == "resize":
            ledger = ledger.resized(draw(sizes), draw(sizes))
        elif step == "crop":
            top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
            ledger = ledger.cropped(
                top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
            )
        else:
            ledger = ledger.padded(*(draw(st.integers(0, 40)) for _ in range(4)))
    return ledger


def exif_pixels(array: np.ndarray, orientation: int) -> np.ndarray:
    """What Pillow makes of an image with an EXIF orientation."""
    image = Image.fromarray(array)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_agrees_with_pillow(orientation: int) -> None:
    stored = np.arange(35, dtype=np.uint8).reshape(5, 7)
    upright = exif_pixels(stored, orientation)
    ledger = Ledger.from_file_size(5, 7, orientation)
    assert ledger.original_size == upright.shape
    y, x = np.mgrid[: upright.shape[0], : upright.shape[1]]
    where = np.floor(ledger.points_to_stored(np.stack([x, y], axis=-1) + 0.5)).astype(int)
    np.testing.assert_array_equal(stored[where[..., 1], where[..., 0]], upright)


@given(ledgers())
def test_points_round_trip(ledger: Ledger) -> None:
    height, width = ledger.original_size
    xy = np.random.default_rng(0).uniform([0, 0], [width, height], (20, 2))
    for there, back in (
        (ledger.points_to_network, ledger.points_to_original),
        (ledger.points_to_stored, ledger.points_from_stored),
    ):
        np.testing.assert_allclose(back(there(xy)), xy, rtol=0, atol=1e-6)
    stored = ledger.points_to_stored(xy)
    assert (stored >= -1e-9).all()
    assert (stored <= np.array(ledger.stored_size[::-1]) + 1e-9).all()
    tensor = ledger.points_to_network(torch.from_numpy(xy))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), ledger.points_to_network(xy), rtol=1e-12)


@given(ledgers())
def test_intrinsics_round_trip_and_agree_with_points(ledger: Ledger) -> None:
    K = np.array([[210.0, 1.5, 80.0], [0, 190.0, 70.0], [0, 0, 1]])
    in_network = ledger.K_to_network(K)
    np.testing.assert_allclose(ledger.K_to_original(in_network), K, rtol=1e-9, atol=1e-6)
    assert in_network[0, 0] > 0 and in_network[1, 0] == 0 and in_network[2, 2] == 1
    points = np.random.default_rng(1).uniform([-1, -1, 1], [1, 1, 4], (10, 3))

    def pixels(intrinsics: np.ndarray) -> np.ndarray:
        image = points @ intrinsics.T
        return image[:, :2] / image[:, 2:]

    np.testing.assert_allclose(
        ledger.points_to_original(pixels(in_network)), pixels(K), rtol=0, atol=1e-6
    )
    tensor = ledger.K_to_network(torch.from_numpy(K).expand(2, 3, 3))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor[1].numpy(), in_network)


@given(ledgers())
def test_validity_agrees_with_the_geometry(ledger: Ledger) -> None:
    """Without a crop before a pad, a pixel is valid where it maps into the original."""
    valid = ledger.network_valid()
    assert valid.shape == ledger.network_size
    y, x = np.nonzero(valid)
    inside = ledger.points_to_original(np.stack([x + 0.5, y + 0.5], axis=1))
    height, width = ledger.original_size
    assert ((inside >= -1e-6) & (inside <= np.array([width, height]) + 1e-6)).all()


def test_validity_hand_case() -> None:
    ledger = Ledger.from_file_size(4, 6).cropped(0, 1, 4, 5).padded(2, 0, 0, 1).resized(12, 12)
    expected = np.zeros((12, 12), bool)
    expected[4:, :10] = True
    np.testing.assert_array_equal(ledger.network_valid(), expected)
    assert ledger.scale == (2.0, 2.0)
    np.testing.assert_array_equal(ledger.points_to_network([1.0, 0.0]), [0.0, 4.0])


def test_the_chain_follows_the_pixels() -> None:
    """A bright dot is found where the ledger says."""
    image = np.zeros((60, 80), np.uint8)
    image[20:24, 40:44] = 255  # its centre is at x = 42, y = 22
    ledger = (
        Ledger.from_file_size(60, 80).resized(120, 40).cropped(10, 5, 90, 30).padded(3, 0, 7, 0)
    )
    shown = np.asarray(Image.fromarray(image).resize((40, 120), Image.Resampling.BOX))
    shown = np.pad(shown[10:100, 5:35], ((3, 0), (7, 0)))
    y, x = np.mgrid[: shown.shape[0], : shown.shape[1]] + 0.5
    weight = shown / shown.sum()
    np.testing.assert_allclose(
        ledger.points_to_network([42.0, 22.0]), [(x * weight).sum(), (y * weight).sum()]
    )


@given(ledgers(), st.sampled_from(["nearest", "bilinear"]))
def test_maps_back_in_the_original(ledger: Ledger, mode: Literal["nearest", "bilinear"]) -> None:
    height, width = ledger.network_size
    y, x = np.mgrid[:height, :width] + 0.5
    # A linear function of the original's coordinates comes back as itself.
    positions = ledger.points_to_original(np.stack([x, y], axis=-1))
    back = ledger.map_to_original(positions, mode)
    assert back.shape == (*ledger.original_size, 2)
    rows, columns = np.mgrid[: back.shape[0], : back.shape[1]] + 0.5
    seen = np.isfinite(back).all(-1)
    centre = ledger.points_to_network(np.stack([columns, rows], axis=-1))
    top, left, bottom, right = ledger.valid_box
    np.testing.assert_array_equal(
        seen,
        (centre[..., 0] >= left)
        & (centre[..., 0] < right)
        & (centre[..., 1] >= top)
        & (centre[..., 1] < bottom),
    )
    # Up to one network pixel where the map ends, half of one for the nearest.
    tolerance = np.array([1 / ledger.scale[1], 1 / ledger.scale[0]]) * 1.01
    error = np.abs(back - np.stack([columns, rows], axis=-1))[seen]
    assert (error <= tolerance).all()


def test_bilinear_is_exact_inside() -> None:
    ledger = Ledger.from_file_size(40, 60).resized(20, 30)
    y, x = np.mgrid[:20, :30] + 0.5
    plane = 2 * x - 3 * y + 1
    back = ledger.map_to_original(plane, "bilinear")
    rows, columns = (np.mgrid[:40, :60] + 0.5) / 2
    expected = 2 * columns - 3 * rows + 1
    np.testing.assert_allclose(back[1:-1, 1:-1], expected[1:-1, 1:-1])
    nearest = ledger.map_to_original(plane, "nearest")
    np.testing.assert_array_equal(nearest, plane.repeat(2, axis=0).repeat(2, axis=1))


def test_padding_is_never_read() -> None:
    ledger = Ledger.from_file_size(8, 8).padded(4, 4, 4, 4).resized(32, 32)
    values = np.where(ledger.network_valid(), 5.0, 1000.0).astype(np.float32)
    for mode in ("nearest", "bilinear"):
        np.testing.assert_array_equal(ledger.map_to_original(values, mode), np.full((8, 8), 5.0))


def test_maps_with_holes_and_other_types() -> None:
    ledger = Ledger.from_file_size(4, 8).cropped(0, 2, 4, 4).resized(2, 2)
    holes = np.array([[1.0, np.nan], [3.0, 4.0]], np.float32)
    back = ledger.map_to_original(holes, "bilinear")
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back[0], [np.nan] * 2 + [1, 1] + [np.nan] * 4)
    # The hole does not spread into its neighbours.
    assert np.isfinite(back[:2, 2:4]).all() and np.isnan(back[:2, 4:6]).all()
    np.testing.assert_array_equal(
        ledger.map_to_original(torch.tensor([[7, 8], [9, 6]]), "nearest")[3],
        [np.nan, np.nan, 9, 9, 6, 6, np.nan, np.nan],
    )
    mask = ledger.map_to_original(np.array([[True, False], [True, True]]), "nearest")
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask[0], [0, 0, 1, 1, 0, 0, 0, 0])


def test_errors_say_what_to_do() -> None:
    ledger = Ledger.from_file_size(10, 20)
    with pytest.raises(ValueError, match="at least one pixel"):
        Ledger.from_file_size(0, 5)
    with pytest.raises(ValueError, match="exif_orientation must be 1 to 8"):
        Ledger.from_file_size(5, 5, 9)
    with pytest.raises(ValueError, match="at least one pixel"):
        ledger.resized(5, 0)
    with pytest.raises(ValueError, match="use padded"):
        ledger.cropped(0, 5, 10, 16)
    with pytest.raises(ValueError, match="use cropped"):
        ledger.padded(-1)
    with pytest.raises(ValueError, match=r"points \(..., 2\)"):
        ledger.points_to_network(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"intrinsics \(..., 3, 3\)"):
        ledger.K_to_original(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="the network's size"):
        ledger.map_to_original(np.zeros((20, 10)), "nearest")
    with pytest.raises(ValueError, match="mode must be"):
        ledger.map_to_original(np.zeros((10, 20)), "cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="read-only"):
        ledger.network_from_original[0, 0] = 2
