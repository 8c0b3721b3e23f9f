"""Random masks over patch tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def random_mask(
    batch_size: int,
    num_tokens: int,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Hide a uniformly random subset of tokens, independently for every image.

    Args:
        batch_size: number of images.
        num_tokens: tokens per image.
        mask_ratio: share to hide, in [0, 1); `floor(mask_ratio * num_tokens)` tokens are hidden.
        generator: source of randomness, on `device`.
        device: where the result lives.

    Returns:
        `(batch_size, num_tokens)` bool, True = hidden; every row hides equally many.

    Raises:
        ValueError: if the ratio is out of range.
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
    noise = torch.rand(batch_size, num_tokens, generator=generator, device=device)
    hidden = noise.argsort(dim=1)[:, : int(mask_ratio * num_tokens)]
    mask = torch.zeros(batch_size, num_tokens, dtype=torch.bool, device=device)
    return mask.scatter(1, hidden, True)
