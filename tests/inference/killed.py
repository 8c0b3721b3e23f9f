"""Reconstruct in child processes that are killed, resume, and compare; run by `test_job`.

Usage: killed.py FOLDER KILLS CAMERAS [ray]. The first run, which is not killed, is a local one. One
process pays for the imports; each attempt is a fork of it, which has nothing but the job folder
from the attempts before.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import weav3r
from weav3r.inference import pipeline  # here, so that the children need not
from weav3r.inference.cluster.connection import RayOptions
from weav3r.models import TwoViewModel


def reconstruct(model: TwoViewModel, cameras: str, engine: Any, job: Path, out: Path) -> None:
    """Write every array of the scene."""
    photos: list[Path | Image.Image] = [*sorted(weav3r.example_photos()["toy"].glob("*.jpg"))]
    with Image.open(str(photos[0])) as photo:
        photos.append(photo.crop((40, 30, photo.width - 20, photo.height - 10)))
    scene = pipeline.reconstruct(
        photos,
        model,
        size=96,
        cameras=cameras,  # pyright: ignore
        depth="sweep",
        progress=False,
        job=job,
        engine=engine,
    )
    arrays = {}
    for i, camera in enumerate(scene.cameras):
        arrays |= {f"depth{i}": scene.depth(i), f"confidence{i}": scene.confidence(i)}
        if camera is not None:
            arrays |= {f"K{i}": camera.K, f"cam_from_world{i}": camera.cam_from_world}
    np.savez(out, **arrays)


def in_child(work: Callable[[], None], kill_when: Callable[[], bool] | None = None) -> None:
    """Fork, work, and kill the child when it is time, unless it is done before."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if kill_when is not None:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if kill_when():
                os.kill(child, signal.SIGKILL)
                kill_when = lambda: False  # noqa: E731
            time.sleep(0.001)
    else:
        os.waitpid(child, 0)


def entries(job: Path) -> int:
    return len(list(job.glob("*/*/*.entry")))


def main() -> None:
    """Print for each kill how far the work had come and whether the scene is the same."""
    folder, kills, cameras = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    engine = RayOptions(workers=2, threads=1) if sys.argv[4:] == ["ray"] else "local"
    model = weav3r.load_model("weav3r-small", device="cpu")
    whole = folder / "whole.npz"
    in_child(lambda: reconstruct(model, cameras, "local", folder / "job", whole))
    dice = random.Random(0)
    for kill in range(kills):
        job, out = folder / f"job{kill}", folder / f"scene{kill}.npz"
        attempt = partial(reconstruct, model, cameras, engine, job, out)
        stage, wait, since = dice.randrange(entries(folder / "job")), dice.uniform(0, 0.2), None

        def is_time(job: Path = job, stage: int = stage, wait: float = wait) -> bool:
            nonlocal since
            if since is None and entries(job) >= stage:
                since = time.monotonic()
            return since is not None and time.monotonic() - since > wait

        in_child(attempt, is_time)
        done = entries(job)
        in_child(attempt)
        with np.load(whole) as expected, np.load(out) as found:
            same = expected.files == found.files
            same = same and all(np.array_equal(expected[k], found[k], True) for k in found.files)
        print(done, "same" if same else "different", flush=True)


if __name__ == "__main__":
    main()
