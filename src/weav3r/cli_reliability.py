"""The command `weav3r reliability`: do errors turn out as the confidence promises?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .cli_models import ModelOption, OfflineOption, prepare_model
from .cli_options import DeviceOption, SizeOption, check_writable, console, output


def reliability(
    root: Annotated[
        Path | None,
        typer.Argument(help="Also measure on photos with true depth: a folder with sets/."),
    ] = None,
    sets: Annotated[str | None, typer.Option(help="Comma-separated; default: all.")] = None,
    model: ModelOption = "weav3r-small",
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Calibrate anew and write the result beside the weights."),
    ] = False,
    scenes: Annotated[int, typer.Option(min=8, help="Generated scenes to fit on.")] = 24,
    held_out: Annotated[int, typer.Option(min=0, help="Further ones to measure on.")] = 8,
    max_photos: Annotated[int, typer.Option(min=1, help="Photos of each set.")] = 4,
    textures: Annotated[
        Path | None, typer.Option(help="Folder or tar of textures for the generated scenes.")
    ] = None,
    size: SizeOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "reliability-results"
    ),
) -> None:
    """Compare expected with true errors of depth; `--fit` calibrates a checkpoint of your own."""
    from .evaluation.reliability import measure_reliability
    from .models.calibration_file import calibration_path, write_calibration
    from .models.checkpoint import open_checkpoint
    from .models.loading import load_model

    check_writable(out, "--output")
    prepare_model(model)
    weights = open_checkpoint(model).file
    if fit and not os.access(weights.parent, os.W_OK):
        raise ValueError(
            f"--fit: no permission to write {calibration_path(weights)}; copy the checkpoint with "
            "`weav3r models convert` and calibrate the copy"
        )

    def say(scene: str) -> None:
        console.print(scene, highlight=False, markup=False)

    report = measure_reliability(
        load_model(model, device=device),
        root,
        fit=fit,
        scenes=scenes,
        held_out=held_out,
        sets=None if sets is None else [name.strip() for name in sets.split(",")],
        max_photos=max_photos,
        textures=textures,
        progress=say,
        size=size,
    )
    if fit and report.calibration is not None:
        written = write_calibration(weights, report.calibration.to_dict())
        output.print(f"wrote {written}", highlight=False, markup=False, soft_wrap=True)
    output.print(report.summary(), highlight=False, markup=False, soft_wrap=True)
    for path in report.write(out):
        output.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
