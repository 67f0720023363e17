"""SQL functions whose results are not determined by their arguments: on the tape of the transaction, or refused.

    random, randomblob                              on the tape
    now and the CURRENT_ ones                       the time of the transaction, which is in its record
    date, time, datetime, julianday, unixepoch,     with 'now' or without a time: the same time; 'localtime' and 'utc'
    strftime, timediff                              depend on the machine, and are refused
    sin, exp, pow, … and the version of SQLite      on the tape: they depend on the libraries of the machine
    changes, last_insert_rowid, load_extension, …   refused

SQLite calls a function with constant arguments once for each statement, and the others for each row, in the order in
which it reads the rows. That is the same wherever the statement is executed on the same data.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import apsw

from replicator.limits import MAX_TAPE_BYTES
from replicator.records.tape import Recorder, Tape
from replicator.sql import bounded
from replicator.sql.errors import SqlError
from replicator.sql.values import SqlValue

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

REFUSED = {
    "changes": "take the number of rows from the reply of the statement",
    "total_changes": "take the number of rows from the replies of the statements",
    "last_insert_rowid": "use RETURNING, or the reply of the statement",
    "load_extension": "extensions cannot be loaded",
    "sqlite_log": "it writes to the log of a process",
    "fts3_tokenizer": "full-text tables are not supported",
    "sqlite_source_id": "it depends on the node",
    "sqlite_compileoption_get": "it depends on the node",
    "sqlite_compileoption_used": "it depends on the node",
}
"""Functions that no statement may call, and what to do instead."""

_TIME_FUNCTIONS = {"date": 0, "time": 0, "datetime": 0, "julianday": 0, "unixepoch": 0, "strftime": 1}
"""The argument that is the time."""

_OF_THE_LIBRARY = """
    acos acosh asin asinh atan atan2 atanh cos cosh exp ln log log10 log2 pow power sin sinh tan tanh
""".split()  # noqa: SIM905 (shorter)


class Calls:
    """The nondeterministic calls of what is executed at the moment."""

    def __init__(self) -> None:
        self._tape: Tape = Recorder()
        self._now_ms = 0
        self._draw = random.SystemRandom()

    def begin(self, tape: Tape, now_ms: int) -> None:
        """A statement is executed, with this tape and for this time."""
        self._tape, self._now_ms = tape, now_ms

    def now(self) -> datetime:
        return _EPOCH + timedelta(milliseconds=self._now_ms)

    def random(self) -> int:
        return self._tape.call("random", lambda: self._draw.getrandbits(64) - (1 << 63))

    def randomblob(self, size: SqlValue) -> bytes:
        wanted = max(1, size) if isinstance(size, int) else 1
        if wanted > MAX_TAPE_BYTES:
            raise SqlError(f"randomblob() makes at most {MAX_TAPE_BYTES} bytes")
        return self._tape.call("randomblob", lambda: self._draw.randbytes(wanted))

    def of_library(self, name: str, function: Callable[[], SqlValue]) -> SqlValue:
        return self._tape.call(name, function)


def register(connection: apsw.Connection, calls: Calls) -> None:
    def scalar(name: str, function: Callable[..., SqlValue], arguments: int, *, constant: bool = True) -> None:
        connection.create_scalar_function(name, function, arguments, deterministic=constant)

    scalar("random", calls.random, 0, constant=False)
    scalar("randomblob", calls.randomblob, 1, constant=False)
    for name in ("current_timestamp", "now"):
        scalar(name, lambda: f"{calls.now():%Y-%m-%d %H:%M:%S}", 0)
    scalar("current_date", lambda: f"{calls.now():%Y-%m-%d}", 0)
    scalar("current_time", lambda: f"{calls.now():%H:%M:%S}", 0)
    plain = apsw.Connection(":memory:")
    bounded.register(connection, plain)
    for name, place in _TIME_FUNCTIONS.items():
        scalar(name, _time_function(plain, name, place, calls), -1)
    scalar("timediff", _timediff(plain, calls), 2)
    for name in _OF_THE_LIBRARY:
        scalar(name, _library_function(plain, name, calls), -1)
    scalar("sqlite_version", lambda: calls.of_library("sqlite_version", apsw.sqlite_lib_version), 0)


def _time_function(plain: apsw.Connection, name: str, place: int, calls: Calls) -> Callable[..., SqlValue]:
    def function(*arguments: SqlValue) -> SqlValue:
        given = [*arguments]
        if len(given) == place:
            given.append("now")
        for index, argument in enumerate(given):
            if index >= place:
                given[index] = _fixed(argument, calls)
        return _result(plain, name, given)

    return function


def _timediff(plain: apsw.Connection, calls: Calls) -> Callable[..., SqlValue]:
    return lambda first, second: _result(plain, "timediff", [_fixed(first, calls), _fixed(second, calls)])


def _fixed(argument: SqlValue, calls: Calls) -> SqlValue:
    """A time or modifier that does not depend on when or where it is used. Raises `SqlError`."""
    if not isinstance(argument, str):
        return argument
    word = argument.strip().lower()
    if word == "now":
        return f"{calls.now():%Y-%m-%d %H:%M:%S.%f}"[:-3]
    if word in ("localtime", "utc"):
        raise SqlError(
            f"'{word}' depends on the time zone of the machine: times are in UTC, convert them in the client"
        )
    return argument


def _library_function(plain: apsw.Connection, name: str, calls: Calls) -> Callable[..., SqlValue]:
    return lambda *arguments: calls.of_library(name, lambda: _result(plain, name, arguments))


def _result(plain: apsw.Connection, name: str, arguments: Any) -> SqlValue:
    """Of SQLite's own function."""
    marks = ",".join("?" * len(arguments))
    result: SqlValue = plain.execute(f"SELECT {name}({marks})", tuple(arguments)).get
    return result
