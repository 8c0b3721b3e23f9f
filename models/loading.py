"""From a name, a file or a folder to a network with its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..croco_like.attention import AttentionBackend, set_attention_backend
from .config import PRESETS, ModelConfig
from .storage import CONFIG_FILE, WEIGHTS_FILE, read_tensors
from .two_view import TwoViewModel
from .weights import load_weights


def load_model(
    source: str | Path = "weav3r-small",
    device: str | torch.device = "auto",
    attention: AttentionBackend = "sdpa",
) -> TwoViewModel:
    """Load a network with its weights, ready for inference.

    Args:
        source: name of a preset whose weights are bundled, a `.safetensors` file with the
            configuration in its metadata or in a `config.json` beside it, or a folder with
            `config.json` and `model.safetensors`.
        device: "auto" takes cuda, then mps, then the CPU.
        attention: backend of all attention layers.

    Returns:
        The network in float32 and eval mode.

    Raises:
        FileNotFoundError: if there is no such file or bundled preset.
        ValueError: if the format is not supported, the weights do not fit the configuration, or
            the device is not there.
    """
    target = resolve_device(device)  # a wrong one fails before the weights are read
    file = _find_weights(source)
    tensors, metadata = read_tensors(file)
    config = _find_config(file, metadata)
    with torch.device("meta"):
        model = TwoViewModel(config)
    load_weights(model, tensors, origin=str(file), assign=True)
    set_attention_backend(model, attention)
    return model.to(target).eval()


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn "auto" into cuda, else mps, else cpu; check that another device exists.

    Raises:
        ValueError: if it does not, or if torch knows no such name.
    """
    if device != "auto":
        return _existing_device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _existing_device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"unknown device {str(device)!r}; use auto, cpu, cuda, cuda:1 or mps"
        ) from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= count:
        raise ValueError(
            f"device {str(device)!r} is not there: torch {torch.__version__} sees {count} CUDA "
            "devices; use auto or cpu"
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not there: torch sees no Metal GPU; use auto or cpu")
    return found


def bundled_weights(name: str) -> Path | None:
    """Find the weights file that this installation ships for a preset, or None."""
    file = resources.files(__name__.rpartition(".")[0]).joinpath("weights", f"{name}.safetensors")
    path = Path(str(file))
    return path if path.is_file() else None


def read_header(source: str | Path) -> tuple[Path, ModelConfig, dict[str, str]]:
    """Find a checkpoint, see `load_model`, and read what stands beside its weights.

    Returns:
        The weights file, the configuration and the text metadata.

    Raises:
        FileNotFoundError, ValueError: see `load_model`.
    """
    file = _find_weights(source)
    try:
        with safe_open(str(file), framework="pt", device="cpu") as handle:
            metadata = dict(handle.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    return file, _find_config(file, metadata), metadata


def _find_weights(source: str | Path) -> Path:
    bundled = bundled_weights(source) if isinstance(source, str) and source in PRESETS else None
    if bundled is not None:
        return bundled
    path = Path(source)
    if path.is_dir():
        file = path / WEIGHTS_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{path} holds no {WEIGHTS_FILE}")
        return file
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(
                f"{path}: supported are .safetensors files and folders with {CONFIG_FILE} and "
                f"{WEIGHTS_FILE}, not {path.suffix or 'files without a suffix'}"
            )
        return path
    if source in PRESETS:
        raise FileNotFoundError(
            f"no weights for preset {source!r} come with this installation; pass the path of its "
            f".safetensors file. Presets: {', '.join(PRESETS)}"
        )
    raise FileNotFoundError(
        f"{str(source)!r} is neither a file, nor a folder, nor a preset "
        f"(presets: {', '.join(PRESETS)})"
    )


def _find_config(file: Path, metadata: Mapping[str, str]) -> ModelConfig:
    beside = file.parent / CONFIG_FILE
    text = metadata.get("config")
    if text is None and beside.is_file():
        text = beside.read_text(encoding="utf-8")
    if text is None:
        raise ValueError(
            f"{file} holds no model configuration; put a {CONFIG_FILE} beside it, or write the "
            "checkpoint with weav3r.models.save_checkpoint"
        )
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the model configuration of {file} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"the model configuration of {file} is not a JSON object")
    return ModelConfig.from_dict(data)
