"""Light that surfaces mirror and that clear panes add: depth stays that of what one looks at.

A polished surface keeps its own depth and adds what it mirrors of the panorama. A pane of glass
has none: it dims what is behind a little and mirrors the panorama over it, as windows do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ._packed import S_CENTER, S_CUTS, S_HAS_CUT, S_HAS_QUADRIC, S_MATRIX, S_QUADRIC, pack_scene
from .features import Extras
from .panoramas import Panoramas
from .scene import RenderedViews, SceneBatch

Vec = tuple[Tensor, Tensor, Tensor]


def surround(
    samples: Sequence[RenderedViews],
    scene: SceneBatch,
    extras: Extras,
    panoramas: Panoramas,
    direction: Float[Tensor, "b v h w 3"],
    origin: Float[Tensor, "b v 3"],
    white: float,
) -> Float[Tensor, "b v h w 3"]:
    """Return the mean radiance with the panorama behind, in and over everything.

    Args:
        samples: the views, rendered through slightly shifted pixels; the first through their
            centres, where polish and glass are looked at, too.
        scene: that was rendered; movers may stand elsewhere in it.
        extras: what there is to add.
        panoramas: of mean 1; they are as bright as the sky of the scene.
        direction: of the pixel centres, world, of unit z in the camera.
        origin: of the cameras.
        white: largest radiance of a sample.
    """
    views = samples[0]
    light = scene.sky_color.mean((1, 2))
    covered = torch.zeros_like(views.depth)
    rgb = torch.zeros_like(views.rgb)
    for sample in samples:
        sky = (sample.surface_id < 0) & extras.open_air[:, None, None, None]
        covered += sky
        rgb += sample.rgb.clamp(max=white).masked_fill_(sky[..., None], 0.0)
    covered, rgb = covered / len(samples), rgb / len(samples)
    rows = torch.nonzero(covered.flatten())[:, 0]
    if rows.numel():
        pixels = _Pixels.at(rows, views, direction, extras, light)
        seen = panoramas.look(pixels.picture, pixels.unit, pixels.turn) * pixels.light
        share = covered.flatten()[rows, None]
        rgb.view(-1, 3).index_add_(0, rows, seen.clamp_(max=white) * share)
    strength = extras.glossy.gather(1, views.surface_id.clamp(min=0).flatten(1).long())
    strength = strength * (views.surface_id.flatten(1) >= 0)
    rows = torch.nonzero(strength.flatten())[:, 0]
    if rows.numel():
        strength = strength.flatten()[rows]
        rest = (views, scene, extras, panoramas, direction, origin, light)
        rgb = _polish(rgb, rows, strength, *rest)
    for pane in range(extras.pane_half.shape[1]):
        rgb = _glaze(rgb, pane, views, extras, panoramas, direction, origin, light)
    return rgb


class _Pixels:
    """Some pixels of a batch, one row each: scene, unit direction, panorama."""

    def __init__(
        self, rows: Tensor, per_scene: int, direction: Tensor, extras: Extras, light: Tensor
    ) -> None:
        self.scene = rows // per_scene
        x, y, z = direction.flatten(0, -2)[rows].unbind(-1)
        length = torch.sqrt(x * x + y * y + z * z)
        self.unit: Vec = (x / length, y / length, z / length)
        self.picture, self.turn = extras.panorama[self.scene], extras.turn[self.scene]
        self.light = light[self.scene, None]

    @classmethod
    def at(
        cls, rows: Tensor, views: RenderedViews, direction: Tensor, extras: Extras, light: Tensor
    ) -> _Pixels:
        """The pixels with these flat numbers."""
        return cls(rows, views.depth[0].numel(), direction, extras, light)


def _written(rgb: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    return rgb.reshape(-1, 3).index_copy(0, rows, values).view(rgb.shape)


def _dot(a: Vec, b: Vec) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _fresnel(cosine: Tensor, straight: Tensor | float) -> Tensor:
    """Schlick's approximation (1994) of the mirrored share."""
    grazing = (1.0 - cosine.clamp(0.0, 1.0)) ** 5
    return straight + (1.0 - straight) * grazing * 0.6


def _mirrored(d: Vec, n: Vec) -> Vec:
    twice = 2.0 * _dot(d, n)
    return d[0] - twice * n[0], d[1] - twice * n[1], d[2] - twice * n[2]


def _polish(
    rgb: Tensor,
    rows: Tensor,
    strength: Tensor,
    views: RenderedViews,
    scene: SceneBatch,
    extras: Extras,
    panoramas: Panoramas,
    direction: Tensor,
    origin: Tensor,
    light: Tensor,
) -> Tensor:
    """Mix the mirrored panorama into polished surfaces."""
    pixels = _Pixels.at(rows, views, direction, extras, light)
    V, P = views.depth.shape[1], scene.num_solids
    view = rows // views.depth[0, 0].numel() % V
    depth = views.depth.flatten()[rows, None]
    point = origin[pixels.scene, view] + depth * direction.reshape(-1, 3)[rows]
    surface = views.surface_id.flatten()[rows].long()
    solid = pack_scene(scene).solids[pixels.scene, surface.clamp(max=P - 1)]
    n = _normal(solid, point)
    flat = surface >= P  # the ground, which hardly slopes
    up = torch.where(flat, 1.0, 0.0)
    normal = (
        torch.where(flat, 0.0, n[0]),
        torch.where(flat, 0.0, n[1]),
        torch.where(flat, up, n[2]),
    )
    cosine = _dot(pixels.unit, normal).abs()
    share = _fresnel(cosine, strength)[:, None]
    towards = _mirrored(pixels.unit, normal)
    mirrored = torch.zeros_like(point)
    rough = extras.roughness[pixels.scene]
    for level in range(3):
        some = torch.nonzero(rough == level)[:, 0]
        if some.numel():
            ray = (towards[0][some], towards[1][some], towards[2][some])
            seen = panoramas.look(pixels.picture[some], ray, pixels.turn[some], level)
            mirrored[some] = seen * pixels.light[some]
    old = rgb.reshape(-1, 3)[rows]
    return _written(rgb, rows, old * (1.0 - share) + mirrored * share)


def _normal(solid: Tensor, point: Tensor) -> Vec:
    """Unit normals of packed solids where points lie on them: those of the nearest constraint."""
    offset = point - solid[:, S_CENTER : S_CENTER + 3]
    matrix = solid[:, S_MATRIX : S_MATRIX + 9].view(-1, 3, 3)
    local = (matrix * offset[:, None]).sum(-1)
    qa, qz, lz, k = solid[:, S_QUADRIC : S_QUADRIC + 4].unbind(-1)
    x, y, z = local.unbind(-1)
    gradient = torch.stack([2 * qa * x, 2 * qa * y, 2 * qz * z + lz], -1)
    value = qa * (x * x + y * y) + qz * z * z + lz * z + k
    curved = value.abs() / gradient.norm(dim=-1).clamp_min(1e-6)
    far = torch.full_like(curved, 10.0)
    gaps = [(1.0 - local.abs())[:, i].abs() for i in range(3)]
    gaps.append(torch.where(solid[:, S_HAS_QUADRIC] > 0, curved, far))
    normals = list(torch.eye(3, device=point.device)[:, None].expand(3, len(point), 3))
    normals.append(gradient)
    for cut in range(2):
        row = solid[:, S_CUTS + 4 * cut : S_CUTS + 4 * cut + 4]
        gap = ((row[:, :3] * local).sum(-1) - row[:, 3]).abs() / row[:, :3].norm(dim=-1).clamp_min(
            1e-6
        )
        gaps.append(torch.where(solid[:, S_HAS_CUT + cut] > 0, gap, far))
        normals.append(row[:, :3])
    nearest = torch.stack(gaps).argmin(0)
    chosen = torch.stack(normals)[nearest, torch.arange(len(point), device=point.device)]
    world = (matrix * chosen[..., None]).sum(1)
    world = world / world.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return world[:, 0], world[:, 1], world[:, 2]


def _glaze(
    rgb: Tensor,
    pane: int,
    views: RenderedViews,
    extras: Extras,
    panoramas: Panoramas,
    direction: Tensor,
    origin: Tensor,
    light: Tensor,
) -> Tensor:
    """Lay one pane of each scene over what is behind it."""
    half, center = extras.pane_half[:, pane], extras.pane_center[:, pane]
    with_pane = torch.nonzero(half.abs().sum((1, 2)) > 0)[:, 0]
    if not with_pane.numel():
        return rgb
    across, up = half[with_pane, 0], half[with_pane, 1]
    normal = torch.linalg.cross(across, up, dim=-1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    rays = direction[with_pane]  # (n, V, H, W, 3)
    away = center[with_pane, None] - origin[with_pane]  # (n, V, 3)

    def along(axis: Tensor) -> tuple[Tensor, Tensor]:
        """Both vectors along an axis: (n, V, H, W) and (n, V, 1, 1)."""
        d = rays[..., 0] * axis[:, 0, None, None, None]
        for i in (1, 2):
            d = d + rays[..., i] * axis[:, i, None, None, None]
        return d, (away * axis[:, None]).sum(-1)[..., None, None]

    facing, distance = along(normal)
    t = distance / torch.where(facing.abs() < 1e-6, 1e-6, facing)
    inside = (t > 0.05) & (t < views.depth[with_pane])
    for side in (across, up):
        size = side.norm(dim=-1, keepdim=True)
        d, offset = along(side / size)
        inside &= (t * d - offset).abs() < size[..., None, None]
    flat = torch.zeros(views.depth.shape, dtype=torch.bool, device=rgb.device)
    flat[with_pane] = inside
    rows = torch.nonzero(flat.flatten())[:, 0]
    if not rows.numel():
        return rgb
    pixels = _Pixels.at(rows, views, direction, extras, light)
    place = torch.zeros(len(extras.panorama), dtype=torch.int64, device=rgb.device)
    place[with_pane] = torch.arange(len(with_pane), device=rgb.device)
    n = normal[place[pixels.scene]].unbind(-1)
    share = _fresnel(_dot(pixels.unit, n).abs(), 0.15)[:, None]
    seen = panoramas.look(pixels.picture, _mirrored(pixels.unit, n), pixels.turn)
    old = rgb.reshape(-1, 3)[rows]
    return _written(rgb, rows, old * 0.9 * (1.0 - share) + seen * pixels.light * share)
