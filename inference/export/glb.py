"""GLB (binary glTF 2.0): points or surfaces with camera frusta, for viewers and browsers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import trimesh

from ..pictures import PointColor, point_colors, source_colors
from ._files import written_at_once

if TYPE_CHECKING:
    from ...geometry.camera import Camera
    from ..scene import PointCloud, Scene

_USHORT = 5123  # glTF component type


def save_glb(
    scene: Scene,
    path: Path,
    *,
    max_points: int | None = 1_000_000,
    cameras: bool = True,
    camera_size: float | None = None,
    mesh: bool = False,
    point_size: float | None = None,
    color: PointColor = "photo",
    component: int = 0,
    **selection: Any,
) -> Path:
    """Write one component for viewers.

    The world is turned from OpenCV to glTF axes: x right, y up, looking along -z, so that a viewer
    starts upright and behind the first camera.

    Args:
        scene: what to write.
        path: the file.
        max_points: budget of the point cloud; of the vertices when `mesh`, where every second,
            third, ... row and column is used.
        cameras: draw a frustum for each camera.
        camera_size: depth of the frusta in scene units; by default a share of the scene's extent
            that shrinks with the number of cameras.
        mesh: surfaces instead of points: one triangle pair per pixel square without a depth jump.
        point_size: draw each point as a square that faces the camera it comes from, so many times
            as wide as what it stands for: 1 closes the surfaces. Points have no size in glTF.
        color: "photo", "source" (the colour of its camera's frustum) or "confidence" (bright is
            sure; logarithmic, up to the 98th percentile of the component).
        component: which component.
        **selection: `min_confidence`, `voxel` (points only), `masks` of `Scene.point_cloud`.

    Raises:
        ValueError: nothing to write, an unknown colour, or a point size that is not positive.
    """
    if point_size is not None and not point_size > 0:
        raise ValueError(f"point_size must be positive, got {point_size}")
    world = trimesh.Scene()
    if mesh:
        surface = _surface(scene, component, max_points, color, **selection)
        if surface is not None:
            world.add_geometry(surface, geom_name="surface")
    else:
        cloud = scene.point_cloud(max_points=max_points, component=component, **selection)
        if len(cloud):
            colors = cloud.colors, cloud.confidence, cloud.view
            rgba = _rgba(point_colors(color, *colors, _ceiling(scene, component)))
            if point_size is None:
                points = trimesh.PointCloud(gltf_from_opencv(cloud.points), colors=rgba)
            else:
                share = len(cloud) / max(1, _count(scene, component, **selection))
                points = _squares(scene, cloud, rgba, point_size / share**0.5)
            world.add_geometry(points, geom_name="points")
    if cameras:
        members = scene.components[component]
        size = camera_size or scene.extent(component) * 0.06 / max(1.0, len(members) / 20) ** 0.5
        for i in members:
            frustum = _frustum(cast("Camera", scene.cameras[i]), size, source_colors(i))
            world.add_geometry(frustum, geom_name=f"camera_{i}_{scene.images[i]}")
    if not world.geometry:
        raise ValueError(
            "nothing to write: no point reaches min_confidence, and cameras are off; lower the "
            "threshold"
        )
    content = world.export(
        file_type="glb",
        include_normals=False,
        buffer_postprocessor=_to_linear_colors,
        tree_postprocessor=_describe_material_and_frame,
    )
    with written_at_once(path) as temporary:
        temporary.write_bytes(cast(bytes, content))
    return path


def gltf_from_opencv(points: np.ndarray) -> np.ndarray:
    """Turn points (..., 3) from OpenCV axes (y down, z forward) to glTF's (y up, z backward)."""
    return points * np.array([1, -1, -1], dtype=points.dtype)


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """uint8 sRGB values to linear light in 0..1 (IEC 61966-2-1)."""
    c = colors.astype(np.float64) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _frustum(camera: Camera, size: float, color: np.ndarray) -> trimesh.Trimesh:
    """Wire frame of a camera's view, made of thin bars: apex, four corners at depth `size`."""
    w, h = camera.width, camera.height
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], dtype=np.float64)
    apex = camera.center
    base = camera.unproject(corners, np.full(4, size))
    up = base[:2].mean(0) + 0.25 * (base[:2].mean(0) - base.mean(0))  # a roof marks the upper edge
    edges = [(apex, corner) for corner in base]
    edges += [(base[k], base[(k + 1) % 4]) for k in range(4)]
    edges += [(base[0], up), (base[1], up)]
    bars = [_bar(gltf_from_opencv(a), gltf_from_opencv(b), 0.012 * size) for a, b in edges]
    vertices = np.concatenate([v for v, _ in bars])
    faces = np.concatenate([f + 6 * k for k, (_, f) in enumerate(bars)])
    colors = np.broadcast_to(_rgba(color), (len(vertices), 4))
    return trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False)


_BAR_FACES = np.array([(k, (k + 1) % 3, 3 + k) for k in range(3)])
_BAR_FACES = np.concatenate([_BAR_FACES, [((k + 1) % 3, 3 + (k + 1) % 3, 3 + k) for k in range(3)]])


def _bar(start: np.ndarray, end: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Triangular prism around a segment: (6, 3) vertices and (6, 3) faces."""
    along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-12)
    side = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
    side /= np.linalg.norm(side)
    other = np.cross(along, side)
    angles = np.arange(3) * 2 * np.pi / 3
    ring = radius * (np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * other)
    return np.concatenate([start + ring, end + ring]), _BAR_FACES


def _count(
    scene: Scene, component: int, min_confidence: float | None = None, masks: Any = None, **_: Any
) -> int:
    """Points of a component before any are left out for their number."""
    total = 0
    for i in scene.components[component]:
        keep = scene.valid(i, min_confidence)
        mask = None if masks is None else masks[i]
        total += int((keep if mask is None else keep & mask.astype(bool)).sum())
    return total


def _squares(scene: Scene, cloud: PointCloud, rgba: np.ndarray, size: float) -> trimesh.Trimesh:
    """Draw a square for each point, `size` pixels of its photo wide, parallel to that photo."""
    corners = np.empty((len(cloud), 4, 3), dtype=np.float32)
    for i in np.unique(cloud.view).tolist():
        mine = cloud.view == i
        camera = scene.network_camera(i)
        _, depth = camera.project(cloud.points[mine].astype(np.float64))
        half = 0.5 * size * depth / camera.K[0, 0]
        right, down = camera.world_from_cam[:3, 0], camera.world_from_cam[:3, 1]
        for k, (x, y) in enumerate(((-1, -1), (1, -1), (1, 1), (-1, 1))):
            corners[mine, k] = cloud.points[mine] + half[:, None] * (x * right + y * down)
    first = 4 * np.arange(len(cloud))[:, None, None]
    faces = (first + np.array([[0, 2, 1], [0, 3, 2]])).reshape(-1, 3)
    vertices = gltf_from_opencv(corners.reshape(-1, 3))
    return trimesh.Trimesh(vertices, faces, vertex_colors=np.repeat(rgba, 4, 0), process=False)


def _ceiling(scene: Scene, component: int) -> float:
    """Confidence of the brightest colour: the 98th percentile of a component."""
    members = scene.components[component]
    known = [scene.views[i].confidence[scene.views[i].valid] for i in members]
    values = np.concatenate(known)
    return float(np.percentile(values, 98)) if len(values) else 1.0


def _surface(
    scene: Scene,
    component: int,
    max_vertices: int | None,
    color: PointColor,
    min_confidence: float | None = None,
    masks: Any = None,
    max_jump: float = 0.05,
) -> trimesh.Trimesh | None:
    """Triangles over the depth maps, without squares whose depths differ by `max_jump` of them."""
    members = scene.components[component]
    pixels = sum(scene.views[i].depth.size for i in members)
    step = 1 if max_vertices is None else max(1, int(np.ceil(np.sqrt(pixels / max_vertices))))
    vertices, colors, faces, count = [], [], [], 0
    ceiling = _ceiling(scene, component)
    for i in members:
        keep = scene.valid(i, min_confidence)
        if masks is not None and masks[i] is not None:
            keep = keep & masks[i].astype(bool)
        keep, view = keep[::step, ::step], scene.views[i]
        depth = np.where(keep, view.depth[::step, ::step], np.nan)
        corners = np.stack([depth[:-1, :-1], depth[:-1, 1:], depth[1:, :-1], depth[1:, 1:]])
        low, high = corners.min(0), corners.max(0)  # NaN when any corner is invalid
        rows, columns = np.nonzero(high - low < max_jump * low)
        number = np.arange(depth.size).reshape(depth.shape)
        a, b = number[rows, columns], number[rows, columns + 1]
        c, d = number[rows + 1, columns], number[rows + 1, columns + 1]
        used, faces_i = np.unique(
            np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)]), return_inverse=True
        )
        rows, columns = np.divmod(used, depth.shape[1])
        vertices.append(view.world_points(rows * step, columns * step))
        at = rows * step, columns * step
        source = np.full(len(rows), i)
        colors.append(point_colors(color, view.rgb[at], view.confidence[at], source, ceiling))
        faces.append(faces_i.reshape(-1, 3) + count)
        count += len(used)
    if count == 0:
        return None
    return trimesh.Trimesh(
        gltf_from_opencv(np.concatenate(vertices)),
        np.concatenate(faces),
        vertex_colors=_rgba(np.concatenate(colors)),
        process=False,
    )


def _rgba(colors: np.ndarray) -> np.ndarray:
    opaque = np.full((*colors.shape[:-1], 1), 255, dtype=np.uint8)
    return np.concatenate([colors.astype(np.uint8), opaque], axis=-1)


def _to_linear_colors(buffers: Any, tree: dict[str, Any]) -> None:
    """Replace 8-bit sRGB vertex colours by 16-bit linear ones, as glTF 2.0 (3.7.2.1) asks for."""
    accessors, keys = list(tree["accessors"].values()), list(buffers)
    primitives = [p for mesh in tree["meshes"] for p in mesh["primitives"]]
    done = set()
    for index in {p["attributes"]["COLOR_0"] for p in primitives if "COLOR_0" in p["attributes"]}:
        accessor = accessors[index]
        key = keys[accessor["bufferView"]]
        if key not in done:
            done.add(key)
            stored = np.frombuffer(buffers[key], dtype=np.uint8)
            rgba = stored[: stored.size // 4 * 4].reshape(-1, 4)
            linear = np.concatenate([linear_from_srgb(rgba[:, :3]), rgba[:, 3:] / 255], axis=1)
            buffers[key] = np.round(linear * 65535).astype("<u2").tobytes()
        accessor["componentType"] = _USHORT
        accessor.pop("min", None)
        accessor.pop("max", None)


def _describe_material_and_frame(tree: dict[str, Any]) -> None:
    """Colours are photographs: no light may change them. The frame is named in the asset."""
    tree["materials"] = [
        {
            "name": "photo",
            "doubleSided": True,
            "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
            "extensions": {"KHR_materials_unlit": {}},
        }
    ]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
    used = [e for e in tree.get("extensionsUsed", []) if e != "KHR_materials_unlit"]
    tree["extensionsUsed"] = [*used, "KHR_materials_unlit"]
    tree["asset"] = {
        "version": "2.0",
        "generator": "weav3r",
        "extras": {"axes": "glTF (y up, z backward); OpenCV world = (x, -y, -z)"},
    }
