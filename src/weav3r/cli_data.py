"""The commands `weav3r data ...`: scenes and textures for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import console, output

app = typer.Typer(help="Training data: scenes and textures.", no_args_is_help=True)


@app.command("sheet")
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


@app.command("textures")
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
