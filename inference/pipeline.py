"""Photos to a scene, the whole road in one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..geometry.camera import Camera
from ..models.loading import load_model
from ..models.two_view import PairPrediction, TwoViewModel
from ._sources import list_sources
from .calibration import calibration_of
from .cameras import Solution, Work, network_camera, solve_cameras
from .cluster.connection import RayOptions
from .cluster.job import Cluster, ClusterJob, start_cluster
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
from .graph.kinds import make_pairs, reads_similarity
from .graph.retrieval import image_similarity
from .images import LoadedImages, View, load_images
from .job.evidence import PairEvidence, PairReader, own_map
from .job.folder import Job
from .job.planner import MANY_VIEWS, OWN_MAPS_BYTES, Settings, plan
from .job.store import JobStore
from .known.cameras import with_known_depth
from .known.values import KnownSource, as_known, masked_matches, masked_samples, resolve, with_masks
from .matching.descriptors import MatchingOptions, merge_matches
from .observer import Observer, show_depth, with_first_guesses
from .predict import Precision, encode_views, mixed_precision, predict_pairs
from .progress import Progress, make_progress
from .report import EdgeReport, SceneReport
from .residuals import edge_reports
from .scene import Scene, SceneView
from .sfm import MatchGraph, SfmOptions
from .sparse.align import SparseOptions
from .sparse.road import CanonicalStacks
from .video_sources import DEFAULT_FRAMES, with_frames

CameraRoad = Literal["auto", "matches", "sparse", "pointmaps"]
DepthRoad = Literal["auto", "sweep", "pointmaps"]
Engine = Literal["local", "ray"] | RayOptions


def reconstruct(
    photos: Any,
    model: TwoViewModel | str | Path = "weav3r-small",
    *,
    device: str = "auto",
    size: int | None = None,
    frames: int = DEFAULT_FRAMES,
    graph: str = "auto",
    cameras: CameraRoad = "auto",
    depth: DepthRoad = "auto",
    known: KnownSource | None = None,
    focal_px: float | None = None,
    refine: bool = False,
    matching: MatchingOptions | None = None,
    sfm: SfmOptions | None = None,
    sparse: SparseOptions | None = None,
    sweep: SweepOptions | None = None,
    batch_size: int = 2,
    precision: Precision = "float32",
    job: str | Path | JobStore | None = None,
    max_memory: str | int | None = None,
    engine: Engine = "local",
    progress: bool | Callable[[str, int, int], None] = True,
    observer: Observer | None = None,
) -> Scene:
    """Reconstruct cameras and dense geometry from photos of one place.

    Args:
        photos: a folder, a file, or a list of files, (H, W, 3) uint8 RGB arrays or PIL images. A
            file may be a video: sharp frames of it, spread over the camera's way, are used.
        model: a loaded model, or anything that `load_model` takes.
        device: "auto", "cpu", "cuda", "mps", ...; ignored for a loaded model.
        size: long side of the network's input in pixels; default: the best measured for the model.
        frames: most frames that are taken from each video.
        graph: which pairs are compared, see `make_pairs`.
        cameras: "matches" (descriptor matches, verification, bundle adjustment), "sparse" (matches
            and regressed depth together: matched points first meet in space, then in the pictures),
            "pointmaps" (alignment of the regressed pointmaps) or "auto" (what measured better for
            the model; the other road where it fails).
        depth: "sweep" (descriptors compared along viewing rays), "pointmaps", or "auto".
        known: intrinsics, poses, depths, masks and distances that are known, for some photos or
            all: a `weav3r.Known`, a dict of file name -> `weav3r.KnownView` (or a dict of its
            fields), a COLMAP model folder, a transforms.json or a cameras.json. Fixed values come
            back bit for bit; given poses set the world frame and its unit.
        focal_px: known focal length of all photos, in original pixels.
        refine: in the end, adjust the cameras together with tracks of the matches, whichever road
            they came; the tracks are in `scene.tracks` and in exported COLMAP models.
        matching, sfm, sparse, sweep: options of the stages.
        batch_size: pairs decoded at once; halved when memory runs out. A processor takes them one
            at a time.
        precision: of the network's matrix products, "bfloat16" and "float16" are faster on GPUs.
        job: a folder that remembers features, pairs and depth maps, so that the same call, killed
            at any moment, goes on to the same scene, and a later call with some other photos
            computes only what is new. Images and pairs then run one at a time: no other way on a
            processor; on a GPU the scene differs from a run without a job by rounding.
        max_memory: bound such as "8GB" that the work is arranged to keep, instead of `batch_size`;
            see `weav3r.inference.job.planner.plan`.
        engine: "ray" encodes the images and decodes and matches the pairs on a Ray cluster, see
            `weav3r.inference.cluster.connection.RayOptions`, which may be given instead; the scene
            is that of a local run with a job, to the bit on equal processors.
        progress: False for silence, True for a bar in the terminal, or a function that receives
            (stage, done, total). Whatever it raises ends the work.
        observer: receives an `EarlyDepth` of each photo: the network's first guess, with neither
            `job` nor a cluster, and later the depth of the scene.

    Returns:
        The scene, with every connected set of photos as a component of its own. World frame of a
        component: that of its first camera, or of the known poses; OpenCV axes. Everything is in
        original pixels. A photo that was joined with no other is a component of its own, with one
        camera and the depth that the network guesses; `scene.report` names these, the pairs that
        were not believed and why, and every file that was skipped.

    Raises:
        FileNotFoundError: a photo or folder does not exist.
        ValueError: no photo is usable, an option is unknown, or `max_memory` is too little; the
            message says what would fit.
        ConventionError: something known follows another convention; the message names it.
    """
    known = as_known(known, focal_px)
    _check_choice("cameras", cameras, ("auto", "matches", "sparse", "pointmaps"))
    _check_choice("depth", depth, ("auto", "sweep", "pointmaps"))
    if not isinstance(engine, RayOptions):
        _check_choice("engine", engine, ("local", "ray"))
    start = time.perf_counter()
    with make_progress(progress) as show, ExitStack() as stack:
        network = model
        if not isinstance(network, TwoViewModel):
            network = load_model(network, device=device)
        defaults = inference_defaults(network)
        camera_road = defaults.cameras if cameras == "auto" else cameras
        depth_road = defaults.depth if depth == "auto" else depth
        if not network.config.descriptor_dim and (
            cameras in ("matches", "sparse") or depth == "sweep" or refine
        ):
            raise ValueError(
                f"{network.config.name} predicts no descriptors, which cameras='matches', "
                "cameras='sparse', depth='sweep' and refine=True need; leave them at their defaults"
            )
        size = defaults.size if size is None else size
        store = JobStore(job) if isinstance(job, str | Path) else job
        kept = None if store is None else store.folder / "frames"
        photos, video_warnings = with_frames(photos, frames, kept, show)
        settings = Settings(pair_batch=batch_size)
        if max_memory is not None:
            settings = plan(
                *(photos, network),
                size=size,
                graph=graph,
                cameras=camera_road,
                depth=depth_road,
                max_memory=max_memory,
                calibrate=False,
            ).settings
        if network.device.type == "cpu":  # no slower there; and a job changes no bit
            settings = replace(settings, encode_batch=1, pair_batch=1)
        if (settings.resident is not None or engine != "local") and store is None:
            store = JobStore(stack.enter_context(TemporaryDirectory(prefix="weav3r-job-")))
        cluster = None
        if engine != "local":
            assert store is not None  # a cluster has at least a temporary one
            options = engine if isinstance(engine, RayOptions) else RayOptions()
            cluster = stack.enter_context(start_cluster(options, network, store, precision))
        loaded = _load(photos, size, network.config.patch_size, show)
        given = resolve(known, loaded.views)
        loaded = replace(loaded, views=with_masks(loaded.views, given))
        work = _encode(network, loaded.views, graph, precision, settings, store, cluster, show)
        work.given = given
        work.warnings += [*video_warnings, *given.warnings]
        fit = settings.keeps_own_maps and _own_maps_fit(work)
        work.keeps_own_maps = fit and depth_road == "pointmaps"
        work.road, work.refine = camera_road, refine
        if camera_road == "sparse" and len(work.views) > 1:
            work.sparse = sparse or SparseOptions()
            work.stacks = CanonicalStacks(work.views)
        _decode(work, matching, settings.pair_batch, show, observer)
        solution = solve_cameras(work, cameras == "auto", sfm, show)
        maps = _densify(work, solution, depth_road, sweep, show, observer)
        maps = with_known_depth(maps, given, work.views)
    work.timings_s["other"] = time.perf_counter() - start - sum(work.timings_s.values())
    settings = {
        "size": size,
        "graph": graph,
        "cameras": solution.road,
        "depth": depth_road,
        **({"refine": True} if refine else {}),
        "device": str(network.device),
        **({"known": given.summary()} if given.summary() else {}),
    }
    report = _report(work, solution, loaded, settings)
    return _build_scene(work, solution, maps, report)


def _report(
    work: Work, solution: Solution, loaded: LoadedImages, settings: dict[str, Any]
) -> SceneReport:
    return SceneReport(
        images=[view.name for view in work.views],
        problems=list(loaded.problems),
        pairs=list(work.pairs),
        rejected=work.rejected,
        edges=_edges(work, solution),
        components=[[work.views[i].name for i in c] for c in solution.components],
        timings_s=dict(work.timings_s),
        warnings=work.warnings,
        model=work.model.config.name,
        settings=settings,
    )


def _edges(work: Work, solution: Solution) -> list[EdgeReport]:
    """How the pairs fit, component by component: two frames have nothing to do with each other."""
    found = []
    for members in solution.components:
        placed = {i: solution.cameras[i] for i in members if i in solution.cameras}
        found += edge_reports(work.matches, placed)
    return found


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


# -- network ---------------------------------------------------------------------------------------


def _load(photos: Any, size: int, patch_size: int, show: Progress) -> LoadedImages:
    sources = list_sources(photos)
    with show.stage("photos", len(sources)) as advance:
        return load_images(*(sources, size, patch_size), progress=lambda done, total: advance(1))


def _encode(
    model: TwoViewModel,
    views: list[View],
    graph: str,
    precision: Precision,
    settings: Settings,
    store: JobStore | None,
    cluster: Cluster | None,
    show: Progress,
) -> Work:
    by_similarity = len(views) > 1 and reads_similarity(len(views), graph)
    pairs = [] if by_similarity else make_pairs(len(views), graph) if len(views) > 1 else [(0, 0)]
    work = Work(model, views, [], pairs, focal_votes_px=[[] for _ in views], precision=precision)
    half = settings.half_features or len(views) >= MANY_VIEWS
    keep = torch.float16 if half else None
    with work.timed("encode"), show.stage("encode", len(views)) as advance:
        if store is None:
            work.encoded = encode_views(
                *(model, views, settings.encode_batch, advance), precision=precision, keep=keep
            )
        else:
            arguments = store, model, views, precision, keep, settings.resident
            work.job = Job(*arguments) if cluster is None else ClusterJob(cluster, *arguments)
            work.encoded = work.job
            work.job.encode(advance)
    if by_similarity:
        with work.timed("choose pairs"):
            work.pairs = make_pairs(len(views), graph, similarity=image_similarity(work.encoded))
    return work


def _own_maps_fit(work: Work) -> bool:
    pixels = max(height * width for height, width in (view.size for view in work.views))
    return 2 * len(work.pairs) * 8 * pixels <= OWN_MAPS_BYTES


def _decode(
    work: Work,
    options: MatchingOptions | None,
    batch_size: int,
    show: Progress,
    observer: Observer | None,
) -> None:
    """Decode every pair once and keep what the solvers need: matches, samples, focal lengths."""
    wanted = work.road in ("matches", "sparse") or work.refine
    matched = wanted and work.model.config.descriptor_dim > 0 and len(work.views) > 1
    if options is None:  # more photos see each point more often, so each pair may be sparser
        few = len(work.views) <= 4
        options = MatchingOptions() if few else MatchingOptions(step=6, search_stride=3)
    work.graph = MatchGraph(len(work.views)) if matched else None
    stage = "decode and match" if matched else "decode"
    with work.timed(stage), show.stage(stage, len(work.pairs)) as advance:
        reader = PairReader(
            work.views,
            options if matched else None,
            work.keeps_own_maps or work.stacks is not None,
            work.model.device,
        )
        if work.job is None:
            results = predict_pairs(
                work.model, work.encoded, work.pairs, batch_size, precision=work.precision
            )
            if observer is not None:
                results = with_first_guesses(results, work.views, observer)
            evidence = reader.read_all(results)
        else:
            evidence = work.job.evidence(work.pairs, reader)
        for pair in evidence:
            _gather(work, pair)
            advance(1)


def _gather(work: Work, pair: PairEvidence) -> None:
    i, j = pair.first, pair.second
    if pair.own_maps is not None and work.keeps_own_maps:
        work.own_maps[(i, j)], work.own_maps[(j, i)] = pair.own_maps
    if pair.own_maps is not None and work.stacks is not None:
        for index, own, sample in zip((i, j), pair.own_maps, pair.samples, strict=True):
            work.stacks.add(index, own, sample.focal_px)
    work.samples += [masked_samples(sample, work.views) for sample in pair.samples]
    for index, sample in zip((i, j), pair.samples, strict=True):
        if np.isfinite(sample.focal_px) and sample.focal_px > 0:
            scale = work.views[index].pixel_scale
            work.focal_votes_px[index].append(sample.focal_px * scale)
    if work.graph is not None and pair.matches is not None:
        forward, backward = (
            masked_matches(found, work.views[i], work.views[j]) for found in pair.matches
        )
        work.graph.add(i, j, forward)
        work.graph.add(i, j, backward)
        # the sparse alignment asks for neither tracks nor order, but for many matches
        work.matches[(i, j)] = forward if work.stacks is None else merge_matches(forward, backward)


# -- depth -----------------------------------------------------------------------------------------


def _densify(
    work: Work,
    solution: Solution,
    road: str,
    options: SweepOptions | None,
    show: Progress,
    observer: Observer | None,
) -> dict[int, DepthMap]:
    """Dense depth of every photo that has a camera."""
    options = options or SweepOptions()
    cameras = {i: network_camera(work.views[i], c) for i, c in solution.cameras.items()}
    neighbours = choose_neighbours(cameras, solution.shared)
    maps: dict[int, DepthMap] = {}
    with work.timed("depth"), show.stage("depth", len(cameras)) as advance:
        for i in sorted(cameras):
            others = neighbours[i]
            if road == "sweep" and others:
                compute = partial(
                    _sweep, *(work, cameras, i, others, solution.anchors[i][1], options)
                )
            else:
                compute = partial(_fuse, work, i, others, solution.anchors[i])
            if road == "pointmaps" and i in solution.reliefs:
                maps[i] = solution.reliefs[i]
            elif work.job is None:
                maps[i] = compute()
            else:
                used = [i, *others]
                placed = [(cameras[k].K, cameras[k].cam_from_world) for k in used]
                inputs = [road, asdict(options), work.keeps_own_maps, placed, solution.anchors[i]]
                maps[i] = work.job.depth(used, inputs, compute)
            if observer is not None:
                show_depth(
                    *(observer, i, work.views[i], maps[i].depth, maps[i].confidence), final=True
                )
            advance(1)
        if len(maps) > 1 and road == "sweep":
            shares = check_consistency(maps, cameras, neighbours, options.agreement)
            maps = {
                i: DepthMap(m.depth, 1.0 + (m.confidence - 1.0) * shares[i]) if neighbours[i] else m
                for i, m in maps.items()
            }
    return maps


def _predict_directed(work: Work, i: int, j: int) -> PairPrediction:
    first, second = (work.encoded[k].stored_as(torch.float32) for k in (i, j))
    with torch.inference_mode(), mixed_precision(work.model.device, work.precision):
        return work.model.decode(first, second)


def _sweep(
    work: Work,
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
    work: Work, i: int, others: list[int], anchors: tuple[np.ndarray, np.ndarray]
) -> DepthMap:
    maps = []
    for j in others or [i]:
        own = work.own_maps.get((i, j))
        if own is None:
            own = own_map(_predict_directed(work, i, j).view1, 0)
        maps.append(own)
    depths, confidences = [m.depth for m in maps], [m.confidence for m in maps]
    height, width = depths[0].shape
    columns = np.clip(np.floor(anchors[0][:, 0]).astype(int), 0, width - 1)
    rows = np.clip(np.floor(anchors[0][:, 1]).astype(int), 0, height - 1)
    return pointmap_depth(depths, confidences, (rows, columns, anchors[1]))


def _build_scene(
    work: Work, solution: Solution, maps: dict[int, DepthMap], report: SceneReport
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
        scale="metric" if solution.metric else "relative",
        report=report,
        tracks=solution.tracks,
        min_confidence=_default_threshold(maps, report.settings["depth"]),
        calibration=calibration_of(work.model),
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
