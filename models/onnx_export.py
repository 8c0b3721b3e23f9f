"""Export to ONNX: one file that encodes an image, one that decodes a pair of encoded images.

Batch, height and width stay free, and the two images of a pair may differ in size. The exporter
follows the network's own code, so that what it computes is written once.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from .config import ModelConfig
from .onnx_readme import README_FILE, onnx_readme
from .onnx_runtime import DECODER_FILE, ENCODER_FILE
from .outputs import EncodedImages, ViewPrediction
from .two_view import TwoViewModel

OPSET = 18
LOCAL_STRIDES = (1, 2, 4, 8)
_PACKAGES = ("onnx", "onnxscript")
_TRACED_GRIDS = ((3, 5), (6, 4))  # odd and even, all different: nothing holds by coincidence
_TRACED_BATCH = 3
_SMALLEST_GRID, _LARGEST_GRID = 3, 1024  # what the analysis assumes; nothing checks it later


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Attributes:
        encoder: file of the encoder.
        decoder: file of the pair decoder.
        readme: how to run them.
        bytes: size of all files of the encoder and the decoder, external weights included.
    """

    encoder: Path
    decoder: Path
    readme: Path
    bytes: dict[str, int]


def export_onnx(
    model: TwoViewModel,
    folder: str | Path,
    external_data: bool | None = None,
) -> OnnxExport:
    """Write `encoder.onnx`, `decoder.onnx` and a `README.md` that says how to run them.

    Args:
        model: the network; it is exported in float32, as it computes on the CPU in eval mode.
        folder: made if needed; files of these names in it are replaced.
        external_data: write the weights beside the `.onnx` files, into `.onnx.data`. None does it
            only above 2 GB, the limit of the format.

    Returns:
        The files.

    Raises:
        ImportError: without the packages of the extra `weav3r[onnx]`.
        ValueError: if the network is not in float32 on the CPU.
    """
    require_packages()
    if model.device.type != "cpu" or any(p.dtype != torch.float32 for p in model.parameters()):
        raise ValueError(
            "ONNX export needs the network in float32 on the CPU; load it with device='cpu'"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    was_training = model.training
    model.eval()
    try:
        encoder = _export_encoder(model)
        decoder = _export_decoder(model)
    finally:
        model.train(was_training)
    sizes = {}
    for program, name in ((encoder, ENCODER_FILE), (decoder, DECODER_FILE)):
        sizes[name] = _save(program, folder / name, _metadata(model), external_data)
    readme = folder / README_FILE
    names = encoded_names(model.config), prediction_names(model.config)
    readme.write_text(onnx_readme(model.config, _licence(model), *names), encoding="utf-8")
    return OnnxExport(folder / ENCODER_FILE, folder / DECODER_FILE, readme, sizes)


class _Encoder(nn.Module):
    """From images to the tensors that describe them."""

    def __init__(self, model: TwoViewModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map `(B, 3, H, W)` to the tensors that `encoded_names` lists."""
        patch = self.model.config.patch_size
        grid = (images.shape[2] // patch, images.shape[3] // patch)
        encoded = self.model.encode(images)
        return (
            encoded.tokens.unflatten(1, grid),  # (B, h, w, E): tells the decoder the grid
            encoded.positions.unflatten(1, grid),  # (B, h, w, 2)
            *encoded.local,
        )


class _Decoder(nn.Module):
    """From the tensors of two images to both predictions."""

    def __init__(self, model: TwoViewModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, view1: tuple[Tensor, ...], view2: tuple[Tensor, ...]) -> list[Tensor]:
        """Map what the encoder gave for both images to the outputs of `prediction_names`."""
        pair = self.model.decode(self._encoded(view1), self._encoded(view2))
        return [*_present(pair.view1), *_present(pair.view2)]

    def _encoded(self, tensors: tuple[Tensor, ...]) -> EncodedImages:
        tokens, positions, *local = tensors
        patch = self.model.config.patch_size
        return EncodedImages(
            tokens=tokens.flatten(1, 2),
            positions=positions.flatten(1, 2),
            image_size=(tokens.shape[1] * patch, tokens.shape[2] * patch),
            local=tuple(local),
        )


def _present(view: ViewPrediction) -> list[Tensor]:
    fields = (view.pointmap, view.confidence, view.descriptors, view.descriptor_confidence)
    return [field for field in fields if field is not None]


def encoded_names(config: ModelConfig) -> list[str]:
    """Names of the encoder's outputs; the decoder takes each twice, with `_view1` and `_view2`."""
    local = LOCAL_STRIDES if config.descriptor_head == "local" else ()
    return ["features", "positions", *(f"local_s{stride}" for stride in local)]


def prediction_names(config: ModelConfig) -> list[str]:
    """Names of the decoder's outputs, without `_view1` and `_view2`."""
    descriptors = ["descriptors", "descriptor_confidence"]
    return ["pointmap", "confidence", *(descriptors if config.descriptor_dim else [])]


def _export_encoder(model: TwoViewModel) -> Any:
    rows, columns = _TRACED_GRIDS[0]
    patch = model.config.patch_size
    images = torch.zeros(_TRACED_BATCH, 3, rows * patch, columns * patch)
    free = {0: _batch(), 2: patch * _side("rows"), 3: patch * _side("columns")}
    return _export(_Encoder(model), (images,), (free,), ["image"], encoded_names(model.config))


def _export_decoder(model: TwoViewModel) -> Any:
    names, patch = encoded_names(model.config), model.config.patch_size
    batch = _batch()
    inputs, shapes, input_names, output_names = [], [], [], []
    for view, (rows, columns) in enumerate(_TRACED_GRIDS, start=1):
        with torch.no_grad():
            images = torch.zeros(_TRACED_BATCH, 3, rows * patch, columns * patch)
            inputs.append(_Encoder(model)(images))
        down, across = _side(f"rows{view}"), _side(f"columns{view}")
        grid = {0: batch, 1: down, 2: across}
        local = [
            {0: batch, 2: patch // stride * down, 3: patch // stride * across}
            for stride in LOCAL_STRIDES[: len(names) - 2]
        ]
        shapes.append((grid, grid, *local))
        input_names += [f"{name}_view{view}" for name in names]
        output_names += [f"{name}_view{view}" for name in prediction_names(model.config)]
    return _export(_Decoder(model), tuple(inputs), tuple(shapes), input_names, output_names)


def _batch() -> Any:
    return Dim("batch", min=1, max=4096)


def _side(name: str) -> Any:
    return Dim(name, min=_SMALLEST_GRID, max=_LARGEST_GRID)


def _export(
    module: nn.Module,
    inputs: tuple[Any, ...],
    shapes: tuple[Any, ...],
    input_names: list[str],
    output_names: list[str],
) -> Any:
    with _quiet(), torch.no_grad():
        exported = torch.export.export(
            module,
            inputs,
            dynamic_shapes=shapes,
            strict=True,  # makes min and max of sizes part of the graph instead of constants
            prefer_deferred_runtime_asserts_over_guards=True,  # it cannot prove what odd grids do
        )
        return torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            custom_translation_table=_scalar_translations(),
            verbose=False,
            optimize=False,  # the runtime does that when it loads the file
        )


def _scalar_translations() -> dict[Any, Any]:
    """Products with a number that depends on the input's size; torch 2.13 expects constants."""
    from onnxscript import opset18 as op  # pyright: ignore

    def multiply(self: Any, other: Any) -> Any:
        return op.Mul(self, op.CastLike(other, self))  # pyright: ignore[reportArgumentType]

    def divide(self: Any, other: Any) -> Any:
        return op.Div(self, op.CastLike(other, self))  # pyright: ignore[reportArgumentType]

    return {torch.ops.aten.mul.Scalar: multiply, torch.ops.aten.div.Scalar: divide}


def _save(program: Any, file: Path, metadata: dict[str, str], external_data: bool | None) -> int:
    """Write a program with `metadata` and without the exporter's notes on the source code."""
    program.model.producer_name = "weav3r"
    program.model.metadata_props.clear()
    program.model.metadata_props.update(metadata)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    beside = file.with_name(file.name + ".data")
    for path in (file, beside):
        path.unlink(missing_ok=True)
    program.save(file, external_data=external_data)
    return sum(os.path.getsize(path) for path in (file, beside) if path.exists())


def _metadata(model: TwoViewModel) -> dict[str, str]:
    config = model.config
    return {
        "config": json.dumps(config.to_dict(), allow_nan=False),
        "licence": _licence(model),
        "patch_size": str(config.patch_size),
        "input": "RGB, (value / 255 - 0.5) / 0.5; height and width multiples of patch_size",
        "frame": "both pointmaps in the camera of view 1; x right, y down, z forward",
        "provenance": json.dumps(asdict(model.provenance)) if model.provenance else "{}",
    }


def _licence(model: TwoViewModel) -> str:
    stated = model.provenance.licence if model.provenance else ""
    return stated or "not stated"


def require_packages() -> None:
    """Raise ImportError unless the packages that the export needs are installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX export needs {' and '.join(missing)}: pip install 'weav3r[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself off the terminal; its errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
