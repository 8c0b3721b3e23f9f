"""What the sparse alignment solves for: images with canonical depth, and what links them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canonical import CanonicalView

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class SparseMatches:
    """Corresponding pixels of an unordered pair of images.

    Attributes:
        first, second: image indices.
        xy1, xy2: (n, 2) network pixels in each.
        confidence: (n,) positive.
    """

    first: int
    second: int
    xy1: Float64Array
    xy2: Float64Array
    confidence: Float64Array


@dataclass(frozen=True, eq=False)
class Regression:
    """What the network says where some pixels of an image are, seen from another one.

    Attributes:
        image, frame: image indices.
        xy: (n, 2) network pixels of `image`.
        points: (n, 3) their places in the camera frame of `frame`, in its canonical unit.
        confidence: (n,) positive.
    """

    image: int
    frame: int
    xy: Float64Array
    points: Float64Array
    confidence: Float64Array


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels of images and the core depths that they hang on.

    Attributes:
        image: (n,) index of the image.
        core: (n,) index into the core depths of all images together.
        lift: (n,) depth relative to the core, minus one.
        xy: (n, 2) network pixels.
    """

    image: IntArray
    core: IntArray
    lift: Float64Array
    xy: Float64Array

    def __getitem__(self, rows: slice | NDArray) -> Pixels:
        return Pixels(self.image[rows], self.core[rows], self.lift[rows], self.xy[rows])


@dataclass(frozen=True, eq=False)
class Links:
    """Rows of one loss, sorted by source and target image.

    Attributes:
        source: pixels of the source images.
        target: index of the target image, or its pixels, as the loss needs it.
        aim: what the loss compares with: (n, 2) target pixels or (n, 3) points.
        weight: (n,) sums to one over the loss.
        groups: (source, target, rows) of every directed pair.
    """

    source: Pixels
    target: Pixels
    aim: Float64Array
    weight: Float64Array
    groups: list[tuple[int, int, slice]]

    def by_source(self) -> list[tuple[int, slice, list[tuple[int, slice]]]]:
        """(source, rows, [(target, rows)]) of every source image."""
        found: list[tuple[int, slice, list[tuple[int, slice]]]] = []
        for source, target, rows in self.groups:
            if not found or found[-1][0] != source:
                found.append((source, rows, []))
            start = found[-1][1].start
            found[-1] = (source, slice(start, rows.stop), [*found[-1][2], (target, rows)])
        return found


@dataclass(frozen=True, eq=False)
class Cores:
    """Core depths of all images, one after the other.

    Attributes:
        start: (N + 1,) where those of each image begin.
        depth: (P,) canonical depths.
        image: (P,) which image each belongs to.
        typical: (N,) median depth of each image.
        focal: (N,) canonical focal lengths, pixels.
        views: canonical views.
    """

    start: IntArray
    depth: Float64Array
    image: IntArray
    typical: Float64Array
    focal: Float64Array
    views: Sequence[CanonicalView]

    @classmethod
    def of_views(cls, views: Sequence[CanonicalView]) -> Cores:
        """Collect the core depths of canonical views."""
        flat = [view.core_depth.reshape(-1) for view in views]
        sizes = [len(depth) for depth in flat]
        return cls(
            start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp),
            depth=np.concatenate(flat),
            image=np.repeat(np.arange(len(views)), sizes),
            # the lower of the two middle values, so that it is the depth of some core
            typical=np.array([np.partition(d, (len(d) - 1) // 2)[(len(d) - 1) // 2] for d in flat]),
            focal=np.array([view.focal_px for view in views]),
            views=views,
        )

    def pixels(self, image: int, xy: Float64Array) -> Pixels:
        """Hang pixels of an image on its cores."""
        anchors = self.views[image].anchors(xy)
        return Pixels(
            image=np.full(len(xy), image, np.intp),
            core=anchors.core + self.start[image],
            lift=anchors.offset - 1.0,
            xy=np.asarray(xy, np.float64),
        )


def match_links(cores: Cores, matches: Sequence[SparseMatches]) -> Links:
    """Rows that compare both 3-D points of every match; each pair once."""
    parts = [(m.first, m.second, m.xy1, m.xy2, m.confidence) for m in matches]
    return _links(cores, parts)


def projection_links(cores: Cores, matches: Sequence[SparseMatches]) -> Links:
    """Rows that project the point of either side of every match into the other image."""
    parts = [(m.first, m.second, m.xy1, m.xy2, m.confidence) for m in matches]
    parts += [(m.second, m.first, m.xy2, m.xy1, m.confidence) for m in matches]
    return _links(cores, parts)


def regression_links(cores: Cores, regressions: Sequence[Regression]) -> Links:
    """Rows that compare points with where the network saw them from another image."""
    parts = [(r.image, r.frame, r.xy, r.points, r.confidence) for r in regressions]
    return _links(cores, parts)


def _links(
    cores: Cores,
    parts: list[tuple[int, int, Float64Array, Float64Array, Float64Array]],
) -> Links:
    parts = sorted((p for p in parts if len(p[4])), key=lambda p: p[:2])
    ends = np.cumsum([0] + [len(p[4]) for p in parts]).tolist()
    groups = [(p[0], p[1], slice(ends[k], ends[k + 1])) for k, p in enumerate(parts)]
    sources = [cores.pixels(p[0], p[2]) for p in parts]
    planar = bool(parts) and parts[0][3].shape[1] == 2
    targets = [cores.pixels(p[1], p[3] if planar else p[2]) for p in parts]
    weight = _joined([p[4] for p in parts], 0)
    return Links(
        source=_joined_pixels(sources),
        target=_joined_pixels(targets),
        aim=_joined([p[3] for p in parts], 2),
        weight=weight / max(weight.sum(), 1e-300),
        groups=groups,
    )


def _joined(parts: list[Float64Array], columns: int) -> Float64Array:
    empty = np.zeros((0, columns) if columns else 0)
    return np.concatenate([np.asarray(p, np.float64) for p in parts]) if parts else empty


def _joined_pixels(parts: list[Pixels]) -> Pixels:
    if not parts:
        none = np.zeros(0, np.intp)
        return Pixels(none, none, np.zeros(0), np.zeros((0, 2)))
    names = ("image", "core", "lift", "xy")
    return Pixels(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))
