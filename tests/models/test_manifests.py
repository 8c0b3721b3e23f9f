"""Keys and shapes of our networks against listings of the published checkpoints."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from weav3r.croco_like import CROCO_PRESETS, CrocoConfig, CrocoModel
from weav3r.models import PRESETS, ModelConfig, TwoViewModel
from weav3r.models.weights import canonical_keys

FILE = Path(__file__).parent / "data" / "manifests.json.gz"
MANIFESTS: Mapping[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))

TWO_VIEW = {
    "dust3r-224-linear": "DUSt3R_ViTLarge_BaseDecoder_224_linear",
    "dust3r-512-linear": "DUSt3R_ViTLarge_BaseDecoder_512_linear",
    "dust3r-512-dpt": "DUSt3R_ViTLarge_BaseDecoder_512_dpt",
    "mast3r-512": "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
}
COMPLETION = {
    "croco": "CroCo",
    "croco-v2-base-small": "CroCo_V2_ViTBase_SmallDecoder",
    "croco-v2-base-base": "CroCo_V2_ViTBase_BaseDecoder",
    "croco-v2-large-base": "CroCo_V2_ViTLarge_BaseDecoder",
}


def shapes_of(model: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("preset", TWO_VIEW)
def test_two_view_presets(preset: str) -> None:
    manifest = MANIFESTS[TWO_VIEW[preset]]
    with torch.device("meta"):
        model = TwoViewModel(PRESETS[preset])
        published = {key: torch.empty(shape) for key, shape in manifest["shapes"].items()}
    expected = {key: list(value.shape) for key, value in canonical_keys(published).items()}
    assert shapes_of(model) == expected
    assert sum(p.numel() for p in model.parameters()) == manifest["parameters"]


@pytest.mark.parametrize("preset", TWO_VIEW)
def test_published_arguments_give_the_preset(preset: str) -> None:
    config = ModelConfig.from_dict(MANIFESTS[TWO_VIEW[preset]]["kwargs"])
    published = config.to_dict() | {"name": preset}
    assert ModelConfig.from_dict(published) == PRESETS[preset]


@pytest.mark.parametrize("preset", COMPLETION)
def test_completion_presets(preset: str) -> None:
    manifest = MANIFESTS[COMPLETION[preset]]
    assert CrocoConfig.from_published(manifest["kwargs"]) == CROCO_PRESETS[preset]
    with torch.device("meta"):
        model = CrocoModel(CROCO_PRESETS[preset])
    assert shapes_of(model) == manifest["shapes"]
    assert sum(p.numel() for p in model.parameters()) == manifest["parameters"]
