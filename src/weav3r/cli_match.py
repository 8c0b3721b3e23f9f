"""The command `weav3r match`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_models import ModelOption, OfflineOption, prepare_model
from .cli_options import DeviceOption, PrecisionOption, SizeOption, check_writable, console, output

if TYPE_CHECKING:
    import numpy as np

    from .inference.photo_matches import PhotoMatches
    from .inference.two_view import PairMatch


def match(
    photos: Annotated[
        list[Path],
        typer.Argument(help="Two photos; with --colmap-db a folder, or two photos or more."),
    ],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write matches: .npz, .csv, or .png.")
    ] = None,
    model: ModelOption = "weav3r-small",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    size: SizeOption = None,
    precision: PrecisionOption = "float32",
    min_confidence: Annotated[float, typer.Option(help="Drop matches below.")] = 0.0,
    matcher: Annotated[
        str | None,
        typer.Option(
            help="anchors, reciprocal, gated or pointmaps; default: anchors, or pointmaps for "
            "checkpoints without descriptors."
        ),
    ] = None,
    coarse_to_fine: Annotated[
        bool,
        typer.Option(
            "--coarse-to-fine",
            help="Match crops at up to three times the network's size: finer, and slower by the "
            "number of crops.",
        ),
    ] = False,
    colmap_db: Annotated[
        Path | None,
        typer.Option("--colmap-db", help="Write a database that COLMAP and GLOMAP can go on from."),
    ] = None,
    graph: Annotated[
        str, typer.Option(help="With --colmap-db: pairs, as for `reconstruct`.")
    ] = "auto",
    known: Annotated[
        Path | None,
        typer.Option(help="Known intrinsics: COLMAP folder, transforms.json, cameras.json, K.txt."),
    ] = None,
    min_track_length: Annotated[
        int, typer.Option(help="With --colmap-db: photos that must see a key point.")
    ] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary.")] = False,
) -> None:
    """Match two photos and estimate how the camera moved; or many, for COLMAP to go on from."""
    import weav3r

    if colmap_db is not None:
        if out is not None:
            raise ValueError("--output takes the matches of two photos; leave out --colmap-db")
        if matcher is not None or coarse_to_fine:
            raise ValueError("--matcher and --coarse-to-fine are for two photos, not --colmap-db")
        check_writable(colmap_db, "--colmap-db")
        prepare_model(model)
        found = weav3r.match_photos(
            photos[0] if len(photos) == 1 else photos,
            model=model,
            device=device,
            size=size,
            graph=graph,
            known=known,
            precision=precision,  # type: ignore[arg-type]
            min_confidence=min_confidence,
            progress=not quiet,
        )
        _write_database(found, colmap_db, min_track_length, quiet)
        return
    if len(photos) != 2:
        raise ValueError(
            f"give two photos, got {len(photos)} path(s); a folder or more photos are matched with "
            "--colmap-db FILE"
        )
    if out is not None:
        if out.suffix.lower() not in (".npz", ".csv", ".png"):
            raise ValueError(f"--output {out}: matches are written as .npz, .csv or .png")
        check_writable(out, "--output")
    prepare_model(model)
    pair = weav3r.match(
        *photos,
        model=model,
        device=device,
        size=size,
        precision=precision,  # type: ignore[arg-type]
        min_confidence=min_confidence,
        matcher=matcher,  # type: ignore[arg-type]
        coarse_to_fine=coarse_to_fine,
        progress=not quiet,
    )
    if out is not None:
        pair.save(out)
    if not quiet:
        output.print(
            pair.summary(*_intrinsics(pair, known)), highlight=False, markup=False, soft_wrap=True
        )
        if out is not None:
            output.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


def _intrinsics(pair: PairMatch, known: Path | None) -> tuple[np.ndarray, ...]:
    """K of both photos, or nothing where the file does not have both."""
    if known is None:
        return ()
    from .inference.known.values import as_known, resolve

    found = resolve(as_known(known), [pair.view1, pair.view2]).intrinsics
    return (found[0], found[1]) if len(found) == 2 else ()


def _write_database(found: PhotoMatches, path: Path, min_track_length: int, quiet: bool) -> None:
    for problem in found.problems:
        console.print(str(problem), highlight=False, markup=False, soft_wrap=True)
    written = found.save_colmap_database(path, min_track_length=min_track_length)
    if not quiet:
        output.print(str(written), highlight=False, markup=False, soft_wrap=True)
        output.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
