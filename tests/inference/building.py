"""A building with four equal fronts, each with something else before it, seen from all sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weav3r.geometry.camera import Camera

VIEWS = 24
STEP_DEG = 360 // VIEWS

_WALLS = (np.array([-2.0, -1.5, -2.0]), np.array([2.0, 1.5, 2.0]))
# before the front at -z, then turned by 90 degrees each: left, in the middle, right, wide and low
_KIOSKS = (
    (np.array([-1.9, -0.6, -3.2]), np.array([-0.7, 1.5, -2.6])),
    (np.array([-0.5, -1.0, -3.4]), np.array([0.6, 1.5, -2.8])),
    (np.array([0.9, -0.2, -3.1]), np.array([2.0, 1.5, -2.4])),
    (np.array([-1.6, 0.5, -3.6]), np.array([1.6, 1.5, -3.0])),
)


def rotation_y(angle_deg: float) -> np.ndarray:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def camera(view: int, height: int = 36, width: int = 48) -> Camera:
    """View 0 looks straight at the front at -z; the next ones go around by 15 degrees each."""
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = rotation_y(view * STEP_DEG)
    cam_from_world[:3, 3] = [0, 0, 9.0]
    K = np.array([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1]])
    return Camera(K=K, cam_from_world=cam_from_world, height=height, width=width)


@dataclass(frozen=True)
class Photo:
    """Exact depth (H, W), NaN where the sky is, and its points (n, 3) in the world."""

    camera: Camera
    depth: np.ndarray
    points: np.ndarray


def photo(view: int, height: int = 36, width: int = 48) -> Photo:
    cam = camera(view, height, width)
    rows, columns = np.mgrid[: cam.height, : cam.width] + 0.5
    xy = np.stack([columns, rows], -1)
    rays = cam.unproject(xy, np.ones(rows.shape)) - cam.center  # z = 1, so lengths are depths
    depth = _enter(cam.center, rays, *_WALLS)
    for side, (low, high) in enumerate(_KIOSKS):
        turn = rotation_y(side * 90)
        depth = np.minimum(depth, _enter(turn @ cam.center, rays @ turn.T, low, high))
    depth = np.where(np.isfinite(depth), depth, np.nan)
    points = cam.unproject(xy, depth)
    return Photo(cam, depth, points[np.isfinite(depth)])


def _enter(origin: np.ndarray, rays: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where rays enter a box; infinite where they miss it."""
    with np.errstate(divide="ignore"):
        first, second = (low - origin) / rays, (high - origin) / rays
    near = np.minimum(first, second).max(-1)
    far = np.maximum(first, second).min(-1)
    return np.where((near <= far) & (near > 0), near, np.inf)


def true_pairs() -> list[tuple[int, int]]:
    """Views at most 45 degrees apart."""
    return [(i, j) for i in range(VIEWS) for j in range(i + 1, VIEWS) if _steps(i, j) <= 3]


def mistaken_pairs() -> dict[tuple[int, int], int]:
    """Pairs of different fronts that look alike -> the view that the second is taken for."""
    quarter = VIEWS // 4
    found = {}
    for i in range(VIEWS):
        for j in range(i + 1, VIEWS):
            apart = (j - i + quarter // 2) % quarter - quarter // 2  # what look-alikes leave
            if _steps(i, j) > 3 and abs(apart) <= 1:
                found[(i, j)] = (i + apart) % VIEWS
    return found


def _steps(i: int, j: int) -> int:
    return min(abs(i - j), VIEWS - abs(i - j))
