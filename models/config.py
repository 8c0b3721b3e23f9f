"""The configuration of a two-view network, its plain-data form and the named presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..croco_like.attention import require_divisible

PointMode = Literal["exp", "square", "linear", "ray"]
PointHead = Literal["linear", "dpt"]
DescriptorHead = Literal["none", "mlp", "local"]
Freeze = Literal["none", "mask", "encoder"]


@dataclass(frozen=True)
class ConfidenceMode:
    """How a logit becomes a confidence.

    Attributes:
        kind: "exp" is `low + min(exp(x), high - low)`, "sigmoid" is `low + (high - low) s(x)`.
        low: lower end of the range.
        high: upper end, may be infinite for "exp".
    """

    kind: Literal["exp", "sigmoid"] = "exp"
    low: float = 1.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.kind not in ("exp", "sigmoid"):
            raise ValueError(f"confidence kind must be exp or sigmoid, got {self.kind!r}")
        if not all(type(bound) in (int, float) for bound in (self.low, self.high)):
            raise ValueError(f"confidence bounds must be numbers, got {self}")
        unbounded = math.isinf(self.low) or (self.kind == "sigmoid" and math.isinf(self.high))
        if unbounded or not self.low < self.high:
            raise ValueError(f"confidence range must be finite and rising, got {self}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the shape and the meaning of a two-view network.

    The defaults of the transformer are those of CroCo.

    Attributes:
        name: preset this comes from, or any label.
        image_size: (height, width) in pixels it was trained for; never limits the input.
        patch_size: side of a patch in pixels.
        encoder_dim: width of the encoder tokens.
        encoder_depth: number of encoder blocks.
        encoder_heads: attention heads of an encoder block.
        decoder_dim: width of the decoder tokens.
        decoder_depth: number of decoder blocks per view.
        decoder_heads: attention heads of a decoder block.
        mlp_ratio: hidden width of the MLPs over the token width.
        rope_base: base of the rotary embedding.
        rope_reference_grid: longest patch grid side seen as it is; positions of larger grids
            are shrunk to it (interpolation). None: positions are never scaled.
        qk_norm: LayerNorm on queries and keys of every attention.
        coordinate_features: add features of the absolute image coordinates to the tokens.
        point_head: "linear" (pixel shuffle) or "dpt".
        point_mode: how the head's three numbers become a 3D point, see `outputs`.
        confidence: of the 3D points; None leaves the channel out.
        descriptor_head: "none", "mlp" (from tokens) or "local" (tokens and a CNN on the image).
        descriptor_dim: channels of a descriptor, 0 without a descriptor head.
        two_confidences: descriptors get a confidence channel of their own.
        descriptor_confidence: its mode; None means the mode of `confidence`.
        dpt_layer_dims: channels of the four reassembled maps, fine to coarse.
        dpt_feature_dim: channels of the fusion blocks.
        dpt_last_dim: channels before the output layer.
        dpt_hooks: indices into the layer list; None derives them from the depth.
        local_dims: channels of the CNN pyramid at strides 1, 2, 4 and 8.
        local_token_dim: channels that the tokens bring into the local descriptor head.
        freeze: parameters that are not trained.
    """

    name: str = "custom"
    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    encoder_dim: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    rope_base: float = 100.0
    rope_reference_grid: int | None = None
    qk_norm: bool = False
    coordinate_features: bool = False
    point_head: PointHead = "linear"
    point_mode: PointMode = "exp"
    confidence: ConfidenceMode | None = ConfidenceMode()
    descriptor_head: DescriptorHead = "none"
    descriptor_dim: int = 0
    two_confidences: bool = False
    descriptor_confidence: ConfidenceMode | None = None
    dpt_layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    dpt_feature_dim: int = 256
    dpt_last_dim: int = 128
    dpt_hooks: tuple[int, int, int, int] | None = None
    local_dims: tuple[int, int, int, int] = (24, 48, 64, 96)
    local_token_dim: int = 96
    freeze: Freeze = "none"

    def __post_init__(self) -> None:
        self._check_types()
        require_divisible(self.encoder_dim, self.encoder_heads, "encoder")
        require_divisible(self.decoder_dim, self.decoder_heads, "decoder")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field} must be one of {', '.join(choices)}, "
                    f"got {clipped(getattr(self, field))}"
                )
        if any(side % self.patch_size for side in self.image_size):
            raise ValueError(
                f"image_size must be a multiple of patch_size={self.patch_size}, "
                f"got {self.image_size}"
            )
        if (self.descriptor_head == "none") != (self.descriptor_dim == 0):
            raise ValueError(
                "descriptor_dim must be positive with a descriptor head and 0 without one, got "
                f"descriptor_head={self.descriptor_head!r}, descriptor_dim={self.descriptor_dim}"
            )
        if self.two_confidences and self.descriptor_mode is None:
            raise ValueError("two_confidences needs a descriptor head and a confidence mode")
        if self.descriptor_head == "local" and self.patch_size % 8:
            raise ValueError(
                "the local descriptor head needs a patch_size that is a multiple of 8, "
                f"got {self.patch_size}"
            )
        if self.point_head == "dpt" and self.patch_size != 16:
            raise ValueError(f"the dpt head needs patch_size=16, got {self.patch_size}")
        hooks = self.hooks
        if self.point_head == "dpt" and not (0 <= hooks[0] and hooks[3] <= self.decoder_depth):
            raise ValueError(
                f"dpt_hooks must lie in 0..decoder_depth={self.decoder_depth}, got {hooks}"
            )

    def _check_types(self) -> None:
        if not isinstance(self.name, str) or len(self.name) > 200:
            raise ValueError("name must be text of at most 200 characters")
        for field, bounds in NUMBERS.items():
            if field != "rope_reference_grid" or self.rope_reference_grid is not None:
                check_number(field, getattr(self, field), bounds)
        for field in _FLAGS:
            if not isinstance(getattr(self, field), bool):
                raise ValueError(
                    f"{field} must be true or false, got {clipped(getattr(self, field))}"
                )
        for field in ("confidence", "descriptor_confidence"):
            if not isinstance(getattr(self, field), ConfidenceMode | None):
                raise ValueError(f"{field} must be a ConfidenceMode, got {getattr(self, field)!r}")
        for field, count in _TUPLES.items():
            values = getattr(self, field)
            if values is None and field == "dpt_hooks":
                continue
            if not isinstance(values, tuple) or len(values) != count:
                raise ValueError(f"{field} must be {count} whole numbers, got {clipped(values)}")
            low = 0 if field == "dpt_hooks" else 1
            for value in values:
                check_number(field, value, Bounds(low, 16384))

    @property
    def hooks(self) -> tuple[int, int, int, int]:
        """Indices of the layers that the DPT head reads; 0 is the encoder output."""
        if self.dpt_hooks is not None:
            return self.dpt_hooks
        depth = self.decoder_depth
        return (0, depth * 2 // 4, depth * 3 // 4, depth)

    @property
    def descriptor_mode(self) -> ConfidenceMode | None:
        """Mode of the descriptor confidence, None without descriptors or confidences."""
        if self.descriptor_head == "none":
            return None
        return self.descriptor_confidence or self.confidence

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON: tuples as lists, infinities as the strings "inf", "-inf"."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Rebuild a configuration from `to_dict` or from a published `config.json`.

        Args:
            data: plain data. Published DUSt3R and MASt3R files are recognised by their field
                names; absent fields take the defaults.

        Returns:
            The configuration.

        Raises:
            ValueError: naming unknown fields or values.
        """
        if "enc_embed_dim" in data or "head_type" in data:
            from .published_config import config_from_published  # it imports this module

            return config_from_published(data)
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(map(str, data)) - known)
        if unknown:
            raise ValueError(
                f"unknown fields in the model configuration: {listed(unknown)}; "
                "was the checkpoint written by a newer version of weav3r?"
            )
        values = {key: _from_plain(key, value) for key, value in data.items()}
        return cls(**values)


@dataclass(frozen=True)
class Bounds:
    """What a number in a configuration may be.

    Far above any network of this kind; they keep a hostile file from asking for all the memory.

    Attributes:
        low: smallest value.
        high: largest value.
        whole: no fractions.
    """

    low: float
    high: float
    whole: bool = True


_WIDTH, _DEPTH, _HEADS = Bounds(1, 16384), Bounds(1, 256), Bounds(1, 1024)
NUMBERS: dict[str, Bounds] = {
    "patch_size": Bounds(1, 256),
    "encoder_dim": _WIDTH,
    "encoder_depth": _DEPTH,
    "encoder_heads": _HEADS,
    "decoder_dim": _WIDTH,
    "decoder_depth": _DEPTH,
    "decoder_heads": _HEADS,
    "mlp_ratio": Bounds(0.01, 64, whole=False),
    "rope_base": Bounds(1e-3, 1e9, whole=False),
    "rope_reference_grid": Bounds(1, 16384),
    "descriptor_dim": Bounds(0, 4096),
    "dpt_feature_dim": _WIDTH,
    "dpt_last_dim": _WIDTH,
    "local_token_dim": _WIDTH,
}
_TUPLES = {"image_size": 2, "dpt_layer_dims": 4, "dpt_hooks": 4, "local_dims": 4}
_FLAGS = ("two_confidences", "qk_norm", "coordinate_features")


def check_number(name: str, value: Any, bounds: Bounds) -> None:
    """Check one number of a configuration.

    Raises:
        ValueError: with the field's name, what it may be and what came.
    """
    kinds = (int,) if bounds.whole else (int, float)
    if type(value) not in kinds or not bounds.low <= value <= bounds.high:
        kind = "a whole number" if bounds.whole else "a number"
        raise ValueError(
            f"{name} must be {kind} from {bounds.low:g} to {bounds.high:g}, got {clipped(value)}"
        )


def clipped(value: Any) -> str:
    """Write a value of a configuration for a message, at most 60 characters."""
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 200 else "a huge one"
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: list[str]) -> str:
    """Write names for a message, at most 300 characters."""
    text = ", ".join(names)
    text = text if len(text) <= 300 else text[:297] + "..."
    return text if text.isprintable() else ascii(text)


_CHOICES: dict[str, tuple[str, ...]] = {
    "point_head": ("linear", "dpt"),
    "point_mode": ("exp", "square", "linear", "ray"),
    "descriptor_head": ("none", "mlp", "local"),
    "freeze": ("none", "mask", "encoder"),
}


def _plain(value: Any) -> Any:
    if isinstance(value, ConfidenceMode):
        return [value.kind, _plain(value.low), _plain(value.high)]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _from_plain(key: str, value: Any) -> Any:
    if key in ("confidence", "descriptor_confidence"):
        return confidence_from_plain(value)
    return tuple(value) if isinstance(value, list) else value


def confidence_from_plain(value: Any) -> ConfidenceMode | None:
    """Rebuild a mode from [kind, low, high], infinities as floats or as text.

    Raises:
        ValueError: if it is no such list.
    """
    if value is None:
        return None
    try:
        kind, low, high = value
        return ConfidenceMode(kind, float(low), float(high))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            "a confidence mode is [kind, low, high], for example ['exp', 1, 'inf'], got "
            f"{clipped(value)}"
        ) from error


_SMALL = ModelConfig(
    name="weav3r-small",
    image_size=(224, 224),
    encoder_dim=256,
    encoder_depth=8,
    encoder_heads=4,
    decoder_dim=192,
    decoder_depth=4,
    decoder_heads=3,
    qk_norm=True,
    rope_reference_grid=14,
    coordinate_features=True,
    point_head="linear",
    point_mode="ray",
    confidence=ConfidenceMode("exp", 1.0, math.inf),
    descriptor_head="local",
    descriptor_dim=24,
    two_confidences=True,
    descriptor_confidence=ConfidenceMode("exp", 0.0, math.inf),
)
_DUST3R = ModelConfig(
    name="dust3r-224-linear",
    encoder_dim=1024,
    encoder_depth=24,
    encoder_heads=16,
    decoder_dim=768,
    decoder_depth=12,
    decoder_heads=12,
)

PRESETS: dict[str, ModelConfig] = {
    "weav3r-small": _SMALL,
    "dust3r-224-linear": _DUST3R,
    "dust3r-512-linear": dataclasses.replace(
        _DUST3R, name="dust3r-512-linear", image_size=(512, 512)
    ),
    "dust3r-512-dpt": dataclasses.replace(
        _DUST3R, name="dust3r-512-dpt", image_size=(512, 512), point_head="dpt"
    ),
    "mast3r-512": dataclasses.replace(
        _DUST3R,
        name="mast3r-512",
        image_size=(512, 512),
        point_head="dpt",
        descriptor_head="mlp",
        descriptor_dim=24,
        two_confidences=True,
        descriptor_confidence=ConfidenceMode("exp", 0.0, math.inf),
    ),
}
