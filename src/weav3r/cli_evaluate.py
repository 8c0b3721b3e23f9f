"""The commands that measure: `weav3r evaluate` (accuracy) and `weav3r benchmark` (speed)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_models import OfflineOption, prepare_model
from .cli_options import DeviceOption, SizeOption, check_writable, console, output


def evaluate(
    root: Annotated[Path, typer.Argument(help="Folder with sets/ in the plain layout.")],
    sets: Annotated[str | None, typer.Option(help="Comma-separated; default: all.")] = None,
    methods: Annotated[
        str, typer.Option(help="Comma-separated: checkpoints, sift, sift@SIZE.")
    ] = "weav3r-small,sift",
    scenes: Annotated[
        str | None,
        typer.Option(help="Reconstruct whole scenes instead: names from scenes.json, or all."),
    ] = None,
    size: SizeOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "evaluation-results"
    ),
) -> None:
    """Measure pose, match and depth accuracy on photos with ground truth."""
    from .evaluation.runner import Progress, evaluate_pairs
    from .evaluation.scenes import SceneMethod, evaluate_scenes
    from .evaluation.sift import SiftMethod
    from .inference.progress import make_progress
    from .inference.two_view import PairMatcher

    names = [m.strip() for m in methods.split(",")]
    for name in names:
        prepare_model(name)
    with make_progress(True) as show, ExitStack() as stack:
        advance, shown = None, 0

        def to(done: int, total: int, stage: str) -> None:
            nonlocal advance, shown
            if advance is None:
                advance = stack.enter_context(show.stage(stage, total))
            advance(done - shown)
            shown = done

        if scenes is not None:
            model = next(name for name in [*names, "weav3r-small"] if not name.startswith("sift"))
            report: Any = evaluate_scenes(
                root,
                None if scenes == "all" else [s.strip() for s in scenes.split(",")],
                SceneMethod(model, device=device, size=size, progress=False),
                progress=lambda done, total, _: to(done, total, "scenes"),
            )
        else:
            chosen: dict[str, Any] = {}
            for name in names:
                if name == "sift":
                    chosen[name] = SiftMethod()
                elif name.startswith("sift@"):
                    chosen[name] = SiftMethod(max_size=_number(name.removeprefix("sift@"), name))
                else:
                    chosen[name] = PairMatcher(name, device=device, size=size)

            def show_pair(state: Progress) -> None:
                to(state.done, state.total, "pairs")

            report = evaluate_pairs(
                root,
                None if sets is None else [s.strip() for s in sets.split(",")],
                chosen,
                progress=show_pair,
            )
    report.write(out)
    output.print(report.to_markdown(), highlight=False, markup=False, soft_wrap=True)


def benchmark(
    model: Annotated[
        str, typer.Argument(help="Preset (random weights when none are at hand) or checkpoint.")
    ] = "weav3r-small",
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT in pixels, or the long side of a 4:3 photo."),
    ] = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Pairs at once.")] = 1,
    repeat: Annotated[int, typer.Option(help="Timed runs; medians are shown.")] = 3,
    threads: Annotated[int | None, typer.Option(help="Threads on the CPU; default: all.")] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Run the blocks through torch.compile.")
    ] = False,
    graph: Annotated[
        str | None,
        typer.Option(help="Also run a graph: complete, linear, or as for `reconstruct`."),
    ] = None,
    images: Annotated[int, typer.Option(help="Images in that graph.")] = 8,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure speed and memory of a network on this machine."""
    from .evaluation.speed import SpeedSettings, measure_speed, parse_size

    settings = SpeedSettings(
        size=None if size is None else parse_size(size),
        device=device,
        dtype=dtype,  # type: ignore[arg-type]
        batch=batch,
        repeat=repeat,
        threads=threads,
        compile=compile_,
        graph=graph,
        images=images,
    )
    if json_ is not None:
        check_writable(json_, "--json")

    def say(step: str) -> None:
        if not quiet:
            console.print(step, highlight=False, markup=False)

    report = measure_speed(model, settings, say)
    output.print(report.table())
    output.print(report.summary(), highlight=False, markup=False, soft_wrap=True)
    if json_ is not None:
        report.write(json_)
        output.print(f"wrote {json_}", highlight=False, markup=False, soft_wrap=True)


def _number(text: str, where: str) -> int:
    if not text.isdigit():
        raise ValueError(f"--methods {where}: expected a size in pixels after the @")
    return int(text)
