"""Several processes give the loss curve of one; a killed run ends where an unbroken one does."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from weav3r.train.config import Recipe, recipe_to_dict
from weav3r.train.engine import CHECKPOINT
from weav3r.train.log import read_log

SCRIPT = Path(__file__).with_name("parallel_run.py")
ROOT = SCRIPT.parents[2]


def start(recipe: Recipe, folder: Path, *more: str, rank: int = 0, world: int = 1, port: int = 0):
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(recipe_to_dict(recipe)))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(file), str(folder), *more]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def losses(folder: Path) -> torch.Tensor:
    records = [r for r in read_log(folder) if r["kind"] == "train"]
    return torch.tensor([[r["loss"], r["e1"], r["gradient_norm"]] for r in records])


def test_two_processes_give_the_loss_curve_of_one(make_recipe, tmp_path) -> None:
    pytest.importorskip("accelerate")
    sizes = [[32, 48], [48, 32]]
    recipe = make_recipe(steps=20, log_every=1, data={"micro_batches": 2, "sizes": sizes})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [start(recipe, tmp_path / "two", rank=r, world=2, port=port) for r in range(2)]
    alone = start(recipe, tmp_path / "one")
    for process in (*pair, alone):
        finish(process)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20 and one[-5:, 0].mean() < one[:5, 0].mean()
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)


def test_sharded_processes_give_the_loss_curve_of_one_and_hand_over(make_recipe, tmp_path) -> None:
    pytest.importorskip("accelerate")
    sizes = [[32, 48], [48, 32]]
    recipe = make_recipe(steps=6, log_every=1, data={"micro_batches": 2, "sizes": sizes})
    sharded = dataclasses.replace(recipe, shard=True, steps=4)
    for part in (sharded, dataclasses.replace(sharded, steps=6)):  # saved, and taken up again
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pair = [start(part, tmp_path / "two", rank=r, world=2, port=port) for r in range(2)]
        for process in pair:
            finish(process)
    finish(start(recipe, tmp_path / "one"))
    torch.testing.assert_close(
        losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4, atol=1e-4
    )
    one, two = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("one", "two")
    )
    for part in ("model", "ema", "optimizer"):
        torch.testing.assert_close(two[part], one[part], rtol=1e-3, atol=1e-3)


def test_a_killed_run_ends_where_an_unbroken_one_does(make_recipe, tmp_path) -> None:
    recipe = dataclasses.replace(make_recipe(steps=8), checkpoint_minutes=0.0)
    killed = start(recipe, tmp_path / "killed", "5")
    whole = start(recipe, tmp_path / "whole")
    killed.communicate(timeout=300)
    assert killed.returncode == -9 and (tmp_path / "killed" / CHECKPOINT).exists()
    finish(start(recipe, tmp_path / "killed"))
    finish(whole)
    a, b = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("killed", "whole")
    )
    assert a["step"] == b["step"] == 8
    for part in ("model", "criterion"):
        for name, value in a[part].items():
            assert torch.equal(value, b[part][name]), name
    for name, value in a["ema"]["model"].items():
        assert torch.equal(value, b["ema"]["model"][name]), name
