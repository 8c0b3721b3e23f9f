"""The command `weav3r`.

Exit status: 0 done, 2 wrong usage or input, 1 anything else. `WEAV3R_DEBUG=1` shows tracebacks.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from .cli_models import ModelOption, OfflineOption, prepare_model
from .cli_models import app as models_app

app = typer.Typer(
    name="weav3r",
    help="Photos in, cameras and dense 3D out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Training data: scenes and textures.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

_WRONG_INPUT = (
    *(ValueError, TypeError, ImportError),
    *(FileNotFoundError, FileExistsError, PermissionError),
    *(IsADirectoryError, NotADirectoryError),
)

console = Console(stderr=True)
output = Console()

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
SizeOption = Annotated[
    int | None, typer.Option(help="Long side of the network's input, pixels; default: by model.")
]
MemoryOption = Annotated[
    str | None, typer.Option(help="Bound, as in 8GB: of the process, or of the GPU if used.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="Of the network: float32, bfloat16 or float16 (faster on GPUs).")
]


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        output.print(f"weav3r {version('weav3r')}", highlight=False)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every stage.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.ERROR
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    # Licence notices are to be seen, whatever else is not.
    logging.getLogger(f"{__package__}.models").setLevel(min(level, logging.WARNING))


@app.command()
def reconstruct(
    photos: Annotated[
        list[str] | None, typer.Argument(help="A folder of photos, or the photos themselves.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--output", "-o", help="scene.glb, .ply, .npz, .json, or a folder.")
    ] = Path("scene.glb"),
    example: Annotated[
        str | None, typer.Option(help="Use bundled example photos (see `weav3r examples`).")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="For a folder: colmap, npz or nerfstudio.")
    ] = None,
    model: ModelOption = "weav3r-small",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    size: SizeOption = None,
    graph: Annotated[
        str, typer.Option(help="Pairs: auto, complete, swin-3, logwin-3, oneref-0.")
    ] = "auto",
    cameras: Annotated[str, typer.Option(help="Cameras from: auto, matches, pointmaps.")] = "auto",
    depth: Annotated[str, typer.Option(help="Depth from: auto, sweep, pointmaps.")] = "auto",
    known: Annotated[
        Path | None,
        typer.Option(help="Known cameras: COLMAP folder, transforms.json, cameras.json, K.txt."),
    ] = None,
    focal: Annotated[
        float | None, typer.Option(help="Known focal length of all photos, original pixels.")
    ] = None,
    precision: PrecisionOption = "float32",
    min_confidence: Annotated[
        float | None, typer.Option(help="Leave out points below this confidence.")
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(help="Folder that remembers the work: a killed run goes on from there."),
    ] = None,
    max_memory: MemoryOption = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Leave out points that other photos contradict.")
    ] = False,
    no_sky: Annotated[
        bool, typer.Option("--no-sky", help="Leave out what looks like sky.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Also write the report, as JSON.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report, as a page with pictures.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
) -> None:
    """Turn photos into cameras and a dense 3D scene."""
    import weav3r

    from .inference.export import check_target

    source = _photos_or_example(photos, example)
    chosen = check_target(out, format)  # fail before the long work, not after it
    _check_selection(chosen, min_confidence, clean or no_sky)
    _check_writable(out, "--output")
    if report is not None:
        _check_writable(report, "--report")
    if html is not None:
        if check_target(html) != "html":
            raise ValueError(f"--html {html}: the name must end in .html")
        _check_writable(html, "--html")
    if job is not None:
        _check_writable(job, "--job")
    prepare_model(model)
    scene = weav3r.reconstruct(
        source,
        model=model,
        device=device,
        size=size,
        graph=graph,
        cameras=cameras,  # type: ignore[arg-type]
        depth=depth,  # type: ignore[arg-type]
        known=known,
        focal_px=focal,
        precision=precision,  # type: ignore[arg-type]
        job=job,
        max_memory=max_memory,
        progress=not quiet,
    )
    options: dict[str, Any] = {}
    if format is not None:
        options["format"] = format
    if min_confidence is not None:
        options["min_confidence"] = min_confidence
    if clean or no_sky:
        options["masks"] = scene.masks(consistent=clean, sky=no_sky)
    scene.save(out, **options)
    if html is not None:
        scene.save(html)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(scene.report.to_dict(), indent=2))
    if not quiet:
        output.print(scene.report.summary(), highlight=False, markup=False, soft_wrap=True)
        output.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


@app.command("plan")
def plan_(
    photos: Annotated[
        list[str] | None, typer.Argument(help="A folder of photos, or the photos themselves.")
    ] = None,
    example: Annotated[str | None, typer.Option(help="Plan for bundled example photos.")] = None,
    model: ModelOption = "weav3r-small",
    device: DeviceOption = "auto",
    size: SizeOption = None,
    graph: Annotated[str, typer.Option(help="Pairs, as for `reconstruct`.")] = "auto",
    cameras: Annotated[str, typer.Option(help="Cameras from, as for `reconstruct`.")] = "auto",
    depth: Annotated[str, typer.Option(help="Depth from, as for `reconstruct`.")] = "auto",
    max_memory: MemoryOption = None,
    calibrate: Annotated[
        bool, typer.Option(help="Measure the speed of the device, for up to three seconds.")
    ] = True,
) -> None:
    """Say how many pairs, how much memory and time `reconstruct` will take; run nothing."""
    from .inference.job.planner import plan

    made = plan(
        _photos_or_example(photos, example),
        model,
        device=device,
        size=size,
        graph=graph,
        cameras=cameras,
        depth=depth,
        max_memory=max_memory,
        calibrate=calibrate,
    )
    output.print(made.summary(), highlight=False, markup=False, soft_wrap=True)


@app.command()
def match(
    image1: Annotated[Path, typer.Argument(help="First photo.")],
    image2: Annotated[Path, typer.Argument(help="Second photo.")],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write matches: .npz, .csv, or .png.")
    ] = None,
    model: ModelOption = "weav3r-small",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    size: SizeOption = None,
    precision: PrecisionOption = "float32",
    min_confidence: Annotated[float, typer.Option(help="Drop matches below.")] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary.")] = False,
) -> None:
    """Match two photos and estimate how the camera moved between them."""
    import weav3r

    if out is not None:
        if out.suffix.lower() not in (".npz", ".csv", ".png"):
            raise ValueError(f"--output {out}: matches are written as .npz, .csv or .png")
        _check_writable(out, "--output")
    prepare_model(model)
    pair = weav3r.match(
        image1,
        image2,
        model=model,
        device=device,
        size=size,
        precision=precision,  # type: ignore[arg-type]
        min_confidence=min_confidence,
    )
    if out is not None:
        pair.save(out)
    if not quiet:
        output.print(pair.summary(), highlight=False, markup=False, soft_wrap=True)
        if out is not None:
            output.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def examples() -> None:
    """List the bundled example photos."""
    import weav3r

    for name, folder in weav3r.example_photos().items():
        count = sum(1 for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".png"))
        line = f"{name:14s} {count} photos  {folder}"
        output.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a bundled recipe or a YAML file.")],
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this many minutes (a slice).")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the run folder.")] = False,
    out: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
    decay: Annotated[
        bool, typer.Option(help="Let the learning rate fall to its end in this slice.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override: data.scenes=8 (repeatable).")
    ] = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    print_config: Annotated[bool, typer.Option(help="Show the resolved recipe and stop.")] = False,
) -> None:
    """Train a network on the procedural generator."""
    from .train.config import load_recipe, recipe_to_dict
    from .train.engine import train as run

    resolved = load_recipe(recipe, set_ or [])
    if print_config:
        output.print_json(data=recipe_to_dict(resolved))
        return
    if resolved.init is not None:
        prepare_model(resolved.init)
    run(
        resolved,
        output=out or Path("runs") / resolved.name,
        minutes=minutes,
        resume=resume,
        decay=decay,
        device=device,
    )


@app.command()
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


@app.command()
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
        _check_writable(json_, "--json")

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


@app.command()
def demo(
    model: ModelOption = "weav3r-small",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is reached from here only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = False,
) -> None:
    """Try the reconstruction on a page in the browser."""
    import weav3r

    from .demo.app import launch

    prepare_model(model)
    output.print(f"http://{host}:{port}  (stop with Ctrl-C)", highlight=False, markup=False)
    launch(
        model,
        examples=weav3r.example_photos(),
        device=device,
        host=host,
        port=port,
        open_browser=open_,
    )


@data_app.command("sheet")
def data_sheet(
    out: Annotated[Path, typer.Option("--output", "-o", help="Picture to write.")] = Path(
        "sheet.png"
    ),
    count: Annotated[int, typer.Option(help="Scenes shown.")] = 16,
    height: Annotated[int, typer.Option(help="Height of a view, pixels.")] = 192,
    width: Annotated[int, typer.Option(help="Width of a view, pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 0,
    textures: Annotated[
        Path | None, typer.Option(help="Texture folder or archive; default: the built bank.")
    ] = None,
) -> None:
    """Draw a contact sheet of procedural scenes."""
    from .datasets.procedural.generator import ProceduralScenes
    from .datasets.procedural.sheet import make_contact_sheet
    from .datasets.textures import default_bank

    bank = default_bank(textures)
    scenes = ProceduralScenes(height, width, seed=seed, textures=bank)
    make_contact_sheet(scenes, count).save(out)
    output.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


@data_app.command("textures")
def data_textures(
    destination: Annotated[
        Path | None, typer.Argument(help="Folder of the bank; default: the user's cache.")
    ] = None,
    sources: Annotated[
        str | None, typer.Option(help="Comma-separated package names; default: all.")
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Leave out pictures whose public-domain claim is doubtful.")
    ] = True,
) -> None:
    """Build the texture bank from licence-clear packages."""
    from .datasets.texture_sources import build_texture_bank
    from .datasets.textures import default_bank_folder

    folder = destination or default_bank_folder()
    names = [s.strip() for s in sources.split(",")] if sources else None
    report = build_texture_bank(
        folder,
        strict=strict,
        sources=names,
        progress=lambda line: console.print(line, highlight=False, markup=False),
    )
    for source, reason in report.skipped.items():
        console.print(f"skipped {source}: {reason}", highlight=False, markup=False)
    output.print(f"wrote {folder}", highlight=False, markup=False, soft_wrap=True)


def _photos_or_example(photos: list[str] | None, example: str | None) -> Any:
    import weav3r

    if bool(photos) == bool(example):
        raise ValueError("give either photos (a folder or files) or --example NAME")
    if example:
        bundled = weav3r.example_photos()
        if example not in bundled:
            raise ValueError(f"no example {example!r}; there are: {', '.join(bundled)}")
        return bundled[example]
    assert photos is not None
    return photos[0] if len(photos) == 1 and Path(photos[0]).is_dir() else photos


def _check_selection(format: str, min_confidence: float | None, masked: bool) -> None:
    """Refuse choices of points for formats that hold all points, or none."""
    if masked and format not in ("glb", "ply", "nerfstudio"):
        raise ValueError(
            f"--clean and --no-sky choose points of .glb, .ply and .json, not {format}"
        )
    if min_confidence is not None and format in ("npz", "html"):
        raise ValueError(f"--min-confidence chooses points; {format} has no place for that choice")


def _check_writable(path: Path, option: str) -> None:
    """Fail before the long work where nothing could be written after it."""
    folder = path if path.is_dir() else path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: {folder} is a file, not a folder")
    existing = path if path.exists() else folder
    for place in (folder, existing):
        if not os.access(place, os.W_OK):
            raise ValueError(f"{option} {path}: no permission to write to {place}; name another")


def main() -> None:
    """Run the command; turn errors into one line and an exit status."""
    # OpenMP reads it when torch is loaded. Waiting threads that spin triple the time of a run on a
    # machine that has other work; asleep they cost an idle machine nothing measurable.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except _WRONG_INPUT as error:
        _fail(error, 2)
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(130)
    except Exception as error:  # the last door: every other failure is one line, too
        _fail(error, 1)


def _fail(error: Exception, status: int) -> None:
    if os.environ.get("WEAV3R_DEBUG") == "1":
        raise error
    kind = "" if status == 2 else f"{type(error).__name__}: "
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    head, *items = (line.strip() for line in message.splitlines() or [""])
    console.print(f"[bold red]error:[/] {kind}", end="", highlight=False)
    console.print(
        f"{head} {'; '.join(items)}".strip(), highlight=False, markup=False, soft_wrap=True
    )
    if status == 1:
        console.print("set WEAV3R_DEBUG=1 to see where", highlight=False)
    sys.exit(status)
