"""Dense alignment against golden runs of the published one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from weav3r.inference.alignment.dense import DenseOptions, align_samples, observation_weights
from weav3r.inference.alignment.known import KnownInputs, priors_of
from weav3r.inference.alignment.samples import PairMaps, Samples, sample_maps
from weav3r.inference.alignment.solver import Solver
from weav3r.inference.alignment.start import focal_votes, spanning_tree, start_from_tree
from weav3r.inference.alignment.state import State
from weav3r.inference.alignment.system import FOCAL, Normal

Arrays = dict[str, NDArray[Any]]
SIZE = (48, 64)
# The published code counts pixel centres at integers and has its principal point at (W/2, H/2).
POINT = np.tile([32.5, 24.5], (4, 1))


def read(name: str) -> Arrays:
    folder = Path(os.environ.get("WEAV3R_GOLDEN", "missing"))
    for path in (folder / f"{name}.npz", folder / "alignment" / f"{name}.npz"):
        if path.is_file():
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
    pytest.skip(f"{name}.npz is not shipped; set WEAV3R_GOLDEN to the folder that holds it")


@pytest.fixture(scope="module")
def result() -> Arrays:
    return read("ga_result")


@pytest.fixture(scope="module")
def scene() -> Arrays:
    return read("ga_scene")


@pytest.fixture(scope="module")
def samples(scene: Arrays) -> Samples:
    """Every pixel of the golden scene."""
    pairs = [
        PairMaps(
            int(i),
            int(j),
            (scene["pred1_pts3d"][e], scene["pred2_pts3d_in_other_view"][e]),
            (scene["pred1_conf"][e], scene["pred2_conf"][e]),
        )
        for e, (i, j) in enumerate(scene["pairs"])
    ]
    return sample_maps(pairs, 4, 64)


def start_of(result: Arrays, key: str) -> State:
    """Decode the published parameters: log scales, quaternions xyzw, signed log translations."""

    def translation(code: NDArray[Any]) -> NDArray[Any]:
        return np.sign(code) * np.expm1(np.abs(code))

    pairs, images = (result[f"{key}_{k}_poses"].astype(float) for k in ("pw", "im"))
    scale = 0.5 * np.exp(pairs[:, 7] - pairs[:, 7].mean())
    return State(
        rotation=Rotation.from_quat(images[:, :4]).as_matrix(),
        center=translation(images[:, 4:]),
        focal=np.exp(result[f"{key}_im_focals"][:, 0].astype(float) / 20),
        principal_point=POINT,
        depth=list(np.exp(result[f"{key}_im_depthmaps"].astype(float))),
        pair_scale=scale,
        pair_rotation=Rotation.from_quat(pairs[:, :4]).as_matrix(),
        pair_translation=scale[:, None] * translation(pairs[:, 4:7]),
    )


def equations(samples: Samples, state: State, distance: str, confidence: Any) -> Normal:
    inputs = KnownInputs.from_arrays([SIZE] * 4)
    priors = priors_of(inputs, state, samples, None, shared_focal=False)
    priors = replace(priors, depth=list(state.depth))  # held, so that the objective is of them
    weight = observation_weights(samples, confidence)
    solver = Solver(samples, weight, priors, distance == "l1")
    solver.calibrate(state)
    return solver.normal_equations(state)[0]


def test_scores_and_spanning_tree(samples: Samples, result: Arrays) -> None:
    np.testing.assert_allclose(samples.score, result["edge_scores"], rtol=1e-5)
    order = samples.pairs[spanning_tree(samples)]
    np.testing.assert_array_equal(order, result["mst_visit_order"])


def test_start_from_the_tree(samples: Samples, scene: Arrays, result: Arrays) -> None:
    votes = focal_votes(samples, POINT)
    np.testing.assert_allclose(votes.median, scene["gt_focals"], rtol=1e-4)
    # The published start reads image 0's focal length from another image's pointmap.
    np.testing.assert_allclose(votes.median[1:], result["mst_focals"][1:], rtol=1e-4)
    state = start_from_tree(samples, POINT, votes.median)
    first = int(result["mst_visit_order"][0, 0])
    rotation = state.rotation[first].T @ state.rotation
    golden = result["mst_cam2w"].astype(float)
    for v in {int(i) for i in result["mst_visit_order"][:, 0]}:  # the others come from RANSAC
        np.testing.assert_allclose(rotation[v], golden[v, :3, :3], atol=1e-4)
    gauge = state.pair_scale[0] / result["init_pw_scale"][0]
    assert gauge == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("confidence", ["log", "sqrt", "m1", "id"])
def test_objective(samples: Samples, result: Arrays, distance: str, confidence: str) -> None:
    state = start_of(result, "init")
    golden = float(result[f"init_loss_{distance}_{confidence}"])
    found = equations(samples, state, distance, confidence).objective
    assert found == pytest.approx(golden, rel=1e-5)


def test_gradients(samples: Samples, result: Arrays) -> None:
    """Of image 0: points of the others lie on a tree pair's up to rounding, where L1 has a kink."""
    normal = equations(samples, start_of(result, "init"), "l1", "log")
    golden = result["init_grad_im_focals"][0, 0]
    assert normal.image_gradient[0, FOCAL] / 20 == pytest.approx(golden, rel=1e-4)
    stretch = np.exp(np.abs(result["init_im_poses"][0, 4:]))
    golden = result["init_grad_im_poses"][0, 4:]
    np.testing.assert_allclose(normal.image_gradient[0, :3] * stretch, golden, atol=1e-4)


RUNS = ["cosine300", "linear300", "known_focal", "known_poses", "optimize_pp", "modular"]


@pytest.mark.parametrize("run", RUNS)
def test_objective_and_errors_are_no_worse(
    samples: Samples, scene: Arrays, result: Arrays, run: str
) -> None:
    known: dict[str, Any] = {"known_principal_point_px": POINT}
    if run.startswith("known"):
        known["known_focal_px"] = scene["gt_focals"]
    if run == "known_poses":
        known["known_cam_from_world"] = np.linalg.inv(scene["gt_cam2w"])
    if run == "optimize_pp":
        known["principal_point_sigma_px"] = 1.0
    found = align_samples(samples, DenseOptions(grid=64, tolerance=2e-5), **known)
    assert found.objective[-1] < 1.0005 * result[f"{run}_loss_trace"][-1]
    if run == "known_poses":
        np.testing.assert_array_equal(found.cam_from_world, known["known_cam_from_world"])
        return
    centre, focal = errors(found, scene)
    assert centre < 1.05 * result[f"{run}_err_ate_rel"]
    assert focal <= result[f"{run}_err_focal_rel_mean"] + 1e-6


def errors(found: Any, scene: Arrays) -> tuple[float, float]:
    """RMS centre error over the largest distance from the mean centre, mean focal error."""
    truth = scene["gt_cam2w"].astype(float)
    poses = np.linalg.inv(found.cam_from_world)
    u, _, vt = np.linalg.svd(
        sum(t[:3, :3] @ p[:3, :3].T for t, p in zip(truth, poses, strict=True))
    )
    turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    a = poses[:, :3, 3] @ turn.T
    b = truth[:, :3, 3]
    a, b = a - a.mean(0), b - b.mean(0)
    off = np.linalg.norm(a * (a * b).sum() / (a * a).sum() - b, axis=-1)
    centre = np.sqrt((off**2).mean()) / np.linalg.norm(b, axis=-1).max()
    return float(centre), float(np.abs(found.focal_px / scene["gt_focals"] - 1).mean())
