"""Regression losses on pairs of pointmaps.

The variants are those of DUSt3R (Wang et al. 2024, eq. 2-4) and MASt3R (Leroy et al. 2024):
both pointmaps of a pair, in the frame of camera 1, divided by one joint scale, compared by the
Euclidean distance, weighted by a predicted confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .matching_loss import MatchTargets

ScaleMode = Literal["avg_dis", "avg_log1p", "avg_warp-log1p", "median_dis", "sqrt_dis"]
SCALE_MODES = ("avg_dis", "avg_log1p", "avg_warp-log1p", "median_dis", "sqrt_dis")
_TINY = 1e-8


@dataclass(frozen=True)
class PairTargets:
    """Ground truth of P ordered pairs of views.

    Attributes:
        pointmap1: points of view 1 in the frame of camera 1, metres (or the data set's unit).
        pointmap2: points of view 2 in the frame of camera 1.
        valid1, valid2: True where the points may be used.
        matches: corresponding positions, or None.
        metric: pairs whose unit is the metre; None = all of them.
        sky1, sky2: pixels known to be sky, or None.
    """

    pointmap1: Float[Tensor, "p h w 3"]
    pointmap2: Float[Tensor, "p h w 3"]
    valid1: Bool[Tensor, "p h w"]
    valid2: Bool[Tensor, "p h w"]
    matches: MatchTargets | None = None
    metric: Bool[Tensor, " p"] | None = None
    sky1: Bool[Tensor, "p h w"] | None = None
    sky2: Bool[Tensor, "p h w"] | None = None


class PointmapView(Protocol):
    """What the regression reads of a prediction for one view."""

    @property
    def pointmap(self) -> Tensor: ...  # (P, H, W, 3), in the frame of camera 1

    @property
    def confidence(self) -> Tensor: ...  # (P, H, W), > 1


class PairLike(Protocol):
    """A prediction for both views of a pair."""

    @property
    def view1(self) -> PointmapView: ...

    @property
    def view2(self) -> PointmapView: ...


@dataclass(frozen=True)
class PixelErrors:
    """Per-pixel regression errors.

    Attributes:
        error1, error2: distance between prediction and truth, 0 outside of the masks.
        mask1, mask2: pixels that count.
    """

    error1: Float[Tensor, "p h w"]
    error2: Float[Tensor, "p h w"]
    mask1: Bool[Tensor, "p h w"]
    mask2: Bool[Tensor, "p h w"]

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean error of each view over the masked pixels of the whole batch; 0 if there is none."""
        return masked_mean(self.error1, self.mask1), masked_mean(self.error2, self.mask2)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked values; 0 for an empty mask."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def log_points(points: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Re-lengthen points to log(1 + length), which tames far ones."""
    length = points.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    return points * (torch.log1p(length) / length)


def joint_scale(
    points1: Float[Tensor, "p h w 3"],
    points2: Float[Tensor, "p h w 3"],
    valid1: Bool[Tensor, "p h w"],
    valid2: Bool[Tensor, "p h w"],
    mode: ScaleMode = "avg_dis",
) -> Float[Tensor, " p"]:
    """Return one scale per pair from the distances of all valid points of both views.

    Args:
        mode: `avg_dis` mean distance; `avg_log1p` and `avg_warp-log1p` mean of log(1 + distance);
            `median_dis` (lower) median, without gradient; `sqrt_dis` squared mean of the roots.

    Returns:
        Scales, at least 1e-8, also for a pair without valid points.
    """
    if mode not in SCALE_MODES:
        raise ValueError(f"mode must be one of {', '.join(SCALE_MODES)}, got {mode!r}")
    valid = torch.cat([valid1.flatten(1), valid2.flatten(1)], 1)
    points = torch.cat([points1.flatten(1, 2), points2.flatten(1, 2)], 1)
    distance = torch.where(valid[..., None], points, 0.0).norm(dim=-1)  # (P, 2HW)
    if mode == "median_dis":
        median = _masked_median(distance.detach(), valid)
        return median.nan_to_num(_TINY).clamp_min(_TINY)
    if mode in ("avg_log1p", "avg_warp-log1p"):
        distance = distance.log1p()
    elif mode == "sqrt_dis":  # the where keeps the infinite slope at 0 out of the gradient
        distance = torch.where(valid, torch.where(valid, distance, 1.0).sqrt(), 0.0)
    scale = distance.sum(1) / (valid.sum(1) + _TINY)
    return (scale.square() if mode == "sqrt_dis" else scale).clamp_min(_TINY)


def joint_median_depth(
    points1: Tensor, points2: Tensor, valid1: Tensor, valid2: Tensor
) -> Float[Tensor, " p"]:
    """Return the (lower) median z of all valid points of both views, without gradient."""
    points, valid = _joint(points1, points2, valid1, valid2)
    return _masked_median(points[..., 2], valid).nan_to_num(0.0)


def joint_center_scale(
    points1: Tensor, points2: Tensor, valid1: Tensor, valid2: Tensor
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, " p"]]:
    """Return the median point of both views and the median distance to it, without gradient."""
    points, valid = _joint(points1, points2, valid1, valid2)
    center = _masked_median(points.transpose(1, 2), valid[:, None]).nan_to_num(0.0)  # (P, 3)
    distance = (points - center[:, None]).norm(dim=-1)
    return center, _masked_median(distance, valid).nan_to_num(1.0)


def _joint(points1: Tensor, points2: Tensor, valid1: Tensor, valid2: Tensor):
    points = torch.cat([points1.flatten(1, 2), points2.flatten(1, 2)], 1).detach()
    return points, torch.cat([valid1.flatten(1), valid2.flatten(1)], 1)


def _masked_median(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, torch.nan).nanmedian(dim=-1).values


@dataclass(frozen=True)
class PointmapRegression:
    """Per-pixel distance between normalised pointmaps.

    Attributes:
        normalisation: how both maps are scaled, None = not at all.
        metric_aware: pairs in metres are predicted in metres: their prediction is divided by the
            scale of the truth instead of its own (MASt3R's `?` modes).
        keep_target_scale: leave the truth as it is (`gt_scale`).
        shift_invariant: subtract the joint median depth of each.
        scale_invariant: divide each by its own median extent (or match it, `keep_target_scale`).
        log: `"both"` compares re-lengthened points, `"target"` re-lengthens the truth before
            the normalisation.
        max_metric_distance: a metric pair with a point farther than this counts as non-metric.
        clip_distance: points farther than this are ignored.
        clip_median: points farther than this times the pair's median distance are ignored.
        sky_error: error given to sky pixels (so that confidence learns them); None = ignore sky.
    """

    normalisation: ScaleMode | None = "avg_dis"
    metric_aware: bool = False
    keep_target_scale: bool = False
    shift_invariant: bool = False
    scale_invariant: bool = False
    log: Literal["no", "both", "target"] = "no"
    max_metric_distance: float | None = None
    clip_distance: float | None = None
    clip_median: float | None = None
    sky_error: float | None = None

    def __call__(self, prediction: PairLike, targets: PairTargets) -> PixelErrors:
        """Compare; all masks may be empty."""
        valid = self._valid(targets)
        truth = _masked(valid, targets.pointmap1.float(), targets.pointmap2.float())
        guess = _masked(valid, prediction.view1.pointmap.float(), prediction.view2.pointmap.float())
        metric = self._metric(targets, truth, valid)
        if self.log == "target":
            truth = log_points(truth[0]), log_points(truth[1])
        guess, truth = self._normalise(guess, truth, valid, metric)
        if self.shift_invariant:
            guess, truth = _without_shift(guess, valid), _without_shift(truth, valid)
        if self.scale_invariant:
            guess, truth = self._match_scale(guess, truth, valid)
        if self.log == "both":
            guess = log_points(guess[0]), log_points(guess[1])
            truth = log_points(truth[0]), log_points(truth[1])
        error1 = torch.where(valid[0][..., None], guess[0] - truth[0], 0.0).norm(dim=-1)
        error2 = torch.where(valid[1][..., None], guess[1] - truth[1], 0.0).norm(dim=-1)
        error1, mask1 = self._with_sky(error1, valid[0], targets.sky1)
        error2, mask2 = self._with_sky(error2, valid[1], targets.sky2)
        return PixelErrors(error1, error2, mask1, mask2)

    def _valid(self, targets: PairTargets) -> tuple[Tensor, Tensor]:
        valid = targets.valid1, targets.valid2
        if self.clip_distance is None and self.clip_median is None:
            return valid
        points = targets.pointmap1.float(), targets.pointmap2.float()
        distance = points[0].norm(dim=-1), points[1].norm(dim=-1)  # (P, H, W) each
        if self.clip_distance is not None:
            near = [d <= self.clip_distance for d in distance]
            valid = valid[0] & near[0], valid[1] & near[1]
        if self.clip_median is not None:
            limit = self.clip_median * joint_scale(*points, *valid, mode="median_dis")
            near = [d <= limit[:, None, None] for d in distance]
            valid = valid[0] & near[0], valid[1] & near[1]
        return valid

    def _metric(self, targets: PairTargets, truth, valid) -> Tensor:
        metric = targets.metric
        if metric is None:
            metric = torch.ones(len(truth[0]), dtype=torch.bool, device=truth[0].device)
        if self.max_metric_distance is not None:
            for points, mask in zip(truth, valid, strict=True):
                far = mask & ~(points.norm(dim=-1) < self.max_metric_distance)
                metric = metric & ~far.flatten(1).any(1)
        return metric

    def _normalise(self, guess, truth, valid, metric):
        if self.normalisation is None:
            return guess, truth
        if self.normalisation == "avg_warp-log1p":
            guess = log_points(guess[0]), log_points(guess[1])
            if not self.keep_target_scale:
                truth = log_points(truth[0]), log_points(truth[1])
        mode = "avg_dis" if self.normalisation == "avg_warp-log1p" else self.normalisation
        guess_scale = joint_scale(*guess, *valid, mode=mode)
        truth_scale = joint_scale(*truth, *valid, mode=mode)
        if self.keep_target_scale:
            truth_scale = torch.ones_like(truth_scale)
        if self.metric_aware:
            guess_scale = torch.where(metric, truth_scale, guess_scale)
        return _divide(guess, guess_scale), _divide(truth, truth_scale)

    def _match_scale(self, guess, truth, valid):
        guess_scale = joint_center_scale(*guess, *valid)[1].clamp(1e-3, 1e3)
        truth_scale = joint_center_scale(*truth, *valid)[1].clamp_min(_TINY)
        if self.keep_target_scale:
            return _divide(guess, guess_scale / truth_scale), truth
        return _divide(guess, guess_scale), _divide(truth, truth_scale)

    def _with_sky(self, error: Tensor, valid: Tensor, sky: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.sky_error is None or sky is None:
            return error, valid
        sky = sky & ~valid
        return torch.where(sky, self.sky_error, error), valid | sky


def _masked(valid, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Zero the invalid points, so that no infinity or NaN there reaches the arithmetic."""
    return (
        torch.where(valid[0][..., None], first, 0.0),
        torch.where(valid[1][..., None], second, 0.0),
    )


def _divide(points: tuple[Tensor, Tensor], scale: Tensor) -> tuple[Tensor, Tensor]:
    return points[0] / scale[:, None, None, None], points[1] / scale[:, None, None, None]


def _without_shift(points: tuple[Tensor, Tensor], valid) -> tuple[Tensor, Tensor]:
    depth = joint_median_depth(*points, *valid)
    shift = nn.functional.pad(depth[:, None], (2, 0))[:, None, None]  # (P, 1, 1, 3)
    return points[0] - shift, points[1] - shift


@dataclass(frozen=True)
class ConfidenceLosses:
    """Confidence-weighted losses of the two views, scalars."""

    view1: Tensor
    view2: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.view1 + self.view2


def confidence_loss(
    errors: PixelErrors, prediction: PairLike, alpha: float = 0.2
) -> ConfidenceLosses:
    """Weight errors by confidence: mean of `error * confidence - alpha * log(confidence)`.

    Args:
        alpha: reward of being confident; the best confidence is alpha / error.

    Reference: Kendall & Gal 2017 in the form of DUSt3R, eq. 4. An empty mask contributes 0.
    """
    losses = []
    for error, mask, confidence in (
        (errors.error1, errors.mask1, prediction.view1.confidence),
        (errors.error2, errors.mask2, prediction.view2.confidence),
    ):
        confidence = torch.where(mask, confidence.float(), 1.0)
        losses.append(masked_mean(error * confidence - alpha * confidence.log(), mask))
    return ConfidenceLosses(*losses)


def optimal_scale(
    source: tuple[Tensor, Tensor],
    target: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    method: Literal["avg", "median", "weiszfeld"] = "weiszfeld",
    iterations: int = 10,
) -> Float[Tensor, " p"]:
    """Return the factor per pair that brings the source points closest to the target points.

    Args:
        source, target: pointmaps of both views.
        method: `avg` least squares; `median` of the per-point factors; `weiszfeld` iteratively
            re-weighted least squares, i.e. least distances.
    """
    start, mask = _joint(*source, *valid)
    goal, _ = _joint(*target, *valid)
    start, goal = torch.where(mask[..., None], start, 0.0), torch.where(mask[..., None], goal, 0.0)
    cross, square = (start * goal).sum(-1), start.square().sum(-1)  # (P, N)
    if method == "median":
        return _masked_median(cross / square, mask)
    scale = cross.mean(1) / square.mean(1).clamp_min(_TINY)
    if method == "weiszfeld":
        for _ in range(iterations):
            residual = (goal - scale[:, None, None] * start).norm(dim=-1)
            weight = mask / residual.clamp_min(_TINY)
            scale = (weight * cross).mean(1) / (weight * square).mean(1)
    return scale
