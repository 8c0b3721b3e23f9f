"""Scores without ground truth: wrong pairs stand out, verdicts say why."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from weav3r.evaluation.own_photos import judge, judge_pair, judge_photos
from weav3r.evaluation.self_consistency import (
    DOUBTFUL,
    GOOD,
    PairScore,
    repeated,
    score_pairs,
    score_photos,
)
from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.alignment.pairs import PairSamples
from weav3r.inference.images import View
from weav3r.inference.job.evidence import PairEvidence
from weav3r.inference.matching.descriptors import Matches
from weav3r.inference.report import SceneReport
from weav3r.inference.scene import Scene, SceneView, Tracks
from weav3r.models.config import ModelConfig
from weav3r.models.two_view import TwoViewModel

HEIGHT, WIDTH = 96, 128
K = np.array([[110.0, 0, 64], [0, 110, 48], [0, 0, 1]])
NAMES = ("a.jpg", "b|c.jpg", "d.jpg", "e.jpg")


def camera(k: int) -> Camera:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("yx", [4 * k, 2 * k], degrees=True).as_matrix()
    pose[:3, 3] = [-0.35 * k, 0.1 * (k % 2), 0.05 * k]
    return Camera(K, pose, HEIGHT, WIDTH)


def world(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform([-1.5, -1.2, 3.0], [1.5, 1.2, 6.0], (400, 3))


def samples(i: int, j: int, points: np.ndarray) -> PairSamples:
    """Both pointmaps in the frame of photo i; the same points stand for both photos."""
    pose = camera(i).cam_from_world
    seen = torch.from_numpy(points @ pose[:3, :3].T + pose[:3, 3])
    size = HEIGHT, WIDTH
    return PairSamples(
        i, j, torch.stack([seen, seen]), torch.full((2, len(seen)), 3.0), (size, size), 110.0
    )


def evidence(i: int, j: int, wrong: bool = False) -> PairEvidence:
    points, rng = world(), np.random.default_rng(10 * i + j)
    (xy1, _), (xy2, _) = camera(i).project(points), camera(j).project(points)
    noise = rng.normal(0, 0.15, (2, *xy2.shape))
    if wrong:
        xy2 = rng.permutation(xy2)
    confidence = np.ones(len(points), np.float32)
    forward, backward = (
        Matches(xy1.astype("f4"), (xy2 + n).astype("f4"), confidence) for n in noise
    )
    if wrong:
        backward = replace(backward, xy2=rng.permutation(backward.xy2))
    return PairEvidence(i, j, (samples(i, j, points), samples(j, i, points)), (forward, backward))


def photos_and_scene() -> tuple[list[View], Scene]:
    """Four photos of a wall in front of the cameras; the last has no place."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    views, scene_views = [], []
    for k, name in enumerate(NAMES):
        ledger = Ledger.from_file_size(HEIGHT, WIDTH)
        image = torch.zeros(3, HEIGHT, WIDTH)
        views.append(View(image=image, ledger=ledger, name=name, path=None, exif_focal_px=None))
        rays = camera(k).unproject(np.stack([columns, rows], -1), np.ones((HEIGHT, WIDTH)))
        rays -= camera(k).center
        depth = (5.0 - camera(k).center[2]) / rays[..., 2]
        scene_views.append(
            SceneView(
                name=name,
                path=None,
                ledger=ledger,
                camera=camera(k) if k < 3 else None,
                rgb=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
                depth=depth.astype(np.float32),
                confidence=np.full((HEIGHT, WIDTH), 2.0, np.float32),
            )
        )
    points = world()
    seen = [camera(k).project(points)[0] for k in range(3)]
    tracks = Tracks(
        points=points,
        image=np.repeat(np.arange(3), len(points)),
        point=np.tile(np.arange(len(points)), 3),
        xy=np.concatenate(seen) + [0.3, 0.4],
        error_px=np.full(len(points), 0.5),
    )
    report = SceneReport(images=list(NAMES), model="made up", warnings=["a | b"])
    return views, Scene(views=scene_views, tracks=tracks, report=report)


PAIRS = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)]


@pytest.fixture(scope="module")
def judged():
    views, scene = photos_and_scene()
    found = [evidence(i, j, wrong=j == 3) for i, j in PAIRS]
    return scene, score_pairs(views, found, scene)


def test_true_pairs_are_good_and_wrong_ones_bad(judged):
    _, pairs = judged
    good, bad = pairs[:3], pairs[3:]
    assert min(p.score for p in good) > 0.9 > GOOD > DOUBTFUL > max(p.score for p in bad)
    for pair in good:
        assert pair.matches == 800 and pair.one_motion > 0.95 and pair.both_directions == 1
        assert pair.cycle_rotation_deg is not None and pair.cycle_rotation_deg < 0.5
        assert pair.cycle_direction_deg is not None and pair.cycle_direction_deg < 2
        assert pair.pointmap_rotation_deg is not None and pair.pointmap_rotation_deg < 0.5
        assert pair.pointmap_gap is not None and pair.pointmap_gap < 1e-3
        assert pair.fit_px is not None and 0 < pair.fit_px < 2 and pair.together
        assert judge_pair(pair).level == "good"
    for pair in bad:
        assert not pair.together and judge_pair(pair).level == "bad"
        assert "only" in judge_pair(pair).reason


def test_photos(judged):
    scene, pairs = judged
    photos = score_photos(scene, pairs)
    for photo in photos[:3]:
        assert photo.group == 0 and photo.good_pairs == 2 and photo.tracks == 400
        assert photo.reprojection_px == pytest.approx(0.5 * 640 / WIDTH)
        assert photo.depth_agreement == 1
        assert photo.depth_gap is not None and photo.depth_gap < 0.01
        assert photo.expected_error is None
    assert photos[3].group is None and photos[3].tracks == 0 and photos[3].pairs == 2


def test_a_photo_with_another_depth_is_found_out(judged):
    scene, pairs = judged
    off = replace(scene.views[1], depth=scene.views[1].depth * 1.2)
    scene = replace(scene, views=[scene.views[0], off, *scene.views[2:]])
    agreement = [p.depth_agreement or 0.0 for p in score_photos(scene, pairs)[:3]]
    assert agreement[1] < 0.1 < agreement[0]
    report = judge(scene, pairs)
    level = {photo.name: verdict for photo, verdict in report.photos}
    assert level["b|c.jpg"].level == "bad"
    assert "of the other photos' depths agree with its own" in level["b|c.jpg"].reason


def test_report(judged, tmp_path):
    scene, pairs = judged
    report = judge(scene, pairs)
    assert report.groups == (3,) and report.connected == pytest.approx(0.6)
    assert report.verdict.level == "doubtful"
    assert report.verdict.reason == "3 of 4 photos are good" or "0 of 4" in report.verdict.reason
    paths = report.write(tmp_path / "out")
    data = json.loads(paths[0].read_text())
    assert data["pairs"][0]["verdict"]["level"] == "good" and len(data["photos"]) == 4
    text = paths[1].read_text()
    assert "b\\|c.jpg" in text and "* a \\| b" in text
    assert "no place found: it shares too little with the other photos" in text


def test_a_set_without_cameras_is_bad(judged):
    scene, pairs = judged
    lost = replace(
        scene, views=[replace(v, camera=None) for v in scene.views], components=[], tracks=None
    )
    report = judge(lost, pairs[3:])
    assert report.verdict.level == "bad" and report.reprojection_px is None
    assert "take more photos that overlap" in report.verdict.reason
    assert judge(lost, []).connected == 0


@pytest.mark.parametrize(
    ("change", "level", "reason"),
    [
        ({"score": 0.4, "both_directions": 0.1}, "doubtful", "only 10% of the matches are found"),
        ({"score": 0.2, "one_motion": 0.05}, "bad", "only 5% of 100 matches fit one camera"),
        ({"score": 0.2, "cycle_direction_deg": 40.0}, "bad", "a third photo misses by 40 degrees"),
        ({"caveat": "the camera only turned"}, "good", "90% of 100 matches agree; the camera only"),
    ],
)
def test_pair_verdicts_name_the_weakest_point(change, level, reason):
    pair = PairScore("a", "b", 100, 0.9, 0.9, 0.5, 1.0, 1.0, 1.0, 0.01, "", True, 0.9)
    verdict = judge_pair(replace(pair, **change))
    assert verdict.level == level and reason in verdict.reason


def test_repeated_matches_by_hand():
    xy = np.array([[10.0, 10], [50, 50], [90, 20]], np.float32)
    one = np.ones(3, np.float32)
    forward = Matches(xy, xy + 5, one)
    backward = Matches(xy + 7.9, xy + 5, one)
    assert repeated(forward, backward, 1.0, 1.0) == 1
    assert repeated(forward, backward, 0.9, 1.0) == 0  # 7.9 is more than 8 network pixels
    part = Matches(xy[:1], xy[:1] + 5, one[:1])
    assert repeated(forward, part, 1.0, 1.0) == pytest.approx(2 / 4)
    assert repeated(forward, forward.select(np.zeros(3, bool)), 1.0, 1.0) == 0


TINY = ModelConfig(
    name="tiny",
    image_size=(32, 48),
    encoder_dim=24,
    encoder_depth=1,
    encoder_heads=2,
    decoder_dim=24,
    decoder_depth=2,
    decoder_heads=2,
    point_mode="ray",
)


def test_a_network_without_descriptors_is_judged_by_its_pointmaps(eval_root):
    folder = eval_root / "sets" / "wall" / "images"
    report = judge_photos(folder, TwoViewModel(TINY).eval(), size=48)
    assert len(report.photos) == 3 and len(report.pairs) == 3
    for pair, verdict in report.pairs:
        assert pair.matches == 0 and pair.one_motion is None and 0 <= pair.score <= 1
        assert verdict.level == "good" or "apart" in verdict.reason or "misses" in verdict.reason
    assert report.to_markdown().startswith("# Self-consistency")
    with pytest.raises(ValueError, match="at least two usable photos, got 1"):
        judge_photos([folder / "a.png"], TwoViewModel(TINY).eval(), size=48)
