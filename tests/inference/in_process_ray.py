"""The part of Ray that the cluster engine uses, in this process, with deaths on order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As in ray.exceptions."""


class RayTaskError(RayError):
    """As in ray.exceptions: what the task itself raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ActorDiedError(RayError):
    """As in ray.exceptions."""


@dataclass(eq=False)
class Reference:
    """Of a result, which is computed when it is asked for."""

    compute: Callable[[], Any]
    actor: Actor | None = None
    done: bool = False
    value: Any = None

    def get(self) -> Any:
        if not self.done:
            if self.actor is not None and self.actor.is_dead:
                raise ActorDiedError("killed\nwith a long explanation")
            try:
                self.value = self.compute()
            except RayError:
                raise
            except Exception as error:
                raise RayTaskError(error) from error
            self.done = True
        return self.value


class Actor:
    """One worker."""

    def __init__(self, ray: InProcessRay, make: Callable[[], Any]) -> None:
        self.is_dead, self._ray, self._make, self._made = False, ray, make, None

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._call(name, arguments))

    def _call(self, name: str, arguments: tuple) -> Reference:
        def compute() -> Any:
            if self._ray.dies(self, name):
                self.is_dead = True
                raise ActorDiedError("killed\nwith a long explanation")
            if self._made is None:
                self._made = self._make()
            values = [a.get() if isinstance(a, Reference) else a for a in arguments]
            self._ray.calls.append(name)
            return getattr(self._made, name)(*values)

        reference = Reference(compute, self)
        self._ray.most_waiting = max(self._ray.most_waiting, self._ray.waiting + 1)
        self._ray.waiting += 1
        return reference


@dataclass
class InProcessRay:
    """Stands for the module `ray`.

    Attributes:
        dies: whether a worker dies of a call, by its method.
        calls: methods called, in order.
        actors: workers started.
        most_waiting: calls that were made and not done, at most.
        options: with which the workers were made.
    """

    dies: Callable[[Actor, str], bool] = lambda actor, method: False
    calls: list[str] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    waiting: int = 0
    most_waiting: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    cluster: list[dict[str, Any]] = field(
        default_factory=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}]
    )
    exceptions: Any = field(
        default_factory=lambda: SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    )

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return self.cluster

    def put(self, value: Any) -> Reference:
        return Reference(lambda: value)

    def get(self, reference: Reference) -> Any:
        if reference.actor is not None:
            self.waiting -= 1
        return reference.get()

    def wait(
        self, references: list[Reference], num_returns: int, timeout: float
    ) -> tuple[list[Reference], list[Reference]]:
        """The last one is done first: results come in another order than their calls."""
        return references[-num_returns:], references[:-num_returns]

    def kill(self, actor: Actor) -> None:
        actor.is_dead = True

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.options = options

        def start(kind: type) -> Iterator[Any]:
            def make(*arguments: Any) -> Actor:
                values = [a.get() if isinstance(a, Reference) else a for a in arguments]
                self.actors.append(Actor(self, lambda: kind(*values)))
                return self.actors[-1]

            return SimpleNamespace(remote=make)  # pyright: ignore

        return start
