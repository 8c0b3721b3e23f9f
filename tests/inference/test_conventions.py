"""Wrong conventions are called by their names, from arithmetic and from matches."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from weav3r.geometry.camera import Camera
from weav3r.inference.known.conventions import ConventionError, check_depth, check_focal, check_K
from weav3r.inference.known.conventions import check_pose as check
from weav3r.inference.known.evidence import PairPoints, check_evidence
from weav3r.inference.known.values import as_known, resolve

_spec = importlib.util.spec_from_file_location(
    "known_world", Path(__file__).with_name("known_world.py")
)
assert _spec is not None and _spec.loader is not None
known_world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(known_world)

FOCAL, HEIGHT, WIDTH = known_world.FOCAL, known_world.HEIGHT, known_world.WIDTH
constant_depth, make_matches = known_world.constant_depth, known_world.make_matches
make_view = known_world.make_view
CAMERAS = known_world.make_cameras(4)
VIEWS = [make_view(str(k)) for k in range(4)]
SIZE = (HEIGHT, WIDTH)
K = CAMERAS[0].K
POSE = CAMERAS[0].cam_from_world
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def pairs(outliers: float = 0.3) -> list[PairPoints]:
    found = []
    for i, j in itertools.combinations(range(4), 2):
        matches = make_matches(CAMERAS[i], CAMERAS[j], outliers, seed=10 * i + j)
        found.append(PairPoints(i, j, matches.xy1, matches.xy2))
    return found


def told(change, **more) -> list[str]:  # noqa: ANN001, ANN003
    """What is said of poses, given for all photos after `change`."""
    entries = {
        f"{k}.jpg": {"K": c.K, "cam_from_world": change(c)} | {n: f(c) for n, f in more.items()}
        for k, c in enumerate(CAMERAS)
    }
    given = resolve(as_known(entries), VIEWS)
    return check_evidence(given, VIEWS, pairs(), [FOCAL] * 4)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    angle = np.arccos((np.trace(rotation) - 1) / 2)
    skew = (rotation - rotation.T) / (2 * np.sin(angle))
    return angle * np.array([skew[2, 1], skew[0, 2], skew[1, 0]])


@pytest.mark.parametrize(
    ("wrong", "convention", "message"),
    [
        (POSE.T, "transposed pose", "is transposed: its translation"),
        (np.diag([2.0, 2, 2, 1]) @ POSE, "scaled pose", "a rotation times 2; divide it by 2"),
        (np.diag([1.0, -1, 1, 1]) @ POSE, "left-handed", "left-handed: the determinant .* -1"),
        (np.diag([1.0, 3, 1, 1]) @ POSE, "not a rotation", "off orthonormal by"),
        (np.array([90.0, 0, 0, 1, 2, 3]), "degrees", "length 90, .* it is in degrees"),
    ],
)
def test_a_matrix_that_is_no_pose_is_named(wrong, convention: str, message: str) -> None:  # noqa: ANN001
    with pytest.raises(ConventionError, match=message) as caught:
        check(wrong, "a.jpg")
    assert caught.value.convention == convention and str(caught.value).startswith("a.jpg: ")


def test_poses_of_other_shapes_are_understood() -> None:
    assert np.array_equal(check(POSE[:3], "a"), POSE)
    vector = np.concatenate([rotation_vector(POSE[:3, :3]), POSE[:3, 3]])
    assert np.allclose(check(vector, "a"), POSE, atol=1e-12)
    with pytest.raises(ValueError, match=r"or 6 numbers .* got shape \(3, 3\)"):
        check(np.eye(3), "a")
    with pytest.raises(ValueError, match="not finite"):
        check(np.full((4, 4), np.nan), "a")
    with pytest.raises(ValueError, match="the last row of cam_from_world"):
        check(np.ones((4, 4)), "a")


@pytest.mark.parametrize(
    ("wrong", "convention", "message"),
    [
        (K.T, "transposed K", "K is transposed: the principal point"),
        (np.diag([0.5, 0.5, 1]) @ K, "wrong image size", "about 320x240, .* 640x480 .* by 2,"),
        (K[[1, 0, 2]][:, [1, 0, 2]], "swapped width and height", "centre of a 480x640 image"),
        (np.diag([1 / WIDTH, 1 / HEIGHT, 1]) @ K, "normalised K", "first row by 640"),
        (np.diag([1.0, -1, 1]) @ K, "opengl", "signs of OpenGL axes"),
        (K + [[0, 0, 900], [0, 0, 0], [0, 0, 0]], "wrong image size", "lies outside the photo"),
        (np.diag([35 / 600, 35 / 600, 1]) @ K + [[0, 0, 301], [0, 0, 226], [0, 0, 0]],
         "focal in mm", "35 px .* millimetres"),
    ],
)  # fmt: skip
def test_intrinsics_of_another_convention_are_named(
    wrong: np.ndarray, convention: str, message: str
) -> None:
    with pytest.raises(ConventionError, match=message) as caught:
        check_K(wrong, SIZE, "a.jpg")
    assert caught.value.convention == convention


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.eye(4), "must be a .3, 3. matrix"),
        (K * np.nan, "not finite"),
        (np.diag([-1.0, -1, 1]) @ K, "must look like"),
        (K + [[0, 2.0, 0], [0, 0, 0], [0, 0, 0]], "a skew of 2"),
    ],
)
def test_what_is_no_K_is_refused(wrong: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_K(wrong, SIZE, "a.jpg")


def test_focal_lengths_in_other_units_are_named() -> None:
    with pytest.raises(ConventionError, match="28 mm is 3111.11 px"):
        check_focal(28, (3000, 4000), "a")
    with pytest.raises(ConventionError, match="a share of the image size it would be 3600 px"):
        check_focal(0.9, (3000, 4000), "a")
    with pytest.raises(ValueError, match="must be positive"):
        check_focal(-1, (3000, 4000), "a")
    assert check_focal(3200, (3000, 4000), "a") == 3200


def test_depth_maps_of_other_units_and_sizes_are_named() -> None:
    depth = np.full(SIZE, 2500, np.uint16)
    with pytest.raises(ConventionError, match="integers around 2500, millimetres"):
        check_depth(depth, SIZE, True, "a")
    assert check_depth(depth, SIZE, False, "a").dtype == np.float32
    with pytest.raises(ConventionError, match="swapped width and height: 480x640"):
        check_depth(np.ones((WIDTH, HEIGHT)), SIZE, False, "a")
    with pytest.raises(ConventionError, match="about 320x240.* scale it by 2,"):
        check_depth(np.ones((HEIGHT // 2, WIDTH // 2)), SIZE, False, "a")
    with pytest.raises(ConventionError, match=r"by 2 \(x\) and 1 \(y\)"):
        check_depth(np.ones((HEIGHT, WIDTH // 2)), SIZE, False, "a")
    with pytest.raises(ValueError, match="no positive number"):
        check_depth(np.zeros(SIZE), SIZE, False, "a")
    with pytest.raises(ValueError, match="must be an .H, W. map"):
        check_depth(np.zeros(3), SIZE, False, "a")


def test_right_values_are_believed() -> None:
    assert told(lambda c: c.cam_from_world) == []
    assert told(lambda c: c.cam_from_world, depth=constant_depth) == []


@pytest.mark.parametrize(
    ("change", "convention", "message"),
    [
        (lambda c: c.world_from_cam, "inverted pose", "world_from_cam; give the inverse"),
        (lambda c: FLIP @ c.cam_from_world, "opengl", "camera axes are taken as OpenGL's"),
        (lambda c: c.world_from_cam @ FLIP, "inverted opengl", "NeRF, nerfstudio, Blender"),
        (
            lambda c: np.block(
                [[c.cam_from_world[:3, :3].T, c.cam_from_world[:3, 3:]], [np.eye(4)[3:]]]
            ),
            "transposed rotation",
            "their 3x3 part is transposed",
        ),
    ],
)
def test_poses_of_another_convention_are_named_by_the_matches(change, convention, message) -> None:  # noqa: ANN001
    with pytest.raises(ConventionError, match=message) as caught:
        told(change)
    assert caught.value.convention == convention
    assert (
        "0.jpg, 1.jpg" in str(caught.value)
        and "px (median" in str(caught.value)
        or "behind the cameras" in str(caught.value)
    )


def test_poses_that_are_wrong_in_no_usual_way_are_doubted() -> None:
    rng = np.random.default_rng(3)
    (warning,) = told(lambda c: np.concatenate([rng.normal(0, 0.6, 3), rng.normal(0, 2, 3)]))
    assert "no usual mistake explains it" in warning or "check them" in warning


def test_small_angles_in_degrees_are_named_by_the_matches() -> None:
    base = CAMERAS[0].world_from_cam
    near = []
    for k, angle in enumerate((0.0, 0.05, 0.1, -0.06)):
        pose = np.eye(4)
        pose[[0, 0, 2, 2], [0, 2, 0, 2]] = (
            np.cos(angle),
            np.sin(angle),
            -np.sin(angle),
            np.cos(angle),
        )
        pose[:3, 3] = [-0.4 * k, 0.1 * k, 0.2]
        near.append(
            Camera(K=K, cam_from_world=pose @ POSE @ base @ POSE, height=HEIGHT, width=WIDTH)
        )
    world = np.linalg.inv(POSE)  # the first camera's frame as the world: rotations are small
    entries = {}
    for k, camera in enumerate(near):
        relative = camera.cam_from_world @ world
        vector = np.zeros(3) if k == 0 else rotation_vector(relative[:3, :3])
        entries[f"{k}.jpg"] = {
            "K": K, "cam_from_world": np.concatenate([np.degrees(vector), relative[:3, 3]])
        }  # fmt: skip
    matches = []
    for i, j in itertools.combinations(range(4), 2):
        found = make_matches(near[i], near[j], 0.2)
        matches.append(PairPoints(i, j, found.xy1, found.xy2))
    given = resolve(as_known(entries), VIEWS)
    with pytest.raises(ConventionError, match="rotation vectors are in degrees"):
        check_evidence(given, VIEWS, matches, [FOCAL] * 4)


def focal_given(factor: float) -> list[str]:
    entries = {
        f"{k}.jpg": {"focal_px": FOCAL * factor, "cam_from_world": c.cam_from_world}
        for k, c in enumerate(CAMERAS)
    }
    return check_evidence(resolve(as_known(entries), VIEWS), VIEWS, pairs(), [FOCAL] * 4)


def test_a_focal_length_for_another_size_is_named() -> None:
    with pytest.raises(ConventionError, match="multiplied by 4; K is likely for another image"):
        focal_given(0.25)
    assert any("multiplied by 0.5; K is likely" in w for w in focal_given(2.0))
    alone = resolve(as_known({"0.jpg": {"focal_px": FOCAL / 4}}), VIEWS)
    (warning,) = check_evidence(alone, VIEWS, [], [FOCAL] * 4)
    assert "0.jpg: the given focal length of 150 px is far from the 600 px" in warning


def test_millimetres_and_metres_are_told_apart_by_the_matches() -> None:
    with pytest.raises(ConventionError, match="depths are in millimetres and the poses in metres"):
        told(lambda c: c.cam_from_world, depth=lambda c: 1000 * constant_depth(c))

    def in_millimetres(camera: Camera) -> np.ndarray:
        pose = camera.cam_from_world.copy()
        pose[:3, 3] *= 1000
        return pose

    with pytest.raises(ConventionError, match="poses are in millimetres and the depths in metres"):
        told(in_millimetres, depth=constant_depth)
    (warning,) = told(lambda c: c.cam_from_world, depth=lambda c: 2 * constant_depth(c))
    assert "the given depths are" in warning and "give both in one unit" in warning


def test_too_few_matches_say_nothing() -> None:
    entries = {f"{k}.jpg": {"cam_from_world": c.world_from_cam} for k, c in enumerate(CAMERAS)}
    given = resolve(as_known(entries), VIEWS)
    few = [PairPoints(p.first, p.second, p.xy1[:12], p.xy2[:12]) for p in pairs()]
    assert check_evidence(given, VIEWS, few, [FOCAL] * 4) == []
