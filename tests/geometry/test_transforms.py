"""Group laws of the transforms, and Procrustes on clean, weighted and degenerate points."""

from __future__ import annotations

import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from weav3r.geometry.pointmap import focal_from_pointmap, project, unproject
from weav3r.geometry.transforms import (
    Similarity,
    compose,
    look_at,
    make_rigid,
    quaternion_from_rotation,
    rigid_inverse,
    rotation_angle_deg,
    rotation_from_quaternion,
    transform_points,
    weighted_procrustes,
)

seeds = st.integers(0, 2**31 - 1)


def random_rotations(generator: torch.Generator, *batch: int) -> Tensor:
    quaternion = torch.randn(*batch, 4, generator=generator, dtype=torch.float64)
    return roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1))


def random_rigid(generator: torch.Generator, *batch: int) -> Tensor:
    translation = torch.randn(*batch, 3, generator=generator, dtype=torch.float64)
    return make_rigid(random_rotations(generator, *batch), translation)


def random_similarity(generator: torch.Generator, *batch: int) -> Similarity:
    scale = torch.randn(batch, generator=generator, dtype=torch.float64).exp()
    translation = torch.randn(*batch, 3, generator=generator, dtype=torch.float64)
    return Similarity(scale, random_rotations(generator, *batch), translation)


def assert_same(a: Similarity, b: Similarity, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a.matrix(), b.matrix(), rtol=tolerance, atol=tolerance)


@given(seeds)
def test_rigid_transforms_form_a_group(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b, c = random_rigid(generator, 3, 2)
    identity = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    torch.testing.assert_close(compose(a, rigid_inverse(a)), identity)
    torch.testing.assert_close(compose(rigid_inverse(a), a), identity)
    torch.testing.assert_close(compose(compose(a, b), c), compose(a, compose(b, c)))
    torch.testing.assert_close(compose(a, b, c), a @ b @ c)
    points = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        transform_points(compose(a, b), points), transform_points(a, transform_points(b, points))
    )


@given(seeds)
def test_similarities_form_a_group(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (random_similarity(generator, 2) for _ in range(3))
    identity = Similarity.identity(2, dtype=torch.float64)
    assert_same(a.compose(a.inverse()), identity)
    assert_same(a.inverse().compose(a), identity)
    assert_same(a.compose(identity), a)
    assert_same(a.compose(b).compose(c), a.compose(b.compose(c)))
    points = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(a.compose(b).apply(points), a.apply(b.apply(points)))
    torch.testing.assert_close(a.apply(points), transform_points(a.matrix(), points))


def test_batch_axes_align_from_the_left() -> None:
    generator = torch.Generator().manual_seed(0)
    transforms = random_rigid(generator, 3)
    points = torch.randn(3, 4, 5, 3, generator=generator, dtype=torch.float64)
    moved = transform_points(transforms, points)
    for i in range(3):
        torch.testing.assert_close(moved[i], transform_points(transforms[i], points[i]))
    one_point_each = transform_points(transforms, points[:, 0, 0])
    torch.testing.assert_close(one_point_each, moved[:, 0, 0])
    shared = transform_points(transforms, points[:1])
    assert shared.shape == (3, 4, 5, 3)


def test_translation_hand_case() -> None:
    quarter_turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = transform_points(
        make_rigid(quarter_turn, torch.tensor([1.0, 2, 3])), torch.tensor([1.0, 0, 0])
    )
    torch.testing.assert_close(moved, torch.tensor([1.0, 3, 3]))


@given(seeds, st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 90.0, 179.999, 180.0]))
def test_rotation_angle_is_accurate_everywhere(seed: int, angle_deg: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = random_rotations(generator)
    axis = torch.nn.functional.normalize(
        torch.randn(3, generator=generator, dtype=torch.float64), dim=-1
    )
    turned = base @ roma.rotvec_to_rotmat(axis * torch.deg2rad(torch.tensor(angle_deg)).double())
    angle = rotation_angle_deg(base, turned)
    # deg2rad was rounded to float32: half a unit in the last place of 180.
    assert abs(float(angle) - angle_deg) < 1e-5 * max(angle_deg, 1e-6) + 1e-12


@given(seeds)
def test_quaternions_round_trip(seed: int) -> None:
    rotation = random_rotations(torch.Generator().manual_seed(seed), 4)
    quaternion = quaternion_from_rotation(rotation)
    assert (quaternion[..., 0] >= 0).all()
    torch.testing.assert_close(rotation_from_quaternion(quaternion), rotation)
    torch.testing.assert_close(rotation_from_quaternion(-3 * quaternion), rotation)


def test_quaternion_order_is_wxyz() -> None:
    half = 0.5**0.5
    about_z = rotation_from_quaternion(torch.tensor([half, 0, 0, half]))
    torch.testing.assert_close(
        about_z, torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), rtol=0, atol=1e-6
    )


@given(seeds)
def test_look_at_puts_the_target_on_the_axis_and_up_upward(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    center, target, up = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64)
    cam_from_world = look_at(center, target, up)
    seen = transform_points(cam_from_world, target)
    distance = (target - center).norm(dim=-1)
    torch.testing.assert_close(
        seen, torch.stack([0 * distance, 0 * distance, distance], dim=-1), rtol=0, atol=1e-9
    )
    # One step up in the world is a step towards smaller y in the image.
    assert (transform_points(cam_from_world, target + 1e-3 * up)[:, 1] < 0).all()
    assert (torch.linalg.det(cam_from_world[:, :3, :3]) > 0.999).all()


def test_look_at_along_up_is_still_a_rotation() -> None:
    target = torch.tensor([[0.0, -1, 0], [0, 1, 0], [0, 0, 1]])
    pose = look_at(torch.zeros(3, 3), target)
    rotation = pose[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3))
    torch.testing.assert_close(rotation[:, 2], target)
    torch.testing.assert_close(pose[2], torch.eye(4))


@given(seeds, st.booleans(), st.booleans())
def test_procrustes_recovers_a_similarity(seed: int, weighted: bool, with_scale: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = random_similarity(generator, 3)
    if not with_scale:
        truth = Similarity(torch.ones_like(truth.scale), truth.rotation, truth.translation)
    source = torch.randn(3, 12, 3, generator=generator, dtype=torch.float64)
    target = truth.apply(source)
    weights = None
    if weighted:
        weights = torch.rand(3, 12, generator=generator, dtype=torch.float64)
        weights[:, :4] = 0
        target[:, :2] = 100.0
        target[:, 2:4] = torch.nan
    assert_same(weighted_procrustes(source, target, weights, with_scale), truth, 1e-8)


def test_weights_count_points() -> None:
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    weights = torch.tensor([3.0, 1, 1, 1, 2, 1], dtype=torch.float64)
    repeated = torch.tensor([0, 0, 0, 1, 2, 3, 4, 4, 5])
    assert_same(
        weighted_procrustes(source, target, weights),
        weighted_procrustes(source[repeated], target[repeated]),
    )


@given(seeds)
def test_procrustes_is_a_minimum(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randn(2, 8, 3, generator=generator, dtype=torch.float64)
    fit = weighted_procrustes(source, target)

    def cost(similarity: Similarity) -> Tensor:
        return (similarity.apply(source) - target).square().sum()

    for _ in range(5):
        w, t = 1e-3 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
        s = 1 + 1e-3 * torch.randn((), generator=generator, dtype=torch.float64)
        moved = Similarity(s, roma.rotvec_to_rotmat(w), t).compose(fit)
        assert cost(moved) > cost(fit)


@given(seeds, st.booleans())
def test_coplanar_points_never_mirror(seed: int, mirrored: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = random_similarity(generator)
    source = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    source[:, 2] = 0.3 * source[:, 0]
    target = truth.apply(source)
    if mirrored:
        noise = torch.randn(9, 3, generator=generator, dtype=torch.float64)
        target = truth.apply((source + 0.01 * noise) * torch.tensor([1.0, 1.0, -1.0]).double())
    fit = weighted_procrustes(source, target)
    assert float(torch.linalg.det(fit.rotation)) == pytest.approx(1)
    if not mirrored:
        assert_same(fit, truth, 1e-7)


@pytest.mark.parametrize("kind", ["collinear", "one place", "no weight", "one point"])
def test_degenerate_points_give_a_minimiser_and_finite_gradients(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    truth = random_similarity(generator)
    source = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    if kind == "collinear":
        source = source[:, :1] * source[:1] + source[1]
    elif kind == "one place":
        source = source[:1].repeat(7, 1)
    elif kind == "one point":
        source = source[:1]
    weights = torch.full((len(source),), 0.0 if kind == "no weight" else 1.0, dtype=torch.float64)
    target = truth.apply(source)
    source.requires_grad_(True)
    fit = weighted_procrustes(source, target, weights)
    if kind != "no weight":
        torch.testing.assert_close(fit.apply(source), target, rtol=0, atol=1e-8)
    if kind != "collinear":
        assert float(fit.scale.detach()) == pytest.approx(1)
    assert float(torch.linalg.det(fit.rotation.detach())) == pytest.approx(1)
    (fit.apply(source) - 2 * target).square().sum().backward()
    assert source.grad is not None and source.grad.isfinite().all()


def test_invalid_points_have_no_gradient() -> None:
    generator = torch.Generator().manual_seed(4)
    source, target = torch.randn(2, 8, 3, generator=generator)
    source[0] = torch.nan
    target[1] = torch.inf
    source.requires_grad_(True)
    fit = weighted_procrustes(source, target)
    fit.matrix().square().sum().backward()
    assert source.grad is not None and source.grad.isfinite().all()
    assert (source.grad[:2] == 0).all() and (source.grad[2:] != 0).any()


@pytest.mark.parametrize("with_scale", [True, False])
def test_gradients_of_procrustes(with_scale: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    source, target = torch.randn(2, 2, 6, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 6, generator=generator, dtype=torch.float64) + 0.1
    # Only the part of the gradient without roma's damping (1e-6 of the data's size) is exact.
    torch.autograd.gradcheck(
        lambda s, t, w: weighted_procrustes(s, t, w, with_scale).matrix(),
        [x.requires_grad_(True) for x in (source, target, weights)],
        atol=1e-5,
    )


def test_gradients_of_transforms() -> None:
    generator = torch.Generator().manual_seed(6)
    transform = random_rigid(generator, 2).requires_grad_(True)
    points = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64).requires_grad_(True)
    torch.autograd.gradcheck(transform_points, [transform, points])
    torch.autograd.gradcheck(rigid_inverse, [transform])
    center, target = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    torch.autograd.gradcheck(look_at, [center.requires_grad_(True), target.requires_grad_(True)])


def test_mixed_precision_is_switched_off() -> None:
    generator = torch.Generator().manual_seed(7)
    truth = random_similarity(generator)
    truth = Similarity(truth.scale.float(), truth.rotation.float(), truth.translation.float())
    source = torch.randn(20, 3, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fit = weighted_procrustes(source, truth.apply(source))
        assert fit.rotation.dtype == torch.float32
        # bfloat16 would be off by 1e-2.
        assert_same(fit, truth, 1e-5)
        assert_same(fit.compose(fit.inverse()), Similarity.identity(), 1e-5)
    half = weighted_procrustes(source.half(), source.half())
    assert half.scale.dtype == torch.float32


def test_nothing_looks_at_values() -> None:
    """vmap forbids `.item()` and data-dependent branches: what would make a GPU wait."""
    generator = torch.Generator().manual_seed(8)
    source, target = torch.randn(2, 3, 9, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 9, generator=generator, dtype=torch.float64)
    transform = random_rigid(generator, 3)
    K = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)

    def chain(s: Tensor, t: Tensor, w: Tensor, pose: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        fit = weighted_procrustes(s, t, w)
        moved = transform_points(compose(pose, rigid_inverse(fit.matrix())), s)
        xy, depth = project(moved, k)
        lifted = unproject(xy, depth, k)
        angle = rotation_angle_deg(fit.rotation, pose[:3, :3])
        pointmap = s.reshape(3, 3, 3)
        return lifted, angle, focal_from_pointmap(pointmap), look_at(s[0], t[0])

    mapped = torch.vmap(chain)(source, target, weights, transform, K)
    for i in range(3):
        alone = chain(source[i], target[i], weights[i], transform[i], K[i])
        for together, single in zip(mapped, alone, strict=True):
            torch.testing.assert_close(together[i], single, equal_nan=True)


@pytest.mark.gpu
def test_no_host_synchronisation() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    source = torch.randn(4, 100, 3, device="cuda", requires_grad=True)
    target = torch.randn(4, 100, 3, device="cuda")
    weighted_procrustes(source, target).matrix().sum().backward()  # warm-up of the libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        weighted_procrustes(source, target).matrix().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"rotation \(..., 3, 3\)"):
        make_rigid(torch.eye(4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"transforms \(..., 4, 4\)"):
        rigid_inverse(torch.eye(3))
    with pytest.raises(ValueError, match="at least one transform"):
        compose()
    with pytest.raises(ValueError, match="insert axes of size 1"):
        transform_points(torch.eye(4).expand(2, 4, 4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"quaternions \(..., 4\)"):
        rotation_from_quaternion(torch.zeros(3))
    with pytest.raises(ValueError, match=r"rotations \(..., 3, 3\)"):
        quaternion_from_rotation(torch.zeros(4))
    with pytest.raises(ValueError, match="source and target of one shape"):
        weighted_procrustes(torch.zeros(4, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="one per point"):
        weighted_procrustes(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(5))
