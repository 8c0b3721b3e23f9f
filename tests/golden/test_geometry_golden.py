"""Focal lengths, Procrustes and the geometry of crops against the golden vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from weav3r.geometry.ledger import Ledger
from weav3r.geometry.pointmap import focal_from_pointmap
from weav3r.geometry.transforms import transform_points, weighted_procrustes

Reader = Callable[[str], Mapping[str, NDArray[Any]]]

CROPS = json.loads(
    (Path(__file__).parent / "data" / "crop_resize_intrinsics.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("method", ["weiszfeld", "median"])
@pytest.mark.parametrize(
    ("suffix", "bounds"),
    [("", (0.0, np.inf)), ("_clip_0.5_3.5", (0.5, 3.5)), ("_clip_1_1.2", (1.0, 1.2))],
)
def test_focal_from_pointmap(
    golden: Reader,
    method: Literal["weiszfeld", "median"],
    suffix: str,
    bounds: tuple[float, float],
) -> None:
    file = golden("focal")
    pointmaps = torch.from_numpy(file["pts3d"])
    # The published code counts pixel centres at integers.
    principal_point = torch.from_numpy(file["pp"]) + 0.5
    focal = focal_from_pointmap(
        pointmaps, principal_point=principal_point, method=method, focal_range=bounds
    )
    np.testing.assert_allclose(focal.numpy(), file[method + suffix], rtol=1e-5)
    weighted = focal_from_pointmap(
        pointmaps, torch.ones(pointmaps.shape[:-1]), principal_point, method, bounds
    )
    np.testing.assert_allclose(weighted.numpy(), file[method + suffix], rtol=1e-5)


def test_procrustes(golden: Reader) -> None:
    file = golden("ga_units")
    source, target, weights = (
        torch.from_numpy(file[f"procrustes_{name}"]) for name in ("src", "dst", "w")
    )
    fit = weighted_procrustes(source, target, weights)
    assert float(fit.scale) == pytest.approx(float(file["procrustes_s"]), rel=1e-5)
    np.testing.assert_allclose(fit.rotation.numpy(), file["procrustes_R"], atol=1e-5)
    np.testing.assert_allclose(fit.translation.numpy(), file["procrustes_T"], atol=1e-5)
    rigid = weighted_procrustes(source, target, weights, with_scale=False)
    np.testing.assert_allclose(rigid.rotation.numpy(), file["procrustes_noscale_R"], atol=1e-5)
    np.testing.assert_allclose(rigid.translation.numpy(), file["procrustes_noscale_T"], atol=1e-5)
    assert float(rigid.scale) == 1


def test_aligning_camera_centres(golden: Reader) -> None:
    """The published pose alignment is Procrustes on centres and points ahead of the cameras."""
    file = golden("ga_units")
    rotation, scale = file["align_poses_R"], float(file["align_poses_s"])
    source = torch.from_numpy(file["align_poses_src"])
    ahead = torch.tensor([[0.0, 0, 0], [0, 0, 1]], dtype=torch.float64).expand(4, 2, 3)
    points = transform_points(source, ahead).reshape(-1, 3)
    target = scale * points @ torch.from_numpy(rotation).double().mT
    target = target + torch.from_numpy(file["align_poses_T"]).double()
    fit = weighted_procrustes(points, target)
    np.testing.assert_allclose(fit.rotation.numpy(), rotation, atol=1e-5)
    assert float(fit.scale) == pytest.approx(scale, rel=1e-5)


@pytest.mark.parametrize(
    "case",
    [case for case in CROPS if not case["aug_crop"]],
    ids=lambda case: f"{case['loader']}-{case['in_wh']}-{case['resolution']}",
)
def test_intrinsics_after_crop_and_resize(case: dict[str, Any]) -> None:
    (width, height), (out_width, out_height) = case["in_wh"], case["out_wh"]
    # The golden K counts pixel centres at integers.
    K = np.array(case["in_K"])
    cx, cy = round(K[0, 2]), round(K[1, 2])
    K[:2, 2] += 0.5
    ledger = Ledger.from_file_size(height, width)
    if case["loader"] == "dust3r":  # the largest window symmetric about the principal point
        half_width, half_height = min(cx, width - cx), min(cy, height - cy)
        ledger = ledger.cropped(cy - half_height, cx - half_width, 2 * half_height, 2 * half_width)
    height, width = ledger.network_size
    scale = max(out_width / width, out_height / height) + 1e-8
    exact = np.array([height * scale, width * scale])
    rows, columns = np.floor(exact).astype(int)
    ledger = ledger.resized(int(rows), int(columns))
    top, left = round((rows - out_height) / 2), round((columns - out_width) / 2)
    ledger = ledger.cropped(top, left, out_height, out_width)
    found = ledger.K_to_network(K)
    found[:2, 2] -= 0.5
    if np.abs(exact - np.round(exact)).max() < 1e-4:
        np.testing.assert_allclose(found, case["out_K"], rtol=1e-5, atol=1e-3)
    else:
        # Pillow stretches the image to whole pixels; the golden K takes it for scaled by the exact
        # factor and cropped by half the fraction that is cut off. Ours follows the pixels.
        assert np.abs(found - case["out_K"])[:2, 2].max() < 1
        np.testing.assert_allclose(found.diagonal(), np.diag(case["out_K"]), rtol=0.006)


def test_sizes_of_loaded_images_fit_the_ledger() -> None:
    """Every published input size can be told as a resize and a centred crop."""
    path = Path(__file__).parent / "load_images_sizes.json"
    if not path.is_file():
        pytest.skip("load_images_sizes.json is not shipped")
    for in_width, in_height, size, _, _, ((out_height, out_width),) in json.loads(
        path.read_text(encoding="utf-8")
    )["rows"]:
        long_side = round(224 * max(in_width / in_height, in_height / in_width))
        target = long_side if size == 224 else size
        factor = target / max(in_width, in_height)
        rows, columns = round(in_height * factor), round(in_width * factor)
        ledger = Ledger.from_file_size(in_height, in_width).resized(rows, columns)
        top, left = rows // 2 - out_height // 2, columns // 2 - out_width // 2
        ledger = ledger.cropped(top, left, out_height, out_width)
        assert ledger.network_valid().all()
        # Half a pixel where an odd side is cut, and half of one by the rounding of the sides.
        centre = ledger.points_to_network([in_width / 2, in_height / 2])
        assert np.abs(centre - [out_width / 2, out_height / 2]).max() <= 0.5
