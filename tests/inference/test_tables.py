"""Numbers about cameras."""

import numpy as np
import pytest

from weav3r.inference.scene import Scene
from weav3r.inference.tables import camera_rows


def test_one_row_a_photo(plane_scene: Scene) -> None:
    rows = camera_rows(plane_scene)
    assert [row.name for row in rows] == plane_scene.images
    assert [row.placed for row in rows] == [True] * 4 + [False]
    second = rows[1]
    assert (second.width, second.height, second.group) == (256, 200, 0)
    assert second.focal_px == pytest.approx(231)
    assert second.fov_deg == pytest.approx(np.degrees(2 * np.arctan(128 / 231)), abs=0.5)
    assert second.position == pytest.approx((0.4, 0.05, -0.1))
    assert second.with_depth == pytest.approx(1 - 5 / (48 * 64))
    assert second.error is None  # nobody calibrated this one
    last = rows[4]
    assert last.group is last.focal_px is last.position is last.with_depth is None


def test_a_lone_photo_is_not_placed_among_others(plane_scene: Scene) -> None:
    views = plane_scene.views[:4]
    apart = camera_rows(Scene(views, components=[[0, 1, 2], [3]]))
    assert [row.placed for row in apart] == [True, True, True, False] and apart[3].group == 1
    (single,) = camera_rows(Scene(views[:1]))
    assert single.placed
