"""From scenes of several views to pairs with targets, one batch per step."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datasets.procedural.switches import Feature
from ..datasets.views import ViewBatch
from .config import DataConfig
from .losses import PairTargets
from .matching_loss import MatchTargets


class SceneSource(Protocol):
    """Anything that renders or reads scenes; scene i must not depend on the batching."""

    def batch(self, start_index: int, batch_size: int) -> ViewBatch: ...


SceneFactory = Callable[[int, int, int, int, tuple[float, float]], SceneSource]
"""Makes a source from (height, width, views, seed, overlap range)."""


@dataclass(frozen=True)
class PairBatch:
    """Views of one step and the pairs to decode.

    Attributes:
        images: all views, scene after scene, in [-1, 1].
        first, second: view 1 and view 2 of the P ordered pairs, as rows of `images`.
        targets: ground truth of these pairs.
        seeds: index of each scene in its stream.
        next_scene: stream position after this batch (of all processes).
    """

    images: Float[Tensor, "n 3 h w"]
    first: Int[Tensor, " p"]
    second: Int[Tensor, " p"]
    targets: PairTargets
    seeds: Int[Tensor, " s"]
    next_scene: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def num_pairs(self) -> int:
        """Number of ordered pairs."""
        return len(self.first)

    def to(self, device: torch.device | str) -> PairBatch:
        """Move every tensor."""
        return _move(self, torch.device(device))


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **{k: _move(v, device) for k, v in fields.items()})
    return value


def mirror_views(views: ViewBatch) -> ViewBatch:
    """Return the left-right mirrored world: images flipped, geometry reflected in x.

    The world x axis and each camera's x axis change sign, so poses stay rotations.
    """
    width = views.images.shape[-1]
    sign = torch.tensor([-1.0, 1.0, 1.0, 1.0], device=views.K.device)
    K = views.K.clone()
    K[..., 0, 2] = width - K[..., 0, 2]
    return dataclasses.replace(
        views,
        images=views.images.flip(-1),
        K=K,
        world_from_cam=views.world_from_cam * sign[:, None] * sign,
        depth=views.depth.flip(-1),
        valid=views.valid.flip(-1),
        pointmap_world=views.pointmap_world.flip(-2) * sign[:3],
        surface_id=views.surface_id.flip(-1),
    )


def jitter_colors(
    images: Float[Tensor, "... 3 h w"], strength: float, rng: np.random.Generator
) -> Tensor:
    """Change gain, offset and tint of each image independently; the result stays in [-1, 1].

    Args:
        strength: 0.2 means gains of about ±20 %, offsets of ±10 % and tints of ±5 %.
    """
    lead = images.shape[:-3]

    def draw(scale: float, channels: int) -> Tensor:
        values = rng.uniform(-scale, scale, (*lead, channels, 1, 1)).astype(np.float32)
        return torch.from_numpy(values).to(images.device)

    gain = 1 + draw(strength, 1)
    tint = 1 + draw(strength / 4, 3)
    offset = draw(strength, 1)
    return ((images + 1) * (gain * tint) - 1 + offset).clamp(-1, 1)


def augment(views: ViewBatch, config: DataConfig, rng: np.random.Generator) -> ViewBatch:
    """Mirror, permute channels and jitter colours, each with its probability in the recipe."""
    mirror, permute = rng.random(2) < (config.mirror, config.channel_permutation)
    if mirror:
        views = mirror_views(views)
    images = views.images
    if permute:
        images = images[..., torch.from_numpy(rng.permutation(3)).to(images.device), :, :]
    if config.color_jitter > 0:
        images = jitter_colors(images, config.color_jitter, rng)
    return dataclasses.replace(views, images=images)


def scene_overlap(views: ViewBatch) -> Float[Tensor, "b v v"]:
    """Return the share of view i's pixels seen in view j, as stored or from the exact geometry."""
    if views.overlap is not None:
        return views.overlap
    from ..datasets.procedural.correspondence import dense_correspondence

    B, V = views.images.shape[:2]
    overlap = torch.ones(B, V, V, device=views.images.device)
    for i, j in itertools.permutations(range(V), 2):
        covisible = dense_correspondence(views, i, j)[1]
        seen, valid = covisible.flatten(1).sum(1), views.valid[:, i].flatten(1).sum(1)
        overlap[:, i, j] = seen / valid.clamp_min(1)
    return overlap


def select_pairs(
    overlap: Float[Tensor, "b v v"], min_overlap: float, limit: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Choose unordered pairs (scene, i, j), i < j, that see enough of each other.

    A batch without any such pair gives its best one, so a step is never empty.

    Returns:
        At most `limit` pairs per scene on average.
    """
    worse = torch.minimum(overlap, overlap.transpose(1, 2)).cpu().numpy()  # (B, V, V)
    B, V = worse.shape[:2]
    every = [(b, i, j) for i, j in itertools.combinations(range(V), 2) for b in range(B)]
    good = [p for p in every if worse[p] >= min_overlap] or [max(every, key=lambda p: worse[p])]
    if len(good) > limit * B:
        good = [good[k] for k in rng.choice(len(good), limit * B, replace=False)]
    return good


def ordered_pairs(
    pairs: list[tuple[int, int, int]], both: bool, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Return both directions of unordered pairs, or one at random, grouped by (i, j)."""
    if both:
        ordered = [p for b, i, j in pairs for p in ((b, i, j), (b, j, i))]
    else:
        swap = rng.random(len(pairs)) < 0.5
        ordered = [(b, j, i) if s else (b, i, j) for s, (b, i, j) in zip(swap, pairs, strict=True)]
    return sorted(ordered, key=lambda p: (p[1], p[2], p[0]))


def make_pairs(
    views: ViewBatch, pairs: list[tuple[int, int, int]], correspondences: int, seed: int
) -> tuple[Tensor, Tensor, PairTargets]:
    """Build the targets of ordered pairs (scene, i, j) that are grouped by (i, j).

    Returns:
        Rows of view 1 and view 2 in `images.flatten(0, 1)`, and the targets, in the same order.
    """
    device, V = views.images.device, views.images.shape[1]
    generator = torch.Generator(device=device).manual_seed(seed)
    targets, rows = [], []
    for (i, j), group in itertools.groupby(pairs, key=lambda p: p[1:]):
        scenes = torch.tensor([p[0] for p in group], device=device)
        subset = views.select(scenes)
        targets.append(_ordered_targets(subset, i, j, correspondences, generator))
        rows.append(torch.stack([scenes * V + i, scenes * V + j]))
    first, second = torch.cat(rows, 1)
    return first, second, _concatenate(targets)


def _ordered_targets(
    views: ViewBatch, i: int, j: int, count: int, generator: torch.Generator
) -> PairTargets:
    """Targets of view i <- view j for every scene."""
    from ..datasets.procedural.correspondence import sample_correspondences

    matches = None
    if count > 0:
        drawn = sample_correspondences(views, i, j, count, generator)
        matches = MatchTargets(drawn.xy1, drawn.xy2, drawn.valid)
    return PairTargets(
        pointmap1=views.pointmap_in_view(i, i),
        pointmap2=views.pointmap_in_view(j, i),
        valid1=views.valid[:, i],
        valid2=views.valid[:, j],
        matches=matches,
        metric=views.metric,
    )


def _concatenate(parts: list[PairTargets]) -> PairTargets:
    matches = None
    found = [p.matches for p in parts if p.matches is not None]
    if found:
        matches = MatchTargets(
            torch.cat([m.xy1 for m in found]),
            torch.cat([m.xy2 for m in found]),
            torch.cat([m.valid for m in found]),
        )
    metric = [p.metric for p in parts if p.metric is not None]
    return PairTargets(
        torch.cat([p.pointmap1 for p in parts]),
        torch.cat([p.pointmap2 for p in parts]),
        torch.cat([p.valid1 for p in parts]),
        torch.cat([p.valid2 for p in parts]),
        matches,
        torch.cat(metric) if metric else None,
    )


@dataclass(frozen=True)
class BatchPlan:
    """What one step draws."""

    size: tuple[int, int]
    overlap: tuple[float, float]
    start: int  # first scene


class PairStream:
    """Endless stream of pair batches; the batch depends on the stream position only.

    Args:
        config: what to draw.
        seed: of the scenes, sizes and augmentations.
        make_scenes: makes the scenes of one size and overlap range.
        rank, world: this process and the number of processes. A step consists of
            `config.micro_batches` batches (None: one per process) that the processes share out;
            each has its own scenes, all have the same size, and none depends on who makes it.

    Raises:
        ValueError: if the processes cannot share the batches of a step evenly.
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int,
        make_scenes: SceneFactory,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config, self.seed, self.make_scenes = config, seed, make_scenes
        self.rank, self.world = rank, world
        self.micro_batches = config.micro_batches or world
        if self.micro_batches % world:
            raise ValueError(
                f"data.micro_batches={self.micro_batches} cannot be shared evenly by {world} "
                f"processes; make it a multiple of {world}"
            )
        self._sources: dict[tuple, SceneSource] = {}

    @property
    def scenes_per_step(self) -> int:
        """Scenes that all processes together use per step."""
        return self.config.scenes * self.micro_batches

    @property
    def batches_per_step(self) -> int:
        """Batches that this process gets per step."""
        return self.micro_batches // self.world

    def plan(self, next_scene: int, part: int = 0) -> BatchPlan:
        """Say what the batch number `part` of the step at a stream position holds."""
        step = next_scene // self.scenes_per_step
        rng = np.random.default_rng([self.seed, next_scene, 0])
        size = self.config.sizes[rng.integers(len(self.config.sizes))]
        stages = self.config.curriculum
        stage = next((s for s in stages if s.until_step is None or step < s.until_step), stages[-1])
        return BatchPlan(size, stage.overlap, next_scene + part * self.config.scenes)

    def batch(self, next_scene: int, part: int = 0) -> PairBatch:
        """Make the batch number `part` of the step at a stream position."""
        plan, config = self.plan(next_scene, part), self.config
        rng = np.random.default_rng([self.seed, next_scene, 1, part])
        start = plan.start if config.max_scenes is None else plan.start % config.max_scenes
        views = self._source(plan).batch(start, config.scenes)
        views = augment(views, config, rng)
        overlap = scene_overlap(views)
        pairs = select_pairs(overlap, config.min_overlap, config.pairs_per_scene, rng)
        pairs = ordered_pairs(pairs, config.both_directions, rng)
        draw = int(rng.integers(2**31))
        first, second, targets = make_pairs(views, pairs, config.correspondences, draw)
        images = views.images.flatten(0, 1)
        end = next_scene + self.scenes_per_step
        return PairBatch(images, first, second, targets, views.seeds, end)

    def _source(self, plan: BatchPlan) -> SceneSource:
        key = (*plan.size, plan.overlap)
        if key not in self._sources:
            args = (*plan.size, self.config.views, self.seed, plan.overlap)
            self._sources[key] = self.make_scenes(*args)
        return self._sources[key]

    def iterate(self, next_scene: int) -> Generator[PairBatch]:
        """Yield this process's batches from a stream position on, `batches_per_step` for a step.

        They are rendered in the background if the recipe asks for it.
        """
        positions = (
            (start, part)
            for start in itertools.count(next_scene, self.scenes_per_step)
            for part in range(self.rank, self.micro_batches, self.world)
        )
        if self.config.workers == 0:
            for position in positions:
                yield self.batch(*position)
        loader = torch.utils.data.DataLoader(
            _StreamItems(self),
            batch_size=None,
            sampler=positions,  # pyright: ignore
            num_workers=self.config.workers,
            prefetch_factor=self.config.prefetch,
            multiprocessing_context="spawn",
            worker_init_fn=_one_thread,
        )
        yield from loader


class _StreamItems(torch.utils.data.Dataset[PairBatch]):
    """The stream as a map from position to batch, for the loader's worker processes."""

    def __init__(self, stream: PairStream) -> None:
        self.stream = stream

    def __getitem__(self, position: tuple[int, int]) -> PairBatch:
        return self.stream.batch(*position)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class ProceduralFactory:
    """Makes procedural scene sources; picklable, so that worker processes can make their own."""

    textures: str | None = None
    shadows: bool = True
    kernel: Literal["auto", "torch", "numba", "triton"] = "auto"
    device: str = "cpu"
    features: tuple[Feature, ...] = ()
    panoramas: str | None = None

    @functools.cached_property
    def _panoramas(self) -> Any:
        from ..datasets.procedural.panoramas import Panoramas

        return None if self.panoramas is None else Panoramas.from_folder(self.panoramas)

    @functools.cached_property
    def _bank(self) -> Any:
        from ..datasets.textures import default_bank

        return default_bank(self.textures)

    def __call__(
        self, height: int, width: int, views: int, seed: int, overlap: tuple[float, float]
    ) -> SceneSource:
        from ..datasets.procedural.generator import ProceduralScenes

        return ProceduralScenes(
            height,
            width,
            num_views=views,
            seed=seed,
            textures=self._bank,
            overlap=overlap,
            device=self.device,
            shadows=self.shadows,
            kernel=self.kernel,
            features=self.features,
            panoramas=self._panoramas,
        )
