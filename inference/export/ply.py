"""PLY: coloured points with their confidence, for point cloud tools and splatting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._files import written_at_once

if TYPE_CHECKING:
    from ..scene import PointCloud, Scene

_VERTEX = np.dtype(
    [
        *((axis, "<f4") for axis in "xyz"),
        *((color, "u1") for color in ("red", "green", "blue")),
        ("confidence", "<f4"),
    ]
)


def save_ply(scene: Scene, path: Path, *, max_points: int | None = None, **selection: Any) -> Path:
    """Write the points of one component as binary PLY in the scene's own world frame.

    Args:
        scene: what to write.
        path: the file.
        max_points: None writes all.
        **selection: `min_confidence`, `voxel`, `masks`, `component` of `Scene.point_cloud`.
    """
    cloud = scene.point_cloud(max_points=max_points, **selection)
    write_ply(path, cloud, ply_comments(scene))
    return path


def ply_comments(scene: Scene) -> list[str]:
    """The frame and the unit, for whoever opens the file."""
    unit = "metres" if scene.scale == "metric" else "arbitrary (relative scale)"
    return [
        "made by weav3r",
        "axes: OpenCV, x right, y down, z forward of the first camera, which is the origin",
        f"unit: {unit}",
    ]


def write_ply(path: Path, cloud: PointCloud, comments: Sequence[str] = ()) -> None:
    """Write points with uchar red, green, blue and float confidence, little-endian."""
    vertices = np.empty(len(cloud), dtype=_VERTEX)
    for k, axis in enumerate("xyz"):
        vertices[axis] = cloud.points[:, k]
    for k, color in enumerate(("red", "green", "blue")):
        vertices[color] = cloud.colors[:, k]
    vertices["confidence"] = cloud.confidence
    names = {"f": "float", "u": "uchar"}
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment {line}" for line in comments]
    header += [f"element vertex {len(cloud)}"]
    header += [f"property {names[_VERTEX[name].kind]} {name}" for name in _VERTEX.names or ()]
    header += ["end_header", ""]
    with written_at_once(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(vertices.tobytes())
