"""Where between the pixels a match lies, from the descriptors around its best pixel."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
    queries: Float[Tensor, "n d"], target: Float[Tensor, "h w d"], places: Int[Tensor, "n 2"]
) -> Float[Tensor, "n 2"]:
    """Offsets (x, y) in [-0.5, 0.5] from pixels to the peak of the similarity around them.

    Args:
        queries: descriptors.
        target: descriptors of the other view.
        places: (row, column) of the best pixel of each query, not on the border.

    Returns:
        The tops of parabolas through the scores of the neighbours in either direction.
    """
    cross = torch.tensor([[0, 0], [0, -1], [0, 1], [-1, 0], [1, 0]], device=target.device)
    _, score = window_scores(queries, target, places, cross)
    centre, left, right, above, below = score.unbind(1)

    def top(low: Tensor, high: Tensor) -> Tensor:
        curvature = (2 * centre - low - high).clamp(min=1e-6)
        return (0.5 * (high - low) / curvature).clamp(-0.5, 0.5)

    return torch.stack([top(left, right), top(above, below)], -1)
