"""The machine under a measurement: its names, its peak throughput, and how full its memory got."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

SpeedDtype = Literal["float32", "bfloat16", "float16"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class PeakThroughput:
    """Dense matrix throughput of a GPU at its boost clock, without sparsity, in TFLOP/s.

    Attributes:
        key: part of the device name that torch reports; the first entry that fits counts.
        half: bfloat16 or float16 inputs with float32 accumulation, on the matrix units.
        tf32: float32 tensors with TF32 matrix units allowed; None where there are none.
        single: float32 without them.
        source: the maker's document.
    """

    key: str
    half: float
    tf32: float | None
    single: float
    source: str


PEAKS: tuple[PeakThroughput, ...] = (
    PeakThroughput("B200", 2250.0, 1125.0, 75.0, "NVIDIA Blackwell architecture brief"),
    PeakThroughput("GH200", 989.4, 494.7, 66.9, "NVIDIA GH200 data sheet"),
    PeakThroughput("H200 NVL", 835.5, 417.5, 60.0, "NVIDIA H200 data sheet"),
    PeakThroughput("H200", 989.4, 494.7, 66.9, "NVIDIA H200 data sheet"),
    PeakThroughput("H100 PCIe", 756.4, 378.2, 51.2, "NVIDIA H100 architecture white paper"),
    PeakThroughput("H100 NVL", 835.5, 417.5, 60.0, "NVIDIA H100 NVL data sheet"),
    PeakThroughput("H100", 989.4, 494.7, 66.9, "NVIDIA H100 architecture white paper"),
    PeakThroughput("A100", 312.0, 156.0, 19.5, "NVIDIA A100 architecture white paper"),
    PeakThroughput("L40S", 362.1, 183.2, 91.6, "NVIDIA L40S data sheet"),
    PeakThroughput("L4", 121.0, 60.0, 30.3, "NVIDIA L4 data sheet"),
    PeakThroughput("RTX 4090", 165.2, 82.6, 82.6, "NVIDIA Ada architecture white paper"),
    PeakThroughput("RTX 3090", 71.0, 35.6, 35.6, "NVIDIA GA102 architecture white paper"),
    PeakThroughput("V100", 125.0, None, 15.7, "NVIDIA V100 data sheet"),
    PeakThroughput("T4", 65.0, None, 8.1, "NVIDIA T4 data sheet"),
)


def peak_tflops(device_name: str, dtype: SpeedDtype, tf32: bool = False) -> float | None:
    """Give the published peak of a GPU in TFLOP/s, or None when it is not in `PEAKS`.

    Args:
        device_name: as `torch.cuda.get_device_name` says it.
        dtype: of the matrix products.
        tf32: whether float32 products may use TF32.
    """
    words = f" {device_name.replace('-', ' ')} "
    found = next((peak for peak in PEAKS if f" {peak.key} " in words), None)
    if found is None or (dtype == "bfloat16" and found.key in ("V100", "T4")):
        return None
    if dtype != "float32":
        return found.half
    return found.tf32 if tf32 and found.tf32 is not None else found.single


def cpu_name() -> str:
    """Name of the processor as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Name of a torch device: of the GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def load_average() -> list[float] | None:
    """Runnable processes of the last 1, 5 and 15 minutes; None where the system does not say."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


class MemoryMeter(Protocol):
    """Reads and restarts a peak.

    Attributes:
        source: what is measured, for the report.
        per_stage: whether `restart` has an effect, so that stages can be told apart.
    """

    source: str
    per_stage: bool

    def restart(self) -> None:
        """Forget the peak so far."""
        ...

    def peak(self) -> int | None:
        """Bytes at the peak since `restart`, None when unknown."""
        ...


class _CudaMeter:
    source = "torch.cuda.max_memory_allocated"
    per_stage = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def restart(self) -> None:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


class _LinuxMeter:
    source = "VmHWM of the process, restarted through /proc/self/clear_refs"
    per_stage = True

    def restart(self) -> None:
        _CLEAR.write_text("5", encoding="ascii")

    def peak(self) -> int:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


class _RusageMeter:
    source = "ru_maxrss of the process since its start; stages cannot be told apart"
    per_stage = False

    def restart(self) -> None:
        """Nothing can be forgotten."""

    def peak(self) -> int | None:
        try:
            import resource
        except ImportError:  # Windows
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_meter(device: torch.device) -> MemoryMeter:
    """Choose the meter of a device: its allocator for CUDA, the process for everything else."""
    if device.type == "cuda":
        return _CudaMeter(device)
    linux = _LinuxMeter()
    try:
        linux.restart()
        linux.peak()
    except (OSError, StopIteration):
        return _RusageMeter()
    return linux
