"""The scene generator: reproducible scenes, exact geometry, wanted overlap."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from weav3r.datasets.procedural import cameras, generator, placement, templates
from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.datasets.procedural.layout import draw_layouts
from weav3r.datasets.procedural.rng import SceneRandom
from weav3r.datasets.procedural.sheet import make_contact_sheet
from weav3r.datasets.textures import TextureBank
from weav3r.datasets.views import ViewBatch


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank.procedural(count=12, size=32)


@pytest.fixture(scope="module")
def scenes(bank: TextureBank) -> ProceduralScenes:
    return ProceduralScenes(32, 48, textures=bank, seed=3, samples_per_pixel=1)


@pytest.fixture(scope="module")
def batch(scenes: ProceduralScenes) -> ViewBatch:
    return scenes.batch(0, 48)


@pytest.mark.parametrize(
    ("start", "count", "size", "views"), [(3, 1, (32, 48), 2), (2, 3, (27, 35), 3)]
)
def test_a_scene_is_the_same_to_the_last_bit_in_every_batch(
    bank: TextureBank, start: int, count: int, size: tuple[int, int], views: int
) -> None:
    scenes = ProceduralScenes(*size, views, seed=11, textures=bank, samples_per_pixel=1)
    whole = scenes.batch(0, 8).select(torch.arange(start, start + count))
    part = scenes.batch(start, count)
    assert whole.metric is None and part.metric is None  # all in metres
    for name in {field.name for field in dataclasses.fields(ViewBatch)} - {"metric"}:
        assert torch.equal(getattr(whole, name), getattr(part, name)), name


def test_seeds_give_different_scenes(bank: TextureBank) -> None:
    a, b = (ProceduralScenes(16, 16, seed=s, textures=bank).batch(0, 2) for s in (0, 1))
    assert not torch.equal(a.world_from_cam, b.world_from_cam)
    assert not torch.equal(a.world_from_cam[0], a.world_from_cam[1])


def test_shapes_types_and_ranges(batch: ViewBatch) -> None:
    B, V, (H, W) = 48, 2, (32, 48)
    assert batch.images.shape == (B, V, 3, H, W) and batch.images.dtype == torch.float32
    assert batch.images.min() >= -1.0 and batch.images.max() <= 1.0
    assert batch.pointmap_world.shape == (B, V, H, W, 3)
    assert batch.surface_id.dtype == torch.int32 and batch.valid.dtype == torch.bool
    for tensor in (batch.images, batch.depth, batch.pointmap_world, batch.K, batch.world_from_cam):
        assert torch.isfinite(tensor).all()
    assert torch.equal(batch.depth > 0, batch.valid)
    assert batch.depth.max() < cameras.FAR_M
    assert (batch.surface_id[batch.valid] >= 0).all()
    assert (batch.pointmap_world[~batch.valid] == 0).all()
    assert torch.equal(batch.seeds, torch.arange(B))


def test_pointmaps_project_onto_their_own_pixels(batch: ViewBatch) -> None:
    H, W = batch.size
    pose, K = batch.cam_from_world.double(), batch.K.double()
    points = torch.einsum("bvij,bvhwj->bvhwi", pose[..., :3, :3], batch.pointmap_world.double())
    points = points + pose[:, :, None, None, :3, 3]
    xy = torch.einsum("bvij,bvhwj->bvhwi", K, points)
    xy = xy[..., :2] / xy[..., 2:]
    v, u = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    error = (xy - torch.stack([u, v], -1)).abs().amax(-1)[batch.valid]
    # float32 world coordinates: 1e-7 of the distance to the origin, seen through f <= 80 px
    assert error.max() < 0.02 and error.median() < 1e-4
    assert torch.allclose(points[..., 2][batch.valid].float(), batch.depth[batch.valid], rtol=1e-3)


def test_pointmap_in_another_view(batch: ViewBatch) -> None:
    own = batch.pointmap_in_view(1, 1)
    assert torch.allclose(own[..., 2], batch.depth[:, 1], atol=1e-3, rtol=1e-4)
    other = batch.pointmap_in_view(1, 0)
    pose = batch.cam_from_world[:, 0] @ batch.world_from_cam[:, 1]
    moved = torch.einsum("bij,bhwj->bhwi", pose[:, :3, :3], own) + pose[:, None, None, :3, 3]
    ok = batch.valid[:, 1]
    assert torch.allclose(moved[ok], other[ok], atol=2e-3, rtol=1e-3)


def test_cameras_are_plausible(batch: ViewBatch) -> None:
    H, W = batch.size
    R = batch.world_from_cam[..., :3, :3]
    eye = torch.eye(3).expand_as(R)
    assert torch.allclose(R @ R.transpose(-1, -2), eye, atol=1e-5)
    assert torch.allclose(torch.linalg.det(R), torch.ones(R.shape[:2]), atol=1e-5)
    fov = 2 * torch.rad2deg(torch.atan(max(H, W) / 2 / batch.K[..., 0, 0]))
    assert fov.min() >= 34.9 and fov.max() <= 90.1
    assert ((batch.K[..., 0, 2] / W - 0.5).abs() <= 0.031).all()
    assert ((batch.K[..., 1, 2] / H - 0.5).abs() <= 0.031).all()


def test_views_show_something(batch: ViewBatch) -> None:
    assert batch.valid.float().mean((2, 3)).min() > 0.3
    surfaces = torch.tensor([len(s.unique()) for s in batch.surface_id[:, 0]])
    assert surfaces.float().median() >= 8
    contrast = batch.images.flatten(2).std(-1)
    assert contrast.min() > 0.02 and contrast.median() > 0.2


@pytest.mark.parametrize("wanted", [(0.1, 0.9), (0.5, 0.9)])
def test_overlap_is_as_wanted(bank: TextureBank, wanted: tuple[float, float]) -> None:
    scenes = ProceduralScenes(32, 48, textures=bank, overlap=wanted, samples_per_pixel=1)
    matrix = scenes.batch(0, 48).overlap
    assert matrix is not None
    overlap = torch.minimum(matrix[:, 0, 1], matrix[:, 1, 0])
    # placed with a coarse probe, and the spacing rule is strict at occlusion edges
    near = (overlap > 0.65 * wanted[0]) & (overlap < wanted[1] + 0.08)
    assert near.float().mean() > 0.9
    assert overlap.std() > 0.08


def test_nearly_all_scenes_find_their_cameras(scenes: ProceduralScenes) -> None:
    rng = SceneRandom.from_indices(5, torch.arange(96))
    _, placed = scenes.stage(rng)
    assert placed.accepted.float().mean() > 0.97


@pytest.mark.parametrize("views", [1, 4, 8])
def test_sequences(bank: TextureBank, views: int) -> None:
    scenes = ProceduralScenes(16, 24, views, textures=bank, samples_per_pixel=1)
    batch = scenes.batch(0, 2)
    assert batch.num_views == views
    assert batch.overlap is not None and batch.overlap.shape == (2, views, views)
    if views > 1:  # every view overlaps with an earlier one
        symmetric = torch.maximum(batch.overlap, batch.overlap.transpose(1, 2))
        assert (torch.tril(symmetric, -1).amax(-1)[:, 1:] > 0.02).all()


def test_batches_go_on(scenes: ProceduralScenes) -> None:
    stream = scenes.batches(2, start_index=4)
    assert torch.equal(next(stream).seeds, torch.tensor([4, 5]))
    assert torch.equal(next(stream).seeds, torch.tensor([6, 7]))


def test_light_changes_in_some_scenes_only(bank: TextureBank) -> None:
    for chance, expected in ((0.0, 0.0), (1.0, 1.0)):
        scenes = ProceduralScenes(16, 16, textures=bank, relight_chance=chance)
        scene, _ = scenes.stage(SceneRandom.from_indices(0, torch.arange(8)))
        moved = (scene.sun_direction[:, 0] != scene.sun_direction[:, 1]).any(-1)
        assert moved.float().mean() == expected


def test_every_tensor_is_made_on_the_device_asked_for(
    scenes: ProceduralScenes, batch: ViewBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another default device, a forgotten `device=` would mix two devices and raise."""

    def on_cpu(function: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            with torch.device("cpu"):
                return function(*args, **kwargs)

        return wrapped

    for name in ("render", "cast"):
        monkeypatch.setattr(generator, name, on_cpu(getattr(generator, name)))
    with torch.device("meta"):
        again = scenes.batch(0, 48)
    assert torch.equal(again.images, batch.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 8}, "at least 16"),
        ({"num_views": 9}, "between 1 and 8"),
        ({"overlap": (0.9, 0.1)}, "range within 0..1"),
        ({"fov_deg": (60.0, 170.0)}, "range within 5..140"),
        ({"samples_per_pixel": 2}, "must be 1 or 3"),
    ],
)
def test_wrong_options_are_refused(bank: TextureBank, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProceduralScenes(**({"height": 32, "width": 32, "textures": bank} | options))


def test_every_family_fits_into_its_slots() -> None:
    rng = SceneRandom.from_indices(0, torch.arange(200))
    layout = draw_layouts(rng)
    assert torch.equal(layout.kind.unique(), torch.arange(len(placement.FAMILIES)))
    assert layout.objects.template.shape == (200, placement.NUM_OBJECTS)
    assert (layout.eye_low <= layout.eye_high).all()
    assert (layout.objects.half_size[layout.objects.active] > 0).all()
    assert (layout.objects.active.sum(1) >= 4).all()
    solids = templates.expand(rng.fork("parts"), layout.objects, 24)
    assert solids.center.shape == (200, 24, 3)
    assert (solids.half_size[solids.active] > 0).all()
    assert (solids.half_size[~solids.active] == 0).all()


@pytest.mark.parametrize("name", templates.NAMES)
def test_templates_stay_close_to_their_box(name: str) -> None:
    parts = templates.TEMPLATES[name]
    assert 1 <= len(parts) <= templates.MAX_PARTS
    for part in parts:
        reach = [abs(part[axis]) + part[axis + 3] for axis in range(3)]
        assert max(reach) <= 1.9, "the step of a portal reaches out farthest"
        assert min(part[3:6]) > 0


def test_contact_sheet_shows_pictures(scenes: ProceduralScenes) -> None:
    sheet = make_contact_sheet(scenes, 3, across=2)
    assert sheet.size == (2 * (4 * 48 + 2), 2 * (32 + 12))
    assert len(np.unique(np.asarray(sheet.convert("L")))) > 100


def test_contact_sheet_errors(scenes: ProceduralScenes, bank: TextureBank) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_contact_sheet(scenes, 0)
    single = ProceduralScenes(16, 16, 1, textures=bank)
    with pytest.raises(ValueError, match="at least two views"):
        make_contact_sheet(single, 1)
