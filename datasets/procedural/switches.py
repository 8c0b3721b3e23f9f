"""The names of what procedural scenes may have beyond the plain ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

Feature = Literal["panoramas", "thin", "facades", "glossy", "glass", "sensor", "movers"]
FEATURES: tuple[Feature, ...] = get_args(Feature)


def check_features(names: Iterable[str]) -> frozenset[Feature]:
    """Return the names as a set.

    Raises:
        ValueError: for a name that is no feature.
    """
    wanted = set(names)
    unknown = sorted(wanted - set(FEATURES))
    if unknown:
        raise ValueError(f"unknown features {unknown}; there are: {', '.join(FEATURES)}")
    return frozenset(name for name in FEATURES if name in wanted)
