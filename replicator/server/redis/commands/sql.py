"""SQL statements, and transactions over several commands. docs/sql.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from replicator.errors import BadRequest
from replicator.limits import MAX_SQL_PARAMETERS
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.commands.registry import SYNTAX, refuse_in_multi, variants
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.interactive import InteractiveTransaction
from replicator.server.redis.resp import InPieces, Reply
from replicator.sql.database import ENGINE
from replicator.sql.engine import Result
from replicator.sql.errors import SqlError
from replicator.sql.parsing import parse
from replicator.sql.statement import Control, ControlAction, Parsed, Query
from replicator.sql.tokens import Parameters
from replicator.sql.values import ResultColumn, SqlValue, size_of
from replicator.steps import Steps, finish

NAME = "repl.sql"
_SHORT = 1_000  # bytes of a statement that is kept in a cache
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 200, 1 << 20  # that are encoded at once
_ROWS_PER_STEP = 20
_PACKER = msgpack.Packer()
_ROWS = _PACKER.pack("rows")
_NOTHING = Result((), ())
_ENGINES = frozenset({ENGINE})
_TYPES = frozenset({int, float, str, bytes, type(None)})


class _Request(NamedTuple):
    parsed: Parsed
    parameters: Parameters
    packed: bool  # the reply is MessagePack, as the parameters are


def choose(args: Args) -> Command:
    """The command that executes the statement. Raises `SqlError`."""
    match _parsed(args[1]).statement:
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
    reply = _reply_at_once(request, result)
    return (yield from _reply(request, result)) if reply is None else reply


def execute(keyspace: WritableKeyspace, args: Args) -> Steps[Reply]:
    request = _request(args)
    engine = keyspace.programs.sql
    keyspace.command_info.engines |= _ENGINES
    result = yield from engine.execute(
        keyspace.transaction, keyspace.tape, keyspace.now_ms, request.parsed, request.parameters
    )
    keyspace.command_info.reads += result.reads
    reply = _reply_at_once(request, result)
    return (yield from _reply(request, result)) if reply is None else reply


def control(connection: ConnectionContext, args: Args) -> None:
    """BEGIN, COMMIT, ROLLBACK and savepoints."""
    refuse_in_multi(connection, "BEGIN and COMMIT cannot be part of MULTI and EXEC: use one or the other")
    request = _request(args)
    statement, transaction = request.parsed.statement, connection.interactive
    assert isinstance(statement, Control)
    reply, name = finish(_reply(request, _NOTHING)), statement.savepoint
    if statement.action is ControlAction.BEGIN:
        if transaction is not None:
            raise SqlError("cannot start a transaction within a transaction")
        connection.server.backend.begin()  # raises if its commands would fail here: clients look for the leader then
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
    parsed = _parsed(args[1])
    option = args[2].upper() if len(args) > 2 else b"VALUES"
    if option == b"PARAMS" and len(args) == 4:
        return _Request(parsed, _unpacked(args[3]), True)
    if option != b"VALUES":
        raise BadRequest(SYNTAX)
    if len(args) - 3 > MAX_SQL_PARAMETERS:
        raise SqlError(f"a statement has at most {MAX_SQL_PARAMETERS} parameters")
    return _Request(parsed, [_text(value) for value in args[3:]], False)


def _parsed(statement: bytes) -> Parsed:
    """Raises `SqlError`."""
    return _parsed_short(statement) if len(statement) <= _SHORT else parse(_text(statement))


@lru_cache(1_000)
def _parsed_short(statement: bytes) -> Parsed:
    """`parse` has a cache, too: this one saves the time to decode the text, twice for each statement."""
    return parse(_text(statement))


def _text(data: bytes) -> str:
    """Raises `SqlError`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SqlError("a statement and its VALUES must be UTF-8: send bytes with PARAMS") from None


def _unpacked(data: bytes) -> Parameters:
    """Raises `SqlError`."""
    try:
        values: Any = msgpack.unpackb(data) if len(data) <= _SHORT else _unpacked_long(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise SqlError(f"the parameters are not valid MessagePack: {str(error) or type(error).__name__}") from error
    if isinstance(values, dict) and all(isinstance(name, str) for name in values):
        return {name: value if type(value) in _TYPES else _value(value) for name, value in values.items()}
    if isinstance(values, list):
        return [value if type(value) in _TYPES else _value(value) for value in values]
    raise SqlError("the parameters must be a MessagePack array, or a map from their names")


def _unpacked_long(data: bytes) -> Any:
    """Ends at the second array or map, before it becomes many objects. Raises `ValueError`, `UnpackException`."""
    containers = 0

    def count(value: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > 1:
            raise ValueError("an array or map is not a value of SQL")
        return value

    most = MAX_SQL_PARAMETERS
    return msgpack.unpackb(data, max_array_len=most, max_map_len=most, list_hook=count, object_hook=count)


def _value(value: object) -> SqlValue:
    """The SQL value of a parameter whose type is not in `_TYPES`. Raises `SqlError`."""
    if isinstance(value, bool):
        return int(value)
    raise SqlError(f"a parameter must be null, a number, text or bytes, not {type(value).__name__}")


def _reply_at_once(request: _Request, result: Result) -> bytes | None:
    """None: it is to be encoded in steps."""
    if request.packed and len(result.rows) <= _ROWS_AT_ONCE and sum(map(size_of, result.rows)) <= _BYTES_AT_ONCE:
        return _packed_at_once(result)
    return None


def _reply(request: _Request, result: Result) -> Steps[Reply]:
    return _packed(result) if request.packed else _shown(result)


def _packed(result: Result) -> Steps[Reply]:
    packer, rows = msgpack.Packer(), result.rows
    pieces = [_packed_head(result.columns, result.changes), packer.pack(result.last_id), _ROWS]
    pieces.append(packer.pack_array_header(len(rows)))
    for first in range(0, len(rows), _ROWS_PER_STEP):
        pieces.append(b"".join(map(packer.pack, rows[first : first + _ROWS_PER_STEP])))
        yield 0
    return InPieces(pieces)


def _packed_at_once(result: Result) -> bytes:
    pack = _PACKER.pack
    return b"".join((_packed_head(result.columns, result.changes), pack(result.last_id), _ROWS, pack(result.rows)))


@lru_cache(200)
def _packed_head(columns: Sequence[ResultColumn], changes: int) -> bytes:
    """The beginning of a MessagePack map of 4 entries, up to the name `last_id`."""
    return b"\x84" + b"".join(map(_PACKER.pack, ("columns", columns, "changes", changes, "last_id")))


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
