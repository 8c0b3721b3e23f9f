"""From a name, a file, a folder or a Hub id to a network with its weights."""

from __future__ import annotations

from pathlib import Path

import torch

from ..croco_like.attention import AttentionBackend, set_attention_backend
from .calibration_file import read_calibration
from .card import warn_of_licence
from .checkpoint import Checkpoint, open_checkpoint
from .config import ModelConfig
from .mapped import mark_mapped
from .two_view import TwoViewModel
from .weights import load_weights


def load_model(
    source: str | Path = "weav3r-small",
    device: str | torch.device = "auto",
    attention: AttentionBackend = "sdpa",
    *,
    revision: str | None = None,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
) -> TwoViewModel:
    """Load a network with its weights, ready for inference.

    The network is used only for a Hub id, and for a preset whose weights are not bundled; a local
    file or folder of that name comes first. Nothing in a file is ever executed.

    Args:
        source: one of
            a preset: `weav3r-small` is bundled, `dust3r-224-linear`, `dust3r-512-linear`,
            `dust3r-512-dpt` and `mast3r-512` stand for the published Hub ids;
            a Hub id `owner/name` or `owner/name@revision`, in our layout or the published one;
            a folder with `config.json` and `model.safetensors` in either layout;
            a `.safetensors` file with the configuration in its header or in a `config.json`
            beside it;
            a published DUSt3R or MASt3R `.pth` file.
        device: "auto" takes cuda, then mps, then the CPU.
        attention: backend of all attention layers.
        revision: branch, tag or commit of a Hub id.
        offline: never use the network; None follows the variable HF_HUB_OFFLINE.
        cache_dir: where files of the Hub are kept; None follows HF_HUB_CACHE and HF_HOME.

    Returns:
        The network in float32 and eval mode. Its `provenance` says licence and training data.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or not on this machine when offline.
        PermissionError: if the Hub refuses access (gated or private).
        ConnectionError: if the Hub cannot be reached.
        ValueError: if the format is not supported, the weights do not fit the configuration, or
            the device is not there.
    """
    target = resolve_device(device)  # a wrong one fails before the weights are read
    checkpoint = open_checkpoint(source, revision=revision, offline=offline, cache_dir=cache_dir)
    model = empty_model(checkpoint.config, checkpoint)
    tensors = dict(checkpoint.tensors)
    load_weights(model, tensors, origin=checkpoint.origin, assign=True)
    views = getattr(checkpoint.tensors, "views", tensors.keys())
    mark_mapped(model, [tensors[name] for name in views])
    model.provenance = checkpoint.provenance
    model.calibration = read_calibration(checkpoint.file)
    warn_of_licence(checkpoint.origin, checkpoint.provenance, checkpoint.config)
    set_attention_backend(model, attention)
    return model.to(target).eval()


def empty_model(config: ModelConfig, checkpoint: Checkpoint | None = None) -> TwoViewModel:
    """Build a network without memory for its weights (on the meta device).

    Args:
        config: its shape.
        checkpoint: whose weights it will get; a configuration that is far too deep for them is
            refused before it is built.

    Raises:
        ValueError: if the network cannot be built, or is too deep.
    """
    origin = config.name if checkpoint is None else checkpoint.origin
    depth = config.encoder_depth + config.decoder_depth
    if checkpoint is not None and depth > len(checkpoint.tensors):
        raise ValueError(
            f"{origin} does not fit the network: {depth} blocks in the configuration, "
            f"{len(checkpoint.tensors)} tensors in the file"
        )
    try:
        with torch.device("meta"):
            return TwoViewModel(config)
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{origin} describes no network that can be built: {error}") from error


def find_problems(checkpoint: Checkpoint) -> list[str]:
    """Say what does not fit between the weights and the configuration of a checkpoint.

    Names and shapes are compared; the weights are not read.

    Returns:
        One line for each problem, the first one a summary; empty where everything fits.
    """
    empty = {k: torch.empty(shape, device="meta") for k, shape in checkpoint.shapes().items()}
    try:
        model = empty_model(checkpoint.config, checkpoint)
        load_weights(model, empty, origin=checkpoint.origin, assign=True)
    except ValueError as error:
        return [line.strip() for line in str(error).splitlines()]
    return []


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
