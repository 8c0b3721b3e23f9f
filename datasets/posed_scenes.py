"""Data sets on disk as an endless, seeded source of scenes for training.

Which pair is drawn, how it is cropped, everything depends on the seed, the epoch and the place in
the epoch, and on nothing that was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from ..geometry.camera import rigid_inverse_array
from .correspondences import reciprocal_pixels
from .crops import (
    apply_homography_crop,
    automatic_range_px,
    best_windows,
    homography_crop,
    random_windows,
)
from .pair_table import PairTable
from .posed_set import PosedSet
from .posed_view import PosedView
from .procedural.correspondence import overlap_matrix
from .sampling import Mixture, ShapedBatches, mixture_by_weights
from .views import ViewBatch

_WINDOWS = 4  # tentative windows of each view
_MARGIN = 0.15  # the photo covers the target and up to this much more before it is cropped


class EndlessScenes(Protocol):
    """A source that makes its scenes, such as the procedural generator."""

    def batch(self, start_index: int, batch_size: int) -> ViewBatch: ...


@dataclass(frozen=True, eq=False)
class PairSource:
    """The pairs of one data set that training draws from.

    Attributes:
        data: with the files.
        pairs: what is drawn.
    """

    data: PosedSet
    pairs: PairTable

    @staticmethod
    def of(
        data: PosedSet, split: str | None = None, overlap: tuple[float, float] = (0.0, 1.0)
    ) -> PairSource:
        """Take the mined pairs of a split whose smaller overlap lies in a range.

        Pairs of unknown overlap are taken too.

        Raises:
            ValueError: nothing is mined, there is no such split, or no pair is in the range.
        """
        if data.pairs is None:
            raise ValueError(f"{data.root} has no pairs yet; make them with: weav3r data pairs")
        scenes = set(data.scenes_of(split))
        inside = np.array([data.views[k].scene in scenes for k in data.pairs.index[:, 0]], bool)
        worse = data.pairs.worse
        fits = np.isnan(worse) | ((worse >= overlap[0]) & (worse <= overlap[1]))
        pairs = data.pairs.select(inside & fits)
        if len(pairs) == 0:
            raise ValueError(
                f"{data.root}: none of {int(inside.sum())} pairs of split {split or 'all'} has an "
                f"overlap between {overlap[0]:g} and {overlap[1]:g}; widen the range or mine others"
            )
        return PairSource(data, pairs)

    def views_of(
        self, item: int, count: int, rng: np.random.Generator
    ) -> Int[np.ndarray, " count"]:
        """A pair, in random order, and further views that are paired with one of its own.

        Where there are not enough of these, views come twice (and are cropped differently).
        """
        pair = rng.permutation(self.pairs.index[item])
        touching = np.isin(self.pairs.index, pair).any(1)
        others = np.setdiff1d(self.pairs.index[touching], pair)
        others = rng.permutation(others)[: count - 2]
        return np.resize(np.concatenate([pair, others]), count)


class PosedScenes:
    """Crops of posed photos, some views a scene, in the form of the procedural scenes.

    Args:
        sources: data sets, or endless sources.
        weights: share of each source.
        height, width: of the crops.
        num_views: views of each scene, 2 or more.
        seed: of all choices.
        epoch_size: scenes of an epoch; in each, the pairs of a source come equally often, up to
            one.

    Raises:
        ValueError: if a number makes no sense.
    """

    def __init__(
        self,
        sources: Sequence[PairSource | EndlessScenes],
        weights: Sequence[float],
        height: int,
        width: int,
        num_views: int = 2,
        seed: int = 0,
        epoch_size: int = 10_000,
    ) -> None:
        if num_views < 2 or epoch_size < 1:
            raise ValueError(
                f"expected 2 views or more and an epoch of 1 scene or more, got {num_views} and "
                f"{epoch_size}"
            )
        self.sources, self.size = tuple(sources), (height, width)
        self.num_views, self.seed, self.epoch_size = num_views, seed, epoch_size
        lengths = [len(s.pairs) if isinstance(s, PairSource) else epoch_size for s in sources]
        self.mixture: Mixture = mixture_by_weights(lengths, weights, epoch_size, seed)
        self._order: tuple[int, Int[np.ndarray, "n 2"]] | None = None

    def batch(self, start_index: int, batch_size: int) -> ViewBatch:
        """Make scenes start_index .. start_index + batch_size - 1 of the endless stream."""
        scenes = [self._scene(start_index + k) for k in range(batch_size)]
        batch = concatenate_scenes(scenes)
        return replace(batch, seeds=torch.arange(start_index, start_index + batch_size))

    def _items(self, epoch: int) -> Int[np.ndarray, "n 2"]:
        """(source, item) at each place of an epoch, shuffled."""
        if self._order is None or self._order[0] != epoch:
            order = ShapedBatches(self.epoch_size, 1, seed=self.seed).indices(epoch)[:, 0]
            self._order = epoch, self.mixture.items(epoch)[order]
        return self._order[1]

    def _scene(self, index: int) -> ViewBatch:
        epoch, place = divmod(index, self.epoch_size)
        number, item = (int(v) for v in self._items(epoch)[place])
        source = self.sources[number]
        if not isinstance(source, PairSource):
            endless = source.batch(epoch * self.epoch_size + item, 1)
            return endless if endless.metric is not None else replace(endless, metric=_true())
        rng = np.random.default_rng([self.seed, epoch, place])
        views = [source.data.load(int(k)) for k in source.views_of(item, self.num_views, rng)]
        crops = crop_together(views, self.size, rng)
        return batch_of_views(crops, source.data.unit == "metre")


def crop_together(
    views: Sequence[PosedView], size: tuple[int, int], rng: np.random.Generator
) -> list[PosedView]:
    """Crop views to one size so that the first two keep most of what both see.

    Args:
        views: of one scene, at least two.
        size: (height, width) of the crops; smaller photos are enlarged.
        rng: source of randomness; draws zoom and place.
    """
    views = [rescale_to_cover(v, size, 1 + _MARGIN * rng.random()) for v in views]
    windows = [
        random_windows(v.size, size, automatic_range_px(v.size, size), _WINDOWS, rng) for v in views
    ]
    pixels = reciprocal_pixels(views[0], views[1], both_valid=True)
    chosen = [*best_windows(windows[0], windows[1], *pixels), *[0] * (len(views) - 2)]
    crops = []
    for view, candidates, k in zip(views, windows, chosen, strict=True):
        window = tuple(float(v) for v in candidates[k])
        assert len(window) == 4
        crops.append(apply_homography_crop(view, homography_crop(view.K, window, size)))
    return crops


def rescale_to_cover(view: PosedView, size: tuple[int, int], margin: float = 1.0) -> PosedView:
    """Resize a view so that it just covers (height, width) times the margin.

    The picture is filtered (Lanczos when it shrinks, bicubic when it grows), the depth is that of
    the nearest pixel.
    """
    height, width = view.size
    factor = max(size[0] * margin / height, size[1] * margin / width)
    new = max(size[0], round(height * factor)), max(size[1], round(width * factor))
    kernel = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    image = np.asarray(Image.fromarray(view.image).resize((new[1], new[0]), kernel))
    rows, columns = (
        ((np.arange(n) + 0.5) * old / n).astype(np.int64)
        for n, old in zip(new, view.size, strict=True)
    )
    K = view.K.copy()
    K[0] *= new[1] / width
    K[1] *= new[0] / height
    return PosedView(image, view.depth[np.ix_(rows, columns)], K, view.world_from_cam)


def batch_of_views(views: Sequence[PosedView], metric: bool) -> ViewBatch:
    """One scene of equally large views as a batch of one; the world is the first camera's frame.

    In it float32 is precise also where a data set counts from a city's corner.
    """
    first = rigid_inverse_array(views[0].world_from_cam)
    views = [replace(v, world_from_cam=first @ v.world_from_cam) for v in views]
    valid = np.stack([v.valid for v in views])
    points = np.stack([v.pointmap_world for v in views])
    images = np.stack([v.image for v in views]).transpose(0, 3, 1, 2)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None]

    known = torch.from_numpy(valid)[None]
    batch = ViewBatch(
        images=tensor(images) / 127.5 - 1,
        K=tensor(np.stack([v.K for v in views])),
        world_from_cam=tensor(np.stack([v.world_from_cam for v in views])),
        depth=tensor(np.where(valid, np.stack([v.depth for v in views]), 0)),
        valid=known,
        pointmap_world=tensor(np.where(valid[..., None], points, 0)),
        surface_id=known.to(torch.int32) - 1,
        seeds=torch.zeros(1, dtype=torch.int64),
        metric=torch.full((1,), metric),
    )
    return replace(batch, overlap=overlap_matrix(batch))


def concatenate_scenes(scenes: Sequence[ViewBatch]) -> ViewBatch:
    """Join batches of one size; what not all of them know is left out."""
    values: dict[str, Tensor | None] = {}
    for name in (field.name for field in fields(ViewBatch)):
        parts = [getattr(scene, name) for scene in scenes]
        known = [part for part in parts if part is not None]
        values[name] = torch.cat(known) if len(known) == len(parts) else None
    return replace(scenes[0], **values)


def _true() -> Tensor:
    return torch.ones(1, dtype=torch.bool)
