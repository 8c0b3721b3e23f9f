"""What a checkpoint's pickle may build: plain values, inert stand-ins, descriptions of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

MAX_AXES = 16
MAX_ELEMENTS = 2**40
MAX_KEY = 1_000_000  # of whole numbers in dictionaries: optimisers count parameters


@dataclass(frozen=True)
class Opaque:
    """Stands for a value that is never looked at, such as a numpy number.

    Attributes:
        name: what the file calls it.
    """

    name: str


@dataclass(frozen=True)
class Namespace:
    """Stands for an `argparse.Namespace`.

    Attributes:
        values: its attributes, by name.
    """

    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the archive; checked to lie inside its storage.

    Attributes:
        key: name of the storage.
        dtype: of the elements.
        offset: first element, counted in elements of the storage.
        shape: lengths of the axes.
        stride: steps along the axes, in elements.
    """

    key: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size when written out, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Name:
    """An allowed global, not yet used.

    Attributes:
        text: module and name.
    """

    text: str


@dataclass(frozen=True)
class Storage:
    """A storage in the archive.

    Attributes:
        key: its name.
        dtype: of the elements; None if they have no type of their own.
        nbytes: its size.
    """

    key: str
    dtype: torch.dtype | None
    nbytes: int


def allowed(module: str, name: str) -> Name | Opaque:
    """Translate a global of the file.

    Raises:
        ValueError: if it is not on the list.
    """
    text = f"{module}.{name}"
    if text in STORAGES or text in _BUILDERS:
        return Name(text)
    if text in _OPAQUE or (module == "torch" and name in _DTYPES):
        return Opaque(text)
    raise ValueError(
        f"the file asks for {shown(text)}, which no checkpoint needs; refused, nothing was run "
        "(was a whole module saved? save its state_dict in its place)"
    )


def build(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Make the value that the call of an allowed global stands for.

    Raises:
        ValueError: if it is no such global, or the arguments are not those of a checkpoint.
    """
    if not (isinstance(function, Name) and function.text in _BUILDERS):
        raise ValueError(f"the pickle calls {shown(function)}, which is not allowed")
    return _BUILDERS[function.text](arguments)


def checked_key(key: Any) -> Any:
    """Let only keys pass whose hash is cheap and hard to make collide.

    Raises:
        ValueError: for other keys.
    """
    if key is None or isinstance(key, bool | str | bytes):
        return key
    if isinstance(key, int) and 0 <= key < MAX_KEY:
        return key
    raise ValueError(f"the pickle uses {shown(key)} as a key")


def shown(value: Any) -> str:
    """Give a short printable form of something that a file says."""
    if isinstance(value, Name):
        value = value.text
    if isinstance(value, str):
        return value[:100] if value.isascii() and value.isprintable() else ascii(value[:100])
    if isinstance(value, int) and value.bit_length() < 100:
        return str(value)
    return f"a {type(value).__name__}"


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """Describe a tensor of `torch._utils._rebuild_tensor_v2`, with its checks."""
    if len(arguments) not in (6, 7) or (len(arguments) == 7 and arguments[6]):
        raise ValueError("a tensor of the file is described in an unknown way")
    storage = arguments[0]
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise ValueError("a tensor of the file has no typed storage")
    return _placed_tensor(storage, storage.dtype, arguments)


def _tensor_with_dtype(arguments: tuple[Any, ...]) -> StoredTensor:
    """Describe a tensor of `torch._utils._rebuild_tensor_v3`: untyped storage and a dtype."""
    if len(arguments) not in (7, 8) or (len(arguments) == 8 and arguments[7]):
        raise ValueError("a tensor of the file is described in an unknown way")
    storage, dtype = arguments[0], arguments[6]
    if not isinstance(storage, Storage) or not isinstance(dtype, Opaque):
        raise ValueError("a tensor of the file has no storage or no type")
    found = _DTYPES.get(dtype.name.removeprefix("torch."))
    if found is None:
        raise ValueError(f"a tensor of the file is said to be of type {shown(dtype.name)}")
    return _placed_tensor(storage, found, arguments)


def _placed_tensor(
    storage: Storage, dtype: torch.dtype, arguments: tuple[Any, ...]
) -> StoredTensor:
    offset, shape, stride = arguments[1:4]
    if isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride):
        numbers = (offset, *shape, *stride)
        natural = all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in numbers)
        if natural and len(shape) <= MAX_AXES and math.prod(n or 1 for n in shape) <= MAX_ELEMENTS:
            last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
            capacity = storage.nbytes // dtype.itemsize
            if 0 in shape or (last < capacity and math.prod(shape) <= capacity):
                return StoredTensor(storage.key, dtype, offset, shape, stride)
    raise ValueError(
        f"a tensor of the file does not lie inside its storage {shown(storage.key)} "
        f"of {storage.nbytes} bytes"
    )


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    if len(arguments) != 3 or not isinstance(arguments[0], StoredTensor):
        raise ValueError("a parameter of the file is no tensor")
    return arguments[0]


def _nothing(kind: Callable[[], Any]) -> Callable[[tuple[Any, ...]], Any]:
    def build(arguments: tuple[Any, ...]) -> Any:
        if arguments:
            raise ValueError(f"the pickle makes a {kind.__name__} from values")
        return kind()

    return build


def _latin1(arguments: tuple[Any, ...]) -> bytes:
    """Do what `_codecs.encode` is used for: protocol 2 has no bytes of its own."""
    if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        try:
            return arguments[0].encode("latin1")
        except UnicodeEncodeError as error:
            raise ValueError("the pickle is damaged: bytes beyond 255") from error
    raise ValueError("the pickle calls _codecs.encode for something other than bytes")


def _empty_bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise ValueError("the pickle makes bytes from values")
    return b""


def _set(arguments: tuple[Any, ...]) -> set[Any]:
    if len(arguments) != 1 or not isinstance(arguments[0], list):
        raise ValueError("the pickle makes a set from something that is no list")
    return {checked_key(value) for value in arguments[0]}


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) == 1 and isinstance(arguments[0], tuple):
        if all(type(n) is int for n in arguments[0]):
            return arguments[0]
    raise ValueError("the pickle makes a torch.Size from something that is no tuple of numbers")


_DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64 "
        "float8_e4m3fn float8_e5m2"
    ).split()
}
STORAGES: Mapping[str, torch.dtype | None] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": None,
}
_BUILDERS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "collections.OrderedDict": _nothing(dict),
    "argparse.Namespace": _nothing(Namespace),
    "_codecs.encode": _latin1,
    "__builtin__.bytes": _empty_bytes,
    "__builtin__.set": _set,
    "builtins.set": _set,
}
_OPAQUE = frozenset(
    (
        "numpy.dtype",
        "numpy.ndarray",
        "torch.device",
        *(
            f"numpy.{core}.{name}"
            for core in ("core", "_core")
            for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
        ),
        *(
            f"{module}.{kind}"
            for module in ("pathlib", "pathlib._local")
            for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
        ),
    )
)
