"""What the commands share: where they write, options with one meaning, checks before long work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True)
output = Console()

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
SizeOption = Annotated[
    int | None, typer.Option(help="Long side of the network's input, pixels; default: by model.")
]
MemoryOption = Annotated[
    str | None, typer.Option(help="Bound, as in 8GB: of the process, or of the GPU if used.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="Of the network: float32, bfloat16 or float16 (faster on GPUs).")
]


def check_writable(path: Path, option: str) -> None:
    """Fail before the long work where nothing could be written after it."""
    folder = path if path.is_dir() else path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: {folder} is a file, not a folder")
    existing = path if path.exists() else folder
    for place in (folder, existing):
        if not os.access(place, os.W_OK):
            raise ValueError(f"{option} {path}: no permission to write to {place}; name another")
