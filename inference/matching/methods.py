"""The ways to match a predicted pair, chosen by name or by their options."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from ..images import View
from ..predict import PairResult
from .descriptors import Matches, MatchingOptions, match_pair, merge_matches
from .gating import Gate, gate_from_pointmaps
from .pointmaps import match_pointmaps
from .reciprocal_pairs import descriptor_maps, match_directed, match_symmetric
from .subpixel import peak_offsets

logger = logging.getLogger(__name__)

Matcher = Literal["anchors", "reciprocal", "gated", "pointmaps"]
MATCHERS: tuple[Matcher, ...] = get_args(Matcher)


@dataclass(frozen=True)
class ReciprocalOptions:
    """Exact reciprocal nearest neighbours of the descriptors, see `reciprocal_matches`.

    Attributes:
        step: spacing of the seeds in both images, network pixels.
        tolerance_px: 0 lets the seeds walk until they arrive at mutual nearest neighbours; else the
            seeds themselves are matched that return to less than this distance, network pixels.
        both_orders: match in both network orders, with the geometric mean of the confidences; False
            takes the order (first, second) alone, with the smaller confidence.
        gated: search near where the pointmaps expect each pixel, as far as a sample of exact
            look-ups agrees with that, and in the whole image otherwise; see `Gate`.
        border: matches closer to the border of either image are dropped, network pixels.
        subpixel: refine the positions in the second image to a fraction of a pixel.
        min_confidence: matches below are dropped.
        max_matches: the surest that are kept; None keeps all.
    """

    step: int = 8
    tolerance_px: float = 0.0
    both_orders: bool = True
    gated: bool = False
    border: int = 3
    subpixel: bool = True
    min_confidence: float = 0.0
    max_matches: int | None = None


@dataclass(frozen=True)
class PointmapOptions:
    """Mutual nearest neighbours of the two pointmaps, see `match_pointmaps`.

    Attributes:
        step: of all mutual neighbours, the surest one in each square of so many network pixels of
            the first image is kept.
        border: matches closer to the border of either image are dropped, network pixels.
        subpixel: refine the positions in the second image to a fraction of a pixel.
        min_confidence: matches below are dropped.
        max_matches: the surest that are kept; None keeps all.
    """

    step: int = 4
    border: int = 3
    subpixel: bool = True
    min_confidence: float = 0.0
    max_matches: int | None = None


MatcherOptions = MatchingOptions | ReciprocalOptions | PointmapOptions


def matcher_options(
    matcher: Matcher | None, options: MatcherOptions | None, has_descriptors: bool
) -> MatcherOptions:
    """Options of the matcher that is meant.

    Args:
        matcher: its name; None: that of the options, else "anchors" for checkpoints with
            descriptors and "pointmaps" for the others.
        options: its options; None: the defaults.
        has_descriptors: whether the checkpoint predicts descriptors.

    Raises:
        ValueError: for an unknown name, options of another matcher, or a matcher that needs the
            descriptors that the checkpoint lacks.
    """
    if matcher is not None and matcher not in MATCHERS:
        raise ValueError(f"matcher must be one of {', '.join(MATCHERS)}, got {matcher!r}")
    defaults: dict[Matcher, MatcherOptions] = {
        "anchors": MatchingOptions(),
        "reciprocal": ReciprocalOptions(),
        "gated": ReciprocalOptions(gated=True),
        "pointmaps": PointmapOptions(),
    }
    if options is None:
        options = defaults[matcher or ("anchors" if has_descriptors else "pointmaps")]
    elif matcher is not None and _name(options) != matcher:
        raise ValueError(
            f'the options are those of matcher "{_name(options)}", but matcher="{matcher}" was '
            "asked for; give one of the two"
        )
    if not has_descriptors and not isinstance(options, PointmapOptions):
        raise ValueError(
            f'matcher "{_name(options)}" needs descriptors, which this checkpoint does not '
            'predict; use matcher="pointmaps", or weav3r-small or a MASt3R-class checkpoint'
        )
    return options


def match_views(
    result: PairResult,
    view1: View,
    view2: View,
    options: MatcherOptions | None = None,
    device: torch.device | str = "cpu",
) -> Matches:
    """Match a predicted pair, in original pixels, surest first.

    Args:
        result: of the pair.
        view1: `result.first`.
        view2: `result.second`.
        options: of the matcher; None is the default for what the result holds.
        device: where descriptors are compared.

    Raises:
        ValueError: if the options need descriptors and the result has none.
    """
    has_descriptors = result.forward.view1.descriptors is not None
    options = matcher_options(None, options, has_descriptors)
    if isinstance(options, MatchingOptions):
        return merge_matches(*match_pair(result, view1, view2, options, device))
    if isinstance(options, PointmapOptions):
        found = match_pointmaps(result, options.step, options.border, options.subpixel)
        xy1, xy2, confidence = found.xy1, found.xy2, found.confidence
    else:
        xy1, xy2, confidence = _reciprocal(result, options, device)
    keep = np.flatnonzero(confidence >= options.min_confidence)
    keep = keep[np.argsort(-confidence[keep], kind="stable")][: options.max_matches]
    return Matches(
        view1.ledger.points_to_original(xy1[keep]).astype(np.float32),
        view2.ledger.points_to_original(xy2[keep]).astype(np.float32),
        confidence[keep].astype(np.float32),
    )


def _name(options: MatcherOptions) -> Matcher:
    if isinstance(options, MatchingOptions):
        return "anchors"
    if isinstance(options, PointmapOptions):
        return "pointmaps"
    return "gated" if options.gated else "reciprocal"


def _reciprocal(
    result: PairResult, options: ReciprocalOptions, device: torch.device | str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Network pixels in both images, and confidences."""
    forward, backward = (maps.to(device) for maps in descriptor_maps(result))
    gate = _gate(result, device) if options.gated else None
    first, second = forward.descriptors1, forward.descriptors2
    if options.both_orders:
        found = match_symmetric(forward, backward, options.step, options.tolerance_px, gate)
        first = torch.cat([first, backward.descriptors1], -1)
        second = torch.cat([second, backward.descriptors2], -1)
    else:
        found = match_directed(forward, options.step, options.tolerance_px, gate)
    found = found.inside(options.border)
    assert found.confidence is not None
    xy2 = found.xy2
    if options.subpixel:
        place1, place2 = (
            torch.from_numpy(pixels[:, ::-1].copy()).to(device)
            for pixels in (found.pixels1, found.pixels2)
        )
        xy2 = xy2 + peak_offsets(first, place1, second, place2).cpu().numpy()
    return found.xy1, xy2, found.confidence


def _gate(result: PairResult, device: torch.device | str) -> Gate | None:
    maps = result.forward
    try:
        return gate_from_pointmaps(
            maps.view1.pointmap.to(device),
            maps.view2.pointmap.to(device),
            maps.view1.confidence.to(device),
        )
    except ValueError as error:
        logger.info("%s; every pixel is compared", error)
        return None
