"""What a network costs at a size, counted on tensors without content: operations and live bytes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ...models.config import ModelConfig
from ...models.two_view import EncodedImages, PairPrediction, TwoViewModel

Result = TypeVar("Result")

_LARGE_INPUT = 2**18  # values of an image's tokens: from here on a processor takes them one by one


@dataclass(frozen=True)
class NetworkCosts:
    """Costs of one network at one size, of single images and pairs.

    Attributes:
        weights_bytes: of the parameters, in float32.
        features_bytes: that one encoded image keeps, in float32.
        features_half_bytes: the same in half precision.
        encoding_bytes: at the peak of encoding one image, its features included.
        decoding_bytes: at the peak of decoding one direction of one pair, its result included.
        prediction_bytes: of that result.
        encode_operations: floating point operations per image.
        decode_operations: per pair, both directions, heads included.
        one_by_one: whether batches are taken apart, as a processor does with large inputs.
    """

    weights_bytes: int
    features_bytes: int
    features_half_bytes: int
    encoding_bytes: int
    decoding_bytes: int
    prediction_bytes: int
    encode_operations: int
    decode_operations: int
    one_by_one: bool

    def encode_peak(self, images: int) -> int:
        """Bytes at the peak of encoding a batch."""
        if self.one_by_one:
            return _joined(images, self.encoding_bytes, self.features_bytes)
        return images * self.encoding_bytes

    def decode_peak(self, pairs: int) -> int:
        """Bytes at the peak of decoding a batch of pairs, both directions."""
        joined = 2 * pairs * self.features_bytes
        if self.one_by_one:
            first = pairs * self.prediction_bytes  # waits for the other direction
            return joined + first + _joined(pairs, self.decoding_bytes, self.prediction_bytes)
        return 3 * joined + 2 * pairs * self.decoding_bytes


def network_costs(config: ModelConfig, size: tuple[int, int], device: str) -> NetworkCosts:
    """Count without computing: takes a second, and no memory.

    Args:
        config: of the network.
        size: (height, width) of all images.
        device: type of the device; a processor runs large inputs one by one.
    """
    with torch.device("meta"):
        model = TwoViewModel(config).eval()
    image = torch.empty(1, 3, *size, device="meta")
    with torch.inference_mode():
        encode_operations, encoding_bytes, one = _count(lambda: model.encode(image))
        directed_operations, decoding_bytes, pair = _count(lambda: model.decode(one, one))
    patches = (size[0] // config.patch_size) * (size[1] // config.patch_size)
    return NetworkCosts(
        weights_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        features_bytes=_size(one),
        features_half_bytes=_size(one.stored_as(torch.float16)),
        encoding_bytes=encoding_bytes,
        decoding_bytes=decoding_bytes,
        prediction_bytes=_size(pair),
        encode_operations=encode_operations,
        decode_operations=2 * directed_operations,
        one_by_one=device == "cpu" and patches * config.encoder_dim > _LARGE_INPUT,
    )


def _joined(count: int, making: int, result: int) -> int:
    """Peak of making results one by one and joining them in the end."""
    return making if count == 1 else max(making + (count - 1) * result, 2 * count * result)


def _size(value: EncodedImages | PairPrediction) -> int:
    return sum(t.numel() * t.element_size() for t in _tensors(value))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else getattr(value, "__dict__", {}).values()
    return [tensor for part in parts for tensor in _tensors(part)]


def _count(run: Callable[[], Result]) -> tuple[int, int, Result]:
    """Operations and bytes at the peak, beyond those that lived before; and the result."""
    with FlopCounterMode(display=False) as operations, _LiveBytes() as live:
        result = run()
    return operations.get_total_flops(), live.peak, result


class _LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = {_place(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _place(tensor) not in before | self._known:
                self._follow(tensor)
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        self._known.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
