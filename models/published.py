"""Published checkpoints: `.pth` files of DUSt3R, MASt3R and CroCo, read without trust."""

from __future__ import annotations

import ast
import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..croco_like.croco import CROCO_PRESETS, CrocoConfig, CrocoModel
from ._archive import TorchArchive, is_torch_file
from ._foreign import refuse_prefix
from ._stored import Namespace, StoredTensor
from .config import NUMBERS, PRESETS, Bounds, ModelConfig, check_number
from .published_config import PUBLISHED_NAMES, config_from_published
from .storage import TensorFile
from .two_view import TwoViewModel
from .weights import canonical_keys

MAX_CONSTRUCTOR_LENGTH = 4096  # characters; the longest published one has 450

_FOREIGN = "not a DUSt3R, MASt3R or CroCo checkpoint"
_TWO_VIEW_CLASSES = ("AsymmetricCroCo3DStereo", "AsymmetricMASt3R")
_COMPLETION_CLASSES = ("CroCoNet",)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """What a published file holds.

    Attributes:
        state: weights by their names in the file, in their stored types. Views of the memory-mapped
            file: writing to them changes memory only. Keep the file in place while they live.
        config: of a two-view network, or of a CroCo completion network.
        arguments: the training options in the file, plain values only (None, bool, int, float,
            str, tuple, list, dict); others are left out.
        name: preset that has this shape, else the name of the file without its suffix.
    """

    state: dict[str, Tensor]
    config: ModelConfig | CrocoConfig
    arguments: Mapping[str, Any]
    name: str


def read_published(path: Path) -> PublishedCheckpoint:
    """Read a `.pth` file of DUSt3R, MASt3R or CroCo.

    Nothing in the file is run, see `_pickle`. The weights are not copied. A file without its
    constructor arguments is recognised by the shapes of its weights; the linear networks for 224
    and for 512 pixels have the same ones, and pass as the latter unless "224" is in the file name.

    Args:
        path: a file written by `torch.save` of torch 1.6 or newer; its suffix does not matter.

    Returns:
        Weights and configuration.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is damaged, malicious, or no such checkpoint.
    """
    archive = TorchArchive(path)
    try:
        content = archive.value
        if isinstance(content, dict) and _is_state(content):
            content = {"model": content}
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise ValueError(
                f"{_FOREIGN}: expected a dictionary with the weights under 'model', as the "
                "training scripts write it, or the weights alone"
            )
        stored = _weights(content["model"])
        arguments = _plain_arguments(content.get("args"))
        config, name = _find_config(content, arguments, stored, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return PublishedCheckpoint(archive.tensors(stored), config, arguments, name)


def read_completion_weights(path: Path) -> dict[str, Tensor] | None:
    """Read the weights of a CroCo completion network to start a two-view network from.

    Args:
        path: a `.pth` or `.safetensors` file.

    Returns:
        The state dict for `initialise_from_croco`, or None if the file is anything else.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is a `torch.save` file that cannot be read.
    """
    if is_torch_file(path):
        checkpoint = read_published(path)
        return checkpoint.state if isinstance(checkpoint.config, CrocoConfig) else None
    if path.suffix != ".safetensors":
        return None
    state = TensorFile(path)
    return dict(state) if _is_completion(state) else None


def parse_constructor(text: str) -> tuple[str, dict[str, Any]]:
    """Take a constructor call apart, as plain text: it is never evaluated.

    Args:
        text: for example `"AsymmetricMASt3R(head_type='catmlp+dpt', two_confs=True)"`; arguments
            are literals by name, and `inf`.

    Returns:
        Name of the class and its arguments.

    Raises:
        ValueError: for anything else.
    """
    if len(text) > MAX_CONSTRUCTOR_LENGTH:
        raise ValueError(f"the constructor call is longer than {MAX_CONSTRUCTOR_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about odd literals
            call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot parse the constructor call {_clipped(text)}") from error
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise ValueError(f"expected the call of a constructor, got {_clipped(text)}")
    known = (*_TWO_VIEW_CLASSES, *_COMPLETION_CLASSES)
    if call.func.id not in known:
        raise ValueError(f"unknown network {_clipped(call.func.id)}; known: {', '.join(known)}")
    names = [keyword.arg for keyword in call.keywords]
    if call.args or None in names or len(set(names)) < len(names):
        raise ValueError(f"expected arguments by name, each once, got {_clipped(text)}")
    return call.func.id, {str(k.arg): _literal(k.value, str(k.arg)) for k in call.keywords}


def _literal(node: ast.expr, name: str, depth: int = 0) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bool | int | float | None):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if isinstance(node, ast.Tuple | ast.List) and depth < 4:
        return tuple(_literal(item, name, depth + 1) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd) and depth < 4:
        value = _literal(node.operand, name, depth + 1)
        if type(value) in (int, float):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
        texts = [getattr(argument, "value", None) for argument in node.args]
        if not node.keywords and len(texts) == 1 and texts[0] in ("inf", "-inf"):
            return float(texts[0])
    raise ValueError(
        f"argument {_clipped(name)} of the constructor is no literal but a {type(node).__name__}"
    )


def _clipped(text: str) -> str:
    return ascii(text if len(text) <= 100 else text[:97] + "...")


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(value, StoredTensor) for value in content.values())


def _weights(model: Mapping[Any, Any]) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for key, value in model.items():
        if not isinstance(key, str) or not isinstance(value, StoredTensor):
            raise ValueError(f"the weights hold something that is no tensor: {_clipped(str(key))}")
        if not value.dtype.is_floating_point and not any("enc_blocks." in str(k) for k in model):
            raise ValueError(f"{_FOREIGN}: its weights are called {_clipped(key)} and the like")
        if not value.dtype.is_floating_point:
            raise ValueError(
                f"{_clipped(key)} is of type {value.dtype}; weights are floating-point"
            )
        stored[key] = value
    if not stored:
        raise ValueError("there are no weights under 'model'")
    return stored


def _plain_arguments(value: Any) -> dict[str, Any]:
    """Keep what is plain of the training options; `interpret` has bounded their depth and size."""
    values = value.values if isinstance(value, Namespace) else value
    if not isinstance(values, dict):
        return {}
    return {key: item for key, item in values.items() if isinstance(key, str) and _is_plain(item)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return isinstance(value, str | bool | int | float | None)


def _find_config(
    content: Mapping[Any, Any],
    arguments: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    stem: str,
) -> tuple[ModelConfig | CrocoConfig, str]:
    text, keywords = arguments.get("model"), content.get("croco_kwargs")
    if isinstance(text, str):
        kind, values = parse_constructor(text)
        if kind in _TWO_VIEW_CLASSES:
            return _named(config_from_published(values), stem)
        return _named_completion(values, stem)
    if keywords is not None:
        if not isinstance(keywords, dict) or not _is_plain(keywords) or not _are_names(keywords):
            raise ValueError("croco_kwargs holds something other than plain values")
        return _named_completion(keywords, stem)
    shapes = {key: entry.shape for key, entry in stored.items()}
    return _recognised(shapes, stem)


def _are_names(keywords: Mapping[str, Any]) -> bool:
    return all(key.isidentifier() and len(key) < 100 for key in keywords)


def _named(config: ModelConfig, stem: str) -> tuple[ModelConfig, str]:
    if config.name in PRESETS:
        return config, config.name
    return dataclasses.replace(config, name=stem[:100] or "custom"), stem


def _named_completion(values: Mapping[str, Any], stem: str) -> tuple[CrocoConfig, str]:
    config = _completion_config(values)
    names = [name for name, preset in CROCO_PRESETS.items() if preset == config]
    return config, names[0] if names else stem


def _completion_config(values: Mapping[str, Any]) -> CrocoConfig:
    """Check what a hostile file could put into the constructor arguments of CroCo."""
    size = values.get("img_size", 224)
    if isinstance(size, tuple | list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    for field, value in {**values, "img_size": size}.items():
        if field in _COMPLETION_BOUNDS:
            check_number(field, value, _COMPLETION_BOUNDS[field])
    if not isinstance(values.get("norm_im2_in_dec", True), bool):
        raise ValueError("norm_im2_in_dec must be True or False")
    return CrocoConfig.from_published({**values, "img_size": size})


_COMPLETION_BOUNDS = {
    "img_size": Bounds(1, 4096),
    "mask_ratio": Bounds(0, 1, whole=False),
    **{theirs: NUMBERS[ours] for theirs, ours in PUBLISHED_NAMES.items() if ours in NUMBERS},
}


def _recognised(
    shapes: Mapping[str, tuple[int, ...]], stem: str
) -> tuple[ModelConfig | CrocoConfig, str]:
    """Find the network with exactly these weights; see `read_published` for the equal pair."""
    if _is_completion(shapes):
        for name, config in CROCO_PRESETS.items():
            if _shapes_of(lambda config=config: CrocoModel(config)) == dict(shapes):
                return config, name
    order = sorted(PRESETS, key=lambda name: ("224" in name) != ("224" in stem))
    wanted = {key: tuple(value.shape) for key, value in canonical_keys(_empty(shapes)).items()}
    for name in order:
        preset = PRESETS[name]
        own = _shapes_of(lambda preset=preset: TwoViewModel(preset))
        if own == wanted or _without_second_decoder(own) == wanted:
            return preset, name
    refuse_prefix(shapes)
    if not any("enc_blocks." in key for key in shapes):
        raise ValueError(f"{_FOREIGN}: its weights are called {_clipped(next(iter(shapes)))}")
    raise ValueError(
        "the file does not say which network its weights are for (no constructor call in args, no "
        "croco_kwargs), and their shapes are those of no known network: "
        f"{', '.join((*PRESETS, *CROCO_PRESETS))}"
    )


def _is_completion(keys: Mapping[str, Any]) -> bool:
    return "prediction_head.weight" in keys and "dec_blocks.0.norm1.weight" in keys


def _empty(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def _shapes_of(make: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in make().state_dict().items()}


def _without_second_decoder(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in shapes.items() if not key.startswith("dec_blocks2.")}
