"""Readers of public benchmarks, each on a tiny copy of the layout with a known camera pair.

All copies show the same two cameras, written in each data set's own conventions; every reader must
come back to the same K and poses.
"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pycolmap
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from weav3r.evaluation.datasets import LAYOUTS, read_maps, read_pair_sets
from weav3r.evaluation.localization_sets import LocalizationSet
from weav3r.evaluation.readers import EvaluationSet

if TYPE_CHECKING:
    from ..conftest import Run

HEIGHT, WIDTH = 48, 64
K = np.array([[60.0, 0, 31.5], [0, 61.0, 24.5], [0, 0, 1]])  # pixel centres at half-integers
K_INTEGER = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]


def pose(turn: float, x: float) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3] = Rotation.from_rotvec([0.1, turn, -0.05]).as_matrix()
    found[:3, 3] = [x, 0.2, -0.3]
    return found


POSES = (pose(0.0, 0.0), pose(0.3, 1.0))  # cam_from_world
RELATIVE = POSES[1] @ np.linalg.inv(POSES[0])


def photo(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (90, 120, 60)).save(path)
    return path


def text(values: np.ndarray) -> str:
    return " ".join(f"{v:.17g}" for v in np.asarray(values).ravel())


def rows(matrix: np.ndarray) -> str:
    return "\n".join(text(row) for row in matrix) + "\n"


def wxyz(matrix: np.ndarray) -> np.ndarray:
    return Rotation.from_matrix(matrix[:3, :3]).as_quat(scalar_first=True)


def check(data: EvaluationSet, units: str, scale: float = 1.0) -> None:
    """The set has the one pair, with the true K and relative pose."""
    assert data.units == units and len(data.images) == 2
    (pair,) = data.pairs
    expected = RELATIVE.copy()
    expected[:3, 3] *= scale
    assert pair.cam2_from_cam1 is not None and pair.K1 is not None and pair.K2 is not None
    np.testing.assert_allclose(pair.cam2_from_cam1, expected, atol=1e-9)
    np.testing.assert_allclose(pair.K1, K, atol=1e-9)
    np.testing.assert_allclose(pair.K2, K, atol=1e-9)
    assert pair.image1.size == (HEIGHT, WIDTH)
    assert all(path.is_file() for path in data.data_files)


# -- lists of pairs ------------------------------------------------------------------------------


def test_scannet_list_with_ground_truth(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "scene" / name)
    numbers = np.r_[K_INTEGER.ravel(), K_INTEGER.ravel(), RELATIVE.ravel()]
    line = f"scene/a.jpg scene/b.jpg 0 0 {text(numbers)}\n"
    (tmp_path / "scannet_test_pairs_with_gt.txt").write_text(line)
    (data,) = read_pair_sets(tmp_path, "scannet1500")
    check(data, "metric")
    (tmp_path / "scannet_test_pairs_with_gt.txt").write_text(line.replace(" 0 0 ", " 0 1 "))
    with pytest.raises(ValueError, match="turned images are not understood"):
        read_pair_sets(tmp_path, "scannet1500")
    (tmp_path / "scannet_test_pairs_with_gt.txt").write_text(" ".join(line.split()[:-1]))
    with pytest.raises(ValueError, match=r":1: expected 38 columns, got 37"):
        read_pair_sets(tmp_path, "scannet1500")


def test_scannet_with_test_npz_and_poses_that_are_world_from_cam(tmp_path: Path) -> None:
    scene = tmp_path / "scene0707_00"
    (scene / "pose").mkdir(parents=True)
    for frame, cam_from_world in zip((15, 585), POSES, strict=True):
        photo(scene / "color" / f"{frame}.jpg")
        (scene / "pose" / f"{frame}.txt").write_text(rows(np.linalg.inv(cam_from_world)))
    np.savez(tmp_path / "test.npz", name=np.array([[707, 0, 15, 585]]))
    to_full = np.diag([10.0, 10.0, 1.0])  # its K is that of 640 x 480
    shift = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    np.savez(tmp_path / "intrinsics.npz", scene0707_00=shift @ to_full @ K)
    (data,) = read_pair_sets(tmp_path, "scannet1500")
    check(data, "metric")


def test_megadepth_list(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "images" / name)
    numbers = np.r_[K.ravel(), K.ravel(), RELATIVE[:3, :3].ravel(), RELATIVE[:3, 3]]
    (tmp_path / "pairs_calibrated.txt").write_text(f"a.jpg b.jpg {text(numbers)}\n")
    (data,) = read_pair_sets(tmp_path, "megadepth1500")
    check(data, "unknown")
    (tmp_path / "pairs_calibrated.txt").write_text("a.jpg b.jpg 1 2\n")
    with pytest.raises(ValueError, match="expected 32 columns"):
        read_pair_sets(tmp_path, "megadepth1500")
    (tmp_path / "pairs_calibrated.txt").write_text(f"../a.jpg b.jpg {text(numbers)}\n")
    with pytest.raises(ValueError, match="leads outside"):
        read_pair_sets(tmp_path, "megadepth1500")


def objects(*values: object) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_megadepth_scene_files_hold_objects_but_run_nothing(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "Undistorted_SfM" / name)
    folder = tmp_path / "megadepth_test_1500_scene_info"
    folder.mkdir()
    infos = np.empty(1, dtype=object)
    infos[0] = ((0, 2), 0.4, np.zeros((3, 2)))
    arrays = {
        "image_paths": objects("Undistorted_SfM/a.jpg", None, "Undistorted_SfM/b.jpg"),
        "intrinsics": objects(K, None, K),
        "poses": objects(POSES[0], None, POSES[1]),
        "pair_infos": infos,
    }
    np.savez(folder / "0015_0.1_0.3.npz", **arrays)
    (data,) = read_pair_sets(tmp_path, "megadepth1500")
    check(data, "unknown")
    assert data.name == "megadepth1500_0015_0.1_0.3" and data.pairs[0].overlap == 0.4
    np.savez(folder / "0015_0.1_0.3.npz", **{**arrays, "poses": objects(Path("x"), 1, 2)})
    with pytest.raises(ValueError, match=r"cannot be read as plain values: it asks for pathlib"):
        read_pair_sets(tmp_path, "megadepth1500")


# -- many images of a scene ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_co3d_turns_axes_and_normalised_intrinsics(tmp_path: Path, kind: str) -> None:
    half = np.array([WIDTH, HEIGHT]) / 2
    scale = np.full(2, half.min()) if kind == "ndc_isotropic" else half
    flip = np.diag([-1.0, -1.0, 1.0])
    frames = []
    for number, cam_from_world in enumerate(POSES):
        path = f"apple/seq1/images/frame{number:06d}.jpg"
        photo(tmp_path / path)
        viewpoint = {
            "R": (flip @ cam_from_world[:3, :3]).T.tolist(),
            "T": (flip @ cam_from_world[:3, 3]).tolist(),
            "focal_length": (np.diag(K)[:2] / scale).tolist(),
            "principal_point": ((half - K[:2, 2]) / scale).tolist(),
            "intrinsics_format": kind,
        }
        image = {"path": path, "size": [HEIGHT, WIDTH]}
        frames.append(
            {
                "sequence_name": "seq1",
                "frame_number": number,
                "image": image,
                "viewpoint": viewpoint,
            }
        )
    frames.append({**frames[0], "image": {"path": "apple/x.jpg", "size": [1, 1]}})  # not unpacked
    with gzip.open(tmp_path / "apple" / "frame_annotations.jgz", "wt") as file:
        json.dump(frames, file)
    (data,) = read_pair_sets(tmp_path, "co3d")
    check(data, "unknown")
    assert data.name == "co3d_apple_seq1"


def test_realestate10k_intrinsics_are_shares_of_the_image(tmp_path: Path) -> None:
    lines = ["https://www.youtube.com/watch?v=abc"]
    for stamp, cam_from_world in zip((100, 200), POSES, strict=True):
        photo(tmp_path / "frames" / "clip" / f"{stamp}.png")
        shares = [K[0, 0] / WIDTH, K[1, 1] / HEIGHT, K[0, 2] / WIDTH, K[1, 2] / HEIGHT]
        lines.append(f"{stamp} {text(np.r_[shares, 0, 0, cam_from_world[:3].ravel()])}")
    (tmp_path / "cameras" / "test").mkdir(parents=True)
    (tmp_path / "cameras" / "test" / "clip.txt").write_text("\n".join(lines))
    (data,) = read_pair_sets(tmp_path, "re10k")
    check(data, "unknown")


def colmap_model(folder: Path, names: tuple[str, ...], model: str, params: list[float]) -> None:
    """Two images, their cameras, and points that both see."""
    folder.mkdir(parents=True)
    made = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=params, camera_id=1)
    made.add_camera_with_trivial_rig(camera)
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-1, 1, (40, 2)), rng.uniform(4, 6, 40)])
    for number, (name, cam_from_world) in enumerate(zip(names, POSES, strict=True), 1):
        in_cam = points @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
        xy = np.asarray(camera.img_from_cam(in_cam))
        image = pycolmap.Image(name=name, keypoints=xy, camera_id=1, image_id=number)
        made.add_image_with_trivial_frame(image, pycolmap.Rigid3d(cam_from_world[:3]))
    for index, xyz in enumerate(points):
        track = pycolmap.Track()
        for number in (1, 2):
            track.add_element(number, index)
        made.add_point3D(xyz, track)
    made.write_text(str(folder))


def test_eth3d(tmp_path: Path) -> None:
    scene = tmp_path / "courtyard"
    names = ("dslr_images_undistorted/a.JPG", "dslr_images_undistorted/b.JPG")
    for name in names:
        photo(scene / "images" / name)
    params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    colmap_model(scene / "dslr_calibration_undistorted", names, "PINHOLE", params)
    (data,) = read_pair_sets(tmp_path, "eth3d")
    check(data, "metric")
    other = tmp_path / "terrace"
    colmap_model(other / "dslr_calibration_undistorted", names, "SIMPLE_RADIAL", [60, 32, 24, 0.1])
    with pytest.raises(ValueError, match="is no pinhole but SIMPLE_RADIAL"):
        read_pair_sets(tmp_path, "eth3d")


def test_dtu_millimetres_become_metres(tmp_path: Path) -> None:
    scan = tmp_path / "scan1"
    (scan / "cams").mkdir(parents=True)
    content = ""
    for number, cam_from_world in enumerate(POSES):
        photo(scan / "images" / f"{number:08d}.jpg")
        content = f"extrinsic\n{rows(cam_from_world)}\nintrinsic\n{rows(K_INTEGER)}\n425.0 2.5\n"
        (scan / "cams" / f"{number:08d}_cam.txt").write_text(content)
    (data,) = read_pair_sets(tmp_path, "dtu")
    expected = data.images["00000001.jpg"].cam_from_world
    assert expected is not None
    np.testing.assert_allclose(expected[:3, 3], POSES[1][:3, 3] * 1e-3)
    check(data, "metric", scale=1e-3)
    quarter = content.replace(rows(K_INTEGER), rows(np.diag([0.25, 0.25, 1]) @ K_INTEGER))
    (scan / "cams" / "00000001_cam.txt").write_text(quarter)
    with pytest.raises(ValueError, match="intrinsics belong to another size"):
        read_pair_sets(tmp_path, "dtu")
    (scan / "cams" / "00000001_cam.txt").write_text("nothing")
    with pytest.raises(ValueError, match="no words extrinsic and intrinsic"):
        read_pair_sets(tmp_path, "dtu")


def test_imc_scales_and_covisibility(tmp_path: Path) -> None:
    scene = tmp_path / "sacre_coeur"
    scene.mkdir()
    columns = ["image_id", "camera_intrinsics", "rotation_matrix", "translation_vector"]
    with open(scene / "calibration.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for name, cam_from_world in zip(("a", "b"), POSES, strict=True):
            photo(scene / "images" / f"{name}.jpg")
            writer.writerow(
                [name, text(K), text(cam_from_world[:3, :3]), text(cam_from_world[:3, 3])]
            )
    (data,) = read_pair_sets(tmp_path, "imc")
    check(data, "unknown")
    (tmp_path / "scaling_factors.csv").write_text("scene,scaling_factor\nsacre_coeur,2.5\n")
    covisible = "pair,covisibility,fundamental_matrix\na-b,0.3,0\nb-a,0.05,0\na-x,0.9,0\n"
    (scene / "pair_covisibility.csv").write_text(covisible)
    (data,) = read_pair_sets(tmp_path, "imc")
    check(data, "metric", scale=2.5)
    assert data.pairs[0].overlap == 0.3


def test_strecha_rotation_is_world_from_cam_and_translation_the_centre(tmp_path: Path) -> None:
    folder = tmp_path / "fountain" / "urd"
    path, content = folder, ""
    for number, cam_from_world in enumerate(POSES):
        path = photo(folder / f"{number:04d}.png")
        world_from_cam = np.linalg.inv(cam_from_world)
        content = rows(K_INTEGER) + "0 0 0\n" + rows(world_from_cam[:3, :3])
        content += text(world_from_cam[:3, 3]) + f"\n{WIDTH} {HEIGHT}\n"
        Path(f"{path}.camera").write_text(content)
    (data,) = read_pair_sets(tmp_path, "strecha")
    check(data, "metric")
    assert data.name == "strecha_fountain"
    Path(f"{path}.camera").write_text(content.replace("\n0 0 0\n", "\n0.1 0 0\n"))
    with pytest.raises(ValueError, match="a distortion of"):
        read_pair_sets(tmp_path, "strecha")


def test_map_free(tmp_path: Path) -> None:
    scene = tmp_path / "s00460"
    frames = ("seq0/frame_00000.jpg", "seq1/frame_00000.jpg")
    size = (2 * HEIGHT, 2 * WIDTH)  # the intrinsics say what size they are for
    big = np.diag([2.0, 2.0, 1.0]) @ K
    intrinsics, poses = [], ["# frame qw qx qy qz tx ty tz"]
    for name, cam_from_world in zip(frames, (np.eye(4), RELATIVE), strict=True):
        photo(scene / name)
        numbers = [big[0, 0], big[1, 1], big[0, 2], big[1, 2], size[1], size[0]]
        intrinsics.append(f"{name} {text(np.array(numbers))}")
        poses.append(f"{name} {text(np.r_[wxyz(cam_from_world), cam_from_world[:3, 3]])}")
    (scene / "intrinsics.txt").write_text("\n".join(intrinsics))
    (scene / "poses.txt").write_text("\n".join(poses))
    (data,) = read_pair_sets(tmp_path, "mapfree")
    check(data, "metric")
    assert data.pairs[0].image1.name == "seq0/frame_00000.jpg"
    (scene / "poses.txt").write_text(poses[1])
    with pytest.raises(ValueError, match="no pose of a frame of seq0 or of seq1"):
        read_pair_sets(tmp_path, "mapfree")
    (scene / "poses.txt").write_text("seq0/x.jpg 1 0 0")
    with pytest.raises(ValueError, match=r"poses.txt:1: expected 7 numbers"):
        read_pair_sets(tmp_path, "mapfree")


# -- maps with queries ---------------------------------------------------------------------------


def check_map(data: LocalizationSet) -> None:
    (query,) = data.queries
    assert query.cam_from_world is not None
    np.testing.assert_allclose(query.cam_from_world, POSES[1], atol=1e-9)
    assert data.database.metric and all(path.is_file() for path in data.data_files)


def test_seven_scenes_wants_registered_depth_in_millimetres(tmp_path: Path) -> None:
    scene = tmp_path / "chess"
    size = (48, 64)
    for split, sequence, cam_from_world in (("Train", 1, POSES[0]), ("Test", 2, POSES[1])):
        folder = scene / f"seq-{sequence:02d}"
        photo(folder / "frame-000000.color.png", size)
        (folder / "frame-000000.pose.txt").write_text(rows(np.linalg.inv(cam_from_world)))
        (scene / f"{split}Split.txt").write_text(f"sequence{sequence}\n")
        depth = np.full(size, 2500, np.uint16)
        depth[:, 32:] = 65535
        Image.fromarray(depth).save(folder / "frame-000000.depth.proj.png")
    (data,) = read_maps(tmp_path, "7scenes")
    check_map(data)
    points = data.database.photos[0].points.at(np.array([[10.0, 20.0], [50.0, 20.0]]))
    depth_in_cam = points[0] @ POSES[0][2, :3] + POSES[0][2, 3]
    assert depth_in_cam == pytest.approx(2.5) and np.isnan(points[1]).all()
    assert data.queries[0].K is not None and data.queries[0].K[0, 0] == pytest.approx(52.5)
    (scene / "seq-01" / "frame-000000.depth.proj.png").unlink()
    with pytest.raises(FileNotFoundError, match="not registered to the colour images"):
        read_maps(tmp_path, "7scenes")


def test_cambridge_centre_and_rotation_follow_two_conventions(tmp_path: Path) -> None:
    scene = tmp_path / "ShopFacade"
    names = ("seq1/frame00001.png", "seq1/frame00002.png")
    for name in (*names, "seq2/frame00001.png"):
        photo(scene / name)
    colmap_model(scene / "model_train", names, "SIMPLE_RADIAL", [60.0, 32, 24, -0.05])
    centre = np.linalg.inv(POSES[1])[:3, 3]
    line = f"seq2/frame00001.png {text(np.r_[centre, wxyz(POSES[1])])}"
    (scene / "dataset_test.txt").write_text(f"Visual Landmark\nImageFile\n\n{line}\n")
    query = "seq2/frame00001.png SIMPLE_RADIAL 128 96 120 64 48 -0.05\n"
    (scene / "query_list_with_intrinsics.txt").write_text(query)
    (data,) = read_maps(tmp_path, "cambridge")
    check_map(data)
    lens = data.queries[0].camera
    assert lens is not None and list(lens.params) == [60, 32, 24, -0.05]  # of the file's size
    assert len(data.database) == 2
    (scene / "query_list_with_intrinsics.txt").write_text(query.replace("00001", "00009"))
    with pytest.raises(ValueError, match="has no pose of"):
        read_maps(tmp_path, "cambridge")
    (scene / "query_list_with_intrinsics.txt").write_text("x.png NO_MODEL 1 1 1\n")
    with pytest.raises(ValueError, match=r":1: no COLMAP camera"):
        read_maps(tmp_path, "cambridge")


def test_aachen_queries_have_no_truth(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "images_upright"
    names = ("db/1.jpg", "db/2.jpg")
    for name in (*names, "query/night/nexus5x/q.jpg"):
        photo(folder / name)
    model = tmp_path / "3D-models" / "aachen_v_1_1"
    colmap_model(model, names, "SIMPLE_RADIAL", [60.0, 32, 24, 0.0])
    pycolmap.Reconstruction(str(model)).write_binary(str(model))
    (tmp_path / "queries").mkdir()
    line = f"query/night/nexus5x/q.jpg SIMPLE_RADIAL {WIDTH} {HEIGHT} 60 32 24 0.01\n"
    (tmp_path / "queries" / "night_time_queries_with_intrinsics.txt").write_text(line)
    (data,) = read_maps(tmp_path, "aachen")
    assert [q.cam_from_world for q in data.queries] == [None]
    with pytest.raises(FileNotFoundError, match="is no Aachen Day-Night"):
        read_maps(tmp_path / "queries", "aachen")


# -- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"plain"}))
def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path, layout: str) -> None:
    read = read_maps if layout in ("7scenes", "cambridge", "aachen") else read_pair_sets
    with pytest.raises(FileNotFoundError, match="looked for"):
        read(tmp_path, layout)
    with pytest.raises(FileNotFoundError, match="no evaluation folder"):
        read(tmp_path / "missing", layout)


def test_unknown_layouts_and_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no layout of pairs 'tum'; there are scannet1500"):
        read_pair_sets(tmp_path, "tum")
    with pytest.raises(ValueError, match="no layout of maps with queries 'co3d'"):
        read_maps(tmp_path, "co3d")


# -- the command ---------------------------------------------------------------------------------


def test_command_measures_pairs_of_a_public_layout_and_compares(tmp_path: Path, run: Run) -> None:
    for number, cam_from_world in enumerate(POSES):
        path = photo(tmp_path / "data" / "fountain" / f"{number:04d}.png")
        world_from_cam = np.linalg.inv(cam_from_world)
        content = rows(K_INTEGER) + "0 0 0\n" + rows(world_from_cam[:3, :3])
        content += text(world_from_cam[:3, 3]) + f"\n{WIDTH} {HEIGHT}\n"
        Path(f"{path}.camera").write_text(content)
    arguments = ("evaluate", tmp_path / "data", "--layout", "strecha", "--methods", "sift")
    first = run(*arguments, "-o", tmp_path / "first")
    assert first.status == 0, first.err
    assert "strecha_fountain | sift | 1" in first.out
    second = run(*arguments, "-o", tmp_path / "second", "--against", tmp_path / "first")
    assert second.status == 0 and "| earlier | sift |" in second.out
    for wrong, message in (
        (("--layout", "nothing"), "--layout nothing: there are plain, scannet1500"),
        (("--tasks", "depth"), "--tasks depth: there are pairs, localization, mapfree"),
        (("--tasks", "localization"), "--layout strecha has no map with queries"),
        (("--layout", "aachen", "--tasks", "pairs"), "--layout aachen has no pairs"),
        (("--tasks", "mapfree"), "--tasks mapfree: it takes a checkpoint"),
        (("--scenes", "all", "--against", "x"), "--against compares runs of --tasks"),
    ):
        refused = run(*arguments, *wrong, "-o", tmp_path / "third")
        assert refused.status == 2 and message in refused.err


def test_command_needs_a_set_that_can_be_cut(eval_root: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("evaluate", eval_root, "--methods", "sift", "--tasks", "localization")
    outcome = run(*arguments, "-o", tmp_path / "out")
    assert outcome.status == 2 and "can be cut into a map and queries" in outcome.err
