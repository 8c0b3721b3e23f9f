"""Depth maps of a triangle mesh, for data sets whose geometry is a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

_NEAR = 0.01  # share of the median distance of the mesh's corners below which nothing is drawn
_CHUNK = 2_000_000  # pixels tested at once


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles in the world."""

    vertices: Float64[np.ndarray, "n 3"]
    faces: Int[np.ndarray, "m 3"]


def read_mesh(path: Path) -> Mesh:
    """Read a .ply, .obj, .glb, .stl or .off.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is no mesh, or has no triangle.
    """
    import trimesh

    if not path.is_file():
        raise FileNotFoundError(f"the mesh {path} does not exist")
    try:
        mesh = trimesh.load_mesh(path, process=False)
    except Exception as error:  # its readers raise whatever their parsers do
        raise ValueError(f"{path} is no readable mesh: {error}") from error
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise ValueError(f"{path} holds no triangle")
    return Mesh(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def render_depth(
    mesh: Mesh,
    K: Float[np.ndarray, "3 3"],
    world_from_cam: Float[np.ndarray, "4 4"],
    size: tuple[int, int],
) -> Float32[np.ndarray, "h w"]:
    """z of the nearest triangle at each pixel centre, both sides drawn; 0 where there is none."""
    corners = (mesh.vertices - world_from_cam[:3, 3]) @ world_from_cam[:3, :3]
    near = _NEAR * float(np.median(np.linalg.norm(corners, axis=1)))
    triangles = _clip(corners[mesh.faces], near)  # (M, 3, 3)
    xy = (triangles @ np.asarray(K).T)[..., :2] / triangles[..., 2:]
    depth = np.full(size[0] * size[1], np.inf)
    limit = np.array([size[1], size[0]]) - 1
    # The pixel centre i + 0.5 lies in [low, high] for ceil(low - 0.5) <= i <= floor(high - 0.5).
    first = np.clip(np.ceil(xy.min(1) - 0.5), 0, limit + 1).astype(np.int64)
    last = np.clip(np.floor(xy.max(1) - 0.5), -1, limit).astype(np.int64)
    span = np.maximum(last - first + 1, 0)
    count = span[:, 0] * span[:, 1]
    groups = np.cumsum(count) // _CHUNK
    for group in np.unique(groups[count > 0]):
        rows = np.flatnonzero((groups == group) & (count > 0))
        _draw(
            depth, size[1], xy[rows], triangles[rows, :, 2], first[rows], span[rows, 0], count[rows]
        )
    return np.where(np.isfinite(depth), depth, 0).reshape(size).astype(np.float32)


def _draw(
    depth: np.ndarray,
    width: int,
    xy: Float[np.ndarray, "m 3 2"],
    z: Float[np.ndarray, "m 3"],
    first: Int[np.ndarray, "m 2"],
    columns: Int[np.ndarray, " m"],
    count: Int[np.ndarray, " m"],
) -> None:
    """Lower `depth` (flat, changed in place) where a triangle is nearer."""
    owner = np.repeat(np.arange(len(xy)), count)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    x = first[owner, 0] + step % columns[owner]
    y = first[owner, 1] + step // columns[owner]
    a, b, c = xy[owner].transpose(1, 0, 2)
    p = np.stack([x, y], -1) + 0.5
    area = _cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.stack([_cross(c - b, p - b), _cross(a - c, p - c), _cross(b - a, p - a)], -1)
        weights = weights / area[:, None]
        inside = (weights >= -1e-9).all(1) & (area != 0)
        value = 1 / (weights / z[owner]).sum(1)  # 1 / z is what is linear in the picture
    np.minimum.at(depth, y[inside] * width + x[inside], value[inside])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _clip(triangles: Float[np.ndarray, "m 3 3"], near: float) -> Float[np.ndarray, "k 3 3"]:
    """Cut off what lies before the plane z = near."""
    ahead = triangles[..., 2] > near
    number = ahead.sum(1)
    parts = [triangles[number == 3]]
    for many in (1, 2):
        chosen = triangles[number == many]
        if not len(chosen):
            continue
        # Turn each so that the corner that is alone on its side comes first.
        alone = np.argmax((chosen[..., 2] > near) == (many == 1), axis=1)
        order = (alone[:, None] + np.arange(3)) % 3
        a, b, c = np.take_along_axis(chosen, order[..., None], 1).transpose(1, 0, 2)
        ab, ac = _at_plane(a, b, near), _at_plane(a, c, near)
        if many == 1:
            parts.append(np.stack([a, ab, ac], 1))
        else:
            parts += [np.stack([ab, b, c], 1), np.stack([ab, c, ac], 1)]
    return np.concatenate(parts)


def _at_plane(a: np.ndarray, b: np.ndarray, near: float) -> np.ndarray:
    share = (near - a[:, 2]) / (b[:, 2] - a[:, 2])
    return a + share[:, None] * (b - a)
