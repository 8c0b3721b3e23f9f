"""A pickle reader that runs nothing: a stack machine for the programs that `torch.save` writes.

`pickletools.genops` decodes the program, this module interprets it. No name in a file is ever
imported and no object that a file names is ever called: the few names that `_stored` lists are
turned into plain values there, every other name and every other opcode is an error.

Reference: the opcode table of Python's `pickletools`.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ._stored import STORAGES, Name, Namespace, Opaque, Storage, allowed, build, checked_key, shown

MAX_OPCODES = 500_000  # a training checkpoint of 1000 parameters with AdamW has 150 000
MAX_DEPTH = 64
MAX_NODES = 1_000_000  # of the value when every shared part is counted where it stands


def interpret(program: bytes, storages: Mapping[str, int]) -> Any:
    """Compute the value that a pickle program describes.

    Args:
        program: protocol 2 to 5.
        storages: size in bytes of each storage in the archive, by key.

    Returns:
        A value made of None, bool, int, float, str, bytes, tuple, list, dict, set, `Namespace`,
        `StoredTensor` and `Opaque`; a tree (no cycles) of bounded depth and size.

    Raises:
        ValueError: for a name or an opcode that is not allowed, a tensor that does not fit its
            storage, or a damaged program.
    """
    machine = _Machine(storages, len(program))
    for count, (name, argument) in enumerate(_instructions(program)):
        if count >= MAX_OPCODES:
            raise ValueError(f"the pickle has more than {MAX_OPCODES} instructions")
        machine.step(name, argument)
    return machine.result()


def _instructions(program: bytes) -> Iterator[tuple[str, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(program):
            yield opcode.name, argument
    except (ValueError, struct.error, OverflowError, EOFError) as error:
        raise ValueError(f"the pickle is damaged: {str(error)[:200]}") from error


class _Machine:
    """The state of one interpretation.

    Every container is registered with its depth and its number of nodes, and may not change any
    more once it is part of another: that excludes cycles and keeps both figures exact.

    Args:
        storages: see `interpret`.
        budget: characters and elements that calls may read. Honest programs spell out what each
            call reads, so their own length is enough; one that recalls a large value for thousands
            of calls is refused.
    """

    def __init__(self, storages: Mapping[str, int], budget: int) -> None:
        self.storages = storages
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.extents: dict[int, tuple[int, int]] = {}  # id -> depth, nodes
        self.placed: set[int] = set()
        self.alive: list[Any] = []  # keeps the ids above unique
        self.stopped = False

    def step(self, name: str, argument: Any) -> None:
        """Do one instruction."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _TUPLES:
            self._push_tuple(self._pop(_TUPLES[name]))
        elif name in _EMPTY:
            self._push_container(_EMPTY[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise ValueError(f"the pickle instruction {name} is not allowed in a checkpoint")

    def result(self) -> Any:
        if not self.stopped or len(self.stack) != 1 or self.marks:
            raise ValueError("the pickle is damaged: it does not end with one value")
        return self.stack[0]

    # -- the stack ------------------------------------------------------------------------------

    def _pop(self, count: int) -> list[Any]:
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - floor < count:
            raise ValueError("the pickle is damaged: it takes more values than there are")
        split = len(self.stack) - count
        values = self.stack[split:]
        del self.stack[split:]
        return values

    def _pop_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("the pickle is damaged: a mark is missing")
        values = self._pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return values

    def _top(self, *kinds: type) -> Any:
        (value,) = self._pop(1)
        self.stack.append(value)
        if not isinstance(value, kinds):
            raise ValueError(f"the pickle fills a {type(value).__name__}, which cannot be filled")
        return value

    def _push_container(self, value: Any) -> None:
        self.alive.append(value)
        self.extents[id(value)] = (1, 1)
        self.stack.append(value)

    def _push_tuple(self, values: list[Any]) -> None:
        value = tuple(values)
        if value:  # the empty tuple is one object everywhere
            self.alive.append(value)
            self.extents[id(value)] = (1, 1)
            self._place(value, values)
        self.stack.append(value)

    def _place(self, container: Any, children: list[Any]) -> None:
        """Account for children that become part of a container."""
        if id(container) in self.placed:
            raise ValueError("the pickle changes a part that is in use elsewhere (a cycle?)")
        depth, nodes = self.extents[id(container)]
        for child in children:
            child_depth, child_nodes = self.extents.get(id(child), (0, 1))
            depth, nodes = max(depth, child_depth + 1), nodes + child_nodes
            if id(child) in self.extents:
                self.placed.add(id(child))
        if id(container) in self.placed:
            raise ValueError("the pickle puts a container into itself")
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise ValueError(f"the pickle nests deeper than {MAX_DEPTH} or unfolds without end")
        self.extents[id(container)] = (depth, nodes)

    # -- instructions ---------------------------------------------------------------------------

    def stop(self, _: Any) -> None:
        self.stopped = True

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def ignore(self, _: Any) -> None:
        """Protocol number and frame sizes say nothing that matters here."""

    def tuple_from_mark(self, _: Any) -> None:
        self._push_tuple(self._pop_mark())

    def append(self, _: Any) -> None:
        self._extend(self._pop(1))

    def appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top(list)
        self._place(target, values)
        target.extend(values)

    def add_items(self, _: Any) -> None:
        values = self._pop_mark()
        target = self._top(set)
        self._place(target, values)
        target.update(checked_key(value) for value in values)

    def set_item(self, _: Any) -> None:
        self._update(self._pop(2))

    def set_items(self, _: Any) -> None:
        self._update(self._pop_mark())

    def _update(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("the pickle is damaged: a key without a value")
        target = self._top(dict)
        self._place(target, values)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value

    def put(self, index: int) -> None:
        if not 0 <= index < MAX_OPCODES:
            raise ValueError(f"the pickle remembers a value under the absurd number {index}")
        self.memo[index] = self._top(object)

    def memoize(self, _: Any) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"the pickle is damaged: it recalls value {index}, which is not there")
        self.stack.append(self.memo[index])

    def global_name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(allowed(module, name))

    def stack_global(self, _: Any) -> None:
        module, name = self._pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("the pickle is damaged: a name that is not text")
        self.stack.append(allowed(module, name))

    def persistent_id(self, _: Any) -> None:
        (value,) = self._pop(1)
        if not (isinstance(value, tuple) and len(value) == 5 and value[0] == "storage"):
            raise ValueError("the pickle refers to something outside that is no tensor storage")
        _, kind, key, _, count = value
        if not (isinstance(kind, Name) and kind.text in STORAGES):
            raise ValueError("the pickle names a tensor storage of an unknown type")
        if not isinstance(key, str) or key not in self.storages:
            raise ValueError(f"the archive holds no tensor storage {shown(key)}")
        dtype = STORAGES[kind.text]
        nbytes = self.storages[key]
        if type(count) is not int or count * (dtype.itemsize if dtype else 1) != nbytes:
            raise ValueError(
                f"tensor storage {shown(key)} is said to hold {shown(count)} elements "
                f"({kind.text}) but has {nbytes} bytes"
            )
        self.stack.append(Storage(key, dtype, nbytes))

    def _spend(self, *values: Any) -> None:
        self.budget -= sum(len(value) for value in values if isinstance(value, _SIZED))
        if self.budget < 0:
            raise ValueError("the pickle calls functions with more than it spells out")

    def reduce(self, _: Any) -> None:
        function, arguments = self._pop(2)
        if not isinstance(arguments, tuple):
            raise ValueError("the pickle is damaged: arguments that are no tuple")
        self._spend(*arguments[:1])
        if isinstance(function, Opaque):
            self.stack.append(function)
            return
        value = build(function, arguments)
        if isinstance(value, dict | list | set | Namespace):
            self._push_container(value)
        else:
            self.stack.append(value)

    def fill(self, _: Any) -> None:
        (state,) = self._pop(1)
        target = self._top(dict, Namespace, Opaque)
        if isinstance(target, Namespace):
            self._spend(state)
            if not (isinstance(state, dict) and all(isinstance(key, str) for key in state)):
                raise ValueError("the pickle gives an argparse.Namespace a state that is no dict")
            self._place(target, list(state.values()))
            target.values.update(state)


_SIZED = (str, bytes, tuple, list, dict)
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_TUPLES: Mapping[str, int] = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.ignore,
    "FRAME": _Machine.ignore,
    "STOP": _Machine.stop,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_from_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "BINPERSID": _Machine.persistent_id,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "BUILD": _Machine.fill,
}
