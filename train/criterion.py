"""The training loss of this package: regression, matching and their confidences."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import LossConfig
from .losses import PairLike, PairTargets, PointmapRegression, confidence_loss
from .matching_loss import MatchingLoss, confident_match_loss


class PairCriterion(nn.Module):
    """Weighted sum of the confidence-weighted regression loss and InfoNCE.

    The temperature of InfoNCE is a parameter when the recipe says so.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        metric_aware = config.normalisation.startswith("?")
        self.regression = PointmapRegression(
            normalisation=config.normalisation.removeprefix("?"),  # pyright: ignore
            metric_aware=metric_aware,
            log="both" if config.log_points else "no",
            clip_median=config.clip_median,
        )
        self.matching = MatchingLoss()
        log_scale = torch.tensor(-math.log(config.temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=config.learnable_temperature)

    @property
    def temperature(self) -> Tensor:
        """The present temperature, at least the smallest allowed."""
        return (-self.log_scale).exp().clamp_min(self.config.min_temperature)

    def forward(
        self, prediction: PairLike, targets: PairTargets, use_confidence: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and detached values for the log.

        Args:
            use_confidence: False counts every confidence as 1 in the regression.
        """
        config = self.config
        errors = self.regression(prediction, targets)
        e1, e2 = errors.means()
        regression = e1 + e2
        if use_confidence:
            regression = confidence_loss(errors, prediction, config.confidence_alpha).total
        total = config.regression_weight * regression
        values = {"e1": e1, "e2": e2, "regression": regression}
        if targets.matches is not None and config.matching_weight > 0:
            matching, found = self._matching(prediction, targets)
            total = total + config.matching_weight * matching
            values.update(found, matching=matching)
        return total, {"loss": total.detach()} | {k: v.detach() for k, v in values.items()}

    def _matching(
        self, prediction: PairLike, targets: PairTargets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        match = self.matching(prediction, targets.matches, self.temperature)  # pyright: ignore
        plain = match.mean()
        values = {"info_nce": plain, "accuracy": match.accuracy, "temperature": self.temperature}
        alpha = config.descriptor_confidence_alpha
        if config.descriptor_confidence == "joint":
            return confident_match_loss(match, alpha), values
        if config.descriptor_confidence == "detached" and match.confidence1 is not None:
            confidence = confident_match_loss(match, alpha, detach_loss=True)
            return plain + config.descriptor_confidence_weight * confidence, values
        return plain, values
