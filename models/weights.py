"""State dicts: strict loading, the two spellings of shared tensors, CroCo as a start."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ._foreign import printable, refuse_prefix
from .two_view import TwoViewModel


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], origin: str = "the weights", assign: bool = False
) -> None:
    """Load a state dict strictly, in place.

    The two published spellings of the DPT reassembly weights (`scratch.layer_rn.0` and
    `scratch.layer1_rn`) are one; a file may hold either or both. A two-view network whose weights
    have no `dec_blocks2` gets a copy of `dec_blocks` there, as in the published code.

    Args:
        model: network to fill.
        state: weights by name.
        origin: what to call them in errors.
        assign: take the tensors over instead of copying them (for networks on the meta device);
            only those of another type than the network's, or that share memory, are copied.

    Raises:
        ValueError: one message that lists every missing, unexpected and mis-shaped tensor, and
            every one that is not of a floating-point type, one a line.
    """
    try:
        refuse_prefix(state)
    except ValueError as error:
        raise ValueError(f"{origin} does not fit the network: {error}") from None
    state = canonical_keys(state)
    if isinstance(model, TwoViewModel):
        state = duplicate_decoder(state)
    own = model.state_dict()
    problems = {
        "missing": sorted(set(own) - set(state)),
        "unexpected": sorted(set(state) - set(own)),
        "of another shape": [
            f"{key}: {tuple(state[key].shape)} instead of {tuple(value.shape)}"
            for key, value in own.items()
            if key in state and state[key].shape != value.shape
        ],
        "not of a floating-point type": [
            f"{key}: {str(value.dtype).removeprefix('torch.')}"
            for key, value in state.items()
            if key in own and not value.is_floating_point()
        ],
    }
    if any(problems.values()):
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in problems.items() if names)
        lines = [f"  {kind}: {name}" for kind, names in problems.items() for name in names]
        safe = (printable(line) for line in lines)
        raise ValueError("\n".join([f"{origin} does not fit the network ({counts}):", *safe]))
    if assign:
        state = _unshared({key: value.to(own[key].dtype) for key, value in state.items()})
    model.load_state_dict(state, strict=True, assign=assign)


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy all but the first of the tensors that share memory: training changes them apart."""
    seen: set[int] = set()
    for key, value in state.items():
        memory = 0 if value.is_meta else value.untyped_storage().data_ptr()
        if memory in seen:
            state[key] = value.clone()
        elif memory:
            seen.add(memory)
    return state


def initialise_from_croco(
    model: TwoViewModel, state: Mapping[str, Tensor], origin: str = "the completion network"
) -> None:
    """Start a two-view network from a cross-view completion network, in place.

    Both decoders start from its one decoder. The heads keep their values; so do the parts that
    only networks of this package have.

    Args:
        model: network to initialise.
        state: state dict of the completion network (rotary positions).
        origin: what to call it in errors.

    Raises:
        ValueError: if the transformers differ in shape, or the completion network knows positions
            from tables of sines and cosines.
    """
    if "enc_pos_embed" in state:
        raise ValueError(
            f"{origin} has position tables (CroCo v1); two-view networks rotate by position and "
            "cannot start from it: use a CroCo v2 checkpoint (RoPE100)"
        )
    merged = {k: v for k, v in state.items() if not k.startswith("prediction_head.")}
    merged = duplicate_decoder(merged)
    own = model.state_dict()
    kept = re.compile(r"(downstream_head|coordinate_embed\.|local_)|\.[qk]_norm\.")
    merged.update({k: v for k, v in own.items() if kept.search(k) and k not in merged})
    load_weights(model, merged, origin=origin)


def duplicate_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state dict without `dec_blocks2` a copy of `dec_blocks` under that name."""
    result = dict(state)
    if not any(key.startswith("dec_blocks2.") for key in state):
        for key, value in state.items():
            if key.startswith("dec_blocks."):
                result["dec_blocks2." + key.removeprefix("dec_blocks.")] = value.clone()
    return result


def canonical_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `scratch.layer_rn.{i}.weight` to `scratch.layer{i + 1}_rn.weight`.

    Raises:
        ValueError: if a weight is there under both names with different values.
    """
    renamed = {key: value for key, value in state.items() if not _ALIAS.search(key)}
    for key, value in state.items():
        if not _ALIAS.search(key):
            continue
        name = _ALIAS.sub(lambda m: f"scratch.layer{int(m[1]) + 1}_rn.weight", key)
        if not _same(renamed.setdefault(name, value), value):
            raise ValueError(f"{key} and {name} are two names of one weight, but differ")
    return renamed


_ALIAS = re.compile(r"scratch\.layer_rn\.([0-3])\.weight$")


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a is b or a.is_meta or a.data_ptr() == b.data_ptr() or torch.equal(a, b)
