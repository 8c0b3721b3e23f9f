"""Small stand-ins for the generator and the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weav3r.datasets.views import ViewBatch
from weav3r.train.config import Recipe, recipe_from_dict


@dataclass(frozen=True)
class FakeScenes:
    """A textured fronto-parallel plane seen by cameras that shift sideways."""

    height: int
    width: int
    views: int
    seed: int
    overlap: tuple[float, float] = (0.1, 1.0)

    def batch(self, start_index: int, batch_size: int) -> ViewBatch:
        parts = [self._scene(start_index + k) for k in range(batch_size)]
        stacked = {k: torch.stack([p[k] for p in parts]) for k in parts[0]}
        seeds = torch.arange(start_index, start_index + batch_size)
        return ViewBatch(**stacked, seeds=seeds)

    def _scene(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        H, W, V = self.height, self.width, self.views
        focal, depth = float(W), rng.uniform(2.0, 4.0)
        K = torch.tensor([[focal, 0, W / 2], [0, focal, H / 2], [0, 0, 1]]).repeat(V, 1, 1)
        world_from_cam = torch.eye(4).repeat(V, 1, 1)
        shift = torch.from_numpy(rng.uniform(-0.1, 0.1, (V, 2)).astype(np.float32))
        world_from_cam[:, :2, 3] = shift * depth
        y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
        rays = torch.stack([(x - W / 2) / focal, (y - H / 2) / focal, torch.ones_like(x)], -1)
        points = rays * depth + world_from_cam[:, None, None, :3, 3]
        texture = torch.from_numpy(rng.uniform(-1, 1, (3, 24, 24)).astype(np.float32))
        grid = points[..., :2] / (1.0 * depth)  # about [-0.6, 0.6]
        images = nn.functional.grid_sample(texture.expand(V, -1, -1, -1), grid, align_corners=False)
        return {
            "images": images,
            "K": K,
            "world_from_cam": world_from_cam,
            "depth": torch.full((V, H, W), depth),
            "valid": torch.ones(V, H, W, dtype=torch.bool),
            "pointmap_world": points,
            "surface_id": torch.zeros(V, H, W, dtype=torch.int32),
        }


@pytest.fixture
def make_scenes() -> Callable[..., FakeScenes]:
    """A source of scenes that costs nothing."""
    return FakeScenes


TINY_MODEL = {
    "encoder_dim": 32,
    "encoder_depth": 1,
    "encoder_heads": 2,
    "decoder_dim": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "local_dims": [8, 12, 16, 16],
    "local_token_dim": 16,
}


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """A recipe of seconds; keyword arguments replace whole groups' entries."""

    def make(**groups) -> Recipe:
        data = {
            "model_overrides": TINY_MODEL,
            "steps": 4,
            "log_every": 2,
            "tensorboard": False,
            "data": {
                "sizes": [[32, 48]],
                "scenes": 2,
                "views": 2,
                "correspondences": 64,
                "curriculum": [{"overlap": [0.3, 1.0]}],
            },
            "optimizer": {"warmup_steps": 2, "learning_rate": 1e-3},
            "validation": {
                "scenes": 0,
                "mean_map_scenes": 2,
                "every_minutes": None,
                "queries": 64,
            },
        }
        for key, value in groups.items():
            data[key] = data[key] | value if isinstance(data.get(key), dict) else value
        return recipe_from_dict(data)

    return make
