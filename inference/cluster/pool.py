"""Workers of a Ray cluster that take work as they are free, and are replaced when they die."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from .worker import WorkerInfo

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_QUEUED = 2  # calls a worker holds: one that runs, one that is there when it is done
_AHEAD = 4  # results per worker that may wait for an earlier one: bounds the memory
_PATIENCE_S = 60.0


@dataclass(frozen=True, eq=False)
class _Member:
    actor: Any
    info: WorkerInfo


@dataclass(eq=False)
class _Call(Generic[Item]):
    """One item on its way: not handed out, running at a member, or done."""

    item: Item
    member: _Member | None = None
    reference: Any = None
    failures: int = 0
    is_done: bool = False
    result: Any = None


class WorkerPool:
    """Some workers, and the calls they are busy with.

    A call whose worker dies (killed, out of memory, its machine gone) is made again at another
    one; an error that the call itself raises ends the work, as it would come back everywhere.

    Args:
        ray: the module, connected.
        start: starts one worker, without waiting for it.
        accept: looks at a new worker; raises if it cannot be used.
        size: number of workers.
        retries: how often a call is made again.
    """

    def __init__(
        self,
        ray: Any,
        start: Callable[[], Any],
        accept: Callable[[WorkerInfo], None],
        size: int,
        retries: int,
    ) -> None:
        self._ray, self._start, self._accept = ray, start, accept
        self._size, self._retries = size, retries
        self._members: list[_Member] = []
        self._starting: dict[Any, Any] = {}  # reference of the first answer -> worker
        self._failed_starts = 0
        self._is_late = False
        for _ in range(size):
            self._add()

    def map(
        self,
        method: str,
        items: Iterable[Item],
        arguments: Callable[[Item, WorkerInfo], tuple],
    ) -> Iterator[Any]:
        """Call a method of the workers with every item; results come in the items' order.

        Args:
            method: its name.
            items: read as they are needed.
            arguments: of the call, for the worker that will get it.

        Raises:
            RuntimeError: if workers die of one item, or cannot be started.
        """
        source = iter(items)
        calls: deque[_Call[Item]] = deque()
        is_over = False
        while True:
            while not is_over and len(calls) < _AHEAD * self._size:
                try:
                    calls.append(_Call(next(source)))
                except StopIteration:
                    is_over = True
            if not calls:
                return
            self._hand_out(method, calls, arguments)
            if calls[0].is_done:
                yield calls.popleft().result
            else:
                self._wait(calls)

    def close(self) -> None:
        """End all workers."""
        for actor in [*self._starting.values(), *(member.actor for member in self._members)]:
            self._ray.kill(actor)
        self._members.clear()
        self._starting.clear()

    def _add(self) -> None:
        actor = self._start()
        self._starting[actor.hello.remote()] = actor

    def _hand_out(
        self,
        method: str,
        calls: Iterable[_Call[Item]],
        arguments: Callable[[Item, WorkerInfo], tuple],
    ) -> None:
        load = Counter(call.member for call in calls if not call.is_done)
        for call in calls:
            if call.member is not None or call.is_done:
                continue
            member = min(self._members, key=lambda m: load[m], default=None)
            if member is None or load[member] >= _QUEUED:
                return
            call.member = member
            remote = getattr(member.actor, method).remote
            call.reference = remote(*arguments(call.item, member.info))
            load[member] += 1

    def _wait(self, calls: Iterable[_Call[Any]]) -> None:
        """Take what comes first: a result, a death, or a new worker."""
        running = {call.reference: call for call in calls if call.member and not call.is_done}
        ready, _ = self._ray.wait([*running, *self._starting], num_returns=1, timeout=_PATIENCE_S)
        if not ready and not self._members and not self._is_late:
            self._is_late = True
            logger.warning("still waiting for the Ray cluster to start a worker")
        for reference in ready:
            if reference in self._starting:
                self._welcome(reference)
            else:
                self._collect(running[reference])

    def _welcome(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            info = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts <= self._retries:
                self._add()
            elif not self._members and not self._starting:
                raise RuntimeError(f"no Ray worker could be started: {_reason(error)}") from error
            return
        self._accept(info)
        self._members.append(_Member(actor, info))

    def _collect(self, call: _Call[Any]) -> None:
        assert call.member is not None
        errors = self._ray.exceptions
        try:
            call.result, call.is_done = self._ray.get(call.reference), True
        except errors.RayError as error:
            if isinstance(error, errors.RayTaskError) and not isinstance(
                error.cause, errors.RayError
            ):
                _raise_cause(error)
            call.failures += 1
            self._replace(call.member, error)
            if call.failures > self._retries:
                raise RuntimeError(
                    f"{call.failures} Ray workers died of the same work ({call.item}): "
                    f"{_reason(error)}"
                ) from error
        call.member, call.reference = None, None

    def _replace(self, member: _Member, error: Exception) -> None:
        if member not in self._members:  # another of its calls has told so already
            return
        logger.warning(
            "a Ray worker on %s died (%s); its work is done again", member.info.host, _reason(error)
        )
        self._members.remove(member)
        self._ray.kill(member.actor)
        self._add()


def _raise_cause(error: Any) -> NoReturn:
    """Raise what the call raised over there, as if it had been raised here."""
    raise error.cause from error


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
