"""What each feature of generated scenes is worth: the same short fine-tuning with and without.

First, how much harder each feature makes scenes for the bundled weights. Then, what learning from
it is worth: every run starts from the bundled weights, sees scenes of the same seeds for the same
number of steps, and is scored on the same fresh scenes, plain ones and such with all features. Runs
without features differ in their seed only and say how much of a difference is chance.

python benchmarks/ablation.py --steps 60 --work runs/ablation --eval-root EVAL --sets graf

A stopped comparison goes on where it was when it is started again with the same `--work`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_match_precision import Pair, true_errors
from scipy.stats import t as student_t

import weav3r
from weav3r.datasets.procedural.switches import FEATURES
from weav3r.evaluation.provenance import describe_environment
from weav3r.evaluation.readers import read_set
from weav3r.models.two_view import TwoViewModel
from weav3r.train.config import Recipe, load_recipe
from weav3r.train.engine import train
from weav3r.train.network import build_model
from weav3r.train.tasks import recipe_scenes
from weav3r.train.validation import Validator

_SHOWN = ("e1", "e2", "abs_rel", "pck1.5", "reciprocal_pck1.5", "reciprocal_pck5")
_WITHIN_PX = 3.0
_SETS = ["graf", "middlebury_aloe", "tum_desk_pair", "hololens_room", "fountain_p11"]
_DEVICE = torch.device("cpu")


def recipe(features: tuple[str, ...], seed: int, args: argparse.Namespace) -> Recipe:
    """Fine-tuning of the bundled weights by a few steps; the learning rate falls to nothing."""
    changes: dict[str, Any] = {
        "init": args.model,
        "seed": seed,
        "steps": args.steps,
        "log_every": 20,
        "tensorboard": False,
        "data.features": list(features),
        "data.textures": args.textures,
        "data.panoramas": args.panoramas,
        "data.sizes": [[96, 128]],
        "data.curriculum": [{"overlap": [0.1, 0.95]}],
        "loss.confidence_from_step": 0,
        "optimizer.learning_rate": args.learning_rate,
        "optimizer.warmup_steps": 10,
        "optimizer.decay_fraction": 0.7,
        "optimizer.ema_decay": 0.9,
        "optimizer.precision": args.precision,
        "validation.scenes": 0,
    }
    return load_recipe("small-cpu", changes)


def photographs(root: Path, sets: list[str]) -> list[Pair]:
    """The pairs of evaluation sets whose true correspondences are known."""
    found = []
    for name in sets:
        for truth in read_set(root, name).pairs:
            errors = true_errors(truth)
            if errors is not None:
                found.append(Pair(name, truth.image1.path, truth.image2.path, errors))
    return found


class Judge:
    """Scores networks on fixed fresh scenes and, if there are any, on pairs of photographs."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.validators = {
            "plain": self._validator(()),
            "all features": self._validator(FEATURES),
        }
        pairs = [] if args.eval_root is None else photographs(args.eval_root, args.sets)
        self.pairs = pairs[:: max(1, len(pairs) // args.pairs)][: args.pairs]

    def _validator(self, features: tuple[str, ...]) -> Validator:
        changes = {
            "data.features": list(features),
            "data.textures": self.args.textures,
            "data.panoramas": self.args.panoramas,
            "validation.scenes": self.args.scenes,
            "validation.mean_map_scenes": 0,
            "validation.seed": 555_000_888,
            "validation.sizes": [[96, 128]],
        }
        chosen = load_recipe("small-cpu", changes)
        return Validator(chosen, recipe_scenes(chosen, _DEVICE), _DEVICE)

    def by_feature(self, model: TwoViewModel) -> dict[str, dict[str, float]]:
        """Measures on the same scenes with one feature each: how hard each is."""
        model.eval()
        found = {}
        for feature in FEATURES:
            values = self._validator((feature,)).run(model)
            found[feature] = {k: values[k] for k in _SHOWN}
        return found

    def scores(self, model: TwoViewModel) -> dict[str, dict[str, float]]:
        """Measures by kind of scenes, and the share of right matches on photographs."""
        model.eval()
        found = {}
        for name, validator in self.validators.items():
            values = validator.run(model)
            found[name] = {k: values[k] for k in _SHOWN}
        if self.pairs:
            shares, counts = [], []
            for pair in self.pairs:
                matched = weav3r.match(pair.path1, pair.path2, model, size=self.args.size)
                errors = pair.errors(matched.xy1, matched.xy2)
                known = errors[~np.isnan(errors)]
                shares.append(float((known < _WITHIN_PX).mean()) if len(known) else 0.0)
                counts.append(len(known))
            found["photographs"] = {
                "right": statistics.mean(shares),
                "matches": statistics.mean(counts),
            }
        return found


def runs(args: argparse.Namespace) -> dict[str, tuple[tuple[str, ...], int]]:
    """Features and seed of every run, those that say most first."""
    plain = {f"none, seed {s}": ((), s) for s in range(args.seeds)}
    single = {f"+ {feature}": ((feature,), 0) for feature in args.features}
    first = dict(list(plain.items())[:2])
    return {**first, "all": (FEATURES, 0), **single, **plain}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Scores of every run; a star is outside of what runs without features predict for one more.

    The range is Student's for 95 %: of twenty numbers without any effect, one gets a star.
    """
    plain = [r["scores"] for name, r in results.items() if name.startswith("none")]
    columns = [(kind, k) for kind, values in plain[0].items() for k in values if k != "matches"]
    head = " | ".join(f"{kind}: {k}" for kind, k in columns)
    lines = [f"| features | CPU s | {head} |", "| --- " * (len(columns) + 2) + "|"]
    middle, reach = {}, {}
    for kind, k in columns:
        values = [scores[kind][k] for scores in plain]
        middle[kind, k], n = statistics.mean(values), len(values)
        if n > 1:
            quantile = float(student_t.ppf(0.975, n - 1))
            reach[kind, k] = quantile * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    for name, result in results.items():
        cells = []
        for column in columns:
            value = result["scores"][column[0]][column[1]]
            held = reach and name.startswith(("+", "all"))
            star = " *" if held and abs(value - middle[column]) > reach[column] else ""
            cells.append(f"{value:.3f}{star}")
        lines.append(f"| {name} | {result['cpu_seconds']:.0f} | " + " | ".join(cells) + " |")
    if reach:
        cells = " | ".join(f"{middle[c]:.3f} ± {reach[c]:.3f}" for c in columns)
        lines.append(f"| expected without any | | {cells} |")
    return "\n".join(lines)


def keep(path: Path, results: dict[str, dict[str, Any]], args: argparse.Namespace) -> None:
    """Write all that was measured."""
    whole = {"runs": results, "options": vars(args), "environment": describe_environment()}
    path.write_text(json.dumps(whole, indent=1, default=str), encoding="utf-8")


def main() -> int:
    """Run the comparison."""
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--model", default="weav3r-small", help="weights to start from")
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--learning-rate", type=float, default=3e-4)
    options.add_argument("--seeds", type=int, default=4, help="runs without features")
    options.add_argument("--features", nargs="*", default=list(FEATURES), choices=FEATURES)
    options.add_argument("--scenes", type=int, default=32, help="of each kind, to score on")
    options.add_argument("--textures", help="folder or archive; default: the bank at hand")
    options.add_argument("--panoramas", help="folder of equirectangular photos; default: painted")
    options.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    options.add_argument("--eval-root", type=Path, help="folder with evaluation sets")
    options.add_argument("--sets", nargs="*", default=_SETS)
    options.add_argument("--pairs", type=int, default=12, help="photographs' pairs, at most")
    options.add_argument("--size", type=int, default=224, help="of photographs, for the network")
    options.add_argument("--work", type=Path, default=Path("runs/ablation"), help="the runs")
    args = options.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("weav3r").setLevel(logging.WARNING)
    args.work.mkdir(parents=True, exist_ok=True)
    kept = args.work / "result.json"
    results = json.loads(kept.read_text(encoding="utf-8"))["runs"] if kept.exists() else {}
    judge = Judge(args)
    start_model = build_model(recipe((), 0, args))
    start = results.setdefault("start", {"cpu_seconds": 0.0})
    if "scores" not in start:
        start["scores"] = judge.scores(start_model)
    if "by_feature" not in start:
        start["by_feature"] = judge.by_feature(start_model)
        keep(kept, results, args)
    hard = {"plain": start["scores"]["plain"], **start["by_feature"]}
    hard["all features"] = start["scores"]["all features"]
    print("| scenes | " + " | ".join(_SHOWN) + " |\n" + "| --- " * (len(_SHOWN) + 1) + "|")
    for name, values in hard.items():
        cells = " | ".join(f"{values[k]:.3f}" for k in _SHOWN)
        print(f"| {name} | {cells} |", flush=True)
    for name, (features, seed) in runs(args).items():
        if name in results:
            continue
        begun = time.process_time()
        folder = args.work / name.replace(" ", "_").replace(",", "").replace("+", "with")
        model = build_model(recipe(features, seed, args))
        result = train(
            recipe(features, seed, args), output=folder, decay=True, device="cpu", model=model
        )
        if result.step < args.steps:
            return 1
        seconds = time.process_time() - begun
        scores = judge.scores(weav3r.load_model(result.weights))
        results[name] = {"cpu_seconds": seconds, "scores": scores}
        keep(kept, results, args)
        print(table(results), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
