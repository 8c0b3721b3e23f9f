"""What a speed measurement found: plain data for JSON, and tables for the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

GB = 10**9


@dataclass(frozen=True)
class StageSpeed:
    """One stage of the network.

    Attributes:
        name: "encoder", "decoder", "heads" (with the activations), or "total" of a pair.
        per: what the numbers are for: one "image", or one unordered "pair" in both directions.
        milliseconds: wall time.
        cpu_seconds: of all threads of the process.
        peak_bytes: memory at the stage's peak for the whole batch, weights included; None when
            unknown.
        operations: floating point operations of matrix products, convolutions and attention.
        tflops_per_s: those operations over the wall time.
        share_of_peak: of the GPU's published dense throughput; None when unknown.
    """

    name: str
    per: str
    milliseconds: float
    cpu_seconds: float
    peak_bytes: int | None
    operations: int
    tflops_per_s: float
    share_of_peak: float | None


@dataclass(frozen=True)
class GraphSpeed:
    """A whole graph: every image encoded once, the pairs streamed.

    Attributes:
        graph: its name.
        images: number of images.
        pairs: number of unordered pairs.
        encode_seconds: wall time of the encoder.
        pairs_seconds: wall time of all pairs, results brought to the CPU.
        cpu_seconds: of all threads of the process, both together.
        pairs_per_s: pairs over `pairs_seconds`.
        peak_bytes: memory at the peak, weights and features included; None when unknown.
    """

    graph: str
    images: int
    pairs: int
    encode_seconds: float
    pairs_seconds: float
    cpu_seconds: float
    pairs_per_s: float
    peak_bytes: int | None


@dataclass(frozen=True)
class SpeedReport:
    """Speed of one network on one machine.

    Attributes:
        model: name in its configuration.
        weights: "random", "given", or where they came from. They do not change the speed.
        image_size: (height, width) in pixels.
        device: as torch names it.
        device_name: of the GPU or processor.
        dtype: of the matrix products.
        batch: pairs at once.
        repeat: timed runs.
        compiled: whether the blocks went through `torch.compile`.
        parameters: number of parameters.
        weights_bytes: memory of the parameters.
        stages: encoder, decoder, heads, total.
        graph: of the whole graph, if one was asked for.
        memory_source: what the peaks are read from.
        environment: versions, threads, processor, load average at the start.
    """

    model: str
    weights: str
    image_size: tuple[int, int]
    device: str
    device_name: str
    dtype: str
    batch: int
    repeat: int
    compiled: bool
    parameters: int
    weights_bytes: int
    stages: tuple[StageSpeed, ...]
    graph: GraphSpeed | None
    memory_source: str
    environment: dict[str, Any]

    @property
    def pairs_per_s(self) -> float:
        """Unordered pairs a second when both images of each pair are encoded for it."""
        return 1000 / self.stages[-1].milliseconds

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON."""
        return {
            "benchmark": "network",
            **asdict(self),
            "image_size": list(self.image_size),
            "stages": {stage.name: asdict(stage) for stage in self.stages},
            "pairs_per_s": self.pairs_per_s,
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def summary(self) -> str:
        """Say in a few lines what was measured where."""
        height, width = self.image_size
        lines = [
            f"{self.model}, {self.weights} weights, {self.parameters / 1e6:.1f} M parameters, "
            f"{self.weights_bytes / GB:.2f} GB",
            f"{width}x{height}, {self.dtype}, batch {self.batch}, median of {self.repeat}, "
            f"{'compiled' if self.compiled else 'not compiled'}",
            f"{self.device_name} ({self.device}), torch {self.environment['packages']['torch']}, "
            f"{self.environment['torch_threads']} threads, load {_load(self.environment)}",
            f"{self.pairs_per_s:.3g} pairs/s; memory: {self.memory_source}",
        ]
        if self.graph is not None:
            graph = self.graph
            lines.append(
                f"{graph.graph} graph of {graph.images} images: {graph.encode_seconds:.2f} s for "
                f"the encoder, {graph.pairs_seconds:.2f} s for {graph.pairs} pairs "
                f"({graph.pairs_per_s:.3g}/s), {graph.cpu_seconds:.2f} CPU s, "
                f"peak {_gb(graph.peak_bytes)} GB"
            )
        return "\n".join(lines)

    def table(self) -> Table:
        """Lay the stages out as a table."""
        table = Table("stage", "per")
        for heading in ("ms", "CPU s", "peak GB", "GFLOP", "TFLOP/s", "of peak"):
            table.add_column(heading, justify="right")
        for stage in self.stages:
            share = stage.share_of_peak
            table.add_row(
                stage.name,
                stage.per,
                f"{stage.milliseconds:.1f}",
                f"{stage.cpu_seconds:.3f}",
                _gb(stage.peak_bytes),
                f"{stage.operations / 1e9:.1f}",
                f"{stage.tflops_per_s:.3g}",
                "-" if share is None else f"{share:.1%}",
            )
        return table


def _gb(count: int | None) -> str:
    return "-" if count is None else f"{count / GB:.2f}"


def _load(environment: dict[str, Any]) -> str:
    average = environment["load_average"]
    return "unknown" if average is None else f"{average[0]:.1f}"
