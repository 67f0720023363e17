"""The recorded history of the clients: each operation with the true times of its call and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from replicator.position import BEFORE_LOG, Offset
from replicator.protocol import levels
from replicator.protocol.levels import Level
from replicator.store.values import decode_value


class OperationKind(StrEnum):
    READ = "read"
    PUT = "put"  # the value becomes the operation's name
    APPEND = "append"  # the name is added to the value, in one transaction
    REMOVE = "remove"  # a leader removes a row that has expired; `Operation.value` is what it removes


class Outcome(StrEnum):
    OK = "OK"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"


@dataclass(slots=True)
class Operation:
    name: str  # unique in a history, and part of the value written
    node: str
    kind: OperationKind
    key: bytes
    called_s: float
    level: Level | None = None  # of a read; None: a read at the leader without a level
    in_transaction: bool = False  # a read that a transaction makes, which changes nothing
    ttl_ms: int = 0  # of the value that a put writes; 0: it does not expire
    outcome: Outcome | None = None  # None: not answered yet
    answered_s: float = inf
    value: bytes | None = None  # what a read returned
    offset: Offset = BEFORE_LOG  # of the store that answered a read, or of the record of a write
    why: str = ""

    def answer(
        self, outcome: Outcome, now_s: float, why: str = "", value: bytes | None = None, offset: Offset = BEFORE_LOG
    ) -> None:
        self.outcome, self.answered_s, self.why, self.value, self.offset = outcome, now_s, why, value, offset

    def after(self, before: bytes | None) -> bytes | None:
        """The value of the key after this operation; `before` is the value it was applied to."""
        if self.kind is OperationKind.READ:
            return before
        if self.kind is OperationKind.REMOVE:
            return None
        name = self.name.encode()
        return b"s" + name if self.kind is OperationKind.PUT or before is None else before + b"," + name

    def __str__(self) -> str:
        shown = f" = {self.value!r}" if self.kind is OperationKind.READ and self.outcome is Outcome.OK else ""
        level = f"{self.level} " if self.level else "transaction's " if self.in_transaction else ""
        what = f"{self.name} {level}{self.kind} {self.key.decode()} at {self.node}"
        return f"{what}: {self.outcome}{shown} {self.why}".rstrip()


@dataclass(slots=True)
class History:
    operations: list[Operation] = field(default_factory=list)

    def writes(self) -> list[Operation]:
        return [it for it in self.operations if it.kind is not OperationKind.READ]

    def reads(self, *kinds: levels.LevelKind) -> list[Operation]:
        """The successful reads at these levels."""
        return [it for it in self.operations if it.outcome is Outcome.OK and it.level and it.level.kind in kinds]


def without_expiry(stored: bytes | None) -> bytes | None:
    """A stored value as histories have it."""
    if stored is None:
        return None
    value = decode_value(stored)
    return value.tag + value.data


def author_of(value: bytes | None) -> str | None:
    """The name of the operation that wrote `value`."""
    return None if value is None else value[1:].rsplit(b",", 1)[-1].decode()
