"""Which crops of two photos show the same, for matching them at full resolution.

A window is (x0, y0, x1, y1) in whole pixels of its photo, the last ones exclusive. Windows cover
each photo in a regular grid; a coarse match of the photos says where the partner of each window is.

Reference: Leroy et al., Grounding Image Matching in 3D with MASt3R, ECCV 2024, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Windows = Int[np.ndarray, "n 4"]
_PATCH = 16
_DEFAULT_ASPECT = 3.01 / 4  # a little more than 3:4
_MIN_MATCHES = 10
_MIN_SPREAD_PX = 20.0


@dataclass(frozen=True)
class CropPairs:
    """Windows of two photos that show the same, row by row.

    Attributes:
        windows1: in the first photo.
        windows2: in the second photo.
    """

    windows1: Windows
    windows2: Windows

    def __len__(self) -> int:
        return len(self.windows1)


@dataclass(frozen=True)
class CropCamera:
    """The camera of a crop that was turned until the crop is in its middle.

    Attributes:
        K: (3, 3) of the crop; the focal lengths of the photo, the principal point in the middle.
        photo_from_crop: (3, 3) rotation from the crop's camera to the photo's.
        homography: (3, 3) from pixels of the crop to pixels of the photo.
    """

    K: np.ndarray
    photo_from_crop: np.ndarray
    homography: np.ndarray


def window_starts(total: int, window: int, overlap: float = 0.5) -> Int[np.ndarray, " n"]:
    """Where windows of one length begin that cover an axis evenly.

    Args:
        total: length of the axis, pixels.
        window: length of a window, at most `total`.
        overlap: share of a window that the next one covers too, at least.

    Raises:
        ValueError: if the window does not fit or the overlap is not in [0, 1).
    """
    if not 0 < window <= total:
        raise ValueError(f"a window of {window} px does not fit into {total} px")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), got {overlap}")
    count = int(2 + (total - window - 1) // (window * (1 - overlap)))
    return np.round(np.linspace(0, total - window, count)).astype(np.int64)


def grid_windows(size: tuple[int, int], long_side: int = 512, overlap: float = 0.5) -> Windows:
    """Windows of the photo's own aspect that cover it, row by row.

    Args:
        size: (height, width) of the photo.
        long_side: of a window, in pixels; at most the photo's.
        overlap: see `window_starts`.
    """
    height, width = ((side * long_side // max(size)) // _PATCH * _PATCH for side in size)
    columns, rows = window_starts(size[1], width, overlap), window_starts(size[0], height, overlap)
    return np.array([(x, y, x + width, y + height) for y in rows for x in columns])


def fitted_windows(
    windows: Float[np.ndarray, "n 4"] | Windows,
    size: tuple[int, int],
    window_size: tuple[int, int] | None = None,
) -> Windows:
    """Grow or shrink windows about their centres and move them into the photo.

    Args:
        windows: of any extent, possibly beyond the photo.
        size: (height, width) of the photo.
        window_size: (height, width) that all get; None makes the short side of each about three
            quarters of its long side.

    Raises:
        ValueError: if a window is larger than the photo.
    """
    given = np.asarray(windows, np.float64).reshape(-1, 4)
    if window_size is None:
        sides = given[:, 2:] - given[:, :2]
        landscape = sides[:, :1] >= sides[:, 1:]
        longest = sides.max(axis=1, keepdims=True)
        short = longest * _DEFAULT_ASPECT
        extent = np.where(landscape, np.hstack([longest, short]), np.hstack([short, longest]))
    else:
        extent = np.array([[window_size[1], window_size[0]]], np.float64)
    centre = (given[:, :2] + given[:, 2:]) / 2
    low = np.floor(centre - extent / 2).astype(np.int64)
    high = np.floor(centre + extent / 2).astype(np.int64)
    limit = np.array([size[1], size[0]])
    if (high - low > limit).any():
        raise ValueError(
            f"a window of {(high - low).max(axis=0)[::-1]} px (height, width) does not fit into a "
            f"photo of {size}"
        )
    move = np.maximum(-low, 0) - np.maximum(high - limit, 0)
    return np.hstack([low + move, high + move])


def crop_pairs(
    xy1: Float[np.ndarray, "m 2"],
    xy2: Float[np.ndarray, "m 2"],
    size1: tuple[int, int],
    size2: tuple[int, int],
    long_side: int = 512,
    window_size1: tuple[int, int] | None = None,
    window_size2: tuple[int, int] | None = None,
    overlap: float = 0.5,
    coverage: float = 0.9,
) -> CropPairs:
    """Choose the windows of two photos in which their matches are seen best.

    Each window of one photo that holds ten matches gets the window around their partners in the
    other one; of these pairs, as many are taken as cover the matches.

    Args:
        xy1: coarse matches, pixels of the first photo.
        xy2: their partners in the second photo.
        size1: (height, width) of the first photo.
        size2: (height, width) of the second photo.
        long_side: of the windows of the grid, pixels.
        window_size1: (height, width) that all windows of the first photo get, see `fitted_windows`.
        window_size2: the same for the second photo.
        overlap: of neighbouring windows of the grid.
        coverage: share of what all windows together see of the matches.
    """
    sizes, forced = (size1, size2), (window_size1, window_size2)
    grids = [
        fitted_windows(grid_windows(size, long_side, overlap), size, window)
        for size, window in zip(sizes, forced, strict=True)
    ]
    own1, own2, hold1 = _partners(xy1, xy2, grids[0], size2, window_size2)
    back2, back1, hold2 = _partners(xy2, xy1, grids[1], size1, window_size1)
    windows1, windows2 = np.vstack([own1, back1]), np.vstack([own2, back2])
    weights = _seen(windows1, xy1) * _seen(windows2, xy2) * np.vstack([hold1, hold2])
    chosen = covering_rows(weights, coverage)
    return CropPairs(windows1[chosen], windows2[chosen])


def covering_rows(weights: Float[np.ndarray, "n m"], share: float = 0.9) -> list[int]:
    """Take rows, the one that adds most first, until they cover the columns.

    Args:
        weights: how well row n covers column m, at least 0.
        share: of the sum over the columns of their best weights.
    """
    left = np.array(weights, np.float64)
    wanted = share * left.max(axis=0, initial=0.0).sum()
    rows: list[int] = []
    covered = 0.0
    while len(rows) < len(left) and covered < wanted * (1 - 1e-12):
        row = int(left.sum(axis=1).argmax())
        gain = left[row].sum()
        if gain <= 0:
            break
        rows.append(row)
        covered += gain
        left = np.maximum(left - left[row], 0)
    return rows


def crop_camera(K: np.ndarray, window: Int[np.ndarray, " 4"]) -> CropCamera:
    """Turn a photo's camera towards a window, so that its centre is the principal point.

    The turn brings the window's corner farthest from the principal point to the corner of the crop,
    by way of the optical axis.

    Args:
        K: (3, 3) of the photo, pixels.
        window: (x0, y0, x1, y1).
    """
    x0, y0, x1, y1 = (float(value) for value in window)
    K = np.asarray(K, np.float64)
    K_crop = K.copy()
    K_crop[:2, 2] = (x1 - x0) / 2, (y1 - y0) / 2
    corners = np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)])
    corner = corners[np.linalg.norm(corners - K[:2, 2], axis=1).argmax()]
    there = np.linalg.solve(K, [*corner, 1.0])
    here = np.linalg.solve(K_crop, [*(corner - (x0, y0)), 1.0])
    axis = np.array([0.0, 0.0, 1.0])
    turn = _shortest_turn(axis, there) @ _shortest_turn(here, axis)
    return CropCamera(K_crop, turn, K @ turn @ np.linalg.inv(K_crop))


def _partners(
    here: np.ndarray,
    there: np.ndarray,
    windows: Windows,
    size_there: tuple[int, int],
    window_size_there: tuple[int, int] | None,
) -> tuple[Windows, Windows, np.ndarray]:
    """The windows that hold enough matches, their partners, and (n, m) which matches they hold."""
    hold = _inside(windows, here)
    enough = hold.sum(axis=1) >= _MIN_MATCHES
    windows, hold = windows[enough], hold[enough]
    partners = np.empty((len(windows), 4))
    for k, inside in enumerate(hold):
        ratio = _spread(there[inside]) / _spread(here[inside])
        half = (windows[k, 2:] - windows[k, :2]) * ratio / 2
        # Strong magnification must not ask for more than there is.
        half = np.minimum(half, np.array([size_there[1], size_there[0]]) / 2)
        centre = there[inside].mean(axis=0)
        partners[k] = *(centre - half), *(centre + half)
    return windows, fitted_windows(partners, size_there, window_size_there), hold


def _spread(xy: np.ndarray) -> np.ndarray:
    """(2,) between the first and the last tenth of the points along each axis, pixels."""
    low, high = np.quantile(xy, [0.1, 0.9], axis=0)
    return np.maximum(high - low, _MIN_SPREAD_PX)


def _seen(windows: Windows, xy: np.ndarray) -> np.ndarray:
    """(n, m) how central each point is in each window, 1 in the middle."""
    centre = (windows[:, None, :2] + windows[:, None, 2:]) / 2
    extent = windows[:, None, 2:] - windows[:, None, :2]
    return np.exp(-2 * np.square((xy[None] - centre) / extent).sum(axis=-1))


def _inside(windows: Windows, xy: np.ndarray) -> np.ndarray:
    """(n, m) which points lie in each window."""
    low, high = windows[:, None, :2], windows[:, None, 2:]
    return np.all((xy[None] >= low) & (xy[None] < high), axis=-1)


def _shortest_turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(3, 3) rotation that turns one direction into another, less than half a turn away."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    x, y, z = np.cross(a, b)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + a @ b)
