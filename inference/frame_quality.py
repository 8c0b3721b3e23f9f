"""How sharp a video frame is, and how far the camera has come since the last ones."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates, uniform_filter1d

Gray = Float[np.ndarray, "h w"]

_JUMP = 0.15  # what a change too large to follow counts, in picture widths
_NEW_ANCHOR = 0.08  # displacement after which the next stretch of the way is begun
_LEVELS = 3
_WINDOW = 4  # half size of a followed patch, pixels
_STEPS = 5
_GRID = (7, 12)  # patches, down and across
_MIN_PATCHES = 8
_MIN_TEXTURE = 4.0  # squared grey levels per pixel in the weaker direction
_ALIKE = 0.7  # correlation of a patch with where it went


def sharpness(gray: Gray) -> float:
    """Share of the fine detail that a further blur would take away: 0 very blurred, 1 very sharp.

    It does not depend on how much texture the scene has. Of the two directions the blurrier one
    counts, as a moving camera blurs along its motion only.

    Args:
        gray: grey levels, 0 to 255.

    Reference: F. Crete et al., The blur effect, Human Vision and Electronic Imaging 2007.
    """
    lost = []
    for axis in (0, 1):
        change = np.abs(np.diff(gray, axis=axis))
        blurred = np.abs(np.diff(uniform_filter1d(gray, 9, axis=axis), axis=axis))
        total = float(change.sum())
        lost.append(float(np.maximum(change - blurred, 0).sum()) / total if total > 0 else 0.0)
    return min(lost)


class MotionMeter:
    """Length of the way that pictures of a moving camera made, in picture widths.

    Patches of a frame, the anchor, are followed through the frames after it. Their mean
    displacement counts, and it is added up only from anchor to anchor: the trembling of a hand
    moves the patches to and fro and adds nothing.
    """

    def __init__(self) -> None:
        self._done = 0.0
        self._last: Gray | None = None
        self._anchor: _Patches | None = None

    def add(self, gray: Gray) -> float:
        """Take the next frame; the length of the way up to it.

        Args:
            gray: grey levels of a small picture, about 160 pixels wide.
        """
        if self._anchor is None or self._last is None:
            self._last, self._anchor = gray, _Patches(gray)
            return self._done
        moved = self._anchor.follow(gray)
        if moved is None:  # the anchor is out of sight: go on from the frame before
            self._done += self._anchor.moved
            self._anchor = _Patches(self._last)
            moved = self._anchor.follow(gray)
        if moved is None:
            self._done += _JUMP
            self._anchor, moved = _Patches(gray), 0.0
        length = self._done + moved
        if moved > _NEW_ANCHOR:
            self._done, self._anchor = length, _Patches(gray)
        self._last = gray
        return length


def way_between(a: Gray, b: Gray) -> float:
    """Displacement from one small grey picture to another, picture widths."""
    meter = MotionMeter()
    meter.add(a)
    return meter.add(b)


class _Patches:
    """Textured patches of one frame, and where they were seen last.

    Reference: S. Baker, I. Matthews, Lucas-Kanade 20 years on, IJCV 2004, inverse compositional
    algorithm, for translations, coarse to fine.
    """

    def __init__(self, gray: Gray) -> None:
        self.moved = 0.0
        self.width = gray.shape[1]
        self.whole = gray
        offsets = np.arange(-_WINDOW, _WINDOW + 1)
        self.window = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2)
        height, width = gray.shape
        rows = (np.arange(_GRID[0]) + 0.5) * height / _GRID[0] - 0.5
        columns = (np.arange(_GRID[1]) + 0.5) * width / _GRID[1] - 0.5
        centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        self.levels = [self._level(picture, k, centres) for k, picture in enumerate(_pyramid(gray))]
        self.shift = np.zeros_like(centres)  # (N, 2) down and right, pixels

    def _level(self, picture: Gray, level: int, centres: np.ndarray) -> _Level:
        down, right = np.gradient(picture)
        at = centres[:, None] / 2**level + self.window  # (N, W, 2)
        slopes = np.stack([_sample(down, at), _sample(right, at)], -1)  # (N, W, 2)
        patches = _sample(picture, at)
        patches = patches - patches.mean(1, keepdims=True)
        moments = np.einsum("nwi,nwj->nij", slopes, slopes)
        weaker = np.linalg.eigvalsh(moments)[:, 0]
        moments += 1e-3 * np.eye(2)
        return _Level(at, patches, slopes, np.linalg.inv(moments), weaker / len(self.window))

    def follow(self, gray: Gray) -> float | None:
        """Mean displacement in picture widths, or None if too few patches are found again."""
        textured = self.levels[0].weaker > _MIN_TEXTURE
        if textured.sum() < _MIN_PATCHES:
            return self.moved if _correlation(self.whole.ravel(), gray.ravel()) > _ALIKE else None
        shift = self.shift / 2 ** (_LEVELS - 1)
        pictures = _pyramid(gray)
        for level, picture in reversed(list(zip(self.levels, pictures, strict=True))):
            for _ in range(_STEPS):
                error = level.patches - _centred(_sample(picture, level.at + shift[:, None]))
                towards = np.einsum("nwi,nw->ni", level.slopes, error)
                shift = shift + np.einsum("nij,nj->ni", level.inverse, towards)
            if picture is not gray:
                shift = 2 * shift
        level = self.levels[0]
        seen = _centred(_sample(gray, level.at + shift[:, None]))
        alike = _row_correlation(level.patches, seen) > _ALIKE
        found = textured & alike & (np.abs(shift).max(1) < self.width / 2)
        if found.sum() < max(_MIN_PATCHES, 0.4 * textured.sum()):
            return None
        self.shift = np.where(found[:, None], shift, np.median(shift[found], axis=0))
        self.moved = float(np.hypot(*shift[found].T).mean() / self.width)
        return self.moved


class _Level:
    """Patches at one level of the pyramid: positions, pixels, slopes and what solves for shifts."""

    def __init__(
        self,
        at: np.ndarray,
        patches: np.ndarray,
        slopes: np.ndarray,
        inverse: np.ndarray,
        weaker: np.ndarray,
    ) -> None:
        self.at, self.patches, self.slopes = at, patches, slopes
        self.inverse, self.weaker = inverse, weaker


def _pyramid(gray: Gray) -> list[Gray]:
    levels = [gray]
    for _ in range(_LEVELS - 1):
        levels.append(shrink(levels[-1], 2))
    return levels


def shrink(gray: Gray, factor: int) -> Gray:
    """Mean of every `factor` x `factor` block; what is left over at the edges is cut off."""
    height, width = gray.shape[0] // factor, gray.shape[1] // factor
    blocks = gray[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return blocks.mean((1, 3))


def _sample(picture: Gray, at: np.ndarray) -> np.ndarray:
    """Bilinear values at (..., 2) positions, down and right; the edge goes on outside."""
    return map_coordinates(picture, np.moveaxis(at, -1, 0), order=1, mode="nearest")


def _centred(patches: np.ndarray) -> np.ndarray:
    return patches - patches.mean(1, keepdims=True)


def _row_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1) / np.maximum(norms, 1e-6)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """1 for two pictures without any contrast: nothing says that they differ."""
    a, b = a - a.mean(), b - b.mean()
    if max(a.std(), b.std()) < 2:
        return 1.0
    return float(_row_correlation(a[None], b[None])[0])
