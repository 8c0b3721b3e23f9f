"""Run the network: each image is encoded once, each unordered pair decoded once.

The features of all images stay in memory (in half precision on request); the dense results of the
pairs are streamed, one `PairResult` at a time, so that nothing is kept that a later stage does not
read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch

from ..models.mapped import page_out
from ..models.two_view import EncodedImages, PairPrediction, TwoViewModel, ViewPrediction
from .images import View

Precision = Literal["float32", "bfloat16", "float16"]
Item = TypeVar("Item")
Result = TypeVar("Result")


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
    progress: Callable[[int], None] | None = None,
    precision: Precision = "float32",
    keep: torch.dtype | None = None,
) -> list[EncodedImages]:
    """Encode every image once, in batches of equal shape.

    Args:
        model: the network; the images are moved to its device.
        views: images as loaded by `load_images`.
        batch_size: images per batch; halved when the device runs out of memory.
        progress: called with the number of images done, after each batch.
        precision: of the matrix products; heads are always in float32.
        keep: precision in which the features wait for their pairs, e.g. `torch.float16` for
            collections of a thousand photos; None keeps what the network gives.

    Returns:
        One `EncodedImages` of batch size 1 per view, in the order of `views`, on the model's
        device.
    """
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, view in enumerate(views):
        by_shape[(view.image.shape[-2], view.image.shape[-1])].append(index)
    encoded: dict[int, EncodedImages] = {}

    def encode(chunk: list[int]) -> EncodedImages:
        images = torch.stack([views[i].image for i in chunk]).to(model.device)
        with torch.inference_mode(), mixed_precision(model.device, precision):
            batch = model.encode(images)
        return batch if keep is None else batch.stored_as(keep)

    for same_shape in by_shape.values():
        for chunk, batch in _in_batches(same_shape, batch_size, encode):
            for position, index in enumerate(chunk):
                encoded[index] = batch.select([position])
            if progress is not None:
                progress(len(chunk))
    page_out([model.patch_embed, model.enc_blocks])  # decoding pairs does not read them
    return [encoded[i] for i in range(len(views))]


def predict_pairs(
    model: TwoViewModel,
    encoded: Sequence[EncodedImages],
    pairs: Sequence[tuple[int, int]],
    batch_size: int = 2,
    precision: Precision = "float32",
) -> Iterator[PairResult]:
    """Decode unordered pairs, both directions at once, and yield the results one pair at a time.

    Pairs of equal shapes share a batch; the order of the results follows those batches, not
    `pairs`.

    Args:
        model: the network.
        encoded: features of all images, as returned by `encode_views`.
        pairs: (i, j) with i <= j.
        batch_size: pairs per batch; halved when the device runs out of memory.
        precision: of the matrix products; heads are always in float32.
    """

    def decode(chunk: list[tuple[int, int]]) -> tuple[PairPrediction, PairPrediction]:
        with torch.inference_mode(), mixed_precision(model.device, precision):
            return model.decode_symmetric(
                EncodedImages.cat([encoded[i] for i, _ in chunk]).stored_as(torch.float32),
                EncodedImages.cat([encoded[j] for _, j in chunk]).stored_as(torch.float32),
            )

    for same_shape in group_pairs(pairs, lambda i: encoded[i].image_size):
        for chunk, (forward, backward) in _in_batches(same_shape, batch_size, decode):
            forward, backward = _on_cpu(forward), _on_cpu(backward)
            for position, (i, j) in enumerate(chunk):
                yield PairResult(i, j, forward.select(position), backward.select(position))
            del forward, backward  # not kept while the next batch is decoded


def group_pairs(
    pairs: Iterable[tuple[int, int]], size: Callable[[int], tuple[int, int]]
) -> list[list[tuple[int, int]]]:
    """Pairs of equal shapes together, otherwise in their order: that of the results.

    Args:
        pairs: of image indices.
        size: (height, width) of an image.
    """
    by_shape: dict[tuple, list[tuple[int, int]]] = defaultdict(list)
    for i, j in pairs:
        by_shape[(size(i), size(j))].append((i, j))
    return list(by_shape.values())


def mixed_precision(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Run matrix products in `precision` inside a `with` block; "float32" changes nothing."""
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}"
        )
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def _in_batches(
    items: list[Item], batch_size: int, run: Callable[[list[Item]], Result]
) -> Iterator[tuple[list[Item], Result]]:
    """Apply `run` to batches of `items`, smaller ones once the GPU has run out of memory."""
    start = 0
    while start < len(items):
        chunk = items[start : start + batch_size]
        try:
            result = run(chunk)
        except torch.cuda.OutOfMemoryError:
            if len(chunk) == 1:
                raise
            batch_size = len(chunk) // 2
            torch.cuda.empty_cache()
            continue
        yield chunk, result
        del result
        start += len(chunk)


def _on_cpu(prediction: PairPrediction) -> PairPrediction:
    """Move a whole batch in float32, one transfer a map; nothing is copied that is there."""

    def moved(view: ViewPrediction) -> ViewPrediction:
        return view.map(lambda values: values.float().cpu())

    return PairPrediction(moved(prediction.view1), moved(prediction.view2))
