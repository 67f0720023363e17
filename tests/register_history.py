"""Histories of clients that read and write single keys: each operation with the times of its call and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from replicator.position import BEFORE_LOG, Offset
from replicator.protocol import levels
from replicator.protocol.levels import Level
from replicator.testing.history import Outcome


class OperationKind(StrEnum):
    READ = "read"
    PUT = "put"  # the value becomes the operation's name
    APPEND = "append"  # the name is added to the value


@dataclass(slots=True)
class Operation:
    name: str  # unique in a history, and part of the value written
    node: str
    kind: OperationKind
    key: bytes
    called_s: float
    level: Level | None = None  # of a read; None: a read at the leader without a level
    outcome: Outcome | None = None  # None: not answered yet
    answered_s: float = inf
    value: bytes | None = None  # what a read returned
    offset: Offset = BEFORE_LOG  # of the store that answered a read, or of the record of a write
    why: str = ""

    @property
    def mark(self) -> str:
        return self.name

    @property
    def must_write(self) -> bool:
        return self.kind is not OperationKind.READ

    def answer(
        self, outcome: Outcome, now_s: float, why: str = "", value: bytes | None = None, offset: Offset = BEFORE_LOG
    ) -> None:
        self.outcome, self.answered_s, self.why, self.value, self.offset = outcome, now_s, why, value, offset

    def after(self, before: bytes | None) -> bytes | None:
        """The value of the key after this operation; `before` is the value it was applied to."""
        if self.kind is OperationKind.READ:
            return before
        name = self.name.encode()
        return b"s" + name if self.kind is OperationKind.PUT or before is None else before + b"," + name

    def __str__(self) -> str:
        shown = f" = {self.value!r}" if self.kind is OperationKind.READ and self.outcome is Outcome.OK else ""
        level = f"{self.level} " if self.level else ""
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
