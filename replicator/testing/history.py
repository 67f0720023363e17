"""The recorded history of the clients: each request with the true times of its call and of its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.levels import Level
from replicator.protocol.log_state import LogState
from replicator.server.redis.command import Args, CommandKind
from replicator.server.redis.commands.registry import look_up
from replicator.store.values import decode_value


class Outcome(StrEnum):
    OK = "OK"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"


@dataclass(slots=True)
class Request:
    """A command, or a transaction, that a client sent once, and the reply."""

    name: str  # unique in a history; begins with the client's
    client: str
    node: str
    lines: tuple[Args, ...]  # the command, or those between MULTI and EXEC
    called_s: float
    level: Level | None = None  # None: the default one, at the leader
    in_transaction: bool = False
    id: bytes | None = None  # of REPL.ONCE or REPL.EXEC; requests that repeat each other share it
    mark: str = ""  # part of all values that it writes; requests that repeat each other share it
    watched: Mapping[bytes, object] = field(default_factory=dict)  # the rows since WATCH, and what was read then
    outcome: Outcome | None = None  # None: not answered yet
    answered_s: float = inf
    reply: object = None  # as hiredis parses it
    record: Offset = BEFORE_LOG  # of a write that succeeded and changed anything: the offset of its record
    state: LogState = field(default_factory=LogState)  # what the store of that node had applied when it answered
    why: str = ""

    @property
    def applied(self) -> Offset:
        return self.state.offset

    @property
    def only_reads(self) -> bool:
        return all(look_up(line).kind is CommandKind.READ for line in self.lines)

    @property
    def must_write(self) -> bool:
        """Whether it writes its mark whenever it succeeds."""
        writes = any(line[0] in (b"SET", b"APPEND") or is_upsert(line) for line in self.lines)
        return writes and not any(removes(line) for line in self.lines)

    def answer(self, outcome: Outcome, now_s: float, why: str = "") -> None:
        self.outcome, self.answered_s, self.why = outcome, now_s, why

    def __str__(self) -> str:
        what = "; ".join(b" ".join(line).decode() for line in self.lines)
        if self.in_transaction:
            watching = f"WATCH {dict(self.watched)} " if self.watched else ""
            what = f"{watching}MULTI {what} EXEC"
        once = f" once as {self.id.decode()}" if self.id else ""
        level = f"{self.level} " if self.level else ""
        shown = f" = {self.reply!r}" if self.outcome is Outcome.OK else ""
        return f"{self.name} {level}{what}{once} at {self.node}: {self.outcome}{shown} {self.why}".rstrip()


def is_sql(line: Args) -> bool:
    return b"REPL.SQL" in line[:3]


def is_upsert(line: Args) -> bool:
    """A statement that always writes the mark of its request."""
    return is_sql(line) and any(b"ON CONFLICT (id) DO UPDATE" in it for it in line)


def removes(line: Args) -> bool:
    """Whether it may remove what another command of the request has written."""
    return line[0] == b"DEL" or any(it.startswith(b"DELETE") for it in line[1:])


@dataclass(slots=True)
class History:
    requests: list[Request] = field(default_factory=list)

    def writes(self) -> list[Request]:
        """Those that may write a value with their mark."""
        return [it for it in self.requests if it.mark]

    def answered(self) -> list[Request]:
        """Those that succeeded."""
        return [it for it in self.requests if it.outcome is Outcome.OK]


def without_expiry(stored: bytes | None) -> bytes | None:
    """A stored value without the time at which it expires."""
    if stored is None:
        return None
    value = decode_value(stored)
    return value.tag + value.data


def plain(reply: object) -> object:
    """A reply that can be compared: errors are their text."""
    if isinstance(reply, list):
        return [plain(it) for it in reply]
    return f"error: {reply}" if isinstance(reply, Exception) else reply


def marks_in(entry: bytes) -> set[str]:
    """The marks in an entry of SQL: the clients write them in brackets."""
    return {it.decode() for it in re.findall(rb"<([\w.]+)>", entry)}


def mark_of(value: bytes | None) -> str | None:
    """The mark of the request that wrote `value`."""
    return None if value is None else value[1:].rsplit(b",", 1)[-1].decode()
