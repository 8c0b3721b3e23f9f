"""The bundled photographs: complete, small, free of place data, and each with its source."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(str(files("weav3r"))) / "examples"
PAIRS = ("books", "donkey_toy", "leuven", "living_room", "toy")
GPS_TAG = 34853


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_has_two_photographs_of_one_size(pair: str) -> None:
    photos = [EXAMPLES / pair / f"{pair}_{number}.jpg" for number in (1, 2)]
    assert sorted((EXAMPLES / pair).iterdir()) == photos
    with Image.open(photos[0]) as first, Image.open(photos[1]) as second:
        assert first.size == second.size
        assert GPS_TAG not in first.getexif() and GPS_TAG not in second.getexif()


def test_every_pair_has_a_line_in_sources_and_the_total_is_small() -> None:
    sources = (EXAMPLES / "SOURCES.md").read_text(encoding="utf-8")
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    assert [name for name in folders if not name.startswith("__")] == list(PAIRS)
    assert all(f"`{pair}/`" in sources for pair in PAIRS)
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*.jpg")) < 1_200_000


def test_calibration_fits_the_photographs() -> None:
    calibration = json.loads((EXAMPLES / "calibration.json").read_text(encoding="utf-8"))
    for pair in calibration["pairs"]:
        with Image.open(EXAMPLES / pair / f"{pair}_1.jpg") as photo:
            assert photo.size == (calibration["width"], calibration["height"])
    K = np.array(calibration["K"])
    cam2_from_cam1 = np.array(calibration["cam2_from_cam1"])
    # A point 2 m ahead moves left by focal x baseline / depth in the right camera's photograph.
    ahead = np.array([0.0, 0.0, 2.0, 1.0])
    in_first, in_second = K @ ahead[:3], K @ (cam2_from_cam1 @ ahead)[:3]
    disparity = in_first[0] / in_first[2] - in_second[0] / in_second[2]
    assert disparity == pytest.approx(451.034 * 0.075 / 2, abs=1e-3)
