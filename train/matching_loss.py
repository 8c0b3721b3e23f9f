"""Losses on matching descriptors: InfoNCE with sub-pixel positions, confidence, average precision.

Reference: van den Oord et al. 2018 (InfoNCE); MASt3R, eq. 9-11; He et al. 2018 (average precision).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_EPS = 1e-8


@dataclass(frozen=True)
class MatchTargets:
    """Corresponding positions of P pairs; row k of view 1 matches row k of view 2.

    Attributes:
        xy1, xy2: positions in pixels, pixel centres at half-integers; they may be fractional.
        valid: True for real matches.
        distractors: False entries of `valid` are unmatched pixels that serve as negatives (the
            published data layout); otherwise they are padding and ignored.
    """

    xy1: Float[Tensor, "p n 2"]
    xy2: Float[Tensor, "p n 2"]
    valid: Bool[Tensor, "p n"]
    distractors: bool = False


class MatchableView(Protocol):
    """What matching reads of a prediction for one view."""

    @property
    def pointmap(self) -> Tensor: ...  # (P, H, W, 3)

    @property
    def confidence(self) -> Tensor: ...  # (P, H, W)

    @property
    def descriptors(self) -> Tensor | None: ...  # (P, H, W, D)

    @property
    def descriptor_confidence(self) -> Tensor | None: ...  # (P, H, W)


class MatchablePair(Protocol):
    """A prediction for both views of a pair."""

    @property
    def view1(self) -> MatchableView: ...

    @property
    def view2(self) -> MatchableView: ...


def sample_map(maps: Float[Tensor, "p h w d"], xy: Float[Tensor, "p n 2"]) -> Tensor:
    """Read a channels-last map at fractional pixel positions, bilinearly.

    Positions beyond the outermost pixel centres are clamped to them.

    Returns:
        Values, (P, n, D).
    """
    P, H, W, _ = maps.shape
    x = (xy[..., 0].nan_to_num(0.5) - 0.5).clamp(0, W - 1)
    y = (xy[..., 1].nan_to_num(0.5) - 0.5).clamp(0, H - 1)
    x0, y0 = x.floor(), y.floor()
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    left, top = x0.long(), y0.long()
    right, bottom = (left + 1).clamp_max(W - 1), (top + 1).clamp_max(H - 1)
    first = torch.arange(P, device=maps.device)[:, None] * (H * W)
    corners = (top, left), (top, right), (bottom, left), (bottom, right)
    index = torch.stack([first + row * W + column for row, column in corners])  # (4, P, n)
    # one look-up for all corners: the backward pass of each fills a map of the full size
    values = maps.flatten(0, 2).index_select(0, index.flatten()).unflatten(0, index.shape)
    upper = torch.lerp(values[0], values[1], fx)
    lower = torch.lerp(values[2], values[3], fx)
    return torch.lerp(upper, lower, fy)


def similarity_of_points(points1: Tensor, points2: Tensor) -> Float[Tensor, "p n m"]:
    """Return 1 / (1 + distance) of every two points."""
    return 1 / (1 + torch.cdist(points1, points2, compute_mode="donot_use_mm_for_euclid_dist"))


def info_nce(
    logits: Float[Tensor, "p n n"],
    mode: Literal["proper", "all", "dual"] = "proper",
    takes_part: Bool[Tensor, "p n"] | None = None,
    floor: float = 0.0,
) -> Float[Tensor, "p n"]:
    """Return the InfoNCE loss of each match; the true partners are on the diagonal.

    Args:
        logits: similarity over temperature, float32.
        mode: `proper` sums the losses of both directions; `all` normalises over the whole matrix;
            `dual` uses the product of both probabilities' numerators and denominators.
        takes_part: rows and columns that are candidates; the others are left out of the sums.
        floor: smallest probability, 0 = none (MASt3R: 1e-8).

    Returns:
        Loss per match, 0 for those that do not take part.
    """
    if takes_part is not None:
        absent = ~(takes_part[:, :, None] & takes_part[:, None, :])
        logits = logits.masked_fill(absent, torch.finfo(logits.dtype).min / 4)
    diagonal = logits.diagonal(dim1=1, dim2=2)  # (P, n)
    over_columns, over_rows = logits.logsumexp(2), logits.logsumexp(1)
    if mode == "all":
        losses = [logits.flatten(1).logsumexp(1)[:, None] - diagonal]
    elif mode == "proper":
        losses = [over_columns - diagonal, over_rows - diagonal]
    elif mode == "dual":
        losses = [over_columns + over_rows - 2 * diagonal]
    else:
        raise ValueError(f"mode must be 'proper', 'all' or 'dual', got {mode!r}")
    if floor > 0:
        limit = -torch.tensor(floor).log().item()
        losses = [loss.clamp_max(limit) for loss in losses]
    total = torch.stack(losses).sum(0)
    return total if takes_part is None else torch.where(takes_part, total, 0.0)


class _UnitInfoNCE(torch.autograd.Function):
    """The `proper` InfoNCE of unit descriptors without keeping any n x n matrix.

    Pairs go through in chunks small enough for the cache, and the backward pass makes the
    similarities again: on a CPU core this is several times faster than autograd's way, on a GPU
    it saves the memory. With E the matrix of exp((cos - 1) scale), R and C its row and column sums
    and g the incoming gradient, the gradient with respect to the logits is
    `E_ij (g_i / R_i + g_j / C_j) - 2 g_i [i = j]`.
    """

    @staticmethod
    def forward(ctx, first, second, scale, valid):
        absent = torch.where(valid, 0.0, -1e4)[..., None]  # (P, n, 1), a logit of minus infinity
        one = torch.ones_like(absent)
        left = torch.cat([scale * first, one, absent - scale], -1)  # (P, n, D + 2)
        right = torch.cat([second, absent, one], -1)
        rows, columns, hits = (torch.empty_like(valid, dtype=first.dtype) for _ in range(3))
        diagonal = (left * right).sum(-1)
        for part in _chunks(len(first), first.device):
            similarity = (left[part] @ right[part].transpose(1, 2)).exp_()  # (p, n, n)
            rows[part], columns[part] = similarity.sum(2), similarity.sum(1)
            hits[part] = similarity.diagonal(dim1=1, dim2=2) >= similarity.amax(2)
        ctx.save_for_backward(first, second, scale, valid, left, right, rows, columns)
        loss = rows.log() + columns.log() - 2 * diagonal
        hits = torch.where(valid, hits, 0.0)
        ctx.mark_non_differentiable(hits)
        return torch.where(valid, loss, 0.0), hits

    @staticmethod
    def backward(ctx, gradient, _):  # pyright: ignore[reportIncompatibleMethodOverride]
        first, second, scale, valid, left, right, rows, columns = ctx.saved_tensors
        gradient = torch.where(valid, gradient, 0.0)
        a = torch.where(valid, gradient / rows, 0.0)[..., None]
        b = torch.where(valid, gradient / columns, 0.0)[..., None]
        grad_first = -2 * gradient[..., None] * second
        grad_second = -2 * gradient[..., None] * first
        D = first.shape[-1]
        for part in _chunks(len(first), first.device):
            similarity = (left[part] @ right[part].transpose(1, 2)).exp_()
            spread = similarity @ torch.cat([second[part], b[part] * second[part]], -1)
            grad_first[part] += a[part] * spread[..., :D] + spread[..., D:]
            spread = similarity.transpose(1, 2) @ torch.cat([first[part], a[part] * first[part]], 2)
            grad_second[part] += b[part] * spread[..., :D] + spread[..., D:]
        grad_scale = (first * grad_first).sum()  # before the factor: d logit / d scale is cos
        return grad_first * scale, grad_second * scale, grad_scale, None


def _chunks(count: int, device: torch.device) -> list[slice]:
    size = 1 if device.type == "cpu" else 64
    return [slice(k, k + size) for k in range(0, count, size)]


def unit_info_nce(
    first: Float[Tensor, "p n d"],
    second: Float[Tensor, "p n d"],
    temperature: Tensor,
    valid: Bool[Tensor, "p n"],
) -> tuple[Float[Tensor, "p n"], Float[Tensor, "p n"]]:
    """Return `proper` InfoNCE per match of unit vectors, fast, and 1 where the match is found.

    Args:
        temperature: scalar, at least 0.025: below, single precision loses the small terms.
    """
    return _UnitInfoNCE.apply(first, second, 1 / temperature, valid)  # pyright: ignore


def average_precision(similarity: Float[Tensor, "p n m"]) -> Float[Tensor, "p n"]:
    """Return the average precision of each row whose one positive is on the diagonal: 1 / rank.

    Not differentiable. Columns beyond n are further negatives.
    """
    positive = similarity.diagonal(dim1=1, dim2=2)[..., None]
    return 1 / (1 + (similarity > positive).sum(2))


def match_accuracy(logits: Float[Tensor, "p n n"], valid: Bool[Tensor, "p n"]) -> Tensor:
    """Return the share of valid matches whose true partner is the most similar candidate."""
    candidates = logits.detach().masked_fill(~valid[:, None], -torch.inf)
    right = candidates.argmax(2) == torch.arange(logits.shape[1], device=logits.device)
    return (right & valid).sum() / valid.sum().clamp_min(1)


@dataclass(frozen=True)
class MatchLoss:
    """Loss of each match, and what the confidence terms need.

    Attributes:
        loss: per match.
        valid: matches that count.
        confidence1, confidence2: predicted confidence of the descriptors there, or None.
        accuracy: share of right nearest neighbours, scalar.
    """

    loss: Float[Tensor, "p n"]
    valid: Bool[Tensor, "p n"]
    confidence1: Float[Tensor, "p n"] | None
    confidence2: Float[Tensor, "p n"] | None
    accuracy: Tensor

    def mean(self) -> Tensor:
        """Mean over the valid matches; 0 if there is none."""
        return _mean(self.loss, self.valid)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def confident_match_loss(
    match: MatchLoss,
    alpha: float = 10.0,
    mode: Literal["mean", "prod"] = "mean",
    negative_quantile: float = 0.0,
    detach_loss: bool = False,
) -> Tensor:
    """Weight the match losses by the descriptors' confidence: `loss * c - alpha * log(c)`.

    Args:
        mode: how the confidences of the two views combine into c.
        negative_quantile: give the unmatched entries this quantile of the losses (0 = no term).
        detach_loss: train the confidence only, leave the descriptors alone.

    Reference: MASt3R's confidence-weighted matching loss (its public training code).
    """
    if match.confidence1 is None or match.confidence2 is None:
        raise ValueError("the model has no descriptor confidence; use descriptor_confidence: none")
    first = torch.where(match.valid, match.confidence1.float(), 1.0)
    second = torch.where(match.valid, match.confidence2.float(), 1.0)
    confidence = (first + second) / 2 if mode == "mean" else first * second
    loss = match.loss.detach() if detach_loss else match.loss
    total = _mean(loss * confidence - alpha * confidence.clamp_min(_EPS).log(), match.valid)
    if negative_quantile > 0 and bool(match.valid.any()):
        level = match.loss.detach()[match.valid].quantile(negative_quantile)
        unmatched = ~torch.cat([match.valid, match.valid])
        own = torch.cat([match.confidence1.float(), match.confidence2.float()])
        own = torch.where(unmatched, own, 1.0)
        total = total + _mean(level * own - alpha * own.clamp_min(_EPS).log(), unmatched)
    return total


@dataclass(frozen=True)
class MatchingLoss:
    """InfoNCE over the matches of each pair; matches of other pairs are never compared.

    Attributes:
        mode: see `info_nce`.
        floor: smallest probability, 0 = none.
        block_size: compare in random blocks of this many matches; None = all with all.
        compare: descriptors, or predicted points (then 3D confidences are used).
        normalise: bring interpolated descriptors back to unit length.
    """

    mode: Literal["proper", "all", "dual"] = "proper"
    floor: float = 0.0
    block_size: int | None = None
    compare: Literal["descriptors", "points"] = "descriptors"
    normalise: bool = True

    def __call__(
        self,
        prediction: MatchablePair,
        matches: MatchTargets,
        temperature: float | Tensor = 0.05,
        permutation: Tensor | None = None,
    ) -> MatchLoss:
        """Compute the loss of every match.

        Args:
            permutation: (P, n), the order before cutting into blocks; None draws one.
        """
        if self.block_size is not None and matches.xy1.shape[1] > self.block_size:
            matches = _in_blocks(matches, self.block_size, permutation)
        blocks = len(matches.xy1) // len(prediction.view1.pointmap)
        first = self._read(prediction.view1, matches.xy1, blocks)
        second = self._read(prediction.view2, matches.xy2, blocks)
        if self._fast(matches):
            tau = torch.as_tensor(temperature, device=first.values.device)
            loss, hits = unit_info_nce(first.values, second.values, tau, matches.valid)
            accuracy = _mean(hits, matches.valid)
            return MatchLoss(loss, matches.valid, first.confidence, second.confidence, accuracy)
        with torch.autocast(first.values.device.type, enabled=False):
            if self.compare == "points":
                similarity = similarity_of_points(first.values, second.values)
            else:
                similarity = first.values @ second.values.transpose(1, 2)  # (P, n, n)
            logits = similarity / temperature
            takes_part = None if matches.distractors else matches.valid
            loss = info_nce(logits, self.mode, takes_part, self.floor)
        accuracy = match_accuracy(logits, matches.valid)
        return MatchLoss(loss, matches.valid, first.confidence, second.confidence, accuracy)

    def _fast(self, matches: MatchTargets) -> bool:
        unit = self.compare == "descriptors" and self.normalise
        return unit and self.mode == "proper" and self.floor == 0 and not matches.distractors

    def _read(self, view: MatchableView, xy: Tensor, blocks: int) -> _Sampled:
        values, confidence = view.descriptors, view.descriptor_confidence
        if self.compare == "points":
            values, confidence = view.pointmap, view.confidence
        if values is None:
            raise ValueError("the model predicts no descriptors; set loss.matching_weight: 0")
        flat = xy.reshape(len(xy) // blocks, -1, 2)
        sampled = sample_map(values.float(), flat)
        if self.normalise and self.compare == "descriptors":
            sampled = torch.nn.functional.normalize(sampled, dim=-1)
        if confidence is not None:
            confidence = sample_map(confidence.float()[..., None], flat).reshape(xy.shape[:2])
        return _Sampled(sampled.reshape(*xy.shape[:2], -1), confidence)


@dataclass(frozen=True)
class _Sampled:
    values: Float[Tensor, "p n d"]
    confidence: Float[Tensor, "p n"] | None


def _in_blocks(matches: MatchTargets, size: int, permutation: Tensor | None) -> MatchTargets:
    P, n = matches.valid.shape
    if n % size:
        raise ValueError(f"{n} matches do not divide into blocks of {size}")
    if permutation is None:
        permutation = torch.rand(P, n, device=matches.valid.device).argsort(1)
    spread = permutation[..., None].expand(-1, -1, 2)
    return MatchTargets(
        matches.xy1.gather(1, spread).reshape(-1, size, 2),
        matches.xy2.gather(1, spread).reshape(-1, size, 2),
        matches.valid.gather(1, permutation).reshape(-1, size),
        matches.distractors,
    )


def unused_pixels(
    matches: MatchTargets, height: int, width: int, count: int
) -> Float[Tensor, "p k 2"]:
    """Return the first `count` pixels of view 2, in raster order, that no match uses.

    They pad the columns of a validation similarity matrix with further negatives.
    """
    index = (matches.xy2 - 0.5).round().long()
    flat = index[..., 1] * width + index[..., 0]
    used = torch.zeros(len(flat), height * width, dtype=torch.bool, device=flat.device)
    used.scatter_(1, flat, True)
    order = used.int().argsort(dim=1, stable=True)[:, :count]
    return torch.stack([order % width, order // width], -1) + 0.5
