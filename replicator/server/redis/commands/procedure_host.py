"""What a procedure gets and returns: its `tx`, and values as replies."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from replicator.errors import Definite, TransactionTooLarge
from replicator.limits import MAX_EXEC_MS, MAX_PROCEDURE_ITEMS, MAX_REPLY_BYTES, MAX_SQL_PARAMETERS, MAX_WRITE_ITEMS
from replicator.procedures import CommandError
from replicator.procedures.running import HEADROOM, Ended
from replicator.procedures.texts import plain
from replicator.records.tape import TapeFull
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.commands.scripts import OF_NODE, ScriptHost
from replicator.server.redis.resp import Encoded, Error, NullArray, Push, Reply, Simple, Verbatim
from replicator.server.redis.turns import ReplyTooLarge
from replicator.sql.database import ENGINE as SQLITE
from replicator.sql.parsing import parse
from replicator.sql.values import INT64
from replicator.steps import finish

T = TypeVar("T")
V = TypeVar("V", float, str)

_MAX_NESTING = 100  # of the value that is returned
_ITEMS_AT_ONCE = 1_000  # of it, between two looks at the time
_REFUSED = OF_NODE | {b"time"}


class ProcedureEnded(TransactionTooLarge):
    """The procedure has exceeded a limit. Neither it nor the transaction that it is part of has any effect."""


class ProcedureTransaction:
    """Implements `procedures.Transaction`, the `tx` of a procedure."""

    def __init__(self, keyspace: WritableKeyspace) -> None:
        self.failure: Definite | None = None  # why the procedure was ended
        self.is_over = False
        self._keyspace = keyspace
        self._host = ScriptHost(keyspace, keyspace)

    def __repr__(self) -> str:
        return "<transaction>"

    def now(self) -> float:
        return self._on_tape("now", time.time)

    def random(self) -> float:
        return self._on_tape("random", random.SystemRandom().random)

    def uuid(self) -> str:
        return self._on_tape("uuid", lambda: str(uuid.uuid4()))

    def call(self, name: str, *arguments: object) -> Any:
        self.check()
        if len(arguments) >= MAX_WRITE_ITEMS:
            raise CommandError(f"ERR a command has at most {MAX_WRITE_ITEMS} arguments")
        args = [_bytes(name), *map(_bytes, arguments)]
        if args[0].lower() in _REFUSED:
            raise CommandError(f"ERR {name} is not allowed in procedures: its result depends on the node")
        try:
            with HEADROOM:
                reply = self._host.execute(args)
        except Definite as error:
            raise self._end(error) from None
        if isinstance(reply, Error):
            raise CommandError(reply.text)
        return _value(reply)

    def sql(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        self.check()
        keyspace = self._keyspace
        if not isinstance(statement, str):
            raise TypeError("a statement is a str")
        given = _parameters(parameters)
        keyspace.command_info.engines |= {SQLITE}
        mark = keyspace.transaction.mark()
        try:
            with HEADROOM:
                steps = keyspace.programs.sql.execute(
                    keyspace.transaction, keyspace.tape, keyspace.now_ms, parse(statement), given
                )
                result = finish(steps, self.check)
        except (TransactionTooLarge, TapeFull) as error:
            raise self._end(error) from None
        except Definite as error:
            keyspace.transaction.roll_back_to(mark)
            raise CommandError(f"{error.code} {error}") from None
        keyspace.command_info.reads += result.reads
        return [tuple(row) for row in result.rows]

    def check(self) -> None:
        """Raises `Ended` if a limit is exceeded."""
        if self.is_over:
            raise RuntimeError("the procedure has ended: its transaction cannot be used any more")
        if self.failure is not None:
            raise Ended
        if self._host.is_over_time():
            raise self._end(
                ProcedureEnded(
                    f"the procedure takes more than {MAX_EXEC_MS} ms of CPU time, in which no other client is served: "
                    "nothing of it has taken effect; split it"
                )
            )

    def _on_tape(self, name: str, function: Callable[[], V]) -> V:
        self.check()
        try:
            return self._keyspace.tape.call(name, function)
        except TapeFull as error:
            raise self._end(error) from None

    def _end(self, error: Definite) -> Ended:
        self.failure = ProcedureEnded(str(error)) if isinstance(error, TapeFull) else error
        return Ended()


# Values


def to_python(data: bytes) -> str | bytes:
    """Text in UTF-8 is a str."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _bytes(value: object) -> bytes:
    """Raises `TypeError`, `ValueError`."""
    match value:
        case bool():
            pass
        case str():
            return plain(value).encode()
        case bytes() | bytearray():
            return bytes(value)
        case int():
            return b"%d" % value
        case float():
            return repr(value).encode()
    raise TypeError(f"an argument of a command is a str, bytes, int or float, not {type(value).__name__}")


def _parameters(given: object) -> Any:
    """Raises `TypeError`, `ValueError`."""
    if isinstance(given, Mapping | Sequence) and len(given) > MAX_SQL_PARAMETERS:
        raise ValueError(f"a statement has at most {MAX_SQL_PARAMETERS} parameters")
    if isinstance(given, Mapping):
        return {name: _parameter(value) for name, value in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return [_parameter(value) for value in given]
    raise TypeError("the parameters of a statement are a list, a tuple or a dict")


def _parameter(value: object) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return plain(value)
    if value is None or isinstance(value, int | float | bytes):
        return value
    raise TypeError(f"a parameter is None, a number, a str or bytes, not {type(value).__name__}")


def _value(reply: Reply) -> Any:
    match reply:
        case bytes():
            return to_python(reply)
        case Simple(text):
            return text.decode()
        case list():
            return [_value(it) for it in reply]
        case dict():
            return {to_python(name): _value(it) for name, it in reply.items()}
        case NullArray() | Push() | Encoded() | Verbatim():
            raise CommandError("ERR this command has no reply that a procedure can use")
        case Error(text):
            raise CommandError(text)
    return reply


class ReplyOfProcedure:
    """Converts what a procedure returns."""

    def __init__(self, check: Callable[[], None], *, limited: bool = True) -> None:
        """`check` raises an exception if the time is over. Unless `limited`, the leader has counted the values."""
        self._limited = limited
        self._check = check
        self._items = 1
        self._bytes = MAX_REPLY_BYTES

    def convert(self, value: object, nesting: int = 0) -> Reply:
        """Raises `TypeError`, `ValueError`, `ReplyTooLarge`."""
        match value:
            case bool():
                return int(value)
            case None:
                return None
            case int() if value in INT64:
                return int(value)
            case str() | bytes() | float():
                return self._text(value)
            case list() | tuple():
                self._add(len(value), nesting)
                return [self.convert(it, nesting + 1) for it in self._checked(value)]
            case dict():
                self._add(2 * len(value), nesting)
                return {self._text(name): self.convert(it, nesting + 1) for name, it in self._checked(value.items())}
        raise TypeError(
            "a procedure returns None, a str, bytes, an int of 64 bits, a float, or a list or dict of these, not "
            f"{type(value).__name__}"
        )

    def _add(self, items: int, nesting: int) -> None:
        self._items += items
        if self._limited and self._items > MAX_PROCEDURE_ITEMS:
            raise ValueError(f"what a procedure returns has at most {MAX_PROCEDURE_ITEMS} values")
        if nesting == _MAX_NESTING:
            raise ValueError(f"what a procedure returns is nested at most {_MAX_NESTING} times")

    def _text(self, value: object) -> bytes:
        text = _bytes(value)
        self._bytes -= len(text)
        if self._bytes < 0:
            raise ReplyTooLarge
        return text

    def _checked(self, items: Iterable[T]) -> Iterator[T]:
        for n, it in enumerate(items):
            if n % _ITEMS_AT_ONCE == 0:
                self._check()
            yield it
