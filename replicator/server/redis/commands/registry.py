"""The command table and the decorators that fill it, one for each kind of command."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, TypeVar

from replicator.errors import BadRequest
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.resp import Reply
from replicator.steps import Steps, finish

COMMANDS: dict[bytes, Command] = {}
BY_SPELLING: dict[bytes, Command] = {}
"""`COMMANDS`, also in upper case, as most clients send them."""

H = TypeVar("H", bound=Callable[[Any, Args], Any])
Keys = tuple[int, int, int]
"""First and last index of the keys in a line (negative: from its end), and the step."""

ReadHandler = Callable[[Keyspace, Args], Reply]
LongReadHandler = Callable[[Keyspace, Args], Steps[Reply]]
WriteHandler = Callable[[WritableKeyspace, Args], Reply]
LongWriteHandler = Callable[[WritableKeyspace, Args], Steps[Reply]]
ConnectionHandler = Callable[[ConnectionContext, Args], Reply]
ControlHandler = Callable[[ConnectionContext, Args], None]


def command(
    name: str,
    arity: int,
    kind: CommandKind,
    keys: Keys = (0, 0, 0),
    *,
    before_auth: bool = False,
    long: bool = False,
    line_at: int = 0,
    numkeys_at: int = 0,
) -> Callable[[H], H]:
    """Register a handler. It may raise `errors.Definite`; then the command has had no effect."""

    def register(handler: H) -> H:
        _add(Command(name.encode(), arity, kind, handler, *keys, before_auth, long, line_at, numkeys_at))
        return handler

    return register


def _add(command: Command) -> None:
    COMMANDS[command.name] = BY_SPELLING[command.name] = BY_SPELLING[command.name.upper()] = command


def read(name: str, arity: int, keys: Keys = (1, 1, 1), *, numkeys_at: int = 0) -> Callable[[ReadHandler], ReadHandler]:
    return command(name, arity, CommandKind.READ, keys, numkeys_at=numkeys_at)


def long_read(name: str, arity: int, keys: Keys = (1, 1, 1)) -> Callable[[LongReadHandler], LongReadHandler]:
    """For a handler that works in steps (`turns.Steps`)."""
    return command(name, arity, CommandKind.READ, keys, long=True)


def write(
    name: str, arity: int, keys: Keys = (1, 1, 1), *, line_at: int = 0, numkeys_at: int = 0
) -> Callable[[WriteHandler], WriteHandler]:
    return command(name, arity, CommandKind.WRITE, keys, line_at=line_at, numkeys_at=numkeys_at)


def variants(name: str, arity: int, choose: Callable[[Args], Command], *, line_at: int = 0) -> None:
    """Register a command that depends on its line. `choose` may raise `errors.Definite`."""

    def never(subject: object, args: Args) -> Reply:
        raise AssertionError("its variants are executed")

    _add(Command(name.encode(), arity, CommandKind.WRITE, never, line_at=line_at, variant=choose))


def write_by_line(
    name: str, arity: int, *, line_at: int, may_contain: Collection[bytes] = ()
) -> Callable[[LongWriteHandler], LongWriteHandler]:
    """For a handler that works in steps, as it executes the command at `line_at`: it is long if that command is.

    `may_contain`: names of commands that execute another one, too.
    """

    def register(handler: LongWriteHandler) -> LongWriteHandler:
        long = Command(name.encode(), arity, CommandKind.WRITE, handler, line_at=line_at, long=True)
        short = replace(long, handler=lambda keyspace, args: finish(handler(keyspace, args)), long=False)

        def choose(args: Args) -> Command:
            line = args[line_at:]
            inner = COMMANDS.get(line[0].lower())
            if inner is not None and inner.line_at and inner.name not in may_contain:
                raise BadRequest(f"{name.upper()} cannot execute {inner.name.decode().upper()}")
            return long if look_up(line).long else short

        variants(name, arity, choose, line_at=line_at)
        return handler

    return register


def connection(name: str, arity: int, *, before_auth: bool = False) -> Callable[[ConnectionHandler], ConnectionHandler]:
    return command(name, arity, CommandKind.CONNECTION, before_auth=before_auth)


def control(
    name: str, arity: int, keys: Keys = (0, 0, 0), *, before_auth: bool = False
) -> Callable[[ControlHandler], ControlHandler]:
    return command(name, arity, CommandKind.CONTROL, keys, before_auth=before_auth)


def find(args: Args) -> Command:
    """The command of that name. Raises `BadRequest` with the message of Redis."""
    found = COMMANDS.get(args[0].lower())
    if found is None:
        name, *shown = (arg[:128].partition(b"\0")[0].decode(errors="replace") for arg in args[:20])
        beginning = "".join(f"'{arg}' " for arg in shown)
        raise BadRequest(f"unknown command '{name}', with args beginning with: {beginning}")
    if not found.accepts(len(args)):
        raise wrong_arity(found.name)
    return found


def look_up(args: Args) -> Command:
    """The command of a line, of which its variant may depend. Raises `Definite`, `BadRequest` as `find`."""
    found = find(args)
    return found if found.variant is None else found.variant(args)


def refuse_in_multi(connection: ConnectionContext, message: str) -> None:
    """For commands that cannot be queued. Raises `BadRequest`, and EXEC will fail."""
    if connection.multi.open:
        connection.multi.abort()
        raise BadRequest(message)


def wrong_arity(name: bytes) -> BadRequest:
    return BadRequest(f"wrong number of arguments for '{name.decode()}' command")


def keys_of(command: Command, args: Args) -> list[bytes]:
    """The keys in a line of that command."""
    if command.line_at:
        line = args[command.line_at :]
        inner = COMMANDS.get(line[0].lower())
        return keys_of(inner, line) if inner is not None and inner.accepts(len(line)) else []
    if command.numkeys_at:
        first, count = command.numkeys_at + 1, args[command.numkeys_at]
        return args[first : first + int(count)] if count.isdigit() and int(count) <= len(args) - first else []
    if not command.first_key:
        return []
    last = command.last_key if command.last_key > 0 else len(args) + command.last_key
    return args[command.first_key : last + 1 : command.step]


SYNTAX = "syntax error"
NOT_AN_INTEGER = "value is not an integer or out of range"
_INT64 = range(-(2**63), 2**63)


def hexadecimal(text: bytes, name: str) -> bytes:
    """Raises `BadRequest`."""
    try:
        return bytes.fromhex(text.decode())
    except ValueError:
        raise BadRequest(f"invalid {name}: expected hexadecimal digits") from None


def integer(text: bytes, message: str = NOT_AN_INTEGER) -> int:
    """A signed 64-bit number as Redis accepts it: no leading space, plus sign or zero. Raises `BadRequest`."""
    if len(text) <= 20 and (text.isdigit() or (text[:1] == b"-" and text[1:].isdigit())):
        number = int(text)
        if number in _INT64 and str(number).encode() == text:
            return number
    raise BadRequest(message)
