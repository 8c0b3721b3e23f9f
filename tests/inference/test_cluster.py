"""Work spread over a Ray cluster: the same scene, whoever dies on the way.

Most tests run on a stand-in for Ray in this process; those at the end on Ray itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

import weav3r
from weav3r.inference import pipeline
from weav3r.inference.cluster import connection
from weav3r.inference.cluster import job as cluster_job
from weav3r.inference.cluster.connection import RayOptions, count_workers
from weav3r.inference.cluster.pool import WorkerPool
from weav3r.inference.cluster.worker import Network, WorkerInfo, worker_info
from weav3r.inference.job.planner import Settings
from weav3r.inference.job.store import JobStore
from weav3r.models import TwoViewModel


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


same_scene = _load("comparing").same_scene
in_process = _load("in_process_ray")

OPTIONS: dict[str, Any] = {
    "size": 96,
    "cameras": "pointmaps",
    "depth": "sweep",
    "progress": False,
}
TWO = RayOptions(workers=2, threads=1)


@pytest.fixture(scope="module")
def model() -> TwoViewModel:
    return weav3r.load_model("weav3r-small", device="cpu")


@pytest.fixture(scope="module")
def photos() -> list[Path | Image.Image]:
    """Two photos, and a part of the first."""
    files: list[Path | Image.Image] = [*sorted(weav3r.example_photos()["toy"].glob("*.jpg"))]
    with Image.open(str(files[0])) as photo:
        return [*files, photo.crop((40, 30, photo.width - 20, photo.height - 10))]


@pytest.fixture(scope="module")
def local(
    model: TwoViewModel, photos: list, tmp_path_factory: pytest.TempPathFactory
) -> weav3r.Scene:
    """What a run with a job on this machine gives, with one thread as the workers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    scene = weav3r.reconstruct(photos, model, job=tmp_path_factory.mktemp("job"), **OPTIONS)
    torch.set_num_threads(threads)
    return scene


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in, in place of Ray."""
    stand_in = in_process.InProcessRay()
    monkeypatch.setattr(connection, "require_ray", lambda: stand_in)
    return stand_in


class Echo:
    """A worker that tells its argument."""

    def hello(self) -> WorkerInfo:
        return worker_info(True)

    def tell(self, item: int) -> int:
        if item < 0:
            raise ValueError(f"{item} is negative")
        return item


def pool_of(ray: Any, size: int = 3, retries: int = 2) -> WorkerPool:
    actor = ray.remote(num_cpus=1)(Echo)
    return WorkerPool(ray, actor.remote, lambda info: None, size, retries)


def tell(pool: WorkerPool, items: Any) -> list[int]:
    return list(pool.map("tell", items, lambda item, worker: (item,)))


def test_results_come_in_order_and_few_calls_wait(ray: Any) -> None:
    pool = pool_of(ray)
    read = 0

    def source() -> Any:
        nonlocal read
        for item in range(100):
            read += 1
            yield item

    results = pool.map("tell", source(), lambda item, worker: (item,))
    assert next(results) == 0 and read <= 4 * 3
    assert list(results) == list(range(1, 100))
    assert ray.most_waiting <= 3 + 2 * 3
    pool.close()
    assert all(actor.is_dead for actor in ray.actors)


def test_work_of_a_worker_that_died_is_done_again(
    ray: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fates = iter([False, False, False, True, False, True] + [False] * 100)
    ray.dies = lambda actor, method: method == "tell" and next(fates)
    with caplog.at_level(logging.WARNING):
        assert tell(pool_of(ray), range(20)) == list(range(20))
    assert len(ray.actors) == 3 + 2
    assert caplog.text.count("its work is done again") == 2


def test_work_that_kills_every_worker_is_named(ray: Any) -> None:
    ray.dies = lambda actor, method: method == "tell"
    with pytest.raises(RuntimeError, match=r"3 Ray workers died of the same work \(7\): killed$"):
        tell(pool_of(ray, size=1), [7])


def test_workers_that_cannot_start_end_the_run(ray: Any) -> None:
    ray.dies = lambda actor, method: method == "hello"
    with pytest.raises(RuntimeError, match="no Ray worker could be started: killed"):
        tell(pool_of(ray), [7])
    assert len(ray.actors) <= 3 + 2


def test_an_error_of_the_work_itself_is_raised_here(ray: Any) -> None:
    with pytest.raises(ValueError, match="^-1 is negative$"):
        tell(pool_of(ray), [1, -1, 2])
    assert ray.calls.count("tell") <= 3


def test_a_network_arrives_as_it_was(model: TwoViewModel) -> None:
    arrived = Network.of(model).build()
    assert not arrived.training
    for (name, sent), (other, got) in zip(
        model.state_dict().items(), arrived.state_dict().items(), strict=True
    ):
        assert name == other and torch.equal(sent, got)
        assert sent.data_ptr() % 64 == got.data_ptr() % 64


@pytest.mark.parametrize("shared", [True, False])
def test_the_scene_is_that_of_a_local_run(
    *,
    ray: Any,
    model: TwoViewModel,
    photos: list,
    local: weav3r.Scene,
    tmp_path: Path,
    shared: bool,
) -> None:
    """In a bounded folder only one process writes, as where the workers do not see it."""
    deaths = iter([False, True, False, False, True])
    ray.dies = lambda actor, method: method != "hello" and next(deaths, False)
    store = JobStore(tmp_path / "job", None if shared else 10**9)
    options: dict[str, Any] = OPTIONS | {"engine": TWO, "job": store}
    assert same_scene(local, weav3r.reconstruct(photos, model, **options))
    assert ray.calls.count("encode") == 3 and ray.calls.count("read_pair") == 3
    assert all(actor.is_dead for actor in ray.actors) and len(ray.actors) == 4
    assert not list((tmp_path / "job").glob("sign/*/*"))
    ray.calls.clear()
    assert same_scene(local, weav3r.reconstruct(photos, model, **options))
    assert set(ray.calls) <= {"hello"}


def test_what_is_damaged_meanwhile_is_computed_here(
    ray: Any, model: TwoViewModel, photos: list, local: weav3r.Scene, tmp_path: Path
) -> None:
    def show(stage: str, done: int, total: int) -> None:
        if stage == "decode" and done == 0:
            for path in (tmp_path / "job").glob("features/*/*.entry"):
                path.write_bytes(path.read_bytes()[:-1])

    options: dict[str, Any] = OPTIONS | {"engine": TWO, "job": tmp_path / "job", "progress": show}
    assert same_scene(local, weav3r.reconstruct(photos, model, **options))


def test_a_bound_on_memory_goes_with_a_cluster(
    ray: Any, model: TwoViewModel, photos: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the features on the disk, one photo in memory at a time."""
    tight = Settings(encode_batch=1, pair_batch=1, half_features=True, resident=1)
    monkeypatch.setattr(pipeline, "plan", lambda *_, **__: SimpleNamespace(settings=tight))
    options: dict[str, Any] = OPTIONS | {"max_memory": "1GB"}
    expected = weav3r.reconstruct(photos, model, **options)
    assert same_scene(expected, weav3r.reconstruct(photos, model, engine=TWO, **options))


def test_one_photo_is_work_for_a_cluster_too(ray: Any, model: TwoViewModel, photos: list) -> None:
    scene = weav3r.reconstruct(photos[:1], model, engine="ray", **OPTIONS)
    assert len(scene) == 1 and ray.calls.count("read_pair") == 1


def test_other_versions_are_refused_and_other_processors_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = worker_info(True)
    old = WorkerInfo("far", 1, own.versions | {"torch": "1.0"}, own.processor, False)
    with pytest.raises(RuntimeError, match="worker on far has weav3r .*, torch 1.0, this machine"):
        cluster_job._accept(old)
    with caplog.at_level(logging.WARNING):
        cluster_job._accept(WorkerInfo("far", 1, own.versions, "other", False))
    assert "far computes with other" in caplog.text


def test_workers_fill_the_cluster(ray: Any) -> None:
    node = {"Alive": True, "Resources": {"CPU": 9.0, "GPU": 4.0}}
    ray.cluster = [node, node | {"Alive": False}, {"Alive": True, "Resources": {"CPU": 3.0}}]
    assert count_workers(ray, 2, on_gpu=False) == 4 + 1
    assert count_workers(ray, 2, on_gpu=True) == 4
    with pytest.raises(ValueError, match="has 10 processor cores; lower `threads`"):
        count_workers(ray, 10, on_gpu=False)
    ray.cluster = ray.cluster[2:]
    with pytest.raises(ValueError, match="no node of the Ray cluster has a GPU"):
        count_workers(ray, 1, on_gpu=True)


def test_options_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        RayOptions(workers=0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert RayOptions().threads_of(8) == 8 and RayOptions(workers=4).threads_of(8) == 2
    assert RayOptions(workers=4, threads=3).threads_of(8) == 3
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    assert RayOptions(workers=4).threads_of(8) == 8


def test_an_address_where_nobody_listens_fails_at_once(
    ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process.InProcessRay, "is_initialized", lambda self: False)
    with pytest.raises(ConnectionError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*refused"):
        with connection.connect(RayOptions("127.0.0.1:1"), threads=1):
            pass


def test_without_ray_the_extra_is_named(
    run: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run("reconstruct", "--example", "toy", "--engine", "ray", "-o", tmp_path / "x.glb")
    assert done.status == 2 and "pip install 'weav3r[cluster]'" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", 2), "go with --engine ray"),
        (("--engine", "dask"), "engine must be one of local, ray, got 'dask'"),
        (("--max-disk", "1GB"), "--max-disk bounds the folder of --job"),
    ],
)
def test_the_command_refuses_what_does_not_fit(
    run: Callable, tmp_path: Path, arguments: tuple, message: str
) -> None:
    done = run("reconstruct", "--example", "toy", "-o", tmp_path / "x.glb", *arguments)
    assert done.status == 2 and message in done.err


def test_the_command_takes_a_cluster_and_a_bounded_folder(
    ray: Any, run: Callable, tmp_path: Path
) -> None:
    bound = ("--max-disk", "3MB", "--job", tmp_path / "job")
    engine = ("--engine", "ray", "--workers", 2)
    out = tmp_path / "x.npz"
    done = run("reconstruct", "--example", "toy", "--size", 96, "-o", out, *bound, *engine)
    assert done.status == 0 and out.exists() and "read_pair" in ray.calls
    assert JobStore(tmp_path / "job").size_bytes() <= 3 * 10**6


# -- on Ray itself ---------------------------------------------------------------------------------


@pytest.fixture
def real_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray, where it is installed; the processes of a cluster of its own must be gone afterwards."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs ray: pip install 'weav3r[cluster]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield connection.require_ray()
    deadline = time.monotonic() + 20
    while ray_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ray_processes()


def ray_processes(name: str = "") -> list[psutil.Process]:
    """Those below this process, or all that work for it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            if name in line and any(word in line for word in ("ray::", "raylet", "gcs_server")):
                found.append(process)
    return found


@pytest.mark.slow
def test_a_killed_worker_costs_time_only(
    *,
    real_ray: Any,
    model: TwoViewModel,
    photos: list,
    local: weav3r.Scene,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two workers on a cluster of this machine's own; one is killed while it reads a pair."""

    def kill() -> None:
        while not (busy := ray_processes("ray::Worker.read_pair")):
            time.sleep(0.005)
        busy[0].kill()

    options: dict[str, Any] = OPTIONS | {"engine": TWO}
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert same_scene(local, weav3r.reconstruct(photos, model, **options))
    killer.join()
    assert caplog.text.count("its work is done again") == 1
    assert not real_ray.is_initialized()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forks")
def test_a_killed_run_on_a_cluster_goes_on_to_the_same_scene(real_ray: Any, tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, "1", "pointmaps", "ray"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["same"]
