"""Cameras from matches on generated scenes."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest
import torch

from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference import sfm
from weav3r.inference.images import View
from weav3r.inference.matching.descriptors import Matches
from weav3r.inference.sfm import (
    MatchGraph,
    SfmOptions,
    SparseModel,
    _usable,
    _without_shared_images,
    reconstruct_from_matches,
)

HEIGHT, WIDTH, FOCAL = 480, 640, 600.0


def make_view(index: int) -> View:
    ledger = Ledger.from_file_size(HEIGHT, WIDTH).resized(HEIGHT // 2, WIDTH // 2)
    return View(f"{index}.jpg", None, torch.zeros(3, HEIGHT // 2, WIDTH // 2), ledger)


def look(center: np.ndarray, target: np.ndarray) -> np.ndarray:
    z = (target - center) / np.linalg.norm(target - center)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = np.stack([x, np.cross(z, x), z])
    cam_from_world[:3, 3] = -cam_from_world[:3, :3] @ center
    return cam_from_world


def make_cameras(count: int) -> list[Camera]:
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    cameras = []
    for k in range(count):
        angle = np.radians(12.0 * (k - count / 2))
        center = np.array([5 * np.sin(angle), 0.3 * np.cos(k), -5 * np.cos(angle)])
        cameras.append(
            Camera(K=K, cam_from_world=look(center, np.zeros(3)), height=HEIGHT, width=WIDTH)
        )
    return cameras


def make_graph(
    cameras: list[Camera], pairs: list[tuple[int, int]], outliers: float, seed: int = 0
) -> MatchGraph:
    """Matches of random points; those of one anchor image keep their exact place in every pair."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1.2, 1.2, (500, 3))
    graph = MatchGraph(len(cameras))
    for i, j in pairs:
        for anchor, other in ((i, j), (j, i)):
            own = points[anchor * 40 : anchor * 40 + 300]
            a, _ = cameras[anchor].project(own)
            b, _ = cameras[other].project(own)
            b = b + rng.normal(0, 0.4, b.shape)
            wrong = rng.random(len(b)) < outliers
            b[wrong] = rng.uniform([0, 0], [WIDTH, HEIGHT], (int(wrong.sum()), 2))
            matches = Matches(
                a.astype(np.float32), b.astype(np.float32), np.ones(len(a), np.float32)
            )
            graph.add(i, j, matches if anchor == i else matches.swapped())
    return graph


def relative(cameras: dict[int, Camera] | list[Camera], i: int, j: int) -> np.ndarray:
    return cameras[j].cam_from_world @ cameras[i].world_from_cam


def test_cameras_are_found_among_outliers() -> None:
    truth = make_cameras(5)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    graph = make_graph(truth, pairs, outliers=0.3)
    result = reconstruct_from_matches([make_view(i) for i in range(5)], graph, [700.0] * 5)
    assert [len(m.cameras) for m in result.models] == [5]
    model = result.models[0]
    assert all(v.accepted for v in result.pairs.values())
    assert model.cameras[0].focal_px == pytest.approx(FOCAL, rel=0.03)
    for i, j in pairs:
        want, got = relative(truth, i, j), relative(model.cameras, i, j)
        cosine = (np.trace(want[:3, :3].T @ got[:3, :3]) - 1) / 2
        assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 1.0
        direction = want[:3, 3] @ got[:3, 3]
        direction /= np.linalg.norm(want[:3, 3]) * np.linalg.norm(got[:3, 3])
        assert np.degrees(np.arccos(np.clip(direction, -1, 1))) < 4.0
    xy, point = model.observations[2]
    projected, _ = model.cameras[2].project(model.points[point])
    assert np.median(np.linalg.norm(projected - xy, axis=1)) < 1.0


def test_the_result_is_the_same_every_time() -> None:
    truth = make_cameras(3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    poses = []
    for _ in range(2):
        graph = make_graph(truth, pairs, outliers=0.2)
        result = reconstruct_from_matches([make_view(i) for i in range(3)], graph, [650.0] * 3)
        poses.append([c.cam_from_world for _, c in sorted(result.models[0].cameras.items())])
    assert np.array_equal(poses[0], poses[1])


def test_unrelated_photos_are_rejected_and_named() -> None:
    truth = make_cameras(3)
    graph = make_graph(truth, [(0, 1)], outliers=0.0)
    for pair in ((0, 2), (1, 2)):
        rng = np.random.default_rng(sum(pair))
        noise = rng.uniform([0, 0], [WIDTH, HEIGHT], (2, 200, 2)).astype(np.float32)
        graph.add(*pair, Matches(noise[0], noise[1], np.ones(200, np.float32)))
    result = reconstruct_from_matches([make_view(i) for i in range(3)], graph, [600.0] * 3)
    assert not result.pairs[(0, 2)].accepted and not result.pairs[(1, 2)].accepted
    assert sorted(result.models[0].cameras) == [0, 1]


def test_two_sets_of_photos_come_back_as_two_components() -> None:
    truth = make_cameras(6)
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    graph = make_graph(truth, pairs, outliers=0.1)
    result = reconstruct_from_matches([make_view(i) for i in range(6)], graph, [600.0] * 6)
    assert sorted(sorted(m.cameras) for m in result.models) == [[0, 1, 2], [3, 4, 5]]


def test_look_alikes_are_told_by_their_surest_matches() -> None:
    truth = make_cameras(6)
    graph = make_graph(truth, [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)], outliers=0.1)
    wrong = [(i, j) for i in (0, 1, 2) for j in (3, 4, 5)]
    for i, j in wrong:  # the front and the back of a house: a motion fits, never the same one
        rng = np.random.default_rng(10 * i + j)
        points = rng.uniform(-1.2, 1.2, (250, 3))
        elsewhere = look(rng.normal(size=3) + [0, 0, -5], np.zeros(3))
        fake = Camera(K=truth[0].K, cam_from_world=elsewhere, height=HEIGHT, width=WIDTH)
        noise = rng.uniform([0, 0], [WIDTH, HEIGHT], (2, 30, 2))
        xy1 = np.concatenate([noise[0], truth[i].project(points)[0]]).astype(np.float32)
        xy2 = np.concatenate([noise[1], fake.project(points)[0]]).astype(np.float32)
        graph.add(i, j, Matches(xy1, xy2, np.linspace(1, 0.1, 280, dtype=np.float32)))
    result = reconstruct_from_matches([make_view(i) for i in range(6)], graph, [600.0] * 6)
    assert sorted(sorted(m.cameras) for m in result.models) == [[0, 1, 2], [3, 4, 5]]
    refused = {pair: v.reason for pair, v in result.pairs.items() if not v.accepted}
    assert sorted(refused) == wrong
    assert all("of the surest matches fit" in reason for reason in refused.values())


@pytest.mark.parametrize(("guess", "photos", "mappings"), [(250, 4, 2), (570, 4, 1), (250, 2, 1)])
def test_mapping_starts_again_from_a_focal_length_far_from_its_guess(
    guess, photos, mappings, monkeypatch
) -> None:
    truth = make_cameras(photos)
    pairs = [(i, j) for i in range(photos) for j in range(i + 1, photos)]
    graph = make_graph(truth, pairs, outliers=0.1)
    folders = []
    original = sfm._map_best
    monkeypatch.setattr(sfm, "_map_best", lambda *a: folders.append(a[1].name) or original(*a))
    views = [make_view(i) for i in range(photos)]
    result = reconstruct_from_matches(views, graph, [float(guess)] * photos)
    assert len(folders) == mappings
    if photos > 2:
        assert result.models[0].cameras[0].focal_px == pytest.approx(FOCAL, rel=0.03)


def test_photos_beyond_an_overlap_keep_their_component() -> None:
    def part(*images: int) -> SparseModel:
        cameras = dict(zip(images, make_cameras(len(images)), strict=True))
        points = np.arange(3.0 * len(images)).reshape(-1, 3)  # each image sees one of its own
        seen = {i: (np.zeros((1, 2)), np.array([n])) for n, i in enumerate(images)}
        return SparseModel(cameras, points, np.zeros(len(points)), seen)

    whole, cut = _without_shared_images([part(0, 1, 2, 3), part(3, 4, 5), part(0, 6)])
    assert (sorted(whole.cameras), len(whole.points)) == ([0, 1, 2, 3], 4)
    assert sorted(cut.cameras) == sorted(cut.observations) == [4, 5]
    assert np.array_equal(cut.points, [[3, 4, 5], [6, 7, 8]])
    assert cut.observations[4][1].tolist() == [0] and cut.observations[5][1].tolist() == [1]


@pytest.mark.parametrize("focal_px", [-1700.0, 20.0, 1e6, float("nan")])
def test_a_focal_length_that_no_lens_has_is_no_solution(focal_px: float) -> None:
    reconstruction = pycolmap.synthesize_dataset(
        pycolmap.SyntheticDatasetOptions(num_frames_per_rig=2, num_points3D=20)
    )
    assert _usable(reconstruction)
    for camera in reconstruction.cameras.values():
        camera.focal_length = focal_px
    assert not _usable(reconstruction)


def test_no_matches_give_no_model() -> None:
    result = reconstruct_from_matches([make_view(0), make_view(1)], MatchGraph(2), [600.0] * 2)
    assert result.models == [] and result.pairs == {}


def test_focal_lengths_are_free_when_not_shared() -> None:
    truth = make_cameras(4)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    graph = make_graph(truth, pairs, outliers=0.0)
    options = SfmOptions(share_focal=False)
    result = reconstruct_from_matches([make_view(i) for i in range(4)], graph, [620.0] * 4, options)
    focals = {c.focal_px for c in result.models[0].cameras.values()}
    assert len(focals) == 4 and all(abs(f / FOCAL - 1) < 0.1 for f in focals)
