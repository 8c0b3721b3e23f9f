"""The command `weav3r view`."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from .cli_options import output


def view(
    scene: Annotated[
        Path, typer.Argument(help="A scene.npz, or a folder with one (see `reconstruct -o`).")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is reached from here only.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; the next one if taken.")
    ] = 8080,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = False,
    budget: Annotated[
        int, typer.Option(min=1, help="Points shown at first; a slider changes it.")
    ] = 1_000_000,
    max_points: Annotated[
        int, typer.Option(min=1, help="Points kept in memory; of more an even share is drawn.")
    ] = 5_000_000,
) -> None:
    """Look at a saved scene in the browser: points, cameras with their photos."""
    import weav3r

    if scene.is_file() and scene.suffix.lower() != ".npz":
        raise ValueError(
            f"{scene} is no scene.npz; save one with `weav3r reconstruct PHOTOS -o scene.npz`"
        )
    loaded = weav3r.Scene.load(scene)
    from .demo.viewer import SceneViewer

    viewer = SceneViewer(loaded, host=host, port=port, max_points=max_points, budget=budget)
    output.print(f"{viewer.address}  (stop with Ctrl-C)", highlight=False, markup=False)
    if open_:
        webbrowser.open(viewer.address)
    try:
        wait_for_ever()
    except KeyboardInterrupt:
        output.print("stopped", highlight=False)
    finally:
        viewer.close()


def wait_for_ever() -> None:
    """Leave the work to the threads of the server."""
    threading.Event().wait()
