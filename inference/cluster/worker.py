"""What runs on the other machines: a network that encodes images and reads pairs.

Each result is computed by the same functions, one image or one pair at a time and with as many
threads, as on the machine that asked, so it has the same bits on equal processors.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from ...croco_like.attention import AttentionBackend, CrossAttention, set_attention_backend
from ...models.config import ModelConfig
from ...models.loading import empty_model
from ...models.two_view import EncodedImages, TwoViewModel
from ..images import View
from ..job.evidence import PairReader, evidence_to_tensors
from ..job.folder import encode_image, features_from_tensors, features_to_tensors
from ..job.store import Arrays, JobStore
from ..matching.descriptors import MatchingOptions
from ..predict import Precision, predict_pairs

_ALIGNMENT = 64  # bytes: kernels read whole cache lines, and sum in another order where they cannot


@dataclass(frozen=True)
class Weight:
    """One tensor of a network.

    Attributes:
        content: its bytes; a view, which the workers of one machine share.
        dtype: its name.
        shape: of the tensor.
        offset: of its place in memory, bytes beyond a multiple of 64, on which bits may depend.
    """

    content: np.ndarray
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> Weight:
        """Take the bytes of a tensor."""
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(content, dtype, tuple(tensor.shape), tensor.data_ptr() % _ALIGNMENT)

    def copy(self) -> Tensor:
        """Make a tensor of its own, as far from a multiple of 64 bytes as the original."""
        memory = torch.empty(self.content.size + 2 * _ALIGNMENT, dtype=torch.uint8)
        start = (self.offset - memory.data_ptr()) % _ALIGNMENT
        place = memory[start : start + self.content.size]
        np.copyto(place.numpy(), self.content)
        return place.view(getattr(torch, self.dtype)).view(self.shape)


@dataclass(frozen=True)
class Network:
    """A network on its way to the workers, by the cluster's object store.

    Attributes:
        config: its shape.
        weights: by name.
        attention: backend of its attention layers.
        device: type of the device it runs on.
    """

    config: ModelConfig
    weights: dict[str, Weight]
    attention: AttentionBackend
    device: str

    @classmethod
    def of(cls, model: TwoViewModel) -> Network:
        """Take a network apart."""
        return cls(
            config=model.config,
            weights={name: Weight.of(tensor) for name, tensor in model.state_dict().items()},
            attention=next(m.backend for m in model.modules() if isinstance(m, CrossAttention)),
            device=model.device.type,
        )

    def build(self) -> TwoViewModel:
        """Put it together again."""
        model = empty_model(self.config)
        weights = {name: weight.copy() for name, weight in self.weights.items()}
        model.load_state_dict(weights, strict=True, assign=True)
        set_attention_backend(model, self.attention)
        return model.to(self.device).eval()


@dataclass(frozen=True)
class Setup:
    """What all workers of one run have in common.

    Attributes:
        folder: the job folder, as the machine that asks knows it.
        sign: by which it is told from another one of that name, see `JobStore.sign`.
        threads: of the tensor operations.
        precision: of the matrix products.
        product_precision: torch's setting for float32 matrix products.
    """

    folder: Path
    sign: str
    threads: int
    precision: Precision
    product_precision: str


@dataclass(frozen=True)
class WorkerInfo:
    """Who a worker is.

    Attributes:
        host: name of its machine.
        process: its number there.
        versions: of what the results depend on.
        processor: instructions that its tensor operations use.
        sees_folder: whether it reads and writes the job folder itself.
    """

    host: str
    process: int
    versions: dict[str, str]
    processor: str
    sees_folder: bool


@dataclass(frozen=True)
class PairTask:
    """One pair to be decoded and read.

    Attributes:
        key: of its evidence.
        features: keys of the two images' features.
        views: the two photos, without their pixels; one where a photo is paired with itself.
        matching, keeps_maps: see `PairReader`.
    """

    key: str
    features: tuple[str, ...]
    views: tuple[View, ...]
    matching: MatchingOptions | None
    keeps_maps: bool


class Worker:
    """One process of the cluster."""

    def __init__(self, setup: Setup, network: Network) -> None:
        torch.set_num_threads(setup.threads)
        torch.set_float32_matmul_precision(setup.product_precision)
        self._precision: Precision = setup.precision
        self._model = network.build()
        self._store = JobStore.find(setup.folder, setup.sign)

    def hello(self) -> WorkerInfo:
        """Say who this is, once it is ready to work."""
        return worker_info(self._store is not None)

    def encode(self, key: str, image: np.ndarray, keep: str | None) -> np.ndarray | None:
        """Encode an image.

        Args:
            key: of its features.
            image: (3, H, W) float32.
            keep: name of the precision in which the features are stored.

        Returns:
            The features, see `pack`; None if they are in the job folder.
        """
        dtype = None if keep is None else getattr(torch, keep)
        encoded = encode_image(self._model, torch.from_numpy(image.copy()), self._precision, dtype)
        return self._hand_over("features", key, features_to_tensors(encoded))

    def read_pair(self, task: PairTask, *features: np.ndarray | None) -> np.ndarray | None:
        """Decode a pair and reduce it to its evidence.

        Args:
            task: the pair.
            *features: of its images; None where they are in the job folder.

        Returns:
            The evidence, see `pack`; None if it is in the job folder, or if the features that
            should be there are not.
        """
        found: list[EncodedImages] = []
        for key, view, packed in zip(task.features, task.views, features, strict=True):
            tensors = self._look_up(key) if packed is None else unpack(packed)
            if tensors is None:
                return None
            found.append(features_from_tensors(tensors, view.size, self._model.device))
        reader = PairReader(task.views, task.matching, task.keeps_maps, self._model.device)
        pair = (0, len(found) - 1)
        results = predict_pairs(self._model, found, [pair], 1, self._precision)
        evidence = next(reader.read_all(results))
        return self._hand_over("pairs", task.key, evidence_to_tensors(evidence))

    def _look_up(self, key: str) -> Arrays | None:
        return None if self._store is None else self._store.get("features", key)

    def _hand_over(self, kind: str, key: str, tensors: Arrays) -> np.ndarray | None:
        if self._store is not None and self._store.put(kind, key, tensors):
            return None
        return pack(tensors)


def worker_info(sees_folder: bool) -> WorkerInfo:
    """Describe this process."""
    return WorkerInfo(
        host=socket.gethostname(),
        process=os.getpid(),
        versions={"weav3r": version("weav3r"), "torch": torch.__version__},
        processor=torch.backends.cpu.get_cpu_capability(),
        sees_folder=sees_folder,
    )


def pack(tensors: Arrays) -> np.ndarray:
    """Tensors as bytes, in an array, which the workers of one machine share."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return np.frombuffer(save(contiguous), dtype=np.uint8)


def unpack(packed: np.ndarray) -> Arrays:
    """Inverse of `pack`; the tensors are copies."""
    return {name: tensor.clone() for name, tensor in load(packed.tobytes()).items()}
