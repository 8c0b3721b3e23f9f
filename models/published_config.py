"""Constructor arguments of the published DUSt3R and MASt3R networks, in this package's terms."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from .config import (
    PRESETS,
    DescriptorHead,
    ModelConfig,
    PointHead,
    PointMode,
    clipped,
    confidence_from_plain,
    listed,
)

PUBLISHED_NAMES = {
    "patch_size": "patch_size",
    "enc_embed_dim": "encoder_dim",
    "enc_depth": "encoder_depth",
    "enc_num_heads": "encoder_heads",
    "dec_embed_dim": "decoder_dim",
    "dec_depth": "decoder_depth",
    "dec_num_heads": "decoder_heads",
    "mlp_ratio": "mlp_ratio",
    "two_confs": "two_confidences",
    "freeze": "freeze",
}
_HEADS: dict[str, tuple[PointHead, DescriptorHead]] = {
    "linear": ("linear", "none"),
    "dpt": ("dpt", "none"),
    "catmlp+dpt": ("dpt", "mlp"),
}
# Of fields with one meaning in every release: the values that have it.
_FIXED: dict[str, tuple[Any, ...]] = {
    "patch_embed_cls": ("PatchEmbedDust3R", "ManyAR_PatchEmbed", "PatchEmbed"),
    "norm_im2_in_dec": (True,),
    "desc_mode": ("norm",),
}
# Meaningless for the weights, or translated by hand.
_IGNORED = {
    "landscape_only",
    "patch_embed_cls",
    "mask_ratio",
    "norm_im2_in_dec",
    "desc_mode",
    "img_size",
    "pos_embed",
    "output_mode",
    "head_type",
    "depth_mode",
    "conf_mode",
    "desc_conf_mode",
}


def config_from_published(data: Mapping[str, Any]) -> ModelConfig:
    """Translate the constructor arguments of a published DUSt3R or MASt3R checkpoint.

    Args:
        data: the keyword arguments; absent ones take the published defaults, lists stand for
            tuples, infinities may be floats or the strings "inf", "-inf".

    Returns:
        The same network in this package's terms.

    Raises:
        ValueError: for a field or a value that no implemented network has.
    """
    _check_published(data)
    head = data.get("head_type", "linear")
    if head not in _HEADS:
        raise ValueError(f"head_type must be one of {', '.join(_HEADS)}, got {clipped(head)}")
    point_head, descriptor_head = _HEADS[head]
    output = re.fullmatch(r"pts3d(?:\+desc(\d{1,9}))?", data.get("output_mode", "pts3d"))
    if output is None or bool(output[1]) != (descriptor_head == "mlp"):
        given = clipped(data.get("output_mode"))
        raise ValueError(f"output_mode {given} does not fit head_type {head!r}")
    position = re.fullmatch(r"RoPE(\d{1,9}(?:\.\d{1,9})?)", data.get("pos_embed", "cosine"))
    if position is None:
        raise ValueError(
            f"two-view networks need pos_embed like 'RoPE100', got {clipped(data.get('pos_embed'))}"
        )
    values = {ours: data[theirs] for theirs, ours in PUBLISHED_NAMES.items() if theirs in data}
    config = ModelConfig(
        image_size=_size(data.get("img_size", (224, 224))),
        rope_base=float(position[1]),
        point_head=point_head,
        descriptor_head=descriptor_head,
        descriptor_dim=int(output[1] or 0),
        point_mode=_point_mode(data.get("depth_mode", ("exp", -math.inf, math.inf))),
        confidence=confidence_from_plain(data.get("conf_mode", ("exp", 1, math.inf))),
        descriptor_confidence=confidence_from_plain(data.get("desc_conf_mode")),
        **values,
    )
    for preset in PRESETS.values():
        if dataclasses.replace(config, name=preset.name) == preset:
            return preset
    return config


def _check_published(data: Mapping[str, Any]) -> None:
    unknown = sorted(set(map(str, data)) - set(PUBLISHED_NAMES) - _IGNORED)
    if unknown:
        raise ValueError(f"unknown fields in a published model configuration: {listed(unknown)}")
    for field in ("head_type", "output_mode", "pos_embed", "freeze"):
        if not isinstance(data.get(field, ""), str):
            raise ValueError(f"{field} must be text, got {clipped(data[field])}")
    for field, choices in _FIXED.items():
        if field in data and data[field] not in choices:
            raise ValueError(
                f"{field} must be {' or '.join(map(repr, choices))}, got {clipped(data[field])}"
            )


def _size(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(f"img_size must be one or two whole numbers, got {clipped(value)}")
    return (pair[0], pair[1])


def _point_mode(value: Any) -> PointMode:
    try:
        mode, low, high = value
        unbounded = float(low) == -math.inf and float(high) == math.inf
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"depth_mode is [mode, '-inf', 'inf'], got {clipped(value)}") from None
    if not unbounded:
        raise ValueError(f"depth_mode must be unbounded, got {clipped(value)}")
    return mode
