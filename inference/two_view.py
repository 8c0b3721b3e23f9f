"""Two photos: matches and how the camera moved between them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..geometry.pose import RelativePoseEstimate, relative_pose, relative_pose_unknown_focal
from ..models.loading import load_model
from ..models.two_view import TwoViewModel
from .defaults import inference_size
from .images import View, load_images
from .matching.descriptors import Matches, MatchingOptions, match_pair, merge_matches
from .predict import Precision, encode_views, predict_pairs


@dataclass(frozen=True)
class PairMatch:
    """Matches of two photos, in original pixels (upright, centres at half-integers).

    Attributes:
        view1, view2: the photos as the network saw them, with their ledgers.
        matches: corresponding points, surest first.
    """

    view1: View
    view2: View
    matches: Matches

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
        """(N,) float32 in (0, 1]."""
        return self.matches.confidence

    def relative_pose(
        self,
        K1: np.ndarray | None = None,
        K2: np.ndarray | None = None,
        max_error_px: float | None = None,
    ) -> RelativePoseEstimate:
        """Pose of the second camera relative to the first, from the matches.

        Args:
            K1, K2: (3, 3) intrinsics in original pixels. Without them one focal length, common to
                both photos, is estimated with the principal points at the centres.
            max_error_px: inlier threshold in original pixels; default: 1.5 pixels of the network's
                input.

        Returns:
            `cam2_from_cam1` with a translation of unit length, and the inliers; falsy, with a
            `reason`, when there is none.

        Raises:
            ValueError: if only one of K1 and K2 is given.
        """
        if (K1 is None) != (K2 is None):
            raise ValueError("give both K1 and K2, or neither")
        size1, size2 = self.view1.ledger.original_size, self.view2.ledger.original_size
        if max_error_px is None:
            max_error_px = 1.5 * max(self.view1.pixel_scale, self.view2.pixel_scale)
        if K1 is None or K2 is None:
            return relative_pose_unknown_focal(self.xy1, self.xy2, size1, size2, max_error_px)
        return relative_pose(self.xy1, self.xy2, K1, K2, size1, size2, max_error_px)

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{self.view1.name} - {self.view2.name}: {len(self.matches)} matches"]
        estimate = self.relative_pose()
        if not estimate:
            lines.append(f"no camera motion: {estimate.reason}")
        else:
            rotation = estimate.cam2_from_cam1[:3, :3]
            angle = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
            x, y, z = estimate.cam2_from_cam1[:3, 3]
            lines.append(
                f"{estimate.num_inliers} agree with one camera motion ({estimate.kind}): rotation "
                f"{angle:.1f} deg, direction ({x:.2f}, {y:.2f}, {z:.2f}), "
                f"focal length {estimate.K1[0, 0]:.0f} px (estimated)"
            )
        return "\n".join(lines)

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
        left, right = self.view1.rgb, self.view2.rgb
        height = max(left.shape[0], right.shape[0])
        canvas = Image.new("RGB", (left.shape[1] + right.shape[1] + 8, height), (20, 20, 20))
        canvas.paste(Image.fromarray(left), (0, 0))
        canvas.paste(Image.fromarray(right), (left.shape[1] + 8, 0))
        draw = ImageDraw.Draw(canvas, "RGBA")
        inliers = self.relative_pose().inliers
        chosen = np.linspace(0, len(self.matches) - 1, min(max_lines, len(self.matches)))
        chosen = np.unique(chosen.astype(int))
        a = self.view1.ledger.points_to_network(self.xy1[chosen])
        b = self.view2.ledger.points_to_network(self.xy2[chosen])
        for k, p, q in zip(chosen, np.asarray(a), np.asarray(b), strict=True):
            color = (60, 220, 90, 160) if inliers[k] else (240, 70, 60, 110)
            end = (float(q[0]) + left.shape[1] + 8, float(q[1]))
            draw.line([(float(p[0]), float(p[1])), end], fill=color, width=1)
        return canvas


def match(
    image1: str | Path,
    image2: str | Path,
    model: TwoViewModel | str | Path = "weav3r-small",
    *,
    device: str = "auto",
    size: int | None = None,
    precision: Precision = "float32",
    min_confidence: float = 0.0,
    options: MatchingOptions | None = None,
) -> PairMatch:
    """Match two photos.

    Args:
        image1, image2: paths of the photos.
        model: a loaded model, or anything that `load_model` takes.
        device: "auto", "cpu", "cuda", ...; ignored for a loaded model.
        size: long side of the network's input in pixels; default: the best measured for the model.
        precision: of the network's matrix products, see `reconstruct`.
        min_confidence: matches below are dropped.
        options: see `MatchingOptions`.

    Returns:
        Matches in original pixels.

    Raises:
        FileNotFoundError, ValueError: a photo is missing or unusable; the message names it.
    """
    if not isinstance(model, TwoViewModel):
        model = load_model(model, device=device)
    loaded = load_images(
        [Path(image1), Path(image2)],
        size=inference_size(model) if size is None else size,
        patch_size=model.config.patch_size,
    )
    if loaded.skipped:
        raise ValueError("; ".join(str(problem) for problem in loaded.skipped))
    view1, view2 = loaded.views
    encoded = encode_views(model, [view1, view2], precision=precision)
    result = next(predict_pairs(model, encoded, [(0, 1)], precision=precision))
    matches = merge_matches(*match_pair(result, view1, view2, options))
    return PairMatch(view1, view2, matches.select(matches.confidence >= min_confidence))


class PairMatcher:
    """A checkpoint as a method that an evaluation can call: two paths in, `Matches` out."""

    def __init__(
        self,
        model: TwoViewModel | str | Path = "weav3r-small",
        *,
        device: str = "auto",
        size: int | None = None,
        options: MatchingOptions | None = None,
    ) -> None:
        self.model = model if isinstance(model, TwoViewModel) else load_model(model, device=device)
        self.size = size
        self.options = options

    def __call__(self, image1: str | Path, image2: str | Path) -> Matches:
        """Match two photos; see `match`."""
        pair = match(image1, image2, self.model, size=self.size, options=self.options)
        return pair.matches
