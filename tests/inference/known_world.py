"""Photos of random points by known cameras: matches, with noise and outliers."""

from __future__ import annotations

import numpy as np
import torch

from weav3r.geometry.camera import Camera
from weav3r.geometry.ledger import Ledger
from weav3r.inference.images import View
from weav3r.inference.matching.descriptors import Matches

HEIGHT, WIDTH, FOCAL = 480, 640, 600.0


def make_view(name: str, mask: torch.Tensor | None = None) -> View:
    ledger = Ledger.from_file_size(HEIGHT, WIDTH).resized(HEIGHT // 2, WIDTH // 2)
    image = torch.zeros(3, HEIGHT // 2, WIDTH // 2)
    return View(f"{name}.jpg", None, image, ledger, mask=mask)


def make_cameras(count: int) -> list[Camera]:
    """On an arc that looks at (0.3, 0.2, 0.1), in a world that is none of theirs."""
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    cameras = []
    for k in range(count):
        angle = np.radians(12.0 * (k - count / 2) + 25)
        center = np.array([5 * np.sin(angle), 0.4 * np.cos(2 * k), -5 * np.cos(angle)])
        z = np.array([0.3, 0.2, 0.1]) - center
        z /= np.linalg.norm(z)
        x = np.cross([0.1, 1.0, 0.2], z)
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([x, np.cross(z, x), z])
        pose[:3, 3] = -pose[:3, :3] @ center
        cameras.append(Camera(K=K, cam_from_world=pose, height=HEIGHT, width=WIDTH))
    return cameras


def make_matches(
    a: Camera, b: Camera, outliers: float = 0.2, noise_px: float = 0.4, seed: int = 0
) -> Matches:
    """Matches of 300 random points anchored in the first camera."""
    rng = np.random.default_rng(seed)
    points = np.random.default_rng(7).uniform(-1.2, 1.2, (300, 3))
    xy1, xy2 = a.project(points)[0], b.project(points)[0]
    xy2 = xy2 + rng.normal(0, noise_px, xy2.shape)
    wrong = rng.random(len(xy2)) < outliers
    xy2[wrong] = rng.uniform([0, 0], [WIDTH, HEIGHT], (int(wrong.sum()), 2))
    ones = np.ones(len(xy1), np.float32)
    return Matches(xy1.astype(np.float32), xy2.astype(np.float32), ones)


def constant_depth(camera: Camera) -> np.ndarray:
    """(H, W) float32 depth of the plane through the middle of the points, facing the camera."""
    middle = float(camera.project(np.zeros(3))[1])
    return np.full((HEIGHT, WIDTH), middle, dtype=np.float32)
