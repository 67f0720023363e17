"""SQL functions: which ones statements may call, and the results that are not determined by their arguments.

    random, randomblob                              on the tape
    now and the CURRENT_ ones                       the time of the transaction, which is in its record
    date, time, datetime, julianday, unixepoch,     with 'now' or without a time: the same time; 'localtime' and 'utc'
    strftime, timediff                              depend on the machine, and are refused
    sin, exp, pow, … and the version of SQLite      on the tape: they depend on the libraries of the machine
    the others in `ALLOWED`                         SQLite's own
    all others                                      refused, whatever functions an SQLite has

SQLite calls a function with constant arguments once for each statement, and the others for each row, in the order in
which it reads the rows. That is the same wherever the statement is executed on the same data.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import apsw

from replicator.limits import MAX_TAPE_BYTES, MAX_TIME_ARGUMENT_BYTES
from replicator.records.tape import Recorder, Tape
from replicator.sql import bounded
from replicator.sql.errors import SqlError
from replicator.sql.names import fold
from replicator.sql.values import SqlValue

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

source: random.Random = random.SystemRandom()
"""The source of random numbers. A simulation replaces it, so that a seed gives one history."""

_TIME_FUNCTIONS = {"date": 0, "time": 0, "datetime": 0, "julianday": 0, "unixepoch": 0, "strftime": 1}
"""The place of the argument that is the time."""

_NOW = frozenset({"now", "subsec", "subsecond"})
"""In that place, they mean the present time; all but the first with fractions of a second."""

_OF_THE_LIBRARY = """
    acos acosh asin asinh atan atan2 atanh cos cosh exp ln log log10 log2 pow power sin sinh tan tanh
""".split()  # noqa: SIM905 (shorter)

_OF_SQLITE = """
    abs char coalesce concat concat_ws format glob hex if ifnull iif instr length like likelihood likely lower ltrim
    nullif octet_length printf quote replace round rtrim sign substr substring subtype trim typeof unhex unicode unistr
    unistr_quote unlikely upper zeroblob

    ceil ceiling degrees floor mod pi radians sqrt trunc

    avg count group_concat max median min percentile percentile_cont percentile_disc string_agg sum total
    cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number

    -> ->> json json_array json_array_insert json_array_length json_error_position json_extract json_group_array
    json_group_object json_insert json_object json_patch json_pretty json_quote json_remove json_replace json_set
    json_type json_valid jsonb jsonb_array jsonb_array_insert jsonb_extract jsonb_group_array jsonb_group_object
    jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set
""".split()  # noqa: SIM905
"""Their results depend on their arguments only."""

_CURRENT = ("current_timestamp", "current_date", "current_time")
_VARYING = ("random", "randomblob", "now", "sqlite_version")
"""Their results are not determined by their arguments."""

ALLOWED = frozenset(
    {
        *_VARYING, *_CURRENT, "timediff", *_TIME_FUNCTIONS, *_OF_THE_LIBRARY, *_OF_SQLITE,
    }
)  # fmt: skip
"""The functions that a statement may call."""

_INSTEAD = {
    "changes": "take the number of rows from the reply of the statement",
    "total_changes": "take the number of rows from the replies of the statements",
    "last_insert_rowid": "use RETURNING, or the reply of the statement",
    "load_extension": "extensions cannot be loaded",
    "match": "full-text tables are not supported",
}
"""What to do instead of calling a function."""


def refusal(name: str) -> str:
    """The error message for a function that no statement may call."""
    return f"{name}() is refused: {_INSTEAD.get(name, 'see docs/sql.md for the functions that are supported')}"


class Calls:
    """Makes the nondeterministic calls of the statement that is executed now."""

    def __init__(self) -> None:
        self._tape: Tape = Recorder()
        self._now_ms = 0

    def begin(self, tape: Tape, now_ms: int) -> None:
        """Calls from now on are on this tape, and see this time."""
        self._tape, self._now_ms = tape, now_ms

    def now(self) -> datetime:
        return _EPOCH + timedelta(milliseconds=self._now_ms)

    def now_text(self) -> str:
        """With milliseconds."""
        return f"{self.now():%Y-%m-%d %H:%M:%S.%f}"[:-3]

    def random(self) -> int:
        return self._tape.call("random", lambda: source.getrandbits(64) - (1 << 63))

    def randomblob(self, size: SqlValue) -> bytes:
        wanted = max(1, size) if isinstance(size, int) else 1
        if wanted > MAX_TAPE_BYTES:
            raise SqlError(f"randomblob() makes at most {MAX_TAPE_BYTES} bytes: call it with a smaller number")
        return self._tape.call("randomblob", lambda: source.randbytes(wanted))

    def of_library(self, name: str, function: Callable[[], SqlValue]) -> SqlValue:
        return self._tape.call(name, function)


Function = Callable[..., SqlValue]


def register(connection: apsw.Connection, calls: Calls, called: Callable[[Function], Function]) -> None:
    """`called`: the function that SQLite calls for one of these."""

    def scalar(name: str, function: Function, arguments: int, *, constant: bool = True) -> None:
        """`constant`: definitions of tables may use it in CHECK and generated columns, too."""
        connection.create_scalar_function(
            name, called(function), arguments, deterministic=constant, flags=apsw.SQLITE_INNOCUOUS
        )

    scalar("random", calls.random, 0, constant=False)
    scalar("randomblob", calls.randomblob, 1, constant=False)
    for name in ("current_timestamp", "now"):
        scalar(name, lambda: f"{calls.now():%Y-%m-%d %H:%M:%S}", 0, constant=False)
    scalar("current_date", lambda: f"{calls.now():%Y-%m-%d}", 0, constant=False)
    scalar("current_time", lambda: f"{calls.now():%H:%M:%S}", 0, constant=False)
    plain = apsw.Connection(":memory:")
    bounded.register(scalar, plain)
    timeless = _Timeless(plain)
    for name, place in _TIME_FUNCTIONS.items():
        scalar(name, _time_function(timeless, name, place, calls), -1)
    scalar("timediff", _timediff(timeless, calls), 2)
    for name in _OF_THE_LIBRARY:
        scalar(name, _library_function(plain, name, calls), -1)
    version = partial(calls.of_library, "sqlite_version", apsw.sqlite_lib_version)
    scalar("sqlite_version", version, 0, constant=False)


class _Timeless:
    """SQLite's functions of time, without the clock and the time zone of the machine.

    They are called in a generated column, where SQLite refuses whatever is not determined by the arguments.
    """

    def __init__(self, plain: apsw.Connection) -> None:
        self._plain = plain
        self._statements: dict[tuple[str, int], str] = {}

    def call(self, name: str, arguments: Sequence[SqlValue]) -> SqlValue:
        """Raises `SqlError`. SQLite keeps the arguments of the last call."""
        statement = self._statements.get((name, len(arguments)))
        if statement is None:
            statement = self._statements[name, len(arguments)] = self._prepared(name, len(arguments))
        try:
            result: SqlValue = self._plain.execute(statement, tuple(arguments)).get
        except apsw.SQLError as error:
            raise SqlError(f"{name}() is refused here, as its result depends on the machine: {error}") from error
        return result

    def _prepared(self, name: str, count: int) -> str:
        table, columns = f"{name}_{count}", [f"a{number}" for number in range(count)]
        listed = "".join(f"{it}, " for it in columns)
        self._plain.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {listed}r AS ({name}({listed[:-2]})))")
        names, marks = ", ".join(["id", *columns]), ", ".join(["0", *"?" * count])
        return f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks}) RETURNING r"


def _time_function(timeless: _Timeless, name: str, place: int, calls: Calls) -> Callable[..., SqlValue]:
    def function(*arguments: SqlValue) -> SqlValue:
        _check_sizes(name, arguments)
        given = [*arguments[:place], *_fixed(arguments[place:], calls)] if len(arguments) >= place else [*arguments]
        return timeless.call(name, given)

    return function


def _timediff(timeless: _Timeless, calls: Calls) -> Callable[..., SqlValue]:
    def function(*times: SqlValue) -> SqlValue:
        _check_sizes("timediff", times)
        return timeless.call("timediff", [_fixed([it], calls)[0] for it in times])

    return function


def _check_sizes(name: str, arguments: Sequence[SqlValue]) -> None:
    """Raises `SqlError`."""
    if any(isinstance(it, (str, bytes)) and len(it) > MAX_TIME_ARGUMENT_BYTES for it in arguments):
        raise SqlError(f"an argument of {name}() has at most {MAX_TIME_ARGUMENT_BYTES} bytes: shorten it")


def _fixed(arguments: Sequence[SqlValue], calls: Calls) -> list[SqlValue]:
    """A time and its modifiers that do not depend on when or where they are used. Raises `SqlError`."""
    time, *modifiers = arguments or ["now"]
    for modifier in map(_word, modifiers):
        if modifier in ("localtime", "utc"):
            raise SqlError(
                f"'{modifier}' depends on the time zone of the machine: times are in UTC, convert them in the client"
            )
    word = _word(time)
    if word not in _NOW:
        return [time, *modifiers]
    return [calls.now_text(), *([] if word == "now" else ["subsec"]), *modifiers]


def varies(name: str, constants: Sequence[str] | None) -> bool:
    """Whether it is certain that a call, or a word without arguments (None), has another value each time.

    `constants`: its arguments, with empty text for those that are not constants.
    """
    name = fold(name)
    if name in _CURRENT:
        return True
    if constants is None:
        return False
    if name == "timediff":
        return not _NOW.isdisjoint(map(_word, constants))
    place = _TIME_FUNCTIONS.get(name, len(constants) + 1)
    return name in _VARYING or len(constants) == place or (place < len(constants) and _word(constants[place]) in _NOW)


def _word(value: SqlValue) -> str:
    """The value as SQLite's functions of time compare it with a word: as text up to the first NUL, in lower case."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")  # the words are ASCII
    return fold(value.partition("\0")[0]) if isinstance(value, str) else ""


def _library_function(plain: apsw.Connection, name: str, calls: Calls) -> Callable[..., SqlValue]:
    return lambda *arguments: calls.of_library(name, lambda: _result(plain, name, arguments))


def _result(plain: apsw.Connection, name: str, arguments: Any) -> SqlValue:
    """The result of SQLite's own function."""
    marks = ",".join("?" * len(arguments))
    result: SqlValue = plain.execute(f"SELECT {name}({marks})", tuple(arguments)).get
    return result
