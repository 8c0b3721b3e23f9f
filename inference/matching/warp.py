"""Where every pixel of one photo is in the other, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from ...geometry.pointmap import pixel_grid
from ..images import View
from ..predict import PairResult
from .descriptors import joint_descriptors, search_everywhere
from .gating import gate_from_pointmaps
from .subpixel import peak_offsets, window_scores

_STEP = 4  # between the pixels that are looked for everywhere
_BLOCK = 4096
_CYCLE_SIGMA_PX = 2.0


@dataclass(frozen=True)
class Warp:
    """A dense correspondence from one photo to the other, in original pixels.

    Attributes:
        xy: where each pixel's centre is in the other photo, centres at half-integers; NaN where
            that is unknown (parts that the network did not see).
        certainty: in [0, 1]: how nearly the way there and back ends where it began; 0 where `xy`
            is unknown.
    """

    xy: Float32[np.ndarray, "h w 2"]
    certainty: Float32[np.ndarray, "h w"]


def warp_views(
    result: PairResult, view1: View, view2: View, device: torch.device | str = "cpu"
) -> tuple[Warp, Warp]:
    """Warps of a predicted pair: from the first photo to the second, and back.

    Descriptors say where pixels are; for checkpoints without them, both pointmaps are projected
    into the other view.

    Args:
        result: of the pair.
        view1: `result.first`.
        view2: `result.second`.
        device: where descriptors are compared.

    Raises:
        ValueError: if there are neither descriptors nor pointmaps that determine a camera.
    """
    if result.forward.view1.descriptors is not None:
        first, second = (d.to(device) for d in joint_descriptors(result))
        there, back = descriptor_warp(first, second), descriptor_warp(second, first)
    else:
        maps = result.forward
        gate = gate_from_pointmaps(maps.view1.pointmap, maps.view2.pointmap, maps.view1.confidence)
        there, back = gate.expected2, gate.expected1
    return _original(there, back, view1, view2), _original(back, there, view2, view1)


def descriptor_warp(
    descriptors1: Float[Tensor, "h1 w1 d"], descriptors2: Float[Tensor, "h2 w2 d"]
) -> Float[Tensor, "h1 w1 2"]:
    """Find every pixel of view 1 in view 2, (x, y) with centres at half-integers.

    Every fourth pixel along each axis is compared with the whole other view; the others try where
    the nine nearest of these would take them, and then what lies around the best.
    """
    height, width = descriptors1.shape[:2]
    anchors, found = search_everywhere(descriptors1, descriptors2, _STEP)  # (R, C, 2), (R, C, 2)
    move = found - anchors
    rows = torch.arange(height, device=move.device)
    columns = torch.arange(width, device=move.device)
    near_row = ((rows - anchors[0, 0, 0]).float() / _STEP).round().long()
    near_column = ((columns - anchors[0, 0, 1]).float() / _STEP).round().long()
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    anchor = torch.stack(torch.meshgrid(near_row, near_column, indexing="ij"), -1).flatten(0, 1)
    parts = [
        _propagated(descriptors1, descriptors2, move, p, a)
        for p, a in zip(place.split(_BLOCK), anchor.split(_BLOCK), strict=True)
    ]
    return torch.cat(parts).reshape(height, width, 2)


def _propagated(
    descriptors1: Tensor, descriptors2: Tensor, move: Tensor, place: Tensor, anchor: Tensor
) -> Tensor:
    """(n, 2) positions (x, y) of some pixels, from the moves of the anchors around them."""
    around = torch.tensor([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], device=place.device)
    last = torch.tensor(move.shape[:2], device=place.device) - 1
    index = torch.minimum((anchor[:, None] + around).clamp(min=0), last)  # (n, 9, 2)
    limit = torch.tensor(descriptors2.shape[:2], device=place.device) - 2
    tried = place[:, None] + move[index[..., 0], index[..., 1]]
    tried = torch.minimum(tried.clamp(min=1), limit)
    queries = descriptors1[place[:, 0], place[:, 1]]
    score = torch.einsum("nd,nsd->ns", queries, descriptors2[tried[..., 0], tried[..., 1]])
    rank = torch.arange(len(place), device=place.device)
    best = tried[rank, score.argmax(1)]
    span = torch.arange(-2, 3, device=place.device)
    shifts = torch.stack(torch.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)
    window, score = window_scores(queries, descriptors2, best, shifts)
    best = torch.minimum(window[rank, score.argmax(1)].clamp(min=1), limit)
    return best.flip(-1).float() + 0.5 + peak_offsets(descriptors1, place, descriptors2, best)


def _certainty(there: Tensor, back: Tensor) -> Tensor:
    """(H1, W1) how nearly each pixel comes back to itself, in [0, 1]."""
    height, width = back.shape[:2]
    limits = there.new_tensor([width, height])
    known = there.isfinite().all(-1) & ((there >= 0) & (there < limits)).all(-1)
    grid = torch.where(known[..., None], 2 * there / limits - 1, 0.0)
    returned = F.grid_sample(
        back.permute(2, 0, 1)[None], grid[None], mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    home = pixel_grid(there.shape[0], there.shape[1], device=there.device)
    error = (returned - home).norm(dim=-1)
    sure = torch.exp(-0.5 * (error / _CYCLE_SIGMA_PX).square())
    return torch.where(known & error.isfinite(), sure, 0.0)


def _original(there: Tensor, back: Tensor, view: View, other: View) -> Warp:
    """The warp of network pixels as one of original pixels."""
    certainty = view.ledger.map_to_original(_certainty(there, back).cpu(), "bilinear")
    xy = other.ledger.points_to_original(there.cpu().numpy()).astype(np.float32)
    xy = view.ledger.map_to_original(xy, "bilinear")
    known = np.isfinite(xy).all(-1)
    return Warp(xy, np.where(known, np.nan_to_num(certainty), 0).astype(np.float32))
