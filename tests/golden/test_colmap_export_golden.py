"""Key points and matches that go to COLMAP, against a recorded export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from weav3r.inference.export.colmap_database import select_tracks

Golden = Mapping[str, NDArray[Any]]


@pytest.mark.parametrize("min_length", [2, 3])
def test_key_points_and_matches_of_long_tracks(
    golden: Callable[[str], Golden], min_length: int
) -> None:
    file = golden("colmap_export")
    widths = file["net_hw"][:, 1]

    def flat(image: int, xy: NDArray[np.int64]) -> NDArray[np.int64]:
        return xy[:, 1] * widths[image] + xy[:, 0]

    raw = [
        (a, b, flat(a, file[f"raw_{a}_{b}_xy1"]), flat(b, file[f"raw_{a}_{b}_xy2"]))
        for a, b in ((1, 0), (0, 2), (2, 1))
    ]
    kept, pairs = select_tracks(raw, 3, min_length)
    for image, ids in enumerate(kept):
        network = np.stack([ids % widths[image], ids // widths[image], np.ones(len(ids))], axis=1)
        original = (network + [0.5, 0.5, 0]) @ file["to_orig"][image].T
        expected = file[f"min{min_length}_keypoints_{image + 1}"]
        np.testing.assert_allclose(original[:, :2], expected, rtol=0, atol=1e-9)
    names = [[f"im{i}.jpg" for i in pair] for pair in sorted(pairs)]
    assert names == file[f"min{min_length}_pairs"].tolist()
    for (i, j), rows in pairs.items():
        np.testing.assert_array_equal(rows, file[f"min{min_length}_matches_{i + 1}_{j + 1}"])
