"""The ledger of an image: the way from the stored file to the network's pixels, and back.

Three pixel frames, all with pixel centres at half-integers (the top-left pixel's centre is (0.5,
0.5)):

* stored: the file as it lies on disk, before its EXIF orientation is applied;
* original: the upright picture; everything that leaves the library is in this frame;
* network: what the network sees.

With this convention a resize only scales coordinates and a crop only shifts them, so the whole
chain after the EXIF step is one scale and one offset per axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Float64Array = NDArray[np.float64]

# Every EXIF orientation is a transposition, then a mirroring in the upright picture.
_SWAPS_AXES = (5, 6, 7, 8)
_MIRRORS_X = (2, 3, 6, 7)
_MIRRORS_Y = (3, 4, 7, 8)


@dataclass(frozen=True, eq=False)
class Ledger:
    """How the network's pixels of one image relate to the original's.

    Make one with `Ledger.from_file_size` and derive from it with `resized`, `cropped` and `padded`,
    in the order in which the pixels themselves are treated.

    Attributes:
        stored_size: (height, width) of the file on disk.
        exif_orientation: EXIF tag 274, 1 to 8.
        original_size: (height, width) of the upright picture.
        network_size: (height, width) of the network's image.
        network_from_original: (3, 3) float64 `[[sx, 0, ox], [0, sy, oy], [0, 0, 1]]`, read-only.
        valid_box: (top, left, bottom, right) in network pixels, the part of the network's image
            that shows the picture and not padding.
    """

    stored_size: tuple[int, int]
    exif_orientation: int
    original_size: tuple[int, int]
    network_size: tuple[int, int]
    network_from_original: Float64Array
    valid_box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        affine = np.array(self.network_from_original, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "network_from_original", affine)

    @classmethod
    def from_file_size(cls, height: int, width: int, exif_orientation: int = 1) -> Ledger:
        """Start a ledger in which nothing has happened to the stored file but its EXIF rotation.

        Raises:
            ValueError: if the size is not positive or the orientation is not 1 to 8.
        """
        _check_size(height, width)
        if exif_orientation not in range(1, 9):
            raise ValueError(
                f"exif_orientation must be 1 to 8, got {exif_orientation}; "
                "treat an unknown value as 1"
            )
        upright = (width, height) if exif_orientation in _SWAPS_AXES else (height, width)
        return cls(
            stored_size=(height, width),
            exif_orientation=int(exif_orientation),
            original_size=upright,
            network_size=upright,
            network_from_original=np.eye(3),
            valid_box=(0.0, 0.0, float(upright[0]), float(upright[1])),
        )

    def resized(self, height: int, width: int) -> Ledger:
        """The ledger after resampling the current image to height x width."""
        _check_size(height, width)
        scale_y, scale_x = height / self.network_size[0], width / self.network_size[1]
        top, left, bottom, right = self.valid_box
        return replace(
            self,
            network_size=(height, width),
            network_from_original=np.diag([scale_x, scale_y, 1.0]) @ self.network_from_original,
            valid_box=(top * scale_y, left * scale_x, bottom * scale_y, right * scale_x),
        )

    def cropped(self, top: int, left: int, height: int, width: int) -> Ledger:
        """The ledger after keeping the height x width window at (top, left) of the current image.

        Raises:
            ValueError: if the window does not lie inside the current image.
        """
        _check_size(height, width)
        rows, columns = self.network_size
        if top < 0 or left < 0 or top + height > rows or left + width > columns:
            raise ValueError(
                f"the crop {height}x{width} at (top {top}, left {left}) leaves the image of "
                f"{rows}x{columns}; use padded to grow an image"
            )
        return self._shifted(-top, -left, (height, width))

    def padded(self, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Ledger:
        """The ledger after adding rows and columns around the current image.

        Raises:
            ValueError: if an amount is negative.
        """
        if min(top, bottom, left, right) < 0:
            raise ValueError(
                f"padding must not be negative, got {(top, bottom, left, right)}; "
                "use cropped to shrink"
            )
        rows, columns = self.network_size
        return self._shifted(top, left, (rows + top + bottom, columns + left + right))

    def _shifted(self, down: int, across: int, size: tuple[int, int]) -> Ledger:
        shift = np.array([[1.0, 0.0, across], [0.0, 1.0, down], [0.0, 0.0, 1.0]])
        top, left, bottom, right = self.valid_box
        return replace(
            self,
            network_size=size,
            network_from_original=shift @ self.network_from_original,
            valid_box=(
                min(max(top + down, 0.0), size[0]),
                min(max(left + across, 0.0), size[1]),
                min(max(bottom + down, 0.0), size[0]),
                min(max(right + across, 0.0), size[1]),
            ),
        )

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) network pixels per original pixel."""
        return float(self.network_from_original[1, 1]), float(self.network_from_original[0, 0])

    @overload
    def points_to_network(self, xy: Tensor) -> Tensor: ...
    @overload
    def points_to_network(self, xy: ArrayLike) -> Float64Array: ...
    def points_to_network(self, xy: Tensor | ArrayLike) -> Tensor | Float64Array:
        """Map points (..., 2) from original to network pixels; tensors stay tensors."""
        return _apply(self.network_from_original, xy)

    @overload
    def points_to_original(self, xy: Tensor) -> Tensor: ...
    @overload
    def points_to_original(self, xy: ArrayLike) -> Float64Array: ...
    def points_to_original(self, xy: Tensor | ArrayLike) -> Tensor | Float64Array:
        """Map points (..., 2) from network to original pixels; tensors stay tensors."""
        return _apply(_affine_inverse(self.network_from_original), xy)

    @overload
    def points_to_stored(self, xy: Tensor) -> Tensor: ...
    @overload
    def points_to_stored(self, xy: ArrayLike) -> Float64Array: ...
    def points_to_stored(self, xy: Tensor | ArrayLike) -> Tensor | Float64Array:
        """Map points (..., 2) from original pixels to those of the file as stored."""
        forward = self._original_from_stored()
        inverse = np.eye(3)
        inverse[:2, :2] = forward[:2, :2].T
        inverse[:2, 2] = -forward[:2, :2].T @ forward[:2, 2]
        return _apply(inverse, xy)

    @overload
    def points_from_stored(self, xy: Tensor) -> Tensor: ...
    @overload
    def points_from_stored(self, xy: ArrayLike) -> Float64Array: ...
    def points_from_stored(self, xy: Tensor | ArrayLike) -> Tensor | Float64Array:
        """Map points (..., 2) from pixels of the file as stored to original pixels."""
        return _apply(self._original_from_stored(), xy)

    @overload
    def K_to_network(self, K: Tensor) -> Tensor: ...
    @overload
    def K_to_network(self, K: ArrayLike) -> Float64Array: ...
    def K_to_network(self, K: Tensor | ArrayLike) -> Tensor | Float64Array:
        """Intrinsics (..., 3, 3) of the network's image, given those of the original."""
        return _apply_to_intrinsics(self.network_from_original, K)

    @overload
    def K_to_original(self, K: Tensor) -> Tensor: ...
    @overload
    def K_to_original(self, K: ArrayLike) -> Float64Array: ...
    def K_to_original(self, K: Tensor | ArrayLike) -> Tensor | Float64Array:
        """Intrinsics (..., 3, 3) of the original, given those of the network's image."""
        return _apply_to_intrinsics(_affine_inverse(self.network_from_original), K)

    def network_valid(self) -> NDArray[np.bool_]:
        """(H, W) mask of the network's pixels whose centre shows the picture and not padding."""
        top, left, bottom, right = self.valid_box
        y = np.arange(self.network_size[0]) + 0.5
        x = np.arange(self.network_size[1]) + 0.5
        return ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None, :]

    def map_to_original(
        self, array: Tensor | ArrayLike, mode: Literal["nearest", "bilinear"]
    ) -> NDArray:
        """Resample a map of the network's image to the pixels of the original.

        Args:
            array: (H, W) or (H, W, C) of the network's size.
            mode: "nearest" for depth and labels, whose values must not be mixed across edges;
                "bilinear" for colours and confidence. Bilinear ignores neighbours that are NaN
                where the nearest one is not.

        Returns:
            (H0, W0[, C]) of the original's size; float32 (float64 stays, and 32-bit integers become
            float64), NaN where the original was cropped away. Boolean maps stay boolean, False
            outside.

        Raises:
            ValueError: if `array` has another size or `mode` is unknown.
        """
        values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
        if values.ndim not in (2, 3) or values.shape[:2] != self.network_size:
            raise ValueError(
                f"expected a map of the network's size {self.network_size}, "
                f"got shape {values.shape}"
            )
        if mode not in ("nearest", "bilinear"):
            raise ValueError(f'mode must be "nearest" or "bilinear", got {mode!r}')
        top, left, bottom, right = self.valid_box
        affine = self.network_from_original
        y = (np.arange(self.original_size[0]) + 0.5) * affine[1, 1] + affine[1, 2]
        x = (np.arange(self.original_size[1]) + 0.5) * affine[0, 0] + affine[0, 2]
        rows = _AxisSampling.make(y, top, bottom, self.network_size[0])
        columns = _AxisSampling.make(x, left, right, self.network_size[1])
        if values.dtype == np.bool_:
            sampled = values[rows.nearest][:, columns.nearest]
            sampled[~rows.inside] = False
            sampled[:, ~columns.inside] = False
            return sampled
        values = values.astype(np.result_type(values.dtype, np.float32), copy=False)
        sampled = values[rows.nearest][:, columns.nearest]
        if mode == "bilinear":
            finite = np.isfinite(values)
            if finite.all():
                sampled = _bilinear(values, rows, columns)
            else:
                known = finite.astype(values.dtype)
                share = _bilinear(known, rows, columns)
                mixed = _bilinear(np.where(finite, values, 0), rows, columns)
                keep = np.isfinite(sampled)
                sampled = np.divide(mixed, share, out=sampled, where=keep)
        sampled[~rows.inside] = np.nan
        sampled[:, ~columns.inside] = np.nan
        return sampled

    def _original_from_stored(self) -> Float64Array:
        """(3, 3) affine map of the EXIF orientation, from stored to upright pixels."""
        height, width = self.original_size
        affine = np.eye(3)
        if self.exif_orientation in _SWAPS_AXES:
            affine = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        if self.exif_orientation in _MIRRORS_X:
            affine = np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ affine
        if self.exif_orientation in _MIRRORS_Y:
            affine = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, height], [0.0, 0.0, 1.0]]) @ affine
        return affine


@dataclass(frozen=True)
class _AxisSampling:
    """Where the samples of one axis fall in an array of `size` entries.

    Attributes:
        nearest: index of the nearest entry.
        lower: index of the entry before the sample; the entry after it is `upper`.
        upper: see `lower`.
        weight: share of `upper` in [0, 1].
        inside: whether the sample lies in the valid part of the axis.
    """

    nearest: NDArray[np.intp]
    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: Float64Array
    inside: NDArray[np.bool_]

    @classmethod
    def make(cls, position: Float64Array, start: float, stop: float, size: int) -> _AxisSampling:
        # Entries whose centre is padding are never read.
        first = min(max(int(np.ceil(start - 0.5)), 0), size - 1)
        last = min(max(int(np.ceil(stop - 0.5)) - 1, first), size - 1)
        nearest = np.clip(np.floor(position).astype(np.intp), first, last)
        between = np.clip(position - 0.5, first, last)
        lower = np.floor(between).astype(np.intp)
        return cls(
            nearest=nearest,
            lower=lower,
            upper=np.minimum(lower + 1, last),
            weight=between - lower,
            inside=(position >= start) & (position < stop),
        )


def _bilinear(values: NDArray, rows: _AxisSampling, columns: _AxisSampling) -> NDArray:
    """Sample `values` (H, W[, C]) separably at the given rows and columns."""
    channels = (1,) * (values.ndim - 2)
    across = columns.weight.astype(values.dtype).reshape(1, -1, *channels)
    wide = values[:, columns.lower] * (1 - across) + values[:, columns.upper] * across
    down = rows.weight.astype(values.dtype).reshape(-1, 1, *channels)
    return wide[rows.lower] * (1 - down) + wide[rows.upper] * down


def _affine_inverse(affine: Float64Array) -> Float64Array:
    """Invert a scale-and-offset matrix without rounding its zeros."""
    scale = 1 / affine.diagonal()[:2]
    inverse = np.diag([*scale, 1.0])
    inverse[:2, 2] = -affine[:2, 2] * scale
    return inverse


def _apply(affine: Float64Array, xy: Tensor | ArrayLike) -> Tensor | Float64Array:
    shape = tuple(xy.shape) if isinstance(xy, Tensor) else np.shape(xy)
    if shape[-1:] != (2,):
        raise ValueError(f"expected points (..., 2), got shape {shape}")
    if isinstance(xy, Tensor):
        linear = xy.new_tensor(affine[:2, :2].T)
        return xy @ linear + xy.new_tensor(affine[:2, 2])
    return np.asarray(xy, dtype=np.float64) @ affine[:2, :2].T + affine[:2, 2]


def _apply_to_intrinsics(affine: Float64Array, K: Tensor | ArrayLike) -> Tensor | Float64Array:
    shape = tuple(K.shape) if isinstance(K, Tensor) else np.shape(K)
    if shape[-2:] != (3, 3):
        raise ValueError(f"expected intrinsics (..., 3, 3), got shape {shape}")
    if isinstance(K, Tensor):
        return K.new_tensor(affine) @ K
    return affine @ np.asarray(K, dtype=np.float64)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"an image needs at least one pixel, got {height}x{width}")
