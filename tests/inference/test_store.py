"""The folder of results: names, atomic entries, damage, bounds, several processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from weav3r.inference.job.store import JobStore, fingerprint

KEY = fingerprint("a")


def entry(value: float = 1.0, count: int = 100) -> dict[str, torch.Tensor]:
    return {"x": torch.full((count,), value), "i": torch.arange(3)}


def only_file(store: JobStore) -> Path:
    (path,) = store.folder.glob("*/*/*.entry")
    return path


def test_entries_come_back_as_they_were_put(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(2, 3).half(),
        "double": torch.randn(4).double(),
        "strided": torch.arange(6).reshape(2, 3).T,
        "empty": torch.zeros(0, 5),
        "number": torch.tensor(2.5),
    }
    JobStore(tmp_path / "job").put("features", KEY, tensors)
    store = JobStore(tmp_path / "job")
    found = store.get("features", KEY)
    assert found is not None and ("features", KEY) in store
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert store.get("pairs", KEY) is None
    assert store.get("features", fingerprint("b")) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        ((1,), (1.0,)),
        ((1,), ("1",)),
        ((1,), (True,)),
        ((["a"], "b"), (["a", "b"],)),
        ((np.zeros(2, np.float32),), (np.zeros((2, 1), np.float32),)),
        ((np.zeros(2, np.float32),), (np.zeros(1, np.float64),)),
        ((b"1",), ("1",)),
        (({"a": 1},), ({"a": 2},)),
        ((None,), ("None",)),
    ],
)
def test_different_inputs_have_different_fingerprints(one: tuple, other: tuple) -> None:
    assert fingerprint(*one) != fingerprint(*other)


def test_equal_inputs_have_equal_fingerprints() -> None:
    grid = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(grid) == fingerprint(grid.T.contiguous().T)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert len(fingerprint(torch.zeros(0), torch.tensor(1.0))) == 64


@pytest.mark.parametrize("value", [object(), np.array([object()])])
def test_a_fingerprint_refuses_what_it_cannot_read(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be part of a fingerprint"):
        fingerprint(value)


@pytest.mark.parametrize("where", [0, 10, 30, 100, -1])
def test_a_flipped_bit_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: int
) -> None:
    store = JobStore(tmp_path)
    store.put("features", KEY, entry())
    path = only_file(store)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert store.get("features", KEY) is None
    assert "is damaged or belongs elsewhere; it is computed again" in caplog.text
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 5, 60, 200])
def test_a_truncated_entry_is_noticed(tmp_path: Path, length: int) -> None:
    store = JobStore(tmp_path)
    store.put("features", KEY, entry())
    path = only_file(store)
    path.write_bytes(path.read_bytes()[:length])
    assert store.get("features", KEY) is None


def test_an_entry_under_another_name_is_foreign(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.put("features", KEY, entry())
    other = fingerprint("b")
    target = store.folder / "features" / other[:2] / f"{other}.entry"
    target.parent.mkdir()
    only_file(store).rename(target)
    assert ("features", other) in store
    assert store.get("features", other) is None


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds other files \(holiday.jpg\)"):
        JobStore(tmp_path)
    with pytest.raises(ValueError, match="is a file; a job needs a folder"):
        JobStore(tmp_path / "holiday.jpg")


def test_the_bound_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        JobStore(tmp_path, max_bytes=0)


def test_a_bounded_folder_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    store = JobStore(tmp_path, max_bytes=10_000)
    keys = [fingerprint(i) for i in range(6)]
    for age, key in enumerate(keys[:3]):
        store.put("features", key, entry(count=500))  # 2 kB each
        path = store.folder / "features" / key[:2] / f"{key}.entry"
        os.utime(path, (1000 + age, 1000 + age))
    assert store.get("features", keys[0]) is not None
    for key in keys[3:]:
        store.put("features", key, entry(count=500))
    assert store.size_bytes() <= 10_000
    assert ("features", keys[0]) in store and ("features", keys[5]) in store
    assert ("features", keys[1]) not in store


def test_leftovers_of_a_killed_process_go_after_an_hour(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.put("features", KEY, entry())
    fresh, old = (only_file(store).parent / f".unfinished-1-{n}" for n in "ab")
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    again = JobStore(tmp_path)
    assert fresh.exists() and not old.exists()
    assert again.get("features", KEY) is not None


def test_a_full_disk_costs_the_entry_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = JobStore(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        assert not store.put("features", KEY, entry())
        assert not store.put("features", KEY, entry())
    assert caplog.text.count("No space left on device") == 1
    assert store.get("features", KEY) is None
    assert not list(store.folder.glob("**/.unfinished*"))


_WORKER = """
import sys, torch
from weav3r.inference.job.store import JobStore, fingerprint
store = JobStore(sys.argv[1], max_bytes=40_000)
for turn in range(100):
    number = turn % 7
    found = store.get("features", fingerprint(number))
    assert found is None or torch.equal(found["x"], torch.full((1000,), float(number)))
    store.put("features", fingerprint(number), {"x": torch.full((1000,), float(number))})
"""


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WORKER, str(tmp_path / "job")]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        _, complaints = worker.communicate(timeout=60)
        assert worker.returncode == 0 and complaints == ""
