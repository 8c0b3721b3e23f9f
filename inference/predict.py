"""Run the network: each image is encoded once, each unordered pair decoded once.

The features of all images stay in memory (in half precision on request); the dense results of the
pairs are streamed, one `PairResult` at a time, so that nothing is kept that a later stage does not
read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.two_view import EncodedImages, PairPrediction, TwoViewModel, ViewPrediction
from .images import View


@dataclass(frozen=True)
class PairResult:
    """Both directions of one unordered pair, at network resolution, on the CPU, without batch axis.

    Attributes:
        first, second: indices of the two views, first < second (equal for a single image).
        forward: prediction of (first, second): both pointmaps in the camera frame of `first`.
        backward: prediction of (second, first): both pointmaps in the camera frame of `second`;
            its `view1` is the image `second`.
    """

    first: int
    second: int
    forward: PairPrediction
    backward: PairPrediction


def encode_views(
    model: TwoViewModel,
    views: Sequence[View],
    batch_size: int = 4,
    progress=None,
) -> list[EncodedImages]:
    """Encode every image once, in batches of equal shape.

    Args:
        model: the network; the images are moved to its device.
        views: images as loaded by `load_images`.
        batch_size: images per batch.
        progress: called with the number of images done, after each batch.

    Returns:
        One `EncodedImages` of batch size 1 per view, in the order of `views`, on the model's
        device.
    """
    device = next(model.parameters()).device
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, view in enumerate(views):
        by_shape[(view.image.shape[-2], view.image.shape[-1])].append(index)
    encoded: dict[int, EncodedImages] = {}
    with torch.inference_mode():
        for indices in by_shape.values():
            for start in range(0, len(indices), batch_size):
                chunk = indices[start : start + batch_size]
                images = torch.stack([views[i].image for i in chunk]).to(device)
                batch = model.encode(images)
                for position, index in enumerate(chunk):
                    encoded[index] = batch.select([position])
                if progress is not None:
                    progress(len(chunk))
    return [encoded[i] for i in range(len(views))]


def predict_pairs(
    model: TwoViewModel,
    encoded: Sequence[EncodedImages],
    pairs: Sequence[tuple[int, int]],
    batch_size: int = 2,
) -> Iterator[PairResult]:
    """Decode unordered pairs, both directions at once, and yield the results one pair at a time.

    Pairs of equal shapes share a batch; the order of the results follows those batches, not
    `pairs`.

    Args:
        model: the network.
        encoded: features of all images, as returned by `encode_views`.
        pairs: (i, j) with i <= j.
        batch_size: pairs per batch; halved when the device runs out of memory.
    """
    by_shape: dict[tuple, list[tuple[int, int]]] = defaultdict(list)
    for i, j in pairs:
        by_shape[(encoded[i].image_size, encoded[j].image_size)].append((i, j))
    for same_shape in by_shape.values():
        start = 0
        while start < len(same_shape):
            chunk = same_shape[start : start + batch_size]
            try:
                with torch.inference_mode():
                    forward, backward = model.decode_symmetric(
                        EncodedImages.cat([encoded[i] for i, _ in chunk]),
                        EncodedImages.cat([encoded[j] for _, j in chunk]),
                    )
            except torch.cuda.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                torch.cuda.empty_cache()
                continue
            for position, (i, j) in enumerate(chunk):
                yield PairResult(
                    i, j, _take_pair(forward, position), _take_pair(backward, position)
                )
            start += len(chunk)


def _take_pair(prediction: PairPrediction, position: int) -> PairPrediction:
    return replace(
        prediction,
        view1=_take_view(prediction.view1, position),
        view2=_take_view(prediction.view2, position),
    )


def _take_view(view: ViewPrediction, position: int) -> ViewPrediction:
    def take(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[position].float().cpu()

    return ViewPrediction(
        pointmap=take(view.pointmap),  # type: ignore[arg-type]
        confidence=take(view.confidence),  # type: ignore[arg-type]
        descriptors=take(view.descriptors),
        descriptor_confidence=take(view.descriptor_confidence),
    )
