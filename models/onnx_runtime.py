"""Run an exported network with ONNX Runtime on NumPy arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig

ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"

Array = NDArray[Any]


@dataclass(frozen=True)
class OnnxFeatures:
    """A batch of encoded images.

    Attributes:
        arrays: what the decoder reads, by the encoder's output names; `features` is
            `(B, h, w, E)` on the patch grid.
    """

    arrays: dict[str, Array]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.arrays["features"])

    def select(self, index: Sequence[int]) -> OnnxFeatures:
        """Pick images of the batch, repetition allowed."""
        return OnnxFeatures({name: array[list(index)] for name, array in self.arrays.items()})


@dataclass(frozen=True)
class OnnxView:
    """Dense prediction for one view of a pair, float32.

    Attributes:
        pointmap: `(B, H, W, 3)` in the camera frame of the pair's view 1 (OpenCV axes).
        confidence: `(B, H, W)`, higher is surer.
        descriptors: `(B, H, W, D)` of unit norm, or None.
        descriptor_confidence: `(B, H, W)`, or None.
    """

    pointmap: Array
    confidence: Array
    descriptors: Array | None = None
    descriptor_confidence: Array | None = None


@dataclass(frozen=True)
class OnnxPair:
    """Both views of a batch of pairs; both pointmaps are in view 1's camera frame."""

    view1: OnnxView
    view2: OnnxView


class OnnxTwoViewModel:
    """The two networks that `export_onnx` wrote.

    Args:
        folder: where `encoder.onnx` and `decoder.onnx` are.
        providers: of ONNX Runtime, in order of preference.

    Raises:
        ImportError: without onnxruntime.
        FileNotFoundError: if one of the files is missing.
        ValueError: if a file is no network that `export_onnx` wrote.
    """

    def __init__(
        self, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        try:
            import onnxruntime  # pyright: ignore
        except ImportError as error:
            raise ImportError(
                "running ONNX files needs onnxruntime: pip install 'weav3r[onnx]'"
            ) from error
        sessions = []
        for name in (ENCODER_FILE, DECODER_FILE):
            file = Path(folder) / name
            if not file.is_file():
                raise FileNotFoundError(
                    f"{file} does not exist; `weav3r models export` writes {name}"
                )
            try:
                sessions.append(onnxruntime.InferenceSession(str(file), providers=list(providers)))
            except Exception as error:  # the classes of ONNX Runtime's errors are not public
                raise ValueError(f"{file} cannot be read by ONNX Runtime: {error}") from error
        self._encoder, self._decoder = sessions
        metadata = self._encoder.get_modelmeta().custom_metadata_map
        if "config" not in metadata:
            raise ValueError(f"{Path(folder) / ENCODER_FILE} was not written by weav3r")
        self.config = ModelConfig.from_dict(json.loads(metadata["config"]))
        self.licence = metadata["licence"]

    def encode(self, images: Array) -> OnnxFeatures:
        """Encode images, once for all the pairs they are part of.

        Args:
            images: `(B, 3, H, W)` in [-1, 1], sides multiples of the patch size.

        Returns:
            What the decoder reads.

        Raises:
            ValueError: if the shape does not fit.
        """
        patch = self.config.patch_size
        shape = images.shape
        if len(shape) != 4 or shape[1] != 3 or any(n < 2 * patch or n % patch for n in shape[2:]):
            raise ValueError(
                f"images must be (B, 3, H, W) with H and W multiples of patch_size={patch}, at "
                f"least two patches each, got {shape}"
            )
        names = [output.name for output in self._encoder.get_outputs()]
        arrays = self._encoder.run(names, {"image": np.ascontiguousarray(images, np.float32)})
        return OnnxFeatures(dict(zip(names, arrays, strict=True)))

    def decode(self, view1: OnnxFeatures, view2: OnnxFeatures) -> OnnxPair:
        """Predict both views of each pair in the first camera's frame.

        Args:
            view1: the first images, B of them.
            view2: the second images, as many; their size may differ.

        Raises:
            ValueError: if the batches differ in length.
        """
        if len(view1) != len(view2):
            raise ValueError(
                f"decode needs as many first as second images, got {len(view1)} and {len(view2)}; "
                "use OnnxFeatures.select to repeat one"
            )
        read = {node.name for node in self._decoder.get_inputs()}
        inputs = {
            f"{name}_view{number}": array
            for number, view in enumerate((view1, view2), start=1)
            for name, array in view.arrays.items()
        }
        names = [output.name for output in self._decoder.get_outputs()]
        arrays = self._decoder.run(names, {k: v for k, v in inputs.items() if k in read})
        outputs = dict(zip(names, arrays, strict=True))
        return OnnxPair(_view(outputs, 1), _view(outputs, 2))


def _view(outputs: dict[str, Array], number: int) -> OnnxView:
    return OnnxView(
        pointmap=outputs[f"pointmap_view{number}"],
        confidence=outputs[f"confidence_view{number}"],
        descriptors=outputs.get(f"descriptors_view{number}"),
        descriptor_confidence=outputs.get(f"descriptor_confidence_view{number}"),
    )
