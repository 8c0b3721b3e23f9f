"""Precision of matches with and without sub-pixel refinement and coarse-to-fine crops.

python benchmarks/bench_match_precision.py --scenes 4
python benchmarks/bench_match_precision.py --scenes 0 --eval-root EVAL --sets graf tum_desk_pair

Generated scenes have exact correspondences everywhere; of the sets of an evaluation folder, those
with depth, disparity or a homography are compared with it. Errors are in pixels at a long side of
640; the first row of each matcher is its baseline, which changes nothing but what is named. The
network runs once for a pair, so all rows but the crops see the same prediction.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import finish, parser
from PIL import Image

import weav3r
from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.evaluation.match_metrics import (
    depth_errors_px,
    disparity_errors_px,
    homography_errors_px,
)
from weav3r.evaluation.readers import PairTruth, read_set
from weav3r.inference.matching.coarse_to_fine import CoarseToFineOptions
from weav3r.inference.matching.descriptors import Matches, MatchingOptions
from weav3r.inference.matching.methods import MatcherOptions, ReciprocalOptions, match_views
from weav3r.models import TwoViewModel

Errors = Callable[[np.ndarray, np.ndarray], np.ndarray]
THRESHOLDS_PX = (0.5, 1.0, 3.0)


@dataclass(frozen=True)
class Pair:
    """Two photos and a function from matches (xy1, xy2) to their errors; nan where unknown."""

    group: str
    path1: Path
    path2: Path
    errors: Errors


def generated_pairs(count: int, seed: int, folder: Path) -> Iterator[Pair]:
    """Photograph generated scenes at three times the usual network size."""
    scenes = ProceduralScenes(864, 1152, 2, seed=seed, overlap=(0.3, 0.95))
    for index in range(count):
        batch = scenes.batch(index, 1)
        paths = [folder / f"{index}_{view}.png" for view in range(2)]
        for view, path in enumerate(paths):
            pixels = (batch.images[0, view] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0) * 255
            Image.fromarray(pixels.round().byte().numpy()).save(path)
        depth = torch.where(batch.valid, batch.depth, 0.0)[0].numpy()
        K = batch.K[0].numpy()
        pose1, pose2 = batch.world_from_cam[0].double().numpy()
        cam2_from_cam1 = np.linalg.inv(pose2) @ pose1

        def errors(
            xy1: np.ndarray,
            xy2: np.ndarray,
            depth: np.ndarray = depth,
            K: np.ndarray = K,
            cam2_from_cam1: np.ndarray = cam2_from_cam1,
        ) -> np.ndarray:
            size = depth.shape[1], depth.shape[2]
            return depth_errors_px(
                xy1, xy2, depth[0], K[0], K[1], cam2_from_cam1, size, depth2=depth[1]
            )

        yield Pair("generated", paths[0], paths[1], errors)


def real_pairs(root: Path, names: list[str]) -> Iterator[Pair]:
    """The pairs of evaluation sets whose true correspondences are known."""
    for name in names:
        for truth in read_set(root, name).pairs:
            errors = true_errors(truth)
            if errors is None:
                raise ValueError(f"set {name} has no true correspondences")
            yield Pair(name, truth.image1.path, truth.image2.path, errors)


def true_errors(truth: PairTruth) -> Errors | None:
    """Errors by the homography, the disparity or the depth of a pair, whichever there is."""
    size2, H = truth.image2.size, truth.H_2from1
    if H is not None:
        return lambda xy1, xy2: homography_errors_px(xy1, xy2, H, size2)
    disparity = truth.image1.disparity()
    if disparity is not None:
        return lambda xy1, xy2: disparity_errors_px(xy1, xy2, disparity, size2)
    depth1, depth2 = truth.image1.depth(), truth.image2.depth()
    K1, K2, pose = truth.K1, truth.K2, truth.cam2_from_cam1
    if depth1 is None or K1 is None or K2 is None or pose is None:
        return None
    return lambda xy1, xy2: depth_errors_px(xy1, xy2, depth1, K1, K2, pose, size2, depth2)


def rows_of(
    pair: Pair, model: TwoViewModel, args: argparse.Namespace
) -> Iterator[tuple[str, Matches, float]]:
    """Name, matches and CPU seconds of each way to match a pair."""
    options: dict[str, MatcherOptions] = {
        "anchors, whole pixels": MatchingOptions(subpixel=False),
        "anchors, sub-pixel": MatchingOptions(),
        "reciprocal, whole pixels": ReciprocalOptions(subpixel=False),
        "reciprocal, sub-pixel": ReciprocalOptions(),
    }
    matched = weav3r.match(pair.path1, pair.path2, model, size=args.size)
    assert matched.result is not None
    for name, chosen in options.items():
        start = time.process_time()
        found = match_views(matched.result, matched.view1, matched.view2, chosen)
        yield name, found, time.process_time() - start
    for detail in args.detail:
        start = time.process_time()
        found = weav3r.match(
            pair.path1,
            pair.path2,
            model,
            size=args.size,
            coarse_to_fine=CoarseToFineOptions(detail=detail),
        )
        yield f"anchors, crops at {detail:g}x", found.matches, time.process_time() - start


def main() -> int:
    """Run the benchmark."""
    options = parser(str(__doc__).splitlines()[0])
    options.add_argument("--model", default="weav3r-small")
    options.add_argument("--size", type=int, default=None, help="of the network's input")
    options.add_argument("--scenes", type=int, default=4, help="generated pairs of photos")
    options.add_argument("--seed", type=int, default=20261121, help="of the generated scenes")
    options.add_argument("--detail", type=float, nargs="*", default=[2.0, 3.0])
    options.add_argument("--eval-root", type=Path, help="folder with evaluation sets")
    options.add_argument("--sets", nargs="*", default=["graf", "middlebury_aloe", "tum_desk_pair"])
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = weav3r.load_model(args.model)
    shares: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        pairs = list(generated_pairs(args.scenes, args.seed, Path(folder)))
        if args.eval_root is not None:
            pairs += real_pairs(args.eval_root, args.sets)
        for number, pair in enumerate(pairs):
            for name, found, took in rows_of(pair, model, args):
                errors = pair.errors(found.xy1, found.xy2)
                known = errors[~np.isnan(errors)]
                share = [float((known < t).mean()) if len(known) else 0.0 for t in THRESHOLDS_PX]
                shares[name, pair.group].append([len(found), *share])
                cpu[name].append(took)
            print(f"{number + 1} of {len(pairs)} pairs", file=sys.stderr)
    groups = list(dict.fromkeys(pair.group for pair in pairs))
    print("| matches | " + " | ".join(f"{g}: count, % < 0.5 / 1 / 3 px" for g in groups) + " |")
    print("| --- " * (len(groups) + 1) + "|")
    for name in cpu:
        cells = [np.mean(shares[name, group], axis=0) for group in groups]
        text = [f"{c[0]:.0f}, " + " / ".join(f"{100 * v:.1f}" for v in c[1:]) for c in cells]
        print(f"| {name} | " + " | ".join(text) + " |")
    print(json.dumps({"pairs": {g: len(shares[next(iter(cpu)), g]) for g in groups}}))
    return finish("match_precision", {f"{k}/cpu": float(np.mean(v)) for k, v in cpu.items()}, args)


if __name__ == "__main__":
    sys.exit(main())
