"""PLY: coloured points with their confidence, for point cloud tools and splatting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._files import written_at_once

if TYPE_CHECKING:
    from ..scene import PointCloud, Scene

_NORMAL = ("nx", "ny", "nz")
_COLOR = ("red", "green", "blue")


def save_ply(
    scene: Scene,
    path: Path,
    *,
    max_points: int | None = None,
    normals: bool = True,
    **selection: Any,
) -> Path:
    """Write the points of one component as binary PLY in the scene's own world frame.

    Args:
        scene: what to write.
        path: the file.
        max_points: None writes all.
        normals: also the normals of the surface.
        **selection: `min_confidence`, `voxel`, `masks`, `component` of `Scene.point_cloud`.
    """
    cloud = scene.point_cloud(max_points=max_points, normals=normals, **selection)
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
    """Write points, normals if there are any, uchar colours and float confidence, little-endian."""
    columns = dict(zip("xyz", cloud.points.T, strict=True))
    if cloud.normals is not None:
        columns |= zip(_NORMAL, cloud.normals.T, strict=True)
    columns |= zip(_COLOR, cloud.colors.T, strict=True)
    columns["confidence"] = cloud.confidence
    kinds = [(name, "u1" if name in _COLOR else "<f4") for name in columns]
    vertices = np.empty(len(cloud), dtype=kinds)
    for name, values in columns.items():
        vertices[name] = values
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment {line}" for line in comments]
    header += [f"element vertex {len(cloud)}"]
    header += [f"property {'uchar' if kind == 'u1' else 'float'} {name}" for name, kind in kinds]
    header += ["end_header", ""]
    with written_at_once(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(vertices.tobytes())
