"""Object templates: furniture, building parts, vehicles and clutter made of convex solids.

An object lives in the box |x|, |y|, |z| <= 1 with z up and its front towards -y (its back, +y, is
what stands against a wall). A part is a smaller box inside it, of one of the shapes below.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .rng import SceneRandom
from .scene import NO_CUT, NO_QUADRIC

BOX, ROUNDED, ELLIPSOID, CYLINDER, CONE, GABLE, WEDGE, CUT = range(8)

MAX_PARTS = 8

Number = float | int
Part = tuple[Number, Number, Number, Number, Number, Number, int]
"""Centre x, y, z, half size x, y, z in the object's box, and shape."""


def _legs(x: float, y: float, z: float, thickness: float, half_height: float) -> list[Part]:
    return [
        (sx * x, sy * y, z, thickness, thickness, half_height, BOX)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def _frame(width: float, height: float) -> list[Part]:
    """A frame of four bars on a wall, as deep as the object."""
    return [
        (-(1 - width), 0, 0, width, 1, 1, BOX),
        (1 - width, 0, 0, width, 1, 1, BOX),
        (0, 0, 1 - height, 1 - 2 * width, 0.95, height, BOX),
        (0, 0, -(1 - height), 1 - 2 * width, 0.95, height, BOX),
    ]


TEMPLATES: dict[str, list[Part]] = {
    # single solids
    "box": [(0, 0, 0, 1, 1, 1, BOX)],
    "cut_box": [(0, 0, 0, 1, 1, 1, CUT)],
    "rounded": [(0, 0, 0, 1, 1, 1, ROUNDED)],
    "ball": [(0, 0, 0, 1, 1, 1, ELLIPSOID)],
    "cylinder": [(0, 0, 0, 1, 1, 1, CYLINDER)],
    "cone": [(0, 0, 0, 1, 1, 1, CONE)],
    "wedge": [(0, 0, 0, 1, 1, 1, WEDGE)],
    # furniture
    "table": [(0, 0, 0.92, 1, 1, 0.08, BOX), *_legs(0.85, 0.85, -0.08, 0.08, 0.92)],
    "round_table": [
        (0, 0, 0.92, 1, 1, 0.08, CYLINDER),
        (0, 0, -0.05, 0.1, 0.1, 0.9, CYLINDER),
        (0, 0, -0.95, 0.5, 0.5, 0.05, CYLINDER),
    ],
    "desk": [
        (0, 0, 0.93, 1, 1, 0.07, BOX),
        (-0.92, 0, -0.07, 0.06, 0.9, 0.93, BOX),
        (0.65, 0, -0.07, 0.33, 0.9, 0.93, BOX),
        (0.65, -0.93, 0.45, 0.28, 0.04, 0.25, BOX),
        (0.65, -0.93, -0.2, 0.28, 0.04, 0.3, BOX),
    ],
    "chair": [
        (0, 0, -0.08, 1, 1, 0.07, BOX),
        (0, 0.92, 0.5, 1, 0.08, 0.5, BOX),
        *_legs(0.88, 0.88, -0.57, 0.09, 0.43),
    ],
    "sofa": [
        (0, -0.1, -0.5, 0.95, 0.9, 0.5, ROUNDED),
        (0, 0.75, 0.2, 1, 0.25, 0.8, ROUNDED),
        (-0.88, 0, -0.1, 0.12, 1, 0.6, ROUNDED),
        (0.88, 0, -0.1, 0.12, 1, 0.6, ROUNDED),
        (-0.45, 0.35, 0.25, 0.25, 0.12, 0.3, ROUNDED),
    ],
    "shelf": [
        (-0.95, 0, 0, 0.05, 1, 1, BOX),
        (0.95, 0, 0, 0.05, 1, 1, BOX),
        (0, 0, -0.9, 0.9, 1, 0.04, BOX),
        (0, 0, -0.25, 0.9, 1, 0.03, BOX),
        (0, 0, 0.4, 0.9, 1, 0.03, BOX),
        (0, 0, 0.96, 0.9, 1, 0.04, BOX),
        (-0.2, 0.2, -0.55, 0.6, 0.6, 0.27, BOX),
        (0.3, 0.2, 0.05, 0.45, 0.6, 0.27, BOX),
    ],
    "cabinet": [
        (0, 0.03, 0, 1, 0.97, 1, BOX),
        (-0.5, -0.95, 0, 0.46, 0.05, 0.93, BOX),
        (0.5, -0.95, 0, 0.46, 0.05, 0.93, BOX),
    ],
    "bed": [
        (0, 0, -0.65, 1, 1, 0.35, BOX),
        (0, -0.05, -0.1, 0.97, 0.93, 0.25, ROUNDED),
        (0, 0.96, 0.1, 1, 0.04, 0.9, BOX),
        (-0.45, 0.7, 0.2, 0.38, 0.2, 0.14, ROUNDED),
        (0.45, 0.7, 0.2, 0.38, 0.2, 0.14, ROUNDED),
    ],
    "floor_lamp": [
        (0, 0, -0.1, 0.07, 0.07, 0.9, CYLINDER),
        (0, 0, 0.78, 0.8, 0.8, 0.22, CONE),
        (0, 0, -0.97, 0.6, 0.6, 0.03, CYLINDER),
    ],
    "hanging_lamp": [(0, 0, 0.3, 0.03, 0.03, 0.7, CYLINDER), (0, 0, -0.6, 1, 1, 0.4, CONE)],
    "plant": [
        (0, 0, -0.75, 0.4, 0.4, 0.25, CYLINDER),
        (0, 0, 0.1, 0.75, 0.75, 0.6, ELLIPSOID),
        (0.3, 0.1, 0.55, 0.5, 0.55, 0.45, ELLIPSOID),
        (-0.35, -0.2, 0.35, 0.5, 0.5, 0.4, ELLIPSOID),
    ],
    "screen": [
        (0, 0, 0.2, 1, 0.15, 0.8, BOX),
        (0, 0, -0.75, 0.12, 0.12, 0.25, BOX),
        (0, 0, -0.97, 0.4, 0.8, 0.03, BOX),
    ],
    # on a wall
    "panel": [(0, 0, 0, 1, 1, 1, BOX)],
    "picture": [*_frame(0.07, 0.09), (0, 0.3, 0, 0.95, 0.6, 0.95, BOX)],
    "window": [*_frame(0.08, 0.06), (0, 0.6, 0, 0.9, 0.3, 0.93, BOX), (0, 0, 0, 0.03, 0.8, 1, BOX)],
    "window_sill": [
        (0, 0.5, 0, 0.85, 0.4, 0.9, BOX),
        (0, 0, -0.94, 1, 1, 0.06, BOX),
        (0, 0, 0.95, 0.95, 0.8, 0.05, BOX),
    ],
    "door": [
        (-0.94, 0, 0, 0.06, 1, 1, BOX),
        (0.94, 0, 0, 0.06, 1, 1, BOX),
        (0, 0, 0.97, 1, 1, 0.03, BOX),
        (0, 0.5, 0, 0.88, 0.4, 0.96, BOX),
        (0.75, -0.2, 0, 0.08, 0.5, 0.015, BOX),
    ],
    "radiator": [
        (0, 0, 0, 1, 0.5, 1, BOX),
        (-0.6, -0.4, 0, 0.14, 0.5, 0.97, ROUNDED),
        (-0.2, -0.4, 0, 0.14, 0.5, 0.97, ROUNDED),
        (0.2, -0.4, 0, 0.14, 0.5, 0.97, ROUNDED),
        (0.6, -0.4, 0, 0.14, 0.5, 0.97, ROUNDED),
    ],
    "wall_shelf": [
        (0, 0, -0.9, 1, 1, 0.1, BOX),
        (-0.5, 0.2, -0.1, 0.35, 0.6, 0.7, BOX),
        (0.3, 0.2, -0.3, 0.25, 0.6, 0.5, BOX),
        (0.75, 0.2, -0.2, 0.15, 0.5, 0.6, CYLINDER),
    ],
    # parts of a facade
    "column": [
        (0, 0, -0.94, 1, 1, 0.06, BOX),
        (0, 0, 0, 0.75, 0.75, 0.88, CYLINDER),
        (0, 0, 0.85, 0.88, 0.88, 0.05, CYLINDER),
        (0, 0, 0.95, 1, 1, 0.05, BOX),
    ],
    "pilaster": [
        (0, 0, 0, 0.8, 0.9, 1, BOX),
        (0, 0, 0.95, 1, 1, 0.05, BOX),
        (0, 0, -0.93, 1, 1, 0.07, BOX),
    ],
    "pediment": [(0, 0, 0.1, 1, 1, 0.9, GABLE), (0, 0, -0.9, 1.05, 1.05, 0.1, BOX)],
    "portal": [
        (-0.85, 0, -0.15, 0.15, 1, 0.85, BOX),
        (0.85, 0, -0.15, 0.15, 1, 0.85, BOX),
        (0, 0, 0.72, 1.05, 1, 0.08, BOX),
        (0, 0, 0.9, 1.0, 0.9, 0.12, GABLE),
        (0, 0.6, -0.2, 0.7, 0.3, 0.8, BOX),
        (0, -0.6, -0.96, 0.9, 1.2, 0.04, BOX),
    ],
    "balcony": [
        (0, 0, -0.85, 1, 1, 0.12, BOX),
        (0, -0.95, 0.8, 1, 0.05, 0.07, BOX),
        (-0.95, -0.95, 0, 0.05, 0.05, 0.85, BOX),
        (-0.35, -0.95, 0, 0.04, 0.05, 0.85, BOX),
        (0.35, -0.95, 0, 0.04, 0.05, 0.85, BOX),
        (0.95, -0.95, 0, 0.05, 0.05, 0.85, BOX),
    ],
    "awning": [(0, 0, 0, 1, 1, 1, WEDGE)],
    "basin": [
        (0, 0, -0.6, 1, 1, 0.4, CYLINDER),
        (0, 0, -0.15, 1.06, 1.06, 0.06, CYLINDER),
        (0, 0, 0.1, 0.18, 0.18, 0.5, CYLINDER),
        (0, 0, 0.55, 0.5, 0.5, 0.08, CYLINDER),
        (0, 0, 0.8, 0.14, 0.14, 0.2, ELLIPSOID),
    ],
    "statue": [
        (0, 0, -0.7, 0.9, 0.9, 0.3, BOX),
        (0, 0, -0.37, 0.6, 0.6, 0.05, BOX),
        (0, 0, 0.1, 0.42, 0.34, 0.5, ELLIPSOID),
        (0.03, -0.05, 0.75, 0.22, 0.24, 0.2, ELLIPSOID),
        (0.35, -0.1, 0.2, 0.14, 0.14, 0.3, ELLIPSOID),
        (-0.35, -0.1, 0.15, 0.14, 0.14, 0.32, ELLIPSOID),
    ],
    # buildings
    "house": [
        (0, 0, -0.3, 1, 1, 0.7, BOX),
        (0, 0, 0.7, 1.08, 1.08, 0.3, GABLE),
        (0.5, 0.3, 0.75, 0.1, 0.12, 0.3, BOX),
        (-0.3, -1.0, -0.65, 0.16, 0.04, 0.34, BOX),
    ],
    "block": [
        (0, 0, 0, 1, 1, 1, BOX),
        (0, 0, 0.97, 1.05, 1.05, 0.04, BOX),
        (0, -0.02, -0.55, 1.02, 1.02, 0.03, BOX),
        (0.1, -1.0, -0.8, 0.2, 0.06, 0.2, BOX),
    ],
    "setback": [
        (0, 0, -0.4, 1, 1, 0.6, BOX),
        (0.05, 0.1, 0.35, 0.75, 0.75, 0.25, BOX),
        (-0.1, 0.1, 0.8, 0.45, 0.45, 0.25, BOX),
    ],
    "gabled": [(0, 0, -0.25, 1, 1, 0.75, BOX), (0, 0, 0.75, 1.04, 1.0, 0.25, GABLE)],
    "tower": [(0, 0, -0.2, 1, 1, 0.8, CYLINDER), (0, 0, 0.8, 1.15, 1.15, 0.2, CONE)],
    "church": [
        (0, 0.2, -0.5, 0.6, 0.8, 0.5, BOX),
        (0, 0.2, 0.2, 0.64, 0.8, 0.2, GABLE),
        (0, -0.75, -0.1, 0.3, 0.25, 0.9, BOX),
        (0, -0.75, 0.9, 0.34, 0.29, 0.2, CONE),
        (0, -1.0, -0.75, 0.15, 0.06, 0.25, BOX),
    ],
    "gate": [
        (-0.8, 0, -0.2, 0.2, 1, 0.8, BOX),
        (0.8, 0, -0.2, 0.2, 1, 0.8, BOX),
        (0, 0, 0.7, 1, 1.05, 0.15, BOX),
        (0, 0, 0.92, 0.6, 0.9, 0.1, GABLE),
    ],
    "stairs": [
        (0, -0.75, -0.75, 1, 0.25, 0.25, BOX),
        (0, -0.25, -0.5, 1, 0.25, 0.5, BOX),
        (0, 0.25, -0.25, 1, 0.25, 0.75, BOX),
        (0, 0.75, 0, 1, 0.25, 1, BOX),
    ],
    "street_lamp": [
        (0, 0, 0, 0.06, 0.06, 1, CYLINDER),
        (0.35, 0, 0.97, 0.4, 0.05, 0.02, BOX),
        (0.7, 0, 0.94, 0.25, 0.12, 0.03, BOX),
    ],
    "bench": [
        (0, 0, -0.1, 1, 1, 0.08, BOX),
        (0, 0.9, 0.55, 1, 0.1, 0.4, BOX),
        (-0.8, 0, -0.6, 0.06, 0.9, 0.4, BOX),
        (0.8, 0, -0.6, 0.06, 0.9, 0.4, BOX),
    ],
    # nature
    "tree": [
        (0, 0, -0.5, 0.1, 0.1, 0.5, CYLINDER),
        (0, 0, 0.4, 0.7, 0.7, 0.55, ELLIPSOID),
        (0.4, 0.2, 0.1, 0.5, 0.5, 0.35, ELLIPSOID),
        (-0.35, -0.3, 0.25, 0.5, 0.5, 0.4, ELLIPSOID),
    ],
    "conifer": [
        (0, 0, -0.8, 0.1, 0.1, 0.2, CYLINDER),
        (0, 0, -0.2, 1, 1, 0.45, CONE),
        (0, 0, 0.5, 0.7, 0.7, 0.5, CONE),
    ],
    "bush": [(0, 0, -0.2, 1, 0.9, 0.8, ELLIPSOID), (0.4, -0.2, 0.1, 0.6, 0.6, 0.6, ELLIPSOID)],
    "rock": [(0, 0, 0, 1, 1, 1, CUT), (0.2, 0.1, 0.1, 0.7, 0.8, 0.7, ROUNDED)],
    # vehicles and people
    "car": [
        (0, 0, -0.3, 1, 1, 0.4, ROUNDED),
        (-0.1, 0, 0.4, 0.6, 0.88, 0.55, ROUNDED),
        (-0.6, 0, -0.7, 0.18, 1.02, 0.3, CYLINDER),
        (0.6, 0, -0.7, 0.18, 1.02, 0.3, CYLINDER),
    ],
    "van": [
        (-0.15, 0, 0.15, 0.85, 1, 0.85, BOX),
        (0.8, 0, -0.2, 0.2, 0.95, 0.5, ROUNDED),
        (-0.6, 0, -0.85, 0.14, 1.02, 0.15, BOX),
        (0.6, 0, -0.85, 0.14, 1.02, 0.15, BOX),
    ],
    "figure": [
        (-0.3, 0, -0.55, 0.25, 0.4, 0.45, CYLINDER),
        (0.3, 0, -0.55, 0.25, 0.4, 0.45, CYLINDER),
        (0, 0, 0.25, 0.75, 0.7, 0.45, ELLIPSOID),
        (0, 0, 0.83, 0.32, 0.45, 0.17, ELLIPSOID),
    ],
    # clutter
    "mug": [(-0.2, 0, 0, 0.8, 1, 1, CYLINDER), (0.75, 0, 0, 0.25, 0.15, 0.6, BOX)],
    "bottle": [
        (0, 0, -0.4, 1, 1, 0.6, CYLINDER),
        (0, 0, 0.4, 1, 1, 0.25, CONE),
        (0, 0, 0.75, 0.35, 0.35, 0.25, CYLINDER),
    ],
    "books": [
        (0, 0, -0.7, 1, 1, 0.3, BOX),
        (0.08, -0.05, -0.1, 0.9, 0.95, 0.3, BOX),
        (-0.05, 0.1, 0.4, 0.85, 0.8, 0.2, BOX),
        (0.1, 0, 0.8, 0.7, 0.75, 0.2, BOX),
    ],
    "stack": [
        (0, 0, -0.6, 1, 1, 0.4, BOX),
        (0.1, 0.1, 0, 0.7, 0.75, 0.2, BOX),
        (-0.1, 0, 0.6, 0.5, 0.5, 0.4, CYLINDER),
    ],
    "toy": [
        (0, 0, -0.4, 0.9, 0.6, 0.6, ROUNDED),
        (0.5, 0, 0.45, 0.45, 0.5, 0.45, ELLIPSOID),
        (0.8, 0, 0.5, 0.25, 0.2, 0.2, CYLINDER),
        (-0.8, 0, 0, 0.2, 0.15, 0.4, ELLIPSOID),
    ],
}

HALF_SIZE_M: dict[str, tuple[float, float, float]] = {
    "table": (0.65, 0.45, 0.37), "round_table": (0.5, 0.5, 0.37), "desk": (0.7, 0.36, 0.37),
    "chair": (0.22, 0.24, 0.45), "sofa": (0.85, 0.45, 0.42), "shelf": (0.45, 0.17, 0.85),
    "cabinet": (0.55, 0.25, 0.6), "bed": (0.75, 1.0, 0.45), "floor_lamp": (0.2, 0.2, 0.75),
    "hanging_lamp": (0.22, 0.22, 0.3), "plant": (0.3, 0.3, 0.5), "screen": (0.35, 0.1, 0.25),
    "panel": (0.5, 0.02, 0.5), "picture": (0.4, 0.025, 0.35), "window": (0.6, 0.06, 0.6),
    "window_sill": (0.6, 0.12, 0.8), "door": (0.48, 0.06, 1.03), "radiator": (0.5, 0.08, 0.3),
    "wall_shelf": (0.5, 0.13, 0.16), "column": (0.35, 0.35, 1.8), "pilaster": (0.3, 0.15, 2.0),
    "pediment": (1.5, 0.3, 0.5), "portal": (1.1, 0.4, 1.6), "balcony": (1.0, 0.5, 0.5),
    "awning": (1.0, 0.6, 0.25), "basin": (1.3, 1.3, 0.8), "statue": (0.45, 0.45, 1.3),
    "house": (4.5, 4.0, 4.0), "block": (6.5, 6.0, 8.0), "setback": (7.0, 7.0, 10.0),
    "gabled": (4.5, 5.5, 4.5), "tower": (2.5, 2.5, 8.0), "church": (7.0, 9.0, 8.0),
    "gate": (3.0, 1.2, 3.5), "stairs": (2.0, 1.6, 0.8), "street_lamp": (1.0, 1.0, 2.8),
    "bench": (0.8, 0.25, 0.42), "tree": (1.8, 1.8, 3.0), "conifer": (1.3, 1.3, 3.5),
    "bush": (0.8, 0.7, 0.5), "rock": (0.8, 0.7, 0.5), "car": (2.1, 0.88, 0.72),
    "van": (2.5, 1.0, 1.1), "figure": (0.25, 0.15, 0.86), "mug": (0.055, 0.042, 0.05),
    "bottle": (0.04, 0.04, 0.14), "books": (0.13, 0.09, 0.06), "stack": (0.15, 0.12, 0.12),
    "toy": (0.14, 0.09, 0.1),
}  # fmt: skip
"""Usual half sizes in metres; templates that are not listed have no size of their own."""

NAMES = tuple(TEMPLATES)
INDEX = {name: index for index, name in enumerate(NAMES)}

UPRIGHT_ROUND = ("cylinder", "cone", "ball", "round_table", "floor_lamp", "hanging_lamp", "plant",
                 "column", "basin", "tower", "tree", "conifer", "bottle")  # fmt: skip
"""Templates whose two horizontal half sizes should be equal."""


@lru_cache(maxsize=4)
def _table(device: torch.device) -> Float[Tensor, "t p 8"]:
    """All templates as one tensor; the last column says whether the part exists."""
    absent = (0.0,) * 8
    rows = [
        [(*part, 1.0) for part in parts] + [absent] * (MAX_PARTS - len(parts))
        for parts in TEMPLATES.values()
    ]
    return torch.tensor(rows, device=device)


def usual_half_size(template: Int[Tensor, "*shape"], default_m: float) -> Float[Tensor, "*shape 3"]:
    """Look up the usual half sizes in metres; `default_m` on every axis where there is none."""
    return _half_sizes(default_m, template.device)[template]


@lru_cache(maxsize=16)
def _half_sizes(default_m: float, device: torch.device) -> Float[Tensor, "t 3"]:
    return torch.tensor([HALF_SIZE_M.get(name, (default_m,) * 3) for name in NAMES], device=device)


def is_one_of(template: Int[Tensor, "*shape"], names: tuple[str, ...]) -> Bool[Tensor, "*shape"]:
    """Tell which entries are one of the named templates."""
    return _membership(names, template.device)[template]


@lru_cache(maxsize=64)
def _membership(names: tuple[str, ...], device: torch.device) -> Bool[Tensor, " t"]:
    return torch.tensor([name in names for name in NAMES], device=device)


def pick_templates(
    rng: SceneRandom, weights: dict[str, float], *shape: int
) -> Int[Tensor, "b ..."]:
    """Draw template indices with the given relative weights."""
    index = _indices(tuple(weights), rng.device)
    return index[rng.choice(tuple(weights.values()), *shape)]


@lru_cache(maxsize=64)
def _indices(names: tuple[str, ...], device: torch.device) -> Int[Tensor, " n"]:
    return torch.tensor([INDEX[name] for name in names], device=device)


@dataclass(frozen=True)
class Objects:
    """N placed objects in each of B scenes.

    Attributes:
        template: (B, N) index into `NAMES`.
        center: (B, N, 3) metres, world.
        half_size: (B, N, 3) metres.
        rotation: (B, N, 3, 3) world_from_object.
        active: (B, N) whether the object exists.
        large: (B, N) whether it is a big surface that should show few, large texture tiles.
    """

    template: Int[Tensor, "b n"]
    center: Float[Tensor, "b n 3"]
    half_size: Float[Tensor, "b n 3"]
    rotation: Float[Tensor, "b n 3 3"]
    active: Bool[Tensor, "b n"]
    large: Bool[Tensor, "b n"]


@dataclass(frozen=True)
class Solids:
    """P convex solids in each of B scenes, in the terms of `SceneBatch`; `owner` is the object."""

    center: Float[Tensor, "b p 3"]
    half_size: Float[Tensor, "b p 3"]
    rotation: Float[Tensor, "b p 3 3"]
    quadric: Float[Tensor, "b p 5"]
    cuts: Float[Tensor, "b p 2 4"]
    owner: Int[Tensor, "b p"]
    active: Bool[Tensor, "b p"]


def expand(rng: SceneRandom, objects: Objects, num_solids: int) -> Solids:
    """Replace objects by their parts, packed into `num_solids` slots; late parts may be dropped."""
    parts = _table(objects.template.device)[objects.template]  # (B, N, MAX_PARTS, 8)
    B, N = objects.template.shape
    exists = (parts[..., 7] > 0) & objects.active[..., None]
    slot = torch.argsort((~exists).flatten(1).to(torch.uint8), dim=1, stable=True)[:, :num_solids]

    def take(x: Tensor) -> Tensor:  # (B, N, MAX_PARTS, ...) -> (B, P, ...)
        flat = x.reshape(B, N * MAX_PARTS, -1)
        index = slot[..., None].expand(-1, -1, flat.shape[-1])
        return torch.gather(flat, 1, index).reshape(B, num_solids, *x.shape[3:])

    parts, active = take(parts), take(exists)
    owner = slot // MAX_PARTS

    def of_owner(x: Tensor) -> Tensor:
        flat = x.reshape(B, N, -1)
        index = owner[..., None].expand(-1, -1, flat.shape[-1])
        return torch.gather(flat, 1, index).reshape(B, num_solids, *x.shape[2:])

    size, rotation = of_owner(objects.half_size), of_owner(objects.rotation)
    local = parts[..., :3] * size
    offset = sum(rotation[..., k] * local[..., k : k + 1] for k in range(3))
    half_size = (parts[..., 3:6] * size).clamp_min(1e-3)
    quadric, cuts = _shape_terms(rng, parts[..., 6].long())
    return Solids(
        center=of_owner(objects.center) + offset,
        half_size=torch.where(active[..., None], half_size, 0.0),
        rotation=rotation,
        quadric=quadric,
        cuts=cuts,
        owner=owner,
        active=active,
    )


def _shape_terms(
    rng: SceneRandom, shape: Int[Tensor, "b p"]
) -> tuple[Float[Tensor, "b p 5"], Float[Tensor, "b p 2 4"]]:
    """Return the quadric and the two half-spaces of each part's shape."""
    P, device = shape.shape[1], shape.device
    ratio = 0.35 * rng.uniform(0.1, 1.6, P)  # top radius of a cone over its bottom radius
    middle, slope = (1.0 + ratio) / 2.0, (ratio - 1.0) / 2.0
    one, zero = torch.ones_like(ratio), torch.zeros_like(ratio)
    cone = torch.stack(
        [one, -slope * slope, -2.0 * middle * slope, -middle * middle, -one], -1
    )  # x^2 + y^2 <= (middle + slope z)^2
    rounded = torch.stack([one, one, zero, -rng.uniform(1.7, 2.5, P), zero], -1)
    constant = torch.tensor(
        [NO_QUADRIC, (1.0, 1.0, 0.0, -1.0, 0.0), (1.0, 0.0, 0.0, -1.0, 0.0)], device=device
    )
    kind = torch.where(shape == ELLIPSOID, 1, torch.where(shape == CYLINDER, 2, 0))
    quadric = constant[kind]
    quadric = torch.where((shape == CONE)[..., None], cone, quadric)
    quadric = torch.where((shape == ROUNDED)[..., None], rounded, quadric)

    no_cuts = torch.tensor([NO_CUT, NO_CUT], device=device)
    gable = torch.tensor([[1.0, 0.0, 1.0, 1.0], [-1.0, 0.0, 1.0, 1.0]], device=device)
    wedge = torch.tensor([[0.0, -1.0, 1.0, 0.2], list(NO_CUT)], device=device)
    normal = rng.normal(P, 3)
    normal = normal / normal.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6)
    slanted = torch.cat([normal, rng.uniform(0.6, 1.1, P, 1)], -1)
    slanted = torch.stack([slanted, torch.zeros_like(slanted) + no_cuts[1]], -2)
    cuts = no_cuts.expand(*shape.shape, 2, 4)
    for code, value in ((GABLE, gable), (WEDGE, wedge), (CUT, slanted)):
        cuts = torch.where((shape == code)[..., None, None], value, cuts)
    return quadric, cuts
