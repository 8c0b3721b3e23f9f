"""The way to a Ray cluster: one that runs already, or one that lives as long as the work."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

_PATIENCE_S = 10.0


@dataclass(frozen=True)
class RayOptions:
    """How work is spread over a Ray cluster.

    Attributes:
        address: of a running cluster, such as "10.0.0.1:6379", "ray://host:10001" or "auto" (the
            one that runs on this machine); None: what RAY_ADDRESS says, else a cluster of this
            machine's own, which ends with the work.
        workers: processes that compute, each with its own network; None: as many as the
            processors, or the GPUs where the network runs on one, allow.
        threads: of each worker; None: as many as this process uses, or where this machine is
            shared by more `workers` than that leaves room for, an equal part of its processors.
        retries: how often an image or a pair is tried again after its worker died.
    """

    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        for name, lowest in (("workers", 1), ("threads", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")

    @property
    def place(self) -> str:
        """The address, or "local" for a cluster of its own."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    def threads_of(self, own: int) -> int:
        """Threads of each worker, where this process has `own`."""
        if self.threads is None and self.workers is not None and self.place == "local":
            return max(1, min(own, (os.cpu_count() or 1) // self.workers))
        return self.threads or own


def require_ray() -> Any:
    """Import ray.

    Raises:
        ImportError: if it is not installed; the message says how to get it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own import
            import ray
    except ImportError as error:
        raise ImportError("engine='ray' needs ray: pip install 'weav3r[cluster]'") from error
    return ray


@contextmanager
def connect(options: RayOptions, threads: int) -> Iterator[Any]:
    """Connect to a cluster; what this starts ends with the block, what ran before goes on.

    Args:
        options: which cluster.
        threads: of each worker; a cluster of this machine's own gets room for all workers.

    Yields:
        The module `ray`, connected.

    Raises:
        ImportError: if ray is not installed.
        ConnectionError: if there is no cluster at the address.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    address = options.place
    with ExitStack() as stack:
        stack.enter_context(_environment({"RAY_USAGE_STATS_ENABLED": "0"}))
        stack.enter_context(_quiet())
        own: dict[str, Any] = {}
        if address == "local":
            cores = max(os.cpu_count() or 1, (options.workers or 1) * threads)
            own = {"num_cpus": cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            own["_temp_dir"] = stack.enter_context(_short_folder())
        try:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConnectionError(f"no Ray cluster at {address}: {error}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def count_workers(ray: Any, threads: int, on_gpu: bool) -> int:
    """How many workers the nodes have room for.

    Raises:
        ValueError: if there is no room for one.
    """
    count = 0
    for node in ray.nodes():
        room = node["Resources"] if node["Alive"] else {}
        per_cores = int(room.get("CPU", 0)) // (1 if on_gpu else threads)
        count += min(per_cores, int(room.get("GPU", 0))) if on_gpu else per_cores
    if count == 0:
        needed = "a GPU" if on_gpu else f"{threads} processor cores; lower `threads`"
        raise ValueError(f"no node of the Ray cluster has {needed}")
    return count


def _check_reachable(address: str) -> None:
    """Fail within seconds where Ray would go on trying for minutes.

    Raises:
        OSError: if nobody listens at the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), _PATIENCE_S).close()


def _short_folder() -> TemporaryDirectory[str]:
    """For the cluster's logs and sockets, whose paths may not be longer than 107 characters."""
    place = "/tmp" if os.access("/tmp", os.W_OK) else None
    return TemporaryDirectory(prefix="weav3r-ray-", dir=place, ignore_cleanup_errors=True)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for the processes that the block starts."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's notices out of the user's terminal, its errors not."""
    ours, theirs = logging.getLogger("ray"), logging.getLogger("ray").level
    ours.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="ray")
            yield
    finally:
        ours.setLevel(theirs)
