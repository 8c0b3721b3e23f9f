"""Pixel grids, lifting and projecting, normals, and the focal length in a pointmap."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weav3r.geometry.pointmap import (
    focal_from_pointmap,
    normals,
    pixel_grid,
    project,
    unproject,
    unproject_depth,
)

Method = Literal["weiszfeld", "median"]


def intrinsics(focal: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).double()


def test_grid_holds_pixel_centres() -> None:
    grid = pixel_grid(2, 3)
    assert grid.shape == (2, 3, 2)
    torch.testing.assert_close(grid[0, 0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(grid[1, 2], torch.tensor([2.5, 1.5]))


@given(st.integers(0, 10**6))
def test_unproject_then_project_is_the_identity(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    K = torch.stack([intrinsics(50, 6, 8), intrinsics(70, 6, 8)])
    K[:, 0, 1] = 1.5
    depth = torch.rand(2, 6, 8, generator=generator, dtype=torch.float64) + 0.1
    xy, back = project(unproject_depth(depth, K), K)
    torch.testing.assert_close(xy, pixel_grid(6, 8, dtype=torch.float64).expand(2, 6, 8, 2))
    torch.testing.assert_close(back, depth)


def test_invalid_pixels_are_nan_without_gradient() -> None:
    K = intrinsics(10, 2, 2)
    depth = torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    points = unproject_depth(depth, K)
    assert points.isnan().any(-1).tolist() == [[False, True], [True, False]]
    points.nansum().backward()
    assert depth.grad is not None and depth.grad.isfinite().all() and depth.grad[0, 1] == 0
    behind = torch.tensor([[0.0, 0, -1], [0, 0, 0], [0, 0, 1]], requires_grad=True)
    xy, z = project(behind, K.float())
    assert xy.isnan().any(-1).tolist() == [True, True, False]
    assert z.tolist() == [-1, 0, 1]
    xy[2].sum().backward()
    assert behind.grad is not None and behind.grad.isfinite().all()


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    K = intrinsics(5, 3, 4).expand(2, 3, 3).clone().requires_grad_(True)
    depth = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64) + 0.5
    torch.autograd.gradcheck(unproject_depth, [depth.requires_grad_(True), K])
    points = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64) + 0.5
    torch.autograd.gradcheck(project, [points.requires_grad_(True), K])
    xy = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64).requires_grad_(True)
    torch.autograd.gradcheck(
        unproject, [xy, torch.ones(2, 5, dtype=torch.float64, requires_grad=True), K]
    )


def test_normals_of_a_plane_face_the_camera() -> None:
    K = intrinsics(20, 12, 16)
    ray = unproject_depth(torch.ones(12, 16, dtype=torch.float64), K)
    normal = torch.tensor([0.2, -0.1, -1.0], dtype=torch.float64)
    normal = normal / normal.norm()
    pointmap = ray * (-2.0 / (ray @ normal))[..., None]  # the plane normal . x = -2
    torch.testing.assert_close(normals(pointmap), normal.expand(12, 16, 3))
    holed = pointmap.clone()
    holed[5, 5] = torch.nan
    result = normals(holed)
    assert result[5, 4].isnan().all() and result[4, 4].isfinite().all()
    assert normals(torch.ones(2, 3, 3)).isnan().all()


@given(
    st.integers(0, 10**6),
    st.floats(0.4, 4.0),
    st.sampled_from(["weiszfeld", "median"]),
    st.booleans(),
)
def test_focal_of_an_exact_pointmap(
    seed: int, relative: float, method: Method, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    focal = torch.tensor([relative, 2 * relative], dtype=torch.float64) * 24
    pp = torch.tensor([[11.0, 9.5], [13.0, 8.0]], dtype=torch.float64)
    K = torch.diag_embed(torch.stack([focal, focal, torch.ones(2).double()], -1))
    K[:, :2, 2] = pp
    depth = torch.rand(2, 18, 24, generator=generator, dtype=torch.float64) + 0.5
    pointmap = 3.7 * unproject_depth(depth, K)
    confidence = None
    if weighted:
        confidence = torch.rand(2, 18, 24, generator=generator, dtype=torch.float64) + 1
        pointmap[:, 0, :5] = 10.0
        confidence[:, 0, :5] = 0
        pointmap[:, 3, 3] = torch.nan
    found = focal_from_pointmap(pointmap, confidence, pp, method)
    torch.testing.assert_close(found, focal, rtol=1e-6, atol=0)
    assert found.shape == (2,)


@pytest.mark.parametrize("method", ["weiszfeld", "median"])
def test_focal_is_robust_and_confidence_helps(method: Method) -> None:
    generator = torch.Generator().manual_seed(0)
    K = intrinsics(30, 24, 32)
    pointmap = unproject_depth(torch.rand(24, 32, generator=generator).double() + 1, K)
    wrong = torch.rand(24, 32, generator=generator) < 0.2
    pointmap[wrong] = pointmap[wrong] * torch.tensor([1.0, 1.0, 0.6])
    plain = focal_from_pointmap(pointmap, method=method)
    sure = focal_from_pointmap(pointmap, torch.where(wrong, 0.01, 1.0).double(), method=method)
    assert float(plain) == pytest.approx(30, rel=1e-3)
    assert float(sure) == pytest.approx(30, rel=1e-6)


def test_focal_range_bounds_the_result() -> None:
    pointmap = unproject_depth(torch.ones(10, 20).double(), intrinsics(500, 10, 20))
    reference = 20 / (2 * 3**-0.5)
    assert float(focal_from_pointmap(pointmap, focal_range=(0.5, 2))) == pytest.approx(
        2 * reference
    )


def test_focal_of_an_empty_pointmap_is_not_a_crash() -> None:
    assert focal_from_pointmap(torch.full((4, 4, 3), torch.nan)).shape == ()
    assert focal_from_pointmap(torch.full((4, 4, 3), torch.nan), torch.ones(4, 4)).shape == ()


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"K \(..., 3, 3\)"):
        project(torch.zeros(2, 3), torch.eye(4))
    with pytest.raises(ValueError, match="insert axes of size 1"):
        project(torch.ones(3), torch.eye(3).expand(2, 3, 3))
    with pytest.raises(ValueError, match=r"points \(..., 3\)"):
        project(torch.zeros(2, 2), torch.eye(3))
    with pytest.raises(ValueError, match=r"depth \(..., H, W\)"):
        unproject_depth(torch.ones(3), torch.eye(3))
    with pytest.raises(ValueError, match="one K per depth map"):
        unproject_depth(torch.ones(2, 4, 4), torch.eye(3).expand(2, 2, 3, 3))
    with pytest.raises(ValueError, match="2x2 or more"):
        normals(torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match="pointmap"):
        focal_from_pointmap(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="expected confidence"):
        focal_from_pointmap(torch.ones(5, 4, 3), torch.ones(4, 5))
    with pytest.raises(ValueError, match="weiszfeld"):
        focal_from_pointmap(torch.ones(5, 4, 3), method="mean")  # type: ignore[arg-type]
