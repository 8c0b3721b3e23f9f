"""The commands `weav3r data ...`: data sets, generated scenes and textures for training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .cli_options import check_writable, console, output

app = typer.Typer(
    help="Training data: data sets, generated scenes and textures.", no_args_is_help=True
)

_Folder = Annotated[Path, typer.Argument(help="Folder of the data set, in any known layout.")]
_Layout = Annotated[str | None, typer.Option(help="Layout of the folder; default: by its looks.")]


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
    features: Annotated[
        str, typer.Option(help="Comma-separated features, or all; see the training page.")
    ] = "",
    panoramas: Annotated[
        Path | None, typer.Option(help="Folder of equirectangular photos; default: painted ones.")
    ] = None,
) -> None:
    """Draw a contact sheet of procedural scenes."""
    from .datasets.procedural.generator import ProceduralScenes
    from .datasets.procedural.panoramas import Panoramas
    from .datasets.procedural.sheet import make_contact_sheet
    from .datasets.procedural.switches import FEATURES, check_features
    from .datasets.textures import default_bank

    names = FEATURES if features == "all" else [f for f in features.split(",") if f]
    chosen = check_features(names)
    around = None if panoramas is None else Panoramas.from_folder(panoramas)
    bank = default_bank(textures)
    scenes = ProceduralScenes(
        height, width, seed=seed, textures=bank, features=chosen, panoramas=around
    )
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


@app.command("import")
def data_import(
    layout: Annotated[
        str, typer.Argument(help="What SOURCE is: colmap, nerfstudio, rgbd, scannet, ...; or auto.")
    ],
    source: Annotated[Path, typer.Argument(help="Folder to read.")],
    destination: Annotated[Path, typer.Argument(help="New folder to write, in our layout.")],
) -> None:
    """Copy a data set into our layout, with its cameras in our conventions."""
    from .datasets.layout import write_layout
    from .datasets.layouts import open_data_set

    check_writable(destination, "DESTINATION")
    found = open_data_set(source, None if layout == "auto" else layout)
    copy = write_layout(found, destination)
    _say(f"{len(copy)} photos of {len(copy.scenes)} scenes, from {found.layout}", console)
    _say(f"wrote {destination}; look at it with: weav3r data check {destination}", output)


@app.command("check")
def data_check(
    folder: _Folder,
    report: Annotated[
        Path | None, typer.Option(help="Page to write; default: FOLDER.html beside the folder.")
    ] = None,
    layout: _Layout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look a data set over, and name what is wrong: units, poses, axes, sizes, depth, files.

    Exit status 0 without any error, 2 with one.
    """
    from .datasets.doctor import check_data_set
    from .datasets.doctor.report import save_report

    folder = folder.resolve()
    path = report or folder.with_name(f"{folder.name}.html")
    check_writable(path, "--report")
    found = check_data_set(folder, layout)
    save_report(found, path, folder.name)
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in found.findings]
        output.print_json(data={"passed": found.passed, "findings": findings, **found.facts})
    else:
        for key, value in found.facts.items():
            _say(f"{key}: {value}", output)
        for finding in found.findings:
            where = f" [{', '.join(finding.where)}]" if finding.where else ""
            advice = f"\n    {finding.advice}" if finding.advice else ""
            _say(f"{finding.level} {finding.code}: {finding.message}{advice}{where}", output)
        _say("passed" if found.passed else "failed", output)
    _say(f"wrote {path}", console)
    if not found.passed:
        raise typer.Exit(2)


@app.command("pairs")
def data_pairs(
    folder: _Folder,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: in FOLDER.")
    ] = None,
    low: Annotated[float, typer.Option(help="Least overlap of a pair, the worse way.")] = 0.1,
    high: Annotated[float, typer.Option(help="Greatest overlap, against near copies.")] = 0.98,
    per_view: Annotated[int, typer.Option(help="Most partners of a photo.")] = 40,
    layout: _Layout = None,
) -> None:
    """Find the pairs of photos that see the same places, by depth or by common points."""
    from .datasets.covisibility import mine_pairs
    from .datasets.layout import PAIRS
    from .datasets.layouts import open_data_set
    from .datasets.pair_table import save_pairs

    path = out or folder / PAIRS
    check_writable(path, "--output")
    data = open_data_set(folder, layout)
    pairs = mine_pairs(
        data,
        low,
        high,
        per_view=per_view,
        progress=lambda scene, count: _say(f"{scene}: {count} pairs", console),
    )
    save_pairs(pairs, [view.key for view in data.views], path)
    _say(f"wrote {path} with {len(pairs)} pairs", output)


@app.command("make")
def data_make(
    folder: Annotated[Path, typer.Argument(help="New folder to write, in our layout.")],
    scenes: Annotated[int, typer.Option(help="How many; the last fifth is held out.")] = 10,
    views: Annotated[int, typer.Option(help="Photos of each scene, 2 to 8.")] = 8,
    look: Annotated[
        str, typer.Option(help="photo, night or thermal: a domain for a network to adapt to.")
    ] = "photo",
    fov: Annotated[
        tuple[float, float], typer.Option(help="Range of the field of view, degrees.")
    ] = (35.0, 90.0),
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the photos.")] = "256x192",
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
) -> None:
    """Write generated scenes as a data set with exact depth, to try training on."""
    from .datasets.made_scenes import LOOKS, make_data_set
    from .inference.progress import make_progress

    check_writable(folder, "FOLDER")
    if look not in LOOKS:
        raise ValueError(f"--look {look}: there are {', '.join(LOOKS)}")
    width, x, height = size.partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise ValueError(f"--size {size}: expected WIDTHxHEIGHT, such as 256x192")
    with make_progress(True) as show, show.stage("scenes", scenes) as advance:
        make_data_set(
            *(folder, scenes, views, (int(height), int(width)), look, fov, seed),
            progress=lambda done, total: advance(1),
        )
    _say(f"wrote {folder} with {scenes * views} photos of {scenes} scenes", output)


def _say(line: str, where: Console) -> None:
    where.print(line, highlight=False, markup=False, soft_wrap=True)
