"""What is chosen for a checkpoint when the user says nothing: measured, not guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..models.config import ModelConfig
from ..models.two_view import TwoViewModel

CameraRoad = Literal["matches", "pointmaps"]
DepthRoad = Literal["sweep", "pointmaps"]


@dataclass(frozen=True)
class InferenceDefaults:
    """Settings of one family of checkpoints.

    Attributes:
        size: long side of the network's input, pixels.
        cameras: where cameras come from.
        depth: where dense depth comes from.
    """

    size: int
    cameras: CameraRoad
    depth: DepthRoad


_BY_NAME = {
    "weav3r-small": InferenceDefaults(size=384, cameras="matches", depth="sweep"),
    "dust3r-224-linear": InferenceDefaults(size=224, cameras="pointmaps", depth="pointmaps"),
}
_METRIC = {"mast3r-512"}
_WITH_DESCRIPTORS = InferenceDefaults(size=512, cameras="matches", depth="pointmaps")
_WITHOUT_DESCRIPTORS = InferenceDefaults(size=512, cameras="pointmaps", depth="pointmaps")


def inference_defaults(model: TwoViewModel) -> InferenceDefaults:
    """Defaults of a checkpoint, by the preset it was made from."""
    return config_defaults(model.config)


def config_defaults(config: ModelConfig) -> InferenceDefaults:
    """The same for a checkpoint whose weights are not loaded."""
    named = _BY_NAME.get(config.name)
    if named is not None:
        return named
    return _WITH_DESCRIPTORS if config.descriptor_dim else _WITHOUT_DESCRIPTORS


def inference_size(model: TwoViewModel) -> int:
    """Default long side of the network's input."""
    return inference_defaults(model).size


def predicts_metres(config: ModelConfig) -> bool:
    """Whether the pointmaps of a checkpoint are in metres, by the preset it was made from."""
    return config.name in _METRIC
