"""Draw the family of every scene and lay the scenes out.

Each family places the objects of all its scenes of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from .indoor import furnish_room
from .outdoor import lay_facade, lay_square, lay_street
from .placement import FAMILY_WEIGHTS, Layout
from .rng import SceneRandom
from .tabletop import lay_shapes, lay_tabletop

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
    return _join(layouts, order)


def _join(parts: list, order: Tensor):
    """Join equal dataclasses of tensors along B and reorder their rows."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)[order]
    values = {f.name: [getattr(p, f.name) for p in parts] for f in fields(first)}
    return type(first)(**{name: _join(value, order) for name, value in values.items()})
