"""The commands `weav3r models ...`, and what every command that loads a model shares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from .cli_options import output

app = typer.Typer(help="Checkpoints and presets.", no_args_is_help=True)


def _forbid_network(offline: bool) -> bool:
    """Let every load of this process see the switch, however deep below the command."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return offline


SOURCES = "Bundled name, Hub id, folder, .safetensors or .pth file."
ModelOption = Annotated[str, typer.Option("--model", "-m", help=SOURCES)]
OfflineOption = Annotated[
    bool,
    typer.Option(
        "--offline",
        callback=_forbid_network,
        help="Never use the network, only what is downloaded.",
    ),
]
RevisionOption = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the Hub id; owner/name@TAG works, too.")
]


def prepare_model(source: str) -> None:
    """Bring a remote checkpoint into the cache, with progress bars, before other work begins.

    Args:
        source: as for `weav3r.load_model`; nothing happens to what is not remote.
    """
    from .models.checkpoint import open_checkpoint, remote_id

    if remote_id(source) is not None:
        open_checkpoint(source, progress=True)


@app.command("list")
def models_list() -> None:
    """List the presets, the published checkpoints and what is downloaded."""
    from .models.registry import available_models, cached_models

    cached = {model.hub_id: model for model in cached_models()}
    presets = Table("name", "parameters", "weights", "licence", box=SIMPLE)
    remote = Table("Hub id", "downloaded", box=SIMPLE)
    for m in available_models():
        weights = "remote" if m.bundled_bytes is None else f"bundled, {_size(m.bundled_bytes)}"
        licence = m.licence.partition(" (")[0]
        presets.add_row(m.name, f"{m.parameters / 1e6:.1f} M", weights, licence)
        if m.hub_id is not None:
            local = cached.pop(m.hub_id, None)
            remote.add_row(m.hub_id, "-" if local is None else _size(local.bytes))
    for name, local in cached.items():
        remote.add_row(name, _size(local.bytes))
    output.print(presets)
    output.print(remote)


@app.command("info")
def models_info(
    model: Annotated[str, typer.Argument(help=SOURCES)], offline: OfflineOption = False
) -> None:
    """Show configuration, licence, size and SHA-256 of a checkpoint, as JSON.

    A Hub id is not downloaded for that.
    """
    from .models import checkpoint_info

    output.print_json(data=_printable(checkpoint_info(model)))


@app.command("path")
def models_path(model: Annotated[str, typer.Argument(help=SOURCES)]) -> None:
    """Print where the weights file of a checkpoint lies on this machine."""
    from .models.checkpoint import open_checkpoint

    _say(open_checkpoint(model, offline=True).file)


@app.command("download")
def models_download(
    model: Annotated[str, typer.Argument(help="Hub id, or the name of a published preset.")],
    revision: RevisionOption = None,
) -> None:
    """Download a checkpoint into the cache of the Hub (HF_HOME decides where that is)."""
    from .models.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(model, revision=revision, progress=True)
    _say(checkpoint.file)
    _say(f"{_size(checkpoint.file.stat().st_size)}, {_licence(checkpoint.provenance)}")


@app.command("convert")
def models_convert(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    dtype: Annotated[
        str, typer.Option(help="Of the stored weights: float32, float16, bfloat16 or int8.")
    ] = "float32",
    layout: Annotated[
        str,
        typer.Option(help="weav3r, or published: for the DUSt3R and MASt3R code."),
    ] = "weav3r",
    licence: Annotated[
        str | None, typer.Option(help="Licence to state; default: what the source states.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that is not empty.")
    ] = False,
    revision: RevisionOption = None,
    offline: OfflineOption = False,
) -> None:
    """Rewrite a checkpoint as a folder with configuration, weights and model card."""
    from .models import convert_checkpoint

    saved = convert_checkpoint(
        source,
        out,
        dtype=dtype,  # type: ignore[arg-type]
        layout=layout,  # type: ignore[arg-type]
        licence=licence,
        force=force,
        revision=revision,
        progress=True,
    )
    _say(saved.file)
    _say(f"sha256 {saved.sha256}")
    _say(f"{saved.tensors} tensors, {_size(saved.bytes)}, {_licence(saved.provenance)}")


@app.command("export")
def models_export(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write encoder.onnx and decoder.onnx.")
    ] = False,
    external_data: Annotated[
        bool,
        typer.Option("--external-data", help="Weights in files of their own, as above 2 GB."),
    ] = False,
    offline: OfflineOption = False,
) -> None:
    """Export a checkpoint for other runtimes, with batch, height and width left free."""
    from .models import load_model
    from .models.onnx_export import export_onnx, require_packages

    if not onnx:
        raise ValueError("say what to export to: --onnx")
    require_packages()
    prepare_model(source)
    written = export_onnx(load_model(source, device="cpu"), out, external_data or None)
    for file, size in zip((written.encoder, written.decoder), written.bytes.values(), strict=True):
        _say(f"{file}  {_size(size)}")
    _say(written.readme)


def _printable(value: Any, limit: int = 200) -> Any:
    """Clip and escape the texts of a file, wherever they stand; paths are left whole."""
    from .models._foreign import printable

    if isinstance(value, str):
        return printable(value, limit)
    if isinstance(value, dict):
        pairs = list(value.items())[:100]
        return {printable(k): _printable(v, 4096 if k == "file" else limit) for k, v in pairs}
    return [_printable(item) for item in value] if isinstance(value, list | tuple) else value


def _say(line: object) -> None:
    output.print(str(line), highlight=False, markup=False, soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _licence(provenance: Any) -> str:
    from .models._foreign import printable

    end = ", non-commercial use only" if provenance.non_commercial else ""
    return f"licence: {printable(provenance.licence) or 'not stated'}{end}"
