"""The command `weav3r finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_models import ModelOption, OfflineOption, prepare_model
from .cli_options import DeviceOption, check_writable, output


def finetune(
    data: Annotated[Path, typer.Argument(help="Folder of posed photos with depth, any layout.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="New folder of the results.")] = Path(
        "finetuned"
    ),
    model: ModelOption = "weav3r-small",
    minutes: Annotated[float, typer.Option(help="Length of the training.")] = 25.0,
    adapt: Annotated[
        str, typer.Option(help="Weights to change: all, after_encoder, heads or lora.")
    ] = "all",
    rehearsal: Annotated[
        float, typer.Option(help="Share of procedural scenes, against forgetting.")
    ] = 0.5,
    layout: Annotated[
        str | None, typer.Option(help="Layout of the folder; default: by its looks.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Refuse data that `data check` finds faulty.")
    ] = True,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override: data.scenes=8 (repeatable).")
    ] = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Adapt a checkpoint to your own photos, and measure what that changed."""
    from .train.finetune import finetune as run
    from .train.finetune import pointmap_error

    check_writable(out, "--output")
    prepare_model(model)
    result = run(
        data,
        out,
        model,
        layout=layout,
        minutes=minutes,
        adapt=adapt,
        rehearsal=rehearsal,
        device=device,
        check=check,
        overrides=set_ or [],
    )
    for name in result.after:
        old, new = (pointmap_error(scores[name]) for scores in (result.before, result.after))
        line = f"{name}: mean pointmap error {old:.3f} before, {new:.3f} after"
        output.print(f"{line} ({result.change(name):+.0%})", highlight=False, markup=False)
    for path in (result.folder, result.report):
        output.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
