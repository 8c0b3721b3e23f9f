"""The work on photos that a job folder remembers: features, evidence of the pairs, dense depth.

Every result is made from its inputs alone, one image or one pair at a time, and is named by all
that it depends on: pixels and ledgers of the photos, weights and configuration of the network,
options, versions. What is there is therefore what would be computed, to the bit, whatever other
photos came along and whenever an earlier run was killed; where a photo, an option or the network
changed, only what depends on it gets another name.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from ...models.mapped import page_out
from ...models.two_view import EncodedImages, TwoViewModel
from ..alignment.pairs import GRID
from ..dense import DepthMap
from ..images import View
from ..predict import Precision, group_pairs, mixed_precision, predict_pairs
from .evidence import PairEvidence, PairReader, evidence_from_tensors, evidence_to_tensors
from .store import FORMAT, Arrays, JobStore, fingerprint

Result = TypeVar("Result")


def model_fingerprint(model: TwoViewModel) -> str:
    """Name a network by its configuration and all of its weights."""
    config = json.dumps(asdict(model.config), sort_keys=True, default=str)
    return fingerprint(config, dict(model.state_dict()))


class Job(Sequence[EncodedImages]):
    """Features of all photos, by index, and what else a job folder remembers of them.

    Args:
        store: the folder.
        model: the network.
        views: the photos.
        precision: of the matrix products.
        keep: precision of the features; None: as the network gives them.
        resident: features that stay in memory, the last used ones; None for all. The others are
            read from the folder, or made again.
    """

    def __init__(
        self,
        store: JobStore,
        model: TwoViewModel,
        views: Sequence[View],
        precision: Precision = "float32",
        keep: torch.dtype | None = None,
        resident: int | None = None,
    ) -> None:
        self.store, self.model, self.views = store, model, views
        self.precision: Precision = precision
        self.keep, self.resident = keep, resident
        self._features: OrderedDict[int, EncodedImages] = OrderedDict()
        network = fingerprint(
            *(FORMAT, version("weav3r"), torch.__version__, model.device.type),
            *(precision, str(keep), model_fingerprint(model)),
        )
        self._keys = [fingerprint(network, "features", view.image) for view in views]
        self._ledgers = [
            fingerprint(v.ledger.original_size, v.ledger.network_from_original) for v in views
        ]

    def __len__(self) -> int:
        """Count the photos."""
        return len(self.views)

    @overload
    def __getitem__(self, index: int) -> EncodedImages: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedImages]: ...
    def __getitem__(self, index: int | slice) -> EncodedImages | list[EncodedImages]:
        """Features of a photo, from memory, from the folder, or computed."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index in self._features:
            self._features.move_to_end(index)
            return self._features[index]
        size = self.views[index].size
        encoded = self._remember(
            ("features", self._keys[index]),
            lambda: self._encode(index),
            features_to_tensors,
            lambda tensors: features_from_tensors(tensors, size, self.model.device),
        )
        self._features[index] = encoded
        if self.resident is not None and len(self._features) > self.resident:
            self._features.popitem(last=False)
        return encoded

    def encode(self, progress: Callable[[int], None]) -> None:
        """Encode the photos that the folder does not hold."""
        for index, key in enumerate(self._keys):
            if ("features", key) not in self.store:
                self[index]
            progress(1)
        page_out([self.model.patch_embed, self.model.enc_blocks])

    def evidence(
        self, pairs: Sequence[tuple[int, int]], reader: PairReader
    ) -> Iterator[PairEvidence]:
        """Evidence of pairs, ordered as by `predict_pairs`: from the folder, the rest decoded."""
        for pair in self._ordered(pairs):
            yield self._evidence(pair, reader, lambda pair=pair: self._decode(pair, reader))

    def depth(
        self, images: Sequence[int], inputs: Any, compute: Callable[[], DepthMap]
    ) -> DepthMap:
        """Dense depth of a photo.

        Args:
            images: the photos whose features it is made from.
            inputs: all else that it depends on, see `fingerprint`.
            compute: makes it.
        """
        return self._remember(
            ("depth", fingerprint([self._keys[i] for i in images], inputs)),
            compute,
            lambda made: {n: torch.from_numpy(np.array(v)) for n, v in vars(made).items()},
            lambda tensors: DepthMap(tensors["depth"].numpy(), tensors["confidence"].numpy()),
        )

    def _encode(self, index: int) -> EncodedImages:
        return encode_image(self.model, self.views[index].image, self.precision, self.keep)

    def _decode(self, pair: tuple[int, int], reader: PairReader) -> PairEvidence:
        results = predict_pairs(self.model, self, [pair], 1, self.precision)
        return next(reader.read_all(results))

    def _ordered(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [p for group in group_pairs(pairs, lambda i: self.views[i].size) for p in group]

    def _pair_key(self, pair: tuple[int, int], reader: PairReader) -> str:
        """Name what the evidence of a pair depends on."""
        i, j = pair
        options = None if reader.matching is None else asdict(reader.matching)
        return fingerprint(
            *(self._keys[i], self._keys[j], self._ledgers[i], self._ledgers[j]),
            *(GRID, options, reader.keeps_maps, reader.device.type),
        )

    def _evidence(
        self, pair: tuple[int, int], reader: PairReader, compute: Callable[[], PairEvidence]
    ) -> PairEvidence:
        return self._remember(
            ("pairs", self._pair_key(pair, reader)),
            compute,
            evidence_to_tensors,
            lambda tensors: evidence_from_tensors(*pair, tensors),
        )

    def _remember(
        self,
        entry: tuple[str, str],
        compute: Callable[[], Result],
        to_tensors: Callable[[Result], Arrays],
        from_tensors: Callable[[Arrays], Result],
    ) -> Result:
        stored = self.store.get(*entry)
        if stored is not None:
            try:
                return from_tensors(stored)
            except (KeyError, ValueError, TypeError) as error:
                self.store.discard(*entry, f"does not hold what it should ({error})")
        made = compute()
        self.store.put(*entry, to_tensors(made))
        return made


def encode_image(
    model: TwoViewModel, image: Tensor, precision: Precision, keep: torch.dtype | None
) -> EncodedImages:
    """Features of one image, the same bits wherever it is computed.

    Args:
        model: the network.
        image: (3, H, W), see `View`.
        precision: of the matrix products.
        keep: precision of the features; None: as the network gives them.
    """
    with torch.inference_mode(), mixed_precision(model.device, precision):
        encoded = model.encode(torch.stack([image]).to(model.device))
    if keep is not None:
        encoded = encoded.stored_as(keep)
    return replace(encoded, local=tuple(map(_channels_last, encoded.local)))


def features_to_tensors(encoded: EncodedImages) -> Arrays:
    """Flatten the features of one image for storage."""
    tensors = {"tokens": encoded.tokens, "positions": encoded.positions}
    local = {f"local.{k}": level.permute(0, 2, 3, 1) for k, level in enumerate(encoded.local)}
    return tensors | local


def features_from_tensors(
    tensors: Arrays, size: tuple[int, int], device: torch.device
) -> EncodedImages:
    """Inverse of `features_to_tensors`.

    Raises:
        KeyError: if a tensor is missing.
    """
    levels = sum(name.startswith("local.") for name in tensors)
    return EncodedImages(
        tokens=tensors["tokens"].to(device),
        positions=tensors["positions"].to(device),
        image_size=size,
        local=tuple(tensors[f"local.{k}"].permute(0, 3, 1, 2).to(device) for k in range(levels)),
    )


def _channels_last(level: Tensor) -> Tensor:
    """Fix the order in memory, on which the last bits of a convolution depend."""
    return level.contiguous(memory_format=torch.channels_last)
