"""What the user already knows: intrinsics, poses, depth, masks and scale, per view and in part.

Everything is in ORIGINAL upright pixels (centres at half-integers), OpenCV axes, and one world
frame and unit for all poses and depths. Each value is fixed (it comes back bit for bit), a prior
with a standard deviation, or free (ignored).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from ..alignment.pairs import GRID, PairSamples
from ..images import View
from ..matching.descriptors import Matches
from . import conventions

_NO_CONFIDENCE = 1e-6  # below every real one, yet safe to divide by


@dataclass(frozen=True)
class Trust:
    """How firmly a given value holds.

    Attributes:
        sigma: standard deviation, in the unit of the value; 0 fixes it, infinity frees it.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise ValueError(f"a standard deviation must not be negative, got {self.sigma}")

    @property
    def fixed(self) -> bool:
        """Whether the value is a hard constraint."""
        return self.sigma == 0

    @property
    def free(self) -> bool:
        """Whether the value is ignored."""
        return math.isinf(self.sigma)


FIXED = Trust(0.0)
FREE = Trust(math.inf)


def prior(sigma: float) -> Trust:
    """The value is known up to a standard deviation.

    Raises:
        ValueError: `sigma` is not positive and finite.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"the sigma of a prior must be positive and finite, got {sigma}")
    return Trust(sigma)


@dataclass(frozen=True, eq=False)
class KnownView:
    """What is known about one photo; leave out what is not.

    Attributes:
        focal_px: focal length in pixels, with the principal point at the centre.
        K: (3, 3) intrinsics, instead of `focal_px`.
        size: (height, width) for which the intrinsics were made, to be checked.
        cam_from_world: (4, 4) or (3, 4), or (6,): rotation vector in radians and translation.
        depth: (H, W) along the optical axis, 0 or NaN where unknown.
        mask: (H, W) bool, True = use.
        intrinsics_trust: sigma in pixels of the focal length.
        pose_trust: sigma of the camera's centre in world units. Rotations of priors only turn the
            world.
        depth_trust: sigma as a share of the depth.
    """

    focal_px: float | None = None
    K: Any = None
    size: tuple[int, int] | None = None
    cam_from_world: Any = None
    depth: Any = None
    mask: Any = None
    intrinsics_trust: Trust = FIXED
    pose_trust: Trust = FIXED
    depth_trust: Trust = FIXED


@dataclass(frozen=True)
class Known:
    """What is known about a set of photos.

    Attributes:
        views: file name -> what is known of it. A name may have folders in front of it, as many as
            it takes to tell photos apart.
        default: for every photo, as far as `views` says nothing.
        metric: the unit of poses, depths and distances is the metre.
        distances: (name, name) -> distance between the centres of two cameras; sets the scale where
            poses do not.
        source: where this comes from, for messages.
    """

    views: Mapping[str, KnownView] = field(default_factory=dict)
    default: KnownView | None = None
    metric: bool = False
    distances: Mapping[tuple[str, str], float] = field(default_factory=dict)
    source: str = "known"


KnownSource = Known | Mapping[str, Any] | str | os.PathLike[str]


def as_known(source: KnownSource | None, focal_px: float | None = None) -> Known:
    """Whatever `weav3r.reconstruct(known=...)` takes, as `Known`.

    Args:
        source: a `Known`; a dict of file name -> `KnownView` or dict of its fields; a path, see
            `known_files.read_known`; or None.
        focal_px: of every photo whose intrinsics are not given otherwise.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: it cannot be read, or a field is unknown.
        TypeError: of another type.
    """
    if source is None:
        known = Known()
    elif isinstance(source, Known):
        known = source
    elif isinstance(source, Mapping):
        known = Known({str(name): known_view(view, str(name)) for name, view in source.items()})
    elif isinstance(source, str | os.PathLike):
        from .files import read_known

        known = read_known(Path(source))
    else:
        raise TypeError(
            "known must be a weav3r.Known, a dict of file name -> what is known, or a path, got "
            f"{type(source).__name__}"
        )
    if focal_px is not None:
        default = known.default or KnownView()
        known = replace(known, default=replace(default, focal_px=focal_px, K=None))
    return known


def known_view(value: Any, name: str) -> KnownView:
    """A `KnownView` from itself or from a dict of its fields.

    Raises:
        ValueError: a field is unknown.
        TypeError: of another type.
    """
    if isinstance(value, KnownView):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a KnownView or a dict, got {type(value).__name__}")
    names = [f.name for f in fields(KnownView)]
    unknown = sorted(set(value) - set(names))
    if unknown:
        raise ValueError(f"{name}: {', '.join(unknown)} is unknown; there are {', '.join(names)}")
    return KnownView(**value)


@dataclass(frozen=True, eq=False)
class GivenView:
    """What is known about one loaded photo, checked; None where nothing is.

    Attributes:
        K: (3, 3) float64 of the original photo.
        cam_from_world: (4, 4) float64.
        vector: the (6,) rotation vector and translation that the pose was given as, if it was.
        depth: (H, W) float32 of the original photo, NaN where unknown.
        mask: (H, W) bool of the original photo.
        intrinsics_trust, pose_trust, depth_trust: see `KnownView`.
    """

    K: np.ndarray | None
    cam_from_world: np.ndarray | None
    vector: np.ndarray | None
    depth: np.ndarray | None
    mask: np.ndarray | None
    intrinsics_trust: Trust
    pose_trust: Trust
    depth_trust: Trust

    @property
    def fixed_K(self) -> np.ndarray | None:
        """Intrinsics that must not change."""
        return self.K if self.intrinsics_trust.fixed else None

    @property
    def fixed_pose(self) -> np.ndarray | None:
        """A pose that must not change."""
        return self.cam_from_world if self.pose_trust.fixed else None


@dataclass(frozen=True)
class Given:
    """What is known about the loaded photos.

    Attributes:
        views: image index -> what is known of it; images of which nothing is known are not in it.
        distances: (i, j) -> distance of the two camera centres.
        metric: whether the unit is the metre.
        warnings: sentences for the report.
    """

    views: dict[int, GivenView] = field(default_factory=dict)
    distances: dict[tuple[int, int], float] = field(default_factory=dict)
    metric: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def poses(self) -> dict[int, np.ndarray]:
        """Fixed poses and priors, (4, 4) each."""
        found = {i: v.cam_from_world for i, v in self.views.items()}
        return {i: pose for i, pose in found.items() if pose is not None}

    @property
    def fixed_poses(self) -> dict[int, np.ndarray]:
        """Fixed poses, (4, 4) each."""
        found = {i: v.fixed_pose for i, v in self.views.items()}
        return {i: pose for i, pose in found.items() if pose is not None}

    @property
    def intrinsics(self) -> dict[int, np.ndarray]:
        """Intrinsics, fixed or prior, (3, 3) each."""
        return {i: v.K for i, v in self.views.items() if v.K is not None}

    @property
    def solvable(self) -> bool:
        """Whether anything is known that the solvers can use."""
        return any(
            v.K is not None or v.cam_from_world is not None or v.depth is not None
            for v in self.views.values()
        )

    def summary(self) -> dict[str, int]:
        """How many photos each kind of knowledge was used for, for the report."""
        views = self.views.values()
        counts = {
            "intrinsics": sum(v.K is not None for v in views),
            "poses": sum(v.cam_from_world is not None for v in views),
            "depths": sum(v.depth is not None for v in views),
            "masks": sum(v.mask is not None for v in views),
            "distances": len(self.distances),
        }
        return {name: count for name, count in counts.items() if count}


def resolve(known: Known, views: Sequence[View]) -> Given:
    """Find the photo of every entry, and check what is given by arithmetic.

    Raises:
        ConventionError: a value follows another convention; named.
        ValueError: an entry fits several photos, none fits any, or a value is wrong.
    """
    names = [view.name for view in views]
    owner: dict[int, KnownView] = {}
    strangers = []
    for name, entry in known.views.items():
        index = _find(name, names)
        if index is None:
            strangers.append(name)
        elif index in owner:
            raise ValueError(f"{known.source}: two entries describe the photo {names[index]}")
        else:
            owner[index] = entry
    if known.views and not owner:
        raise ValueError(
            f"{known.source}: none of its {len(known.views)} names is a photo; it has "
            f"{_some(known.views)}, the photos are {_some(names)}"
        )
    given = Given(metric=known.metric)
    if strangers:
        given.warnings.append(
            f"{known.source} describes photos that are not here: " + _some(strangers)
        )
    for index, view in enumerate(views):
        entry = _merged(owner.get(index), known.default)
        checked = entry and _checked(entry, view, known.metric)
        if checked:
            given.views[index] = checked
    for pair, distance in known.distances.items():
        found = [_find(name, names) for name in pair]
        if None in found or found[0] == found[1] or not (math.isfinite(distance) and distance > 0):
            raise ValueError(
                f"{known.source}: the distance {distance} between {pair[0]} and {pair[1]} needs "
                "two photos of the set and must be positive"
            )
        given.distances[(found[0], found[1])] = float(distance)  # type: ignore[index]
    return given


def _find(name: str, names: Sequence[str]) -> int | None:
    """Index of the photo that a name means: equal, or equal as far back as both have folders."""
    wanted = PurePosixPath(str(name).replace("\\", "/")).parts
    for same in (lambda a, b: a == b, lambda a, b: _stem(a) == _stem(b)):
        found: list[int] = []
        for index, candidate in enumerate(names):
            parts = PurePosixPath(candidate).parts
            depth = min(len(parts), len(wanted))
            if depth and same(parts[-depth:], wanted[-depth:]):
                found.append(index)
        if len(found) > 1:
            shown = ", ".join(names[i] for i in found)
            raise ValueError(f"the name {name!r} fits several photos: {shown}; add its folder")
        if found:
            return found[0]
    return None


def _stem(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Parts of a path without the suffix: exports rename what they cannot write."""
    return (*parts[:-1], PurePosixPath(parts[-1]).stem)


def _merged(entry: KnownView | None, default: KnownView | None) -> KnownView | None:
    if entry is None or default is None:
        return entry or default
    changes: dict[str, Any] = {}
    if entry.K is None and entry.focal_px is None:
        keys = ("K", "focal_px", "size", "intrinsics_trust")
        changes = {key: getattr(default, key) for key in keys}
    if entry.mask is None:
        changes["mask"] = default.mask
    return replace(entry, **changes)


def _checked(entry: KnownView, view: View, metric: bool) -> GivenView | None:
    name, size = view.name, view.ledger.original_size
    if entry.K is not None and entry.focal_px is not None:
        raise ValueError(f"{name}: give K or focal_px, not both")
    K = vector = pose = depth = mask = None
    if not entry.intrinsics_trust.free and (entry.K is not None or entry.focal_px is not None):
        if entry.size is not None:
            conventions.check_size(tuple(entry.size), size, "K", name)  # type: ignore[arg-type]
        if entry.K is not None:
            K = conventions.check_K(entry.K, size, name)
        else:
            focal = conventions.check_focal(entry.focal_px, size, name)  # type: ignore[arg-type]
            K = np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1.0]])
    if entry.cam_from_world is not None and not entry.pose_trust.free:
        pose = conventions.check_pose(entry.cam_from_world, name)
        if np.shape(entry.cam_from_world) == (6,):
            vector = np.array(entry.cam_from_world, dtype=np.float64)
    if entry.depth is not None and not entry.depth_trust.free:
        depth = conventions.check_depth(entry.depth, size, metric, name)
    if entry.mask is not None:
        mask = np.asarray(entry.mask).astype(bool)
        conventions.check_size(mask.shape[:2], size, "the mask", name)  # type: ignore[arg-type]
        if mask.ndim != 2 or not mask.any():
            raise ValueError(f"{name}: the mask must be an (H, W) map that leaves some pixels")
    if K is None and pose is None and depth is None and mask is None:
        return None
    trusts = (entry.intrinsics_trust, entry.pose_trust, entry.depth_trust)
    return GivenView(K, pose, vector, depth, mask, *trusts)


def _some(names: Iterable[str], limit: int = 5) -> str:
    shown = list(names)
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def at_network_size(view: View, array: np.ndarray) -> np.ndarray:
    """(H, W) values of an original-size map at the network's pixel centres, nearest, unchanged."""
    height, width = view.size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    xy = np.floor(np.asarray(view.ledger.points_to_original(np.stack([x, y], -1)))).astype(int)
    rows, columns = array.shape
    return array[xy[..., 1].clip(0, rows - 1), xy[..., 0].clip(0, columns - 1)]


def with_masks(views: Sequence[View], given: Given) -> list[View]:
    """The views with the given masks added to their own.

    Raises:
        ValueError: nothing of a photo is left.
    """
    masked = list(views)
    for index, entry in given.views.items():
        if entry.mask is None:
            continue
        view = views[index]
        mask = torch.from_numpy(at_network_size(view, entry.mask))
        mask = mask if view.mask is None else mask & view.mask
        if not bool(mask.any()):
            raise ValueError(f"{view.name}: the mask leaves no pixel of the photo")
        masked[index] = replace(view, mask=mask)
    return masked


def masked_matches(matches: Matches, first: View, second: View) -> Matches:
    """The matches whose two points both lie in the masks of their photos."""
    keep = np.ones(len(matches), dtype=bool)
    for view, xy in ((first, matches.xy1), (second, matches.xy2)):
        if view.mask is None:
            continue
        column, row = np.floor(np.asarray(view.ledger.points_to_network(xy))).astype(int).T
        height, width = view.size
        keep &= view.mask.numpy()[row.clip(0, height - 1), column.clip(0, width - 1)]
    return matches if keep.all() else matches.select(keep)


def masked_samples(sample: PairSamples, views: Sequence[View]) -> PairSamples:
    """The samples without weight outside the masks of their photos."""
    if all(views[i].mask is None for i in (sample.frame, sample.other)):
        return sample
    confidence = sample.confidence.clone()
    for side, index in enumerate((sample.frame, sample.other)):
        mask = views[index].mask
        if mask is not None:
            rows, columns = (torch.linspace(0, n - 1, GRID).round().long() for n in mask.shape)
            inside = mask[rows][:, columns].reshape(-1)
            confidence[side] = torch.where(inside, confidence[side], _NO_CONFIDENCE)
    return replace(sample, confidence=confidence)
