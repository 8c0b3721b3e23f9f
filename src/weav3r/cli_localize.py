"""The command `weav3r localize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .cli_models import ModelOption, OfflineOption, prepare_model
from .cli_options import DeviceOption, PrecisionOption, SizeOption, check_writable, output

if TYPE_CHECKING:
    from .inference.predict import Precision


def localize(
    queries: Annotated[
        list[Path], typer.Argument(help="Photos to be localised, or folders of them.")
    ],
    scene: Annotated[
        Path,
        typer.Option(
            help="The map: scene.npz or its folder, a COLMAP model folder, or one photo (map-free)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write poses: .txt (name qw qx qy qz tx ty tz) or .json."
        ),
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of the map's photos, if they moved.")
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(help="Known intrinsics of the photos: COLMAP folder, cameras.json, K.txt."),
    ] = None,
    focal: Annotated[
        float | None, typer.Option(help="Known focal length of the photos, original pixels.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Photos of the map to match each photo with.")] = 8,
    model: ModelOption = "weav3r-small",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    size: SizeOption = None,
    precision: PrecisionOption = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
) -> None:
    """Find where photos were taken, against a scene, a COLMAP model or one other photo."""
    import weav3r

    from .inference._sources import list_sources
    from .inference.localization.result import check_pose_file, write_poses

    if out is not None:
        check_pose_file(out)  # fail before the long work, not after it
        check_writable(out, "--output")
    if not scene.exists():
        raise FileNotFoundError(f"--scene {scene}: no such file or folder")
    sources = [source for query in queries for source in list_sources(query)]
    prepare_model(model)
    found = weav3r.localize(
        sources,
        scene,
        model,
        photos=photos,
        known=known,
        focal_px=focal,
        top_k=top_k,
        device=device,
        size=size,
        precision=cast("Precision", precision),
        progress=not quiet,
    )
    if out is not None:
        write_poses(out, found)
    if not quiet:
        for one in found:
            output.print(one.summary(), highlight=False, markup=False, soft_wrap=True)
        placed = sum(map(bool, found))
        output.print(f"{placed} of {len(found)} photos localised", highlight=False)
        if out is not None:
            output.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)
    if not any(found):
        raise typer.Exit(1)
