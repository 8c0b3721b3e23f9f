"""Photos to a scene, the whole road in one call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..geometry.camera import Camera
from ..geometry.pose import relative_pose
from ..models.loading import load_model
from ..models.two_view import EncodedImages, PairPrediction, TwoViewModel
from .alignment import AlignedCameras, PairSamples, align_pairs, sample_pair
from .defaults import inference_defaults
from .dense import (
    DepthMap,
    SweepOptions,
    check_consistency,
    choose_neighbours,
    depth_range,
    pointmap_depth,
    sweep_depth,
)
from .graph import make_pairs
from .images import View, load_images
from .matching import Matches, MatchingOptions, match_pair
from .predict import encode_views, predict_pairs
from .progress import Progress, make_progress
from .report import RejectedPair, SceneReport
from .scene import Scene, SceneView, Tracks
from .sfm import MatchGraph, SfmOptions, SfmResult, SparseModel, reconstruct_from_matches

CameraRoad = Literal["auto", "matches", "pointmaps"]
DepthRoad = Literal["auto", "sweep", "pointmaps"]


@dataclass
class _Work:
    """Everything one run gathers on its way."""

    model: TwoViewModel
    views: list[View]
    encoded: list[EncodedImages]
    pairs: list[tuple[int, int]]
    samples: list[PairSamples] = field(default_factory=list)
    graph: MatchGraph | None = None
    matches: dict[tuple[int, int], Matches] = field(default_factory=dict)
    focal_votes_px: list[list[float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rejected: list[RejectedPair] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `timings_s[stage]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[stage] = self.timings_s.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class _Solution:
    """Cameras of all components and what fixes the scale of their depths.

    Attributes:
        cameras: image -> camera in ORIGINAL pixels, in the frame of its component.
        anchors: image -> (xy (n, 2) network pixels, depth (n,)) of known points.
        shared: (i, j), i < j -> (n, 3) points that both see, in their component's frame.
        components: images of each component, largest first.
        road: "matches", "pointmaps" or "single".
        tracks: sparse points with their observations, if the road makes some.
    """

    cameras: dict[int, Camera]
    anchors: dict[int, tuple[np.ndarray, np.ndarray]]
    shared: dict[tuple[int, int], np.ndarray]
    components: list[list[int]]
    road: str
    tracks: Tracks | None = None


def reconstruct(
    photos: Any,
    model: TwoViewModel | str | Path = "weav3r-small",
    *,
    device: str = "auto",
    size: int | None = None,
    graph: str = "auto",
    cameras: CameraRoad = "auto",
    depth: DepthRoad = "auto",
    matching: MatchingOptions | None = None,
    sfm: SfmOptions | None = None,
    sweep: SweepOptions | None = None,
    batch_size: int = 2,
    progress: bool | Callable[[str, int, int], None] = True,
) -> Scene:
    """Reconstruct cameras and dense geometry from photos of one place.

    Args:
        photos: a folder, or a list of files, (H, W, 3) uint8 RGB arrays or PIL images.
        model: a loaded model, a bundled name, a folder or a .safetensors file.
        device: "auto", "cpu", "cuda", "mps", ...; ignored for a loaded model.
        size: long side of the network's input in pixels; default: the best measured for the model.
        graph: which pairs are compared, see `make_pairs`.
        cameras: "matches" (descriptor matches, verification, bundle adjustment), "pointmaps"
            (alignment of the regressed pointmaps) or "auto" (what measured better for the model;
            the other road where it fails).
        depth: "sweep" (descriptors compared along viewing rays), "pointmaps", or "auto".
        matching, sfm, sweep: options of the stages.
        batch_size: pairs decoded at once; halved when memory runs out.
        progress: False for silence, True for a bar in the terminal, or a function that receives
            (stage, done, total).

    Returns:
        The scene, with every connected set of photos as a component of its own. World frame of a
        component: that of its first camera, OpenCV axes. Everything is in original pixels. Photos
        that could not be placed have no camera; `scene.report` names them and every file that was
        skipped.

    Raises:
        FileNotFoundError: a photo or folder does not exist.
        ValueError: no photo is usable, or an option is unknown.
    """
    _check_choice("cameras", cameras, ("auto", "matches", "pointmaps"))
    _check_choice("depth", depth, ("auto", "sweep", "pointmaps"))
    start = time.perf_counter()
    with make_progress(progress) as show:
        network = model
        if not isinstance(network, TwoViewModel):
            network = load_model(network, device=device)
        defaults = inference_defaults(network)
        camera_road = defaults.cameras if cameras == "auto" else cameras
        depth_road = defaults.depth if depth == "auto" else depth
        if not network.config.descriptor_dim and (cameras == "matches" or depth == "sweep"):
            raise ValueError(
                f"{network.config.name} predicts no descriptors, which cameras='matches' and "
                "depth='sweep' need; leave both at 'auto'"
            )
        size = defaults.size if size is None else size
        with show.stage("photos", 1) as _:
            loaded = load_images(photos, size=size, patch_size=network.config.patch_size)
        work = _encode(network, loaded.views, graph, show)
        _decode(work, camera_road, matching, batch_size, show)
        solution = _solve(work, camera_road, cameras == "auto", sfm, show)
        maps = _densify(work, solution, depth_road, sweep, show)
    work.timings_s["other"] = time.perf_counter() - start - sum(work.timings_s.values())
    report = SceneReport(
        images=[view.name for view in work.views],
        problems=list(loaded.problems),
        pairs=list(work.pairs),
        rejected=work.rejected,
        components=[[work.views[i].name for i in c] for c in solution.components],
        timings_s=dict(work.timings_s),
        warnings=work.warnings,
        model=network.config.name,
        settings={
            "size": size,
            "graph": graph,
            "cameras": solution.road,
            "depth": depth_road,
            "device": str(network.device),
        },
    )
    return _build_scene(work, solution, maps, report)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


# -- network ---------------------------------------------------------------------------------------


def _encode(model: TwoViewModel, views: list[View], graph: str, show: Progress) -> _Work:
    pairs = make_pairs(len(views), graph) if len(views) > 1 else [(0, 0)]
    work = _Work(model, views, [], pairs, focal_votes_px=[[] for _ in views])
    with work.timed("encode"), show.stage("encode", len(views)) as advance:
        work.encoded = encode_views(model, views, progress=advance)
    return work


def _decode(
    work: _Work,
    road: str,
    options: MatchingOptions | None,
    batch_size: int,
    show: Progress,
) -> None:
    """Decode every pair once and keep what the solvers need: matches, samples, focal lengths."""
    matched = road == "matches" and work.model.config.descriptor_dim > 0 and len(work.views) > 1
    if options is None:  # more photos see each point more often, so each pair may be sparser
        few = len(work.views) <= 4
        options = MatchingOptions() if few else MatchingOptions(step=6, search_stride=3)
    work.graph = MatchGraph(len(work.views)) if matched else None
    stage = "decode and match" if matched else "decode"
    with work.timed(stage), show.stage(stage, len(work.pairs)) as advance:
        for result in predict_pairs(work.model, work.encoded, work.pairs, batch_size):
            i, j = result.first, result.second
            samples = sample_pair(result)
            work.samples += samples
            for index, sample in ((i, samples[0]), (j, samples[1])):
                if np.isfinite(sample.focal_px) and sample.focal_px > 0:
                    scale = work.views[index].pixel_scale
                    work.focal_votes_px[index].append(sample.focal_px * scale)
            if work.graph is not None:
                forward, backward = match_pair(
                    result, work.views[i], work.views[j], options, work.model.device
                )
                work.graph.add(i, j, forward)
                work.graph.add(i, j, backward)
                work.matches[(i, j)] = forward
            advance(1)


# -- cameras ---------------------------------------------------------------------------------------


def _solve(
    work: _Work, road: str, may_switch: bool, options: SfmOptions | None, show: Progress
) -> _Solution:
    if len(work.views) == 1:
        work.warnings.append("one photo only: shape and scale are the network's guess")
        return _solve_single(work)
    if work.graph is not None:
        with work.timed("cameras"), show.stage("cameras", 1) as _:
            found = reconstruct_from_matches(work.views, work.graph, _focal_guesses(work), options)
            work.rejected = [
                RejectedPair(
                    work.views[pair[0]].name,
                    work.views[pair[1]].name,
                    f"only {v.num_inliers} of {v.num_matches} matches fit one camera motion",
                )
                for pair, v in found.pairs.items()
                if not v.accepted
            ]
        if found.models:
            return _from_sparse(work, found)
        if len(work.views) == 2 or not may_switch:
            ratio = (options or SfmOptions()).min_inlier_ratio
            solution = _from_best_pair(work, found, ratio)
            if solution is not None:
                return solution
        work.warnings.append(
            "the matches gave no cameras, perhaps because the photos show different places; the "
            "cameras are guesses from the regressed pointmaps"
        )
    with work.timed("cameras"), show.stage("cameras", 1) as _:
        aligned = align_pairs(work.samples, len(work.views))
    return _from_aligned(work, aligned)


def _focal_guesses(work: _Work) -> list[float]:
    """Per photo a starting focal length in original pixels: the pointmaps' median, kept sane."""
    guesses = []
    for view, votes in zip(work.views, work.focal_votes_px, strict=True):
        long_side = max(view.ledger.original_size)
        guess = float(np.median(votes)) if votes else 1.2 * long_side
        guesses.append(float(np.clip(guess, 0.6 * long_side, 2.0 * long_side)))
    return guesses


def _solve_single(work: _Work) -> _Solution:
    view, sample = work.views[0], work.samples[0]
    focal = view.exif_focal_px or _focal_guesses(work)[0]
    height, width = view.ledger.original_size
    camera = Camera(
        K=_intrinsics(focal, height, width), cam_from_world=np.eye(4), height=height, width=width
    )
    h, w = view.size
    xy = np.array([[w / 2, h / 2]])
    depth = np.array([float(sample.points[0, :, 2].median())])
    return _Solution({0: camera}, {0: (xy, depth)}, {}, [[0]], "single")


def _intrinsics(focal: float, height: int, width: int) -> np.ndarray:
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def _from_sparse(work: _Work, found: SfmResult) -> _Solution:
    """Bring every model into its own frame: first camera at the identity, median depth one."""
    cameras: dict[int, Camera] = {}
    anchors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    shared: dict[tuple[int, int], np.ndarray] = {}
    models = [_to_first_camera(m) for m in found.models]
    for model in models:
        cameras |= model.cameras
        seen_by: dict[int, set[int]] = {}
        for index, (xy, point) in model.observations.items():
            _, depth = model.cameras[index].project(model.points[point])
            good = depth > 0
            network_xy = np.asarray(work.views[index].ledger.points_to_network(xy[good]))
            anchors[index] = (network_xy, depth[good])
            seen_by[index] = set(point[good].tolist())
        for i, j in itertools.combinations(sorted(seen_by), 2):
            shared[(i, j)] = model.points[sorted(seen_by[i] & seen_by[j])]
    components = [sorted(m.cameras) for m in models]
    _warn_about_components(work, components, "too few consistent matches")
    return _Solution(cameras, anchors, shared, components, "matches", _tracks(models))


def _tracks(models: Sequence[SparseModel]) -> Tracks:
    image, point, xy, offset = [], [], [], 0
    for model in models:
        for index, (positions, points) in sorted(model.observations.items()):
            image.append(np.full(len(points), index))
            point.append(points + offset)
            xy.append(positions)
        offset += len(model.points)
    return Tracks(
        points=np.concatenate([m.points for m in models]),
        image=np.concatenate(image),
        point=np.concatenate(point),
        xy=np.concatenate(xy).astype(np.float64),
        error_px=np.concatenate([m.errors_px for m in models]),
    )


def _warn_about_components(work: _Work, components: list[list[int]], reason: str) -> None:
    left = set(range(len(work.views))) - {i for c in components for i in c}
    if left:
        names = ", ".join(work.views[i].name for i in sorted(left))
        work.warnings.append(f"not placed, {reason}: {names}")
    if len(components) > 1:
        sizes = ", ".join(str(len(c)) for c in components)
        work.warnings.append(
            f"the photos fall into {len(components)} groups ({sizes} photos) without common "
            "points; each has a frame and a scale of its own"
        )


def _to_first_camera(model: SparseModel) -> SparseModel:
    first = model.cameras[min(model.cameras)]
    points = model.points @ first.cam_from_world[:3, :3].T + first.cam_from_world[:3, 3]
    depth = points[:, 2][points[:, 2] > 0]
    scale = 1.0 / float(np.median(depth)) if len(depth) else 1.0
    cameras = {}
    for index, camera in model.cameras.items():
        pose = camera.cam_from_world @ first.world_from_cam
        pose[:3, 3] *= scale
        cameras[index] = Camera(
            K=camera.K, cam_from_world=pose, height=camera.height, width=camera.width
        )
    return SparseModel(cameras, points * scale, model.errors_px, model.observations)


def _from_best_pair(work: _Work, found: SfmResult, min_inlier_ratio: float) -> _Solution | None:
    """Two cameras from the pair with the most consistent matches, when mapping gave up."""
    if not found.pairs:
        return None
    i, j = max(found.pairs, key=lambda pair: (found.pairs[pair].num_inliers, pair))
    matches = work.matches[(i, j)]
    guesses = _focal_guesses(work)
    K = {}
    for k in (i, j):
        view = work.views[k]
        K[k] = _intrinsics(view.exif_focal_px or guesses[k], *view.ledger.original_size)
    scale = max(work.views[k].pixel_scale for k in (i, j))
    sizes = {k: work.views[k].ledger.original_size for k in (i, j)}
    estimate = relative_pose(matches.xy1, matches.xy2, K[i], K[j], sizes[i], sizes[j], 1.5 * scale)
    needed = max(16, min_inlier_ratio * len(matches))  # photos of different places fall below
    if not estimate or estimate.num_inliers < needed:
        return None
    cameras = {
        i: Camera(K=K[i], cam_from_world=np.eye(4), height=sizes[i][0], width=sizes[i][1]),
        j: Camera(
            K=K[j], cam_from_world=estimate.cam2_from_cam1, height=sizes[j][0], width=sizes[j][1]
        ),
    }
    xy1, xy2 = matches.xy1[estimate.inliers], matches.xy2[estimate.inliers]
    points = _triangulate(cameras[i], cameras[j], xy1, xy2)
    depth_i, depth_j = cameras[i].project(points)[1], cameras[j].project(points)[1]
    good = (depth_i > 0) & (depth_j > 0) & np.isfinite(points).all(-1)
    if good.sum() < 16:
        return None
    work.warnings.append(
        "the photos were taken from nearly the same place or share little: depth is unsure"
    )
    anchors = {
        k: (np.asarray(work.views[k].ledger.points_to_network(xy[good])), depth[good])
        for k, xy, depth in ((i, xy1, depth_i), (j, xy2, depth_j))
    }
    _warn_about_components(work, [[i, j]], "too few consistent matches")
    return _Solution(cameras, anchors, {(i, j): points[good]}, [[i, j]], "matches")


def _triangulate(a: Camera, b: Camera, xy1: np.ndarray, xy2: np.ndarray) -> np.ndarray:
    """Midpoints of the viewing rays of matched pixels, (n, 3)."""
    one = np.ones(len(xy1))
    u = a.unproject(xy1.astype(float), one) - a.center
    v = b.unproject(xy2.astype(float), one) - b.center
    baseline = b.center - a.center
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    ub, vb = u @ baseline, v @ baseline
    determinant = np.maximum(uu * vv - uv**2, 1e-12)
    s = (ub * vv - vb * uv) / determinant
    t = (ub * uv - vb * uu) / determinant
    return 0.5 * (a.center + s[:, None] * u + b.center + t[:, None] * v)


def _from_aligned(work: _Work, aligned: Sequence[AlignedCameras]) -> _Solution:
    cameras: dict[int, Camera] = {}
    anchors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    shared: dict[tuple[int, int], np.ndarray] = {}
    for component in aligned:
        for n, index in enumerate(component.images):
            cameras[index], anchors[index] = _aligned_view(work.views[index], component, n)
        network = {i: _network_camera(work.views[i], cameras[i]) for i in component.images}
        world = {i: network[i].unproject(*anchors[i]) for i in component.images}
        for i, j in itertools.combinations(component.images, 2):
            xy, z = network[j].project(world[i])
            height, width = work.views[j].size
            inside = (z > 0) & (xy >= 0).all(-1) & (xy[:, 0] < width) & (xy[:, 1] < height)
            shared[(i, j)] = world[i][inside]
    components = [list(c.images) for c in aligned]
    _warn_about_components(work, components, "no pair connects them")
    return _Solution(cameras, anchors, shared, components, "pointmaps")


def _aligned_view(
    view: View, component: AlignedCameras, n: int
) -> tuple[Camera, tuple[np.ndarray, np.ndarray]]:
    """Camera in original pixels and known depths of the n-th image of an aligned component."""
    height, width = view.size
    original_height, original_width = view.ledger.original_size
    camera = Camera(
        K=view.ledger.K_to_original(_intrinsics(float(component.focal_px[n]), height, width)),
        cam_from_world=component.cam_from_world[n],
        height=original_height,
        width=original_width,
    )
    grid = component.grid_depth[n]
    rows = np.round(np.linspace(0, height - 1, grid.shape[0])) + 0.5
    columns = np.round(np.linspace(0, width - 1, grid.shape[1])) + 0.5
    x, y = np.meshgrid(columns, rows)
    return camera, (np.stack([x, y], -1).reshape(-1, 2), grid.reshape(-1))


# -- depth -----------------------------------------------------------------------------------------


def _network_camera(view: View, camera: Camera) -> Camera:
    height, width = view.size
    return Camera(
        K=np.asarray(view.ledger.K_to_network(camera.K)),
        cam_from_world=camera.cam_from_world,
        height=height,
        width=width,
    )


def _densify(
    work: _Work,
    solution: _Solution,
    road: str,
    options: SweepOptions | None,
    show: Progress,
) -> dict[int, DepthMap]:
    """Dense depth of every photo that has a camera."""
    options = options or SweepOptions()
    cameras = {i: _network_camera(work.views[i], c) for i, c in solution.cameras.items()}
    neighbours = choose_neighbours(cameras, solution.shared)
    maps: dict[int, DepthMap] = {}
    with work.timed("depth"), show.stage("depth", len(cameras)) as advance:
        for i in sorted(cameras):
            others = neighbours[i]
            if road == "sweep" and others:
                maps[i] = _sweep(work, cameras, i, others, solution.anchors[i][1], options)
            else:
                maps[i] = _fuse(work, i, others, solution.anchors[i])
            advance(1)
        if len(maps) > 1 and road == "sweep":
            shares = check_consistency(maps, cameras, neighbours, options.agreement)
            maps = {
                i: DepthMap(m.depth, 1.0 + (m.confidence - 1.0) * shares[i])
                for i, m in maps.items()
            }
    return maps


def _predict_directed(work: _Work, i: int, j: int) -> PairPrediction:
    with torch.inference_mode():
        return work.model.decode(work.encoded[i], work.encoded[j])


def _sweep(
    work: _Work,
    cameras: dict[int, Camera],
    i: int,
    others: list[int],
    known_depths: np.ndarray,
    options: SweepOptions,
) -> DepthMap:
    descriptors: list[tuple[Tensor, Tensor]] = []
    for j in others:
        prediction = _predict_directed(work, i, j)
        a, b = prediction.view1.descriptors, prediction.view2.descriptors
        assert a is not None and b is not None  # the road was checked before the work began
        descriptors.append((a[0].float().cpu(), b[0].float().cpu()))
    near, far = depth_range(known_depths)
    return sweep_depth(cameras[i], [cameras[j] for j in others], descriptors, near, far, options)


def _fuse(
    work: _Work, i: int, others: list[int], anchors: tuple[np.ndarray, np.ndarray]
) -> DepthMap:
    depths, confidences = [], []
    for j in others or [i]:
        own = _predict_directed(work, i, j).view1
        depths.append(own.pointmap[0, ..., 2].float().cpu().numpy())
        confidences.append(own.confidence[0].float().cpu().numpy())
    height, width = depths[0].shape
    columns = np.clip(np.floor(anchors[0][:, 0]).astype(int), 0, width - 1)
    rows = np.clip(np.floor(anchors[0][:, 1]).astype(int), 0, height - 1)
    return pointmap_depth(depths, confidences, (rows, columns, anchors[1]))


def _build_scene(
    work: _Work, solution: _Solution, maps: dict[int, DepthMap], report: SceneReport
) -> Scene:
    views = []
    for index, view in enumerate(work.views):
        empty = np.full(view.size, np.nan, dtype=np.float32)
        found = maps.get(index, DepthMap(empty, np.ones_like(empty)))
        depth = found.depth
        if view.mask is not None:
            depth = np.where(view.mask, depth, np.nan)
        views.append(
            SceneView(
                name=view.name,
                path=view.path,
                ledger=view.ledger,
                camera=solution.cameras.get(index),
                rgb=view.rgb,
                depth=depth.astype(np.float32),
                confidence=found.confidence.astype(np.float32),
            )
        )
    return Scene(
        views=views,
        components=solution.components,
        scale="relative",
        report=report,
        tracks=solution.tracks,
        min_confidence=_default_threshold(maps, report.settings["depth"]),
    )


def _default_threshold(maps: dict[int, DepthMap], road: str) -> float:
    """Confidence below which points are left out unless the user says otherwise.

    Swept depths come with a vote of the other photos; those that got none are guesses. Where nearly
    everything is a guess, guesses are shown rather than nothing.
    """
    if road != "sweep" or not maps:
        return 1.0
    confidence = np.concatenate([m.confidence.reshape(-1) for m in maps.values()])
    return 1.5 if (confidence >= 1.5).mean() > 0.05 else 1.0
