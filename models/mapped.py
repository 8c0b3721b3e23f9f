"""Weights that are views of a file: resident only while they are used.

`load_model` maps float32 files instead of copying them. Their pages come into memory when a layer
first reads its weights. Once all photos are encoded, the encoder, more than half of a large
network, is not read any more and can leave again.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable

from torch import Tensor, nn

_MADV_PAGEOUT = 21  # Linux 5.4: reclaim these pages now; what is not in a file is swapped, not lost
_WORTHWHILE_BYTES = 2**28


def page_out(modules: Iterable[nn.Module]) -> int:
    """Let the mapped weights of some modules leave memory; the next use brings them back.

    Does nothing for weights on another device, for small networks, for weights that are no view
    of a file (see `mark_mapped`), and on systems other than Linux.

    Args:
        modules: parts of a network that will not be used for a while.

    Returns:
        The bytes that the system was asked to reclaim.
    """
    weights = [p for module in modules for p in module.parameters() if _is_mapped(p)]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    if size < _WORTHWHILE_BYTES or not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    page = mmap.PAGESIZE
    for weight in weights:
        start = -(-weight.data_ptr() // page) * page  # whole pages inside the tensor
        stop = (weight.data_ptr() + weight.numel() * weight.element_size()) // page * page
        if stop > start:
            madvise(start, stop - start, _MADV_PAGEOUT)  # advice: a refusal changes nothing
    return size


def mark_mapped(model: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Remember which weights of a network share memory with tensors that are views of a file."""
    places = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    for parameter in model.parameters():
        if parameter.untyped_storage().data_ptr() in places:
            parameter.is_mapped = True  # pyright: ignore[reportAttributeAccessIssue]


def _is_mapped(parameter: nn.Parameter) -> bool:
    return parameter.device.type == "cpu" and getattr(parameter, "is_mapped", False)
