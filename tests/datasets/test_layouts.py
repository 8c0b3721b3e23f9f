"""Each layout that is read, on a generated copy of it; our own layout, strict and whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weav3r.datasets.layout import read_layout, write_layout
from weav3r.datasets.layouts import LAYOUTS, detect_layout, open_data_set

from .made_sets import EXPORTS, Made


@pytest.mark.parametrize("name", EXPORTS)
def test_every_layout_gives_the_views_that_were_stored(
    name: str, made: Made, tmp_path: Path
) -> None:
    EXPORTS[name](made, tmp_path)
    assert detect_layout(tmp_path) == name
    data = open_data_set(tmp_path)
    assert len(data.scenes) == len(made)
    for members, stored in zip(data.scenes.values(), made.values(), strict=True):
        order = sorted(range(len(stored)), key=lambda n: (n % 2, n // 2))
        numbers = order if name == "staticthings" else range(len(members))
        assert len(members) == (5 if name == "habitat" else len(stored))
        for k, n in zip(members, numbers, strict=True):
            view, truth = data.load(k), stored[n]
            np.testing.assert_allclose(view.K, truth.K, atol=1e-4)
            np.testing.assert_allclose(view.world_from_cam, truth.world_from_cam, atol=1e-5)
            error = np.abs(view.image.astype(int) - truth.image).mean()
            assert error < 6  # grey levels that JPEG costs in noise
            if name != "colmap":
                step = 2 if name in ("scannet", "arkitscenes") else 1
                np.testing.assert_allclose(
                    view.depth[::step, ::step], truth.depth[::step, ::step], atol=6e-4
                )
            else:
                known = view.depth > 0
                assert known.sum() > 20
                np.testing.assert_allclose(view.depth[known], truth.depth[known], rtol=0.2)


def test_every_layout_has_a_generated_copy() -> None:
    assert set(EXPORTS) == set(LAYOUTS)


def test_a_copy_in_our_layout_is_the_same(made: Made, tmp_path: Path) -> None:
    EXPORTS["megadepth"](made, tmp_path / "from")
    source = open_data_set(tmp_path / "from")
    copy = write_layout(source, tmp_path / "copy")
    assert copy.splits == {"train": ("0014/0",), "val": ("0015/0",)}
    assert copy.pairs is not None and source.pairs is not None
    np.testing.assert_array_equal(copy.pairs.index, source.pairs.index)
    for k in (0, len(copy) - 1):
        a, b = source.load(k), copy.load(k)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_array_equal(a.K, b.K)
        np.testing.assert_array_equal(a.world_from_cam, b.world_from_cam)
    with pytest.raises(FileExistsError, match="is not empty"):
        write_layout(source, tmp_path / "copy")


def test_points_survive_the_copy(made: Made, tmp_path: Path) -> None:
    EXPORTS["colmap"](made, tmp_path / "from")
    source = open_data_set(tmp_path / "from")
    copy = write_layout(source, tmp_path / "copy")
    np.testing.assert_array_equal(source.load(3).depth, copy.load(3).depth)


def edit_index(folder: Path, **entries: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def edit_view(folder: Path, line: int, **entries: object) -> None:
    path = folder / "views.jsonl"
    lines = path.read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | entries)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, 'expected "format"'),
        ({"version": 2}, "version 2, this reads 1"),
        ({"unit": "mm"}, "unit must be one of"),
        ({"colour": "red"}, r"unknown entries \['colour'\]"),
        ({"splits": {"train": ["attic"]}}, "split train names unknown scenes"),
        ({"splits": {"a": ["room0"], "b": ["room0"]}}, "a scene is in two splits"),
        ({"splits": []}, "splits must be an object"),
        ({"points": {"attic": "a.npz"}}, "points of unknown scenes"),
        ({"meshes": {"room0": "/etc/a.ply"}}, "relative to and inside"),
    ],
)
def test_a_wrong_index_is_named(change: dict, message: str, made: Made, tmp_path: Path) -> None:
    EXPORTS["weav3r"](made, tmp_path)
    edit_index(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, r"line 3: missing entries \[\], unknown entries \['colour'\]"),
        ({"K": [[1, 0], [0, 1]]}, "expected K"),
        ({"K": np.diag([-1.0, 1, 1]).tolist()}, "line 3: K needs positive focal lengths"),
        ({"K": "wide"}, "line 3"),
        ({"world_from_cam": np.diag([1.0, 1, -1, 1]).tolist()}, "line 3: world_from_cam holds a m"),
        ({"image": "../other.png"}, "relative to and inside"),
        ({"depth": "a.tif"}, "a depth map is one of"),
        ({"depth": {"scale": 2}}, "depth must be a file"),
        ({"scene": "room0", "name": "000"}, "the view room0/000 is listed twice"),
    ],
)
def test_a_wrong_view_is_named(change: dict, message: str, made: Made, tmp_path: Path) -> None:
    EXPORTS["weav3r"](made, tmp_path)
    edit_view(tmp_path, 2, **change)
    with pytest.raises(ValueError, match=message):
        read_layout(tmp_path)


def test_missing_files_and_damaged_lines_are_named(made: Made, tmp_path: Path) -> None:
    EXPORTS["weav3r"](made, tmp_path)
    (tmp_path / "images" / "room0" / "003.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 files, such as .*003\.png"):
        read_layout(tmp_path)
    read_layout(tmp_path, strict=False)
    views = tmp_path / "views.jsonl"
    views.write_text("{" + views.read_text())
    with pytest.raises(ValueError, match="line 1: no readable JSON"):
        read_layout(tmp_path)
    views.unlink()
    with pytest.raises(FileNotFoundError, match="has no views.jsonl"):
        read_layout(tmp_path)


def test_what_is_no_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="looks like no data set; layouts that are read: weav3r"):
        open_data_set(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        open_data_set(tmp_path / "missing")
    with pytest.raises(ValueError, match="unknown layout 'blender'"):
        open_data_set(tmp_path, "blender")
    with pytest.raises(FileNotFoundError, match="it has no dataset.json"):
        read_layout(tmp_path)


def test_a_photo_of_another_size_is_refused(made: Made, tmp_path: Path) -> None:
    EXPORTS["weav3r"](made, tmp_path)
    edit_view(tmp_path, 0, size=[144, 192])
    with pytest.raises(ValueError, match="has 96x72 pixels, and its K is for 192x144"):
        read_layout(tmp_path).load(0)
