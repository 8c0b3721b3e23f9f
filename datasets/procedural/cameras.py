"""Place the cameras of a scene so that consecutive views share a wanted part of what they see.

Candidates are drawn for each view and tested by casting a few rays through the scene: the overlap
is counted exactly, from the candidate to the points that the reference view sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .placement import Layout
from .rng import SceneRandom
from .scene import SceneBatch, ground_height

Cast = Callable[[SceneBatch, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(scene, origins (B, C, 3), directions (B, C, N, 3)) -> t, surface_id, inside (B, C, N)."""

FAR_M = 250.0
"""Points farther away count as sky."""

MOVES = ("free", "orbit", "forward", "pan")
MOVE_WEIGHTS = (0.4, 0.35, 0.12, 0.13)


@dataclass(frozen=True)
class CameraOptions:
    """How cameras are drawn.

    Attributes:
        overlap: range of the wanted overlap with the reference view, drawn uniformly.
        fov_deg: range of the field of view along the long side.
        first_candidates: candidates for the first view.
        next_candidates: candidates for every other view.
        probe_rays: rays along the short side of the probing grid.
    """

    overlap: tuple[float, float] = (0.1, 0.95)
    fov_deg: tuple[float, float] = (35.0, 90.0)
    first_candidates: int = 6
    next_candidates: int = 12
    probe_rays: int = 9


@dataclass(frozen=True)
class CameraSet:
    """Cameras of B scenes.

    Attributes:
        K: (B, V, 3, 3) pixels.
        world_from_cam: (B, V, 4, 4).
        accepted: (B,) False where some view found no good place.
    """

    K: Float[Tensor, "b v 3 3"]
    world_from_cam: Float[Tensor, "b v 4 4"]
    accepted: Bool[Tensor, " b"]


def look_along(
    forward: Float[Tensor, "*shape 3"], roll_rad: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape 3 3"]:
    """Return world_from_cam rotations that look along `forward`, upright but for the roll."""
    z = _unit(forward)
    x = torch.stack([z[..., 1], -z[..., 0], torch.zeros_like(z[..., 0])], -1)  # z cross up
    length = _norm(x)[..., None]
    fallback = torch.tensor([1.0, 0.0, 0.0], device=z.device)
    x = torch.where(length < 1e-4, fallback, x / length.clamp_min(1e-4))
    y = torch.linalg.cross(z, x, dim=-1)
    c, s = torch.cos(roll_rad)[..., None], torch.sin(roll_rad)[..., None]
    return torch.stack([x * c + y * s, y * c - x * s, z], -1)


def pixel_directions(
    K: Float[Tensor, "b c 3 3"], rotation: Float[Tensor, "b c 3 3"], height: int, width: int
) -> Float[Tensor, "b c n 3"]:
    """World directions of unit camera z through the pixel centres, row by row."""
    v = torch.arange(height, device=K.device) + 0.5
    u = torch.arange(width, device=K.device) + 0.5
    u, v = u.repeat(height), v.repeat_interleave(width)
    x = (u - K[..., 0, 2, None]) / K[..., 0, 0, None]
    y = (v - K[..., 1, 2, None]) / K[..., 1, 1, None]
    columns = rotation[..., None, :, :]  # (B, C, 1, 3, 3)
    return columns[..., 0] * x[..., None] + columns[..., 1] * y[..., None] + columns[..., 2]


def draw_intrinsics(
    rng: SceneRandom, num_views: int, height: int, width: int, fov_deg: tuple[float, float]
) -> Float[Tensor, "b v 3 3"]:
    """Draw focal lengths (shared by the views of 60 % of the scenes) and principal points."""
    V = num_views
    half_fov = rng.uniform(math.radians(fov_deg[0] / 2), math.radians(fov_deg[1] / 2), V)
    shared = rng.chance(0.6, 1)
    half_fov = torch.where(shared, half_fov[:, :1], half_fov)
    focal = 0.5 * max(height, width) * torch.cos(half_fov) / torch.sin(half_fov)
    aspect = 1.0 + 0.008 * rng.normal(V).clamp(-2.0, 2.0)
    shift = 0.012 * rng.normal(V, 2).clamp(-2.5, 2.5)  # at most 3 % of the side
    K = torch.zeros(rng.batch_size, V, 3, 3, device=rng.device)
    K[..., 0, 0] = focal
    K[..., 1, 1] = focal * aspect
    K[..., 0, 2] = width * (0.5 + shift[..., 0])
    K[..., 1, 2] = height * (0.5 + shift[..., 1])
    K[..., 2, 2] = 1.0
    return K


def place_cameras(
    rng: SceneRandom,
    scene: SceneBatch,
    layout: Layout,
    num_views: int,
    height: int,
    width: int,
    options: CameraOptions,
    cast: Cast,
) -> CameraSet:
    """Draw the cameras of all scenes; view v > 0 is placed relative to an earlier view.

    Reference: the overlap is the smaller of both directions' share of visible points, as in the
    pair lists of ScanNet and MegaDepth.
    """
    K = draw_intrinsics(rng.fork("intrinsics"), num_views, height, width, options.fov_deg)
    probe = _Probe(scene, K, height, width, options.probe_rays, cast)
    views = [_first_view(rng.fork("view0"), layout, probe, options)]
    for v in range(1, num_views):
        fork = rng.fork(f"view{v}")
        reference = _take_view(fork.integers(v), views)
        views.append(_next_view(fork, v, layout, probe, options, reference))
    position = torch.stack([view.position for view in views], 1)
    rotation = torch.stack([view.rotation for view in views], 1)
    pose = torch.zeros(*position.shape[:2], 4, 4, device=rng.device)
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = position
    pose[..., 3, 3] = 1.0
    accepted = torch.stack([view.good for view in views], 1).all(1)
    return CameraSet(K, pose, accepted)


@dataclass(frozen=True)
class _View:
    """One placed view and what its n probing rays met."""

    K: Tensor  # (B, 3, 3) of the probing grid
    position: Tensor  # (B, 3)
    rotation: Tensor  # (B, 3, 3)
    depth: Tensor  # (B, n)
    direction: Tensor  # (B, n, 3)
    good: Tensor  # (B,)


class _Probe:
    """Casts a coarse grid of rays from candidate cameras."""

    def __init__(
        self, scene: SceneBatch, K: Tensor, height: int, width: int, rays: int, cast: Cast
    ) -> None:
        self.scene = scene
        self.cast = cast
        self.rows = max(4, round(rays * height / min(height, width)))
        self.columns = max(4, round(rays * width / min(height, width)))
        scale = torch.tensor([[self.columns / width], [self.rows / height], [1.0]], device=K.device)
        self.K = K * scale

    def look(self, v: int, position: Tensor, rotation: Tensor) -> tuple[Tensor, ...]:
        """Return direction, depth, surface id and inside of C candidates for view v."""
        count = position.shape[1]
        K = self.K[:, v, None].expand(-1, count, -1, -1)
        direction = pixel_directions(K, rotation, self.rows, self.columns)
        depth, surface, inside = self.cast(self.scene, position, direction)
        return direction, depth, surface, inside

    def project(self, K: Tensor, points_cam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project onto the probing grid: x, y and whether the point is inside the image."""
        z = points_cam[..., 2]
        front = z > 1e-3
        z = torch.where(front, z, 1.0)
        x = K[..., 0, 0, None] * points_cam[..., 0] / z + K[..., 0, 2, None]
        y = K[..., 1, 1, None] * points_cam[..., 1] / z + K[..., 1, 2, None]
        within = front & (x > 0) & (x < self.columns) & (y > 0) & (y < self.rows)
        return x, y, within


def _first_view(rng: SceneRandom, layout: Layout, probe: _Probe, options: CameraOptions) -> _View:
    C = options.first_candidates
    scene = probe.scene
    share = rng.uniform(0.0, 1.0, C, 3)
    low, high = layout.eye_low[:, None], layout.eye_high[:, None]
    position = low + (high - low) * share
    lift = _ground(scene, position)
    position = torch.cat([position[..., :2], position[..., 2:] + lift[..., None]], -1)
    weight = torch.cumsum(layout.focus + 1e-6, -1)
    draw = rng.uniform(0.0, 1.0, C) * weight[:, -1:]
    index = torch.searchsorted(weight, draw).clamp(max=weight.shape[1] - 1)
    index = index[..., None].expand(-1, -1, 3)
    target = torch.gather(layout.objects.center, 1, index)
    extent = torch.gather(layout.objects.half_size, 1, index)
    target = target + extent * rng.uniform(-0.9, 0.9, C, 3)
    wander = rng.normal(C, 3) * 0.15 * layout.unit_m[:, None, None]
    rotation = look_along(target + wander - position, _roll(rng, C, 0.04))
    direction, depth, surface, inside = probe.look(0, position, rotation)
    unit = layout.unit_m[:, None]
    seen = (depth < FAR_M).float().mean(-1)
    close = (depth < 0.3 * unit[..., None]).float().mean(-1)
    bad = inside.any(-1) | (close > 0.25) | (seen < 0.5)
    score = _distinct(surface).clamp(max=9.0) + rng.uniform(0.0, 6.0, C) - 100.0 * bad
    best = score.argmax(1)
    return _View(
        probe.K[:, 0],
        _take(position, best),
        _take(rotation, best),
        _take(depth, best),
        _take(direction, best),
        ~_take(bad, best),
    )


def _next_view(
    rng: SceneRandom,
    v: int,
    layout: Layout,
    probe: _Probe,
    options: CameraOptions,
    reference: _View,
) -> _View:
    C = options.next_candidates
    scene = probe.scene
    seen = reference.depth < FAR_M
    depth = reference.depth.clamp(max=FAR_M)
    points = reference.position[:, None] + reference.direction * depth[..., None]  # (B, n, 3)
    position, rotation = _moves(rng, C, reference, points, seen, layout.unit_m)
    position = _keep_in_bounds(scene, position, layout.unit_m)

    # from the reference to the candidate, exactly: t = 1 at the point when nothing is in between
    to_point = points[:, None] - position[:, :, None]  # (B, C, n, 3)
    in_camera = into_frame(rotation[:, :, None], to_point)
    K = probe.K[:, v, None]
    _, _, within = probe.project(K, in_camera)
    t, _, inside = probe.cast(scene, position, to_point)
    visible = within & (t > 0.985) & seen[:, None]
    forth = visible.float().sum(-1) / seen.float().sum(-1, keepdim=True).clamp_min(1.0)

    # from the candidate to the reference, by the reference's probing depths
    direction, depth, surface, inside2 = probe.look(v, position, rotation)
    own = depth < FAR_M
    own_points = position[:, :, None] + direction * depth.clamp(max=FAR_M)[..., None]
    offset = own_points - reference.position[:, None, None]
    in_reference = into_frame(reference.rotation[:, None, None], offset)
    x, y, within = probe.project(reference.K[:, None], in_reference)
    cell = y.clamp(0, probe.rows - 1).long() * probe.columns + x.clamp(0, probe.columns - 1).long()
    behind = torch.gather(reference.depth[:, None].expand(-1, C, -1), 2, cell)
    visible = within & own & (in_reference[..., 2] < 1.15 * behind)
    back = visible.float().sum(-1) / own.float().sum(-1).clamp_min(1.0)

    overlap = torch.minimum(forth, back)
    target = rng.uniform(*options.overlap, 1)
    close = (depth < 0.2 * layout.unit_m[:, None, None]).float().mean(-1)
    bad = inside.any(-1) | inside2.any(-1) | (close > 0.25) | (own.float().mean(-1) < 0.45)
    low, high = options.overlap
    outside = (overlap < 0.8 * low) | (overlap > high + 0.15 * (1.0 - high))
    richness = 0.01 * _distinct(surface).clamp(max=8.0)  # blank walls teach little
    score = richness - (overlap - target).abs() - 2.0 * outside - 100.0 * bad
    best = score.argmax(1)
    return _View(
        probe.K[:, v],
        _take(position, best),
        _take(rotation, best),
        _take(depth, best),
        _take(direction, best),
        _take(score, best) > -1.5,
    )


def _moves(
    rng: SceneRandom,
    count: int,
    reference: _View,
    points: Tensor,
    seen: Tensor,
    unit: Tensor,
) -> tuple[Tensor, Tensor]:
    """Draw candidate positions (B, C, 3) and rotations (B, C, 3, 3) of one move for each scene.

    A quarter of the candidates moves freely in every scene, so that a good one is always at hand.
    """
    C = count
    eye, forward = reference.position[:, None], reference.rotation[..., 2][:, None]
    typical = _median_depth(reference.depth, seen)[:, None]
    # what to look at: points that the reference sees
    order = torch.cumsum(seen.float() + 1e-4, -1)
    draw = rng.uniform(0.0, 1.0, C) * order[:, -1:]
    index = torch.searchsorted(order, draw).clamp(max=seen.shape[1] - 1)
    target = torch.gather(points, 1, index[..., None].expand(-1, -1, 3))

    flatten = torch.tensor([1.0, 0.35, 0.7], device=rng.device)
    sideways = _unit(rng.normal(C, 3) * flatten)
    shift = rng.log_uniform(0.03, 1.6, C)[..., None] * typical[..., None] * sideways
    free = eye + into_frame(reference.rotation[:, None].transpose(-1, -2), shift)

    pivot = torch.where(rng.chance(0.5, 1, 1), eye + forward * typical[..., None], target)
    arm = eye - pivot
    angle = rng.uniform(math.radians(10.0), math.radians(125.0), C)
    angle = angle * (1.0 - 2.0 * rng.integers(2, C))
    zoom = rng.log_uniform(0.55, 1.7, C)
    c, s = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rise = rng.normal(C) * 0.12 * _norm(arm)
    turned = [c * arm[..., 0] - s * arm[..., 1], s * arm[..., 0] + c * arm[..., 1]]
    orbit = pivot + torch.stack([*turned, arm[..., 2] + rise], -1)

    advance = rng.log_uniform(0.05, 0.65, C) * (1.0 - 2.0 * rng.chance(0.35, C).float())
    ahead = eye + forward * (advance * typical)[..., None]
    ahead = ahead + rng.normal(C, 3) * 0.02 * typical[..., None]

    step = rng.log_uniform(0.01, 0.12, C)[..., None] * typical[..., None]
    stand = eye + sideways * step
    swing = rng.normal(C) * 0.5
    c, s = torch.cos(swing), torch.sin(swing)
    f = forward.expand(-1, C, -1)
    swung = torch.stack(
        [c * f[..., 0] - s * f[..., 1], s * f[..., 0] + c * f[..., 1],
         f[..., 2] + 0.15 * rng.normal(C)], -1
    )  # fmt: skip

    move = rng.choice(MOVE_WEIGHTS, 1).expand(-1, C)
    move = torch.where(torch.arange(C, device=rng.device) % 4 == 0, 0, move)[..., None]
    position = torch.where(move == 1, orbit, torch.where(move == 2, ahead, free))
    position = torch.where(move == 3, stand, position)
    look = torch.where(move == 1, torch.where(rng.chance(0.7, C, 1), pivot, target), target)
    aim = _unit(look - position) + rng.normal(C, 3) * 0.12
    keep = (move == 2) | ((move == 0) & rng.chance(0.2, C, 1))
    aim = torch.where(keep, f + rng.normal(C, 3) * 0.08, aim)
    aim = torch.where(move == 3, swung, aim)
    return position, look_along(aim, _roll(rng, C, 0.03))


def _distinct(surface: Tensor) -> Tensor:
    """Count the changes of surface ids in sorted order: how much there is to see."""
    ordered = surface.sort(-1).values
    return (ordered[..., 1:] != ordered[..., :-1]).sum(-1).float()


def _keep_in_bounds(scene: SceneBatch, position: Tensor, unit: Tensor) -> Tensor:
    """Move positions into the room, or above the ground."""
    margin = 0.06 * scene.room_half_size
    low = (scene.room_center - scene.room_half_size + margin)[:, None]
    high = (scene.room_center + scene.room_half_size - margin)[:, None]
    inside = torch.minimum(torch.maximum(position, low), high)
    floor = _ground(scene, position) + (0.25 * unit[:, None]).clamp(max=0.6)
    above = torch.cat([position[..., :2], torch.maximum(position[..., 2], floor)[..., None]], -1)
    return torch.where(scene.indoor[:, None, None], inside, above)


def _ground(scene: SceneBatch, position: Tensor) -> Tensor:
    height = ground_height(scene, position[..., :2])
    return torch.where(scene.has_ground[:, None], height, 0.0)


def _roll(rng: SceneRandom, count: int, quarter_chance: float) -> Tensor:
    """Small rolls, and sometimes a quarter turn (a portrait photograph that was not rotated)."""
    quarter = rng.chance(quarter_chance, count) * (2.0 * rng.integers(2, count) - 1.0)
    return rng.normal(count) * 0.06 + quarter * (math.pi / 2.0)


def _median_depth(depth: Tensor, seen: Tensor) -> Tensor:
    """Median of the seen depths of each row; 2 m where there is none."""
    ordered = torch.where(seen, depth, math.inf).sort(-1).values
    middle = ((seen.sum(-1) - 1) // 2).clamp_min(0)
    value = torch.gather(ordered, 1, middle[:, None])[:, 0]
    return torch.where(torch.isfinite(value), value, 2.0)


def _norm(x: Tensor) -> Tensor:
    return torch.sqrt(x[..., 0] * x[..., 0] + x[..., 1] * x[..., 1] + x[..., 2] * x[..., 2])


def _unit(x: Tensor) -> Tensor:
    return x / _norm(x)[..., None].clamp_min(1e-9)


def into_frame(rotation: Tensor, x: Tensor) -> Tensor:
    """Apply the transposed rotation; plain arithmetic, whose bits do not depend on the batch."""
    return (
        rotation[..., 0, :] * x[..., :1]
        + rotation[..., 1, :] * x[..., 1:2]
        + rotation[..., 2, :] * x[..., 2:]
    )


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Pick candidate `index` (B,) of (B, C, ...)."""
    return x[torch.arange(x.shape[0], device=x.device), index]


def _take_view(index: Tensor, views: list[_View]) -> _View:
    if len(views) == 1:
        return views[0]
    names = ("K", "position", "rotation", "depth", "direction", "good")
    return _View(*(_take(torch.stack([getattr(v, n) for v in views], 1), index) for n in names))
