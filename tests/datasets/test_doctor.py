"""The doctor passes every generated layout and names what is wrong with spoilt ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weav3r.datasets.doctor import check_data_set
from weav3r.datasets.doctor.report import save_report
from weav3r.datasets.layout import write_layout
from weav3r.datasets.layouts import open_data_set

from .made_sets import EXPORTS, SIZE, Made, Stored, changed, with_poses

OPENGL = np.diag([1.0, -1, -1, 1])
NED = np.eye(4)[[2, 0, 1, 3]]


@pytest.mark.parametrize("layout", EXPORTS)
def test_right_data_sets_pass(layout: str, made: Made, tmp_path: Path) -> None:
    EXPORTS[layout](made, tmp_path)
    found = check_data_set(tmp_path)
    assert found.passed and not [f for f in found.findings if f.level == "warning"]
    assert found.minable > 10
    assert found.trials[0].code == "as-stored" and found.trials[0].scale == 1


def depth_times(factor: float) -> Callable[[Made], Made]:
    return lambda made: changed(made, lambda _, v: replace(v, depth=v.depth * np.float32(factor)))


def poses_of(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Made], Made]:
    return lambda made: with_poses(made, change)


def shifted(frames: int) -> Callable[[Made], Made]:
    """View k gets the pose of view k + frames."""

    def spoil(made: Made) -> Made:
        return {
            scene: [
                replace(v, world_from_cam=views[(n + frames) % len(views)].world_from_cam)
                for n, v in enumerate(views)
            ]
            for scene, views in made.items()
        }

    return spoil


def smaller(view: Stored) -> Stored:
    image = Image.fromarray(view.image).resize((SIZE[1] // 2, SIZE[0] // 2))
    return replace(view, image=np.asarray(image), depth=view.depth[::2, ::2])


def distance(view: Stored) -> Stored:
    v, u = (np.mgrid[: SIZE[0], : SIZE[1]] + 0.5 - view.K[1::-1, 2][:, None, None]) / view.K[0, 0]
    return replace(view, depth=(view.depth * np.sqrt(1 + u**2 + v**2)).astype(np.float32))


def with_translation(pose: np.ndarray, translation: np.ndarray) -> np.ndarray:
    pose = pose.copy()
    pose[:3, 3] = translation
    return pose


FAULTS: dict[str, tuple[Callable[[Made], Made], str, str]] = {
    "depth in mm": (depth_times(1000), "depth-in-mm", "millimetres"),
    "half scale": (depth_times(0.5), "half-scale", "half the scale"),
    "depth scale": (depth_times(7), "depth-scale", "only times 0.14"),
    "inverted poses": (poses_of(np.linalg.inv), "inverse-poses", "world-to-camera"),
    "OpenGL axes": (poses_of(lambda p: p @ OPENGL), "opengl-axes", "y up, z backward"),
    "swapped axes": (poses_of(lambda p: p @ NED.T), "ned-axes", "x forward, y right"),
    "x and y": (
        poses_of(lambda p: p @ np.eye(4)[[1, 0, 2, 3]]),
        "left-handed-poses,swapped-axes",
        "x and y exchanged",
    ),
    "inverted OpenGL": (
        poses_of(lambda p: np.linalg.inv(p @ OPENGL)),
        "inverse-poses+opengl-axes",
        "world-to-camera",
    ),
    "translation of the inverse": (
        poses_of(lambda p: with_translation(p, -p[:3, :3].T @ p[:3, 3])),
        "mixed-poses",
        "translation of cam_from_world",
    ),
    "poses in mm": (
        poses_of(lambda p: with_translation(p, 1000 * p[:3, 3])),
        "poses-in-mm",
        "poses are in millimetres",
    ),
    "K of another size": (
        lambda made: changed(made, lambda _, v: replace(v, K=v.K * [[2], [2], [1]])),
        "K-size",
        "192x144, the photo has 96x72",
    ),
    "wrong zoom": (
        lambda made: changed(
            made, lambda _, v: replace(v, K=v.K * [[2, 1, 1], [1, 2, 1], [1] * 3])
        ),
        "focal-length",
        "2 times too long",
    ),
    "empty depth": (
        lambda made: changed(made, lambda n, v: replace(v, depth=v.depth * (n % 3 > 0))),
        "empty-depth",
        "6 of 16 depth maps",
    ),
    "poses too late": (shifted(1), "time-shift", "1 frame later"),
    "poses too early": (shifted(-2), "time-shift", "2 frames earlier"),
    "mixed resolutions": (
        lambda made: changed(made, lambda n, v: smaller(v) if n in (1, 4) else v),
        "mixed-resolutions",
        "48x36 among 96x72",
    ),
    "distance": (
        lambda made: changed(made, lambda _, v: distance(v)),
        "ray-distance",
        "distance from the camera",
    ),
    "depth upside down": (
        lambda made: changed(made, lambda _, v: replace(v, depth=v.depth[::-1].copy())),
        "flipped-depth",
        "rows in reverse order",
    ),
    "mirrored photos": (
        lambda made: changed(made, lambda _, v: replace(v, image=v.image[:, ::-1].copy())),
        "photos-do-not-fit",
        "brightness",
    ),
    "shuffled poses": (
        poses_of(lambda p: with_translation(p, np.random.default_rng(0).permutation(p[:3, 0]))),
        "inconsistent",
        "no convention",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name: str, made: Made, tmp_path: Path) -> None:
    spoil, codes, words = FAULTS[name]
    EXPORTS["weav3r"](spoil(made), tmp_path)
    found = check_data_set(tmp_path)
    assert not found.passed
    assert ",".join(found.codes) == codes
    errors = [f for f in found.findings if f.level == "error"]
    assert words in errors[-1].message and errors[-1].advice


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        ("rgbd", "poses too late"),
        ("scannet", "inverted poses"),
        ("tartanair", "OpenGL axes"),
        ("megadepth", "half scale"),
    ],
)
def test_faults_are_named_in_other_layouts(
    layout: str, fault: str, made: Made, tmp_path: Path
) -> None:
    spoil, codes, _ = FAULTS[fault]
    EXPORTS[layout](spoil(made), tmp_path)
    assert ",".join(check_data_set(tmp_path).codes) == codes


def test_missing_files_are_listed(made: Made, tmp_path: Path) -> None:
    EXPORTS["weav3r"](made, tmp_path)
    (tmp_path / "images/room0/003.png").unlink()
    (tmp_path / "depth/room1/006.npy").unlink()
    (tmp_path / "images/room1/002.png").write_bytes(b"no picture")
    found = check_data_set(tmp_path)
    assert set(found.codes) == {"missing-files", "unreadable"}
    missing, broken = found.findings[:2]
    assert missing.where == ("images/room0/003.png", "depth/room1/006.npy")
    assert "room1/002" in broken.where


def test_one_bad_scene_and_one_bad_view_are_found(made: Made, tmp_path: Path) -> None:
    inverse = {s: with_poses({s: v}, np.linalg.inv)[s] for s, v in made.items()}
    EXPORTS["weav3r"]({"room0": made["room0"], "room1": inverse["room1"]}, tmp_path / "scene")
    found = check_data_set(tmp_path / "scene")
    assert found.codes == ("inverse-poses",) and found.findings[0].where == ("room1",)
    views = [inverse["room0"][n] if n == 3 else v for n, v in enumerate(made["room0"])]
    EXPORTS["weav3r"]({"room0": views, "room1": made["room1"]}, tmp_path / "view")
    found = check_data_set(tmp_path / "view")
    assert found.passed and found.findings[0].code == "odd-views"
    assert found.findings[0].where == ("room0/003",)


def spoil_views(folder: Path, change: Callable[[dict, list[dict]], None]) -> None:
    path = folder / "views.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in json.loads(json.dumps(entries)):
        own = next(e for e in entries if (e["scene"], e["name"]) == (entry["scene"], entry["name"]))
        change(own, entries)
    path.write_text("\n".join(map(json.dumps, entries)))


@pytest.mark.parametrize("fault", ["inverse-poses", "K-size", "focal-length"])
def test_points_show_faults_where_there_is_no_depth(fault: str, made: Made, tmp_path: Path) -> None:
    EXPORTS["colmap"](made, tmp_path / "colmap")
    folder = tmp_path / "ours"
    write_layout(open_data_set(tmp_path / "colmap"), folder)

    def spoil(entry: dict, _: list[dict]) -> None:
        if fault == "inverse-poses":
            entry["world_from_cam"] = np.linalg.inv(entry["world_from_cam"]).tolist()
        elif fault == "K-size":
            entry["K"] = (np.array(entry["K"]) * [[2], [2], [1]]).tolist()
        else:
            entry["K"] = (np.array(entry["K"]) * [[2, 1, 1], [1, 2, 1], [1, 1, 1]]).tolist()

    spoil_views(folder, spoil)
    assert check_data_set(folder).codes == (fault,)


def test_the_unit_is_doubted_where_all_lengths_are_in_mm(made: Made, tmp_path: Path) -> None:
    spoilt = FAULTS["poses in mm"][0](FAULTS["depth in mm"][0](made))
    EXPORTS["weav3r"](spoilt, tmp_path)
    found = check_data_set(tmp_path)
    assert found.codes == ("unit",) and "millimetres" in found.findings[0].advice


def test_an_unreadable_index_is_a_finding(made: Made, tmp_path: Path) -> None:
    EXPORTS["megadepth"](made, tmp_path)
    next(tmp_path.glob("0014/0/*.npz")).unlink()
    assert check_data_set(tmp_path).codes == ("missing-files",)
    with pytest.raises(ValueError, match="unknown layout"):
        check_data_set(tmp_path, "blender")


def test_the_report_needs_nothing_else(made: Made, tmp_path: Path) -> None:
    EXPORTS["weav3r"](FAULTS["OpenGL axes"][0](made), tmp_path / "<b>")
    found = check_data_set(tmp_path / "<b>")
    page = save_report(found, tmp_path / "report.html", "<b>").read_text()
    assert "opengl-axes" in page and "as probably meant" in page and "diag(1, -1, -1, 1)" in page
    assert "<title>Data set &lt;b&gt;</title>" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<script" not in page
    assert list(tmp_path.glob("*.part")) == []
