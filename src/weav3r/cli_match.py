"""The command `weav3r match`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_models import ModelOption, OfflineOption, prepare_model
from .cli_options import DeviceOption, PrecisionOption, SizeOption, check_writable, output


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
        check_writable(out, "--output")
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
