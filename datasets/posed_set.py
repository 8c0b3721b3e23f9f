"""A data set of posed photos as every reader returns it: an index, and how to load a view of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int
from PIL import Image, UnidentifiedImageError

from .depth_files import DepthFile
from .mesh_depth import Mesh, read_mesh, render_depth
from .pair_table import PairTable
from .posed_view import PosedView

Unit = Literal["metre", "arbitrary"]
_FOREGROUND = 25.5  # of 255: the published masks count a pixel above a tenth as the object


@dataclass(frozen=True, eq=False)
class ViewEntry:
    """What the index knows about one photo; nothing of it is read yet.

    Attributes:
        scene: views of one scene share a world.
        name: unique in the scene; views of a sequence sort by time.
        image: the photo.
        K: (3, 3) intrinsics in pixels, pixel centres at half-integers.
        world_from_cam: (4, 4) pose, OpenCV axes; NaN where unknown.
        size: (height, width) that K is for; None where the layout does not say.
        depth: its depth map, or None.
        mask: picture that is bright where the object is, or None for all of it.
        time_s: when it was taken, or None.
    """

    scene: str
    name: str
    image: Path
    K: Float64[np.ndarray, "3 3"]
    world_from_cam: Float64[np.ndarray, "4 4"]
    size: tuple[int, int] | None = None
    depth: DepthFile | None = None
    mask: Path | None = None
    time_s: float | None = None

    @property
    def key(self) -> str:
        """Scene and name, unique in the data set."""
        return f"{self.scene}/{self.name}"


@dataclass(frozen=True, eq=False)
class ScenePoints:
    """Triangulated points of one scene and the photos that see them.

    Attributes:
        xyz: in the world.
        point: index of the point of each observation.
        view: name of the view of each observation.
        xy: where it was measured, pixels of the photo, centres at half-integers.
    """

    xyz: Float64[np.ndarray, "n 3"]
    point: Int[np.ndarray, " m"]
    view: np.ndarray
    xy: Float64[np.ndarray, "m 2"]

    def __post_init__(self) -> None:
        count = len(self.point)
        if self.xyz.shape[1:] != (3,) or self.view.shape != (count,) or self.xy.shape != (count, 2):
            raise ValueError(
                "expected points (n, 3) and m observations with xy (m, 2), got points "
                f"{self.xyz.shape}, point {self.point.shape}, view {self.view.shape}, xy "
                f"{self.xy.shape}"
            )
        if count and not 0 <= self.point.min() <= self.point.max() < len(self.xyz):
            raise ValueError(f"observations name points outside 0..{len(self.xyz) - 1}")


@dataclass(frozen=True, eq=False)
class PosedSet:
    """A data set of posed photos.

    Attributes:
        root: its folder.
        layout: what the folder looks like, a name of `layouts.LAYOUTS`.
        unit: of lengths; "arbitrary" where only ratios mean something.
        views: all photos; those of one scene follow each other.
        splits: scenes of each split; empty where the data set is not split.
        pairs: mined pairs, or None.
        points: triangulated points by scene.
        meshes: mesh file by scene; it gives the depth of photos that have none.
    """

    root: Path
    layout: str
    unit: Unit
    views: tuple[ViewEntry, ...]
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    pairs: PairTable | None = None
    points: Mapping[str, ScenePoints] = field(default_factory=lambda: MappingProxyType({}))
    meshes: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError(f"{self.root} holds no photo with a camera (layout {self.layout})")
        keys = [view.key for view in self.views]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{self.root}: the view {twice} is listed twice")

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.views)

    @cached_property
    def scenes(self) -> Mapping[str, tuple[int, ...]]:
        """Indices of the views of each scene, in the order of the index."""
        found: dict[str, list[int]] = {}
        for index, view in enumerate(self.views):
            found.setdefault(view.scene, []).append(index)
        return {scene: tuple(indices) for scene, indices in found.items()}

    @cached_property
    def _meshes(self) -> dict[str, Mesh]:
        return {}

    def load(self, index: int) -> PosedView:
        """Read a photo with its depth, at the size of the file.

        The depth comes from its file, else from the scene's mesh, else from its points. Depth maps
        of another size with the same shape are brought to the photo's size, by the nearest pixel.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the sizes do not belong together.
        """
        entry = self.views[index]
        image = read_rgb(entry.image)
        size = (image.shape[0], image.shape[1])
        if entry.size is not None and entry.size != size:
            raise ValueError(
                f"{entry.image} has {size[1]}x{size[0]} pixels, and its K is for "
                f"{entry.size[1]}x{entry.size[0]}; `weav3r data check` says more"
            )
        depth = self._depth(entry, size)
        if entry.mask is not None:
            mask = read_gray(entry.mask)
            depth = np.where(_to_size(mask, size, entry.mask) > _FOREGROUND, depth, np.float32(0))
        return PosedView(image, depth, entry.K, entry.world_from_cam)

    def _depth(self, entry: ViewEntry, size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
        if entry.depth is not None:
            return _to_size(entry.depth.read(), size, entry.depth.path)
        if entry.scene in self.meshes:
            if entry.scene not in self._meshes:
                self._meshes[entry.scene] = read_mesh(self.meshes[entry.scene])
            return render_depth(self._meshes[entry.scene], entry.K, entry.world_from_cam, size)
        if entry.scene in self.points:
            return sparse_depth(self.points[entry.scene], entry, size)
        return np.zeros(size, dtype=np.float32)

    def scenes_of(self, split: str | None) -> tuple[str, ...]:
        """Scenes of a split; all of them for None.

        Raises:
            ValueError: there is no such split.
        """
        if split is None:
            return tuple(self.scenes)
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise ValueError(f"{self.root} has no split {split!r}; it has: {known}")
        return self.splits[split]

    def with_pairs(self, pairs: PairTable | None) -> PosedSet:
        """The same data set with other pairs."""
        return dataclasses.replace(self, pairs=pairs)


def sparse_depth(
    points: ScenePoints, entry: ViewEntry, size: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """z of the points that a view sees, in the pixels they project into; 0 elsewhere."""
    seen = points.xyz[points.point[points.view == entry.name]]
    rotation, centre = entry.world_from_cam[:3, :3], entry.world_from_cam[:3, 3]
    in_cam = (seen - centre) @ rotation
    in_cam = in_cam[in_cam[:, 2] > 0]
    xy = (in_cam @ entry.K.T)[:, :2] / in_cam[:, 2:]
    inside = np.all((xy >= 0) & (xy < (size[1], size[0])), axis=1)
    column, row = xy[inside].astype(np.int64).T
    order = np.argsort(-in_cam[inside, 2])  # the nearest is written last
    depth = np.zeros(size, dtype=np.float32)
    depth[row[order], column[order]] = in_cam[inside, 2][order]
    return depth


def read_rgb(path: Path) -> np.ndarray:
    """Read a photo as (H, W, 3) uint8, without regard to its EXIF rotation.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is no picture.
    """
    return np.asarray(_open(path, "RGB"))


def read_gray(path: Path) -> np.ndarray:
    """Read a picture as (H, W) uint8; errors as of `read_rgb`."""
    return np.asarray(_open(path, "L"))


def _open(path: Path, mode: str) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"the picture {path} does not exist")
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no readable picture: {error}") from error


def _to_size(values: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    """Take the nearest pixel of a map of the same shape; 2 % of difference in shape is rounding."""
    if values.shape == size:
        return values
    factors = size[0] / values.shape[0], size[1] / values.shape[1]
    if abs(factors[0] / factors[1] - 1) > 0.02:
        raise ValueError(
            f"{path} has {values.shape[1]}x{values.shape[0]} pixels, another shape than its photo "
            f"of {size[1]}x{size[0]}"
        )
    return values[np.ix_(*(_nearest(s, n) for s, n in zip(size, values.shape, strict=True)))]


def _nearest(new: int, old: int) -> Int[np.ndarray, " n"]:
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64)


def nan_pose() -> Float[np.ndarray, "4 4"]:
    """A pose that says that it is unknown."""
    return np.full((4, 4), np.nan)
