"""Time the generator of procedural scenes: seconds a scene of two views.

python benchmarks/bench_generator.py --height 224 --width 224 --kernel numba
"""

from __future__ import annotations

import sys

import torch
from measuring import finish, parser, seconds_of

from weav3r.datasets.procedural.correspondence import sample_correspondences
from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.datasets.procedural.switches import FEATURES


def main() -> int:
    """Run the benchmark."""
    options = parser(str(__doc__).splitlines()[0])
    options.add_argument("--height", type=int, default=224)
    options.add_argument("--width", type=int, default=224)
    options.add_argument("--batch", type=int, default=4, help="scenes a batch")
    options.add_argument("--kernel", default="auto", help="auto, torch, numba or triton")
    options.add_argument("--device", default="cpu")
    options.add_argument("--features", nargs="*", default=[], choices=FEATURES)
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    scenes = ProceduralScenes(
        args.height,
        args.width,
        device=args.device,
        kernel=args.kernel,
        features=args.features,
    )
    batch = scenes.batch(0, args.batch)  # compiles the kernels and builds the textures

    def render() -> None:
        scenes.batch(args.batch, args.batch)
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()

    generator = torch.Generator(device=args.device).manual_seed(0)
    seconds = {
        "scene": seconds_of(render, args.repeats) / args.batch,
        "correspondences": seconds_of(
            lambda: sample_correspondences(batch, 0, 1, 1024, generator), args.repeats
        )
        / args.batch,
    }
    return finish("generator", seconds, args)


if __name__ == "__main__":
    sys.exit(main())
