"""Whether two scenes are the same, to the bit."""

from __future__ import annotations

import numpy as np

import weav3r


def same_scene(one: weav3r.Scene, other: weav3r.Scene) -> bool:
    """Compare components, cameras, depths and confidences."""
    assert one.components == other.components
    pairs = [(one.depth(i), other.depth(i)) for i in range(len(one))]
    pairs += [(one.confidence(i), other.confidence(i)) for i in range(len(one))]
    for a, b in zip(one.cameras, other.cameras, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            pairs += [(a.K, b.K), (a.cam_from_world, b.cam_from_world)]
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
