"""Runs scripts of sqllogictest (sqlite.org/sqllogictest) on our SQL engine and on SQLite itself, and compares both.

A script has records, separated by empty lines: `statement ok|error`, or `query TYPES [SORT] [LABEL]` with the expected
values, one a line, or their MD5. `skipif` and `onlyif` before a record say for which database it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from replicator.errors import ReplicatorError
from tests.sql_fixture import MemoryDatabase

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class LogicRecord:
    line: int
    sql: str
    is_query: bool = False
    fails: bool | None = None  # None: of a query, or not known
    types: str = ""  # of the columns: T, I or R
    sort: str = "nosort"
    expected: Sequence[str] = ()


@dataclass(slots=True)
class Comparison:
    """Of one script."""

    executed: int = 0
    refused: list[str] = field(default_factory=list)  # a statement that fails only here ends the script
    differences: list[str] = field(default_factory=list)


def records(script: str) -> Iterator[LogicRecord]:
    block: list[tuple[int, str]] = []
    for number, line in enumerate([*script.splitlines(), ""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            block.append((number, line.rstrip()))
        elif block:
            found = _record(block)
            if found is not None:
                yield found
            block = []


def _record(block: Sequence[tuple[int, str]]) -> LogicRecord | None:
    lines = [*block]
    while lines and lines[0][1].split()[0] in ("skipif", "onlyif", "hash-threshold", "halt"):
        condition, *names = lines.pop(0)[1].split()
        if (names[:1] == ["sqlite"] and condition == "skipif") or (condition == "onlyif" and names[0] != "sqlite"):
            return None
    if not lines:
        return None
    (number, head), *rest = lines
    kind, *options = head.split()
    text = [line for _, line in rest]
    at = text.index("----") if "----" in text else len(text)
    sql = "\n".join(text[:at])
    if kind == "statement":
        return LogicRecord(number, sql, fails={"ok": False, "error": True}.get(options[0]))
    return LogicRecord(number, sql, True, None, options[0], (*options[1:], "nosort")[0], text[at + 1 :])


def compare(script: str) -> Comparison:
    ours, theirs = MemoryDatabase(), apsw.Connection(":memory:")
    result = Comparison()
    for record in records(script):
        theirs_found = _found(record, lambda sql: theirs.execute(sql).fetchall())
        ours_found = _found(record, lambda sql: _run(ours, sql))
        where = f"line {record.line}: {record.sql}"
        if isinstance(ours_found, str) and not isinstance(theirs_found, str) and not record.is_query:
            result.refused.append(f"{where}: {ours_found}")
            break  # what follows depends on it
        result.executed += 1
        if isinstance(ours_found, str) or isinstance(theirs_found, str):
            if type(ours_found) is not type(theirs_found) or record.fails is False:
                result.differences.append(f"{where}: {ours_found} instead of {theirs_found}")
            continue
        if record.fails:
            result.differences.append(f"{where}: it has not failed")
        if record.expected and not is_as_expected(record, ours_found):
            result.differences.append(f"{where}: {ours_found[:5]} instead of {record.expected[:5]}")
        if record.is_query and shown(record, ours_found) != shown(record, theirs_found):
            result.differences.append(f"{where}: {ours_found[:5]} instead of {theirs_found[:5]}")
    return result


def _run(database: MemoryDatabase, sql: str) -> Sequence[Row]:
    if sql.lstrip().upper().startswith(("SELECT", "WITH", "VALUES")):
        return database.query(sql).rows
    return database.run(sql).rows


def _found(record: LogicRecord, run: Callable[[str], Sequence[Row]]) -> Sequence[Row] | str:
    """The rows, or which error it is."""
    try:
        return [*run(record.sql)]
    except (apsw.ConstraintError, apsw.MismatchError) as error:
        return f"constraint: {error}"
    except (apsw.Error, ReplicatorError) as error:
        return f"error: {error}"


def is_as_expected(record: LogicRecord, rows: Sequence[Row]) -> bool:
    values = shown(record, rows)
    if len(record.expected) == 1 and "values hashing to" in record.expected[0]:
        count, *_, digest = record.expected[0].split()
        text = "".join(f"{it}\n" for it in values)
        return len(values) == int(count) and hashlib.md5(text.encode()).hexdigest() == digest
    return values == [*record.expected]


def shown(record: LogicRecord, rows: Sequence[Row]) -> list[str]:
    """The values, as scripts have them."""
    texts = [[_text(kind, value) for kind, value in zip(record.types, row, strict=False)] for row in rows]
    if record.sort == "rowsort":
        texts.sort()
    values = [it for row in texts for it in row]
    return sorted(values) if record.sort == "valuesort" else values


def _text(kind: str, value: object) -> str:
    if value is None:
        return "NULL"
    if kind == "I":
        return str(_cast("INTEGER", value))
    if kind == "R":
        return f"{_cast('REAL', value):.3f}"
    text = str(_cast("TEXT", value))
    return "".join(it if " " <= it <= "~" else "@" for it in text) or "(empty)"


_CASTS = apsw.Connection(":memory:")


def _cast(affinity: str, value: Any) -> Any:
    return _CASTS.execute(f"SELECT CAST(? AS {affinity})", (value,)).get
