"""Draw the family of every scene and lay the scenes out.

Each family places the objects of all its scenes of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from .indoor import furnish_room
from .outdoor import lay_facade, lay_square, lay_street
from .placement import FAMILY_WEIGHTS, Layout
from .rng import SceneRandom
from .tabletop import lay_shapes, lay_tabletop
from .templates import Objects

_MAKERS: tuple[Callable[[SceneRandom], Layout], ...] = (
    furnish_room,
    lay_street,
    lay_facade,
    lay_square,
    lay_tabletop,
    lay_shapes,
)


def draw_layouts(rng: SceneRandom) -> Layout:
    """Draw a family for each scene and lay the scene out."""
    kind = rng.fork("family").choice(FAMILY_WEIGHTS)
    rows, layouts = [], []
    for index, make in enumerate(_MAKERS):
        members = torch.nonzero(kind == index)[:, 0]
        if members.numel():
            rows.append(members)
            layouts.append(make(rng.fork("layout").select(members)))
    order = torch.argsort(torch.cat(rows))
    rest = {f.name: _joined(layouts, f.name, order) for f in fields(Layout) if f.name != "objects"}
    objects = [layout.objects for layout in layouts]
    parts = {f.name: _joined(objects, f.name, order) for f in fields(Objects)}
    return Layout(objects=Objects(**parts), **rest)


def _joined(parts: Sequence[object], name: str, order: Tensor) -> Tensor:
    """Join one field along B and reorder its rows."""
    return torch.cat([getattr(part, name) for part in parts])[order]
