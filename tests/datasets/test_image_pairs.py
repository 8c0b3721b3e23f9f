"""Lists of photo pairs, in the layouts that CroCo's data has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weav3r.datasets.image_pairs import read_image_pairs


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 10), 7, np.uint8)).save(path)


def test_table_of_pairs(tmp_path) -> None:
    (tmp_path / "pairs.txt").write_text("# first second\na.png b.png\n\nc/d.png, e.png  # why\n")
    pairs = read_image_pairs(tmp_path)
    assert pairs.names == (("a.png", "b.png"), ("c/d.png", "e.png"))
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    first, second = pairs.load(0)
    assert first.shape == second.shape == (8, 10, 3) and (first == 7).all()
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as a photo"):
        pairs.load(0)


def test_listing_and_names(tmp_path) -> None:
    for name in ("x/p_1.jpg", "x/p_2.jpg", "x/q_1.jpg", "val/r_1.jpg", "val/r_2.jpg"):
        photo(tmp_path / name)
    assert read_image_pairs(tmp_path).names == (("x/p_1.jpg", "x/p_2.jpg"),)
    (tmp_path / "listing.txt").write_text("# stems\nx/p\nhm3d_val/z\n")
    assert read_image_pairs(tmp_path).names == (("x/p_1.jpg", "x/p_2.jpg"),)


def test_faults_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_image_pairs(tmp_path / "none")
    with pytest.raises(ValueError, match="has no pairs of photos"):
        read_image_pairs(tmp_path)
    (tmp_path / "pairs.txt").write_text("only-one.jpg\n")
    with pytest.raises(ValueError, match="expected two file names a line, got 'only-one.jpg'"):
        read_image_pairs(tmp_path)
