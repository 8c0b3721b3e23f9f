"""The views that the doctor compares, read and thinned, and what their depth maps show alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8
from PIL import Image

from ..covisibility import ThinView, thin
from ..posed_set import PosedSet
from ..posed_view import PosedView
from .arithmetic import some
from .findings import Finding

_SCENES, _ALL = 6, 12
_GAPS = (0, 1, 3, 8)  # places of the views of a group in a long scene
_GROUPS = 12  # of all scenes
_THIN_PX, _SAMPLES = 160, 150
_EMPTY, _SPARSE, _HOLES = 1e-4, 0.05, 0.3  # shares of the pixels


@dataclass(frozen=True, eq=False)
class Probe:
    """A view with what the comparisons need.

    Attributes:
        index: in the data set.
        place: in the scene.
        view: as read, with K at the photo's size.
        thin: at a stride, with sampled pixels.
        gray: (h, w) brightness at the size of the thinned depth.
    """

    index: int
    place: int
    view: PosedView
    thin: ThinView
    gray: Float32[np.ndarray, "h w"]


@dataclass(frozen=True, eq=False)
class SceneProbes:
    """Probes of one scene, the poses of all its views, and pairs to compare, as probe numbers."""

    scene: str
    probes: tuple[Probe, ...]
    poses: Float64[np.ndarray, "n 4 4"]
    pairs: Int[np.ndarray, "p 2"]


def read_probes(data: PosedSet, seed: int = 0) -> tuple[list[SceneProbes], list[Finding]]:
    """Read some views of some scenes; what cannot be read becomes a finding."""
    rng = np.random.default_rng(seed)
    scenes = list(data.scenes)
    chosen = [scenes[k] for k in np.unique(np.linspace(0, len(scenes) - 1, _SCENES).astype(int))]
    found, problems = [], []
    for scene in chosen:
        members = np.array(data.scenes[scene])
        places, pairs = _choose(data, members, max(2, min(8, _GROUPS // len(chosen))), rng)
        probes: dict[int, Probe] = {}
        for place in places:
            try:
                probes[place] = _probe(data, int(members[place]), place)
            except (ValueError, OSError) as error:
                problems.append((data.views[members[place]].key, str(error)))
        number = {place: k for k, place in enumerate(probes)}
        kept = [(number[a], number[b]) for a, b in pairs if a in number and b in number]
        poses = np.stack([data.views[k].world_from_cam for k in members])
        index = np.array(kept, dtype=np.int64).reshape(-1, 2)
        found.append(SceneProbes(scene, tuple(probes.values()), poses, index))
    missing = [p for p in problems if "does not exist" not in p[1]]
    findings = []
    if missing:
        message = f"{len(missing)} views cannot be read: {missing[0][1]}"
        names = some([key for key, _ in missing])
        findings.append(Finding("unreadable", "error", message, where=names))
    return found, findings


def _choose(
    data: PosedSet, members: Int[np.ndarray, " n"], most: int, rng: np.random.Generator
) -> tuple[list[int], list[tuple[int, int]]]:
    """Places of views in their scene, and pairs of places: given ones, else neighbours."""
    count = len(members)
    if data.pairs is not None:
        inside = data.pairs.index[np.isin(data.pairs.index[:, 0], members)]
        rows = rng.permutation(len(inside))[: 2 * _ALL]
        table = {int(index): place for place, index in enumerate(members)}
        pairs = [(table[int(a)], table[int(b)]) for a, b in inside[np.sort(rows)]]
        if pairs:
            return sorted({place for pair in pairs for place in pair}), pairs
    if count <= _ALL:
        groups = [list(range(count))]
    else:
        anchors = np.unique(np.linspace(0, count - 1 - _GAPS[-1], most).astype(int))
        groups = [[int(a) + gap for gap in _GAPS] for a in anchors]
    pairs = [
        (group[i], group[j])
        for group in groups
        for i in range(len(group))
        for j in range(i + 1, len(group))
        if count > _ALL or j - i in (1, 2, 4)
    ]
    return sorted({place for group in groups for place in group}), pairs


def _probe(data: PosedSet, index: int, place: int) -> Probe:
    import dataclasses

    entry = data.views[index]
    with Image.open(entry.image) as image:
        size = image.height, image.width
    factors = np.array([1.0, 1.0, 1.0])
    if entry.size is not None:
        factors[:2] = size[1] / entry.size[1], size[0] / entry.size[0]
    # K is told for another size: that is a finding of its own, and no reason to stop here.
    fitting = dataclasses.replace(entry, K=entry.K * factors[:, None], size=size)
    views = (*data.views[:index], fitting, *data.views[index + 1 :])
    view = dataclasses.replace(data, views=views, pairs=None).load(index)
    small = thin(view, _THIN_PX, _SAMPLES)
    height, width = small.depth.shape
    gray = Image.fromarray(view.image).convert("L").resize((width, height), Image.Resampling.BOX)
    return Probe(index, place, view, small, np.asarray(gray, dtype=np.float32))


def check_depth(data: PosedSet, scenes: Sequence[SceneProbes]) -> Iterator[Finding]:
    """Empty, sparse, constant and impossible depth maps."""
    probes = [probe for scene in scenes for probe in scene.probes]
    if not probes:
        return
    share = np.array([float(probe.view.valid.mean()) for probe in probes])
    names = [data.views[probe.index].key for probe in probes]
    empty = [name for name, s in zip(names, share, strict=True) if s < _EMPTY]
    if empty:
        yield Finding(
            "empty-depth",
            "error",
            f"{len(empty)} of {len(probes)} depth maps that were looked at hold no depth",
            "check how they were written: a float map stored as 8 bits, or the wrong channel",
            some(empty),
        )
    full = share[share >= _EMPTY]
    if len(full) == 0:
        return
    if np.median(full) < _SPARSE:
        message = f"depth is sparse: {np.median(full):.1%} of the pixels"
        yield Finding("sparse-depth", "note", message, "few pixels of each view can be learnt from")
    elif np.median(full) < 1 - _HOLES:
        yield Finding(
            "holes",
            "warning",
            f"{1 - np.median(full):.0%} of the pixels have no depth, as behind sensors that "
            "measure the time of flight (dark, shiny, far) and in the sky",
            "they are left out of the losses; nothing to do if it is the sky",
        )
    depths = [probe.view.depth[probe.view.valid] for probe in probes if probe.view.valid.any()]
    constant = sum(float(np.ptp(d)) < 1e-6 * float(d.max()) for d in depths)
    if constant > len(depths) / 2:
        message = f"{constant} of {len(depths)} depth maps hold one number only"
        yield Finding("constant-depth", "error", message, "check how they were written")
    top = [d for d in depths if (d >= d.max() * (1 - 1e-6)).mean() > 0.05 and np.ptp(d) > 0]
    if len(top) > len(depths) / 2:
        yield Finding(
            "saturated-depth",
            "warning",
            f"more than 5 % of the depth is the largest number, {float(top[0].max()):.5g}",
            "it may say 'unknown', or the backdrop: set `far` below it",
        )
    yield from _check_unit(data, float(np.median(np.concatenate([d[::7] for d in depths]))))


def _check_unit(data: PosedSet, median: float) -> Iterator[Finding]:
    if data.unit != "metre" or 0.02 <= median <= 300:
        return
    millimetres = median > 300
    yield Finding(
        "unit",
        "error" if median > 700 or median < 0.005 else "warning",
        f"the data set says that its unit is the metre, and half of the depth is beyond "
        f"{median:.4g}",
        f"it looks like {'millimetres' if millimetres else 'kilometres, or a normalised scene'}; "
        f"{'divide depth and translations by 1000' if millimetres else 'set the unit: arbitrary'}",
    )


def colours(values: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a depth map: near red, far blue, unknown black; log scale between its 2nd and 98th %."""
    stops = np.array(
        [[215, 48, 39], [253, 174, 97], [255, 255, 191], [116, 173, 209], [49, 54, 149]]
    )
    known = values > 0
    picture = np.zeros((*values.shape, 3), dtype=np.uint8)
    if not known.any():
        return picture
    logs = np.log(values[known])
    low, high = np.percentile(logs, [2, 98])
    place = np.clip((logs - low) / max(high - low, 1e-9), 0, 1) * (len(stops) - 1)
    first = np.minimum(place.astype(int), len(stops) - 2)
    share = (place - first)[:, None]
    picture[known] = (stops[first] * (1 - share) + stops[first + 1] * share).round()
    return picture
