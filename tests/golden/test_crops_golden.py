"""Windows for coarse-to-fine matching against the golden vectors."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from weav3r.inference.matching.crops import (
    covering_rows,
    crop_camera,
    crop_pairs,
    fitted_windows,
    grid_windows,
    window_starts,
)


@pytest.fixture
def file(golden) -> dict[str, np.ndarray]:
    return golden("coarse_to_fine")


@pytest.mark.parametrize(
    ("total", "window", "overlap"),
    [(1000, 512, 0.5), (512, 512, 0.5), (513, 512, 0.5), (768, 512, 0.5), (1600, 384, 0.5)]
    + [(1200, 512, 0.25)],
)
def test_window_starts(file, total: int, window: int, overlap: float) -> None:
    expected = file[f"start_{total}_{window}_{overlap}"]
    np.testing.assert_array_equal(window_starts(total, window, overlap), expected)


@pytest.mark.parametrize("size", [(768, 1024), (1024, 768), (1200, 1600), (600, 600)])
def test_grids_and_their_normalisation(file, size: tuple[int, int]) -> None:
    name = "x".join(map(str, size))
    windows = grid_windows(size)
    np.testing.assert_array_equal(windows, file[f"grid_{name}"])
    for forced in (None, (384, 512), (512, 384)):
        expected = file[f"norm_{name}_{forced}"]
        np.testing.assert_array_equal(fitted_windows(windows, size, forced), expected)


def test_crop_pairs(file) -> None:
    height1, width1, height2, width2 = file["sel_shape"].tolist()
    found = crop_pairs(
        file["sel_p1"],
        file["sel_p2"],
        (height1, width1),
        (height2, width2),
        window_size1=(384, 512),
        window_size2=(384, 512),
    )
    np.testing.assert_array_equal(found.windows1, file["sel_crops1"])
    np.testing.assert_array_equal(found.windows2, file["sel_crops2"])


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_greedy_cover(file, share: float) -> None:
    assert covering_rows(file["greedy_w"], share) == file[f"greedy_order_{share}"].tolist()


def test_cameras_of_crops(file) -> None:
    names = [name[:-2] for name in file if name.startswith("homog_") and name.endswith("_R")]
    assert len(names) == 3
    for name in names:
        window = np.array(ast.literal_eval(name.removeprefix("homog_")))
        camera = crop_camera(file["homog_K"], window)
        np.testing.assert_allclose(camera.K, file[f"{name}_K2"], rtol=1e-12)
        np.testing.assert_allclose(camera.photo_from_crop, file[f"{name}_R"], atol=1e-12)
        np.testing.assert_allclose(camera.homography, file[f"{name}_H"], rtol=1e-9, atol=1e-9)
