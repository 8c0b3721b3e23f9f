"""The commands `weav3r reconstruct` and `weav3r plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_models import ModelOption, OfflineOption, prepare_model
from .cli_options import (
    DeviceOption,
    MemoryOption,
    PrecisionOption,
    SizeOption,
    check_writable,
    output,
)

if TYPE_CHECKING:
    from .inference.job.store import JobStore


def reconstruct(
    photos: Annotated[
        list[str] | None, typer.Argument(help="A folder of photos, the photos themselves, videos.")
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
    frames: Annotated[
        int, typer.Option(min=1, help="Most frames that are taken from each video.")
    ] = 24,
    graph: Annotated[
        str, typer.Option(help="Pairs: auto, complete, swin-3, logwin-3, oneref-0.")
    ] = "auto",
    cameras: Annotated[
        str, typer.Option(help="Cameras from: auto, matches, sparse (both), pointmaps.")
    ] = "auto",
    depth: Annotated[str, typer.Option(help="Depth from: auto, sweep, pointmaps.")] = "auto",
    refine: Annotated[
        bool, typer.Option("--refine", help="In the end, adjust the cameras to tracks of matches.")
    ] = False,
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
    max_error: Annotated[
        float | None,
        typer.Option(help="Leave out points whose expected relative error is larger, e.g. 0.05."),
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(help="Folder that remembers the work: a killed run goes on from there."),
    ] = None,
    max_disk: Annotated[
        str | None,
        typer.Option(help="Bound of the --job folder, as in 20GB: what is unused longest goes."),
    ] = None,
    max_memory: MemoryOption = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the workers of a Ray cluster.")] = (
        "local"
    ),
    ray_address: Annotated[
        str | None,
        typer.Option(help="Of a running Ray cluster; default: RAY_ADDRESS, else one of its own."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of --engine ray; default: what the cluster holds.")
    ] = None,
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
    masked = clean or no_sky or max_error is not None
    _check_selection(chosen, min_confidence, masked)
    if max_error is not None and not max_error > 0:
        raise ValueError(f"--max-error is a share of the depth, above 0, got {max_error:g}")
    check_writable(out, "--output")
    if report is not None:
        check_writable(report, "--report")
    if html is not None:
        if check_target(html) != "html":
            raise ValueError(f"--html {html}: the name must end in .html")
        check_writable(html, "--html")
    if job is not None:
        check_writable(job, "--job")
    store = _job_store(job, max_disk)
    where = _engine(engine, ray_address, workers)
    prepare_model(model)
    if max_error is not None:
        _check_calibrated(model)
    scene = weav3r.reconstruct(
        source,
        model=model,
        device=device,
        size=size,
        frames=frames,
        graph=graph,
        cameras=cameras,  # type: ignore[arg-type]
        depth=depth,  # type: ignore[arg-type]
        known=known,
        focal_px=focal,
        refine=refine,
        precision=precision,  # type: ignore[arg-type]
        job=store,
        max_memory=max_memory,
        engine=where,
        progress=not quiet,
    )
    options: dict[str, Any] = {}
    if format is not None:
        options["format"] = format
    if min_confidence is not None:
        options["min_confidence"] = min_confidence
    if masked:
        options["masks"] = scene.masks(consistent=clean, sky=no_sky, max_error=max_error)
    scene.save(out, **options)
    if html is not None:
        scene.save(html)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(scene.report.to_dict(), indent=2))
    if not quiet:
        output.print(scene.report.summary(), highlight=False, markup=False, soft_wrap=True)
        output.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


def plan(
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
    from .inference.job.planner import plan as make_plan

    made = make_plan(
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


def _job_store(folder: Path | None, max_disk: str | None) -> JobStore | None:
    from .inference.job.planner import parse_bytes
    from .inference.job.store import JobStore

    if folder is None:
        if max_disk is not None:
            raise ValueError("--max-disk bounds the folder of --job; name one")
        return None
    return JobStore(folder, None if max_disk is None else parse_bytes(max_disk))


def _engine(name: str, address: str | None, workers: int | None) -> Any:
    from .inference.cluster.connection import RayOptions, require_ray

    if name == "ray":
        require_ray()  # fail before the network is loaded
        return RayOptions(address, workers)
    if address is not None or workers is not None:
        raise ValueError("--ray-address and --workers go with --engine ray")
    return name


def _check_calibrated(model: str) -> None:
    """Refuse `--max-error` before the long work where no error can be told."""
    from .models.calibration_file import read_calibration
    from .models.checkpoint import open_checkpoint

    if read_calibration(open_checkpoint(model).file) is None:
        raise ValueError(
            f"--max-error: {model} is not calibrated; `weav3r reliability --fit --model {model}` "
            "calibrates it"
        )


def _check_selection(format: str, min_confidence: float | None, masked: bool) -> None:
    """Refuse choices of points for formats that hold all points, or none."""
    if masked and format not in ("glb", "ply", "nerfstudio"):
        raise ValueError(
            f"--clean, --no-sky and --max-error choose points of .glb, .ply and .json, not {format}"
        )
    if min_confidence is not None and format in ("npz", "html"):
        raise ValueError(f"--min-confidence chooses points; {format} has no place for that choice")
