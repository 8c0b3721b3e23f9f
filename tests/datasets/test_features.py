"""Features of procedural scenes: pictures change, the ground truth stays exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from weav3r.datasets.procedural import generator
from weav3r.datasets.procedural._packed import pack_scene
from weav3r.datasets.procedural.correspondence import dense_correspondence
from weav3r.datasets.procedural.facades import COUNT
from weav3r.datasets.procedural.features import Extras
from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.datasets.procedural.panoramas import Panoramas, painted_panoramas
from weav3r.datasets.procedural.reflections import _normal
from weav3r.datasets.procedural.render import cast
from weav3r.datasets.procedural.rng import SceneRandom
from weav3r.datasets.procedural.sensor import Sensor
from weav3r.datasets.procedural.switches import FEATURES, Feature, check_features
from weav3r.datasets.textures import TextureBank
from weav3r.datasets.views import ViewBatch

_SCENES = 16


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank.procedural(count=12, size=32)


@pytest.fixture(scope="module")
def make(bank: TextureBank):
    """A source of small scenes."""

    def source(*features: Feature) -> ProceduralScenes:
        return ProceduralScenes(32, 48, 3, 3, bank, samples_per_pixel=1, features=features)

    return source


@pytest.fixture(scope="module")
def plain(make) -> ViewBatch:
    return make().batch(0, _SCENES)


@pytest.fixture(scope="module")
def full(make) -> ViewBatch:
    return make(*FEATURES).batch(0, _SCENES)


def _extras(scenes: ProceduralScenes) -> Extras:
    return scenes._stage(SceneRandom.from_indices(3, torch.arange(_SCENES)))[2]


def test_a_scene_is_the_same_in_every_batch(make, full: ViewBatch) -> None:
    part = make(*FEATURES).batch(5, 2)
    whole = full.select(torch.arange(5, 7))
    for name in {field.name for field in dataclasses.fields(ViewBatch)} - {"metric"}:
        assert torch.equal(getattr(whole, name), getattr(part, name)), name


def test_every_tensor_is_made_on_the_device_asked_for(
    make, full: ViewBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another default device, a forgotten `device=` would mix two devices and raise."""

    def on_cpu(function: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            with torch.device("cpu"):
                return function(*args, **kwargs)

        return wrapped

    scenes = make(*FEATURES)
    for name in ("render", "cast"):
        monkeypatch.setattr(generator, name, on_cpu(getattr(generator, name)))
    with torch.device("meta"):
        again = scenes.batch(0, _SCENES)
    assert torch.equal(again.images, full.images)


@pytest.mark.parametrize("feature", ["panoramas", "facades", "glossy", "glass", "sensor"])
def test_features_of_looks_leave_the_geometry_alone(
    make, plain: ViewBatch, feature: Feature
) -> None:
    batch = make(feature).batch(0, _SCENES)
    for name in ("K", "world_from_cam", "depth", "valid", "pointmap_world", "surface_id"):
        assert torch.equal(getattr(batch, name), getattr(plain, name)), name
    changed = (batch.images != plain.images).flatten(1).any(1)
    assert changed.float().mean() > 0.15
    assert torch.isfinite(batch.images).all()


def test_every_valid_pixel_is_the_first_surface_on_its_ray(make) -> None:
    scenes = make(*FEATURES)
    batch = scenes.batch(0, _SCENES)
    scene, cameras, extras = scenes._stage(SceneRandom.from_indices(3, torch.arange(_SCENES)))
    origin = cameras.world_from_cam[..., :3, 3]
    depth = torch.where(batch.valid, batch.depth, 1.0).flatten(2)
    rays = (batch.pointmap_world.flatten(2, 3) - origin[:, :, None]) / depth[..., None]
    t, surface, _ = cast(scene, origin, rays)
    solid = surface.clamp(0, scene.num_solids - 1).flatten(1).long()
    mover = torch.gather(extras.moving, 1, solid).view(surface.shape)
    mover &= (surface >= 0) & (surface < scene.num_solids)  # where it stands at rest
    checked = batch.valid.flatten(2) & ~mover
    error = (t / depth - 1.0).abs()[checked]
    assert checked.float().mean() > 0.7
    same = surface[checked] == batch.surface_id.flatten(2)[checked]
    # the rays are rounded once more, which matters to few pixels on edges and grazed ground
    assert (error < 1e-4).float().mean() > 0.999 and error[same].max() < 0.01
    assert same.float().mean() > 0.999


def test_views_agree_where_they_see_the_same(full: ViewBatch) -> None:
    xy, covisible = dense_correspondence(full, 0, 1)
    row, column = xy[..., 1].long().clamp(0, 31), xy[..., 0].long().clamp(0, 47)
    scene = torch.arange(_SCENES)[:, None, None]
    there = full.images[:, 1].permute(0, 2, 3, 1)[scene, row, column]
    here = full.images[:, 0].permute(0, 2, 3, 1)
    pairs = torch.stack([here[covisible].flatten(), there[covisible].flatten()])
    assert covisible.float().mean() > 0.2
    assert torch.corrcoef(pairs)[0, 1] > 0.6


def test_movers_stand_elsewhere_and_are_masked(make, plain: ViewBatch) -> None:
    scenes = make("movers")
    batch, extras = scenes.batch(0, _SCENES), _extras(scenes)
    moves = extras.moving.any(1)
    assert 0.2 < moves.float().mean() < 0.8
    assert not (batch.valid & ~plain.valid & (batch.surface_id == plain.surface_id)).any()
    still = ~moves
    assert torch.equal(batch.images[still], plain.images[still])
    assert torch.equal(batch.depth[still], plain.depth[still])
    shown = _marked(batch.surface_id, extras.moving)
    assert shown.any() and not (batch.valid & shown).any() and (batch.depth[shown] == 0).all()
    before = _marked(plain.surface_id, extras.moving)
    assert torch.equal(shown[:, 0], before[:, 0])
    assert (shown[:, 1:] != before[:, 1:]).any()


def _marked(surface_id: Tensor, solids: Tensor) -> Tensor:
    count = solids.shape[1]
    solid = surface_id.clamp(0, count - 1).flatten(1).long()
    marked = torch.gather(solids, 1, solid).view(surface_id.shape)
    return marked & (surface_id >= 0) & (surface_id < count)


def test_thin_rods_take_the_last_slots(make) -> None:
    rng = SceneRandom.from_indices(3, torch.arange(_SCENES))
    before, after = make()._attempt(rng, 0)[0], make("thin")._attempt(rng, 0)[0]
    changed = (after.half_size != before.half_size).any(-1)
    assert not changed[:, :-10].any() and torch.equal(
        after.center[~changed], before.center[~changed]
    )
    assert 0.4 < changed.any(1).float().mean() < 0.9
    rods = changed & (after.half_size > 0).all(-1)
    assert (after.half_size[rods][:, :2] <= 0.06).all()
    assert (after.half_size[rods][:, 2] > 3 * after.half_size[rods][:, 0]).float().mean() > 0.95
    R = after.rotation[rods]
    assert torch.allclose(R @ R.transpose(1, 2), torch.eye(3).expand_as(R), atol=1e-5)
    assert torch.allclose(torch.linalg.det(R), torch.ones(len(R)), atol=1e-5)


def test_facades_repeat_to_the_texel(make, bank: TextureBank) -> None:
    table = bank.facade_table
    assert table.count == 12 + COUNT and table is bank.facade_table
    for level in range(table.levels):
        area = (table.size >> level) ** 2
        old, new = bank.table.offsets[level], table.offsets[level]
        kept = table.packed[new : new + 12 * area]
        assert torch.equal(kept, bank.table.packed[old : old + 12 * area])
        painted = table.linear(table.packed[new + 12 * area : new + (12 + COUNT) * area])
        assert (0.62 + 0.76 * painted[:, 3] - 1.0).abs().max() < 0.005  # adds no second layer
    rng = SceneRandom.from_indices(3, torch.arange(_SCENES))
    before, after = make()._attempt(rng, 0)[0], make("facades")._attempt(rng, 0)[0]
    assert torch.equal(after.texture[before.indoor], before.texture[before.indoor])
    used = after.texture[:, :-2, 0] >= 12
    assert used.any(1)[~before.indoor].float().mean() > 0.25
    assert (after.texture_rotation[:, :-2][used] == 0).all()  # windows stand upright


def test_normals_are_those_of_the_geometry(make) -> None:
    scene = make()._attempt(SceneRandom.from_indices(3, torch.arange(_SCENES)), 0)[0]
    solids = pack_scene(scene).solids
    away = 100.0 * torch.nn.functional.normalize(torch.randn(40, 3, generator=_seeded(0)), dim=-1)
    origin = scene.center[:, :1] + away
    eye = torch.eye(3) * 1e-2
    near = torch.stack([origin, *(origin + e for e in eye)], 2)  # parallel rays, side by side
    rays = (-away).repeat_interleave(4, 0)[None, :, None].expand(_SCENES, -1, -1, -1)
    t, surface, _ = cast(scene, near.flatten(1, 2), rays)
    t, surface = t.view(_SCENES, 40, 4), surface.view(_SCENES, 40, 4)
    hit = (surface >= 0).all(-1) & (surface < scene.num_solids).all(-1)
    hit &= (surface == surface[..., :1]).all(-1)
    b, side = torch.nonzero(hit, as_tuple=True)
    points = near[b, side] - away[side, None] * t[b, side, :, None]
    first, second, third = ((points[:, k] - points[:, 0]).double() for k in (1, 2, 3))
    crosses = [
        torch.linalg.cross(x, y) for x, y in ((first, second), (second, third), (third, first))
    ]
    crosses = torch.stack(crosses, 1)
    best = crosses.norm(dim=-1).argmax(1)
    expected = torch.nn.functional.normalize(crosses[torch.arange(len(b)), best], dim=-1)
    found = torch.stack(_normal(solids[b, surface[b, side, 0].long()], points[:, 0]), -1)
    assert len(b) > 300
    assert torch.allclose(found.norm(dim=-1), torch.ones(len(b)), atol=1e-5)
    assert ((found * expected).sum(-1).abs() > 0.98).float().mean() > 0.9  # the rest is edges


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_panorama_is_where_it_should_be(tmp_path) -> None:
    picture = np.full((1, 64, 128, 3), 60, dtype=np.uint8)
    picture[:, :, :4] = picture[:, :, -4:] = (250, 60, 60)  # around +x, over the seam
    panoramas = Panoramas.of(picture)

    def look(x: float, y: float, z: float, turn: float = 0.0, level: int = 0) -> Tensor:
        direction = torch.tensor([x]), torch.tensor([y]), torch.tensor([z])
        return panoramas.look(
            torch.zeros(1, dtype=torch.int64), direction, torch.tensor([turn]), level
        )[0]

    assert look(1, 0, 0)[0] > 5 * look(1, 0, 0)[1]
    for other in (look(0, 1, 0), look(-1, 0, 0), look(0, -1, 0), look(1, 0, 0, turn=0.3)):
        assert torch.allclose(other, other.mean().expand(3))
    assert look(0.9, 0.43589, 0, level=2)[0] > look(0.9, 0.43589, 0)[0]  # blurred sideways
    assert panoramas.levels[0].mean() == pytest.approx(1.0, abs=0.1)
    Image.fromarray(picture[0]).save(tmp_path / "a.png")
    assert len(Panoramas.from_folder(tmp_path)) == 1
    with pytest.raises(FileNotFoundError, match="no panoramas"):
        Panoramas.from_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="must be"):
        Panoramas.of(picture[:, :, :100])


def test_painted_panoramas_differ_and_are_not_flat() -> None:
    first = painted_panoramas().levels[0]
    assert len(first) == 12 and first.isfinite().all()
    assert (first.std((1, 2, 3)) > 0.05).all()
    assert len({round(float(x), 4) for x in first.std((1, 2, 3))}) == 12


def test_a_sensor_keeps_the_mean_and_counts_photons() -> None:
    noise = torch.randn(1 << 16, generator=_seeded(0))
    rng = SceneRandom.from_indices(0, torch.arange(2))
    drawn = Sensor.draw(rng, 1, len(noise))
    none = torch.zeros(2)
    quiet = dataclasses.replace(
        drawn, read_noise=none, row_noise=none, flicker=none, well=torch.full((2,), 400.0)
    )
    light = torch.stack([torch.full((3, 64, 64), 0.1), torch.full((3, 64, 64), 0.4)])
    single = dataclasses.replace(quiet, mosaic=torch.tensor([False, False]))
    read = single.expose(light, noise)
    assert torch.allclose(read.mean((1, 2, 3)), light.mean((1, 2, 3)), rtol=0.02)
    expected = (light.mean((1, 2, 3)) / 400.0).sqrt()
    assert torch.allclose(read.std((1, 2, 3)), expected, rtol=0.05)
    endless = dataclasses.replace(quiet, well=torch.full((2,), 1e12), mosaic=~single.mosaic)
    assert torch.allclose(endless.expose(light, noise), light, atol=1e-5)  # grey needs no guess
    ripple = dataclasses.replace(endless, flicker=torch.tensor([0.1, 0.0]))
    lines = ripple.expose(light, noise).mean((1, 3))
    assert lines[0].std() > 0.003 and lines[1].std() < 1e-5


def test_unknown_features_are_refused(make) -> None:
    assert check_features([]) == frozenset()
    with pytest.raises(ValueError, match=r"unknown features \['fog'\]; there are: panoramas, thin"):
        make("fog")
