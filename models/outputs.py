"""What a network returns, and the activations that turn raw head channels into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..croco_like.linear import runs_eagerly
from .config import ConfidenceMode, PointMode

RAY_EXTENT = 0.6  # X/Z at the end of the long image side when the head says 0: 62 degrees wide
MAX_LOG_DEPTH = 4.0  # of point mode "ray": depth stays within exp(-4) .. exp(4)


@dataclass(frozen=True)
class EncodedImages:
    """A batch of encoded images, everything that the decoder reads.

    Attributes:
        tokens: `(B, N, E)` encoder output, in raster order of the upright images.
        positions: `(B, N, 2)` (row, column) of the tokens, in the units of the rotary embedding.
        image_size: (H, W) in pixels of the images as stored.
        local: feature maps of the CNN branch `(B, C, H/s, W/s)`, s = 1, 2, 4, 8, as stored;
            empty when the network has none.
        transposed: `(B,)` bool, True for images stored with rows and columns exchanged; None
            when no image is.
    """

    tokens: Tensor
    positions: Tensor
    image_size: tuple[int, int]
    local: tuple[Tensor, ...] = ()
    transposed: Tensor | None = None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.tokens)

    def select(self, index: slice | Tensor | Sequence[int]) -> EncodedImages:
        """Pick images, as indexing the batch axis of a tensor does (repetition allowed)."""
        key = index if isinstance(index, slice | Tensor) else list(index)
        return EncodedImages(
            tokens=self.tokens[key],
            positions=self.positions[key],
            image_size=self.image_size,
            local=tuple(level[key] for level in self.local),
            transposed=None if self.transposed is None else self.transposed[key],
        )

    def stored_as(self, dtype: torch.dtype) -> EncodedImages:
        """Convert tokens and local maps to another precision; positions stay exact."""
        return replace(
            self,
            tokens=self.tokens.to(dtype),
            local=tuple(level.to(dtype) for level in self.local),
        )

    def halves(self) -> tuple[EncodedImages, EncodedImages]:
        """Cut the batch in the middle; cheaper in the backward than two `select`."""
        tokens, positions = self.tokens.chunk(2), self.positions.chunk(2)
        local = [level.chunk(2) for level in self.local]
        transposed = (None, None) if self.transposed is None else self.transposed.chunk(2)
        first, second = (
            EncodedImages(
                tokens[half],
                positions[half],
                self.image_size,
                tuple(level[half] for level in local),
                transposed[half],
            )
            for half in (0, 1)
        )
        return first, second

    @staticmethod
    def cat(parts: Sequence[EncodedImages]) -> EncodedImages:
        """Join batches of equal image size.

        Raises:
            ValueError: if there is nothing to join or the sizes differ.
        """
        if not parts:
            raise ValueError("EncodedImages.cat needs at least one part")
        sizes = sorted({part.image_size for part in parts})
        if len(sizes) > 1:
            raise ValueError(f"EncodedImages.cat needs one image size, got {sizes}")
        transposed = None
        if any(part.transposed is not None for part in parts):
            transposed = torch.cat([part.transposed_rows() for part in parts])
        return EncodedImages(
            tokens=torch.cat([part.tokens for part in parts]),
            positions=torch.cat([part.positions for part in parts]),
            image_size=parts[0].image_size,
            local=tuple(
                torch.cat(levels) for levels in zip(*(p.local for p in parts), strict=True)
            ),
            transposed=transposed,
        )

    def transposed_rows(self) -> Tensor:
        """Give `transposed` as a mask even when it is None."""
        if self.transposed is not None:
            return self.transposed
        return torch.zeros(len(self), dtype=torch.bool, device=self.tokens.device)


@dataclass(frozen=True)
class ViewPrediction:
    """Dense prediction for one view of a pair, channels last.

    Attributes:
        pointmap: `(B, H, W, 3)` in the camera frame of the pair's view 1 (OpenCV axes).
        confidence: `(B, H, W)`, higher is surer; all ones when the network predicts none.
        descriptors: `(B, H, W, D)` of unit norm, or None.
        descriptor_confidence: `(B, H, W)`, or None.
    """

    pointmap: Tensor
    confidence: Tensor
    descriptors: Tensor | None = None
    descriptor_confidence: Tensor | None = None

    def select(self, index: int | slice | Tensor) -> ViewPrediction:
        """Pick elements of the batch; a number takes one out, without batch axis."""
        return self.map(lambda field: field[index])

    def transpose(self) -> ViewPrediction:
        """Exchange rows and columns of the maps; the values stay."""
        return self.map(lambda field: field.transpose(1, 2))

    @staticmethod
    def cat(parts: Sequence[ViewPrediction]) -> ViewPrediction:
        """Join predictions of one network and one size along the batch."""
        columns = zip(*(part._fields() for part in parts), strict=True)
        return ViewPrediction(*(None if c[0] is None else torch.cat(c) for c in columns))  # pyright: ignore

    def _fields(self) -> tuple[Tensor | None, ...]:
        return (self.pointmap, self.confidence, self.descriptors, self.descriptor_confidence)

    def map(self, function: Callable[[Tensor], Tensor]) -> ViewPrediction:
        """Apply a function to every map there is."""
        mapped = (None if field is None else function(field) for field in self._fields())
        return ViewPrediction(*mapped)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class PairPrediction:
    """Both views of a batch of pairs; both pointmaps are in view 1's camera frame.

    Attributes:
        view1: prediction for the first images.
        view2: prediction for the second images.
    """

    view1: ViewPrediction
    view2: ViewPrediction

    def select(self, index: int | slice | Tensor) -> PairPrediction:
        """Pick pairs of the batch; a number takes one out, without batch axis."""
        return PairPrediction(self.view1.select(index), self.view2.select(index))

    @staticmethod
    def cat(parts: Sequence[PairPrediction]) -> PairPrediction:
        """Join predictions of one network and equal sizes along the batch."""
        return PairPrediction(
            ViewPrediction.cat([part.view1 for part in parts]),
            ViewPrediction.cat([part.view2 for part in parts]),
        )


def normalised_coordinates(height: int, width: int, device: torch.device) -> Tensor:
    """Give the pixel centres relative to the image centre, over half the LONG side.

    Returns:
        `(height, width, 2)` float32 (x, y); the long side spans about -1 .. 1.
    """
    half = max(height, width) / 2
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5 - width / 2) / half
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5 - height / 2) / half
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)


def activate_points(raw: Tensor, mode: PointMode) -> Tensor:
    """Turn three raw channels into 3D points.

    With `n` the norm of the raw vector `v`: "linear" is `v`, "square" is `v n`, "exp" is
    `v / n * (exp(n) - 1)`. "ray" is `((x + gx) z, (y + gy) z, z)` with `z = exp(raw z)` within
    `exp(-4) .. exp(4)` and `(gx, gy)` the rays of a camera of 62 degrees along the long side.

    Args:
        raw: `(B, H, W, 3)` of upright images.
        mode: see above.

    Returns:
        `(B, H, W, 3)`.
    """
    if mode == "linear":
        return raw
    if mode == "ray":
        height, width = raw.shape[1:3]
        rays = RAY_EXTENT * normalised_coordinates(height, width, raw.device)
        z = raw[..., 2:].clamp(-MAX_LOG_DEPTH, MAX_LOG_DEPTH).exp()
        return torch.cat(((raw[..., :2] + rays) * z, z), dim=-1)
    norm = torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
    direction = raw / norm.clamp_min(1e-8)
    return direction * (norm.square() if mode == "square" else norm.expm1())


def activate_confidence(logit: Tensor, mode: ConfidenceMode) -> Tensor:
    """Turn a logit into a confidence, elementwise."""
    if mode.kind == "sigmoid":
        return (mode.high - mode.low) * logit.sigmoid() + mode.low
    return mode.low + logit.exp().clamp_max(mode.high - mode.low)


def activate_descriptors(raw: Tensor) -> Tensor:
    """Scale the last axis to unit length; in place when nothing records gradients."""
    norm = torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
    return raw.div_(norm) if runs_eagerly() else raw / norm
