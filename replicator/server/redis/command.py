"""The description of a command. The table of all commands is in `commands`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

Args = list[bytes]
"""A whole command line, its name first."""


class CommandKind(Enum):
    """Which path a command takes, and the flag that COMMAND shows for it."""

    READ = "readonly"  # handler(keyspace, args)
    WRITE = "write"  # handler(writable keyspace, args)
    CONNECTION = "admin"  # handler(connection context, args); runs at once, also in MULTI
    CONTROL = "noscript"  # handler(connection context, args); sends its reply itself, and is never queued in MULTI


@dataclass(frozen=True, slots=True)
class Command:
    name: bytes  # lower case
    arity: int  # with the name; negative: at least so many
    kind: CommandKind
    handler: Callable[[Any, Args], Any]  # it returns `Steps` if `long`
    first_key: int = 0
    last_key: int = 0
    step: int = 0
    before_auth: bool = False
    long: bool = False  # a read whose time grows with the number of keys or fields
    line_at: int = 0  # where the line of another command begins, which this one executes; 0: no other command
    numkeys_at: int = 0  # where the number of the keys is, which follow it; 0: the keys have fixed places
    variant: Callable[[Args], Command] | None = None  # of which the line decides; it has no handler of its own then

    def accepts(self, count: int) -> bool:
        return count == self.arity if self.arity > 0 else count >= -self.arity
