"""Random damage to checkpoint files: an error that names the file, never wrong weights."""

from __future__ import annotations

import argparse
import random
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from weav3r.models._pickle import interpret
from weav3r.models.published import read_published
from weav3r.models.storage import TensorFile

STATE = {"weight": torch.linspace(-1, 1, 30).view(5, 6), "bias": torch.linspace(2, 3, 7)}


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    """Give a small published file."""
    path = tmp_path / "small.pth"
    args = argparse.Namespace(model="CroCoNet(enc_depth=1, dec_depth=2)", lr=0.1)
    torch.save({"model": STATE, "args": args, "epoch": 1}, path)
    return path


def flipped(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 8))):
        changed[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(changed)


def read_or_refuse(path: Path) -> bool:
    """Tell whether a file is refused with its name; when not, its weights are right."""
    try:
        found = read_published(path)
    except ValueError as error:
        assert str(error).startswith(str(path))
        return True
    assert found.state.keys() == STATE.keys()
    assert all(torch.equal(found.state[key], value) for key, value in STATE.items())
    return False


def test_flipped_bits(pth: Path) -> None:
    data, source = pth.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        pth.write_bytes(flipped(data, source))
        refused += read_or_refuse(pth)
    assert refused > 75  # the rest is padding and entries that nothing reads


def test_flipped_bits_in_the_weights(pth: Path) -> None:
    data = pth.read_bytes()
    start = data.index(STATE["weight"].numpy().tobytes())
    for k in range(120):
        changed = bytearray(data)
        changed[start + k] ^= 1 << (k % 8)
        pth.write_bytes(changed)
        assert read_or_refuse(pth)


def test_truncated_files(pth: Path) -> None:
    data, source = pth.read_bytes(), random.Random(1)
    for length in [0, 1, 4, 100, *(source.randrange(len(data)) for _ in range(200))]:
        pth.write_bytes(data[:length])
        assert read_or_refuse(pth)


def test_damaged_programs(pth: Path) -> None:
    """Without the checksum: whatever the bytes, a value or a ValueError, quickly."""
    with zipfile.ZipFile(pth) as archive:
        program = archive.read("small/data.pkl")
    source = random.Random(2)
    values = 0
    for _ in range(3000):
        changed = flipped(program, source)
        if source.random() < 0.3:  # also move whole stretches
            at, to = source.randrange(len(program)), source.randrange(len(program))
            changed = changed[:at] + changed[to : to + 40] + changed[at:]
        try:
            interpret(changed, {"0": 120, "1": 28})
        except ValueError:
            continue
        values += 1
    assert 0 < values < 2900


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_file(STATE, path, metadata={"format": "pt"})
    data, source = path.read_bytes(), random.Random(3)
    header = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for k in range(300):
        changed = data[: source.randrange(len(data))]
        if k % 3:
            changed = flipped(data[:header], source) + data[header:]
        path.write_bytes(changed)
        try:
            dict(TensorFile(path))
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 200
