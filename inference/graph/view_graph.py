"""The view graph that `verify_edges` judges, from pointmaps or from matches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...geometry.camera import Float64Array
from ...geometry.transforms import Similarity, weighted_procrustes
from .front_evidence import ObservedDepth, front_evidence
from .verification import RelativeEdge

if TYPE_CHECKING:
    from ...geometry.pose import RelativePoseEstimate
    from ..alignment.pairs import PairSamples

_TOLERANCE = 0.1  # share of the depth by which a point must be nearer than a surface
_SURE_SHARE = 0.25  # of a photo, that a network knows of which it is asked about others
_SEEN_SHARE = 0.02  # of the other photo, above which it is seen
_UNSURE = 1.01  # confidence of pixels of which the network knows nothing, such as sky


@dataclass(frozen=True, eq=False)
class _OwnMap:
    """What all pairs together say of an image in its own camera frame; median depth 1.

    Attributes:
        points: (n, 3) on the sampling grid.
        sure: (n,) bool, confidence above 1 (if any is) and at or above the image's own median.
        observed: the surfaces it sees.
    """

    points: Tensor
    sure: Tensor
    observed: ObservedDepth


def edges_from_samples(samples: Sequence[PairSamples]) -> list[RelativeEdge]:
    """Turn pointmap pairs into the edges that `verify_edges` judges.

    Every image gets a frame of its own: its camera, with the median depth of its own pointmaps as
    unit. The more confident direction of a pair gives the similarity between the two frames; the
    sure points of each image are held against the surfaces of the other, the more generously the
    less the pair agrees with the images' own pointmaps.

    Args:
        samples: directed pairs on the sampling grid, as from `sample_pair`.

    Returns:
        One edge per unordered pair whose two images both are the frame of some pair, sorted.
    """
    frames: dict[int, list[PairSamples]] = defaultdict(list)
    best: dict[tuple[int, int], tuple[float, PairSamples]] = {}
    for sample in sorted(samples, key=lambda s: (s.frame, s.other)):
        if sample.frame == sample.other:
            continue
        frames[sample.frame].append(sample)
        key = (min(sample.frame, sample.other), max(sample.frame, sample.other))
        score = float(sample.confidence[0].mean() * sample.confidence[1].mean())
        if key not in best or score > best[key][0]:
            best[key] = score, sample
    own = {image: _own_map(parts) for image, parts in frames.items()}
    return [
        _edge(own, key, score, sample)
        for key, (score, sample) in sorted(best.items())
        if key[0] in own and key[1] in own
    ]


def pairs_without_confidence(samples: Sequence[PairSamples]) -> list[tuple[int, int]]:
    """Pairs in which neither photo is surely seen in the other's frame.

    Only networks that know their confidence are asked: those that are sure of something in the
    photos' own frames.

    Returns:
        (first, second) of unordered pairs, sorted.
    """
    seen: dict[tuple[int, int], bool] = {}
    for sample in samples:
        if sample.frame == sample.other:
            continue
        own, other = ((c > _UNSURE).double().mean().item() for c in sample.confidence)
        key = (min(sample.frame, sample.other), max(sample.frame, sample.other))
        knows = own >= _SURE_SHARE
        seen[key] = seen.get(key, False) or not knows or other >= _SEEN_SHARE
    return sorted(key for key, known in seen.items() if not known)


def edge_from_matches(
    first: int, second: int, estimate: RelativePoseEstimate
) -> RelativeEdge | None:
    """Turn the relative pose that matches gave into an edge without lengths; None if they failed.

    The direction of the translation counts only where the views have parallax. Matches of photos
    without known focal lengths serve, too: their rotations are wrong by a few degrees.
    """
    if not estimate:
        return None
    pose = estimate.cam2_from_cam1
    direction = np.zeros(3) if estimate.kind == "rotation" else pose[:3, 3]
    return RelativeEdge(first, second, pose[:3, :3], direction)


def _own_map(parts: Sequence[PairSamples]) -> _OwnMap:
    first = parts[0].points[0]
    total, mass = torch.zeros_like(first), torch.zeros_like(first[:, 0])
    for part in parts:
        points, weight = part.points[0], part.confidence[0]
        reference = first if mass.sum() == 0 else total / mass[:, None]
        along = (weight * (points * reference).sum(-1)).sum()
        scale = along / (weight * points.square().sum(-1)).sum().clamp_min(1e-300)
        total += scale * points * weight[:, None]
        mass += weight
    points = total / mass[:, None]
    points = points / points[:, 2].median().clamp_min(1e-12)
    confidence = mass / len(parts)
    known = confidence > _UNSURE
    if not known.any():  # the network says nothing of its confidence
        known = torch.ones_like(known)
    sure = known & (confidence >= confidence.median())
    focals = [part.focal_px for part in parts if np.isfinite(part.focal_px) and part.focal_px > 0]
    height, width = parts[0].sizes[0]
    focal = float(np.median(focals)) if focals else 1.2 * max(height, width)
    side = round(len(points) ** 0.5)
    depth = torch.where(sure, points[:, 2], torch.nan).reshape(side, side).numpy()
    return _OwnMap(points, sure, ObservedDepth(depth, _grid_intrinsics(focal, height, width, side)))


def _grid_intrinsics(focal_px: float, height: int, width: int, side: int) -> Float64Array:
    """K of the sampling grid: its first and last points are those of the image."""
    fx, fy = (focal_px * (side - 1) / max(length - 1, 1) for length in (width, height))
    return np.array([[fx, 0, side / 2], [0, fy, side / 2], [0, 0, 1.0]])


def _edge(
    own: dict[int, _OwnMap], key: tuple[int, int], score: float, sample: PairSamples
) -> RelativeEdge:
    frame, other = own[sample.frame], own[sample.other]
    to_frame = weighted_procrustes(frame.points, sample.points[0], sample.confidence[0])
    to_other = weighted_procrustes(other.points, sample.points[1], sample.confidence[1])
    frame_from_other = to_frame.inverse().compose(to_other)
    second_from_first = frame_from_other
    if sample.frame == key[0]:
        second_from_first = frame_from_other.inverse()
    slack = max(
        _disagreement(to_frame, frame.points, sample.points[0], frame.sure),
        _disagreement(to_other, other.points, sample.points[1], other.sure),
    )
    tolerance = _TOLERANCE + 3 * slack
    front = front_evidence(
        frame.observed, _placed(frame_from_other, other), tolerance
    ) + front_evidence(other.observed, _placed(frame_from_other.inverse(), frame), tolerance)
    return RelativeEdge(
        first=key[0],
        second=key[1],
        rotation=second_from_first.rotation.numpy(),
        translation=second_from_first.translation.numpy(),
        scale=float(second_from_first.scale),
        weight=score,
        front=front,
        slack=slack,
    )


def _disagreement(fit: Similarity, own: Tensor, seen: Tensor, sure: Tensor) -> float:
    """Median distance between a pair's points and the image's own, over their distance."""
    if not sure.any():
        return 0.0
    off = (fit.apply(own[sure]) - seen[sure]).norm(dim=-1)
    return float((off / seen[sure].norm(dim=-1).clamp_min(1e-12)).median())


def _placed(similarity: Similarity, image: _OwnMap) -> Float64Array:
    return similarity.apply(image.points[image.sure]).numpy()
