"""Two photos: matches and how the camera moved between them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..geometry.pose import RelativePoseEstimate
from ..models.loading import load_model
from ..models.two_view import TwoViewModel
from .defaults import inference_size, predicts_metres
from .images import View, load_images
from .matching.coarse_to_fine import CoarseToFineOptions, match_crops
from .matching.descriptors import Matches
from .matching.methods import Matcher, MatcherOptions, match_views, matcher_options
from .matching.warp import Warp, warp_views
from .pictures import matches_picture
from .predict import PairResult, Precision, encode_views, predict_pairs
from .relative_pose import FocalSharing, describe_pose, pose_of_pair


@dataclass(frozen=True)
class PairMatch:
    """Matches of two photos, in original pixels (upright, centres at half-integers).

    Attributes:
        view1, view2: the photos as the network saw them, with their ledgers.
        matches: corresponding points, surest first.
        result: what the network predicted for both, at network resolution.
        metric: whether its pointmaps are in metres.
    """

    view1: View
    view2: View
    matches: Matches
    result: PairResult | None = field(default=None, repr=False)
    metric: bool = False

    @property
    def xy1(self) -> np.ndarray:
        """(N, 2) float32 points in the first photo."""
        return self.matches.xy1

    @property
    def xy2(self) -> np.ndarray:
        """(N, 2) float32 points in the second photo."""
        return self.matches.xy2

    @property
    def confidence(self) -> np.ndarray:
        """(N,) float32, higher is surer; see `Matches`."""
        return self.matches.confidence

    def warp(self, reverse: bool = False) -> Warp:
        """Where each pixel of the first photo is in the second, and how sure that is.

        Args:
            reverse: True is from the second photo to the first.

        Returns:
            `xy` (H, W, 2) and `certainty` (H, W), both in original pixels.

        Raises:
            ValueError: if this pair was made without the network's result, or the checkpoint has no
                descriptors and its pointmaps determine no camera.
        """
        if self.result is None:
            raise ValueError("a warp needs the network's result; make the pair with weav3r.match")
        return warp_views(self.result, self.view1, self.view2)[int(reverse)]

    def relative_pose(
        self,
        K1: np.ndarray | None = None,
        K2: np.ndarray | None = None,
        max_error_px: float | None = None,
        focal: FocalSharing = "auto",
    ) -> RelativePoseEstimate:
        """Pose of the second camera relative to the first, from the matches.

        Args:
            K1, K2: (3, 3) intrinsics in original pixels. Without them focal lengths are estimated,
                starting from EXIF or the network, with the principal points at the centres.
            max_error_px: inlier threshold in original pixels; default: 1.5 pixels of the network's
                input.
            focal: whether unknown focal lengths are one ("shared") or two ("separate"); "auto": one
                if the photos have equal sizes and EXIF focal lengths.

        Returns:
            `cam2_from_cam1` and the inliers. The translation is in metres for a metric checkpoint
            (`metric`), otherwise of length 1, and zero where the camera only turned. `kind` and
            `caveat` name what the photos leave open; falsy, with a `reason`, when there is no pose.

        Raises:
            ValueError: if only one of K1 and K2 is given, or `focal` is unknown.
        """
        return pose_of_pair(
            *(self.matches, self.view1, self.view2, K1, K2),
            max_error_px=max_error_px,
            focal=focal,
            result=self.result,
            metric=self.metric,
        )

    @cached_property
    def _pose(self) -> RelativePoseEstimate:
        return self.relative_pose()

    def summary(self, K1: np.ndarray | None = None, K2: np.ndarray | None = None) -> str:
        """A few lines for the terminal; arguments as for `relative_pose`."""
        head = f"{self.view1.name} - {self.view2.name}: {len(self.matches)} matches"
        found = self._pose if K1 is None and K2 is None else self.relative_pose(K1, K2)
        return "\n".join([head, *describe_pose(found, estimated_focal=K1 is None)])

    def save(self, path: str | Path) -> None:
        """Write the matches as .npz or .csv, or draw them as .png; missing folders are made.

        Raises:
            ValueError: for another suffix.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix in (".npz", ".csv", ".png"):
            path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npz":
            np.savez_compressed(
                path,
                xy1=self.xy1,
                xy2=self.xy2,
                confidence=self.confidence,
                image1=self.view1.name,
                image2=self.view2.name,
            )
        elif suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["x1", "y1", "x2", "y2", "confidence"])
                for (x1, y1), (x2, y2), c in zip(self.xy1, self.xy2, self.confidence, strict=True):
                    writer.writerow(
                        [f"{v:.3f}" for v in map(float, (x1, y1, x2, y2))] + [f"{float(c):.5f}"]
                    )
        elif suffix == ".png":
            self.draw().save(path)
        else:
            raise ValueError(f"cannot write matches to {path}; use .npz, .csv or .png")

    def draw(self, max_lines: int = 150) -> Image.Image:
        """Both photos side by side at network size with lines between the surest matches.

        Matches that agree with one camera motion are green, the others red.
        """
        return matches_picture(
            *(self.view1.rgb, self.view2.rgb),
            self.view1.ledger.points_to_network(self.xy1),
            self.view2.ledger.points_to_network(self.xy2),
            self._pose.inliers,
            max_lines=max_lines,
        )


def match(
    image1: str | Path,
    image2: str | Path,
    model: TwoViewModel | str | Path = "weav3r-small",
    *,
    device: str = "auto",
    size: int | None = None,
    precision: Precision = "float32",
    min_confidence: float = 0.0,
    matcher: Matcher | None = None,
    options: MatcherOptions | None = None,
    coarse_to_fine: bool | CoarseToFineOptions = False,
    progress: bool | Callable[[str, int, int], None] = False,
) -> PairMatch:
    """Match two photos.

    Args:
        image1, image2: paths of the photos.
        model: a loaded model, or anything that `load_model` takes.
        device: "auto", "cpu", "cuda", ...; ignored for a loaded model.
        size: long side of the network's input in pixels; default: the best measured for the model.
        precision: of the network's matrix products, see `reconstruct`.
        min_confidence: matches below are dropped.
        matcher: "anchors" (the default with descriptors; a regular grid, both network orders
            joined), "reciprocal" (exact reciprocal nearest neighbours), "gated" (the same, searched
            where the pointmaps allow first) or "pointmaps" (nearest points in space; the default
            without descriptors).
        options: of the matcher: `MatchingOptions`, `ReciprocalOptions` or `PointmapOptions`.
        coarse_to_fine: look at the photos at up to three times the network's size, in overlapping
            crops; True or `CoarseToFineOptions`. The network runs once for each pair of crops.
        progress: how far the crops are: True for a bar in the terminal, or a function that receives
            (stage, done, total).

    Returns:
        Matches in original pixels.

    Raises:
        FileNotFoundError, ValueError: a photo is missing or unusable; the message names it. Or the
            matcher does not exist or needs descriptors that the checkpoint does not predict.
    """
    if not isinstance(model, TwoViewModel):
        model = load_model(model, device=device)
    options = matcher_options(matcher, options, model.config.descriptor_dim > 0)
    size = inference_size(model) if size is None else size
    view1, view2 = _load_pair(image1, image2, (size, size), model.config.patch_size)
    encoded = encode_views(model, [view1, view2], precision=precision)
    result = next(predict_pairs(model, encoded, [(0, 1)], precision=precision))
    matches = match_views(result, view1, view2, options, model.device)
    if coarse_to_fine:
        fine = CoarseToFineOptions() if coarse_to_fine is True else coarse_to_fine
        sizes = _fine_sizes(view1, view2, size, fine.detail)
        if max(sizes) > size:
            photos = _load_pair(image1, image2, sizes, model.config.patch_size)
            crops = match_crops(model, *photos, matches, size, fine, options, precision, progress)
            matches = crops if len(crops) else matches
    kept = matches.select(matches.confidence >= min_confidence)
    return PairMatch(view1, view2, kept, result, metric=predicts_metres(model.config))


def _load_pair(
    image1: str | Path, image2: str | Path, sizes: tuple[int, int], patch_size: int
) -> tuple[View, View]:
    """Both photos, each with its own long side.

    Raises:
        FileNotFoundError, ValueError: one is missing or unusable, or both are the same.
    """
    views: list[View] = []
    for size in dict.fromkeys(sizes):
        loaded = load_images([Path(image1), Path(image2)], size=size, patch_size=patch_size)
        if loaded.skipped:
            raise ValueError("; ".join(str(problem) for problem in loaded.skipped))
        views += loaded.views
    return views[0], views[-1]


def _fine_sizes(view1: View, view2: View, size: int, detail: float) -> tuple[int, int]:
    """Long sides at which photos are cut into crops: never more than they have, nor than asked."""
    most = int(detail * size)
    first, second = (
        max(size, min(most, max(view.ledger.original_size))) for view in (view1, view2)
    )
    return first, second


class PairMatcher:
    """A checkpoint as a method that an evaluation can call: two paths in, `Matches` out."""

    def __init__(
        self,
        model: TwoViewModel | str | Path = "weav3r-small",
        *,
        device: str = "auto",
        size: int | None = None,
        matcher: Matcher | None = None,
        options: MatcherOptions | None = None,
        coarse_to_fine: bool | CoarseToFineOptions = False,
    ) -> None:
        self.model = model if isinstance(model, TwoViewModel) else load_model(model, device=device)
        self.size = size
        self.options = matcher_options(matcher, options, self.model.config.descriptor_dim > 0)
        self.coarse_to_fine = coarse_to_fine

    def __call__(self, image1: str | Path, image2: str | Path) -> Matches:
        """Match two photos; see `match`."""
        pair = match(
            image1,
            image2,
            self.model,
            size=self.size,
            options=self.options,
            coarse_to_fine=self.coarse_to_fine,
        )
        return pair.matches
