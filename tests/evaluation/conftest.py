"""Fixtures of the evaluation tests: a tiny set in the plain layout, and the outside metrics kit."""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter


@pytest.fixture
def evalkit(monkeypatch):
    """An independent implementation of the metrics, where WEAV3R_EVAL says that there is one."""
    folder = os.environ.get("WEAV3R_EVAL")
    if not folder:
        pytest.skip("WEAV3R_EVAL is not set to a folder that holds evalkit/")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module("evalkit")


@pytest.fixture
def eval_root(tmp_path: Path) -> Path:
    """Two sets: `wall` (a textured plane seen twice, K, pose, depth, homography, one negative pair)
    and `strip` (a rectified pair with a disparity of 12 pixels, no K)."""
    generator = np.random.default_rng(0)
    height, width, focal = 96, 128, 120.0
    texture = gaussian_filter(generator.normal(size=(height, width * 2)), 1.2)
    texture = np.clip(128 + 160 * texture, 0, 255).astype(np.uint8)
    # A plane at z = 4 and a camera 0.4 to the right: every pixel moves 12 to the left.
    K = [[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]]
    moved = np.eye(4)
    moved[0, 3] = -0.4
    shifted = [[1, 0, -12.0], [0, 1, 0], [0, 0, 1]]
    wall = tmp_path / "sets" / "wall"
    for folder in ("images", "depth", "sparse_depth"):
        (wall / folder).mkdir(parents=True)
    left, right = texture[:, 20 : 20 + width], texture[:, 32 : 32 + width]
    other = generator.integers(0, 255, (height, width)).astype(np.uint8)
    for name, pixels in (("a.png", left), ("b.png", right), ("c.png", other)):
        Image.fromarray(pixels).convert("RGB").save(wall / "images" / name)
    valid = np.ones((height, width), bool)
    valid[:10] = False
    for name in ("a", "b"):
        depth = np.full((height, width), 4.0, np.float32)
        np.savez(wall / "depth" / f"{name}.npz", depth=depth, valid=valid)
    uv = np.stack([np.arange(5, 100, 3.0), np.arange(20, 83, 2.0)], 1)
    np.savez(wall / "sparse_depth" / "a.npz", uv=uv, depth=np.full(len(uv), 4.0), point=uv)
    common = {"width": width, "height": height, "K": K}
    images = [
        {"name": "a.png", **common, "cam_from_world": np.eye(4).tolist(), "depth": "depth/a.npz"},
        {"name": "b.png", **common, "cam_from_world": moved.tolist(), "depth": "depth/b.npz"},
        {"name": "c.png", **common, "cam_from_world": None},
    ]
    images[0]["sparse_depth"] = "sparse_depth/a.npz"
    pairs = [
        {
            "image1": "a.png",
            "image2": "b.png",
            "T_2from1": moved.tolist(),
            "K1": K,
            "K2": K,
            "H_2from1": shifted,
            "band": "high",
            "overlap": 0.9,
        },
        {
            "image1": "a.png",
            "image2": "c.png",
            "T_2from1": None,
            "K1": K,
            "K2": K,
            "band": "negative",
        },
    ]
    write_set(wall, images, pairs, units="metric")
    strip = tmp_path / "sets" / "strip"
    (strip / "images").mkdir(parents=True)
    (strip / "disparity").mkdir()
    Image.fromarray(left).save(strip / "images" / "l.png")
    Image.fromarray(right).save(strip / "images" / "r.png")
    disparity = np.full((height, width), 12.0, np.float32)
    np.savez(strip / "disparity" / "l.npz", disparity=disparity, valid=valid)
    unknown = {"width": width, "height": height, "K": None, "cam_from_world": None}
    images = [
        {"name": "l.png", **unknown, "disparity": "disparity/l.npz"},
        {"name": "r.png", **unknown},
    ]
    pairs = [{"image1": "l.png", "image2": "r.png", "T_2from1": None, "K1": None, "K2": None}]
    write_set(strip, images, pairs, units="unknown")
    scenes = [
        {"name": "wall_2", "set": "wall", "split": "dev", "images": ["a.png", "b.png"]},
        {"name": "strip", "set": "strip", "split": "other", "tags": ["stereo"]},
    ]
    (tmp_path / "scenes.json").write_text(json.dumps({"scenes": scenes}))
    return tmp_path


def write_set(folder: Path, images: list, pairs: list, units: str) -> None:
    """Write cameras.json and pairs.json."""
    cameras = {"set": folder.name, "units": units, "images": images}
    (folder / "cameras.json").write_text(json.dumps(cameras))
    (folder / "pairs.json").write_text(json.dumps({"set": folder.name, "pairs": pairs}))
