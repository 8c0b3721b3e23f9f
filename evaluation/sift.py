"""SIFT as a two-view method, to have something to compare with.

COLMAP's SIFT (RootSIFT, upsampled first octave) through pycolmap; the matching is COLMAP's rule
(angle between descriptors, ratio test both ways, mutual nearest neighbours) as one matrix product,
which gives the same matches as pycolmap's own matcher in a fraction of its time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..inference.images import load_images
from .match_metrics import PairMatches

logger = logging.getLogger(__name__)

_DESCRIPTOR_NORM = 512.0  # COLMAP stores unit descriptors as bytes times this


@dataclass(frozen=True)
class SiftOptions:
    """How SIFT extracts and matches.

    Attributes:
        max_size: long side in pixels to which the images are resized by the library's own loader
            (the network's input size); None works on the full image.
        max_features: strongest features kept per image.
        max_ratio: a match must be this much closer than the second best, in both directions.
        max_angle_rad: largest angle between matching descriptors.
        mutual: keep only mutual nearest neighbours.
        cached_images: images whose features are kept in memory.
    """

    max_size: int | None = None
    max_features: int = 8192
    max_ratio: float = 0.8
    max_angle_rad: float = 0.7
    mutual: bool = True
    cached_images: int = 64


@dataclass(frozen=True)
class SiftFeatures:
    """Features of one image.

    Attributes:
        xy: (N, 2) float64 pixels of the original (upright) image, centres at half-integers.
        descriptors: (N, 128) uint8, unit vectors times 512.
    """

    xy: np.ndarray
    descriptors: np.ndarray


class SiftMethod:
    """Two-view method: call it with two image paths and get matches in original pixels.

    Deterministic; the extraction uses one thread, the matching torch's.
    """

    def __init__(self, options: SiftOptions | None = None, *, max_size: int | None = None) -> None:
        """Set up.

        Args:
            options: all options; None for the defaults.
            max_size: short for `SiftOptions(max_size=...)`; replaces that of `options`.
        """
        self.options = options or SiftOptions()
        if max_size is not None:
            self.options = replace(self.options, max_size=max_size)
        if self.options.max_size is not None and self.options.max_size < 16:
            raise ValueError(f"max_size must be at least 16 pixels, got {self.options.max_size}")
        extraction = pycolmap.FeatureExtractionOptions()
        extraction.num_threads = 1
        extraction.use_gpu = False
        extraction.sift.max_num_features = self.options.max_features
        with _quiet_colmap():
            self._extractor = pycolmap.FeatureExtractor.create(extraction, pycolmap.Device.cpu)
        self._cache: OrderedDict[Path, SiftFeatures] = OrderedDict()

    @property
    def description(self) -> Mapping[str, object]:
        """What a report writes down about this method."""
        return {"pycolmap": pycolmap.__version__, **asdict(self.options)}

    def __call__(self, path1: Path, path2: Path) -> PairMatches:
        """Match two images; matches are sorted from surest (smallest ratio) to least sure."""
        first, second = self.features(path1), self.features(path2)
        pairs, confidence = match_sift_descriptors(
            first.descriptors,
            second.descriptors,
            max_ratio=self.options.max_ratio,
            max_angle_rad=self.options.max_angle_rad,
            mutual=self.options.mutual,
        )
        order = np.argsort(-confidence, kind="stable")
        return PairMatches(
            first.xy[pairs[order, 0]].astype(np.float32),
            second.xy[pairs[order, 1]].astype(np.float32),
            confidence[order],
        )

    def features(self, path: Path | str) -> SiftFeatures:
        """Features of an image file, from the cache if they are there."""
        key = Path(path)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        features = self._extract(key)
        self._cache[key] = features
        while len(self._cache) > self.options.cached_images:
            self._cache.popitem(last=False)
        return features

    def _extract(self, path: Path) -> SiftFeatures:
        if self.options.max_size is None:
            with Image.open(path) as image:
                grey = np.asarray(ImageOps.exif_transpose(image).convert("L"))
            xy, descriptors = self._extract_grey(grey)
            return SiftFeatures(xy, descriptors)
        view = load_images([path], size=self.options.max_size).views[0]
        xy, descriptors = self._extract_grey(_grey_from_normalised(view.image))
        return SiftFeatures(np.asarray(view.ledger.points_to_original(xy), np.float64), descriptors)

    def _extract_grey(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keypoints, descriptors = self._extractor.extract_from_uint8_array(
            np.ascontiguousarray(grey)
        )
        # COLMAP's key points count pixel centres at half-integers, as the library does.
        xy = pycolmap.keypoints_to_matrix(keypoints)[:, :2].astype(np.float64)
        return xy.reshape(-1, 2), np.array(descriptors.data, dtype=np.uint8).reshape(-1, 128)


@contextmanager
def _quiet_colmap() -> Iterator[None]:
    """Keep COLMAP's greeting off the terminal."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = max(level, pycolmap.logging.WARNING.value)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def match_sift_descriptors(
    descriptors1: np.ndarray,
    descriptors2: np.ndarray,
    *,
    max_ratio: float = 0.8,
    max_angle_rad: float = 0.7,
    mutual: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest neighbours by angle with Lowe's ratio test.

    Args:
        descriptors1: (N, 128) uint8, unit vectors times 512.
        descriptors2: (M, 128) uint8.
        max_ratio: largest angle to the best over the angle to the second best.
        max_angle_rad: largest angle to the best.
        mutual: demand the same, both tests included, the other way round.

    Returns:
        (K, 2) int64 indices into both, and (K,) float32 confidence = 1 - the ratio in image 1.

    Reference: Lowe, Distinctive Image Features from Scale-Invariant Keypoints, sec. 7.1.
    """
    if len(descriptors1) < 2 or len(descriptors2) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    first, second = (
        torch.from_numpy(d.astype(np.float32) / _DESCRIPTOR_NORM)
        for d in (descriptors1, descriptors2)
    )
    similarity = first @ second.T  # (N, M)
    index, ratio, angle = _nearest(similarity)
    keep = (ratio < max_ratio) & (angle <= max_angle_rad)
    if mutual:
        back, back_ratio, back_angle = _nearest(similarity.T)
        back_keep = (back_ratio < max_ratio) & (back_angle <= max_angle_rad)
        keep &= back_keep[index] & (back[index] == torch.arange(len(first)))
    rows = keep.nonzero()[:, 0]
    pairs = torch.stack([rows, index[rows]], dim=1)
    return pairs.numpy(), (1.0 - ratio[rows]).float().numpy()


def _nearest(similarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per row: index of the best, angle to it over the angle to the second, the angle."""
    best, index = similarity.topk(2, dim=1)
    angles = torch.arccos(best.double().clamp(-1.0, 1.0))
    # Two equally good candidates decide nothing: their ratio is 1, also when both angles are 0.
    ratio = torch.where(angles[:, 1] > 0, angles[:, 0] / angles[:, 1].clamp_min(1e-12), 1.0)
    return index[:, 0], ratio, angles[:, 0]


def _grey_from_normalised(image: Tensor) -> np.ndarray:
    """Image (3, H, W) in [-1, 1] -> grey (H, W) uint8 with PIL's weights."""
    rgb = (image.permute(1, 2, 0).double().cpu().numpy() + 1.0) * 127.5
    return np.asarray(Image.fromarray(np.rint(rgb).clip(0, 255).astype(np.uint8)).convert("L"))
