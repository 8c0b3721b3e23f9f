"""Validation on fixed procedural scenes, always next to what knowing nothing would give.

Pointmap errors mean little alone: a constant map, the same image twice and a wrong partner are
scored with the same measure. A network that has learnt two-view geometry is clearly better on the
true partner.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from .config import Recipe
from .data import SceneFactory
from .losses import PairTargets, PointmapRegression, joint_scale

_CHUNK = 4  # pairs per forward pass
_RADII_PX = (1.5, 5.0)


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs of one size, with everything the measures need.

    Attributes:
        images1, images2: in [-1, 1].
        targets: pointmaps in the frame of view 1, without matches.
        queries: covisible pixel centres of view 1, pixels.
        answers: their true positions in view 2, pixels.
        counts: which queries are real.
        mean1, mean2: mean normalised pointmaps of other scenes, (H, W, 3).
    """

    images1: Float[Tensor, "p 3 h w"]
    images2: Float[Tensor, "p 3 h w"]
    targets: PairTargets
    queries: Float[Tensor, "p q 2"]
    answers: Float[Tensor, "p q 2"]
    counts: Bool[Tensor, "p q"]
    mean1: Float[Tensor, "h w 3"]
    mean2: Float[Tensor, "h w 3"]


@dataclass(frozen=True)
class _Points:
    pointmap: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class _Pair:
    view1: _Points
    view2: _Points


@dataclass(frozen=True)
class Sample:
    """What a network makes of a validation pair, for people to look at.

    Attributes:
        image1, image2: RGB.
        depth: true z of view 1 over the scale of the pair; NaN where unknown.
        predicted: z of the network over the scale of its pointmaps.
    """

    image1: UInt8[np.ndarray, "h w 3"]
    image2: UInt8[np.ndarray, "h w 3"]
    depth: Float32[np.ndarray, "h w"]
    predicted: Float32[np.ndarray, "h w"]


class Validator:
    """Scores a network on the validation scenes of a recipe; the scenes are made once."""

    def __init__(self, recipe: Recipe, make_scenes: SceneFactory, device: torch.device) -> None:
        self.config, self.device = recipe.validation, device
        self.make_scenes = make_scenes
        self.sizes = recipe.validation.sizes or tuple(dict.fromkeys(recipe.data.sizes))
        self.regression = PointmapRegression(clip_median=recipe.loss.clip_median)
        self._pairs: dict[tuple[int, int], ValidationPairs] = {}

    def run(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, float]:
        """Return the measures, averaged over the sizes.

        Keys: `e1`, `e2` mean normalised point error of view 1 and 2 of the network;
        `_mean_map`, `_same_image`, `_wrong_partner` the same for the baselines; `abs_rel` of z in
        view 1; `pck1.5`, `pck5` share of covisible pixels matched within so many pixels; with
        `reciprocal_` over mutual nearest neighbours only; `reciprocal_share` of those.
        """
        was_training = model.training
        model.eval()
        rows = [self._one_size(model, size, dtype) for size in self.sizes]
        model.train(was_training)
        return {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}

    @torch.no_grad()
    def samples(self, model: nn.Module, count: int = 3) -> list[Sample]:
        """Predict the first pairs of the first size."""
        pairs = self._pairs_of(self.sizes[0])
        count = min(count, len(pairs.images1))
        output = model(pairs.images1[:count], pairs.images2[:count])
        targets = pairs.targets
        valid = targets.valid1[:count], targets.valid2[:count]
        truth = targets.pointmap1[:count], targets.pointmap2[:count]
        guess = output.view1.pointmap.float(), output.view2.pointmap.float()
        scales = [joint_scale(*points, *valid)[:, None, None] for points in (truth, guess)]
        depth = torch.where(valid[0], truth[0][..., 2] / scales[0], torch.nan).cpu().numpy()
        predicted = (guess[0][..., 2] / scales[1]).cpu().numpy()
        first, second = (_bytes(images[:count]) for images in (pairs.images1, pairs.images2))
        return [Sample(*values) for values in zip(first, second, depth, predicted, strict=True)]

    def _pairs_of(self, size: tuple[int, int]) -> ValidationPairs:
        if size not in self._pairs:
            self._pairs[size] = self._make(size)
        return self._pairs[size]

    @torch.no_grad()
    def _one_size(
        self, model: nn.Module, size: tuple[int, int], dtype: torch.dtype
    ) -> dict[str, float]:
        pairs = self._pairs_of(size)
        constant = _Pair(
            _Points(pairs.mean1.expand_as(pairs.targets.pointmap1), torch.ones(())),
            _Points(pairs.mean2.expand_as(pairs.targets.pointmap2), torch.ones(())),
        )
        true = self._predict(model, pairs.images1, pairs.images2, dtype, pairs)
        same = self._predict(model, pairs.images1, pairs.images1, dtype)
        wrong = self._predict(model, pairs.images1, pairs.images2.roll(1, 0), dtype)
        values: dict[str, float] = {}
        for name, points in {
            "": true.points,
            "_mean_map": constant,
            "_same_image": same.points,
            "_wrong_partner": wrong.points,
        }.items():
            e1, e2 = self._errors(points, pairs.targets)
            values[f"e1{name}"], values[f"e2{name}"] = e1, e2
        values["abs_rel"] = _abs_rel(true.points, pairs.targets)
        return values | true.matching

    def _errors(self, points: _Pair, targets: PairTargets) -> tuple[float, float]:
        errors = self.regression(points, targets)
        first = _pair_means(errors.error1, errors.mask1)
        return float(first), float(_pair_means(errors.error2, errors.mask2))

    def _predict(
        self,
        model: nn.Module,
        images1: Tensor,
        images2: Tensor,
        dtype: torch.dtype,
        pairs: ValidationPairs | None = None,
    ) -> _Prediction:
        """Predict in chunks; matches are only looked up when the pairs are given."""
        points, sums = [], torch.zeros(2 * len(_RADII_PX) + 2, device=self.device)
        for start in range(0, len(images1), _CHUNK):
            rows = slice(start, start + _CHUNK)
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
                output = model(images1[rows], images2[rows])
            points.append((output.view1.pointmap.float(), output.view2.pointmap.float()))
            if pairs is not None and output.view1.descriptors is not None:
                sums += _match_sums(output, pairs, rows)
        maps = [_Points(torch.cat(p), torch.ones(())) for p in zip(*points, strict=True)]
        return _Prediction(_Pair(*maps), _match_values(sums) if pairs is not None else {})

    def _make(self, size: tuple[int, int]) -> ValidationPairs:
        """Render the validation pairs and the mean map of further scenes."""
        from ..datasets.procedural.correspondence import sample_correspondences

        config = self.config
        source = self.make_scenes(*size, 2, config.seed, config.overlap)
        views = source.batch(0, config.scenes)
        generator = torch.Generator(device=views.images.device).manual_seed(config.seed % 2**31)
        found = sample_correspondences(views, 0, 1, config.queries, generator)
        targets = _targets(views)
        others = [
            _targets(source.batch(config.scenes + k, min(8, config.mean_map_scenes - k)))
            for k in range(0, config.mean_map_scenes, 8)
        ]
        mean1, mean2 = _mean_maps(others) if others else _mean_maps([targets])
        pairs = ValidationPairs(
            views.images[:, 0],
            views.images[:, 1],
            targets,
            found.xy1,
            found.xy2,
            found.valid,
            mean1,
            mean2,
        )
        return _to(pairs, self.device)


@dataclass(frozen=True)
class _Prediction:
    points: _Pair
    matching: dict[str, float]


def _bytes(images: Float[Tensor, "p 3 h w"]) -> UInt8[np.ndarray, "p h w 3"]:
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte()
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def _targets(views: Any) -> PairTargets:
    return PairTargets(
        views.pointmap_in_view(0, 0),
        views.pointmap_in_view(1, 0),
        views.valid[:, 0],
        views.valid[:, 1],
    )


def _mean_maps(parts: list[PairTargets]) -> tuple[Tensor, Tensor]:
    """Mean of the normalised pointmaps over the scenes where a pixel is valid."""
    sums: list[Tensor] = []
    for part in parts:
        scale = joint_scale(part.pointmap1, part.pointmap2, part.valid1, part.valid2)
        for k, (points, valid) in enumerate(
            ((part.pointmap1, part.valid1), (part.pointmap2, part.valid2))
        ):
            points = torch.where(valid[..., None], points / scale[:, None, None, None], 0.0)
            total = torch.cat([points, valid[..., None].float()], -1).sum(0)  # (H, W, 4)
            if len(sums) <= k:
                sums.append(total)
            else:
                sums[k] = sums[k] + total
    first, second = (s[..., :3] / s[..., 3:].clamp_min(1) for s in sums)
    return first, second


def _pair_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the pairs of the mean over their masked pixels."""
    count = mask.flatten(1).sum(1)
    means = torch.where(mask, values, 0.0).flatten(1).sum(1) / count.clamp_min(1)
    return means.sum() / (count > 0).sum().clamp_min(1)


def _abs_rel(points: _Pair, targets: PairTargets) -> float:
    """Mean |z - z_true| / z_true of view 1 after dividing both by their joint scales."""
    valid = targets.valid1, targets.valid2
    truth_scale = joint_scale(targets.pointmap1, targets.pointmap2, *valid)
    guess_scale = joint_scale(points.view1.pointmap, points.view2.pointmap, *valid)
    truth = targets.pointmap1[..., 2] / truth_scale[:, None, None]
    guess = points.view1.pointmap[..., 2] / guess_scale[:, None, None]
    mask = valid[0] & (truth > 1e-6)
    error = (guess - truth).abs() / torch.where(mask, truth, 1.0)
    return float(_pair_means(error, mask))


def _match_sums(output: Any, pairs: ValidationPairs, rows: slice) -> Tensor:
    """Count right matches: within each radius, the same among reciprocal ones, and the totals."""
    maps1, maps2 = output.view1.descriptors.float(), output.view2.descriptors.float()
    queries, answers, counts = pairs.queries[rows], pairs.answers[rows], pairs.counts[rows]
    sums = []
    for k in range(len(maps1)):
        flat1, flat2 = maps1[k].flatten(0, 1), maps2[k].flatten(0, 1)  # (HW, D)
        width1, width2 = maps1.shape[2], maps2.shape[2]
        start = queries[k].floor().long()
        start = start[:, 1] * width1 + start[:, 0]
        there = (flat1[start] @ flat2.T).argmax(1)
        back = (flat2[there] @ flat1.T).argmax(1)
        found = torch.stack([there % width2, there // width2], -1) + 0.5
        error = (found - answers[k]).norm(dim=-1)
        mutual = counts[k] & (back == start)
        right = [(error < r) & m for m in (counts[k], mutual) for r in _RADII_PX]
        sums.append(torch.stack([x.sum() for x in (*right, counts[k], mutual)]))
    return torch.stack(sums).sum(0).float()


def _match_values(sums: Tensor) -> dict[str, float]:
    *right, count, mutual = sums.tolist()
    n = len(_RADII_PX)
    values = {f"pck{r:g}": right[k] / max(count, 1) for k, r in enumerate(_RADII_PX)}
    for k, r in enumerate(_RADII_PX):
        values[f"reciprocal_pck{r:g}"] = right[n + k] / max(mutual, 1)
    return values | {"reciprocal_share": mutual / max(count, 1)}


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _to(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
