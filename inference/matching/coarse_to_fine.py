"""Match photos at more than the network's resolution, by overlapping crops.

The matches of the whole photos at network size say which crops show the same; the network sees
these pairs of crops one by one, and their matches are put together in original pixels.

Reference: Leroy et al., Grounding Image Matching in 3D with MASt3R, ECCV 2024, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ...geometry.ledger import Ledger
from ...geometry.pointmap import pixel_grid
from ...models.two_view import TwoViewModel
from ..images import View
from ..predict import Precision, encode_views, predict_pairs
from ..progress import make_progress
from .crops import CropPairs, crop_camera, crop_pairs, grid_windows
from .descriptors import Matches
from .methods import MatcherOptions, match_views

_SAME_PLACE_PX = 4


@dataclass(frozen=True, eq=False)
class CoarseToFineOptions:
    """How photos are cut into crops.

    Attributes:
        detail: the photos are looked at at so many times the network's size, or at their own size
            if that is less.
        overlap: share of a crop that its neighbour shows too, at least.
        coverage: share of what all crops see of the coarse matches that the chosen ones must see.
        batch_size: pairs of crops that the network sees at once.
        K1: (3, 3) intrinsics of the first photo, original pixels. With them, each of its crops is
            resampled as a camera turned towards it would see it, with the principal point in the
            middle, as the network expects.
        K2: the same for the second photo.
    """

    detail: float = 3.0
    overlap: float = 0.5
    coverage: float = 0.9
    batch_size: int = 2
    K1: np.ndarray | None = None
    K2: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.detail < 1:
            raise ValueError(f"detail must be at least 1, got {self.detail}")
        if not 0 <= self.overlap < 1 or not 0 < self.coverage <= 1:
            raise ValueError(
                "overlap must be in [0, 1) and coverage in (0, 1], got "
                f"{self.overlap} and {self.coverage}"
            )


@dataclass(frozen=True)
class _Crop:
    """A crop as the network sees it, and the (3, 3) homography from its pixels to the photo's."""

    view: View
    homography: np.ndarray


def match_crops(
    model: TwoViewModel,
    photo1: View,
    photo2: View,
    coarse: Matches,
    size: int,
    options: CoarseToFineOptions | None = None,
    matcher: MatcherOptions | None = None,
    precision: Precision = "float32",
    progress: bool | Callable[[str, int, int], None] = False,
) -> Matches:
    """Match two photos by crops of the network's size.

    Args:
        model: the network.
        photo1: the first photo at the resolution that the crops are taken from.
        photo2: the second photo.
        coarse: matches of the whole photos, original pixels.
        size: long side of the crops, pixels of `photo1.image` and `photo2.image`.
        options: see `CoarseToFineOptions`.
        matcher: options of the matcher; None is the default for the model.
        precision: see `encode_views`.
        progress: see `make_progress`.

    Returns:
        Matches in original pixels, surest first; none if no crop holds enough coarse matches.
    """
    options = options or CoarseToFineOptions()
    chosen = chosen_crops(photo1, photo2, coarse, size, options)
    windows1, first = np.unique(chosen.windows1, axis=0, return_inverse=True)
    windows2, second = np.unique(chosen.windows2, axis=0, return_inverse=True)
    crops = [_cut(photo1, window, options.K1) for window in windows1]
    crops += [_cut(photo2, window, options.K2) for window in windows2]
    second = second.reshape(-1) + len(windows1)
    pairs = list(zip(first.reshape(-1).tolist(), second.tolist(), strict=True))
    found: list[Matches] = []
    with make_progress(progress) as show:
        with show.stage("encode crops", len(crops)) as advance:
            views = [crop.view for crop in crops]
            encoded = encode_views(model, views, progress=advance, precision=precision)
        with show.stage("match crops", len(pairs)) as advance:
            for result in predict_pairs(model, encoded, pairs, options.batch_size, precision):
                a, b = crops[result.first], crops[result.second]
                matches = match_views(result, a.view, b.view, matcher, model.device)
                xy1 = _to_original(matches.xy1, a, photo1.ledger)
                xy2 = _to_original(matches.xy2, b, photo2.ledger)
                found.append(Matches(xy1, xy2, matches.confidence))
                advance(1)
    return _merged(found, photo1.ledger, photo2.ledger)


def chosen_crops(
    photo1: View, photo2: View, coarse: Matches, size: int, options: CoarseToFineOptions
) -> CropPairs:
    """The pairs of windows of two photos that `match_crops` looks at."""
    return crop_pairs(
        np.asarray(photo1.ledger.points_to_network(coarse.xy1)),
        np.asarray(photo2.ledger.points_to_network(coarse.xy2)),
        photo1.size,
        photo2.size,
        size,
        _window_size(photo1, size),
        _window_size(photo2, size),
        options.overlap,
        options.coverage,
    )


def _window_size(photo: View, size: int) -> tuple[int, int]:
    x0, y0, x1, y1 = grid_windows(photo.size, size)[0].tolist()
    return y1 - y0, x1 - x0


def _cut(photo: View, window: np.ndarray, K: np.ndarray | None) -> _Crop:
    x0, y0, x1, y1 = (int(value) for value in window)
    ledger = Ledger.from_file_size(y1 - y0, x1 - x0)
    if K is None:
        shift = np.array([[1.0, 0, x0], [0, 1.0, y0], [0, 0, 1.0]])
        return _Crop(View(photo.name, None, photo.image[:, y0:y1, x0:x1], ledger), shift)
    homography = crop_camera(np.asarray(photo.ledger.K_to_network(K)), window).homography
    grid = pixel_grid(y1 - y0, x1 - x0)
    seen = torch.from_numpy(_mapped(homography, grid.numpy().astype(np.float64))).float()
    limits = torch.tensor([photo.size[1], photo.size[0]])
    sampled = F.grid_sample(
        photo.image[None],
        (2 * seen / limits - 1)[None],
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return _Crop(View(photo.name, None, sampled[0].clamp(-1, 1), ledger), homography)


def _mapped(homography: np.ndarray, xy: np.ndarray) -> np.ndarray:
    mapped = xy @ homography[:, :2].T + homography[:, 2]
    return mapped[..., :2] / mapped[..., 2:]


def _to_original(xy: np.ndarray, crop: _Crop, ledger: Ledger) -> np.ndarray:
    mapped = _mapped(crop.homography, np.asarray(xy, np.float64))
    return np.asarray(ledger.points_to_original(mapped), dtype=np.float32)


def _merged(found: list[Matches], ledger1: Ledger, ledger2: Ledger) -> Matches:
    """All matches, surest first; of those that begin and end at the same place, the surest."""
    if not found:
        nothing = np.zeros((0, 2), np.float32)
        return Matches(nothing, nothing, np.zeros(0, np.float32))
    joined = Matches(
        np.concatenate([matches.xy1 for matches in found]),
        np.concatenate([matches.xy2 for matches in found]),
        np.concatenate([matches.confidence for matches in found]),
    )
    joined = joined.select(np.argsort(-joined.confidence, kind="stable"))
    places = [
        np.floor(np.asarray(ledger.points_to_network(xy)) / _SAME_PLACE_PX).astype(np.int64)
        for ledger, xy in ((ledger1, joined.xy1), (ledger2, joined.xy2))
    ]
    first = np.unique(np.hstack(places), axis=0, return_index=True)[1]
    return joined.select(np.sort(first))
