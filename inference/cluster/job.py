"""A job whose images and pairs are computed by the workers of a cluster."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ...models.mapped import page_out
from ...models.two_view import TwoViewModel
from ..images import View
from ..job.evidence import PairEvidence, PairReader, evidence_from_tensors
from ..job.folder import Job, features_to_tensors
from ..job.store import JobStore
from ..predict import Precision
from .connection import RayOptions, connect, count_workers
from .pool import WorkerPool
from .worker import Network, PairTask, Setup, Worker, WorkerInfo, pack, unpack, worker_info

logger = logging.getLogger(__name__)

_SENT = 16  # features in the object store, per worker: neighbouring pairs share them


class Cluster:
    """Workers with a network, and what they need to take part in a job."""

    def __init__(self, ray: Any, pool: WorkerPool, size: int) -> None:
        self.ray, self.pool, self.size = ray, pool, size


@contextmanager
def start_cluster(
    options: RayOptions, model: TwoViewModel, store: JobStore, precision: Precision = "float32"
) -> Iterator[Cluster]:
    """Start workers; they end with the block, and so does a cluster that was started for them.

    Args:
        options: where, and how many.
        model: the network; workers run on GPUs where it does.
        store: the job folder; workers that see it write into it themselves.
        precision: of the matrix products.

    Raises:
        ImportError: if ray is not installed.
        ConnectionError: if there is no cluster at the address.
        ValueError: if no node of the cluster is large enough for a worker.
    """
    threads = options.threads_of(torch.get_num_threads())
    on_gpu = model.device.type == "cuda"
    with connect(options, threads) as ray, store.sign() as sign:
        size = options.workers or count_workers(ray, threads, on_gpu)
        # a bounded folder is kept in bounds by one process only
        sign = sign if store.max_bytes is None else ""
        setup = Setup(store.folder, sign, threads, precision, torch.get_float32_matmul_precision())
        network = ray.put(Network.of(model))
        actor = ray.remote(
            num_cpus=1 if on_gpu else threads,
            num_gpus=1 if on_gpu else 0,
            max_restarts=0,
            max_task_retries=0,
        )(Worker)
        pool = WorkerPool(ray, lambda: actor.remote(setup, network), _accept, size, options.retries)
        try:
            yield Cluster(ray, pool, size)
        finally:
            pool.close()


def _accept(info: WorkerInfo) -> None:
    """Refuse workers whose results are others; warn where the last bits may be."""
    own = worker_info(True)
    if info.versions != own.versions:
        theirs, ours = (
            ", ".join(f"{name} {number}" for name, number in versions.items())
            for versions in (info.versions, own.versions)
        )
        raise RuntimeError(f"the Ray worker on {info.host} has {theirs}, this machine {ours}")
    if info.processor != own.processor:
        logger.warning(
            "the Ray worker on %s computes with %s, this machine with %s: the scene may differ "
            "from that of a local run by rounding",
            *(info.host, info.processor, own.processor),
        )


class ClusterJob(Job):
    """A `Job` that has its images and pairs computed by a cluster, ahead of their use."""

    def __init__(
        self,
        cluster: Cluster,
        store: JobStore,
        model: TwoViewModel,
        views: Sequence[View],
        precision: Precision = "float32",
        keep: torch.dtype | None = None,
        resident: int | None = None,
    ) -> None:
        super().__init__(store, model, views, precision, keep, resident)
        self._cluster = cluster
        self._sent: OrderedDict[int, Any] = OrderedDict()

    def encode(self, progress: Callable[[int], None]) -> None:
        """Encode the photos that the folder does not hold."""
        missing = [i for i, key in enumerate(self._keys) if ("features", key) not in self.store]
        progress(len(self) - len(missing))
        keep = None if self.keep is None else str(self.keep).removeprefix("torch.")
        results = self._cluster.pool.map(
            "encode",
            missing,
            lambda i, worker: (self._keys[i], self.views[i].image.numpy(), keep),
        )
        for index, packed in zip(missing, results, strict=True):
            if packed is not None:
                self.store.put("features", self._keys[index], unpack(packed))
            progress(1)
        page_out([self.model.patch_embed, self.model.enc_blocks])

    def evidence(
        self, pairs: Sequence[tuple[int, int]], reader: PairReader
    ) -> Iterator[PairEvidence]:
        """Evidence of pairs, ordered as by `predict_pairs`: from the folder or the workers."""
        pairs = self._ordered(pairs)
        keys = {pair: self._pair_key(pair, reader) for pair in pairs}
        missing = [pair for pair in pairs if ("pairs", keys[pair]) not in self.store]
        results = self._cluster.pool.map(
            "read_pair", missing, lambda pair, worker: self._task(pair, keys[pair], reader, worker)
        )
        waited_for = set(missing)
        for pair in pairs:
            packed = next(results) if pair in waited_for else None
            if packed is None:  # it is in the folder, unless that was damaged meanwhile
                compute = partial(self._decode, pair, reader)
            else:
                compute = partial(evidence_from_tensors, *pair, unpack(packed))
            yield self._evidence(pair, reader, compute)

    def _task(
        self, pair: tuple[int, int], key: str, reader: PairReader, worker: WorkerInfo
    ) -> tuple[Any, ...]:
        images = sorted(set(pair))
        task = PairTask(
            key=key,
            features=tuple(self._keys[i] for i in images),
            views=tuple(_without_pixels(self.views[i]) for i in images),
            matching=reader.matching,
            keeps_maps=reader.keeps_maps,
        )
        return task, *(None if worker.sees_folder else self._send(i) for i in images)

    def _send(self, index: int) -> Any:
        """Put the features of a photo into the object store, unless they are there."""
        if index in self._sent:
            self._sent.move_to_end(index)
            return self._sent[index]
        tensors = self.store.get("features", self._keys[index])
        if tensors is None:
            tensors = features_to_tensors(self[index])
        self._sent[index] = reference = self._cluster.ray.put(pack(tensors))
        if len(self._sent) > _SENT * self._cluster.size:
            self._sent.popitem(last=False)
        return reference


def _without_pixels(view: View) -> View:
    return replace(view, image=torch.empty(0, *view.size), mask=None, path=None)
