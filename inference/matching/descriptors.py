"""Matches between two photos from dense descriptors.

Anchors on a regular grid of one image look for their nearest neighbour in the other; a match is
kept when the way back ends where it began. The search runs on a coarse sampling of the other image
and is refined in the full map, to a fraction of a pixel. Each anchor sits at the same place in
every pair, which makes multi-view tracks without any merging of nearby key points (see `sfm`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import View
from ..predict import PairResult
from .subpixel import peak_offsets, window_scores


@dataclass(frozen=True)
class Matches:
    """Corresponding points of two photos.

    Attributes:
        xy1: (N, 2) float32, pixels of the original (upright) first photo, centres at half-integers.
        xy2: (N, 2) float32, the same for the second photo.
        confidence: (N,) float32, above 0; sorted from surest to least sure. It compares matches
            of one matcher and checkpoint only: "anchors" give the shares of the similarity that
            both ways leave for rivals, in (0, 1]; "reciprocal" and "gated" the geometric mean of
            both pixels' descriptor confidences (the smaller one where one network order is
            matched), unbounded; "pointmaps" that of both points' confidences, above 1.
    """

    xy1: np.ndarray
    xy2: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.confidence)

    def select(self, index: np.ndarray) -> Matches:
        """Matches at `index` (a mask or indices)."""
        return Matches(self.xy1[index], self.xy2[index], self.confidence[index])

    def swapped(self) -> Matches:
        """The same matches seen from the second photo."""
        return Matches(self.xy2, self.xy1, self.confidence)


@dataclass(frozen=True)
class MatchingOptions:
    """How dense descriptors become matches.

    Attributes:
        step: spacing of the anchors, network pixels.
        search_stride: spacing of the first search in the other image, network pixels.
        search_window: descriptors are averaged over so many pixels for the first search, so that a
            true match between the searched positions is not missed.
        tolerance: largest distance between an anchor and the end of the way back, network pixels.
        temperature: of the softmax that turns similarities into confidences.
        min_confidence: matches below are dropped.
        max_matches: the surest that are kept (per direction).
        border: anchors and matches closer to the image border are dropped, network pixels.
        block: anchors compared at once (bounds the memory).
        subpixel: refine the positions in the other image to a fraction of a pixel.
    """

    step: int = 4
    search_stride: int = 2
    search_window: int = 3
    tolerance: float = 3.0
    temperature: float = 0.05
    min_confidence: float = 0.0
    max_matches: int = 1500
    border: int = 2
    block: int = 1024
    subpixel: bool = True


def joint_descriptors(result: PairResult) -> tuple[Tensor, Tensor]:
    """Descriptors of both images of a pair that use both decoding directions.

    In each direction the descriptors of the two images are comparable with each other; joined along
    the channels, their dot product is the mean of the two directions' similarities.

    Returns:
        (H1, W1, 2D) and (H2, W2, 2D) unit vectors, for `result.first` and `result.second`.

    Raises:
        ValueError: if the checkpoint has no descriptors.
    """
    maps = (
        result.forward.view1.descriptors,
        result.backward.view2.descriptors,
        result.forward.view2.descriptors,
        result.backward.view1.descriptors,
    )
    a1, a2, b1, b2 = maps
    if a1 is None or a2 is None or b1 is None or b2 is None:
        raise ValueError(
            "this checkpoint predicts no descriptors, so photos cannot be matched with it; "
            "use weav3r-small or a MASt3R-class checkpoint"
        )
    scale = 0.5**0.5
    return torch.cat([a1, a2], -1) * scale, torch.cat([b1, b2], -1) * scale


def match_descriptors(
    descriptors1: Tensor, descriptors2: Tensor, options: MatchingOptions | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual nearest neighbours of the grid anchors of image 1 in image 2, at sub-pixel positions.

    Args:
        descriptors1: (H1, W1, D) unit vectors.
        descriptors2: (H2, W2, D) unit vectors.
        options: see `MatchingOptions`.

    Returns:
        xy1 (N, 2) and xy2 (N, 2) in network pixels with centres at half-integers (xy1 lies on pixel
        centres), and confidence (N,) in (0, 1], sorted from surest to least sure.
    """
    options = options or MatchingOptions()
    smooth1, smooth2 = (_averaged(d, options.search_window) for d in (descriptors1, descriptors2))
    return _match(descriptors1, descriptors2, smooth1, smooth2, options)


def _match(
    descriptors1: Tensor,
    descriptors2: Tensor,
    smooth1: Tensor,
    smooth2: Tensor,
    options: MatchingOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """`match_descriptors` with the averaged maps at hand."""
    anchors = _grid(descriptors1, options.step, options.border)
    if len(anchors) == 0 or min(descriptors2.shape[:2]) < 3:
        empty = descriptors1.new_zeros((0, 2))
        return empty, empty, descriptors1.new_zeros((0,))
    queries = _gather(descriptors1, anchors)
    coarse, forward_confidence = _search(_gather(smooth1, anchors), smooth2, options)
    best = _refine(queries, descriptors2, coarse, radius=options.search_stride)
    back, backward_confidence = _search(_gather(smooth2, best), smooth1, options)
    back = _refine(_gather(descriptors2, best), descriptors1, back, radius=options.search_stride)
    confidence = forward_confidence * backward_confidence
    height, width = descriptors2.shape[:2]
    inside = (
        (best[:, 0] >= options.border)
        & (best[:, 1] >= options.border)
        & (best[:, 0] < height - options.border)
        & (best[:, 1] < width - options.border)
    )
    returned = (back - anchors).float().norm(dim=-1) <= options.tolerance
    keep = (inside & returned & (confidence >= options.min_confidence)).nonzero()[:, 0]
    order = torch.argsort(confidence[keep], descending=True, stable=True)
    keep = keep[order[: options.max_matches]]
    xy1 = anchors[keep].flip(-1).float() + 0.5
    xy2 = best[keep].flip(-1).float() + 0.5
    if options.subpixel:
        xy2 = xy2 + peak_offsets(descriptors1, anchors[keep], descriptors2, best[keep])
    return xy1, xy2, confidence[keep]


def search_everywhere(
    descriptors1: Tensor, descriptors2: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """Compare every `step`-th pixel of image 1 with the whole of image 2.

    Returns:
        Two (R, C, 2) integer maps of (row, column): the grid in image 1, and the best pixels in
        image 2.
    """
    options = MatchingOptions(step=step)
    smooth1, smooth2 = (_averaged(d, options.search_window) for d in (descriptors1, descriptors2))
    anchors = _grid(descriptors1, step, 0)
    coarse, _ = _search(_gather(smooth1, anchors), smooth2, options)
    best = _refine(_gather(descriptors1, anchors), descriptors2, coarse, options.search_stride)
    rows = len(anchors[:, 0].unique())
    return anchors.view(rows, -1, 2), best.view(rows, -1, 2)


def match_pair(
    result: PairResult,
    view1: View,
    view2: View,
    options: MatchingOptions | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Matches, Matches]:
    """Matches of a pair in original pixels, anchored in the first and in the second image.

    Returns:
        Two `Matches`, both with `xy1` in `view1` and `xy2` in `view2`: the positions of the first
        are on the anchor grid of `view1`, those of the second on the anchor grid of `view2`.
    """
    options = options or MatchingOptions()
    descriptors1, descriptors2 = (d.to(device) for d in joint_descriptors(result))
    smooth1, smooth2 = (_averaged(d, options.search_window) for d in (descriptors1, descriptors2))
    forward = _match(descriptors1, descriptors2, smooth1, smooth2, options)
    backward = _match(descriptors2, descriptors1, smooth2, smooth1, options)
    return (
        _to_original(forward[0], forward[1], forward[2], view1, view2),
        _to_original(backward[1], backward[0], backward[2], view1, view2),
    )


def merge_matches(a: Matches, b: Matches) -> Matches:
    """Both sets together, sorted from surest to least sure."""
    confidence = np.concatenate([a.confidence, b.confidence])
    order = np.argsort(-confidence, kind="stable")
    return Matches(
        np.concatenate([a.xy1, b.xy1])[order],
        np.concatenate([a.xy2, b.xy2])[order],
        confidence[order],
    )


def _to_original(xy1: Tensor, xy2: Tensor, confidence: Tensor, view1: View, view2: View) -> Matches:
    return Matches(
        np.asarray(view1.ledger.points_to_original(xy1.cpu().numpy()), dtype=np.float32),
        np.asarray(view2.ledger.points_to_original(xy2.cpu().numpy()), dtype=np.float32),
        confidence.cpu().numpy().astype(np.float32),
    )


def _grid(descriptors: Tensor, step: int, border: int) -> Tensor:
    """(N, 2) integer (row, column) positions with spacing `step`, centred in the map."""
    height, width = descriptors.shape[:2]
    device = descriptors.device

    def axis(length: int) -> Tensor:
        start = max(border, ((length - 1) % step) // 2)
        return torch.arange(start, max(start, length - border), step, device=device)

    rows, columns = axis(height), axis(width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def _gather(descriptors: Tensor, positions: Tensor) -> Tensor:
    return descriptors[positions[:, 0], positions[:, 1]]


def _averaged(descriptors: Tensor, window: int) -> Tensor:
    """Descriptors averaged over a square window, as unit vectors."""
    if window <= 1:
        return descriptors
    channels_first = descriptors.permute(2, 0, 1)[None]
    mean = F.avg_pool2d(channels_first, window, 1, window // 2, count_include_pad=False)
    return F.normalize(mean[0].permute(1, 2, 0), dim=-1)


def _search(queries: Tensor, target: Tensor, options: MatchingOptions) -> tuple[Tensor, Tensor]:
    """Best coarse position of each query in `target` and its share of the softmax over all."""
    candidates = _grid(target, options.search_stride, 0)
    bank = _gather(target, candidates).T.contiguous()  # (D, M)
    best, share = [], []
    for block in queries.split(options.block):
        similarity = block @ bank  # (n, M)
        value, index = similarity.max(dim=1)
        # every fourth candidate stands for its neighbours: the sum is what costs time, not its bits
        rivals = (similarity[:, ::4] - value[:, None]).div_(options.temperature).exp_()
        share.append(1.0 / (4 * rivals.sum(dim=1)).clamp(min=1.0))
        best.append(index)
    return candidates[torch.cat(best)], torch.cat(share)


def _refine(queries: Tensor, target: Tensor, positions: Tensor, radius: int) -> Tensor:
    """(N, 2) best integer (row, column) within `radius` of `positions`, not on the border."""
    span = torch.arange(-radius, radius + 1, device=target.device)
    shifts = torch.stack(torch.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)
    window, similarity = window_scores(queries, target, positions, shifts)
    choice = similarity.argmax(dim=1)
    best = window[torch.arange(len(window), device=target.device), choice]
    limit = torch.tensor(target.shape[:2], device=target.device) - 2
    return torch.minimum(best.clamp(min=1), limit)
