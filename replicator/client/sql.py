"""SQL statements: what they do, the command that executes them, and their result. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from enum import Enum, auto
from numbers import Integral
from typing import Any, TypeAlias

import msgpack

from replicator.client.requests import check_size
from replicator.errors import BadRequest

SqlValue: TypeAlias = int | float | str | bytes | None
"""As SQLite stores it."""
Row: TypeAlias = tuple[Any, ...]
"""Of such values."""
Params: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Values for `?` in their order, or for `:name` by their names. Dates and times are stored as text in ISO format."""

_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_TOKENS = re.compile(
    r"""\s+ | --[^\n]* | /\*.*?(?:\*/|\Z)
    | '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^]]*\]
    | (?P<word> [^\W\d][\w$]*) | (?P<mark> .)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED = "'\"`["


class StatementKind(Enum):
    READ = auto()
    WRITE = auto()  # of rows
    SCHEMA = auto()  # CREATE, DROP, ALTER, and all others
    BEGIN = auto()
    COMMIT = auto()
    ROLLBACK = auto()
    SAVEPOINT = auto()  # also RELEASE and ROLLBACK TO


_KINDS = {
    "SELECT": StatementKind.READ,
    "VALUES": StatementKind.READ,
    "PRAGMA": StatementKind.READ,
    "EXPLAIN": StatementKind.READ,
    "INSERT": StatementKind.WRITE,
    "REPLACE": StatementKind.WRITE,
    "UPDATE": StatementKind.WRITE,
    "DELETE": StatementKind.WRITE,
    "BEGIN": StatementKind.BEGIN,
    "COMMIT": StatementKind.COMMIT,
    "END": StatementKind.COMMIT,
    "SAVEPOINT": StatementKind.SAVEPOINT,
    "RELEASE": StatementKind.SAVEPOINT,
}


@dataclass(frozen=True, slots=True)
class SqlResult:
    """The rows of a statement, over which it iterates, and what the statement changed."""

    columns: tuple[str, ...]
    types: tuple[str | None, ...]  # of the columns, as declared; None for an expression
    rows: tuple[Row, ...]
    changes: int  # rows that were inserted, updated or deleted
    last_id: int | None  # rowid of the row that was inserted last

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def tokens(statement: str) -> Iterator[str]:
    """Keywords and names in upper case, other marks, and a quote for each quoted part; no comments."""
    for found in _TOKENS.finditer(statement):
        if found["word"]:
            yield found["word"].upper()
        elif found["mark"] or found[0][0] in _QUOTED:
            yield found[0][0]


def statement_kind(statement: str) -> StatementKind:
    """An empty statement is a `READ`, as it changes nothing."""
    words = (token for token in tokens(statement) if token != ";")
    first = next(words, "SELECT")
    if first == "WITH":
        first = _verb_after_with(words)
    if first == "ROLLBACK":
        return StatementKind.SAVEPOINT if "TO" in words else StatementKind.ROLLBACK
    return _KINDS.get(first, StatementKind.SCHEMA)


def _verb_after_with(words: Iterator[str]) -> str:
    """The word after the parenthesis that ends the last common table expression: neither a comma nor AS follows it."""
    depth, previous = 0, ""
    for word in words:
        if depth == 0 and previous == ")" and word not in {",", "AS"}:
            return word
        depth += (word == "(") - (word == ")")
        previous = word
    return "SELECT"


def check_is_no_transaction(statement: str) -> StatementKind:
    """The kind of the statement. Raises `BadRequest` if it begins or ends a transaction."""
    kind = statement_kind(statement)
    if kind not in {StatementKind.READ, StatementKind.WRITE, StatementKind.SCHEMA}:
        raise BadRequest("sql() executes single statements: for transactions, connect with replicator.client.dbapi")
    return kind


def sql_command(statement: str, params: Params = ()) -> tuple[bytes, ...]:
    """Raises `BadRequest`."""
    if isinstance(params, str | bytes | bytearray) or not isinstance(params, Iterable):
        raise BadRequest(f"the parameters are of type {type(params).__name__}: use a list, a tuple or a dict")
    if isinstance(params, Mapping):
        values: Any = {name: sql_value(value, f":{name}") for name, value in params.items()}
    else:
        values = [sql_value(value, str(place)) for place, value in enumerate(params, 1)]
    try:
        return check_size((b"REPL.SQL", statement.encode(), b"PARAMS", msgpack.packb(values)))
    except UnicodeEncodeError:
        raise BadRequest("the statement or a parameter has characters that UTF-8 cannot encode") from None


def sql_value(value: Any, place: str) -> SqlValue:
    """`place`: number or name of the parameter. Raises `BadRequest`."""
    match value:
        case None | str() | bytes():
            return value
        case float():
            return float(value)  # also of a subclass, such as numpy's
        case Integral():
            if not _MIN_INT <= (number := int(value)) <= _MAX_INT:
                raise BadRequest(f"parameter {place} is too large: integers have 64 bits")
            return number
        case bytearray() | memoryview():
            return bytes(value)
        case datetime():
            return value.isoformat(" ")
        case date() | time():
            return value.isoformat()
    kind = type(value).__name__
    raise BadRequest(f"parameter {place} is of type {kind}: use int, float, str, bytes, None, a date or a time")


def parse_result(reply: bytes) -> SqlResult:
    """`reply` to `sql_command`."""
    fields = msgpack.unpackb(reply)
    return SqlResult(
        columns=tuple(name for name, _ in fields["columns"]),
        types=tuple(declared for _, declared in fields["columns"]),
        rows=tuple(map(tuple, fields["rows"])),
        changes=fields["changes"],
        last_id=fields["last_id"],
    )
