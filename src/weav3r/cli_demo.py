"""The commands `weav3r demo` and `weav3r examples`."""

from __future__ import annotations

from typing import Annotated

import typer

from .cli_models import ModelOption, OfflineOption, prepare_model
from .cli_options import DeviceOption, output


def demo(
    model: ModelOption = "weav3r-small",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is reached from here only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = False,
) -> None:
    """Try the reconstruction on a page in the browser."""
    import weav3r

    from .demo.app import launch

    prepare_model(model)
    output.print(f"http://{host}:{port}  (stop with Ctrl-C)", highlight=False, markup=False)
    launch(
        model,
        examples=weav3r.example_photos(),
        device=device,
        host=host,
        port=port,
        open_browser=open_,
    )


def examples() -> None:
    """List the bundled example photos."""
    import weav3r

    for name, folder in weav3r.example_photos().items():
        count = sum(1 for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".png"))
        line = f"{name:14s} {count} photos  {folder}"
        output.print(line, highlight=False, markup=False, soft_wrap=True)
