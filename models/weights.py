"""State dicts: strict loading, the two spellings of shared tensors, CroCo as a start."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from .two_view import TwoViewModel


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], origin: str = "the weights", assign: bool = False
) -> None:
    """Load a state dict strictly, in place.

    The two published spellings of the DPT reassembly weights (`scratch.layer_rn.0` and
    `scratch.layer1_rn`) are one; a file may hold either or both.

    Args:
        model: network to fill.
        state: weights by name.
        origin: what to call them in errors.
        assign: take the tensors over instead of copying them (for networks on the meta device).

    Raises:
        ValueError: one message that lists all missing, unexpected and mis-shaped tensors.
    """
    state = canonical_keys(state)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    problems = {
        "missing": sorted(set(wanted) - set(state)),
        "unexpected": sorted(set(state) - set(wanted)),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
            for key, shape in wanted.items()
            if key in state and state[key].shape != shape
        ],
    }
    if any(problems.values()):
        lines = [
            f"  {len(names)} {kind}: {_shortened(names)}"
            for kind, names in problems.items()
            if names
        ]
        raise ValueError(f"{origin} does not fit the network:\n" + "\n".join(lines))
    model.load_state_dict(state, strict=True, assign=assign)


def initialise_from_croco(model: TwoViewModel, state: Mapping[str, Tensor]) -> None:
    """Start a two-view network from a cross-view completion network, in place.

    Both decoders start from its one decoder. The heads keep their values; so do the parts that
    only networks of this package have.

    Args:
        model: network to initialise.
        state: state dict of the completion network (rotary positions).

    Raises:
        ValueError: if the transformers differ in shape.
    """
    merged = {k: v for k, v in state.items() if not k.startswith("prediction_head.")}
    merged = duplicate_decoder(merged)
    own = model.state_dict()
    kept = ("downstream_head", "coordinate_embed.", "local_")
    merged.update({key: value for key, value in own.items() if key.startswith(kept)})
    load_weights(model, merged, origin="the completion network")


def duplicate_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state dict without `dec_blocks2` a copy of `dec_blocks` under that name."""
    result = dict(state)
    if not any(key.startswith("dec_blocks2.") for key in state):
        for key, value in state.items():
            if key.startswith("dec_blocks."):
                result["dec_blocks2." + key.removeprefix("dec_blocks.")] = value
    return result


def canonical_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `scratch.layer_rn.{i}` to `scratch.layer{i + 1}_rn`, dropping exact duplicates."""
    renamed = {key: value for key, value in state.items() if not _ALIAS.search(key)}
    for key, value in state.items():
        if _ALIAS.search(key):
            renamed.setdefault(
                _ALIAS.sub(lambda m: f"scratch.layer{int(m[1]) + 1}_rn.weight", key), value
            )
    return renamed


_ALIAS = re.compile(r"scratch\.layer_rn\.([0-3])\.weight$")


def _shortened(names: list[str], limit: int = 12) -> str:
    extra = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + extra
