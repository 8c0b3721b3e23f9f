"""What scenes have beyond the plain ones, if asked: what is drawn for each feature.

With no feature on, scenes are the same bits as before there were any: every feature draws from
streams of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .placement import Layout
from .rng import SceneRandom
from .scene import SceneBatch
from .templates import Solids, is_one_of

_MOVERS = ("figure", "car", "van", "chair", "box", "ball", "toy", "mug", "books", "bottle", "stack",
           "rounded", "cylinder")  # fmt: skip
_SHINY = ("table", "round_table", "desk", "screen", "window", "window_sill", "car", "van", "bottle",
          "cabinet", "panel", "basin", "mug", "rounded", "ball")  # fmt: skip
_PANES = 2


@dataclass(frozen=True)
class Extras:
    """What the features add to B scenes of P solids and V views.

    Attributes:
        moving: solids of the object that moves.
        shift_m: where it stands in each view, from where it stands in the scene; world.
        glossy: share of light that each surface mirrors when looked at straight, 0 for dull ones;
            numbered like surfaces.
        roughness: of the mirroring surfaces, level of blur of the panorama, 0 to 2.
        pane_center: of flat panes of clear glass, metres.
        pane_half: their half sides as two orthogonal vectors, metres; 0 for no pane.
        panorama: which panorama surrounds the scene.
        turn: by which it is turned, in turns.
        open_air: whether the sky is the panorama's.
    """

    moving: Bool[Tensor, "b p"]
    shift_m: Float[Tensor, "b v 3"]
    glossy: Float[Tensor, "b m"]
    roughness: Int[Tensor, " b"]
    pane_center: Float[Tensor, "b g 3"]
    pane_half: Float[Tensor, "b g 2 3"]
    panorama: Int[Tensor, " b"]
    turn: Float[Tensor, " b"]
    open_air: Bool[Tensor, " b"]

    @staticmethod
    def joined(a: Extras, b: Extras, pick: Int[Tensor, " n"]) -> Extras:
        """Rows `pick` of both together."""
        names = [f.name for f in fields(Extras)]
        return Extras(**{n: torch.cat([getattr(a, n), getattr(b, n)])[pick] for n in names})


def draw_extras(
    rng: SceneRandom,
    features: frozenset[str],
    layout: Layout,
    solids: Solids,
    num_views: int,
    num_panoramas: int,
) -> Extras:
    """Draw what the chosen features need; those of the others are neutral."""
    moving, shift = _movers(rng.fork("movers"), layout, solids, num_views)
    center, half = _panes(rng.fork("glass"), layout)
    glossy = _glossy(rng.fork("glossy"), layout, solids)
    far = rng.fork("panoramas")
    return Extras(
        moving=moving & ("movers" in features),
        shift_m=shift,
        glossy=glossy * ("glossy" in features),
        roughness=rng.fork("roughness").integers(3),
        pane_center=center,
        pane_half=half * ("glass" in features),
        panorama=far.integers(max(1, num_panoramas)),
        turn=far.uniform(0.0, 1.0),
        open_air=far.chance(0.7) & ("panoramas" in features),
    )


def _movers(
    rng: SceneRandom, layout: Layout, solids: Solids, num_views: int
) -> tuple[Tensor, Tensor]:
    """Choose an object that stands elsewhere in each view but the first, in half of the scenes."""
    objects = layout.objects
    usable = objects.active & ~objects.large & is_one_of(objects.template, _MOVERS)
    weight = usable * (0.05 + layout.focus) * rng.uniform(0.5, 1.5, usable.shape[1])
    chosen = weight.argmax(1)
    exists = rng.chance(0.5) & usable.any(1)
    moving = exists[:, None] & solids.active & (solids.owner == chosen[:, None])
    size = torch.gather(objects.half_size.amax(-1), 1, chosen[:, None])[..., None]
    step = rng.normal(num_views, 2) * (1.5 * size + 0.2 * layout.unit_m[:, None, None])
    shift = torch.cat([step, torch.zeros_like(step[..., :1])], -1)
    shift[:, 0] = 0.0
    return moving, shift


def _glossy(rng: SceneRandom, layout: Layout, solids: Solids) -> Tensor:
    """Polish about half of the objects that often are, some floors, and few of the rest."""
    shiny = is_one_of(layout.objects.template, _SHINY)
    chance = torch.where(shiny, 0.45, 0.06)
    polished = rng.chance(chance, chance.shape[1]) & layout.objects.active
    strength = polished * rng.log_uniform(0.05, 0.6, chance.shape[1])
    parts = torch.gather(strength, 1, solids.owner)
    ground = rng.chance(0.15, 1) * rng.log_uniform(0.03, 0.25, 1)
    return torch.cat([parts, torch.zeros_like(ground), ground], 1) * rng.chance(0.6, 1)


def _panes(rng: SceneRandom, layout: Layout) -> tuple[Tensor, Tensor]:
    """Stand upright panes in some scenes, near objects that the first camera looks at."""
    count = layout.focus.shape[1]
    score = layout.focus * rng.uniform(0.0, 1.0, count)
    host = score.topk(_PANES, dim=1).indices
    index = host[..., None].expand(-1, -1, 3)
    center = torch.gather(layout.objects.center, 1, index)
    size = torch.gather(layout.objects.half_size, 1, index)
    extent = torch.minimum(size.amax(-1, keepdim=True), 1.5 * layout.unit_m[:, None, None])
    angle = rng.uniform(0.0, 6.2832, _PANES)
    across = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], -1)
    out = torch.stack([-angle.sin(), angle.cos(), torch.zeros_like(angle)], -1)
    center = center + out * size.norm(dim=-1, keepdim=True) * rng.uniform(0.6, 1.2, _PANES, 1)
    up = torch.zeros_like(across)
    up[..., 2] = 1.0
    sides = rng.uniform(0.6, 2.0, _PANES, 2, 1) * extent[..., None]
    there = rng.chance(0.5, 1) & rng.chance(0.7, _PANES)
    half = torch.stack([across, up], 2) * sides * there[..., None, None]
    return center, half


def moved_scenes(scene: SceneBatch, extras: Extras, eye: Float[Tensor, "b v 3"]) -> SceneBatch:
    """Return one scene of one view for each view (B V), as it is when that is taken.

    An object that would come close to the camera (`eye`) stays where it was.
    """
    V = scene.num_views
    step = extras.moving[:, None, :, None] * extras.shift_m[:, :, None]  # (B, V, P, 3)
    moved = scene.center[:, None] + step
    reach = scene.half_size.norm(dim=-1) + 0.1 * scene.unit_m[:, None]
    near = (moved - eye[:, :, None]).norm(dim=-1) < 1.5 * reach[:, None]
    stays = (near & extras.moving[:, None]).any(-1)[..., None, None]
    center = torch.where(stays, scene.center[:, None], moved)
    values = {"center": center.flatten(0, 1)}
    for name in ("sun_direction", "sun_color", "ambient", "lamp_position", "lamp_color"):
        values[name] = getattr(scene, name).flatten(0, 1)[:, None]
    for name in (f.name for f in fields(SceneBatch)):
        if name not in values:
            values[name] = getattr(scene, name).repeat_interleave(V, 0)
    return SceneBatch(**values)
