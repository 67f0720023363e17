"""SQL statements, and transactions over several commands. docs/sql.md describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from replicator.errors import BadRequest
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.commands.registry import SYNTAX, refuse_in_multi, variants
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.interactive import InteractiveTransaction
from replicator.server.redis.resp import Reply
from replicator.server.redis.turns import Steps, finish
from replicator.sql.engine import Result
from replicator.sql.errors import SqlError
from replicator.sql.statement import Control, ControlAction, Parsed, Query, parse
from replicator.sql.tokens import Parameters
from replicator.sql.values import SqlValue

NAME = "repl.sql"
_ROWS_AT_ONCE = 200
_NOTHING = Result((), ())


@dataclass(frozen=True, slots=True)
class _Request:
    parsed: Parsed
    parameters: Parameters
    packed: bool  # the reply is MessagePack, as the parameters are


def choose(args: Args) -> Command:
    """The kind of a statement. Raises `SqlError`."""
    match parse(_text(args[1])).statement:
        case Query():
            return _QUERY
        case Control():
            return _CONTROL
        case _:
            return _WRITE


variants(NAME, -2, choose)
"""REPL.SQL statement [VALUES value …] | [PARAMS values]: execute a statement.

`VALUES` gives its parameters as text; the reply is an array of rows, the first of which has the names of the columns,
or the number of rows changed. `PARAMS` gives them as a MessagePack array or map, and the reply is a MessagePack map.
"""


def query(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    request = _request(args)
    result = yield from keyspace.programs.sql.query(keyspace.view, request.parsed, request.parameters, keyspace.now_ms)
    return (yield from (_packed(result) if request.packed else _shown(result)))


def execute(keyspace: WritableKeyspace, args: Args) -> Steps[Reply]:
    request = _request(args)
    keyspace.uses_sql = True
    engine = keyspace.programs.sql
    result = yield from engine.execute(
        keyspace.transaction, keyspace.tape, keyspace.now_ms, request.parsed, request.parameters
    )
    keyspace.reads += result.reads
    return _at_once(request, result)


def control(connection: ConnectionContext, args: Args) -> None:
    """BEGIN, COMMIT, ROLLBACK and savepoints."""
    refuse_in_multi(connection, "BEGIN and COMMIT cannot be part of MULTI and EXEC: use one or the other")
    request = _request(args)
    statement, transaction = request.parsed.statement, connection.interactive
    assert isinstance(statement, Control)
    reply, name = _at_once(request, _NOTHING), statement.savepoint
    if statement.action is ControlAction.BEGIN:
        if transaction is not None:
            raise SqlError("cannot start a transaction within a transaction")
        connection.interactive = InteractiveTransaction(connection.server.backend.now_ms(), connection.server.programs)
    elif transaction is None:
        raise SqlError(f"cannot {statement.action.value.lower()} - no transaction is active")
    elif statement.action is ControlAction.COMMIT:
        connection.commit(reply)
        return
    elif statement.action is ControlAction.ROLLBACK:
        connection.interactive = None
    elif statement.action is ControlAction.SAVEPOINT:
        transaction.set_savepoint(name)
    elif statement.action is ControlAction.RELEASE:
        transaction.release(name)
    else:
        transaction.roll_back_to(name)
    connection.reply(reply)


_QUERY = Command(NAME.encode(), -2, CommandKind.READ, query, long=True)
_WRITE = Command(NAME.encode(), -2, CommandKind.WRITE, execute, long=True)
_CONTROL = Command(NAME.encode(), -2, CommandKind.CONTROL, control)


def _request(args: Args) -> _Request:
    """Raises `BadRequest`, `SqlError`."""
    parsed = parse(_text(args[1]))
    option = args[2].upper() if len(args) > 2 else b"VALUES"
    if option == b"VALUES":
        return _Request(parsed, [_text(value) for value in args[3:]], False)
    if option != b"PARAMS" or len(args) != 4:
        raise BadRequest(SYNTAX)
    return _Request(parsed, _unpacked(args[3]), True)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SqlError("the text is not UTF-8") from None


def _unpacked(data: bytes) -> Parameters:
    """Raises `SqlError`."""
    try:
        values: Any = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise SqlError(f"the parameters are not MessagePack: {error}") from error
    if isinstance(values, dict) and all(isinstance(name, str) for name in values):
        return {name: _value(value) for name, value in values.items()}
    if isinstance(values, list):
        return [_value(value) for value in values]
    raise SqlError("the parameters must be a MessagePack array, or a map from their names")


def _value(value: object) -> SqlValue:
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, (int, float, str, bytes)):
        return value
    raise SqlError(f"a parameter must be null, a number, text or bytes, not {type(value).__name__}")


def _at_once(request: _Request, result: Result) -> Reply:
    return finish(_packed(result) if request.packed else _shown(result))


def _packed(result: Result) -> Steps[Reply]:
    packer = msgpack.Packer()
    parts = [
        b"\x84",  # a map of four
        *map(packer.pack, ("columns", result.columns, "changes", result.changes, "last_id", result.last_id, "rows")),
        packer.pack_array_header(len(result.rows)),
    ]
    for first in range(0, len(result.rows), _ROWS_AT_ONCE):
        parts += map(packer.pack, result.rows[first : first + _ROWS_AT_ONCE])
        yield 0
    return b"".join(parts)


def _shown(result: Result) -> Steps[Reply]:
    if not result.columns:
        return result.changes
    rows: list[Reply] = [[name.encode() for name, _ in result.columns]]
    for number, row in enumerate(result.rows, 1):
        rows.append([_shown_value(value) for value in row])
        if number % _ROWS_AT_ONCE == 0:
            yield 0
    return rows


def _shown_value(value: SqlValue) -> bytes | int | None:
    if value is None or isinstance(value, (int, bytes)):
        return value
    return value.encode() if isinstance(value, str) else repr(value).encode()
