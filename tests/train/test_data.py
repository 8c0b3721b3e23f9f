"""Pair batches: determinism, selection, augmentation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.datasets.views import ViewBatch
from weav3r.train.config import (
    DataConfig,
    OverlapStage,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from weav3r.train.data import (
    PairBatch,
    PairStream,
    ProceduralFactory,
    jitter_colors,
    make_pairs,
    mirror_views,
    ordered_pairs,
    scene_overlap,
    select_pairs,
)
from weav3r.train.matching_loss import sample_map
from weav3r.train.tasks import recipe_scenes

CONFIG = DataConfig(sizes=((32, 48), (48, 32)), scenes=2, views=3, correspondences=32)


def tensors(batch: PairBatch) -> list[torch.Tensor]:
    targets = batch.targets
    assert targets.matches is not None
    return [batch.images, batch.first, batch.second, targets.pointmap2, targets.matches.xy2]


def test_a_position_always_gives_the_same_batch(make_scenes) -> None:
    stream = PairStream(CONFIG, 3, make_scenes)
    batches = stream.iterate(0)
    first, second = next(batches), next(batches)
    assert (first.next_scene, second.next_scene) == (2, 4)
    again = PairStream(CONFIG, 3, make_scenes).batch(2)
    for a, b in zip(tensors(second), tensors(again), strict=True):
        assert torch.equal(a, b)
    sizes = {stream.plan(k).size for k in range(0, 40, 2)}
    assert sizes == {(32, 48), (48, 32)}
    assert PairStream(CONFIG, 4, make_scenes).batch(2).images.shape[0] == 6


def test_processes_share_sizes_but_not_scenes(make_scenes) -> None:
    streams = [PairStream(CONFIG, 0, make_scenes, rank, 2) for rank in range(2)]
    for position in range(0, 16, 4):
        first, second = (next(s.iterate(position)) for s in streams)
        assert first.size == second.size and first.next_scene == second.next_scene == position + 4
        assert not set(first.seeds.tolist()) & set(second.seeds.tolist())


def test_batches_do_not_depend_on_who_makes_them(make_scenes) -> None:
    """One process that adds up four batches sees what two processes with two each see."""
    config = dataclasses.replace(CONFIG, micro_batches=4)
    alone = PairStream(config, 0, make_scenes)
    shared = [PairStream(config, 0, make_scenes, rank, 2) for rank in range(2)]
    assert alone.batches_per_step == 4 and shared[0].batches_per_step == 2
    steps = alone.iterate(0), shared[0].iterate(0), shared[1].iterate(0)
    for index in range(8):
        theirs = next(steps[1 + index % 2])
        for a, b in zip(tensors(next(steps[0])), tensors(theirs), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ValueError, match="micro_batches=4 cannot be shared evenly by 3 processes"):
        PairStream(config, 0, make_scenes, 0, 3)


def test_curriculum_and_cycling(make_scenes) -> None:
    stages = (OverlapStage(5, (0.5, 0.9)), OverlapStage(None, (0.1, 0.9)))
    config = dataclasses.replace(CONFIG, curriculum=stages, max_scenes=4)
    stream = PairStream(config, 0, make_scenes)
    assert stream.plan(2 * 4).overlap == (0.5, 0.9)
    assert stream.plan(2 * 5).overlap == (0.1, 0.9)
    assert stream.batch(6).seeds.tolist() == [2, 3]


def views_of(make_scenes) -> ViewBatch:
    return make_scenes(32, 48, 2, 0, (0.1, 1.0)).batch(0, 2)


def test_targets_agree_with_the_images(make_scenes) -> None:
    """The same colours lie at both ends of a match, and the same points."""
    views = views_of(make_scenes)
    pairs = [(0, 0, 1), (1, 0, 1), (0, 1, 0)]
    first, second, targets = make_pairs(views, pairs, 200, seed=0)
    assert first.tolist() == [0, 2, 1] and second.tolist() == [1, 3, 0]
    matches = targets.matches
    assert matches is not None and matches.valid.sum() > 300
    images = views.images.flatten(0, 1).permute(0, 2, 3, 1)
    colours = [sample_map(images[first], matches.xy1), sample_map(images[second], matches.xy2)]
    assert (colours[0] - colours[1])[matches.valid].abs().mean() < 0.05
    points = [
        sample_map(targets.pointmap1, matches.xy1),
        sample_map(targets.pointmap2, matches.xy2),
    ]
    inner = matches.valid & (matches.xy2[..., 0] > 1) & (matches.xy2[..., 0] < 47)
    inner &= (matches.xy2[..., 1] > 1) & (matches.xy2[..., 1] < 31)
    torch.testing.assert_close(points[0][inner], points[1][inner], rtol=1e-3, atol=1e-3)


def test_mirrored_world_is_consistent(make_scenes) -> None:
    views = views_of(make_scenes)
    mirrored = mirror_views(views)
    rotation = mirrored.world_from_cam[..., :3, :3]
    assert (torch.linalg.det(rotation) > 0).all()
    points = mirrored.pointmap_in_view(1, 1)
    u = torch.einsum("bij,bhwj->bhwi", mirrored.K[:, 1], points)
    x = torch.arange(48) + 0.5
    torch.testing.assert_close((u[..., 0] / u[..., 2])[0, 0], x, rtol=1e-4, atol=1e-3)
    _, _, targets = make_pairs(mirrored, [(0, 0, 1)], 200, seed=0)
    _, _, plain = make_pairs(views, [(0, 0, 1)], 200, seed=0)
    assert targets.matches is not None and plain.matches is not None
    assert targets.matches.valid.sum() == plain.matches.valid.sum()
    for name in ("images", "pointmap_world", "world_from_cam", "K"):
        torch.testing.assert_close(getattr(mirror_views(mirrored), name), getattr(views, name))


def test_pairs_are_selected_by_the_worse_direction() -> None:
    overlap = torch.ones(2, 3, 3)
    overlap[0, 0, 1], overlap[1, 1, 2], overlap[1, 0, 2] = 0.05, 0.0, 0.2
    rng = np.random.default_rng(0)
    good = select_pairs(overlap, 0.1, 9, rng)
    assert set(good) == {(0, 0, 2), (0, 1, 2), (1, 0, 1), (1, 0, 2)}
    assert len(select_pairs(overlap, 0.1, 1, rng)) == 2
    assert select_pairs(torch.zeros(2, 2, 2), 0.1, 1, rng) == [(0, 0, 1)]
    assert len(ordered_pairs(good, True, rng)) == 8
    single = ordered_pairs(good, False, rng)
    assert {(b, min(i, j), max(i, j)) for b, i, j in single} == set(good)


def test_overlap_from_geometry(make_scenes) -> None:
    views = views_of(make_scenes)
    overlap = scene_overlap(views)
    assert overlap.shape == (2, 2, 2) and (overlap > 0.5).all() and (overlap <= 1).all()
    stored = dataclasses.replace(views, overlap=torch.zeros(2, 2, 2))
    assert scene_overlap(stored).sum() == 0


def test_colour_jitter_stays_in_range_and_differs_per_view() -> None:
    images = torch.full((2, 2, 3, 4, 4), 0.5)
    jittered = jitter_colors(images, 0.5, np.random.default_rng(0))
    assert jittered.min() >= -1 and jittered.max() <= 1
    assert len(jittered[..., 0, 0, 0].unique()) == 4


def test_no_correspondences(make_scenes) -> None:
    config = dataclasses.replace(CONFIG, correspondences=0)
    assert PairStream(config, 0, make_scenes).batch(0).targets.matches is None


@pytest.mark.slow
def test_background_workers_give_the_same_stream() -> None:
    config = dataclasses.replace(CONFIG, sizes=((32, 48),), views=2, shadows=False, kernel="torch")
    factory = ProceduralFactory(shadows=False, kernel="torch")
    inline = PairStream(config, 0, factory).iterate(4)
    background = PairStream(dataclasses.replace(config, workers=2), 0, factory).iterate(4)
    for _ in range(3):
        for a, b in zip(tensors(next(inline)), tensors(next(background)), strict=True):
            assert torch.equal(a, b)
    background.close()


def test_features_of_a_recipe_reach_the_generator(tmp_path) -> None:
    Image.effect_noise((64, 32), 60).convert("RGB").save(tmp_path / "one.png")
    overrides = {
        "data.textures": str(tmp_path),
        "data.panoramas": str(tmp_path),
        "data.features": ["glossy", "movers"],
    }
    recipe = load_recipe("small-cpu", overrides)
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    source = recipe_scenes(recipe, torch.device("cpu"))(32, 48, 2, 0, (0.3, 0.9))
    assert isinstance(source, ProceduralScenes)
    assert source.features == {"glossy", "movers"}
    assert source._panoramas is not None and len(source._panoramas) == 1
    assert load_recipe("small-cpu", {"data.features": []}).data.features == ()
