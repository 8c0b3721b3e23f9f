"""Render procedural scenes: one interface, three kernels with the same geometry to the last bit."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .scene import RenderedViews, SceneBatch, TextureTable

Kernel = Literal["auto", "torch", "numba", "triton"]


def render(
    scene: SceneBatch,
    textures: TextureTable,
    K: Tensor,
    world_from_cam: Tensor,
    height: int,
    width: int,
    *,
    shadows: bool = True,
    kernel: Kernel = "auto",
) -> RenderedViews:
    """Render V views of each scene.

    Args:
        scene: B scenes with the light of V views.
        textures: the tiles that the scene's texture numbers mean.
        K: (B, V, 3, 3) pixels, no skew.
        world_from_cam: (B, V, 4, 4) rigid.
        height: of the views in pixels.
        width: of the views in pixels.
        shadows: cast one shadow ray a pixel (sun outdoors, lamp indoors).
        kernel: "auto" takes triton on CUDA, numba on a CPU that has it, torch otherwise.
    """
    raise NotImplementedError


def cast(
    scene: SceneBatch, origins: Tensor, directions: Tensor, kernel: Kernel = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the first surface along rays from C origins a scene.

    Args:
        scene: B scenes.
        origins: (B, C, 3) world, metres.
        directions: (B, C, N, 3) world, any length > 0.

    Returns:
        t (B, C, N) in units of the direction vector (`NO_HIT` for nothing), surface_id (B, C, N)
        int32 and inside (B, C, N) bool: whether the origin is inside a solid.
    """
    raise NotImplementedError
