"""Scores of whole scenes, on scenes that are made from the truth and then spoilt."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from weav3r.evaluation.predictions import PredictionWriter
from weav3r.evaluation.provenance import describe_method
from weav3r.evaluation.readers import EvaluationSet, read_set
from weav3r.evaluation.scene_comparison import compare_scenes
from weav3r.evaluation.scenes import SceneMethod, evaluate_scenes, score_scene
from weav3r.evaluation.sift import SiftFeatures
from weav3r.evaluation.sift_scenes import SiftSceneMethod
from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.scene import Scene, SceneView

HEIGHT, WIDTH = 32, 48
K = np.array([[50.0, 0, 24], [0, 50, 16], [0, 0, 1]])


@pytest.fixture
def arc_root(tmp_path):
    """A set `arc` of five images on an arc: dense depth in `dense`, sparse in `sparse`."""
    generator = np.random.default_rng(0)
    for name in ("dense", "sparse"):
        folder = tmp_path / "sets" / name
        for part in ("images", "depth"):
            (folder / part).mkdir(parents=True)
        images = []
        for i in range(5):
            pixels = generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
            pose = np.eye(4)
            pose[:3, :3] = Rotation.from_euler("y", 12 * i, degrees=True).as_matrix()
            pose[:3, 3] = [0.1 * i, 0.3 * (i % 2), 4]
            depth = generator.uniform(2, 6, (HEIGHT, WIDTH)).astype(np.float32)
            if name == "dense":
                np.savez(folder / f"depth/{i}.npz", depth=depth, valid=depth > 2.5)
            else:
                uv = generator.uniform(0, [WIDTH - 1, HEIGHT - 1], (60, 2))
                np.savez(folder / f"depth/{i}.npz", uv=uv, depth=generator.uniform(2, 6, 60))
            images.append(
                {
                    "name": f"{i}.png",
                    "width": WIDTH,
                    "height": HEIGHT,
                    "K": (K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]).tolist(),
                    "cam_from_world": pose.tolist(),
                    "depth" if name == "dense" else "sparse_depth": f"depth/{i}.npz",
                }
            )
        cameras = {"set": name, "units": "metric", "images": images}
        (folder / "cameras.json").write_text(json.dumps(cameras))
    scenes: list[dict[str, object]] = [
        {"name": n, "set": n, "split": "dev"} for n in ("dense", "sparse")
    ]
    scenes.append({"name": "three", "set": "dense", "split": "dev", "images": ["0.png", "2.png"]})
    (tmp_path / "scenes.json").write_text(json.dumps({"scenes": scenes}))
    return tmp_path


def scene_from_truth(data: EvaluationSet, *, noise=0.0, lost=(), apart=(), scale=1.0, seed=1):
    """The true scene at half the size, in another frame and scale, with noise.

    `lost` images have no camera; `apart` ones are a component of their own.
    """
    generator = np.random.default_rng(seed)
    shift = np.eye(4)
    shift[:3, :3] = Rotation.from_rotvec([0.2, -0.4, 1.0]).as_matrix()
    shift[:3, 3] = [3, 1, -2]
    views = []
    for i, (name, image) in enumerate(data.images.items()):
        assert image.cam_from_world is not None
        cam_from_world = image.cam_from_world @ shift
        wobble = Rotation.from_rotvec(generator.normal(0, noise, 3)).as_matrix()
        cam_from_world[:3, :3] = wobble @ cam_from_world[:3, :3]
        cam_from_world[:3, 3] = scale * cam_from_world[:3, 3] + generator.normal(0, noise, 3)
        spoilt_K = K * [[1 + noise], [1 + noise], [1]]
        camera = Camera(spoilt_K, cam_from_world, HEIGHT, WIDTH)
        size = HEIGHT // 2, WIDTH // 2
        depth = image.depth()
        depth = np.full((HEIGHT, WIDTH), 4.0) if depth is None else depth
        depth = scale * depth[::2, ::2] * generator.lognormal(0, noise, size)
        depth[:3, :4] = np.nan
        views.append(
            SceneView(
                name=name,
                path=image.path,
                ledger=Ledger.from_file_size(HEIGHT, WIDTH).resized(*size),
                camera=None if i in lost else camera,
                rgb=np.zeros((*size, 3), np.uint8),
                depth=depth.astype(np.float32),
                confidence=np.full(size, 2.0, np.float32),
            )
        )
    together = [i for i in range(len(views)) if i not in (*lost, *apart)]
    return Scene(views, components=[together, list(apart)] if apart else [together])


def test_the_true_scene_in_another_frame_scores_full(arc_root):
    data = read_set(arc_root, "dense")
    pose, trajectory, focal, depth = score_scene(data, scene_from_truth(data, scale=0.3))
    assert pose is not None and pose.auc[5.0] > 0.9999 and pose.pairs == 10
    assert trajectory is not None and trajectory.relative < 1e-9
    assert trajectory.scale == pytest.approx(1 / 0.3)
    assert focal is not None and (focal.median_relative, focal.within_5_percent) == (0, 1)
    assert depth is not None and depth.truth == "dense" and depth.estimated == 5
    assert depth.scene_median is not None


def test_images_that_are_lost_or_apart_fail_their_pairs(arc_root):
    data = read_set(arc_root, "dense")
    pose, trajectory, focal, _ = score_scene(data, scene_from_truth(data, lost=[0]))
    assert pose is not None and (pose.pairs, pose.failed) == (10, 4)
    assert trajectory is not None and trajectory.registered == 4
    assert focal is not None and focal.estimated == 4 and focal.within_5_percent == 0.8
    pose, trajectory, focal, _ = score_scene(data, scene_from_truth(data, apart=[1, 2]))
    assert pose is not None and pose.failed == 7
    assert focal is not None and focal.estimated == 5


def test_evaluate_scenes_survives_a_failure_and_writes_all(arc_root, tmp_path, caplog):
    def method(paths):
        if len(paths) == 2:
            raise RuntimeError("two are not enough")
        return scene_from_truth(read_set(arc_root, paths[0].parent.parent.name), noise=0.01)

    seen = []
    report = evaluate_scenes(
        arc_root, None, method, progress=lambda done, total, name: seen.append((done, total, name))
    )
    assert seen == [(0, 3, "dense"), (1, 3, "sparse"), (2, 3, "three")]
    dense, sparse, failed = report.records
    assert dense.depth is not None and sparse.depth is not None
    assert (dense.depth.truth, sparse.depth.truth) == ("dense", "sparse")
    assert failed.error == "RuntimeError: two are not enough" and "three" in caplog.text
    assert failed.pose is not None and failed.pose.failed == 1 and failed.registered == 0
    poses = [record.pose for record in report.records if record.pose is not None]
    assert len(poses) == 3
    assert report.auc_intervals[5.0].low <= np.mean([pose.auc[5.0] for pose in poses])
    paths = report.write(tmp_path / "out")
    content = json.loads(paths[0].read_text())
    assert content["records"][0]["trajectory"]["registered"] == 5
    assert len(content["data_sha256"]) == 22
    assert "| dense | 5 | 5 |" in paths[1].read_text() and "**mean**" in paths[1].read_text()
    with open(paths[2], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scene"] for row in rows] == ["dense", "sparse", "three"]
    assert rows[2]["error"] == "RuntimeError: two are not enough"


def test_unknown_scenes_are_refused(arc_root):
    with pytest.raises(ValueError, match=r"no scene \['hall'\]"):
        evaluate_scenes(arc_root, ["hall"], lambda paths: Scene([]))


def test_an_empty_scene_scores_nothing(arc_root):
    pose, trajectory, focal, depth = score_scene(read_set(arc_root, "dense"), Scene([]))
    assert pose is not None and pose.failed == 10
    assert trajectory is not None and trajectory.registered == 0
    assert focal is not None and focal.estimated == 0 and depth is None


def test_predictions_hold_original_pixels_at_integers(tmp_path):
    writer = PredictionWriter(tmp_path / "p")
    points = np.full((4, 6, 3), np.nan)
    points[1, 2] = [1, 2, 3]
    writer.add_image("a.jpg", cam_from_world=np.eye(4), K=K, depth=np.ones((4, 6)), points=points)
    writer.add_image("b.jpg", cam_from_world=None, K=None)
    content = json.loads(writer.close(seconds=1.5).read_text())
    assert content["seconds"] == 1.5 and content["images"]["b.jpg"]["K"] is None
    assert content["images"]["a.jpg"]["K"][0][2] == 23.5
    with np.load(tmp_path / "p" / content["images"]["a.jpg"]["points"]) as arrays:
        assert arrays["mask"].sum() == 1 and arrays["points"].shape == (4, 6, 3)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the kit leaves files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_scene_scores_agree_with_evalkit(evalkit, arc_root, tmp_path, name):
    data = read_set(arc_root, name)
    scene = scene_from_truth(data, noise=0.05, lost=[3], scale=2.0)
    report = evaluate_scenes(arc_root, [name], lambda paths: scene, predictions=tmp_path / "out")
    theirs = evalkit.evaluate.eval_scene(
        str(arc_root / "sets"), {"name": name, "set": name}, str(tmp_path / "out")
    )
    ours = report.records[0]
    assert ours.pose and ours.trajectory and ours.focal and ours.depth and ours.depth.scene_median
    pairs, path = theirs["multiview"]["all_pairs"], theirs["multiview"]["ate"]
    for threshold, value in ours.pose.auc.items():
        assert value == pytest.approx(pairs[f"auc@{threshold:g}"])
    assert ours.pose.failed == pairs["failed"] == 4
    assert ours.trajectory.rmse == pytest.approx(path["ate_rmse"])
    assert ours.trajectory.relative == pytest.approx(path["ate_rel"])
    focal = theirs["intrinsics"]
    assert ours.focal.median_relative == pytest.approx(focal["focal_rel_median"])
    assert ours.focal.within_5_percent == pytest.approx(focal["focal_within_5pc"])
    depth = theirs["depth"]
    assert (ours.depth.truth, ours.depth.estimated) == (depth["truth"], depth["estimated"])
    for alignment, error in ours.depth.by_image.items():
        assert error.abs_rel == pytest.approx(depth[alignment]["absrel"])
        assert error.delta_1 == pytest.approx(depth[alignment]["d1"])
        assert error.missing == pytest.approx(depth[alignment]["missing"])
    assert ours.depth.scene_median.abs_rel == pytest.approx(depth["scene_median"]["absrel"])


def test_a_checkpoint_is_described_by_its_weights():
    from weav3r.models.config import PRESETS
    from weav3r.models.two_view import TwoViewModel

    model = TwoViewModel(PRESETS["weav3r-small"])
    said = describe_method(SceneMethod(model, depth="pointmaps"))
    assert said["depth"] == "pointmaps" and said["size"] == 384
    assert len(str(said["weights_sha256"])) == 64
    assert describe_method(SceneMethod(model, size=256))["size"] == "256"
    assert said["weights_sha256"] == describe_method(SceneMethod(model))["weights_sha256"]
    next(model.parameters()).data.add_(1)
    assert said["weights_sha256"] != describe_method(SceneMethod(model))["weights_sha256"]


def test_methods_stand_in_one_table(arc_root, tmp_path):
    def good(paths):
        return scene_from_truth(read_set(arc_root, "dense").subset([p.name for p in paths]))

    def bad(paths):
        return scene_from_truth(
            read_set(arc_root, "dense").subset([p.name for p in paths]), lost=[0]
        )

    seen = []
    found = compare_scenes(
        arc_root,
        ["dense", "three"],
        {"good": good, "a/bad": bad},
        progress=lambda done, total, name: seen.append((done, total, name)),
    )
    assert seen[0] == (0, 4, "good: dense") and seen[-1] == (3, 4, "a/bad: three")
    text = found.to_markdown()
    assert "| dense | good | 5 / 5 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 0.0000 |" in text
    assert "| dense | a/bad | 4 / 5 | 60.0 |" in text
    assert "| **mean** | good | 5 / 5 | 100.0 |" in text  # scenes of two images are left out
    paths = found.write(tmp_path / "out")
    assert paths[0].name == "comparison.md" and paths[0].read_text() == text
    assert (tmp_path / "out" / "bad" / "scenes.json").is_file()


def test_one_image_alone_is_registered_with_nothing(arc_root):
    def method(paths):
        scene = scene_from_truth(read_set(arc_root, "dense"), lost=[1, 2, 3, 4])
        return scene

    record = evaluate_scenes(arc_root, ["dense"], method).records[0]
    assert (record.registered, record.images, record.components) == (0, 5, 1)
    assert record.cpu_seconds >= 0


def test_sift_and_colmap_are_a_method_too(tmp_path, monkeypatch):
    """Features of 400 points that three cameras on an arc see."""
    draw = np.random.default_rng(0)
    points = draw.uniform(-1, 1, (400, 3))
    descriptors = np.abs(draw.normal(size=(400, 128)))
    descriptors = 512 * descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    true_K, seen, paths = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), {}, []
    for k in range(3):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("y", 15 * k, degrees=True).as_matrix()
        pose[:3, 3] = [0, 0, 4]
        xy, _ = Camera(true_K, pose, 480, 640).project(points)
        paths.append(tmp_path / f"{k}.png")
        Image.new("RGB", (640, 480), (k, 0, 0)).save(paths[-1])
        seen[paths[-1]] = SiftFeatures(xy, descriptors.astype(np.uint8))
    method = SiftSceneMethod()
    monkeypatch.setattr(method.features, "features", seen.__getitem__)
    scene = method(paths)
    assert scene.components == [[0, 1, 2]]
    cameras = [camera for camera in scene.cameras if camera is not None]
    assert [c.focal_px for c in cameras] == pytest.approx([600] * 3, rel=0.02)
    assert not scene.views[0].valid.any()
    assert set(scene.report.timings_s) == {"match", "map"}


def test_sift_finds_nothing_in_nothing(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for k, path in enumerate(paths):
        Image.new("RGB", (64, 48), (90, 90, 90 + k)).save(path)
    method = SiftSceneMethod()
    assert method(paths).components == []
    assert method.description["mapping"] == "pycolmap incremental"
