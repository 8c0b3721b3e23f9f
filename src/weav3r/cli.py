"""The command `weav3r`.

Exit status: 0 done, 2 wrong usage or input, 1 anything else. `WEAV3R_DEBUG=1` shows tracebacks.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer
from rich.logging import RichHandler

from .cli_data import app as data_app
from .cli_demo import demo, examples
from .cli_doctor import doctor
from .cli_evaluate import benchmark, evaluate
from .cli_finetune import finetune
from .cli_localize import localize
from .cli_match import match
from .cli_models import app as models_app
from .cli_options import console, output
from .cli_reconstruct import plan, reconstruct
from .cli_reliability import reliability
from .cli_train import train
from .cli_view import view

app = typer.Typer(
    name="weav3r",
    help="Photos in, cameras and dense 3D out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_WRONG_INPUT = (
    *(ValueError, TypeError, ImportError),
    *(FileNotFoundError, FileExistsError, PermissionError),
    *(IsADirectoryError, NotADirectoryError),
)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        output.print(f"weav3r {version('weav3r')}", highlight=False)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every stage.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.ERROR
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    # Licence notices are to be seen, whatever else is not.
    logging.getLogger(f"{__package__}.models").setLevel(min(level, logging.WARNING))


for _command in (
    reconstruct,
    plan,
    match,
    localize,
    demo,
    view,
    examples,
    doctor,
    evaluate,
    reliability,
    benchmark,
    train,
    finetune,
):
    app.command()(_command)
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command; turn errors into one line and an exit status."""
    # OpenMP reads it when torch is loaded. Waiting threads that spin triple the time of a run on a
    # machine that has other work; asleep they cost an idle machine nothing measurable.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except _WRONG_INPUT as error:
        _fail(error, 2)
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(130)
    except Exception as error:  # the last door: every other failure is one line, too
        _fail(error, 1)


def _fail(error: Exception, status: int) -> None:
    if os.environ.get("WEAV3R_DEBUG") == "1":
        raise error
    kind = "" if status == 2 else f"{type(error).__name__}: "
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    head, *items = (line.strip() for line in message.splitlines() or [""])
    console.print(f"[bold red]error:[/] {kind}", end="", highlight=False)
    console.print(
        f"{head} {'; '.join(items)}".strip(), highlight=False, markup=False, soft_wrap=True
    )
    if status == 1:
        console.print("set WEAV3R_DEBUG=1 to see where", highlight=False)
    sys.exit(status)
