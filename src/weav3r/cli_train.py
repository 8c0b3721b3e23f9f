"""The command `weav3r train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_models import OfflineOption, prepare_model
from .cli_options import DeviceOption, output


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
