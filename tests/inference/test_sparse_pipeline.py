"""The sparse road and the final polish on real photographs, end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import weav3r
from weav3r.inference.sfm import PairVerification
from weav3r.inference.sparse.align import SparseOptions
from weav3r.models import PRESETS, TwoViewModel

SIZE = 224


@pytest.fixture(scope="module")
def refined() -> weav3r.Scene:
    return weav3r.reconstruct(
        weav3r.example_photos()["toy"],
        weav3r.load_model("weav3r-small", device="cpu"),
        size=SIZE,
        cameras="sparse",
        depth="pointmaps",
        refine=True,
        sparse=SparseOptions(free_principal_point=False),
        progress=False,
    )


def test_both_photos_are_placed_and_dense(refined: weav3r.Scene) -> None:
    assert refined.components == [[0, 1]]
    settings = refined.report.settings
    assert settings["cameras"] == "sparse" and settings["refine"] is True
    assert {"cameras", "refine"} <= set(refined.report.timings_s)
    first, second = refined.cameras
    assert first is not None and second is not None
    assert np.allclose(first.cam_from_world, np.eye(4), atol=1e-9)
    # the two cameras of the stereo head look the same way, the second from the right
    angle = np.degrees(np.arccos(np.clip((np.trace(second.cam_from_world[:3, :3]) - 1) / 2, -1, 1)))
    assert angle < 4
    assert second.center[0] > 3 * np.abs(second.center[1:]).max()
    for i in range(2):
        assert np.isfinite(refined.depth(i)).mean() > 0.95


def test_refining_leaves_tracks_that_fit(refined: weav3r.Scene) -> None:
    tracks = refined.tracks
    assert tracks is not None and len(tracks.points) > 200
    assert np.median(tracks.error_px) < 2
    # dense depth comes in the unit of the tracks
    own = tracks.image == 0
    xy = refined.views[0].ledger.points_to_network(tracks.xy[own])
    column, row = np.floor(np.asarray(xy)).astype(int).T
    ratio = refined.depth(0)[row, column] / tracks.points[tracks.point[own], 2]
    assert np.nanmedian(ratio) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("options", [{"cameras": "sparse"}, {"refine": True}])
def test_both_need_descriptors(options: dict) -> None:
    config = replace(
        PRESETS["dust3r-224-linear"],
        encoder_dim=32,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=2,
    )
    model = TwoViewModel(config).eval()
    with pytest.raises(ValueError, match="predicts no descriptors"):
        weav3r.reconstruct(weav3r.example_photos()["toy"], model, progress=False, **options)


def test_a_contradicted_pair_is_left_out_and_named(monkeypatch) -> None:
    def judge(views, graph, *_: object) -> dict[tuple[int, int], PairVerification]:
        return {(0, 1): PairVerification(900, 500, False, "the other pairs say otherwise")}

    monkeypatch.setattr("weav3r.inference.cameras.judge_pairs", judge)
    monkeypatch.setattr("weav3r.inference.cameras.agreeing_share", lambda *_: 0.5)
    scene = weav3r.reconstruct(
        weav3r.example_photos()["toy"],
        weav3r.load_model("weav3r-small", device="cpu"),
        size=SIZE,
        cameras="sparse",
        depth="pointmaps",
        progress=False,
    )
    assert scene.components == [[0], [1]]
    assert [r.reason for r in scene.report.rejected] == ["the other pairs say otherwise"]
