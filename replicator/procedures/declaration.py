"""What the author of a procedure uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from replicator.records.types import Replication

F = TypeVar("F", bound=Callable[..., Any])
Value = int | float | str | bytes
REPLICATION = "replicate"  # an attribute of a function that is a procedure


class CommandError(Exception):
    """The error of a command or a statement. It has changed nothing. A procedure can catch it, and go on."""


class Transaction(Protocol):
    """The first argument of a procedure."""

    def now(self) -> float:
        """Seconds since 1970, as `time.time()`."""

    def random(self) -> float:
        """At least 0, and less than 1."""

    def uuid(self) -> str:
        """A random one, as text."""

    def call(self, name: str, *arguments: Value) -> Any:
        """The reply of a Redis command. Raises `CommandError`."""

    def sql(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of an SQL statement. Raises `CommandError`."""


@dataclass(frozen=True, slots=True)
class Procedure:
    name: str
    hash: str  # of all that determines what it does: 64 hexadecimal digits
    function: Callable[..., Any]
    replicate: Replication | None  # None: as the policy says


def procedure(function: F | None = None, *, replicate: str | None = None) -> Any:
    """Make a function a procedure. `replicate`: "row", "command" or "mixed", whatever the policy of the cluster is."""

    def declare(function: F) -> F:
        setattr(function, REPLICATION, None if replicate is None else Replication(replicate))
        return function

    return declare if function is None else declare(function)
