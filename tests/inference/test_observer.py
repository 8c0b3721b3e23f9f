"""What is shown while the work goes on."""

from pathlib import Path

import numpy as np
import pytest

import weav3r
from weav3r.inference.known.values import Known, KnownView
from weav3r.inference.observer import EarlyDepth
from weav3r.models import TwoViewModel, load_model


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return load_model("weav3r-small", device="cpu")


def test_each_photo_is_guessed_first_and_then_measured(model: TwoViewModel) -> None:
    photos = sorted(weav3r.example_photos()["toy"].iterdir())
    shown: list[EarlyDepth] = []
    mask = np.ones((460, 608), dtype=bool)
    mask[:200] = False
    scene = weav3r.reconstruct(
        photos,
        model,
        size=96,
        known=Known({photos[0].name: KnownView(mask=mask)}),
        progress=False,
        observer=shown.append,
    )
    names = [photo.name for photo in photos]
    assert [(d.name, d.final) for d in shown] == [(n, f) for f in (False, True) for n in names]
    for depth in shown:
        assert depth.rgb.shape == (*depth.depth.shape, 3) == (*depth.confidence.shape, 3)
        assert np.array_equal(depth.rgb, scene.views[depth.index].rgb)
    assert np.isnan(shown[0].depth[:20]).all() and np.isnan(shown[2].depth[:20]).all()
    for depth in shown[2:]:
        assert np.array_equal(depth.depth, scene.views[depth.index].depth, equal_nan=True)


def test_with_a_job_only_what_is_measured_is_shown(model: TwoViewModel, tmp_path: Path) -> None:
    photos = sorted(weav3r.example_photos()["toy"].iterdir())
    shown: list[EarlyDepth] = []
    options = {"size": 96, "progress": False, "observer": shown.append}
    weav3r.reconstruct(photos, model, job=tmp_path, **options)
    assert [depth.final for depth in shown] == [True, True]


def test_what_progress_raises_ends_the_work(model: TwoViewModel) -> None:
    photos = sorted(weav3r.example_photos()["toy"].iterdir())

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "encode" and done == 1:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        weav3r.reconstruct(photos, model, size=96, progress=stop)
