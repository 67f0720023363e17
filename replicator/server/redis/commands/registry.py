"""The command table: each family module registers its commands here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from replicator.errors import BadRequest
from replicator.server.redis.resp import Reply

Args = list[bytes]
"""A whole command line, its name first."""


class CommandKind(Enum):
    READ = "readonly"  # handler(keyspace, args)
    WRITE = "write"  # handler(writable keyspace, args)
    SESSION = "admin"  # handler(session, args); runs at once, also within MULTI
    CONTROL = "noscript"  # handler(session, args); writes its reply itself, and never runs within MULTI


@dataclass(frozen=True, slots=True)
class Command:
    name: bytes  # lower case
    arity: int  # with the name; negative: at least so many
    kind: CommandKind
    handler: Callable[[Any, Args], Reply]
    first_key: int = 0
    last_key: int = 0
    step: int = 0
    before_auth: bool = False
    line_at: int = 0  # where the line of another command begins, which this one carries out

    def accepts(self, count: int) -> bool:
        return count == self.arity if self.arity > 0 else count >= -self.arity

    def keys(self, args: Args) -> list[bytes]:
        if self.line_at:
            line = args[self.line_at :]
            inner = TABLE.get(line[0].lower())
            return inner.keys(line) if inner is not None and inner.accepts(len(line)) else []
        if not self.first_key:
            return []
        last = self.last_key if self.last_key > 0 else len(args) + self.last_key
        return args[self.first_key : last + 1 : self.step]


TABLE: dict[bytes, Command] = {}
BY_SPELLING: dict[bytes, Command] = {}
"""Also in upper case, as most clients send it."""

Handler = Callable[[Any, Args], Reply]


def command(
    name: str,
    arity: int,
    kind: CommandKind,
    keys: tuple[int, int, int] = (0, 0, 0),
    *,
    before_auth: bool = False,
    line_at: int = 0,
) -> Callable[[Handler], Handler]:
    """Register a handler. It may raise what `errors.Definite` covers; nothing has happened then."""

    def register(handler: Handler) -> Handler:
        lower = name.encode()
        TABLE[lower] = BY_SPELLING[lower] = BY_SPELLING[lower.upper()] = Command(
            lower, arity, kind, handler, *keys, before_auth, line_at
        )
        return handler

    return register


def read(name: str, arity: int, keys: tuple[int, int, int] = (1, 1, 1)) -> Callable[[Handler], Handler]:
    return command(name, arity, CommandKind.READ, keys)


def write(name: str, arity: int, keys: tuple[int, int, int] = (1, 1, 1)) -> Callable[[Handler], Handler]:
    return command(name, arity, CommandKind.WRITE, keys)


def session(name: str, arity: int, *, before_auth: bool = False) -> Callable[[Handler], Handler]:
    return command(name, arity, CommandKind.SESSION, before_auth=before_auth)


def control(name: str, arity: int, *, before_auth: bool = False) -> Callable[[Handler], Handler]:
    return command(name, arity, CommandKind.CONTROL, before_auth=before_auth)


def look_up(args: Args) -> Command:
    """The command of a line. Raises `BadRequest` as Redis words it."""
    found = TABLE.get(args[0].lower())
    if found is None:
        name, *shown = (arg[:128].partition(b"\0")[0].decode(errors="replace") for arg in args[:20])
        beginning = "".join(f"'{arg}' " for arg in shown)
        raise BadRequest(f"unknown command '{name}', with args beginning with: {beginning}")
    if not found.accepts(len(args)):
        raise wrong_arity(found.name)
    return found


def wrong_arity(name: bytes) -> BadRequest:
    return BadRequest(f"wrong number of arguments for '{name.decode()}' command")


SYNTAX = "syntax error"
NOT_AN_INTEGER = "value is not an integer or out of range"
_INT64 = range(-(2**63), 2**63)


def integer(text: bytes, message: str = NOT_AN_INTEGER) -> int:
    """A signed 64-bit number as Redis takes it: no spaces, signs or zeros in front. Raises `BadRequest`."""
    if len(text) <= 20 and (text.isdigit() or (text[:1] == b"-" and text[1:].isdigit())):
        number = int(text)
        if number in _INT64 and str(number).encode() == text:
            return number
    raise BadRequest(message)
