"""Time a reconstruction by stage, model loading apart.

python benchmarks/bench_reconstruct.py --example leuven
python benchmarks/bench_reconstruct.py --photos photos/ --size 384
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from measuring import finish, parser, seconds_of

import weav3r


def main() -> int:
    """Run the benchmark."""
    options = parser(str(__doc__).splitlines()[0])
    options.add_argument("--photos", type=Path, help="a folder; default: the example")
    options.add_argument("--example", default="leuven", help="name of bundled example photos")
    options.add_argument("--model", default="weav3r-small")
    options.add_argument("--size", type=int, default=None, help="long side of the input")
    options.add_argument("--device", default="auto")
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    photos = args.photos or weav3r.example_photos()[args.example]
    seconds = {"load_model": seconds_of(lambda: weav3r.load_model(args.model), args.repeats)}
    model = weav3r.load_model(args.model, device=args.device)
    stages: list[dict[str, float]] = []

    def run() -> None:
        scene = weav3r.reconstruct(photos, model, size=args.size, progress=False)
        stages.append(scene.report.timings_s)

    seconds["reconstruct"] = seconds_of(run, args.repeats)
    for stage in stages[-1]:
        seconds[f"reconstruct/{stage}"] = sorted(s[stage] for s in stages)[len(stages) // 2]
    return finish("reconstruct", seconds, args)


if __name__ == "__main__":
    sys.exit(main())
