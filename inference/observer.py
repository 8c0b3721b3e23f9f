"""What a reconstruction lets others see before it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .images import View
from .job.evidence import own_map
from .predict import PairResult


@dataclass(frozen=True)
class EarlyDepth:
    """Depth of one photo while the work goes on.

    Attributes:
        index: of the photo among the usable ones.
        name: of the photo.
        rgb: (H, W, 3) uint8, network size.
        depth: (H, W) float32, z along the camera axis; NaN or <= 0 where there is none.
        confidence: (H, W) float32.
        final: False for what the network guesses from the photo's first pair, in a scale of its
            own; True for the depth of the scene, before the photos voted on its confidence.
    """

    index: int
    name: str
    rgb: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    final: bool


Observer = Callable[[EarlyDepth], None]


def with_first_guesses(
    results: Iterable[PairResult], views: Sequence[View], observer: Observer
) -> Iterator[PairResult]:
    """Hand pairs on as they are, and show the observer each photo's own map in its first pair."""
    shown: set[int] = set()
    for result in results:
        for index, view in (
            (result.first, result.forward.view1),
            (result.second, result.backward.view1),
        ):
            if index not in shown:
                shown.add(index)
                own = own_map(view)
                show_depth(observer, index, views[index], own.depth, own.confidence, final=False)
        yield result
        del result  # not kept while the next pair is decoded


def show_depth(
    observer: Observer,
    index: int,
    view: View,
    depth: np.ndarray,
    confidence: np.ndarray,
    *,
    final: bool,
) -> None:
    """Show a depth map (H, W) of `view`, without what its mask leaves out."""
    if view.mask is not None:
        depth = np.where(view.mask.numpy(), depth, np.nan).astype(np.float32)
    observer(EarlyDepth(index, view.name, view.rgb, depth, confidence, final))
