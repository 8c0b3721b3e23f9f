"""Time one reciprocal matching call against brute force and against the gated search.

python benchmarks/bench_reciprocal.py --threads 1
python benchmarks/bench_reciprocal.py --height 192 --width 256 --noise 0.03 --skip-brute-force

A curved wall is seen by two cameras. Descriptors are noisy functions of the 3D point, pointmaps
carry `--noise` (relative). Brute force walks the same seeds without memory and multiplies with the
whole other view at once, block by block, as the published implementation does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from measuring import finish, parser
from torch import Tensor

from weav3r.geometry.pointmap import unproject_depth
from weav3r.geometry.transforms import transform_points
from weav3r.inference.matching.gating import gate_from_pointmaps
from weav3r.inference.matching.reciprocal import PixelMatches, grid_pixels, reciprocal_matches

Pairs = set[tuple[int, int]]
_BRUTE_FORCE_SIMILARITIES = 2**26  # 8192 squared


@dataclass(frozen=True)
class Views:
    """Two views: descriptors (H, W, D), and pointmaps (H, W, 3) in the frame of the first."""

    descriptors: tuple[Tensor, Tensor]
    pointmaps: tuple[Tensor, Tensor]


def make_views(args: argparse.Namespace) -> Views:
    """Render the wall z = 4 + sin(x) cos(y) / 2 from two cameras."""
    generator = torch.Generator().manual_seed(args.seed)
    height, width, focal = args.height, args.width, float(args.width)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    angle = torch.deg2rad(torch.tensor(args.angle))
    cam1_from_cam2 = torch.eye(4)
    cam1_from_cam2[0, 0] = cam1_from_cam2[2, 2] = angle.cos()
    cam1_from_cam2[0, 2], cam1_from_cam2[2, 0] = -angle.sin(), angle.sin()
    cam1_from_cam2[:3, 3] = 4 * torch.tensor([angle.sin(), 0.01, 1 - angle.cos()])
    weights, phase = (
        2.2 * torch.randn(3, args.dim, generator=generator),
        6.28 * torch.rand(args.dim, generator=generator),
    )
    descriptors, pointmaps = [], []
    for pose in (torch.eye(4), cam1_from_cam2):
        rays = unproject_depth(torch.ones(height, width), K)
        depth = torch.full((height, width), 4.0)
        for _ in range(60):
            points = transform_points(pose, rays * depth[..., None])
            surface = 4 + 0.5 * torch.sin(points[..., 0]) * torch.cos(points[..., 1])
            depth = depth + 0.5 * (surface - points[..., 2])
        points = transform_points(pose, rays * depth[..., None])
        noise = 0.02 * torch.randn(height, width, args.dim, generator=generator)
        clean = F.normalize(torch.cos(points @ weights + phase), dim=-1)
        descriptors.append(F.normalize(clean + noise, dim=-1))
        stretch = 1 + args.noise * torch.randn(height, width, 1, generator=generator)
        pointmaps.append(points * stretch)
    return Views((descriptors[0], descriptors[1]), (pointmaps[0], pointmaps[1]))


def brute_force(first: Tensor, second: Tensor, step: int) -> Pairs:
    """Walk the seeds for at most ten rounds, each look-up against every pixel."""
    size = (first.shape[0], first.shape[1])
    maps = first.flatten(0, 1), second.flatten(0, 1)

    def look_up(view: int, index: Tensor) -> Tensor:
        own, other = maps[view], maps[1 - view]
        rows = max(1, _BRUTE_FORCE_SIMILARITIES // len(other))
        return torch.cat([(own[part] @ other.T).argmax(1) for part in index.split(rows)])

    pixels = grid_pixels(size, step)
    a = torch.from_numpy(pixels[:, 1] * size[1] + pixels[:, 0]).unique().to(first.device)
    b, active = torch.full_like(a, -1), torch.ones_like(a, dtype=torch.bool)
    for _ in range(10):
        who = active.nonzero()[:, 0]
        if len(who) == 0:
            break
        there = look_up(0, a[who])
        active[who] = there != b[who]
        b[who] = there
        who = active.nonzero()[:, 0]
        if len(who) == 0:
            break
        back = look_up(1, b[who])
        active[who] = back != a[who]
        a[who] = back
    return set(zip(a[~active].tolist(), b[~active].tolist(), strict=True))


def pairs_of(matches: PixelMatches) -> Pairs:
    """Flat indices of the matches in both views."""
    return set(zip(matches.index1.tolist(), matches.index2.tolist(), strict=True))


def overlap(a: Pairs, b: Pairs) -> float:
    """Intersection over union."""
    return len(a & b) / max(len(a | b), 1)


def main() -> int:
    """Run the benchmark."""
    options = parser(str(__doc__).splitlines()[0])
    options.add_argument("--height", type=int, default=384)
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--dim", type=int, default=24, help="channels of a descriptor")
    options.add_argument("--step", type=int, default=8, help="spacing of the seeds")
    options.add_argument("--angle", type=float, default=20.0, help="between the cameras, degrees")
    options.add_argument("--noise", type=float, default=0.01, help="of the pointmaps, relative")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="cpu")
    options.add_argument("--skip-brute-force", action="store_true")
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    views = make_views(args)
    first, second = (d.to(args.device) for d in views.descriptors)
    points1, points2 = (p.to(args.device) for p in views.pointmaps)

    def gated() -> Pairs:
        gate = gate_from_pointmaps(points1, points2)
        return pairs_of(reciprocal_matches(first, second, args.step, gate=gate))

    runs: dict[str, Callable[[], Pairs]] = {
        "exact": lambda: pairs_of(reciprocal_matches(first, second, args.step)),
        "gated": gated,
    }
    if not args.skip_brute_force:
        runs["brute_force"] = lambda: brute_force(first, second, args.step)
    seconds: dict[str, float] = {}
    found: dict[str, Pairs] = {}
    for name, run in runs.items():
        times = []
        for _ in range(args.repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = run()
            times.append((time.process_time() - cpu, time.perf_counter() - wall))
        seconds[f"{name}/cpu"], seconds[name] = np.median(times, axis=0).tolist()
    compared = {
        f"overlap {name} {other}": round(overlap(found[name], found[other]), 4)
        for name, other in (("exact", "brute_force"), ("gated", "exact"))
        if other in found
    }
    counts = {f"matches {name}": len(pairs) for name, pairs in found.items()}
    recall = len(found["gated"] & found["exact"]) / max(len(found["exact"]), 1)
    summary = {**counts, **compared, "recall gated": round(recall, 4)}
    if "brute_force" in found:
        summary["cpu ratio"] = round(seconds["brute_force/cpu"] / seconds["exact/cpu"], 2)
    print(json.dumps(summary))
    return finish("reciprocal_matching", seconds, args)


if __name__ == "__main__":
    sys.exit(main())
