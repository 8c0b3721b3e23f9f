"""From what the pairs say to the cameras of every component.

Three roads: the matches' (`sfm`), the pointmaps' (`alignment`), and that of both together
(`sparse`). Whichever is taken, the result has the same form: cameras in original pixels, and known
depths that fix the scale of the dense maps. On request the matches have the last word (`polish`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from ..geometry.camera import Camera
from ..geometry.pose import relative_pose
from ..models.two_view import EncodedImages, TwoViewModel
from .agreement import agreeing_share
from .alignment.pairs import AlignedCameras, PairSamples, align_pairs
from .dense import DepthMap
from .graph.verification import verify_edges
from .graph.view_graph import edges_from_samples, pairs_without_confidence
from .images import View
from .job.evidence import OwnMap
from .job.folder import Job
from .known.alignment import align_known
from .known.cameras import apply_known, given_camera
from .known.evidence import PairPoints, check_evidence, points_of_samples
from .known.values import Given
from .matching.descriptors import Matches
from .polish import polish_cameras
from .predict import Precision
from .progress import Progress
from .report import RejectedPair
from .scene import Tracks
from .sfm import (
    MatchGraph,
    SfmOptions,
    SfmResult,
    SparseModel,
    camera_groups,
    judge_pairs,
    reconstruct_from_matches,
)
from .sparse.align import SparseOptions
from .sparse.road import (
    CanonicalStacks,
    SparseComponent,
    VerifiedPair,
    align_components,
    shared_points,
    verify_pair,
)


@dataclass
class Work:
    """Everything one run gathers on its way."""

    model: TwoViewModel
    views: list[View]
    encoded: Sequence[EncodedImages]
    pairs: list[tuple[int, int]]
    samples: list[PairSamples] = field(default_factory=list)
    graph: MatchGraph | None = None
    matches: dict[tuple[int, int], Matches] = field(default_factory=dict)
    focal_votes_px: list[list[float]] = field(default_factory=list)
    own_maps: dict[tuple[int, int], OwnMap] = field(default_factory=dict)
    keeps_own_maps: bool = False
    road: str = "matches"
    stacks: CanonicalStacks | None = None
    sparse: SparseOptions = field(default_factory=SparseOptions)
    refine: bool = False
    precision: Precision = "float32"
    job: Job | None = None
    given: Given = field(default_factory=Given)
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
class Solution:
    """Cameras of all components and what fixes the scale of their depths.

    Attributes:
        cameras: image -> camera in ORIGINAL pixels, in the frame of its component.
        anchors: image -> (xy (n, 2) network pixels, depth (n,)) of known points.
        shared: (i, j), i < j -> (n, 3) points that both see, in their component's frame.
        components: images of each component, largest first; lone images too.
        road: "matches", "pointmaps", "sparse" or "single".
        tracks: sparse points with their observations, if the road makes some.
        metric: whether every component has its unit from given metres.
        reliefs: image -> dense depth that came with the cameras, at network size.
    """

    cameras: dict[int, Camera]
    anchors: dict[int, tuple[np.ndarray, np.ndarray]]
    shared: dict[tuple[int, int], np.ndarray]
    components: list[list[int]]
    road: str
    tracks: Tracks | None = None
    metric: bool = False
    reliefs: dict[int, DepthMap] = field(default_factory=dict)


def solve_cameras(
    work: Work, may_switch: bool, options: SfmOptions | None, show: Progress
) -> Solution:
    """Place the photos by the chosen road.

    Args:
        work: what encoding and decoding gathered; rejected pairs and warnings are added to it.
        may_switch: whether the pointmaps may follow at once where mapping gives nothing; if not,
            the best pair of photos is tried before them.
        options: of the matches' road.
        show: progress.

    Raises:
        ConventionError: what is known follows another convention than the photos show.
    """
    guesses = _focal_guesses(work)
    if work.given.views:
        work.warnings += check_evidence(work.given, work.views, _pair_points(work), guesses)
    solution = _solve(work, may_switch, options, show)
    if work.refine and len(work.views) > 1:
        with work.timed("refine"), show.stage("refine", 1) as _:
            solution = _polished(work, solution, options)
    fixed = set(work.given.fixed_poses)
    later = fixed if len(fixed) > 1 else set()  # these may join each other by their poses
    solution = _with_lone_photos(work, solution, later)
    solution = apply_known(solution, work.given, work.views, guesses)
    return _with_lone_photos(work, solution, set())


def _pair_points(work: Work) -> list[PairPoints]:
    """Corresponding points of all pairs: matches, or what the pointmaps put in one place."""
    if work.matches:
        return [PairPoints(i, j, m.xy1, m.xy2) for (i, j), m in sorted(work.matches.items())]
    return [points_of_samples(s, work.views) for s in work.samples if s.frame != s.other]


def _solve(work: Work, may_switch: bool, options: SfmOptions | None, show: Progress) -> Solution:
    if len(work.views) == 1:
        work.warnings.append("one photo only: shape and scale are the network's guess")
        return Solution({}, {}, {}, [], "single")
    if work.stacks is not None:
        with work.timed("cameras"), show.stage("cameras", 1) as _:
            components = _align_sparsely(work, work.stacks, options or SfmOptions())
        if components:
            return _from_components(work, components)
        work.warnings.append(
            "the matches gave no cameras; the cameras are guesses from the regressed pointmaps"
        )
    elif work.graph is not None and work.road == "matches":
        with work.timed("cameras"), show.stage("cameras", 1) as _:
            found = reconstruct_from_matches(
                work.views, work.graph, _focal_guesses(work), options, work.given
            )
            refused = {pair: v.reason for pair, v in found.pairs.items() if not v.accepted}
            _reject(work, refused)
        if found.models:
            return _from_sparse(work, found)
        if len(work.views) == 2 or not may_switch:
            ratio = (options or SfmOptions()).min_inlier_ratio
            solution = _from_best_pair(work, found, ratio)
            if solution is not None:
                return solution
        if len(refused) < len(found.pairs):
            work.warnings.append(
                "the matches gave no cameras; the cameras are guesses from the regressed pointmaps"
            )
    with work.timed("cameras"), show.stage("cameras", 1) as _:
        samples = _believed_samples(work)
        if work.given.solvable:
            aligned = align_known(samples, work.views, work.given)
        else:
            aligned = align_pairs(samples, len(work.views))
    return _from_aligned(work, aligned)


def _reject(work: Work, reasons: dict[tuple[int, int], str]) -> None:
    names = [view.name for view in work.views]
    work.rejected += [RejectedPair(names[i], names[j], why) for (i, j), why in reasons.items()]


def _believed_samples(work: Work) -> list[PairSamples]:
    """Pointmaps of the pairs that nothing speaks against; the others are named as rejected."""
    numbers = {view.name: i for i, view in enumerate(work.views)}
    refused = {(numbers[r.first], numbers[r.second]) for r in work.rejected}
    left = [s for s in work.samples if _key(s) not in refused]
    unsure = pairs_without_confidence(left)
    _reject(work, dict.fromkeys(unsure, "the network is sure of nothing in their common frame"))
    left = [s for s in left if _key(s) not in unsure]
    edges = edges_from_samples(left)
    verdict = verify_edges(edges, list(numbers))
    work.rejected += verdict.rejected
    dropped = {(edge.first, edge.second) for edge in edges} - set(verdict.kept)
    return [s for s in left if _key(s) not in dropped]


def _key(sample: PairSamples) -> tuple[int, int]:
    return min(sample.frame, sample.other), max(sample.frame, sample.other)


def _focal_guesses(work: Work) -> list[float]:
    """Per photo a starting focal length in original pixels: the pointmaps' median, kept sane."""
    guesses = []
    for view, votes in zip(work.views, work.focal_votes_px, strict=True):
        long_side = max(view.ledger.original_size)
        guess = float(np.median(votes)) if votes else 1.2 * long_side
        guesses.append(float(np.clip(guess, 0.6 * long_side, 2.0 * long_side)))
    return guesses


def _with_lone_photos(work: Work, solution: Solution, later: set[int]) -> Solution:
    """Give every photo that was joined with no other a component of its own.

    Its camera is at the identity unless its pose is known, with the focal length known or guessed,
    and the unit of its depth is the network's.

    Args:
        work: the photos and their pointmaps.
        solution: what was found of the others.
        later: photos that are left out for now.
    """
    placed = {i for members in solution.components for i in members}
    alone = [i for i in range(len(work.views)) if i not in placed | later]
    cameras, anchors = dict(solution.cameras), dict(solution.anchors)
    guesses = _focal_guesses(work)
    for i in alone:
        view = work.views[i]
        if i in work.given.fixed_poses:
            cameras[i] = given_camera(i, work.given, work.views, guesses)
        else:
            height, width = view.ledger.original_size
            K = _intrinsics(view.exif_focal_px or guesses[i], height, width)
            cameras[i] = Camera(K=K, cam_from_world=np.eye(4), height=height, width=width)
        depths = [float(s.points[0, :, 2].median()) for s in work.samples if s.frame == i]
        centre = np.array([[view.size[1] / 2, view.size[0] / 2]])
        anchors[i] = centre, np.array([float(np.median(depths)) if depths else 1.0])
    components = [*solution.components, *([i] for i in alone)]
    return replace(solution, cameras=cameras, anchors=anchors, components=components)


def _intrinsics(focal: float, height: int, width: int) -> np.ndarray:
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def _from_sparse(work: Work, found: SfmResult) -> Solution:
    solution = _of_models(work, found.models)
    _warn_about_components(work, solution.components, "too few consistent matches")
    return solution


def _of_models(work: Work, found: Sequence[SparseModel]) -> Solution:
    """Bring every model into its own frame: first camera at the identity, median depth one."""
    cameras: dict[int, Camera] = {}
    anchors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    shared: dict[tuple[int, int], np.ndarray] = {}
    models = [_to_first_camera(m) for m in found]
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
    return Solution(cameras, anchors, shared, components, "matches", _tracks(models))


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


def _warn_about_components(work: Work, components: list[list[int]], reason: str) -> None:
    left = set(range(len(work.views))) - {i for c in components for i in c}
    if left:
        names = ", ".join(work.views[i].name for i in sorted(left))
        work.warnings.append(
            f"joined with no other photo, {reason}: {names}; each is a group of its own whose "
            "shape and scale are the network's guess"
        )
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


def _from_best_pair(work: Work, found: SfmResult, min_inlier_ratio: float) -> Solution | None:
    """Two cameras from the pair with the most consistent matches, when mapping gave up."""
    if not found.pairs:
        return None
    i, j = max(found.pairs, key=lambda pair: (found.pairs[pair].num_inliers, pair))
    matches = work.matches[(i, j)]
    guesses = _focal_guesses(work)
    K = {}
    for k in (i, j):
        view = work.views[k]
        guess = _intrinsics(view.exif_focal_px or guesses[k], *view.ledger.original_size)
        K[k] = work.given.intrinsics.get(k, guess)
    scale = max(work.views[k].pixel_scale for k in (i, j))
    sizes = {k: work.views[k].ledger.original_size for k in (i, j)}
    estimate = relative_pose(matches.xy1, matches.xy2, K[i], K[j], sizes[i], sizes[j], 1.5 * scale)
    needed = max(16, min_inlier_ratio * len(matches))  # photos of different places fall below
    if not estimate or estimate.num_inliers < needed:
        return None
    cameras = {
        i: Camera(K=K[i], cam_from_world=np.eye(4), height=sizes[i][0], width=sizes[i][1]),
        j: Camera(
            K=K[j], cam_from_world=estimate.best_guess, height=sizes[j][0], width=sizes[j][1]
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
    return Solution(cameras, anchors, {(i, j): points[good]}, [[i, j]], "matches")


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


def _from_aligned(work: Work, aligned: Sequence[AlignedCameras]) -> Solution:
    cameras: dict[int, Camera] = {}
    anchors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    shared: dict[tuple[int, int], np.ndarray] = {}
    for component in aligned:
        for n, index in enumerate(component.images):
            cameras[index], anchors[index] = _aligned_view(work.views[index], component, n)
        network = {i: network_camera(work.views[i], cameras[i]) for i in component.images}
        world = {i: network[i].unproject(*anchors[i]) for i in component.images}
        for i, j in itertools.combinations(component.images, 2):
            xy, z = network[j].project(world[i])
            height, width = work.views[j].size
            inside = (z > 0) & (xy >= 0).all(-1) & (xy[:, 0] < width) & (xy[:, 1] < height)
            shared[(i, j)] = world[i][inside]
    components = [list(c.images) for c in aligned]
    _warn_about_components(work, components, "no pair connects them")
    return Solution(cameras, anchors, shared, components, "pointmaps")


def _align_sparsely(
    work: Work, stacks: CanonicalStacks, options: SfmOptions
) -> list[SparseComponent]:
    """Sparse alignment of the pairs whose matches fit one camera motion."""
    guesses = _focal_guesses(work)
    focals = [v.exif_focal_px or guess for v, guess in zip(work.views, guesses, strict=True)]
    accepted, refused = [], {}
    for pair, matches in sorted(work.matches.items()):
        limit = options.max_error_network_px
        verified = verify_pair(work.views, pair, matches, focals, limit, options.seed)
        count = int(verified.inliers.sum())
        if count >= max(options.min_inliers, options.min_inlier_ratio * len(matches)):
            accepted.append(verified)
        else:
            refused[pair] = f"only {count} of {len(matches)} matches fit one camera motion"
    known = {
        i: float(np.sqrt(entry.fixed_K[0, 0] * entry.fixed_K[1, 1]))
        for i, entry in work.given.views.items()
        if entry.fixed_K is not None
    }
    lens = camera_groups(work.views, options.share_focal, work.given)

    def align(pairs: list[VerifiedPair]) -> list[SparseComponent]:
        return align_components(work.views, stacks, pairs, focals, lens, known, work.sparse)

    components = align(accepted)
    if work.graph is not None and _sparse_agreement(work, components, accepted, options) < (
        options.min_agreement
    ):
        verdicts = judge_pairs(work.views, work.graph, guesses, options, work.given)
        wrong = {pair: v.reason for pair, v in verdicts.items() if v.reason and pair not in refused}
        accepted = [p for p in accepted if (p.matches.first, p.matches.second) not in wrong]
        refused |= wrong
        components = align(accepted)
    _reject(work, refused)
    return components


def _sparse_agreement(
    work: Work,
    components: Sequence[SparseComponent],
    pairs: Sequence[VerifiedPair],
    options: SfmOptions,
) -> float:
    """Share of the believed matches that the aligned cameras explain."""
    found = _cameras_of(work, components)
    models = [{i: found[i] for i in component.images} for component in components]
    matches = {}
    for pair in pairs:
        key = pair.matches.first, pair.matches.second
        matches[key] = work.matches[key].xy1[pair.inliers], work.matches[key].xy2[pair.inliers]
    max_error = options.max_error_network_px * max(v.pixel_scale for v in work.views)
    return agreeing_share(matches, models, max_error)


def _cameras_of(work: Work, components: Sequence[SparseComponent]) -> dict[int, Camera]:
    cameras: dict[int, Camera] = {}
    for component in components:
        found = component.alignment
        for n, index in enumerate(component.images):
            ledger = work.views[index].ledger
            K = _intrinsics(float(found.focal_px[n]), 0, 0)
            K[:2, 2] = found.principal_point_px[n]
            height, width = ledger.original_size
            cameras[index] = Camera(ledger.K_to_original(K), found.cam_from_world[n], height, width)
    return cameras


def _from_components(work: Work, components: Sequence[SparseComponent]) -> Solution:
    cameras = _cameras_of(work, components)
    anchors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    shared: dict[tuple[int, int], np.ndarray] = {}
    reliefs: dict[int, DepthMap] = {}
    for component in components:
        found = component.alignment
        for n, index in enumerate(component.images):
            view = component.views[n]
            anchors[index] = view.core_xy, found.core_depth[n].reshape(-1)
            depth = found.dense_depth(n, view).astype(np.float32)
            reliefs[index] = DepthMap(depth, 1.0 + view.confidence)
        shared |= shared_points(component)
    images = [c.images for c in components]
    _warn_about_components(work, images, "too few consistent matches")
    return Solution(cameras, anchors, shared, images, "sparse", reliefs=reliefs)


def _polished(work: Work, solution: Solution, options: SfmOptions | None) -> Solution:
    """The same components with cameras adjusted to tracks, those apart that lost a photo."""
    if work.graph is None:
        return solution
    models = polish_cameras(
        *(work.views, work.graph, solution.cameras, solution.components, options, work.given)
    )
    whole = [m for m in models if sorted(m.cameras) in solution.components]
    done = [sorted(m.cameras) for m in whole]
    for members in solution.components:
        if len(members) > 1 and members not in done:
            names = ", ".join(work.views[i].name for i in members)
            work.warnings.append(f"not refined, too few points that all see: {names}")
    if not whole:
        return solution
    found = _of_models(work, whole)
    return replace(
        solution,
        cameras=solution.cameras | found.cameras,
        anchors=solution.anchors | found.anchors,
        shared=solution.shared | found.shared,
        tracks=found.tracks,
        reliefs=solution.reliefs | _rescaled(solution.reliefs, found.anchors),
    )


def _rescaled(
    reliefs: dict[int, DepthMap], anchors: dict[int, tuple[np.ndarray, np.ndarray]]
) -> dict[int, DepthMap]:
    """Dense depths in the unit of known ones."""
    found = {}
    for i in sorted(set(reliefs) & set(anchors)):
        xy, depth = anchors[i]
        height, width = reliefs[i].depth.shape
        column = np.clip(np.floor(xy[:, 0]).astype(int), 0, width - 1)
        row = np.clip(np.floor(xy[:, 1]).astype(int), 0, height - 1)
        unit = np.float32(np.median(depth / reliefs[i].depth[row, column]))
        found[i] = DepthMap(reliefs[i].depth * unit, reliefs[i].confidence)
    return found


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


def network_camera(view: View, camera: Camera) -> Camera:
    height, width = view.size
    return Camera(
        K=np.asarray(view.ledger.K_to_network(camera.K)),
        cam_from_world=camera.cam_from_world,
        height=height,
        width=width,
    )
