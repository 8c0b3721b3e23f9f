"""Time and errors of the dense alignment on generated scenes with known cameras.

    OMP_NUM_THREADS=1 python benchmarks/bench_alignment.py --views 4 8 16 --size 112
    python benchmarks/bench_alignment.py --views 50 200 --window 3      # a long walk, few pairs

Prints a row per number of views: pairs, CPU seconds of poses and of dense depth, peak extra memory,
objective at the start and the end, errors.
"""

from __future__ import annotations

import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from measuring import finish, parser
from numpy.typing import NDArray

from weav3r.inference.alignment.dense import DenseAlignment, DenseOptions, align_dense, fuse_depth
from weav3r.inference.alignment.samples import PairMaps

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """A bumpy floor below cameras that walk along and look ahead of them.

    Attributes:
        world_from_cam: (N, 4, 4).
        focal_px: (N,).
        points: per image (H, W, 3) world points.
    """

    world_from_cam: Array
    focal_px: Array
    points: list[Array]


def walk(views: int, size: int, spread: float, seed: int) -> Scene:
    """Cameras along a line; `spread` is the share of a view by which neighbours differ."""
    rng = np.random.default_rng(seed)
    focal = 0.95 * size * rng.uniform(0.92, 1.08, views)
    poses = np.tile(np.eye(4), (views, 1, 1))
    points = []
    for v in range(views):
        yaw, roll = rng.normal(0, 0.05, 2)
        tilt = 0.9 + rng.normal(0, 0.03)  # downwards, radians
        c, s = np.cos(tilt), np.sin(tilt)
        pitch = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
        poses[v, :3, :3] = _turn(1, yaw) @ pitch @ _turn(2, roll)
        poses[v, :3, 3] = [spread * v, -2.0 + rng.normal(0, 0.1), rng.normal(0, 0.1)]
        points.append(_floor(poses[v], focal[v], size))
    return Scene(poses, focal, points)


def _turn(axis: int, angle: float) -> Array:
    i, j = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn


def _floor(pose: Array, focal: float, size: int) -> Array:
    """Where the pixels' rays meet y = 0.3 sin(2 x) sin(3 z), by damped fixed-point iteration."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    ray = np.stack([x / focal, y / focal, np.ones_like(x)], -1) @ pose[:3, :3].T
    t = -pose[1, 3] / ray[..., 1]
    for _ in range(60):
        p = pose[:3, 3] + t[..., None] * ray
        height = 0.3 * np.sin(2 * p[..., 0]) * np.sin(3 * p[..., 2])
        t = t + 0.5 * (height - p[..., 1]) / ray[..., 1]
    return pose[:3, 3] + t[..., None] * ray


def pairs_of(scene: Scene, window: int, noise: float, seed: int) -> Iterator[PairMaps]:
    """One noisy prediction per ordered pair of images at most `window` apart, made on demand."""
    views, size = len(scene.points), scene.points[0].shape[0]
    for i in range(views):
        for j in range(max(0, i - window), min(views, i + window + 1)):
            if i == j:
                continue
            rng = np.random.default_rng([seed, i, j])
            scale, maps, sure = rng.uniform(0.3, 3.0), [], []
            for view, amount in ((i, 1.0), (j, 1.5)):
                smooth = _smooth(rng, size)
                error = noise * amount * (smooth + 0.4 * rng.normal(size=smooth.shape))
                center = scene.world_from_cam[view, :3, 3]
                moved = center + (scene.points[view] - center) * (1 + error)[..., None]
                local = (moved - scene.world_from_cam[i, :3, 3]) @ scene.world_from_cam[i, :3, :3]
                if view == j:
                    local = local + rng.normal(0, 0.6 * noise, 3)
                maps.append((scale * local).astype(np.float32))
                sure.append((2 + 6 * np.exp(0.25 * _smooth(rng, size))).astype(np.float32))
            yield PairMaps(i, j, (maps[0], maps[1]), (sure[0], sure[1]))


def _smooth(rng: np.random.Generator, size: int) -> Array:
    y, x = np.mgrid[:size, :size] / size
    waves = rng.uniform(0, 4, (6, 2)) * np.pi
    phases = rng.uniform(0, 2 * np.pi, 6)
    return sum(
        np.cos(a * x + b * y + p) for (a, b), p in zip(waves, phases, strict=True)
    ) / np.sqrt(3)


def errors(scene: Scene, found: DenseAlignment) -> tuple[float, float]:
    """RMS error of the centres as a share of their extent, mean focal error."""
    truth = scene.world_from_cam
    ours = np.linalg.inv(found.cam_from_world)
    u, _, vt = np.linalg.svd(np.einsum("vij,vkj->ik", truth[:, :3, :3], ours[:, :3, :3]))
    a = ours[:, :3, 3] @ (u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt).T
    a, b = a - a.mean(0), truth[:, :3, 3] - truth[:, :3, 3].mean(0)
    off = np.linalg.norm((a * b).sum() / (a * a).sum() * a - b, axis=-1)
    focal = np.abs(found.focal_px / scene.focal_px - 1).mean()
    return float(np.sqrt((off**2).mean()) / np.linalg.norm(b, axis=-1).max()), float(focal)


def measure(views: int, size: int, window: int | None, noise: float, seed: int) -> dict[str, float]:
    """Align one scene; seconds by stage."""
    reach = views if window is None else window
    scene = walk(views, size, 1.2 / views if window is None else 0.3, seed)
    pairs = list(pairs_of(scene, reach, noise, seed))
    tracemalloc.start()
    start = time.process_time()
    found = align_dense(pairs, views, DenseOptions())
    poses = time.process_time() - start
    shown: list[list[tuple[int, Array, Array]]] = [[] for _ in range(views)]
    for e, pair in enumerate(pairs):
        for side, image in enumerate((pair.frame, pair.other)):
            shown[image].append((e, pair.pointmaps[side], pair.confidences[side]))
    start = time.process_time()
    for image in range(views):
        fuse_depth(found, image, shown[image])
    depth = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    centre, focal = errors(scene, found)
    print(
        f"views {views:4d}  pairs {len(pairs):5d}  poses {poses:7.2f} s  depth {depth:6.2f} s  "
        f"memory {peak:5.0f} MB  objective {found.objective[0]:.5f} -> {found.objective[-1]:.5f}  "
        f"sweeps {len(found.objective) - 1:3d}  centres {100 * centre:.2f} %  "
        f"focal {100 * focal:.2f} %",
        file=sys.stderr,
    )
    return {"poses": poses, "depth": depth}


def main() -> int:
    """Run all numbers of views."""
    options = parser(str(__doc__).splitlines()[0])
    options.set_defaults(repeats=1)
    options.add_argument("--views", type=int, nargs="+", default=[4, 8])
    options.add_argument("--size", type=int, default=112, help="pixels per side of the maps")
    options.add_argument("--window", type=int, help="pair images this far apart; default: all")
    options.add_argument("--noise", type=float, default=0.01, help="relative error of the maps")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    seconds = {}
    for views in args.views:
        runs = [
            measure(views, args.size, args.window, args.noise, args.seed)
            for _ in range(args.repeats)
        ]
        for stage in runs[0]:
            seconds[f"{views} views, {stage}"] = statistics.median(r[stage] for r in runs)
    return finish("alignment", seconds, args)


if __name__ == "__main__":
    sys.exit(main())
