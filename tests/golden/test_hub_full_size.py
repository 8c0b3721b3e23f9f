"""A published network at full size: from a Hub folder and converted, by the golden vectors."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from weav3r.models import PRESETS, TwoViewModel, convert_checkpoint, load_model
from weav3r.models.hub_cache import PUBLISHED_IDS
from weav3r.models.storage import LazyTensors, TensorFile, write_tensors

if TYPE_CHECKING:
    from ..conftest import LocalHub

MANIFESTS = Path(__file__).parents[1] / "models" / "data" / "manifests.json.gz"
PRESET = "mast3r-512"
NAME = PUBLISHED_IDS[PRESET].partition("/")[2]
HEIGHT, WIDTH = 64, 96


class Procedural(LazyTensors):
    """The weights of every golden network, made when they are asked for."""

    def __init__(self, make: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        self._make = make
        with torch.device("meta"):  # has each shared tensor once, under the name that files keep
            state = TwoViewModel(PRESETS[PRESET]).state_dict()
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self._make(key, self.shapes[key])


def block_image(name: str) -> Tensor:
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    blocks = generator.randint(0, 256, size=(1, 3, HEIGHT // 16, WIDTH // 16))
    pixels = blocks.repeat(16, axis=2).repeat(16, axis=3).astype(np.float32)
    return torch.from_numpy((pixels / 255 - 0.5) / 0.5)


def published_config() -> str:
    """Give the `config.json` of the manifest; infinities are words there."""
    kwargs = json.loads(gzip.decompress(MANIFESTS.read_bytes()))[NAME]["kwargs"]
    text = json.dumps(kwargs).replace('"inf"', "Infinity").replace('"-inf"', "-Infinity")
    assert json.loads(text)["depth_mode"] == ["exp", -math.inf, math.inf]
    return text


@pytest.mark.slow
@torch.no_grad()
def test_full_size_from_the_hub(golden, procedural, hub: LocalHub, tmp_path: Path) -> None:
    file = golden("fullsize_procedural")
    source = tmp_path / "source"
    write_tensors(source / "model.safetensors", Procedural(procedural), "float32")
    (source / "config.json").write_text(published_config())
    hub.publish(PUBLISHED_IDS[PRESET], source, large=True)
    try:
        model = load_model(PRESET, device="cpu")
        assert model.config == PRESETS[PRESET]
        prediction = model(block_image("v1"), block_image("v2"))
        for name, view, point_key in (
            ("pred1", prediction.view1, "pts3d"),
            ("pred2", prediction.view2, "pts3d_in_other_view"),
        ):
            maps = {
                point_key: view.pointmap,
                "conf": view.confidence,
                "desc": view.descriptors,
                "desc_conf": view.descriptor_confidence,
            }
            for key, actual in maps.items():
                expected = file[f"{NAME}/{HEIGHT}x{WIDTH}/{name}/{key}_stride5"]
                limit = 3e-5 * np.abs(expected).max()
                actual = actual[0, 2::5, 1::5].numpy()
                np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=limit)

        saved = convert_checkpoint(PRESET, tmp_path / "half", dtype="float16", offline=True)
        assert saved.tensors == 1009 and saved.provenance.licence == "CC BY-NC-SA 4.0"
        half = TensorFile(saved.file)
        for key, value in model.state_dict().items():
            if key.endswith("0.attn.qkv.weight"):
                assert torch.equal(half[key], value.half().float())
    finally:  # pytest would keep gigabytes for three runs
        for folder in (source, hub.home, tmp_path / "half"):
            shutil.rmtree(folder, ignore_errors=True)
