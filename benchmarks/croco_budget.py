"""Does cross-view completion pre-training pay at an equal budget? A tiny network, on one CPU core.

Two runs for each seed cost the same processor time: one learns two views from scratch, the other
spends a share of the time on completion (`croco.yaml`) and goes on from there.

python benchmarks/croco_budget.py --cpu-minutes 7 --seeds 0 1 --work runs/croco-budget

A stopped comparison goes on where it was when it is started again with the same `--work`.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from weav3r.evaluation.provenance import describe_environment
from weav3r.train.config import Recipe, load_recipe
from weav3r.train.engine import Trainer, train
from weav3r.train.log import read_log

_TINY = {
    "patch_size": 8,
    "image_size": [64, 64],
    "encoder_dim": 128,
    "encoder_depth": 4,
    "encoder_heads": 4,
    "decoder_dim": 128,
    "decoder_depth": 2,
    "decoder_heads": 4,
    "local_dims": [16, 32, 48, 64],
    "local_token_dim": 64,
}
_SIDE = 64
_CHECKS = 3  # validations after the start
_MEASURES = ("e1", "e2", "e2_wrong_partner", "e2_mean_map", "abs_rel", "pck1.5", "pck5")
_RECIPROCAL = ("reciprocal_pck1.5", "reciprocal_pck5")


def recipe(name: str, steps: int, seed: int, args: argparse.Namespace, **more: Any) -> Recipe:
    """A recipe of the package, cut down to seconds a hundred steps."""
    changes: dict[str, Any] = {
        "model_overrides": _TINY,
        "steps": steps,
        "seed": seed,
        "log_every": 20,
        "tensorboard": False,
        "data.sizes": [[_SIDE, _SIDE]],
        "data.scenes": 4,
        "data.textures": args.textures,
        "data.curriculum": [{"overlap": [0.3, 0.95]}],
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 60,
        "optimizer.ema_decay": 0.98,
        "optimizer.precision": args.precision,
        "validation.scenes": 32,
        "validation.every_minutes": None,
        "validation.every_steps": max(1, -(-steps // _CHECKS)),
        "checkpoint_minutes": 60.0,
    }
    return load_recipe(name, changes | more)


def completion_recipe(steps: int, seed: int, args: argparse.Namespace) -> Recipe:
    """Cross-view completion with the tiny network."""
    crop = {"completion.crop": _SIDE - 8}
    return recipe("croco", steps, seed, args, **crop)


def pair_recipe(steps: int, seed: int, args: argparse.Namespace, init: Path | None) -> Recipe:
    """The two-view network, fresh or from completion weights."""
    more = {
        "data.both_directions": False,
        "data.correspondences": 256,
        "loss.confidence_from_step": 200,
        "validation.mean_map_scenes": 32,
        "init": None if init is None else str(init),
    }
    return recipe("small-cpu", steps, seed, args, **more)


def seconds_per_step(chosen: Recipe, folder: Path) -> float:
    """Median processor time of a step, scenes included, after some to warm up."""
    trainer = Trainer(chosen, folder, "cpu")
    batches, times = trainer.task.batches(10_000_000), []
    for _ in range(15):
        start = time.process_time()
        trainer.train_step(batches, 1e-4)
        times.append(time.process_time() - start)
    return statistics.median(times[3:])


def curve(folder: Path, kind: str, names: tuple[str, ...]) -> list[dict[str, float]]:
    """The logged values of a run, once for each step."""
    records = {r["step"]: r for r in read_log(folder) if r["kind"] == kind}
    return [{k: r[k] for k in ("step", *names) if k in r} for r in records.values()]


def compare(seed: int, steps: dict[str, int], args: argparse.Namespace) -> dict | None:
    """Train both ways with one seed; None if that was stopped."""

    def run(name: str, chosen: Recipe) -> Path | None:
        folder: Path = args.work / f"{name}-{seed}"
        if (folder / "done").exists():
            return folder / "weights.safetensors"
        result = train(chosen, output=folder, device="cpu")
        if result.step < steps[name]:
            return None
        (folder / "done").touch()
        print(f"seed {seed}: {name} done", file=sys.stderr, flush=True)
        return result.weights

    weights = run("completion", completion_recipe(steps["completion"], seed, args))
    if weights is None:
        return None
    for name, init in (("pretrained", weights), ("scratch", None)):
        if run(name, pair_recipe(steps[name], seed, args, init)) is None:
            return None
    names = (*_MEASURES, *_RECIPROCAL)
    loss = ("loss", "loss_wrong_partner")
    return {
        "seed": seed,
        "completion_loss": curve(args.work / f"completion-{seed}", "train", ("loss",)),
        "completion_validation": curve(args.work / f"completion-{seed}", "validation", loss),
        "pretrained": curve(args.work / f"pretrained-{seed}", "validation", names),
        "scratch": curve(args.work / f"scratch-{seed}", "validation", names),
    }


def plan(args: argparse.Namespace) -> dict[str, Any]:
    """Time some steps of each kind and share out the budget, once for a folder."""
    kept = args.work / "plan.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    cost = {
        "completion": seconds_per_step(completion_recipe(1, 0, args), args.work / "timing"),
        "pairs": seconds_per_step(pair_recipe(1, 0, args, None), args.work / "timing"),
    }
    budget = 60 * args.cpu_minutes
    steps = {
        "completion": round(args.share * budget / cost["completion"]),
        "pretrained": round((1 - args.share) * budget / cost["pairs"]),
        "scratch": round(budget / cost["pairs"]),
    }
    made = {"seconds_per_step": cost, "steps": steps}
    args.work.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(made, indent=1), encoding="utf-8")
    return made


def table(results: list[dict], steps: dict[str, int]) -> str:
    """Rows of the end of every run, for people."""
    lines = [
        "| seed | start | completion steps | two-view steps | e1 | e2 | e2 wrong partner | AbsRel "
        "| PCK 1.5 / 5 | reciprocal PCK 1.5 / 5 |",
        "| --- " * 10 + "|",
    ]
    for result in results:
        for name in ("scratch", "pretrained"):
            for v in result[name][1:]:
                before = steps["completion"] if name == "pretrained" else 0
                errors = [f"{v[k]:.3f}" for k in ("e1", "e2", "e2_wrong_partner", "abs_rel")]
                names = "pck", "reciprocal_pck"
                shares = [f"{v[f'{k}1.5']:.3f} / {v[f'{k}5']:.3f}" for k in names]
                cells = [result["seed"], name, before, v["step"], *errors, *shares]
                lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the comparison."""
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--cpu-minutes", type=float, default=7.0, help="of each of the two runs")
    options.add_argument("--share", type=float, default=0.33, help="of it that completion gets")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options.add_argument("--textures", help="folder or archive; default: the bank at hand")
    options.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    options.add_argument("--work", type=Path, default=Path("runs/croco-budget"), help="the runs")
    args = options.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("weav3r").setLevel(logging.WARNING)
    planned = plan(args)
    print(json.dumps(planned), flush=True)
    results = []
    for seed in args.seeds:
        result = compare(seed, planned["steps"], args)
        if result is None:
            return 1
        results.append(result)
        print(table(results, planned["steps"]), flush=True)
        whole = {**planned, "results": results, "environment": describe_environment()}
        out: Path = args.work / "result.json"
        out.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
