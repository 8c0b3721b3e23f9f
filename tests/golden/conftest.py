"""Reading the golden vectors: black-box inputs and outputs of the published implementations.

The files in `data/` are shipped. Others are looked for in the folder that the environment variable
WEAV3R_GOLDEN names; their tests are skipped without it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

Golden = Mapping[str, NDArray[Any]]

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Give a function that reads a golden `.npz` by its name without the suffix."""

    def read(name: str) -> Golden:
        given = os.environ.get("WEAV3R_GOLDEN")
        folders = [DATA, *([Path(given), Path(given, "alignment")] if given else [])]
        for folder in folders:
            if (folder / f"{name}.npz").is_file():
                with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
                    return dict(archive)
        pytest.skip(f"{name}.npz is not shipped; set WEAV3R_GOLDEN to the folder that holds it")

    return read


def procedural_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """Make the weight that every golden network has under this key (see data/README.md)."""
    count = math.prod(shape)
    seed = zlib.crc32(key.encode())
    values = np.random.RandomState(seed).random_sample(count) * 2 - 1
    if key == "mask_token":
        values = 0.5 * values
    elif len(shape) == 1:
        values = 1 + 0.2 * values if key.endswith("weight") else 0.1 * values
    else:
        values = values * math.sqrt(3 * shape[0] / count) * (0.85 if ".dpt." in key else 1.0)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


@pytest.fixture(scope="session")
def golden_state() -> Callable[[Golden], dict[str, Tensor]]:
    """Give a function that makes the state dict of a golden file."""

    def build(file: Golden) -> dict[str, Tensor]:
        state = {}
        for key, shape in json.loads(str(file["shapes"])).items():
            stored = file.get(f"sd/{key}")
            if stored is not None:
                state[key] = torch.from_numpy(stored)
            else:
                state[key] = procedural_weight(key, tuple(shape))
        return state

    return build


@pytest.fixture(scope="session")
def procedural() -> Callable[[str, tuple[int, ...]], Tensor]:
    """Give `procedural_weight`."""
    return procedural_weight


@pytest.fixture
def large_file(tmp_path: Path) -> Iterator[Path]:
    """Give a path for a file of gigabytes, which pytest would otherwise keep for three runs."""
    path = tmp_path / "large.pth"
    yield path
    with contextlib.suppress(PermissionError):  # Windows: still mapped after a failed test
        path.unlink(missing_ok=True)
