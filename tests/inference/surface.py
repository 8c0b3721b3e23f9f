"""A textured analytic surface seen by cameras: exact depth, pointmaps and descriptors."""

from __future__ import annotations

import numpy as np
import torch

from weav3r.geometry.camera import Camera


def surface_cameras(
    count: int, height: int = 60, width: int = 80, focal: float = 75.0, spread: float = 0.25
) -> list[Camera]:
    """Cameras side by side that look at the surface around (0, 0, 3)."""
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    cameras = []
    for k in range(count):
        angle = 0.08 * (k - (count - 1) / 2)
        rotation = np.array(
            [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        )
        center = np.array([spread * (k - (count - 1) / 2), 0.05 * (-1) ** k, 0.02 * k])
        cam_from_world = np.eye(4)
        cam_from_world[:3, :3] = rotation
        cam_from_world[:3, 3] = -rotation @ center
        cameras.append(Camera(K=K, cam_from_world=cam_from_world, height=height, width=width))
    return cameras


def surface_depth(camera: Camera) -> np.ndarray:
    """(H, W) depth of z = 3 + 0.25 sin(1.5 x) cos(1.3 y), by fixed-point iteration."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = np.stack([u, v], -1).reshape(-1, 2)
    depth = np.full(len(pixels), 3.0)
    for _ in range(60):
        x = camera.unproject(pixels, depth)
        depth = depth + (3 + 0.25 * np.sin(1.5 * x[:, 0]) * np.cos(1.3 * x[:, 1])) - x[:, 2]
    return depth.reshape(camera.height, camera.width)


def surface_points(camera: Camera) -> np.ndarray:
    """(H, W, 3) world points of every pixel."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    depth = surface_depth(camera)
    return camera.unproject(np.stack([u, v], -1), depth)


def surface_descriptors(camera: Camera, dim: int = 24, seed: int = 0) -> torch.Tensor:
    """(H, W, dim) unit vectors that depend on the world point alone."""
    rng = np.random.default_rng(seed)
    frequency = rng.normal(0, 7.0, (3, dim // 2))
    phase = surface_points(camera) @ frequency
    features = np.concatenate([np.sin(phase), np.cos(phase)], -1)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    return torch.from_numpy(features).float()
