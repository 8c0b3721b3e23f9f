"""The renderer: hand-computable scenes, and kernels that agree to the last bit."""

import dataclasses
import math
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from weav3r.datasets.procedural import render as render_module
from weav3r.datasets.procedural.render import cast, render
from weav3r.datasets.procedural.scene import (
    NO_CUT,
    NO_HIT,
    NO_QUADRIC,
    SceneBatch,
    TextureTable,
    ground_height,
    wave,
)

SPHERE = (1.0, 1.0, 0.0, -1.0, 0.0)
CYLINDER = (1.0, 0.0, 0.0, -1.0, 0.0)
# Radius 1 at the bottom, 0.3 at the top: x^2 + y^2 <= (0.65 - 0.35 z)^2.
FRUSTUM = (1.0, -(0.35**2), 2 * 0.65 * 0.35, -(0.65**2), -1.0)

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")


def empty_scene(B: int = 1, V: int = 1, P: int = 4, W: int = 2) -> SceneBatch:
    """Nothing but sky."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(B, *shape)

    up = torch.tensor([0.0, 0.0, 1.0]).expand(B, V, 3).clone()
    return SceneBatch(
        center=zeros(P, 3),
        half_size=zeros(P, 3),
        rotation=torch.eye(3).repeat(B, P, 1, 1),
        quadric=torch.tensor(NO_QUADRIC).repeat(B, P, 1),
        cuts=torch.tensor(NO_CUT).repeat(B, P, 2, 1),
        room_center=zeros(3),
        room_half_size=zeros(3) + 1,
        indoor=zeros().bool(),
        ceiling=zeros().bool(),
        ground_waves=zeros(W, 3),
        ground_amplitude=zeros(W),
        has_ground=zeros().bool(),
        texture=zeros(P + 2, 4).int(),
        texture_size_m=zeros(P + 2, 4) + 1,
        texture_offset=zeros(P + 2, 2),
        texture_rotation=zeros(P + 2),
        tint_gain=zeros(P + 2, 3) + 1,
        tint_bias=zeros(P + 2, 3),
        specular=zeros(P + 2),
        sun_direction=up,
        sun_color=zeros(V, 3) + 1,
        ambient=zeros(V, 3) + 0.5,
        lamp_position=zeros(V, 3),
        lamp_color=zeros(V, 3),
        sky_color=zeros(2, 3) + 1,
        sky_texture=zeros().int(),
        unit_m=zeros() + 1,
        kind=zeros().long(),
    )


def random_scene(seed: int, B: int, V: int, P: int = 12, tiles: int = 4) -> SceneBatch:
    """Rooms and grounds in turn, with solids of every kind and a few empty slots."""
    generator = torch.Generator().manual_seed(seed)

    def u(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    scene = empty_scene(B, V, P, W=3)
    kind = torch.randint(0, 4, (B, P), generator=generator)
    turned = torch.linalg.qr(torch.randn(B, P, 3, 3, generator=generator))[0]
    plane = torch.cat(
        [torch.nn.functional.normalize(u(-1, 1, B, P, 3), dim=-1), u(0, 1, B, P, 1)], -1
    )
    is_cut = (u(0, 1, B, P) < 0.4)[..., None]
    cuts = scene.cuts.clone()
    cuts[:, :, 1] = torch.where(is_cut, plane, cuts[:, :, 1])
    half_size = u(0.05, 0.5, B, P, 3)
    half_size[:, -2:] = 0
    indoor = torch.arange(B) % 2 == 0
    return dataclasses.replace(
        scene,
        center=u(-1, 1, B, P, 3) * torch.tensor([2.0, 2.0, 0.9]) + torch.tensor([0, 0, 1.0]),
        half_size=half_size,
        rotation=torch.where(u(0, 1, B, P, 1, 1) < 0.5, torch.eye(3), turned).contiguous(),
        quadric=torch.tensor([NO_QUADRIC, SPHERE, CYLINDER, FRUSTUM])[kind],
        cuts=cuts,
        room_center=torch.tensor([0.0, 0.0, 1.5]).repeat(B, 1),
        room_half_size=torch.tensor([3.5, 3.2, 1.5]).repeat(B, 1),
        indoor=indoor,
        ceiling=torch.arange(B) % 4 == 0,
        has_ground=~indoor,
        ground_waves=u(-2, 2, B, 3, 3),
        ground_amplitude=u(0, 0.1, B, 3),
        texture=torch.randint(0, tiles, (B, P + 2, 4), generator=generator, dtype=torch.int32),
        texture_size_m=u(0.4, 2, B, P + 2, 4),
        texture_offset=u(0, 9, B, P + 2, 2),
        texture_rotation=u(-3, 3, B, P + 2),
        tint_gain=u(0.4, 1.2, B, P + 2, 3),
        specular=u(0, 0.5, B, P + 2),
        sun_direction=torch.nn.functional.normalize(u(0.1, 1, B, V, 3), dim=-1),
        lamp_position=torch.cat([u(-1, 1, B, V, 2), u(2.2, 2.8, B, V, 1)], -1),
        lamp_color=u(0.3, 1, B, V, 3),
        sky_color=u(0.5, 1, B, 2, 3),
    )


def random_table(count: int = 4, size: int = 32) -> TextureTable:
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
    return TextureTable.from_uint8(tiles)


def grey_table() -> TextureTable:
    return TextureTable.from_uint8(torch.full((1, 4, 4, 3), 128, dtype=torch.uint8))


def ring_cameras(seed: int, B: int, V: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cameras on a ring that look at its middle."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand((B, V), generator=generator) * math.tau
    origin = torch.stack([2.8 * angle.cos(), 2.8 * angle.sin(), 0.6 + 0.2 * angle], -1)
    forward = torch.nn.functional.normalize(torch.tensor([0.0, 0.0, 1.0]) - origin, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    return pinhole(B, V, height, width), rigid(torch.stack([right, down, forward], -1), origin)


def pinhole(B: int, V: int, height: int, width: int) -> Tensor:
    K = torch.eye(3).repeat(B, V, 1, 1)
    K[..., 0, 0] = K[..., 1, 1] = 0.8 * width
    K[..., 0, 2], K[..., 1, 2] = width / 2, height / 2
    return K


def rigid(rotation: Tensor, origin: Tensor) -> Tensor:
    world_from_cam = torch.eye(4).repeat(*origin.shape[:-1], 1, 1)
    world_from_cam[..., :3, :3], world_from_cam[..., :3, 3] = rotation, origin
    return world_from_cam


LOOK_Y = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # world_from_cam: forward is +y


def with_solid(scene: SceneBatch, center: tuple, half_size: tuple, **fields: tuple) -> SceneBatch:
    """Put one solid into the first slot of every scene."""
    values = {"center": center, "half_size": half_size, **fields}
    changed = {}
    for name, value in values.items():
        changed[name] = getattr(scene, name).clone()
        changed[name][:, 0] = torch.tensor(value)
    return dataclasses.replace(scene, **changed)


def cast_one(scene: SceneBatch, origin: tuple, direction: tuple) -> tuple[float, int, bool]:
    rays = torch.tensor(direction, dtype=torch.float32).view(1, 1, 1, 3)
    t, surface_id, inside = cast(
        scene, torch.tensor(origin, dtype=torch.float32).view(1, 1, 3), rays, "torch"
    )
    return t.item(), int(surface_id.item()), bool(inside.item())


# ----------------------------------------------------------------------------------- known hits


@pytest.mark.parametrize(
    ("fields", "origin", "direction", "expected"),
    [
        ({}, (0, -5, 1), (0, 1, 0), 3.0),  # box of half depth 2
        ({}, (0, -5, 1), (0, 2, 0), 1.5),  # t counts in direction vectors
        ({}, (0, -5, 5), (0, 1, 0), NO_HIT),
        ({"quadric": SPHERE}, (0, -5, 1), (0, 1, 0), 3.0),
        ({"quadric": SPHERE}, (0.9, -5, 1.9), (0, 1, 0), NO_HIT),  # corner of the box is gone
        ({"quadric": CYLINDER}, (0.6, -5, 1), (0, 1, 0), 5 - 2 * 0.8),
        ({"quadric": FRUSTUM}, (0, -5, 2 - 1e-4), (0, 1, 0), 5 - 2 * 0.3),
        ({"quadric": FRUSTUM}, (0, -5, 1e-4), (0, 1, 0), 3.0),
        ({"cuts": ((0.0, -1, 0, 0), NO_CUT)}, (0, -5, 1), (0, 1, 0), 5.0),  # front half cut off
    ],
)
def test_solid_hits_where_geometry_says(fields, origin, direction, expected):
    scene = with_solid(empty_scene(), (0.0, 0.0, 1.0), (1.0, 2.0, 1.0), **fields)
    t, surface_id, inside = cast_one(scene, origin, direction)
    assert t == pytest.approx(expected, rel=1e-4)  # the frustum's ray runs 1e-4 beside the rim
    assert surface_id == (-1 if expected == NO_HIT else 0)
    assert not inside


@pytest.mark.parametrize(
    ("fields", "point", "expected"),
    [
        ({}, (0.9, 0, 1.9), True),
        ({}, (1.1, 0, 1), False),
        ({"quadric": SPHERE}, (0.9, 0, 1.9), False),
        ({"cuts": ((0.0, 0, 1, 0), NO_CUT)}, (0, 0, 1.5), False),
    ],
)
def test_inside_is_about_the_origin(fields, point, expected):
    scene = with_solid(empty_scene(), (0.0, 0.0, 1.0), (1.0, 2.0, 1.0), **fields)
    assert cast_one(scene, point, (0, 1, 0.1))[2] is expected


def test_room_and_open_ceiling():
    room = dataclasses.replace(
        empty_scene(),
        indoor=torch.ones(1, dtype=torch.bool),
        room_center=torch.tensor([[0.0, 0, 1.5]]),
        room_half_size=torch.tensor([[2.0, 3.0, 1.5]]),
    )
    assert cast_one(room, (0, 0, 1), (0, 1, 0)) == (3.0, 4, False)
    assert cast_one(room, (0, 0, 1), (0, 0, -2)) == (0.5, 4, False)
    assert cast_one(room, (0, 0, 1), (0, 0, 1))[:2] == (NO_HIT, -1)
    closed = dataclasses.replace(room, ceiling=torch.ones(1, dtype=torch.bool))
    assert cast_one(closed, (0, 0, 1), (0, 0, 1))[:2] == (2.0, 4)


def test_ground_hits_lie_on_the_ground():
    scene = random_scene(3, 2, 1).select(slice(1, 2))
    scene = dataclasses.replace(scene, half_size=torch.zeros_like(scene.half_size))
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn((1, 1, 200, 3), generator=generator)
    direction[..., 2] = -direction[..., 2].abs() - 0.2
    origin = torch.tensor([[[0.3, -0.2, 1.4]]])
    t, surface_id, _ = cast(scene, origin, direction, "torch")
    assert (surface_id == scene.num_solids + 1).all()
    point = origin[:, :, None] + t[..., None] * direction
    gap = point[..., 2] - ground_height(scene, point[..., :2])
    assert gap.abs().max() < 2e-4  # four refinement steps of the crossing


def test_wave_is_a_sine():
    x = torch.linspace(-30, 30, 2001)
    assert (wave(x) - x.sin()).abs().max() < 2e-4


def test_depth_is_z_and_unprojects_onto_the_wall():
    scene = dataclasses.replace(
        empty_scene(),
        indoor=torch.ones(1, dtype=torch.bool),
        room_half_size=torch.tensor([[9.0, 4.0, 9.0]]),
    )
    world_from_cam = rigid(LOOK_Y, torch.zeros(1, 1, 3))
    views = render(scene, grey_table(), pinhole(1, 1, 6, 8), world_from_cam, 6, 8, kernel="torch")
    assert torch.allclose(views.depth, torch.tensor(4.0))
    assert views.rgb.shape == (1, 1, 6, 8, 3) and views.rgb.isfinite().all()


def test_sun_casts_a_shadow_below_a_box():
    scene = with_solid(empty_scene(), (0.0, 5.0, 4.0), (1.0, 1.0, 0.1))
    scene = dataclasses.replace(scene, has_ground=torch.ones(1, dtype=torch.bool))
    down = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    world_from_cam = rigid(down, torch.tensor([[[0.0, 5.0, 3.0]]]))  # below the box, above ground
    K = pinhole(1, 1, 9, 9)
    lit, shaded = (
        render(scene, grey_table(), K, world_from_cam, 9, 9, shadows=s, kernel="torch").rgb
        for s in (False, True)
    )
    assert torch.equal(lit[0, 0, 0, 0], shaded[0, 0, 0, 0])
    # Ambient 0.5 against ambient and sun, 1.5 together.
    assert shaded[0, 0, 4, 4, 0] / lit[0, 0, 4, 4, 0] == pytest.approx(1 / 3, rel=1e-5)


# ------------------------------------------------------------------------------------- textures


def test_table_keeps_tones_and_averages_light():
    tiles = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    tiles[1, :, ::2] = 255
    table = TextureTable.from_uint8(tiles)
    assert (table.levels, table.count, table.offsets) == (4, 2, (0, 128, 160, 168))
    assert table.packed.dtype == torch.int32
    decoded = table.linear(table.packed)
    assert torch.equal(decoded[64:72, 0], torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0]))
    assert decoded[-1] == pytest.approx([0.5] * 4, abs=4e-3)  # a step of the 8-bit root


@pytest.mark.parametrize("value", [1, 20, 128, 250])
def test_table_round_trips_gamma(value):
    table = TextureTable.from_uint8(torch.full((1, 2, 2, 3), value, dtype=torch.uint8))
    display = 255 * table.linear(table.packed) ** (1 / 2.2)
    assert (display - value).abs().max() < 1.0


@pytest.mark.parametrize(
    ("tiles", "error", "match"),
    [
        (torch.zeros(1, 4, 4, 3), TypeError, "uint8"),
        (torch.zeros(1, 4, 8, 3, dtype=torch.uint8), ValueError, r"\(T, S, S, 3\)"),
        (torch.zeros(1, 6, 6, 3, dtype=torch.uint8), ValueError, "power-of-two"),
        (torch.zeros(0, 4, 4, 3, dtype=torch.uint8), ValueError, "at least one tile"),
    ],
)
def test_table_rejects(tiles, error, match):
    with pytest.raises(error, match=match):
        TextureTable.from_uint8(tiles)


# --------------------------------------------------------------------------------------- kernels


def assert_same_views(
    kernel: str, scene: SceneBatch, height: int, width: int, shadows: bool = True
):
    table = random_table()
    K, world_from_cam = ring_cameras(7, scene.batch_size, scene.num_views, height, width)
    expected, views = (
        render(
            scene,
            table,
            K,
            world_from_cam,
            height,
            width,
            shadows=shadows,
            kernel=k,  # type: ignore[arg-type]
        )
        for k in ("torch", kernel)
    )
    assert torch.equal(views.depth, expected.depth)
    assert torch.equal(views.surface_id, expected.surface_id)
    assert torch.equal(views.inside, expected.inside)
    assert views.rgb.isfinite().all()
    # A library arctangent or logarithm may differ; noise textures amplify that.
    assert (views.rgb - expected.rgb).abs().max() < 3e-4


@needs_numba
@pytest.mark.parametrize("size", [(32, 48), (21, 35)])
@pytest.mark.parametrize("shadows", [True, False])
def test_numba_repeats_the_reference(size, shadows):
    assert_same_views("numba", random_scene(11, 4, 2), size[0], size[1], shadows)


@needs_numba
def test_numba_repeats_the_reference_on_odd_scenes():
    assert_same_views("numba", empty_scene(2, 1), 5, 7)
    around = with_solid(random_scene(5, 2, 1), (0.0, 0.0, 1.0), (20.0, 20.0, 20.0))
    assert_same_views("numba", around, 8, 8)


@needs_numba
def test_numba_casts_the_same_hits():
    scene = random_scene(2, 4, 1)
    generator = torch.Generator().manual_seed(0)
    origins = torch.rand((4, 3, 3), generator=generator) * 2
    directions = torch.randn((4, 3, 300, 3), generator=generator) * 3
    directions[:, :, :20, 0] = 0.0  # parallel to slabs
    directions[:, :, 10:20, 1] = 0.0
    for got, expected in zip(
        cast(scene, origins, directions, "numba"),
        cast(scene, origins, directions, "torch"),
        strict=True,
    ):
        assert torch.equal(got, expected)


def test_cast_does_not_depend_on_the_length_of_directions():
    scene = random_scene(2, 2, 1)
    generator = torch.Generator().manual_seed(0)
    origins = torch.rand((2, 1, 3), generator=generator)
    directions = torch.randn((2, 1, 400, 3), generator=generator)
    t, surface_id, _ = cast(scene, origins, directions, "torch")
    t8, surface_id8, _ = cast(scene, origins, directions * 8, "torch")
    assert torch.equal(surface_id, surface_id8)
    seen = surface_id >= 0
    assert torch.allclose(t[seen], t8[seen] * 8, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_triton_interpreted_repeats_the_reference():
    # Triton reads TRITON_INTERPRET when it is imported, hence another process.
    script = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("helpers", {__file__!r})
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
scene = helpers.random_scene(11, 2, 1, P=4).select(slice(1, 2))
helpers.assert_same_views("triton", scene, 8, 8)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-P", "-c", script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shadows", [True, False])
def test_triton_repeats_the_reference(shadows):
    scene, table = random_scene(11, 4, 2, P=32).to("cuda"), random_table().to("cuda")
    K, world_from_cam = (x.cuda() for x in ring_cameras(7, 4, 2, 60, 100))
    views, expected = (
        render(scene, table, K, world_from_cam, 60, 100, shadows=shadows, kernel=kernel)
        for kernel in ("triton", "torch")
    )
    assert torch.equal(views.depth, expected.depth)
    assert torch.equal(views.surface_id, expected.surface_id)
    assert (views.rgb - expected.rgb).abs().max() < 3e-4
    origins = world_from_cam[..., :3, 3].contiguous()
    directions = torch.randn(4, 2, 300, 3, device="cuda")
    for got, known in zip(
        cast(scene, origins, directions, "triton"),
        cast(scene, origins, directions, "torch"),
        strict=True,
    ):
        assert torch.equal(got, known)


# ---------------------------------------------------------------------------------------- errors


def test_render_rejects_bad_arguments(monkeypatch):
    scene, table = empty_scene(), grey_table()
    K, pose = pinhole(1, 1, 4, 4), torch.eye(4).expand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="K must be"):
        render(scene, table, K[:, 0], pose, 4, 4, kernel="torch")
    with pytest.raises(ValueError, match="positive"):
        render(scene, table, K, pose, 0, 4, kernel="torch")
    with pytest.raises(ValueError, match="kernel must be one of"):
        render(scene, table, K, pose, 4, 4, kernel="cuda")  # type: ignore[arg-type]
    wrong = dataclasses.replace(scene, sky_texture=torch.ones(1, dtype=torch.int32))
    with pytest.raises(ValueError, match="texture numbers"):
        render(wrong, table, K, pose, 4, 4, kernel="torch")
    wrong = dataclasses.replace(scene, texture=scene.texture.long())
    with pytest.raises(TypeError, match="SceneBatch.texture must be"):
        render(wrong, table, K, pose, 4, 4, kernel="torch")
    monkeypatch.setattr(render_module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs the package numba"):
        render(scene, table, K, pose, 4, 4, kernel="numba")


def test_cast_rejects_bad_shapes():
    scene = empty_scene()
    with pytest.raises(ValueError, match="origins must be"):
        cast(scene, torch.zeros(2, 1, 3), torch.ones(2, 1, 5, 3))
    with pytest.raises(ValueError, match="directions must be"):
        cast(scene, torch.zeros(1, 1, 3), torch.ones(1, 2, 5, 3))


def test_scene_checks_its_shapes():
    with pytest.raises(ValueError, match="SceneBatch.unit_m must have shape"):
        dataclasses.replace(empty_scene(), unit_m=torch.ones(2)).validate()
    with pytest.raises(ValueError, match="center must be"):
        dataclasses.replace(empty_scene(), center=torch.ones(3)).validate()


def test_scene_selects_and_joins():
    scene = random_scene(1, 3, 1)
    joined = SceneBatch.cat([scene.select(slice(0, 1)), scene.select(torch.tensor([1, 2]))])
    for field in dataclasses.fields(scene):
        assert torch.equal(getattr(scene, field.name), getattr(joined, field.name))
