"""What two photos cannot tell is named, from pictures to poses with the bundled network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import weav3r
from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.inference.two_view import PairMatch
from weav3r.models import TwoViewModel

HEIGHT, WIDTH, SIZE = 144, 192, 192
K = np.array([[180.0, 0, 96], [0, 180, 72], [0, 0, 1]])
GREY = 0.35


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return weav3r.load_model("weav3r-small", device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[torch.Tensor]:
    """Two generated pictures (3, 432, 576) in [0, 1] that have nothing in common."""
    scenes = ProceduralScenes(432, 576, 1, seed=901)
    return [scenes.batch(i, 1).images[0, 0] * 0.5 + 0.5 for i in (0, 2)]


def photograph(picture: torch.Tensor, picture_from_photo: np.ndarray, path: Path) -> Path:
    """Look at a picture through a homography; grey beyond its border."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    seen = np.stack([x, y, np.ones_like(x)], -1) @ picture_from_photo.T
    size = np.array([picture.shape[2], picture.shape[1]])
    grid = torch.from_numpy(2 * seen[..., :2] / seen[..., 2:] / size - 1).float()
    sampled = F.grid_sample((picture - GREY)[None], grid[None], align_corners=False)[0] + GREY
    pixels = (sampled.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(path)
    return path


def turn(across_deg: float, down_deg: float) -> np.ndarray:
    a, b = np.deg2rad([across_deg, down_deg])
    across = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    down = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return across @ down


def rotation_error_deg(found: np.ndarray, truth: np.ndarray) -> float:
    cosine = (np.trace(found[:3, :3].T @ truth[:3, :3]) - 1) / 2
    return float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))


def test_a_turn_alone(model: TwoViewModel, pictures: list[torch.Tensor], tmp_path: Path) -> None:
    K_picture = np.array([[270.0, 0, 288], [0, 270, 216], [0, 0, 1]])
    turns = turn(-4, 1), turn(7, -2)
    paths = [
        photograph(pictures[0], K_picture @ R.T @ np.linalg.inv(K), tmp_path / f"{i}.png")
        for i, R in enumerate(turns)
    ]
    pair = weav3r.match(paths[0], paths[1], model, size=SIZE)
    for found in (pair.relative_pose(K, K), pair.relative_pose()):
        assert found.kind == "rotation" and "only turned" in found.caveat
        assert (found.cam2_from_cam1[:3, 3] == 0).all()
        assert rotation_error_deg(found.cam2_from_cam1, turns[1] @ turns[0].T) < 1.5


def test_a_flat_scene(model: TwoViewModel, pictures: list[torch.Tensor], tmp_path: Path) -> None:
    picture_from_wall = np.array([[190.0, 0, 288], [0, 190, 216], [0, 0, 1]])
    poses, paths = [], []
    for i, (R, center) in enumerate(
        ((turn(0, 3), np.array([-0.3, 0, 0])), (turn(-8, 0), np.array([0.35, 0.1, 0.1])))
    ):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = R, -R @ center
        wall = K @ np.stack([R[:, 0], R[:, 1], 2.2 * R[:, 2] + pose[:3, 3]], 1)
        homography = picture_from_wall @ np.linalg.inv(wall)
        paths.append(photograph(pictures[0], homography, tmp_path / f"{i}.png"))
        poses.append(pose)
    found = weav3r.match(paths[0], paths[1], model, size=SIZE).relative_pose(K, K)
    assert found.kind == "planar" and "plane" in found.caveat
    truth = poses[1] @ np.linalg.inv(poses[0])
    every = [found.cam2_from_cam1, *found.alternatives]
    assert min(rotation_error_deg(pose, truth) for pose in every) < 3


def test_nothing_in_common(
    model: TwoViewModel, pictures: list[torch.Tensor], tmp_path: Path
) -> None:
    paths = [
        photograph(picture, np.diag([3.0, 3.0, 1.0]), tmp_path / f"{i}.png")
        for i, picture in enumerate(pictures)
    ]
    pair = weav3r.match(paths[0], paths[1], model, size=SIZE)
    for found in (pair.relative_pose(K, K), pair.relative_pose()):
        assert not found and found.kind == "no_common_motion" and found.reason
        assert np.isnan(found.cam2_from_cam1).all() and found.num_inliers == 0


def sparse(pair: PairMatch, count: int) -> PairMatch:
    chosen = np.linspace(0, min(len(pair.matches), 400) - 1, count).astype(int)
    return dataclasses.replace(pair, matches=pair.matches.select(chosen))


def test_few_matches_are_right_or_refused(model: TwoViewModel) -> None:
    photos = sorted(weav3r.example_photos()["toy"].glob("*.jpg"))
    pair = weav3r.match(photos[0], photos[1], model, size=SIZE)
    K_toy = np.array(pair.relative_pose().K1)
    full, few = pair.relative_pose(K_toy, K_toy), sparse(pair, 15).relative_pose(K_toy, K_toy)
    assert full
    if few:
        off = rotation_error_deg(few.cam2_from_cam1, full.cam2_from_cam1)
        assert off < max(3 * few.rotation_std_deg, 1.0) or few.caveat
    none = sparse(pair, 7).relative_pose(K_toy, K_toy)
    assert not none and none.kind == "too_few_matches"
    assert none.reason == "needs at least 8 matches, got 7"
