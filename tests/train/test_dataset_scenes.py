"""Recipes that name data sets on disk."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from weav3r.datasets.layout import write_layout
from weav3r.datasets.pair_table import PairTable
from weav3r.datasets.posed_set import PosedSet, ViewEntry
from weav3r.train.config import Recipe, recipe_from_dict, recipe_to_dict
from weav3r.train.data import PairStream
from weav3r.train.engine import train
from weav3r.train.tasks import recipe_scenes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scenes of three photos of a wall, as a data set with pairs, one scene held out."""
    from PIL import Image

    from weav3r.datasets.depth_files import DepthFile

    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    np.save(source / "depth.npy", np.full((48, 64), 2, np.float32))
    views = []
    for scene in ("a", "b"):
        wall = rng.integers(0, 255, (24, 48, 3), dtype=np.uint8)
        wall = np.asarray(Image.fromarray(wall).resize((96, 48)))
        for n in range(3):
            path = source / f"{scene}{n}.png"
            Image.fromarray(wall[:, 8 * n : 8 * n + 64]).save(path)
            pose = np.eye(4)
            pose[0, 3] = 8 * n * 2 / 64
            K = np.array([[64.0, 0, 32], [0, 64, 24], [0, 0, 1]])
            depth = DepthFile(source / "depth.npy")
            views.append(ViewEntry(scene, str(n), path, K, pose, (48, 64), depth))
    index = np.array([[0, 1], [1, 2], [0, 2], [3, 4], [4, 5]])
    pairs = PairTable(index, np.full((5, 2), 0.8, np.float32))
    data = PosedSet(source, "made", "arbitrary", tuple(views), pairs=pairs)
    write_layout(data, tmp_path / "set", splits={"train": ["a"], "val": ["b"]})
    return tmp_path / "set"


def recipe_of(make_recipe: Callable[..., Recipe], folder: Path, **data: object) -> Recipe:
    part = {"path": str(folder)}
    return make_recipe(data={"datasets": [part], "sizes": [[32, 48], [48, 32]], **data})


def test_batches_depend_on_their_place_only(
    make_recipe: Callable[..., Recipe], folder: Path
) -> None:
    recipe = recipe_of(make_recipe, folder)
    streams = [
        PairStream(recipe.data, 0, pickle.loads(pickle.dumps(recipe_scenes(recipe, CPU))))
        for _ in range(2)
    ]
    steps = [2 * k for k in range(6)]
    batches = [streams[0].batch(k) for k in steps]
    for k, batch in reversed(list(zip(steps, batches, strict=True))):
        again = streams[1].batch(k)
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.targets.pointmap2, again.targets.pointmap2)
    assert {batch.size for batch in batches} == {(32, 48), (48, 32)}
    targets = batches[0].targets
    assert targets.metric is not None and not targets.metric.any()
    assert targets.matches is not None and targets.matches.valid.any()


CPU = torch.device("cpu")


def test_training_and_validation_take_their_splits(
    make_recipe: Callable[..., Recipe], folder: Path
) -> None:
    recipe = recipe_of(make_recipe, folder)
    for held_out, count in ((False, 3), (True, 2)):
        source = recipe_scenes(recipe, CPU, held_out)(32, 48, 2, 0, (0.1, 0.9))
        assert len(source.sources[0].pairs) == count  # pyright: ignore[reportAttributeAccessIssue]


def test_a_mixture_with_the_generator(make_recipe: Callable[..., Recipe], folder: Path) -> None:
    parts = [{"path": str(folder), "weight": 1}, {"path": "procedural", "weight": 3}]
    recipe = make_recipe(data={"datasets": parts, "epoch_scenes": 8})
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    source = recipe_scenes(recipe, CPU)(32, 48, 2, 0, (0.1, 0.9))
    batch = source.batch(0, 8)
    assert batch.metric is not None and batch.metric.sum() == 6


def test_a_run_on_a_data_set(
    make_recipe: Callable[..., Recipe], folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(make_recipe, folder, sizes=[[32, 48]])
    result = train(recipe, output=tmp_path / "run", device="cpu")
    assert result.weights.is_file() and np.isfinite(result.values["loss"])


def test_without_data_sets_nothing_changes(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe()
    assert recipe.data.datasets == ()
    assert recipe_scenes(recipe, CPU) == recipe_scenes(recipe, CPU, held_out=True)


def test_a_missing_split_is_named(make_recipe: Callable[..., Recipe], folder: Path) -> None:
    recipe = make_recipe(data={"datasets": [{"path": str(folder), "train": "rooms"}]})
    with pytest.raises(ValueError, match="has no split 'rooms'"):
        recipe_scenes(recipe, CPU)(32, 48, 2, 0, (0.1, 0.9))
