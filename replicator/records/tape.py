"""The tape of a transaction: the results of its nondeterministic calls, in call order.

The leader executes a command with a `Recorder`. A replica that executes it again does so with a `Player`, so that every
call has the result that it had at the leader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from replicator.errors import BadRequest, Diverged
from replicator.limits import MAX_TAPE_BYTES, MAX_TAPE_CALLS

TapeValue = int | float | str | bytes | None
V = TypeVar("V", int, float, str, bytes, TapeValue)


class Call(NamedTuple):
    name: str  # of the function
    result: TapeValue


class Tape(Protocol):
    def call(self, name: str, function: Callable[[], V]) -> V:
        """The result of a nondeterministic call. `function` makes the call, unless its result is recorded."""
        ...

    def mark(self) -> int:
        """The number of calls so far, for `cut`."""
        ...

    def cut(self, mark: int) -> None:
        """Undo the calls since `mark`: what made them is rolled back."""
        ...


class Unrecorded:
    """The tape of what is never executed again, such as a query: it makes each call and records nothing."""

    def call(self, name: str, function: Callable[[], V]) -> V:
        return function()

    def mark(self) -> int:
        return 0

    def cut(self, mark: int) -> None:
        pass


class TapeFull(BadRequest):
    """The transaction makes more calls than a tape can record. It has no effect."""

    code = "TOOLARGE"


class Recorder:
    """Makes each call, and records its result. Raises `TapeFull`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._bytes = 0  # of the results in `calls`

    def call(self, name: str, function: Callable[[], V]) -> V:
        result = function()
        self._bytes += _size(result)
        if len(self.calls) == MAX_TAPE_CALLS or self._bytes > MAX_TAPE_BYTES:
            raise TapeFull(
                f"one transaction makes at most {MAX_TAPE_CALLS} nondeterministic calls, such as random(), whose "
                f"results take at most {MAX_TAPE_BYTES >> 10} KiB: split it"
            )
        self.calls.append(Call(name, result))
        return result

    def mark(self) -> int:
        return len(self.calls)

    def cut(self, mark: int) -> None:
        self._bytes -= sum(_size(it.result) for it in self.calls[mark:])
        del self.calls[mark:]


class Player:
    """Repeats the results of recorded calls. Raises `Diverged` if the calls are not those that were recorded."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._next = 0

    def call(self, name: str, function: Callable[[], V]) -> V:
        if self._next == len(self._calls):
            raise Diverged(f"the command called {name}() here, which it had not done at the leader")
        recorded = self._calls[self._next]
        if recorded.name != name:
            raise Diverged(f"the command called {name}() here, but {recorded.name}() at the leader")
        self._next += 1
        return recorded.result  # type: ignore[return-value]

    def mark(self) -> int:
        return self._next

    def cut(self, mark: int) -> None:
        self._next = mark

    def finish(self) -> None:
        """The command has ended. Raises `Diverged` if a recorded call was not repeated."""
        if self._next < len(self._calls):
            left = self._calls[self._next]
            raise Diverged(f"the command called {left.name}() at the leader, which it has not done here")


def _size(result: TapeValue) -> int:
    """In bytes, about as it takes in a record."""
    return len(result) if isinstance(result, (str, bytes)) else 8
