"""Where the pointmaps of a predicted pair expect each pixel in the other view."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Gate:
    """Limits the search for matches to where geometry allows them.

    Attributes:
        expected2: (H1, W1, 2) where each pixel of view 1 should be in view 2, in pixels (x, y) with
            centres at half-integers, possibly outside; NaN where it cannot be.
        expected1: (H2, W2, 2) where each pixel of view 2 should be in view 1.
        radius_px: how far from there a match is looked for, along either axis.
        strict: what becomes of pixels without a clear best inside their window (expected outside
            the view, hidden, or geometry that is wrong there): True leaves them without a match,
            False compares them with the whole view.
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

    def nearest(self, view: int, index: Tensor, queries: Tensor, other: DescriptorTiles) -> Tensor:
        """Find the most similar pixels of the other view where they are expected.

        Args:
            view: 0 or 1, where the queries come from.
            index: (N,) their flat pixel indices.
            queries: (N, D) their descriptors.
            other: the other view.

        Returns:
            (N,) int64, flat row-major indices; -1 for none.
        """
        expected = (self.expected2 if view == 0 else self.expected1).flatten(0, 1)[index]
        found = other.nearest_within(queries, _tiles_near(expected, self.radius_px, other))
        place = torch.stack([found % other.size[1], found // other.size[1]], -1) + 0.5
        off = (place - expected).abs().amax(-1)
        doubtful = (found < 0) | (off > _INNER_SHARE * self.radius_px)
        found[doubtful] = -1 if self.strict else other.nearest(queries[doubtful])
        return found


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
        radius_px: see `Gate`; None is a sixteenth of the longest side.
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
