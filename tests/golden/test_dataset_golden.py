"""Correspondences, crops, mixtures, batches and learning rates against the golden vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weav3r.datasets.correspondences import reciprocal_pixels, sample_pixel_pairs
from weav3r.datasets.crops import (
    homography_crop,
    random_windows,
    rotate_pixels,
    rotate_quarters,
    transpose_intrinsics,
    transpose_pixels,
)
from weav3r.datasets.posed_view import K_from_integer_centres, K_to_integer_centres, PosedView
from weav3r.datasets.sampling import Concatenated, Repeated, Resized, ShapedBatches, Whole
from weav3r.train.schedule import warmup_cosine

SAMPLING = json.loads(
    (Path(__file__).parent / "data" / "sampling.json").read_text(encoding="utf-8")
)


@pytest.fixture
def file(golden) -> dict[str, np.ndarray]:
    return golden("dataset_geometry")


@pytest.fixture
def views(file) -> tuple[PosedView, PosedView]:
    def read(prefix: str) -> PosedView:
        depth = file[f"{prefix}/depthmap"]
        return PosedView(
            # Each pixel holds its own index, so that a turned image tells where it came from.
            np.arange(depth.size * 3, dtype=np.uint32).astype(np.uint8).reshape(*depth.shape, 3),
            depth,
            K_from_integer_centres(file[f"{prefix}/camera_intrinsics"]),
            file[f"{prefix}/camera_pose"].astype(np.float64),
        )

    return read("corres/view1"), read("corres/view2")


def test_points_of_a_view(file, views) -> None:
    for number, view in zip((1, 2), views, strict=True):
        points = file[f"corres/view{number}/pts3d"]
        np.testing.assert_allclose(view.pointmap_world, points, atol=1e-5)
        np.testing.assert_array_equal(view.valid, file[f"corres/view{number}/valid_mask"])


def test_reciprocal_pixels(file, views) -> None:
    pixels1, pixels2 = reciprocal_pixels(*views)
    np.testing.assert_array_equal(pixels1, file["corres/all_xy1"])
    np.testing.assert_array_equal(pixels2, file["corres/all_xy2"])


def test_sampled_pairs(file, views) -> None:
    matches, sizes = reciprocal_pixels(*views), (views[0].size, views[1].size)
    pairs = sample_pixel_pairs(matches, sizes, 256, 0.5, np.random.default_rng(3))
    np.testing.assert_array_equal(pairs.pixels1, file["corres/n256_nneg0.5/xy1"])
    np.testing.assert_array_equal(pairs.pixels2, file["corres/n256_nneg0.5/xy2"])
    np.testing.assert_array_equal(pairs.valid, file["corres/n256_nneg0.5/valid"])
    more = sample_pixel_pairs(matches, sizes, 1600, 0.25, np.random.default_rng(0))
    assert more.valid.sum() == file["corres/n1600_nneg0.25/valid_count"]


@pytest.mark.parametrize("case", [0, 1])
def test_homography_crop(file, case: int) -> None:
    # The formula holds in either counting of pixels, as long as K and window use the same.
    prefix = f"homcrop/{case}"
    width, height = file[f"{prefix}/target"].tolist()
    size = None if width < 0 else (height, width)
    left, top, right, bottom = file[f"{prefix}/crop"].tolist()
    crop = homography_crop(file[f"{prefix}/K"], (left, top, right, bottom), size)
    assert list(crop.size[::-1]) == file[f"{prefix}/imsize"].tolist()
    np.testing.assert_allclose(crop.K, file[f"{prefix}/K_new"], rtol=1e-6)
    np.testing.assert_allclose(crop.old_from_new, file[f"{prefix}/R"], atol=1e-6)
    np.testing.assert_allclose(crop.homography, file[f"{prefix}/H"], rtol=1e-5, atol=1e-6)


def test_random_windows(file) -> None:
    windows = random_windows((480, 640), (384, 512), 100.0, 4, np.random.default_rng(11))
    np.testing.assert_allclose(windows, file["random_crops"], rtol=1e-12)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns(file, views, quarters: int) -> None:
    prefix, view = f"rot90/k{quarters}", views[1]
    turned = rotate_quarters(view, quarters)
    np.testing.assert_allclose(turned.world_from_cam, file[f"{prefix}/camera_pose"], atol=1e-6)
    K = K_to_integer_centres(turned.K)
    np.testing.assert_allclose(K, file[f"{prefix}/camera_intrinsics"], atol=1e-6)
    assert list(turned.size) == file[f"{prefix}/true_shape"].tolist()
    pixels = rotate_pixels(file["rot90/k0/corres"], view.size, quarters)
    np.testing.assert_array_equal(pixels, file[f"{prefix}/corres"])
    index = np.rot90(np.arange(view.depth.size).reshape(view.size), quarters)
    corners = [index[0, 0], index[0, -1], index[-1, 0], index[-1, -1]]
    np.testing.assert_array_equal(corners, file[f"{prefix}/img_corner_values"])
    source = view.image.reshape(-1, 3)[index]
    np.testing.assert_array_equal(turned.image, source)
    if f"{prefix}/pts3d_subsampled" in file:
        expected = file[f"{prefix}/pts3d_subsampled"]
        rows, columns = (n // m for n, m in zip(turned.size, expected.shape, strict=False))
        points = turned.pointmap_world[::rows, ::columns]
        np.testing.assert_allclose(points, expected, atol=1e-5)


def test_transposed_storage(file, views) -> None:
    turned = rotate_quarters(views[1], 1)
    K = transpose_intrinsics(K_to_integer_centres(turned.K))
    np.testing.assert_allclose(K, file["transposed_k1/camera_intrinsics"], atol=1e-6)
    pixels = transpose_pixels(file["rot90/k1/corres"])
    np.testing.assert_array_equal(pixels, file["transposed_k1/corres"])
    assert list(turned.image.transpose(2, 1, 0).shape) == file["transposed_k1/img_shape"].tolist()
    assert list(turned.size) == file["transposed_k1/true_shape"].tolist()


def test_order_of_mixed_data_sets() -> None:
    counts = {"A": 5, "B": 3, "C": 10}
    assert SAMPLING["dataset"] == "7 @ A(5) + 2 * B(3) + 4 @ C(10), set_epoch(2)"
    mixture = Concatenated(
        (
            Resized(Whole(counts["A"]), 7),
            Repeated(Whole(counts["B"]), 2),
            Resized(Whole(counts["C"]), 4),
        )
    )
    items = mixture.items(2)
    assert len(mixture) == len(items) == SAMPLING["length"]
    lengths = np.array(list(counts.values()))[items[:, 0]]
    np.testing.assert_array_equal(
        np.stack([lengths, items[:, 1]], -1), np.array(SAMPLING["items"])[:, :2]
    )


@pytest.mark.parametrize("case", SAMPLING["samplers"])
def test_batches(case) -> None:
    batches = ShapedBatches(
        case["len_dataset"], case["batch_size"], case["pool_size"], case["rank"], case["world_size"]
    )
    indices = batches.indices(case["epoch"])
    np.testing.assert_array_equal(indices, case["indices"])
    assert len(batches) * case["batch_size"] == case["length"]


def test_learning_rates() -> None:
    case = SAMPLING["lr_schedule"]
    for epoch, expected in case["values"]:
        rate = warmup_cosine(
            epoch, case["lr"], case["epochs"], case["warmup_epochs"], case["min_lr"]
        )
        assert rate == pytest.approx(expected, rel=1e-12)
