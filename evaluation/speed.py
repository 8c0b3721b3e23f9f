"""How fast a network is and how much memory it takes, by stage and for whole graphs.

The stages are told apart by hooks on the heads and on the first decoder blocks, so that nothing
here depends on how the network arranges its work.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..geometry.ledger import Ledger
from ..inference.defaults import inference_size
from ..inference.graph.kinds import make_pairs
from ..inference.images import View, network_size
from ..inference.predict import encode_views, predict_pairs
from ..models import (
    PRESETS,
    ModelConfig,
    TwoViewModel,
    load_model,
    model_info,
    resolve_device,
)
from .hardware import SpeedDtype, cpu_name, device_name, load_average, memory_meter, peak_tflops
from .provenance import describe_environment
from .speed_report import GraphSpeed, SpeedReport, StageSpeed

STAGES = ("encoder", "decoder", "heads")
_UNITS = {"encoder": "image", "decoder": "pair", "heads": "pair", "total": "pair"}
_END = "end"

Mark = Callable[[str], None]


@dataclass(frozen=True)
class SpeedSettings:
    """What is measured, and how.

    Attributes:
        size: (height, width) in pixels; one number is the long side of a 4:3 landscape photo;
            None takes what inference takes by default.
        device: "auto", "cpu", "cuda", ...
        dtype: of the matrix products; other than "float32" through torch's autocast.
        batch: pairs decoded at once, both directions each.
        repeat: timed runs after one warm-up; medians count.
        threads: of torch on the CPU; None leaves them as they are.
        compile: run the transformer blocks through `torch.compile`.
        graph: also run a whole graph: a name that `make_pairs` knows, or "linear", each image with
            the next three; None for no graph.
        images: number of images in that graph.
    """

    size: int | tuple[int, int] | None = None
    device: str = "auto"
    dtype: SpeedDtype = "float32"
    batch: int = 1
    repeat: int = 3
    threads: int | None = None
    compile: bool = False
    graph: str | None = None
    images: int = 8

    def __post_init__(self) -> None:
        if self.dtype not in get_args(SpeedDtype):
            choices = ", ".join(get_args(SpeedDtype))
            raise ValueError(f"dtype must be one of {choices}, got {self.dtype!r}")
        for name in ("batch", "repeat", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.graph is not None and self.images < 2:
            raise ValueError(f"a graph needs at least two images, got {self.images}")


def measure_speed(
    source: str | Path | TwoViewModel = "weav3r-small",
    settings: SpeedSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> SpeedReport:
    """Measure time, memory and operations of a network on random images.

    Args:
        source: what `load_model` takes; a preset without bundled weights gets random ones, which
            take the same time; or a network.
        settings: see `SpeedSettings`.
        progress: called with the name of each step.

    Returns:
        Medians of the runs; memory and operations of one run.

    Raises:
        ValueError: if the size does not fit the patches, the graph is unknown, or the device is
            not there.
    """
    settings = settings or SpeedSettings()
    say = progress or (lambda step: None)
    device = resolve_device(settings.device)
    pairs = None if settings.graph is None else _pairs(settings.images, settings.graph)
    with _threads(settings.threads):
        say("loading")
        model, weights = _network(source, device)
        size = _image_size(settings.size, model)
        load = load_average()
        if settings.compile:
            model.compile_blocks()
        with torch.inference_mode(), _precision(settings.dtype, device):
            stages = _measure_pair(model, size, settings, say)
        graph = None
        if pairs is not None:
            say(f"graph of {settings.images} images, {len(pairs)} pairs")
            with _precision(settings.dtype, device):
                graph = _measure_graph(model, size, pairs, settings)
        return SpeedReport(
            model=model.config.name,
            weights=weights,
            image_size=size,
            device=str(device),
            device_name=device_name(device),
            dtype=settings.dtype,
            batch=settings.batch,
            repeat=settings.repeat,
            compiled=settings.compile,
            parameters=sum(p.numel() for p in model.parameters()),
            weights_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
            stages=stages,
            graph=graph,
            memory_source=memory_meter(device).source,
            environment={
                **describe_environment(),
                "cpu": cpu_name(),
                "cuda": torch.version.cuda,
                "tf32": _tf32(),
                "load_average": load,
            },
        )


def parse_size(text: str) -> int | tuple[int, int]:
    """Read "512" (long side) or "512x384" (width x height) as `SpeedSettings.size`.

    Raises:
        ValueError: if it is neither.
    """
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"a size is WIDTHxHEIGHT or the long side, like 512x384, got {text!r}")
    sides = [int(number) for number in numbers]
    return sides[0] if len(sides) == 1 else (sides[1], sides[0])


def count_operations(config: ModelConfig, size: tuple[int, int]) -> dict[str, int]:
    """Count the floating point operations of one pair, both directions, without computing it.

    Counted are matrix products, convolutions and attention; a multiplication with its addition is
    two operations.

    Args:
        config: of the network.
        size: (height, width) of both images.

    Returns:
        Operations of "encoder" (per image), "decoder" and "heads" (per pair).
    """
    with torch.device("meta"):
        model = TwoViewModel(config).eval()
        images = torch.empty(1, 3, *size)
    counted: dict[str, int] = defaultdict(int)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        stage, before = STAGES[0], 0

        def mark(following: str) -> None:
            nonlocal stage, before
            now = counter.get_total_flops()
            counted[stage] += now - before
            stage, before = following, now

        _run_pair(model, images, images, mark)
    return {name: counted[name] // (2 if name == "encoder" else 1) for name in STAGES}


def _network(source: str | Path | TwoViewModel, device: torch.device) -> tuple[TwoViewModel, str]:
    if isinstance(source, TwoViewModel):
        return source.to(device).eval(), "given"
    if isinstance(source, str) and source in PRESETS and not model_info(source).bundled_bytes:
        return _random_network(PRESETS[source], device), "random"
    return load_model(source, device=device), str(source)


def _random_network(config: ModelConfig, device: torch.device) -> TwoViewModel:
    """Build a network in place, without the second copy that a full initialisation needs."""
    with torch.device("meta"):
        model = TwoViewModel(config)
    model.to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.02, generator=generator)
                else:
                    parameter.fill_(float(isinstance(module, nn.LayerNorm) and name == "weight"))
    return model


def _image_size(size: int | tuple[int, int] | None, model: TwoViewModel) -> tuple[int, int]:
    patch = model.config.patch_size
    if size is None:
        size = inference_size(model)
    if isinstance(size, int):
        return network_size(3000, 4000, size, patch)
    if any(side < patch or side % patch for side in size):
        raise ValueError(
            f"height and width must be multiples of patch_size={patch}, got {size[0]}x{size[1]}"
        )
    return size


def _pairs(images: int, graph: str) -> list[tuple[int, int]]:
    return make_pairs(images, "swin-3-noncyclic" if graph == "linear" else graph)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _precision(dtype: SpeedDtype, device: torch.device) -> AbstractContextManager[object]:
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, dtype))


def _tf32() -> bool:
    return bool(torch.backends.cuda.matmul.allow_tf32)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def _stage_hooks(model: TwoViewModel, mark: Mark) -> Iterator[None]:
    watched: list[tuple[str, nn.Module]] = [
        ("heads", model.downstream_head1),
        ("heads", model.downstream_head2),
        ("decoder", model.dec_blocks[0]),
        ("decoder", model.dec_blocks2[0]),
    ]
    handles = []
    for name, module in watched:
        hook: Any = torch.compiler.disable(lambda *_, name=name: mark(name))
        handles.append(module.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run_pair(model: TwoViewModel, images1: Tensor, images2: Tensor, mark: Mark) -> None:
    """Encode both images, decode both directions, and mark where each stage begins."""
    with _stage_hooks(model, mark):
        mark("encoder")
        first, second = model.encode(torch.cat((images1, images2))).halves()
        mark("decoder")
        model.decode_symmetric(first, second)
        mark(_END)


def _measure_pair(
    model: TwoViewModel, size: tuple[int, int], settings: SpeedSettings, say: Callable[[str], None]
) -> tuple[StageSpeed, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, settings.batch, 3, *size)
    images1, images2 = (torch.rand(shape, generator=generator) * 2 - 1).to(model.device)
    say("warm-up, memory")
    if settings.compile:  # compilation takes memory that running does not
        _run_pair(model, images1, images2, lambda stage: None)
    peaks = _peaks(model, images1, images2)
    runs = []
    for number in range(settings.repeat):
        say(f"run {number + 1} of {settings.repeat}")
        runs.append(_timed_run(model, images1, images2))
    operations = count_operations(model.config, size)
    operations["total"] = 2 * operations["encoder"] + operations["decoder"] + operations["heads"]
    peak = None
    if model.device.type == "cuda":
        peak = peak_tflops(device_name(model.device), settings.dtype, _tf32())
    stages = []
    for name, unit in _UNITS.items():
        per_run = settings.batch * (2 if unit == "image" else 1)
        seconds, cpu_seconds = (statistics.median(run[name][k] for run in runs) for k in (0, 1))
        tflops = operations[name] * per_run / seconds / 1e12
        stages.append(
            StageSpeed(
                name=name,
                per=unit,
                milliseconds=1000 * seconds / per_run,
                cpu_seconds=cpu_seconds / per_run,
                peak_bytes=peaks.get(name),
                operations=operations[name],
                tflops_per_s=tflops,
                share_of_peak=None if peak is None else tflops / peak,
            )
        )
    return tuple(stages)


def _timed_run(
    model: TwoViewModel, images1: Tensor, images2: Tensor
) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of each stage and of the whole, for one batch."""
    device = model.device
    events: list[tuple[str, float | torch.cuda.Event, float]] = []

    def mark(stage: str) -> None:
        cpu = time.process_time()
        if device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            events.append((stage, event, cpu))
        else:
            _synchronise(device)
            events.append((stage, time.perf_counter(), cpu))

    _synchronise(device)
    _run_pair(model, images1, images2, mark)
    _synchronise(device)
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for (stage, start, cpu), (_, end, cpu_end) in zip(events, events[1:], strict=False):
        for name in (stage, "total"):
            spent[name][0] += _seconds_between(start, end)
            spent[name][1] += cpu_end - cpu
    return {name: (wall, cpu) for name, (wall, cpu) in spent.items()}


def _seconds_between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    assert isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    return start.elapsed_time(end) / 1000


def _peaks(model: TwoViewModel, images1: Tensor, images2: Tensor) -> dict[str, int]:
    """Peak memory of each stage, in one run of its own; only "total" where stages mix."""
    meter = memory_meter(model.device)
    peaks: dict[str, int] = {}
    stage = STAGES[0]

    def mark(following: str) -> None:
        nonlocal stage
        peak = meter.peak()
        if peak is not None:
            peaks[stage] = max(peaks.get(stage, 0), peak)
        stage = following
        meter.restart()

    meter.restart()
    _run_pair(model, images1, images2, mark)
    if not peaks:
        return {}
    total = max(peaks.values())
    return {**peaks, "total": total} if meter.per_stage else {"total": total}


def _measure_graph(
    model: TwoViewModel,
    size: tuple[int, int],
    pairs: Sequence[tuple[int, int]],
    settings: SpeedSettings,
) -> GraphSpeed:
    """Encode every image once and stream all pairs, as a reconstruction does."""
    generator = torch.Generator().manual_seed(1)
    ledger = Ledger.from_file_size(*size)
    views = [
        View(f"{i}", None, torch.rand(3, *size, generator=generator) * 2 - 1, ledger)
        for i in range(settings.images)
    ]
    meter = memory_meter(model.device)
    meter.restart()
    clocks = [(time.perf_counter(), time.process_time())]
    encoded = encode_views(model, views)
    _synchronise(model.device)
    clocks.append((time.perf_counter(), time.process_time()))
    streamed = sum(1 for _ in predict_pairs(model, encoded, pairs, batch_size=settings.batch))
    _synchronise(model.device)
    clocks.append((time.perf_counter(), time.process_time()))
    (start, cpu_start), (middle, _), (end, cpu_end) = clocks
    return GraphSpeed(
        graph=settings.graph or "",
        images=len(views),
        pairs=streamed,
        encode_seconds=middle - start,
        pairs_seconds=end - middle,
        cpu_seconds=cpu_end - cpu_start,
        pairs_per_s=streamed / (end - middle),
        peak_bytes=meter.peak(),
    )
