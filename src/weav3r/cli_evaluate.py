"""The commands that measure: `weav3r evaluate` (accuracy) and `weav3r benchmark` (speed)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_models import OfflineOption, prepare_model
from .cli_options import DeviceOption, SizeOption, check_writable, console, output


def evaluate(
    root: Annotated[
        Path,
        typer.Argument(help="Folder with sets/ in the plain layout; or photos, see below."),
    ],
    sets: Annotated[str | None, typer.Option(help="Comma-separated; default: all.")] = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated: checkpoints, perhaps with :MATCHER, sift, sift@SIZE, "
            "module:function."
        ),
    ] = "weav3r-small,sift",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint, instead of --methods.")
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="Of the data set: plain, scannet1500, megadepth1500, co3d, re10k, eth3d, dtu, "
            "imc, mapfree, strecha, 7scenes, cambridge, aachen."
        ),
    ] = "plain",
    tasks: Annotated[
        str | None,
        typer.Option(help="pairs, localization, mapfree, with commas; default: by layout."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Photos of the map that a query is matched with.")] = 5,
    unknown_focal: Annotated[
        bool, typer.Option("--unknown-focal", help="Localise without the true intrinsics.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="Results of an earlier run to compare with, if made the same way."),
    ] = None,
    scenes: Annotated[
        str | None,
        typer.Option(help="Reconstruct whole scenes instead: names from scenes.json, or all."),
    ] = None,
    no_ground_truth: Annotated[
        bool,
        typer.Option(
            "--no-ground-truth",
            help="Take a folder of any photos, and say how far they agree with themselves.",
        ),
    ] = False,
    size: SizeOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "evaluation-results"
    ),
) -> None:
    """Measure pose, match and depth accuracy on photos with ground truth, or judge any photos."""
    if no_ground_truth:
        if sets is not None or scenes is not None:
            raise ValueError(
                "--no-ground-truth takes a folder of photos; leave --sets and --scenes out"
            )
        _judge_own(root, model or methods, size, device, out)
        return
    from .cli_evaluate_sets import SetRun, check_run, evaluate_sets
    from .evaluation.datasets import MAP_LAYOUTS
    from .evaluation.protocol import compare_with_earlier
    from .evaluation.scene_comparison import compare_scenes
    from .inference.progress import make_progress

    check_writable(out, "--output")
    names = [m.strip() for m in (model or methods).split(",")]
    if tasks is None:
        tasks = "localization" if layout in MAP_LAYOUTS else "pairs"
    run = SetRun(
        root=root,
        layout=layout,
        tasks=tuple(task.strip() for task in tasks.split(",")),
        sets=None if sets is None else [s.strip() for s in sets.split(",")],
        methods=tuple(names),
        size=size,
        device=device,
        top_k=top_k,
        unknown_focal=unknown_focal,
    )
    check_run(run)
    if against is not None and scenes is not None:
        raise ValueError("--against compares runs of --tasks, not of --scenes; leave one out")
    with make_progress(True) as show, ExitStack() as stack:
        advance, shown = None, 0

        def to(done: int, total: int, stage: str) -> None:
            nonlocal advance, shown
            if advance is None:
                advance = stack.enter_context(show.stage(stage, total))
            advance(done - shown)
            shown = done

        if scenes is not None:
            for name in names:
                prepare_model(name)
            report: Any = compare_scenes(
                root,
                None if scenes == "all" else [s.strip() for s in scenes.split(",")],
                {name: _scene_method(name, device, size) for name in names},
                progress=lambda done, total, _: to(done, total, "scenes"),
            )
            if len(names) == 1:
                report = report.reports[names[0]]
            reports: list[Any] = [report]
        else:
            reports = list(evaluate_sets(run, show.stage))
    for report in reports:
        report.write(out)
        output.print(report.to_markdown(), highlight=False, markup=False, soft_wrap=True)
        if against is not None:
            table = compare_with_earlier(report, against)
            output.print(f"\n{table}", highlight=False, markup=False, soft_wrap=True)


def _judge_own(photos: Path, methods: str, size: int | None, device: str, out: Path) -> None:
    from .evaluation.own_photos import judge_photos
    from .models.loading import load_model

    check_writable(out, "--output")
    names = [name.strip() for name in methods.split(",")]
    model = next(name for name in [*names, "weav3r-small"] if not name.startswith("sift"))
    prepare_model(model)
    report = judge_photos(photos, load_model(model, device=device), size=size, progress=True)
    output.print(report.to_markdown(), highlight=False, markup=False, soft_wrap=True)
    for path in report.write(out):
        output.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


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


def _scene_method(name: str, device: str, size: int | None) -> Any:
    from .evaluation.scenes import SceneMethod
    from .evaluation.sift_scenes import SiftSceneMethod

    if name == "sift":
        return SiftSceneMethod()
    if name.startswith("sift@"):
        return SiftSceneMethod(max_size=_number(name.removeprefix("sift@"), name))
    return SceneMethod(name, device=device, size=size, progress=False)


def _number(text: str, where: str) -> int:
    if not text.isdigit():
        raise ValueError(f"--methods {where}: expected a size in pixels after the @")
    return int(text)
