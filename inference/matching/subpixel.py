"""Where between the pixels a match lies, from the descriptors around its best pixel."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_PATCH_RADIUS = 2
_PATCH_SIGMA_PX = 1.5
_FIT_SIGMA_PX = 0.7
_FARTHEST_PX = 0.75
_BLOCK = 512


def window_scores(
    queries: Float[Tensor, "n d"],
    target: Float[Tensor, "h w d"],
    places: Int[Tensor, "n 2"],
    shifts: Int[Tensor, "s 2"],
) -> tuple[Int[Tensor, "n s 2"], Float[Tensor, "n s"]]:
    """Compare each query with the pixels around its place.

    Args:
        queries: descriptors.
        target: descriptors of the other view.
        places: (row, column) around which each query is compared.
        shifts: (row, column) steps from there; pixels outside are replaced by those of the border.

    Returns:
        (row, column) of the pixels, and their similarity.
    """
    limit = torch.tensor(target.shape[:2], device=target.device) - 1
    window = torch.minimum((places[:, None] + shifts[None]).clamp(min=0), limit)  # (N, S, 2)
    near = target[window[..., 0], window[..., 1]]
    return window, torch.einsum("nd,nsd->ns", queries, near)


def peak_offsets(
    descriptors1: Float[Tensor, "h1 w1 d"],
    places1: Int[Tensor, "n 2"],
    descriptors2: Float[Tensor, "h w d"],
    places2: Int[Tensor, "n 2"],
) -> Float[Tensor, "n 2"]:
    """Offsets (x, y) from matched pixels of view 2 to where the patches of both agree best.

    The similarities of the 5x5 pixels around both places, weighted by a Gaussian, are summed for
    shifts of one patch by whole pixels; a quadratic function is fitted to the sums around the best
    of the shifts by up to one pixel. One pixel's own similarity is noisy: on photos with true
    correspondences, patches bring half again as many matches within half a pixel.

    Args:
        descriptors1: of view 1.
        places1: (row, column) of the matched pixels in view 1.
        descriptors2: of view 2.
        places2: (row, column) of their partners.

    Returns:
        Within 1.75 pixels along either axis.
    """
    reach = _PATCH_RADIUS + 2
    patch, around, shifts = _square(_PATCH_RADIUS), _square(reach), _square(2)
    # Which pixel around place 2 meets each pixel of the patch, shift by shift.
    meets = (patch[:, None] + shifts[None] + reach) @ torch.tensor([2 * reach + 1, 1])  # (K, 25)
    weight = torch.exp(-patch.float().square().sum(-1) / (2 * _PATCH_SIGMA_PX**2))
    weight, fit = (weight / weight.sum()).to(descriptors1), _quadratic_fit().to(descriptors1)
    device = descriptors1.device
    patch, around, meets = patch.to(device), around.to(device), meets.to(device)
    row = torch.arange(len(patch), device=device)[:, None]
    offsets = [descriptors1.new_zeros(0, 2)]
    for here, there in zip(places1.split(_BLOCK), places2.split(_BLOCK), strict=True):
        first, second = _patches(descriptors1, here, patch), _patches(descriptors2, there, around)
        similarity = torch.bmm(first, second.transpose(1, 2))  # (n, K, around)
        scores = torch.einsum("k,nks->ns", weight, similarity[:, row, meets])  # (n, 25)
        scores = scores.view(-1, 5, 5)
        best = scores[:, 1:4, 1:4].flatten(1).argmax(1)
        down, across = best // 3, best % 3  # from the corner of the inner shifts
        offset = _top(_around(scores, down, across), fit)
        offsets.append(offset + torch.stack([across - 1, down - 1], -1))
    return torch.cat(offsets)


def _around(
    scores: Float[Tensor, "n 5 5"], down: Int[Tensor, " n"], across: Int[Tensor, " n"]
) -> Float[Tensor, "n 9"]:
    """The 3x3 scores whose first one is at (down, across)."""
    which = torch.arange(len(scores), device=scores.device)
    cells = [scores[which, down + i, across + j] for i in range(3) for j in range(3)]
    return torch.stack(cells, 1)


def _top(scores: Float[Tensor, "n 9"], fit: Float[Tensor, "6 9"]) -> Float[Tensor, "n 2"]:
    """Top (x, y) of a quadratic function fitted to 3x3 scores.

    Where it has none nearby, the tops of parabolas along both axes.
    """
    xx, yy, xy, x, y, _ = (scores @ fit.T).unbind(1)
    determinant = 4 * xx * yy - xy.square()
    concave = (determinant > 1e-9) & (xx < 0)
    scale = torch.where(concave, determinant, 1.0)[:, None]
    joint = torch.stack([xy * y - 2 * yy * x, xy * x - 2 * xx * y], -1) / scale
    near = concave & (joint.abs().amax(1) <= _FARTHEST_PX)
    above, left, centre, right, below = (scores[:, k] for k in (1, 3, 4, 5, 7))

    def parabola(low: Tensor, high: Tensor) -> Tensor:
        curvature = (2 * centre - low - high).clamp(min=1e-6)
        return (0.5 * (high - low) / curvature).clamp(-0.5, 0.5)

    single = torch.stack([parabola(left, right), parabola(above, below)], -1)
    return torch.where(near[:, None], joint, single)


def _quadratic_fit() -> Float[Tensor, "6 9"]:
    """Weighted least squares from 3x3 scores, row by row, to x^2, y^2, xy, x, y and 1."""
    y, x = _square(1).double().unbind(-1)
    terms = torch.stack([x * x, y * y, x * y, x, y, torch.ones_like(x)], 1)
    root = torch.exp(-(x * x + y * y) / (4 * _FIT_SIGMA_PX**2))
    return torch.linalg.pinv(terms * root[:, None]) * root


def _patches(
    descriptors: Tensor, places: Int[Tensor, "n 2"], shifts: Int[Tensor, "s 2"]
) -> Float[Tensor, "n s d"]:
    """The descriptors around some pixels; those beyond the border repeat it."""
    limit = torch.tensor(descriptors.shape[:2], device=descriptors.device) - 1
    window = torch.minimum((places[:, None] + shifts).clamp(min=0), limit)
    return descriptors[window[..., 0], window[..., 1]]


def _square(radius: int) -> Int[Tensor, "s 2"]:
    """(row, column) steps to all pixels of a square."""
    span = torch.arange(-radius, radius + 1)
    return torch.stack(torch.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)
