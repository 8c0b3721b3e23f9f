"""From a name, a file, a folder or a Hub id to a described checkpoint whose weights are not read.

Everything that takes a `source` goes through `open_checkpoint`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from ._archive import is_torch_file
from .card import BUNDLED, CARD_FILE, Provenance, find_provenance
from .config import PRESETS, ModelConfig
from .hub import download
from .hub_cache import PUBLISHED_IDS, PUBLISHED_OWNER, choose_weights, is_hub_id, listing
from .published import read_published
from .storage import CONFIG_FILE, WEIGHTS_FILE, TensorFile, read_text, shape_of

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found and described; its weights are read when asked for.

    Attributes:
        origin: what to call it in messages.
        file: the weights file.
        config: of the network.
        tensors: weights by name, as in the file, read one by one when taken.
        metadata: text entries of the file that are not the configuration.
        provenance: licence and training data, as far as stated.
        published: whether it is in the layout of the published DUSt3R and MASt3R files.
    """

    origin: str
    file: Path
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    provenance: Provenance
    published: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of all tensors, without reading them."""
        return {key: shape_of(self.tensors, key) for key in self.tensors}


def open_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> Checkpoint:
    """Find a checkpoint and read what stands beside its weights.

    Args:
        source: see `weav3r.load_model`.
        revision: branch, tag or commit on the Hub; others have none.
        offline: never use the network; None follows the variable HF_HUB_OFFLINE.
        cache_dir: of the Hub's files; None follows HF_HUB_CACHE and HF_HOME.
        progress: show progress bars of downloads.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or not on this machine when offline.
        ValueError: if it is unreadable or of another kind of network.
        PermissionError, ConnectionError: see `hub.download`.
    """
    bundled = bundled_weights(source) if isinstance(source, str) else None
    if bundled is not None:
        return _open_file(bundled, str(bundled), known=BUNDLED)
    remote = remote_id(source)
    if remote is not None:
        found = download(
            *(remote, revision),
            offline=offline,
            cache_dir=cache_dir,
            progress=progress,
            check=parse_config,
        )
        return _open_file(found, remote, published=remote.startswith(PUBLISHED_OWNER))
    file = _local_file(Path(source).expanduser())
    if file is None:
        raise FileNotFoundError(_unknown(source))
    if revision is not None:
        raise ValueError(f"{source} is a local checkpoint; revision={revision!r} needs a Hub id")
    return _open_file(file, str(file))


def remote_id(source: str | Path) -> str | None:
    """Give the Hub id that a source stands for, None where it is local or nothing at all."""
    if not isinstance(source, str) or bundled_weights(source) or Path(source).expanduser().exists():
        return None
    source = PUBLISHED_IDS.get(source, source)
    return source if is_hub_id(source) else None


def _unknown(source: str | Path) -> str:
    if source in PRESETS:
        return (
            f"no weights for preset {source!r} come with this installation; pass the path of its "
            ".safetensors file"
        )
    return (
        f"{str(source)!r} is neither a file, nor a folder, nor a preset (presets: "
        f"{', '.join(PRESETS)}), nor a Hub id such as {PUBLISHED_IDS['mast3r-512']}"
    )


def bundled_weights(name: str) -> Path | None:
    """Find the weights file that this installation ships for a preset, or None."""
    if name not in PRESETS:
        return None
    file = resources.files(__name__.rpartition(".")[0]).joinpath("weights", f"{name}.safetensors")
    path = Path(str(file))
    return path if path.is_file() else None


def _local_file(path: Path) -> Path | None:
    """Find the weights file of a local file or folder; None where there is neither."""
    if path.is_file():
        return path
    if not path.is_dir():
        return None
    name = choose_weights([entry.name for entry in path.iterdir()])
    if name is None:
        raise FileNotFoundError(
            f"{path} holds no {WEIGHTS_FILE} and no single .pth file; it holds "
            f"{listing(entry.name for entry in path.iterdir())}; a folder needs {CONFIG_FILE} "
            f"and {WEIGHTS_FILE}, or one .pth file"
        )
    return path / name


def _open_file(
    file: Path, origin: str, known: Provenance | None = None, published: bool = False
) -> Checkpoint:
    if file.suffix in TORCH_SUFFIXES or is_torch_file(file):
        return _open_torch(file, origin)
    tensors = TensorFile(file)
    config, in_published_layout = _find_config(file, tensors.metadata, origin)
    card = file.parent / CARD_FILE
    stated = find_provenance(
        tensors.metadata,
        read_text(card) if card.is_file() else None,
        published or in_published_layout,
    )
    names = set(tensors.shapes)
    return Checkpoint(
        origin=origin,
        file=file,
        config=config,
        tensors=tensors,
        # Published files list their shared tensors there; that says nothing to a reader.
        metadata={k: v for k, v in tensors.metadata.items() if k != "config" and v not in names},
        provenance=stated if known is None or stated.licence else known,
        published=in_published_layout,
    )


def _open_torch(file: Path, origin: str) -> Checkpoint:
    found = read_published(file)
    if not isinstance(found.config, ModelConfig):
        raise ValueError(
            f"{origin} is a cross-view completion network (CroCo), which predicts no pointmaps; "
            "start training from it with weav3r.models.initialise_from_croco"
        )
    metadata = {key: str(found.arguments[key]) for key in ("model",) if key in found.arguments}
    provenance = find_provenance({}, published=True)
    return Checkpoint(origin, file, found.config, found.state, metadata, provenance, published=True)


def _find_config(file: Path, metadata: Mapping[str, str], origin: str) -> tuple[ModelConfig, bool]:
    """Read the configuration, and say whether it was in the published form."""
    beside = file.parent / CONFIG_FILE
    text = metadata.get("config")
    if text is None and beside.is_file():
        text = read_text(beside)
    if text is None:
        raise ValueError(
            f"{origin} holds no model configuration; put a {CONFIG_FILE} beside it, or write the "
            "checkpoint with weav3r.models.save_checkpoint"
        )
    return parse_config(text, origin)


def parse_config(text: str, origin: str) -> tuple[ModelConfig, bool]:
    """Read the text of a `config.json`, ours or the published one.

    Returns:
        The configuration, and whether it was in the published form.

    Raises:
        ValueError: naming `origin`, whatever is wrong with the text.
    """
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the model configuration of {origin} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"the model configuration of {origin} is not a JSON object")
    try:
        config = ModelConfig.from_dict(data)
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError) as error:
        raise ValueError(f"the model configuration of {origin}: {error}") from error
    return config, not set(data) & {"encoder_dim", "name"}
