"""Where the pointmaps of a predicted pair expect each pixel in the other view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...geometry.pointmap import focal_from_pointmap, pixel_grid, project
from ...geometry.pose import pose_from_points
from .nearest import DescriptorTiles, TilePairs

_FIT_STRIDE = 8
# A best match near the edge of its window may be a slope towards a better one outside.
_INNER_SHARE = 0.75
_RADIUS_LONG_SIDES = 1 / 16
_RADIUS_SHARES = (0.25, 0.5)  # narrower windows that are tried
_RADIUS_HOLDS = 0.98
# Windows pay where most of the sample is believed.
_AGREEMENT, _FEWEST_SHARE = 0.995, 0.5
_SAMPLE = 192


@dataclass(frozen=True)
class GateTrust:
    """How far the look-ups of one view agree with those in the whole other view.

    Attributes:
        radius_px: half the side of the window that is searched.
        min_similarity: from which on the best of the window is believed; inf: never.
    """

    radius_px: float
    min_similarity: float


@dataclass(frozen=True)
class Gate:
    """Limits the search for matches to where geometry allows them.

    Attributes:
        expected2: (H1, W1, 2) where each pixel of view 1 should be in view 2, in pixels (x, y) with
            centres at half-integers, possibly outside; NaN where it cannot be.
        expected1: (H2, W2, 2) where each pixel of view 2 should be in view 1.
        radius_px: how far from there a match is looked for at most, along either axis.
        strict: True believes the geometry: pixels without a clear best inside their window
            (expected outside the view, hidden, or geometry that is wrong there) stay without a
            match. False measures on a sample how far the geometry can be believed, see `measure`;
            the other pixels are compared with the whole view.
    """

    expected2: Tensor
    expected1: Tensor
    radius_px: float
    strict: bool = False

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of both views."""
        first, second = self.expected2.shape, self.expected1.shape
        return (first[0], first[1]), (second[0], second[1])

    def measure(self, view: int, index: Tensor, rows: Tensor, other: DescriptorTiles) -> GateTrust:
        """Compare windows with exact look-ups on a sample of pixels.

        The narrowest window is taken that holds nearly all that the widest does, and the lowest
        similarity above which the best of a window is that of the whole view in 99.5 %. Where that
        is less than half of the sample, no window is believed.

        Args:
            view: 0 or 1, where the pixels come from.
            index: (N,) flat pixel indices, from which the sample is drawn evenly.
            rows: (H * W, D) descriptors of all pixels of that view.
            other: the other view.
        """
        if self.strict:
            return GateTrust(self.radius_px, -math.inf)
        index = index[:: max(1, -(-len(index) // _SAMPLE))]
        queries, expected = rows[index], self._expected(view, index)
        exact = other.nearest(queries)
        radius = self._narrowest(_off(exact, expected, other))
        if radius is None:
            return GateTrust(self.radius_px, math.inf)
        found, similar = _within(queries, expected, radius, other)
        order = similar.argsort(descending=True, stable=True)
        order = order[similar[order].isfinite()]
        wrong = (found != exact)[order].cumsum(0)
        number = torch.arange(1, len(order) + 1, device=order.device)
        believed = (wrong <= (1 - _AGREEMENT) * number).nonzero()[:, 0]
        if len(believed) == 0 or int(believed[-1]) < _FEWEST_SHARE * len(index):
            return GateTrust(radius, math.inf)
        return GateTrust(radius, float(similar[order[believed[-1]]]))

    def _narrowest(self, off: Tensor) -> float | None:
        """Half the side of the window for (N,) distances; None where even the widest holds few."""
        held = (off <= _INNER_SHARE * self.radius_px).sum()
        if held < _FEWEST_SHARE * len(off):
            return None
        for share in _RADIUS_SHARES:
            narrow = share * self.radius_px
            if (off <= _INNER_SHARE * narrow).sum() >= _RADIUS_HOLDS * held:
                return narrow
        return self.radius_px

    def nearest(
        self, view: int, index: Tensor, queries: Tensor, other: DescriptorTiles, trust: GateTrust
    ) -> Tensor:
        """Find the most similar pixels of the other view, first where they are expected.

        Args:
            view: 0 or 1, where the queries come from.
            index: (N,) their flat pixel indices.
            queries: (N, D) their descriptors.
            other: the other view.
            trust: from `measure`.

        Returns:
            (N,) int64, flat row-major indices; -1 for none.
        """
        if trust.min_similarity == math.inf:
            return other.nearest(queries)
        expected = self._expected(view, index)
        found, similar = _within(queries, expected, trust.radius_px, other)
        doubtful = ~(similar.isfinite() & (similar >= trust.min_similarity))
        found[doubtful] = -1 if self.strict else other.nearest(queries[doubtful])
        return found

    def _expected(self, view: int, index: Tensor) -> Tensor:
        return (self.expected2 if view == 0 else self.expected1).flatten(0, 1)[index]


def gate_from_pointmaps(
    pointmap1: Tensor,
    pointmap2_in_view1: Tensor,
    confidence1: Tensor | None = None,
    K1: Tensor | None = None,
    K2: Tensor | None = None,
    radius_px: float | None = None,
    strict: bool = False,
) -> Gate:
    """Project both pointmaps of a pair prediction into the other view.

    Args:
        pointmap1: (H1, W1, 3) in the camera frame of view 1, of any scale.
        pointmap2_in_view1: (H2, W2, 3) in the camera frame of view 1, of the same scale.
        confidence1: (H1, W1) weights for the focal length of view 1.
        K1: (3, 3) intrinsics of view 1; None estimates the focal length.
        K2: (3, 3) intrinsics of view 2; None estimates the focal length.
        radius_px: of the widest window, see `Gate`; None is a sixteenth of the longest side.
        strict: see `Gate`.

    Raises:
        ValueError: if the pointmaps determine no pose of view 2.
    """
    height1, width1 = pointmap1.shape[:2]
    height2, width2 = pointmap2_in_view1.shape[:2]
    if K1 is None:
        focal = focal_from_pointmap(pointmap1.float(), confidence1)
        K1 = _centred_intrinsics(float(focal), height1, width1)
    step = slice(_FIT_STRIDE // 2, None, _FIT_STRIDE)
    centres = pixel_grid(height2, width2)[step, step].reshape(-1, 2)
    points = pointmap2_in_view1[step, step].reshape(-1, 3).cpu()
    guess = _centred_intrinsics(float(max(height2, width2)), height2, width2)
    pose = pose_from_points(
        centres.numpy(),
        points.double().numpy(),
        (guess if K2 is None else K2).cpu().numpy(),
        height2,
        width2,
        max_error_px=0.02 * max(height2, width2),
        estimate_focal=K2 is None,
    )
    if not pose:
        raise ValueError(f"the pointmaps cannot gate the matches of this pair: {pose.reason}")
    device = pointmap1.device
    cam2_from_cam1 = torch.from_numpy(np.asarray(pose.cam_from_world)).to(device, torch.float32)
    in_view2 = pointmap1.float() @ cam2_from_cam1[:3, :3].T + cam2_from_cam1[:3, 3]
    found_K2 = torch.from_numpy(np.asarray(pose.K)).to(device, torch.float32)
    expected2, _ = project(in_view2, found_K2)
    expected1, _ = project(pointmap2_in_view1.float(), K1.to(device, torch.float32))
    if radius_px is None:
        radius_px = _RADIUS_LONG_SIDES * max(height1, width1, height2, width2)
    return Gate(expected2, expected1, radius_px, strict)


def _within(
    queries: Tensor, expected: Tensor, radius_px: float, other: DescriptorTiles
) -> tuple[Tensor, Tensor]:
    """Best pixels (N,) around the expected places, and their similarity; -inf if not clear."""
    found = other.nearest_within(queries, _tiles_near(expected, radius_px, other))
    clear = (found >= 0) & (_off(found, expected, other) <= _INNER_SHARE * radius_px)
    similar = (queries * other.rows[found.clamp_min(0)]).sum(-1)
    return found, torch.where(clear, similar, -torch.inf)


def _off(found: Tensor, expected: Tensor, other: DescriptorTiles) -> Tensor:
    """(N,) distance along the farther axis of flat pixels from where they are expected."""
    place = torch.stack([found % other.size[1], found // other.size[1]], -1) + 0.5
    return (place - expected).abs().amax(-1)


def _tiles_near(expected: Tensor, radius_px: float, tiles: DescriptorTiles) -> TilePairs:
    """Pair each query with the tiles that touch the square window around its expected place.

    Args:
        expected: (N, 2) pixels (x, y), centres at half-integers; NaN has no tiles.
        radius_px: half the side of the window.
        tiles: of the view that is searched.
    """
    side = expected.new_tensor([tiles.tile[1], tiles.tile[0]])
    rows, columns = tiles.grid
    known = expected.isfinite().all(-1)
    place = torch.where(known[:, None], expected, 0.0)
    low = ((place - radius_px) / side).floor().long()
    high = ((place + radius_px) / side).floor().long()
    span = torch.arange(int(2 * radius_px // min(tiles.tile)) + 2, device=expected.device)
    column, row = low[:, :1] + span, low[:, 1:] + span  # (N, S)
    use_column = (column <= high[:, :1]) & (column >= 0) & (column < columns) & known[:, None]
    use_row = (row <= high[:, 1:]) & (row >= 0) & (row < rows)
    query, r, c = (use_row[:, :, None] & use_column[:, None, :]).nonzero(as_tuple=True)
    return TilePairs(query, row[query, r] * columns + column[query, c])


def _centred_intrinsics(focal: float, height: int, width: int) -> Tensor:
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
