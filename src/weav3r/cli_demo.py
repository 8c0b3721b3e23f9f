"""The commands `weav3r demo` and `weav3r examples`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .cli_models import SOURCES, OfflineOption, prepare_model
from .cli_options import DeviceOption, output

AUTH_VARIABLE = "WEAV3R_DEMO_AUTH"


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help=f"{SOURCES} Repeat it to offer a choice."),
    ] = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is reached from here only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    allow_download: Annotated[
        bool,
        typer.Option("--allow-download", help="Let people ask for any checkpoint of the Hub."),
    ] = False,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER:PASSWORD",
            envvar=AUTH_VARIABLE,
            show_envvar=True,
            help="Ask for it. Lists of processes show it: rather use the variable.",
        ),
    ] = None,
    auth_file: Annotated[
        Path | None, typer.Option(help="The same from a file, one USER:PASSWORD a line.")
    ] = None,
    share: Annotated[
        bool,
        typer.Option("--share", help="Also publish the page through Gradio's servers."),
    ] = False,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = False,
) -> None:
    """Try the reconstruction on a page in the browser."""
    import weav3r

    from .demo.app import launch

    people = _people(auth, auth_file)
    models = model or ["weav3r-small"]
    for source in models:
        prepare_model(source)
    output.print(f"http://{host}:{port}  (stop with Ctrl-C)", highlight=False, markup=False)
    launch(
        models,
        examples=weav3r.example_photos(),
        device=device,
        host=host,
        port=port,
        open_browser=open_,
        allow_download=allow_download and not os.environ.get("HF_HUB_OFFLINE"),
        auth=people,
        share=share,
    )


def _people(auth: str | None, file: Path | None) -> list[tuple[str, str]]:
    """Names and passwords of those who may use the page.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an entry is not USER:PASSWORD, or the file holds none; no password is shown.
    """
    entries = [] if auth is None else [("--auth", auth)]
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"--auth-file {file}: no such file")
        lines = file.read_text(encoding="utf-8").splitlines()
        entries += [(f"{file}, line {k + 1}", line) for k, line in enumerate(lines) if line.strip()]
        if not any(line.strip() for line in lines):
            raise ValueError(f"--auth-file {file}: it holds no USER:PASSWORD")
    people = []
    for where, entry in entries:
        name, colon, password = entry.strip().partition(":")
        if not (name and colon and password):
            raise ValueError(f"{where}: expected USER:PASSWORD")
        people.append((name, password))
    return people


def examples() -> None:
    """List the bundled example photos."""
    import weav3r

    for name, folder in weav3r.example_photos().items():
        count = sum(1 for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".png"))
        line = f"{name:14s} {count} photos  {folder}"
        output.print(line, highlight=False, markup=False, soft_wrap=True)
