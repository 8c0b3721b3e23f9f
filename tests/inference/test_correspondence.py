"""Matched pairs that are kept, and asked for single points."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weav3r
from weav3r.inference.correspondence import Correspondence
from weav3r.inference.two_view import PairMatch


@pytest.fixture(scope="module")
def pair() -> PairMatch:
    photos = sorted(weav3r.example_photos()["toy"].iterdir())
    return weav3r.match(*photos, device="cpu", size=128)


@pytest.fixture(scope="module")
def found(pair: PairMatch) -> Correspondence:
    return Correspondence.of(pair)


def test_it_comes_back_from_its_file(found: Correspondence, tmp_path: Path) -> None:
    back = Correspondence.load(found.save(tmp_path / "pair.npz"))
    assert back.names == ("toy_1.jpg", "toy_2.jpg") and back.motion == found.motion
    for name in ("left", "right", "xy1", "xy2", "fits", "guide1", "guide2"):
        assert np.array_equal(getattr(back, name), getattr(found, name))
    assert f"{len(found.xy1)} matches, {int(found.fits.sum())} fit" in back.summary()


def test_points_are_found_where_the_matches_say(found: Correspondence) -> None:
    errors = []
    for k in np.flatnonzero(found.fits)[:40]:
        there = found.find(*found.xy1[k].tolist())
        assert there is not None and 0 <= there[2] <= 1
        errors.append(np.hypot(*(np.array(there[:2]) - found.xy2[k])))
    assert np.median(errors) < 1.5  # a pixel's centre against a match between pixels
    assert found.find(-1, 5) is None and found.find(5, 5000) is None


def test_a_warp_serves_where_there_are_no_descriptors(found: Correspondence) -> None:
    there = np.full((*found.left.shape[:2], 2), np.nan, dtype=np.float32)
    there[3, 4], there[3, 5] = (7.5, 8.5), (-3, 2)
    back = np.full((*found.right.shape[:2], 2), 4.5, dtype=np.float32)
    back[8, 7] = 4.5, 3.5
    warped = replace(found, guide1=there, guide2=back)
    assert warped.find(4.2, 3.9) == pytest.approx((7.5, 8.5, 1.0))
    assert warped.find(5, 3) is None and warped.find(6, 3) is None


def test_the_picture_is_enlarged(found: Correspondence) -> None:
    width = found.left.shape[1] + 8 + found.right.shape[1]
    assert found.picture(scale=3).size == (3 * width, 3 * found.left.shape[0])


def test_a_pair_without_its_prediction_is_an_error(pair: PairMatch) -> None:
    with pytest.raises(ValueError, match=r"make it with weav3r\.match"):
        Correspondence.of(replace(pair, result=None))
