"""Render procedural scenes: one interface, three kernels with the same geometry to the last bit."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from ._packed import pack_scene, pack_views
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
        K: (B, V, 3, 3) pixels at (height, width), no skew.
        world_from_cam: (B, V, 4, 4) rigid.
        height: of the views in pixels.
        width: of the views in pixels.
        shadows: cast one shadow ray a pixel (sun outdoors, lamp indoors).
        kernel: "auto" takes triton on CUDA, numba on a CPU that has it, torch otherwise.

    Returns:
        Linear radiance, depth, surface numbers and whether the camera is inside a solid. Depth and
        surface numbers have the same bits whatever the kernel.

    Raises:
        ValueError: if shapes do not match, a texture number is out of range, or `kernel` is
            unknown.
        TypeError: if a field of the scene has another dtype than it should.
        ImportError: if the named kernel needs a package that is missing.
    """
    scene.validate()
    expected = (scene.batch_size, scene.num_views)
    if K.shape != (*expected, 3, 3) or world_from_cam.shape != (*expected, 4, 4):
        raise ValueError(
            f"K must be {(*expected, 3, 3)} and world_from_cam {(*expected, 4, 4)}, got "
            f"{tuple(K.shape)} and {tuple(world_from_cam.shape)}"
        )
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive, got {height}x{width}")
    kernel = _choose(kernel, scene.device)
    packed, views = pack_scene(scene), pack_views(scene, K.float(), world_from_cam.float())
    if kernel != "triton":  # a check on the GPU would make the host wait
        largest = int(torch.maximum(scene.texture.max(), scene.sky_texture.max()))
        smallest = int(torch.minimum(scene.texture.min(), scene.sky_texture.min()))
        if smallest < 0 or largest >= textures.count:
            raise ValueError(
                f"texture numbers must be in 0..{textures.count - 1}, got {smallest}..{largest}"
            )
    if kernel == "numba":
        from .render_numba import render_numba as run
    elif kernel == "triton":
        from .render_triton import render_triton as run
    else:
        from .render_torch import render_torch as run
    rgb, depth, surface_id, inside = run(packed, views, textures, height, width, shadows)
    shape = (*expected, height, width)
    return RenderedViews(
        rgb.view(*shape, 3), depth.view(shape), surface_id.view(shape), inside.reshape(shape)
    )


def cast(
    scene: SceneBatch, origins: Tensor, directions: Tensor, kernel: Kernel = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the first surface along rays from C origins a scene.

    Args:
        scene: B scenes; only the geometry is looked at.
        origins: (B, C, 3) world, metres.
        directions: (B, C, N, 3) world, any length > 0.
        kernel: as in `render`.

    Returns:
        t (B, C, N) in units of the direction vector (`NO_HIT` for nothing), surface_id (B, C, N)
        int32 and inside (B, C, N) bool: whether the origin is inside a solid.

    Raises:
        ValueError: if shapes do not match or `kernel` is unknown.
        TypeError: if a field of the scene has another dtype than it should.
        ImportError: if the named kernel needs a package that is missing.
    """
    scene.validate()
    batch, cameras = origins.shape[:2]
    if batch != scene.batch_size or origins.shape != (batch, cameras, 3):
        raise ValueError(f"origins must be ({scene.batch_size}, C, 3), got {tuple(origins.shape)}")
    if directions.ndim != 4 or directions.shape != (batch, cameras, directions.shape[2], 3):
        raise ValueError(
            f"directions must be ({batch}, {cameras}, N, 3), got {tuple(directions.shape)}"
        )
    kernel = _choose(kernel, scene.device)
    if kernel == "numba":
        from .render_numba import cast_numba as run
    elif kernel == "triton":
        from .render_triton import cast_triton as run
    else:
        from .render_torch import cast_torch as run
    return run(pack_scene(scene), origins.float(), directions.float())


def _choose(kernel: Kernel, device: torch.device) -> Kernel:
    """Resolve "auto" and check that the package of a kernel is there."""
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {get_args(Kernel)}, got {kernel!r}")
    if kernel == "auto":
        wanted: Kernel = "triton" if device.type == "cuda" else "numba"
        return wanted if find_spec(wanted) else "torch"
    if kernel != "torch" and not find_spec(kernel):
        raise ImportError(f"kernel={kernel!r} needs the package {kernel}: pip install {kernel}")
    return kernel
