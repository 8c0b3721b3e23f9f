"""What a layout is, and the helpers with which the families of scenes place their objects."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .rng import SceneRandom
from .templates import INDEX, UPRIGHT_ROUND, Objects, is_one_of, usual_half_size

FAMILIES = ("room", "street", "facade", "square", "tabletop", "shapes")
FAMILY_WEIGHTS = (0.34, 0.10, 0.22, 0.12, 0.15, 0.07)

NUM_OBJECTS = 40
NUM_WAVES = 4

TAU = 2.0 * math.pi

CLUTTER = {"box": 3.0, "rounded": 1.2, "ball": 1.0, "cylinder": 1.5, "mug": 1.0, "bottle": 1.2,
            "books": 2.5, "stack": 0.8, "toy": 1.2, "screen": 0.6, "plant": 0.5, "cone": 0.4,
            "wedge": 0.4, "cut_box": 0.5}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where everything stands in each of B scenes, and where a photographer may stand.

    Attributes:
        objects: N objects a scene, the important ones first.
        room_center, room_half_size: of the inside-out box, metres.
        indoor, ceiling, has_ground: see `SceneBatch`.
        ground_waves, ground_amplitude: see `SceneBatch`.
        unit_m: size of a typical object.
        eye_low, eye_high: box for the first camera; z counts from the ground below it.
        focus: probability that the first camera looks at each object (not normalised).
        kind: index into `FAMILIES`.
    """

    objects: Objects
    room_center: Float[Tensor, "b 3"]
    room_half_size: Float[Tensor, "b 3"]
    indoor: Bool[Tensor, " b"]
    ceiling: Bool[Tensor, " b"]
    has_ground: Bool[Tensor, " b"]
    ground_waves: Float[Tensor, "b w 3"]
    ground_amplitude: Float[Tensor, "b w"]
    unit_m: Float[Tensor, " b"]
    eye_low: Float[Tensor, "b 3"]
    eye_high: Float[Tensor, "b 3"]
    focus: Float[Tensor, "b n"]
    kind: Int[Tensor, " b"]


def rotation_z(yaw_rad: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 3 3"]:
    """Rotate about the vertical."""
    c, s = torch.cos(yaw_rad), torch.sin(yaw_rad)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1)
    return rows.reshape(*yaw_rad.shape, 3, 3)


def random_rotation(rng: SceneRandom, *shape: int) -> Float[Tensor, "b *shape 3 3"]:
    """Draw uniformly distributed rotations."""
    q = rng.normal(*shape, 4)
    w, x, y, z = (q / q.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6)).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    return torch.stack(rows, -1).reshape(*w.shape, 3, 3)


@dataclass(frozen=True)
class Group:
    """n objects of each scene that were placed together; see `Objects` for the fields."""

    template: Int[Tensor, "b n"]
    center: Float[Tensor, "b n 3"]
    half_size: Float[Tensor, "b n 3"]
    rotation: Float[Tensor, "b n 3 3"]
    active: Bool[Tensor, "b n"]
    large: Bool[Tensor, "b n"]
    focus: Float[Tensor, "b n"]


class Placement:
    """Collects the objects of one family of scenes."""

    def __init__(self, rng: SceneRandom) -> None:
        self._rng = rng
        self._groups: list[Group] = []

    def add(
        self,
        template: Tensor | str,
        center: Tensor | tuple[Tensor, Tensor, Tensor],
        half_size: Tensor,
        yaw_rad: Tensor | float = 0.0,
        *,
        chance: float = 1.0,
        where: Tensor | None = None,
        large: bool = False,
        focus: float = 1.0,
        rotation: Tensor | None = None,
    ) -> Group:
        """Place n objects.

        Args:
            template: (B, n) indices, or the name of the one template.
            center: (B, n, 3) metres, or its coordinates.
            half_size: (B, n, 3) metres.
            yaw_rad: about the vertical; 0 turns the front to -y.
            chance: of each object to exist.
            where: (B, n) where objects may exist at all.
            large: whether the objects are big surfaces.
            focus: weight with which the first camera looks at these objects.
            rotation: (B, n, 3, 3) instead of a yaw.
        """
        center = vector(*center) if isinstance(center, tuple) else center
        shape, device = center.shape[:2], center.device
        half_size = half_size.expand(center.shape)
        if isinstance(template, str):
            template = torch.full(shape, INDEX[template], dtype=torch.int64, device=device)
        if rotation is None:
            yaw = torch.as_tensor(yaw_rad, dtype=torch.float32, device=device)
            rotation = rotation_z(yaw.expand(shape))
        active = self._rng.chance(chance, shape[1])
        if where is not None:
            active = active & where
        group = Group(
            template,
            center,
            half_size,
            rotation,
            active,
            torch.full_like(active, large),
            active * focus,
        )
        self._groups.append(group)
        return group

    def finish(self) -> tuple[Objects, Float[Tensor, "b n"]]:
        """Return all objects, filled up to `NUM_OBJECTS`, and their focus weights."""

        def join(name: str) -> Tensor:
            value = torch.cat([getattr(group, name) for group in self._groups], 1)
            missing = NUM_OBJECTS - value.shape[1]
            assert missing >= 0, f"NUM_OBJECTS is too small by {-missing}"
            filler = value.new_zeros((value.shape[0], missing, *value.shape[2:]))
            return torch.cat([value, filler], 1)

        return Objects(**{f.name: join(f.name) for f in fields(Objects)}), join("focus")


def usual_size(rng: SceneRandom, template: Tensor, default_m: float = 0.3) -> Tensor:
    """Half sizes near the usual ones: +-30 % overall and +-15 % per axis."""
    count = template.shape[1]
    size = usual_half_size(template, default_m)
    size = size * rng.log_uniform(0.75, 1.35, count, 1) * rng.log_uniform(0.87, 1.15, count, 3)
    same = torch.stack([size[..., 0], size[..., 0], size[..., 2]], -1)
    return torch.where(is_one_of(template, UPRIGHT_ROUND)[..., None], same, size)


def vector(*components: Tensor) -> Tensor:
    """Stack broadcastable coordinates along a new last axis."""
    return torch.stack(torch.broadcast_tensors(*components), -1)


def against_wall(
    wall: Tensor, along: Tensor, half_size: Tensor, room: Tensor
) -> tuple[Tensor, Tensor]:
    """Put objects with their backs to the walls +x, -x, +y, -y of a box around the origin.

    Args:
        wall: (B, n) 0..3.
        along: (B, n) position along the wall in -1..1.
        half_size: (B, n, 3).
        room: (B, 3) half sizes of the box.

    Returns:
        xy (B, n, 2) and yaw (B, n).
    """
    side = 1.0 - 2.0 * (wall % 2)
    across_x = wall < 2
    length = torch.where(across_x, room[:, None, 0], room[:, None, 1])
    breadth = torch.where(across_x, room[:, None, 1], room[:, None, 0])
    depth = side * (length - half_size[..., 1])
    shift = along * (breadth - half_size[..., 0]).clamp_min(0.0)
    xy = torch.where(across_x[..., None], vector(depth, shift), vector(shift, depth))
    yaw = torch.where(across_x, -side * (math.pi / 2), (1.0 - side) * (math.pi / 2))
    return xy, yaw


def spread_over_walls(rng: SceneRandom, count: int, per_wall: int) -> tuple[Tensor, Tensor]:
    """Walls in turn and stratified positions along them, so that few objects collide."""
    k = torch.arange(count, device=rng.device)
    wall = (k + rng.integers(4, 1)) % 4
    along = ((k // 4) % per_wall + rng.uniform(0.1, 0.9, count)) / per_wall * 2.0 - 1.0
    return wall, along


def no_ground(rng: SceneRandom) -> dict[str, Tensor]:
    """Return the wave fields of a `Layout` without a ground."""
    B, device = rng.batch_size, rng.device
    return {
        "ground_waves": torch.zeros(B, NUM_WAVES, 3, device=device),
        "ground_amplitude": torch.zeros(B, NUM_WAVES, device=device),
    }


def rolling_ground(
    rng: SceneRandom, unit: Tensor, chance: float, slope: float
) -> dict[str, Tensor]:
    """Rolling ground: wave lengths of about 4 to 40 units and slopes of at most `slope`."""
    frequency = rng.log_uniform(0.15, 1.5, NUM_WAVES) / unit[:, None]
    angle = rng.uniform(0.0, 2.0 * math.pi, NUM_WAVES)
    phase = rng.uniform(0.0, 2.0 * math.pi, NUM_WAVES)
    waves = vector(frequency * torch.cos(angle), frequency * torch.sin(angle), phase)
    steep = rng.log_uniform(slope / 10.0, slope, 1) * rng.chance(chance, 1)
    share = rng.uniform(0.1, 0.5, NUM_WAVES)
    return {"ground_waves": waves, "ground_amplitude": steep * share / frequency}


def small_size(rng: SceneRandom, template: Tensor, typical_m: Tensor) -> Tensor:
    """Usual sizes, or random boxes of about `typical_m` for shapes without one."""
    count = template.shape[1]
    free = typical_m[:, None, None] * rng.log_uniform(0.45, 1.5, count, 3)
    usual = usual_size(rng, template, 0.0)
    return torch.where(usual > 0.0, usual, free)


def on_top(
    rng: SceneRandom, hosts: Group, host: Int[Tensor, "b n"], half_size: Tensor, spread: float
) -> Float[Tensor, "b n 3"]:
    """Centres of objects that stand on the tops of `hosts`.

    Args:
        rng: streams of the scenes.
        hosts: the objects below.
        host: which one each object stands on.
        half_size: (B, n, 3) of the objects.
        spread: how far from the middle, as a share of the host's half size.
    """
    index = host[..., None].expand(-1, -1, 3)
    center = torch.gather(hosts.center, 1, index)
    size = torch.gather(hosts.half_size, 1, index)
    shift = rng.uniform(-spread, spread, host.shape[1], 2) * size[..., :2]
    height = center[..., 2:] + size[..., 2:] + half_size[..., 2:]
    return torch.cat([center[..., :2] + shift, height], -1)


def join_groups(*groups: Group) -> Group:
    """Put groups side by side."""
    names = [f.name for f in fields(Group)]
    return Group(**{name: torch.cat([getattr(g, name) for g in groups], 1) for name in names})
