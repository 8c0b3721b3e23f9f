"""Correspondences against an independent check: rays cast to the points themselves."""

import dataclasses

import pytest
import torch

from weav3r.datasets.procedural.correspondence import (
    dense_correspondence,
    overlap_matrix,
    sample_correspondences,
)
from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.datasets.procedural.render import cast
from weav3r.datasets.procedural.rng import SceneRandom
from weav3r.datasets.textures import TextureBank
from weav3r.datasets.views import ViewBatch

H, W, B = 40, 56, 24


def wall(shift_m: float) -> ViewBatch:
    """A wall 2 m in front of two cameras of focal length 16 px, the second one to the right."""
    K = torch.tensor([[16.0, 0.0, 16.0], [0.0, 16.0, 8.0], [0.0, 0.0, 1.0]]).expand(1, 2, 3, 3)
    pose = torch.eye(4).repeat(1, 2, 1, 1)
    pose[0, 1, 0, 3] = shift_m
    v, u = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    points = torch.stack([(u - 16) / 8, (v - 8) / 8, torch.full_like(u, 2.0)], -1)
    points = torch.stack([points, points + torch.tensor([shift_m, 0.0, 0.0])])[None]
    return ViewBatch(
        images=torch.zeros(1, 2, 3, 16, 32),
        K=K,
        world_from_cam=pose,
        depth=torch.full((1, 2, 16, 32), 2.0),
        valid=torch.ones(1, 2, 16, 32, dtype=torch.bool),
        pointmap_world=points,
        surface_id=torch.zeros(1, 2, 16, 32, dtype=torch.int32),
        seeds=torch.zeros(1, dtype=torch.int64),
    )


def test_a_wall_moves_by_its_disparity() -> None:
    batch = wall(0.55)  # 16 px * 0.55 m / 2 m = 4.4 px
    xy, covisible = dense_correspondence(batch, 0, 1)
    u = torch.arange(32) + 0.5
    assert torch.allclose(xy[0, 3, :, 0], u - 4.4, atol=1e-4)
    assert torch.allclose(xy[0, :, 5, 1], torch.arange(16) + 0.5, atol=1e-4)
    assert torch.equal(covisible[0], (u >= 4.4).expand(16, 32))
    overlap = overlap_matrix(batch, stride=1)
    assert overlap[0].tolist() == [[1.0, 28 / 32], [pytest.approx(27 / 32, abs=0.04), 1.0]]


def test_another_surface_in_front_hides_the_wall() -> None:
    batch = wall(0.0)
    points, surface = batch.pointmap_world.clone(), batch.surface_id.clone()
    points[0, 1, :, :10] *= 0.9  # a board 20 cm in front of the wall in view 1 only
    surface[0, 1, :, :10] = 1
    batch = dataclasses.replace(batch, pointmap_world=points, surface_id=surface)
    _, covisible = dense_correspondence(batch, 0, 1)
    assert not covisible[0, :, :10].any()
    assert covisible[0, :, 10:].all()


def test_invalid_pixels_have_no_correspondence() -> None:
    batch = wall(0.0)
    valid = batch.valid.clone()
    valid[0, 0, 2] = False
    valid[0, 1, 5] = False
    _, covisible = dense_correspondence(dataclasses.replace(batch, valid=valid), 0, 1)
    assert not covisible[0, [2, 5]].any() and covisible[0, 6:].all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_correspondences_agree_with_cast_rays(seed: int) -> None:
    bank = TextureBank.procedural(count=4, size=16)
    scenes = ProceduralScenes(H, W, seed=seed, textures=bank, samples_per_pixel=1)
    batch = scenes.batch(0, B)
    scene, _ = scenes.stage(SceneRandom.from_indices(seed, torch.arange(B)))
    _, covisible = dense_correspondence(batch, 0, 1)
    eye = batch.world_from_cam[:, 1, :3, 3]
    to_points = batch.pointmap_world[:, 0].flatten(1, 2) - eye[:, None]
    t, _, _ = cast(scene, eye[:, None], to_points[:, None])
    t, covisible = t[:, 0], covisible.flatten(1)
    # points that are called covisible must be reached by the ray, those in view that are not
    # called so must mostly be hidden
    assert (t[covisible] > 0.97).float().mean() > 0.985
    in_camera = torch.einsum("bji,bnj->bni", batch.world_from_cam[:, 1, :3, :3], to_points)
    projected = torch.einsum("bij,bnj->bni", batch.K[:, 1], in_camera)
    xy = projected[..., :2] / projected[..., 2:]
    size = torch.tensor([W - 1.0, H - 1.0])
    within = ((xy > 1) & (xy < size)).all(-1) & (in_camera[..., 2] > 0.01)
    within &= batch.valid[:, 0].flatten(1)
    visible = within & (t > 0.999) & (t < 1.001)
    assert covisible[visible].float().mean() > 0.955


@pytest.fixture(scope="module")
def batch() -> ViewBatch:
    bank = TextureBank.procedural(count=4, size=16)
    return ProceduralScenes(H, W, textures=bank, samples_per_pixel=1).batch(0, B)


def test_samples_are_unique_and_agree_with_the_dense_map(batch: ViewBatch) -> None:
    n = 150
    generator = torch.Generator().manual_seed(0)
    samples = sample_correspondences(batch, 1, 0, n, generator)
    xy, covisible = dense_correspondence(batch, 1, 0)
    assert samples.xy1.shape == samples.xy2.shape == (B, n, 2)
    for b in range(B):
        ok = samples.valid[b]
        x, y = (samples.xy1[b, ok] - 0.5).long().unbind(-1)
        assert covisible[b, y, x].all()
        assert torch.equal(xy[b, y, x], samples.xy2[b, ok])
        for points in (samples.xy1[b, ok], samples.xy2[b, ok]):
            cells = points.long()
            assert len(cells.unique(dim=0)) == len(cells)
        assert int(ok.sum()) >= min(n, int(covisible[b].sum()) // 4)


def test_sampling_is_reproducible_and_varied(batch: ViewBatch) -> None:
    first, again, other = (
        sample_correspondences(batch, 0, 1, 64, torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first.xy1, again.xy1)
    assert not torch.equal(first.xy1, other.xy1)


def test_sample_count_is_checked(batch: ViewBatch) -> None:
    for count in (0, H * W + 1):
        with pytest.raises(ValueError, match="count must be between 1 and"):
            sample_correspondences(batch, 0, 1, count)
