"""Data sets on disk as a stream of training scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weav3r.datasets.covisibility import mine_pairs
from weav3r.datasets.layouts import open_data_set
from weav3r.datasets.posed_scenes import PairSource, PosedScenes, rescale_to_cover
from weav3r.datasets.posed_set import PosedSet
from weav3r.datasets.procedural.correspondence import dense_correspondence
from weav3r.datasets.views import ViewBatch

from .made_sets import EXPORTS, Made


@pytest.fixture(scope="module")
def data(made: Made, tmp_path_factory: pytest.TempPathFactory) -> PosedSet:
    folder = tmp_path_factory.mktemp("scenes")
    EXPORTS["weav3r"](made, folder)
    found = open_data_set(folder)
    return found.with_pairs(mine_pairs(found, low=0.2))


def stream(data: PosedSet, **options: int) -> PosedScenes:
    return PosedScenes([PairSource.of(data)], [1.0], 48, 64, **{"seed": 3, **options})


def same(a: ViewBatch, b: ViewBatch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.pointmap_world, b.pointmap_world)


def test_a_scene_depends_on_its_index_only(data: PosedSet) -> None:
    together = stream(data, epoch_size=5).batch(3, 4)  # crosses the end of an epoch
    for k in range(4):
        alone = stream(data, epoch_size=5).batch(3 + k, 1)
        assert same(alone, together.select(torch.tensor([k])))
    assert together.seeds.tolist() == [3, 4, 5, 6]
    assert not same(stream(data).batch(0, 1), stream(data, seed=4).batch(0, 1))


@pytest.mark.parametrize("views", [2, 3])
def test_crops_keep_the_geometry(data: PosedSet, views: int) -> None:
    batch = stream(data, num_views=views).batch(0, 3)
    assert batch.images.shape == (3, views, 3, 48, 64)
    assert batch.metric is not None and batch.metric.all()
    for view in range(views):
        points = batch.pointmap_in_view(view, view)
        K = batch.K[:, view, None, None]
        xy = (K @ (points / points[..., 2:])[..., None])[..., :2, 0]
        grid = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(48), indexing="xy"), -1)
        valid = batch.valid[:, view]
        error = (xy - grid - 0.5).norm(dim=-1)[valid]
        # the depth of a crop is that of the nearest pixel, at the crop's own pixel centre
        assert error.max() < 1e-2
    xy, seen = dense_correspondence(batch, 0, 1)
    assert seen.float().mean() > 0.1
    there = torch.nn.functional.grid_sample(
        batch.images[:, 1], xy / torch.tensor([32.0, 24.0]) - 1, align_corners=False
    )
    difference = (there - batch.images[:, 0]).abs().mean(1)
    assert difference[seen].mean() < 0.12  # the same place has the same colour


def test_epochs_see_all_pairs_equally_often(data: PosedSet) -> None:
    assert data.pairs is not None
    count = len(data.pairs)
    scenes = stream(data, epoch_size=count)
    for epoch in (0, 1):
        assert sorted(scenes._items(epoch)[:, 1]) == list(range(count))
    assert not np.array_equal(scenes._items(0), scenes._items(1))


def test_sources_mix_by_weight(data: PosedSet) -> None:
    class Endless:
        def batch(self, start_index: int, batch_size: int) -> ViewBatch:
            return stream(data).batch(start_index, batch_size)

    scenes = PosedScenes([PairSource.of(data), Endless()], [3, 1], 48, 64, epoch_size=40)
    assert np.bincount(scenes._items(0)[:, 0]).tolist() == [30, 10]
    assert scenes.batch(0, 3).batch_size == 3


def test_splits_and_overlaps_choose_the_pairs(data: PosedSet) -> None:
    assert data.pairs is not None
    train, val = PairSource.of(data, "train"), PairSource.of(data, "val")
    assert len(train.pairs) + len(val.pairs) == len(data.pairs)
    assert {data.views[k].scene for k in train.pairs.index.ravel()} == {"room0"}
    near = PairSource.of(data, overlap=(0.5, 1.0))
    assert 0 < len(near.pairs) < len(data.pairs) and near.pairs.worse.min() >= 0.5
    with pytest.raises(ValueError, match="has no split 'test'; it has: train, val"):
        PairSource.of(data, "test")
    with pytest.raises(ValueError, match="has an overlap between 0.999 and 1"):
        PairSource.of(data, overlap=(0.999, 1.0))
    with pytest.raises(ValueError, match="has no pairs yet; make them with: weav3r data pairs"):
        PairSource.of(data.with_pairs(None))
    with pytest.raises(ValueError, match="expected 2 views or more"):
        stream(data, num_views=1)


@pytest.mark.parametrize("size", [(48, 64), (100, 80), (30, 200)])
def test_a_rescaled_view_covers_and_keeps_its_points(data: PosedSet, size: tuple) -> None:
    view = data.load(8)
    new = rescale_to_cover(view, size)
    assert new.size[0] >= size[0] and new.size[1] >= size[1]
    assert new.size[0] == size[0] or new.size[1] == size[1]
    np.testing.assert_allclose(new.K[0, 2] / new.size[1], view.K[0, 2] / view.size[1])
    np.testing.assert_allclose(np.median(new.depth), np.median(view.depth), rtol=0.03)
