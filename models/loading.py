"""Reading and writing network checkpoints. Only safetensors and JSON; nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..croco_like.attention import AttentionBackend, set_attention_backend
from .config import PRESETS, ModelConfig
from .two_view import TwoViewModel

StorageDtype = Literal["float32", "float16", "bfloat16", "int8"]

SCALE_SUFFIX = ".int8_scale"  # key of the row scales beside an int8 tensor
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


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


def save_checkpoint(
    model: TwoViewModel,
    path: str | Path,
    dtype: StorageDtype = "float16",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write weights and configuration.

    Args:
        model: the network.
        path: a file that ends in `.safetensors`, or a folder (made if needed) that gets
            `config.json` and `model.safetensors`.
        dtype: of the stored weights. "int8" stores every tensor with two or more axes as integers
            with one float32 scale per row, the others as float16.
        metadata: further text entries for the header, such as the licence.

    Returns:
        The weights file.

    Raises:
        ValueError: for an unknown dtype, or weights that do not fit it.
    """
    if dtype not in get_args(StorageDtype):
        raise ValueError(f"dtype must be one of {', '.join(get_args(StorageDtype))}, got {dtype!r}")
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / WEIGHTS_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    config = json.dumps(model.config.to_dict(), allow_nan=False)
    header = {**(metadata or {}), "format": "pt", "storage": dtype, "config": config}
    partial = file.with_suffix(".partial")
    save_file(pack_tensors(model.state_dict(), dtype), partial, metadata=header)
    os.replace(partial, file)
    if file is not path:
        text = json.dumps(model.config.to_dict(), indent=2, allow_nan=False)
        (path / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return file


def pack_tensors(state: Mapping[str, Tensor], dtype: StorageDtype) -> dict[str, Tensor]:
    """Convert a state dict to its stored form; see `save_checkpoint`."""
    packed: dict[str, Tensor] = {}
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        if dtype == "int8" and value.ndim >= 2:
            packed[key], packed[key + SCALE_SUFFIX] = _quantise_rows(value.float())
            continue
        stored = value.to(torch.float16 if dtype == "int8" else getattr(torch, dtype))
        if not bool(stored.isfinite().all()):
            raise ValueError(f"{key} holds values that {dtype} cannot store; choose float32")
        packed[key] = stored
    return packed


def unpack_tensors(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the stored form back to a float32 state dict."""
    state: dict[str, Tensor] = {}
    for key, value in packed.items():
        if key.endswith(SCALE_SUFFIX):
            continue
        scale = packed.get(key + SCALE_SUFFIX)
        value = value.float()
        state[key] = value if scale is None else value * scale.view(-1, *[1] * (value.ndim - 1))
    return state


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file written by `save_checkpoint` or by others.

    Returns:
        The float32 state dict and the text metadata.

    Raises:
        ValueError: if the file is not readable as safetensors.
    """
    try:
        with safe_open(str(file), framework="pt", device="cpu") as handle:
            packed = {key: handle.get_tensor(key) for key in handle.keys()}
            metadata = dict(handle.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    return unpack_tensors(packed), metadata


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


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], origin: str = "the weights", assign: bool = False
) -> None:
    """Load a state dict strictly, in place.

    The two published spellings of the DPT reassembly weights (`scratch.layer_rn.0` and
    `scratch.layer1_rn`) are one; a file may hold either or both.

    Args:
        model: network to fill.
        state: weights by name.
        origin: what to call them in errors.
        assign: take the tensors over instead of copying them (for networks on the meta device).

    Raises:
        ValueError: one message that lists all missing, unexpected and mis-shaped tensors.
    """
    state = canonical_keys(state)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    problems = {
        "missing": sorted(set(wanted) - set(state)),
        "unexpected": sorted(set(state) - set(wanted)),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
            for key, shape in wanted.items()
            if key in state and state[key].shape != shape
        ],
    }
    if any(problems.values()):
        lines = [
            f"  {len(names)} {kind}: {_shortened(names)}"
            for kind, names in problems.items()
            if names
        ]
        raise ValueError(f"{origin} does not fit the network:\n" + "\n".join(lines))
    model.load_state_dict(state, strict=True, assign=assign)


def initialise_from_croco(model: TwoViewModel, state: Mapping[str, Tensor]) -> None:
    """Start a two-view network from a cross-view completion network, in place.

    Both decoders start from its one decoder. The heads keep their values; so do the parts that
    only networks of this package have.

    Args:
        model: network to initialise.
        state: state dict of the completion network (rotary positions).

    Raises:
        ValueError: if the transformers differ in shape.
    """
    merged = {k: v for k, v in state.items() if not k.startswith("prediction_head.")}
    merged = duplicate_decoder(merged)
    own = model.state_dict()
    kept = ("downstream_head", "coordinate_embed.", "local_")
    merged.update({key: value for key, value in own.items() if key.startswith(kept)})
    load_weights(model, merged, origin="the completion network")


def duplicate_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state dict without `dec_blocks2` a copy of `dec_blocks` under that name."""
    result = dict(state)
    if not any(key.startswith("dec_blocks2.") for key in state):
        for key, value in state.items():
            if key.startswith("dec_blocks."):
                result["dec_blocks2." + key.removeprefix("dec_blocks.")] = value
    return result


def canonical_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `scratch.layer_rn.{i}` to `scratch.layer{i + 1}_rn`, dropping exact duplicates."""
    renamed = {key: value for key, value in state.items() if not _ALIAS.search(key)}
    for key, value in state.items():
        if _ALIAS.search(key):
            renamed.setdefault(
                _ALIAS.sub(lambda m: f"scratch.layer{int(m[1]) + 1}_rn.weight", key), value
            )
    return renamed


_ALIAS = re.compile(r"scratch\.layer_rn\.([0-3])\.weight$")


def _shortened(names: list[str], limit: int = 12) -> str:
    extra = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + extra


def _quantise_rows(value: Tensor) -> tuple[Tensor, Tensor]:
    rows = value.flatten(1)
    scale = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    quantised = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return quantised.view(value.shape), scale


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
