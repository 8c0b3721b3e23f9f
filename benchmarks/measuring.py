"""What the benchmarks share: timing, the machine's description, and comparing with a baseline.

A benchmark prints one JSON object. `--baseline FILE` compares it with an earlier one of the same
machine and ends with status 1 when a time grew by more than `--tolerance` (0.3 = 30 %).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weav3r.evaluation.provenance import describe_environment


def parser(description: str) -> argparse.ArgumentParser:
    """Argument parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--repeats", type=int, default=3, help="timed runs; the median counts")
    made.add_argument("--threads", type=int, default=None, help="torch threads; default: all")
    made.add_argument("--out", type=Path, help="also write the JSON here")
    made.add_argument("--baseline", type=Path, help="JSON of an earlier run to compare with")
    made.add_argument("--tolerance", type=float, default=0.3, help="growth that is let pass")
    return made


def seconds_of(function: Callable[[], Any], repeats: int) -> float:
    """Median wall time of `function()` in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def finish(name: str, seconds: dict[str, float], args: argparse.Namespace) -> int:
    """Print and write the result; returns the exit status of the comparison."""
    result = {
        "benchmark": name,
        "seconds": {key: round(value, 4) for key, value in seconds.items()},
        "settings": {k: v for k, v in vars(args).items() if not isinstance(v, Path)},
        "environment": describe_environment(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    if args.baseline is None:
        return 0
    before = json.loads(args.baseline.read_text(encoding="utf-8"))["seconds"]
    slower = {
        key: (before[key], value)
        for key, value in seconds.items()
        if key in before and value > before[key] * (1 + args.tolerance)
    }
    for key, (old, new) in slower.items():
        print(f"slower: {key} took {new:.3f} s, before {old:.3f} s", file=sys.stderr)
    return 1 if slower else 0
