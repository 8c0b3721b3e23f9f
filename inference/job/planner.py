"""What a reconstruction will take, before anything runs: pairs, memory, time.

Sizes are read from the headers of the photos, the network is counted on tensors without content
(`costs`), and one short run on the device says how fast it is. The rest are measured constants.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...models.checkpoint import open_checkpoint
from ...models.config import PRESETS, ModelConfig
from ...models.hub_cache import PUBLISHED_IDS
from ...models.loading import load_model, resolve_device
from ...models.two_view import TwoViewModel
from .._sources import list_sources
from ..defaults import config_defaults
from ..graph.kinds import make_pairs, reads_similarity
from ..images import network_size
from ..matching.descriptors import MatchingOptions
from .costs import NetworkCosts, network_costs

MANY_VIEWS = 50
"""From here on the features of the photos wait in half precision."""

OWN_MAPS_BYTES = 2**29
"""Of depth and confidence kept per pair; beyond, pairs are decoded again."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{unit}i": 1024 ** (k + 1) for k, unit in enumerate("kmgt")}

_PROCESS_BYTES = 330 * 10**6  # interpreter, torch and the other libraries
_RUNNING_BYTES = 80 * 10**6  # code and buffers that come with the first work
_SCRATCH = 1.45  # what kernels and the allocator take beyond the tensors of a decoding
_PAIR_BYTES = 330_000  # samples on the grid (2 x 2 x 2025 x 4 x 8 bytes) and matches
_STACK_BYTES = 52  # per pixel: sums over the pairs of its photo, and what comes of them
_TRACK_BYTES = 60_000  # per pair, while cameras are made from matches
_HOST_OPERATIONS_PER_S = 40e9  # of one processor core, float32, where nothing was measured
_GPU_OPERATIONS_PER_S = {"cuda": 15e12, "mps": 2e12}  # the same, modest cards
_CALIBRATION_S = 1.5


@dataclass(frozen=True)
class Settings:
    """How the work is arranged; everything but speed, memory and rounding stays the same.

    Attributes:
        encode_batch: images encoded at once.
        pair_batch: pairs decoded at once.
        half_features: features wait in half precision.
        resident: encoded images in memory at a time, the others wait on the disk; None: all.
        keeps_own_maps: depth per pair is kept, not decoded again.
    """

    encode_batch: int = 4
    pair_batch: int = 2
    half_features: bool = False
    resident: int | None = None
    keeps_own_maps: bool = True


@dataclass(frozen=True)
class Plan:
    """What a reconstruction will take.

    Attributes:
        photos: number of usable photos.
        unreadable: files whose header cannot be read.
        size: long side of the network's input, pixels.
        graph: name of the pair graph.
        pairs: number of pairs.
        device: where the network runs.
        settings: how the work is arranged.
        memory: bytes at the peak of each stage, of the process; for a GPU see `gpu_bytes`.
        kept: bytes by what keeps them: weights, photos, features, pair data, dense depth.
        gpu_bytes: at the peak on the GPU; None without one.
        disk_bytes: of a job folder, if there is one.
        time_s: seconds per stage, a rough estimate.
        measured: whether the speed of the device was measured.
    """

    photos: int
    unreadable: list[str]
    size: int
    graph: str
    pairs: int
    device: str
    settings: Settings
    memory: dict[str, int]
    kept: dict[str, int]
    gpu_bytes: int | None
    disk_bytes: int
    time_s: dict[str, float] = field(default_factory=dict)
    measured: bool = False

    @property
    def peak_bytes(self) -> int:
        """Of the process, at the stage that takes most."""
        return max(self.memory.values())

    @property
    def limited_bytes(self) -> int:
        """What a bound on memory is about: the GPU's, or the process's."""
        return self.peak_bytes if self.gpu_bytes is None else self.gpu_bytes

    def summary(self) -> str:
        """A few lines for the terminal."""
        seconds = sum(self.time_s.values())
        lines = [
            f"{self.photos} photos -> {self.pairs} pairs ({self.graph}) at {self.size} px "
            f"on {self.device}",
            f"memory: {show_bytes(self.peak_bytes)} at the peak ("
            + ", ".join(f"{k} {show_bytes(v)}" for k, v in self.memory.items())
            + ")",
            "of these: " + ", ".join(f"{k} {show_bytes(v)}" for k, v in self.kept.items()),
        ]
        if self.gpu_bytes is not None:
            lines.append(f"on the GPU: {show_bytes(self.gpu_bytes)} at the peak")
        lines.append(f"a job folder would take {show_bytes(self.disk_bytes)}")
        how = "speed measured" if self.measured else "speed from a table"
        stages = ", ".join(f"{k} {show_seconds(v)}" for k, v in self.time_s.items())
        lines.append(f"time: about {show_seconds(seconds)}, {how} ({stages})")
        s = self.settings
        lines.append(
            f"batches: {s.encode_batch} images, {s.pair_batch} pairs; features in "
            f"{'half' if s.half_features else 'single'} precision, "
            f"{'all in memory' if s.resident is None else f'{s.resident} in memory'}"
        )
        if self.unreadable:
            shown = ", ".join(self.unreadable[:5])
            lines.append(f"not readable ({len(self.unreadable)}): {shown}")
        return "\n".join(lines)


def parse_bytes(text: str | int) -> int:
    """Read "8GB", "512 MiB" or a plain number of bytes.

    Raises:
        ValueError: if it is none of these, or not positive.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", str(text).strip().lower())
    count = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if count < 1:
        raise ValueError(f"a size in memory looks like 8GB, 500MB or 2GiB, got {text!r}")
    return count


def show_bytes(count: float) -> str:
    """1234567 as "1.2 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.{1 if count < 100 * size else 0}f} {unit}"
    return f"{count / 1e3:.0f} kB"


def show_seconds(seconds: float) -> str:
    """75 as "1.2 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def plan(
    photos: Any,
    model: TwoViewModel | str | Path = "weav3r-small",
    *,
    device: str = "auto",
    size: int | None = None,
    graph: str = "auto",
    cameras: str = "auto",
    depth: str = "auto",
    max_memory: str | int | None = None,
    calibrate: bool = True,
) -> Plan:
    """Say what `reconstruct` with the same arguments will take, and how to fit it into memory.

    Args:
        photos, model, device, size, graph, cameras, depth: as for `reconstruct`. Photos are not
            decoded; a checkpoint that is not on this machine is not downloaded.
        max_memory: bound, as in "8GB": of the whole process on a processor, of the GPU on a GPU.
            Batches shrink first, then features wait in half precision, then on the disk.
        calibrate: measure the speed of the device (up to three seconds); else a table is used.

    Returns:
        The plan.

    Raises:
        FileNotFoundError: a photo or checkpoint is not there.
        ValueError: no photo is usable, an option is unknown, or nothing fits into `max_memory`;
            the message says what would.
    """
    limit = None if max_memory is None else parse_bytes(max_memory)
    config, network = _network(model)
    place = network.device if network is not None else resolve_device(device)
    defaults = config_defaults(config)
    size = defaults.size if size is None else size
    originals, unreadable = _read_headers(photos)
    road = defaults.cameras if cameras == "auto" else cameras
    work = _Work(
        config=config,
        device=place.type,
        size=size,
        graph=graph,
        originals=originals,
        unreadable=unreadable,
        matched=road in ("matches", "sparse"),
        stacked=road == "sparse",
        swept=(defaults.depth if depth == "auto" else depth) == "sweep",
    )
    made = _fit(work, limit)
    if calibrate and network is None:
        network = _loaded(model, place)
    rate = None if network is None or not calibrate else _operations_per_s(network, work)
    return replace(made, time_s=work.seconds(made, rate), measured=rate is not None)


def _network(model: TwoViewModel | str | Path) -> tuple[ModelConfig, TwoViewModel | None]:
    if isinstance(model, TwoViewModel):
        return model.config, model
    try:
        return open_checkpoint(model, offline=True).config, None
    except FileNotFoundError:
        names = {hub_id: name for name, hub_id in PUBLISHED_IDS.items()}
        name = names.get(str(model), str(model))
        if name not in PRESETS:
            raise
        return PRESETS[name], None


def _loaded(model: TwoViewModel | str | Path, device: torch.device) -> TwoViewModel | None:
    try:
        assert not isinstance(model, TwoViewModel)
        return load_model(model, device=device, offline=True)
    except FileNotFoundError:
        return None


def _read_headers(photos: Any) -> tuple[list[tuple[int, int]], list[str]]:
    """Upright (height, width) of each photo, and the names of those without a readable header."""
    sizes, unreadable = [], []
    for source in list_sources(photos):
        if isinstance(source, Path):
            try:
                with Image.open(source) as image:
                    width, height = image.size
                    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                unreadable.append(source.name)
                continue
            sizes.append((width, height) if turned else (height, width))
        elif isinstance(source, Image.Image):
            sizes.append((source.height, source.width))
        else:
            sizes.append((source.shape[0], source.shape[1]))
    if not sizes:
        raise ValueError(f"none of the {len(unreadable)} photos can be read")
    return sizes, unreadable


@dataclass(frozen=True)
class _Work:
    """What is to be done, and what each part of it takes."""

    config: ModelConfig
    device: str
    size: int
    graph: str
    originals: Sequence[tuple[int, int]]
    unreadable: list[str]
    matched: bool
    stacked: bool
    swept: bool

    def plan(self, settings: Settings) -> Plan:
        sizes = self.network_sizes()
        pairs = _count_pairs(len(sizes), self.graph)
        costs = self.costs
        kept = self._kept(settings, costs, sizes, pairs)
        disk = len(sizes) * costs.features_bytes + pairs * (_PAIR_BYTES + kept["dense depth"] // 8)
        memory, gpu = self._stages(settings, costs, kept, len(sizes), pairs)
        return Plan(
            photos=len(sizes),
            unreadable=self.unreadable,
            size=self.size,
            graph=self.graph,
            pairs=pairs,
            device=self.device,
            settings=settings,
            memory=memory,
            kept=kept,
            gpu_bytes=gpu,
            disk_bytes=disk,
        )

    @cached_property
    def largest(self) -> tuple[int, int]:
        """(height, width) of the largest photo at network size."""
        return max(self.network_sizes(), key=lambda size: size[0] * size[1])

    @cached_property
    def costs(self) -> NetworkCosts:
        """Of the network at that size."""
        return network_costs(self.config, self.largest, self.device)

    def network_sizes(self) -> list[tuple[int, int]]:
        patch = self.config.patch_size
        return [network_size(*original, self.size, patch) for original in self.originals]

    def _kept(
        self, settings: Settings, costs: NetworkCosts, sizes: list[tuple[int, int]], pairs: int
    ) -> dict[str, int]:
        pixels = sum(height * width for height, width in sizes)
        encoded = costs.features_half_bytes if settings.half_features else costs.features_bytes
        waiting = len(sizes) if settings.resident is None else min(len(sizes), settings.resident)
        own_maps = 0
        if not self.swept and settings.keeps_own_maps:
            own_maps = 2 * pairs * 8 * max(height * width for height, width in sizes)
        return {
            "weights": costs.weights_bytes,
            "photos": 12 * pixels,
            "features": waiting * encoded,
            "pair data": pairs * _PAIR_BYTES
            + (own_maps if own_maps <= OWN_MAPS_BYTES else 0)
            + (_STACK_BYTES * pixels if self.stacked else 0),
            "dense depth": 19 * pixels,  # depth and confidence, twice while they are put together
        }

    def _stages(
        self,
        settings: Settings,
        costs: NetworkCosts,
        kept: dict[str, int],
        photos: int,
        pairs: int,
    ) -> tuple[dict[str, int], int | None]:
        """Bytes of the process at the peak of each stage, and of the GPU."""
        on_host = self.device == "cpu"
        pixels = self.largest[0] * self.largest[1]
        batch = min(settings.pair_batch, pairs)
        encode = costs.encode_peak(min(settings.encode_batch, photos))
        match = self._match_bytes(pixels, photos) if self.matched else 0
        predictions = 2 * batch * costs.prediction_bytes
        decode = max(costs.decode_peak(batch), predictions + match)
        directed = costs.decoding_bytes
        dense = self._dense_bytes(pixels, min(3, photos - 1))
        # weights that are loaded already are in the process, too
        base = max(_PROCESS_BYTES, _process_bytes() - kept["weights"])
        base += kept["weights"] if on_host else 0
        work = base + _RUNNING_BYTES + kept["photos"]
        paired = work + (kept["features"] if on_host else 0) + kept["pair data"]
        memory = {
            "photos": base + kept["photos"] + self._loading_bytes(),
            "encode": paired - kept["pair data"] + (encode if on_host else 0),
            "pairs": paired + (int(_SCRATCH * decode) if on_host else predictions),
            "cameras": paired + (pairs * _TRACK_BYTES if self.matched else 0),
            "depth": paired + kept["dense depth"] + dense + (directed if on_host else 0),
        }
        gpu = None
        if not on_host:
            gpu = kept["weights"] + kept["features"] + max(encode, decode)
        return memory, gpu

    def _match_bytes(self, pixels: int, photos: int) -> int:
        """Joined descriptors, their averages, and one block of similarities with its softmax."""
        options = _matching(photos)
        joined = 4 * 2 * self.config.descriptor_dim * pixels
        searched = pixels // options.search_stride**2
        block = 4 * min(options.block, pixels // options.step**2) * searched
        return 4 * joined + block + block // 4

    def _dense_bytes(self, pixels: int, neighbours: int) -> int:
        if not self.swept:
            return 16 * pixels * (neighbours + 1)
        descriptors = 4 * self.config.descriptor_dim * pixels
        volume = 128 * pixels  # 128 planes at every fourth pixel, 4 bytes
        sampled = 12 * descriptors + neighbours * volume
        return 2 * neighbours * descriptors + max(sampled, 5 * neighbours * volume)

    def _loading_bytes(self) -> int:
        """Photos that are decoded at once, by as many threads as there are processors."""
        decoded = []
        for height, width in self.originals:
            share = max(
                (f for f in (1, 2, 4, 8) if max(height, width) / f >= 3 * self.size), default=1
            )
            decoded.append(2 * 3 * height * width // share**2)
        return sum(sorted(decoded)[-min(8, os.cpu_count() or 1) :])

    def seconds(self, made: Plan, rate: float | None) -> dict[str, float]:
        """Time per stage, from operations and measured constants."""
        cores = torch.get_num_threads()
        if rate is None:
            rate = _GPU_OPERATIONS_PER_S.get(self.device, cores * _HOST_OPERATIONS_PER_S)
        costs = self.costs
        height, width = self.largest
        pixels, photos, pairs = height * width, made.photos, made.pairs
        options = _matching(photos)
        searches = 4 * (pixels // options.step**2) * (pixels // options.search_stride**2)
        match = searches * 2 * 2 * self.config.descriptor_dim if self.matched else 0
        neighbours = min(3, photos - 1)
        dense = neighbours * costs.decode_operations / 2 / rate
        if self.swept:
            dense += 32 * pixels * (neighbours * self.config.descriptor_dim * 5e-9 + 1.2e-7)
        megapixels = sum(h * w for h, w in self.originals) / 1e6
        return {
            "photos": 0.05 * megapixels / min(cores, photos) + 0.01 * photos,
            "encode": photos * costs.encode_operations / rate,
            "pairs": pairs * (costs.decode_operations + 2 * match) / rate,
            "cameras": 0.4 * photos + 0.05 * pairs if self.matched else 0.2 * photos + 0.05 * pairs,
            "depth": photos * dense,
        }


def _count_pairs(photos: int, graph: str) -> int:
    """Number of pairs; of a graph that follows the photos' contents, with contents at random."""
    if photos == 1:
        return 1
    if not reads_similarity(photos, graph):
        return len(make_pairs(photos, graph))
    alike = torch.rand(photos, photos, generator=torch.Generator().manual_seed(0))
    return len(make_pairs(photos, graph, similarity=((alike + alike.T) / 2).numpy()))


def _matching(photos: int) -> MatchingOptions:
    return MatchingOptions() if photos <= 4 else MatchingOptions(step=6, search_stride=3)


def _fit(work: _Work, limit: int | None) -> Plan:
    """The fastest settings that fit, tried in the order of what they cost."""
    default = Settings(half_features=len(work.originals) >= MANY_VIEWS)
    single = replace(default, encode_batch=1, pair_batch=1)
    if work.device == "cpu":  # where `reconstruct` makes no batches
        default = single
    half = replace(single, half_features=True)
    spilled = replace(half, resident=4, keeps_own_maps=False)
    made = work.plan(default)
    for settings in (single, half, spilled):
        if limit is None or made.limited_bytes <= limit:
            return made
        made = work.plan(settings)
    if limit is None or made.limited_bytes <= limit:
        return made
    patch = work.config.patch_size
    for size in (
        s for s in (448, 384, 320, 256, 224, 160, 128) if s < work.size and s % patch == 0
    ):
        smaller = replace(work, size=size).plan(spilled)
        if smaller.limited_bytes <= limit:
            advice = f"size={size} would fit ({show_bytes(smaller.limited_bytes)})"
            break
    else:
        advice = "no smaller size would fit either"
    raise ValueError(
        f"{made.photos} photos at {work.size} px need at least {show_bytes(made.limited_bytes)}, "
        f"even one at a time with features on the disk; max_memory is {show_bytes(limit)}; {advice}"
    )


def _process_bytes() -> int:
    """What this process holds before the work; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    resident = re.search(r"VmRSS:\s*(\d+) kB", status)
    return 1024 * int(resident[1]) if resident else 0


def _operations_per_s(network: TwoViewModel, work: _Work) -> float:
    """Time one pair, at sizes that grow as long as the next one surely fits the time."""
    patch = work.config.patch_size
    side, rate, spent = 4 * patch, 0.0, 0.0
    while side <= max(work.size, 4 * patch) and spent < _CALIBRATION_S / 6:
        images = torch.zeros(2, 3, side * 3 // 4 // patch * patch, side, device=network.device)
        height, width = images.shape[-2:]
        costs = network_costs(work.config, (height, width), work.device)
        start = time.perf_counter()
        with torch.inference_mode():
            one, other = network.encode(images).halves()
            network.decode_symmetric(one, other)
        if network.device.type == "cuda":
            torch.cuda.synchronize(network.device)
        spent = time.perf_counter() - start
        rate = (2 * costs.encode_operations + costs.decode_operations) / spent
        side *= 2
    return rate
