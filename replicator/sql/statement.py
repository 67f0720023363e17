"""What kind of statement a text is, and its parts: SQLite's engine cannot write virtual tables in all the ways of SQL.

The parts are texts for the engine, which checks them. Nothing here decides what an expression means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from replicator.limits import MAX_SQL_BYTES
from replicator.sql.errors import SqlError
from replicator.sql.tokens import Token, Tokens, tokenize, unquote


class Conflict(Enum):
    """What a statement does about a row that violates a constraint (sqlite.org/lang_conflict.html)."""

    ABORT = "ABORT"  # the statement has no effect; FAIL and ROLLBACK do the same here
    IGNORE = "IGNORE"  # the row is left out
    REPLACE = "REPLACE"  # the rows in its way are deleted


@dataclass(frozen=True, slots=True)
class Query:
    """SELECT, VALUES, EXPLAIN, or a PRAGMA that describes the schema."""

    sql: str


@dataclass(frozen=True, slots=True)
class Insert:
    table: str
    alias: str  # AS …, or empty
    columns: tuple[str, ...] | None  # None: all
    source: str | None  # a query with the WITH clause of the statement; None: DEFAULT VALUES
    conflict: Conflict
    upsert: str  # ON CONFLICT …, or empty
    returning: str  # the list, or empty


@dataclass(frozen=True, slots=True)
class Assignment:
    columns: tuple[str, ...]
    values: tuple[str, ...]  # an expression for each column


@dataclass(frozen=True, slots=True)
class Update:
    with_clause: str
    table: str
    alias: str
    assignments: tuple[Assignment, ...]
    from_clause: str  # without the word, or empty
    where: str  # with the word, or empty
    conflict: Conflict
    returning: str


@dataclass(frozen=True, slots=True)
class Delete:
    with_clause: str
    table: str
    alias: str
    where: str
    returning: str


@dataclass(frozen=True, slots=True)
class Create:
    type: str  # table, index or view
    name: str
    table: str  # of an index; otherwise the name again
    if_not_exists: bool
    sql: str


@dataclass(frozen=True, slots=True)
class Drop:
    type: str
    name: str
    if_exists: bool


class ControlAction(Enum):
    BEGIN = "BEGIN"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    SAVEPOINT = "SAVEPOINT"
    RELEASE = "RELEASE"
    ROLLBACK_TO = "ROLLBACK TO"


@dataclass(frozen=True, slots=True)
class Control:
    action: ControlAction
    savepoint: str  # its name in lower case, or empty


Write = Insert | Update | Delete | Create | Drop
Statement = Query | Write | Control


@dataclass(frozen=True, slots=True)
class Parsed:
    statement: Statement
    tokens: Tokens


def parse(text: str) -> Parsed:
    """Raises `SqlError`."""
    return _parse_short(text) if len(text) <= _SHORT else _parse(text)


@lru_cache(1_000)
def _parse_short(text: str) -> Parsed:
    """Programs repeat their statements."""
    return _parse(text)


def _parse(text: str) -> Parsed:
    if len(text.encode()) > MAX_SQL_BYTES:
        raise SqlError(
            f"a statement has at most {MAX_SQL_BYTES >> 10} KiB: divide it, or use parameters for its values"
        )
    tokens = tokenize(text)
    if not tokens.items:
        raise SqlError("the statement is empty")
    return Parsed(_Parser(tokens).statement(), tokens)


_SHORT = 4_096  # characters

_CONTROLS = {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"}
_QUERIES = {"SELECT", "VALUES", "EXPLAIN", "PRAGMA"}
_END_OF_SET = {"FROM", "WHERE", "RETURNING"}
_END_OF_FROM = {"WHERE", "RETURNING"}


class _Parser:
    def __init__(self, tokens: Tokens) -> None:
        self._text = tokens.text
        self._items = tokens.items
        self._at = 0

    def statement(self) -> Statement:
        word = self._items[0].word
        if word in _QUERIES:
            return self._query()
        if word in _CONTROLS:
            return self._control()
        if word == "CREATE":
            return self._create()
        if word == "DROP":
            return self._drop()
        with_clause = ""
        if word == "WITH":
            start = self._find(0, {"SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE"})
            self._at = start
            with_clause = self._slice(0, start)
        writes: dict[str, Callable[[str], Statement]] = {
            "INSERT": self._insert,
            "REPLACE": self._insert,
            "UPDATE": self._update,
            "DELETE": self._delete,
        }
        current = self._peek().word
        if current in ("SELECT", "VALUES"):
            return self._query()
        if current not in writes:
            raise SqlError(f'near "{self._peek().text}": this statement is not supported, see docs/sql.md')
        return writes[current](with_clause)

    # Statements

    def _query(self) -> Query:
        if self._items[0].word == "PRAGMA":
            self._take()
            self._schema()  # `main`, where the tables are as they were created
            return Query(f"PRAGMA main.{self._slice(self._at, len(self._items))}")
        return Query(self._slice(0, len(self._items)))

    def _insert(self, with_clause: str) -> Insert:
        conflict = Conflict.REPLACE if self._take().word == "REPLACE" else self._conflict()
        self._expect("INTO")
        table, alias = self._table()
        columns = None
        if self._peek().is_punctuation("("):
            columns = tuple(map(unquote, self._names()))
        begin, end = self._at, len(self._items)
        returning_at = self._find(begin, {"RETURNING"})
        upsert_at = min(self._find_upsert(begin), returning_at)
        if self._peek().word == "DEFAULT":
            source = None
        else:
            source = f"{with_clause} {self._slice(begin, upsert_at)}".strip()
            if upsert_at == begin:
                raise SqlError("incomplete input")
        return Insert(
            table,
            alias,
            columns,
            source,
            conflict,
            self._slice(upsert_at, returning_at),
            self._slice(returning_at + 1, end),
        )

    def _update(self, with_clause: str) -> Update:
        self._take()
        conflict = self._conflict()
        table, alias = self._table()
        self._expect("SET")
        end = len(self._items)
        set_end = self._find(self._at, _END_OF_SET)
        assignments = tuple(self._assignment(*bounds) for bounds in self._divide(self._at, set_end))
        from_end = self._find(set_end, _END_OF_FROM)
        returning_at = self._find(from_end, {"RETURNING"})
        from_clause = self._slice(set_end + 1, from_end) if from_end > set_end else ""
        where = self._slice(from_end, returning_at)
        returning = self._slice(returning_at + 1, end)
        return Update(with_clause, table, alias, assignments, from_clause, where, conflict, returning)

    def _delete(self, with_clause: str) -> Delete:
        self._take()
        self._expect("FROM")
        table, alias = self._table()
        returning_at = self._find(self._at, {"RETURNING"})
        where = self._slice(self._at, returning_at)
        if where and self._peek().word != "WHERE":
            raise SqlError(f'near "{self._peek().text}": syntax error')
        return Delete(with_clause, table, alias, where, self._slice(returning_at + 1, len(self._items)))

    def _create(self) -> Create:
        self._take()
        word = self._take().word
        prefix = "CREATE"
        if word == "UNIQUE" and self._peek().word == "INDEX":
            word, prefix = self._take().word, "CREATE UNIQUE"
        if word not in ("TABLE", "INDEX", "VIEW"):
            raise SqlError(f"CREATE {word} is not supported, see docs/sql.md")
        if_not_exists = self._optional("IF", "NOT", "EXISTS")
        self._schema()
        begin = self._at
        name = self._name()
        table = name
        if word == "INDEX":
            self._expect("ON")
            table = self._name()
        elif word == "TABLE" and self._peek().word == "AS":
            raise SqlError("CREATE TABLE … AS is not supported: create the table, then INSERT INTO it … SELECT")
        sql = f"{prefix} {word} {self._slice(begin, len(self._items))}"
        return Create(word.lower(), name, table, if_not_exists, sql)

    def _drop(self) -> Drop:
        self._take()
        word = self._take().word
        if word not in ("TABLE", "INDEX", "VIEW"):
            raise SqlError(f"DROP {word} is not supported, see docs/sql.md")
        if_exists = self._optional("IF", "EXISTS")
        self._schema()
        name = self._name()
        self._end()
        return Drop(word.lower(), name, if_exists)

    def _control(self) -> Control:
        word = self._take().word
        name = ""
        if word == "BEGIN":
            if self._peek().word in ("DEFERRED", "IMMEDIATE", "EXCLUSIVE"):
                self._take()
            self._optional("TRANSACTION")
            action = ControlAction.BEGIN
        elif word in ("COMMIT", "END"):
            self._optional("TRANSACTION")
            action = ControlAction.COMMIT
        elif word == "ROLLBACK":
            self._optional("TRANSACTION")
            action = ControlAction.ROLLBACK
            if self._optional("TO"):
                self._optional("SAVEPOINT")
                action, name = ControlAction.ROLLBACK_TO, self._name()
        else:
            action = ControlAction[word]
            if word == "RELEASE":
                self._optional("SAVEPOINT")
            name = self._name()
        self._end()
        return Control(action, name.lower())

    # Parts

    def _conflict(self) -> Conflict:
        if not self._optional("OR"):
            return Conflict.ABORT
        word = self._take().word
        if word not in ("ABORT", "FAIL", "IGNORE", "REPLACE", "ROLLBACK"):
            raise SqlError(f'near "{word}": syntax error')
        return Conflict[word] if word in ("IGNORE", "REPLACE") else Conflict.ABORT

    def _table(self) -> tuple[str, str]:
        """The name and the alias (empty: none)."""
        self._schema()
        name = self._name()
        if self._optional("AS"):
            return name, self._name()
        if self._peek().word == "INDEXED":
            raise SqlError("INDEXED BY is not supported")
        return name, ""

    def _schema(self) -> None:
        """`main.` is the only schema."""
        if self._at + 1 < len(self._items) and self._items[self._at + 1].is_punctuation("."):
            if unquote(self._peek()).lower() != "main":
                raise SqlError(f"unknown database {unquote(self._peek())}")
            self._at += 2

    def _name(self) -> str:
        token = self._take()
        if token.kind not in ("word", "quoted", "string"):
            raise SqlError(f'near "{token.text}": syntax error')
        return unquote(token)

    def _names(self) -> Sequence[Token]:
        """Of a list in parentheses."""
        close = next((it for it in range(self._at + 1, len(self._items)) if self._closes(it, self._at)), None)
        if close is None:
            raise SqlError("incomplete input")
        names, commas = self._items[self._at + 1 : close : 2], self._items[self._at + 2 : close : 2]
        if len(names) != len(commas) + 1 or any(it.text != "," for it in commas):
            raise SqlError(f'near "{self._items[self._at].text}": syntax error')
        self._at = close + 1
        return names

    def _closes(self, index: int, opening: int) -> bool:
        return self._items[index].is_punctuation(")") and self._items[index].depth == self._items[opening].depth

    def _assignment(self, begin: int, end: int) -> Assignment:
        equals = next((it for it in range(begin, end) if self._at_top(it) and self._items[it].text == "="), None)
        if equals is None or equals == begin or equals + 1 == end:
            raise SqlError("incomplete input")
        if not self._items[begin].is_punctuation("("):
            return Assignment((unquote(self._items[begin]),), (self._slice(equals + 1, end),))
        self._at = begin
        columns = tuple(map(unquote, self._names()))
        if not self._items[equals + 1].is_punctuation("(") or not self._closes(end - 1, equals + 1):
            raise SqlError("a list of columns takes a list of values in parentheses")
        if self._items[equals + 2].word in ("SELECT", "VALUES", "WITH"):
            names = ", ".join(f"c{number}" for number in range(len(columns)))
            inner = self._slice(equals + 1, end)
            values = tuple(f"(WITH r({names}) AS {inner} SELECT c{number} FROM r)" for number in range(len(columns)))
        else:
            depth = self._items[equals + 1].depth + 1
            values = tuple(self._slice(*bounds) for bounds in self._divide(equals + 2, end - 1, depth))
        if len(values) != len(columns):
            raise SqlError(f"{len(columns)} columns assigned {len(values)} values")
        return Assignment(columns, values)

    def _divide(self, begin: int, end: int, depth: int = 0) -> list[tuple[int, int]]:
        """Bounds of the parts between commas."""
        commas = [it for it in range(begin, end) if self._items[it].depth == depth and self._items[it].text == ","]
        return list(zip([begin, *(it + 1 for it in commas)], [*commas, end], strict=True))

    def _find(self, begin: int, words: set[str]) -> int:
        """The index of the first of these words outside of parentheses; the end if there is none."""
        for index in range(begin, len(self._items)):
            if self._items[index].word in words and self._at_top(index):
                return index
        return len(self._items)

    def _find_upsert(self, begin: int) -> int:
        for index in range(begin, len(self._items) - 2):
            if self._items[index].word == "ON" and self._items[index + 1].word == "CONFLICT" and self._at_top(index):
                following = self._items[index + 2]
                if following.word == "DO" or following.is_punctuation("("):
                    return index
        return len(self._items)

    def _at_top(self, index: int) -> bool:
        return self._items[index].depth == 0

    def _slice(self, begin: int, end: int) -> str:
        return self._text[self._items[begin].start : self._items[end - 1].end] if begin < end else ""

    def _peek(self) -> Token:
        if self._at < len(self._items):
            return self._items[self._at]
        return Token("end", "", len(self._text), len(self._text), "", 0)

    def _take(self) -> Token:
        if self._at == len(self._items):
            raise SqlError("incomplete input")
        self._at += 1
        return self._items[self._at - 1]

    def _expect(self, word: str) -> None:
        token = self._take()
        if token.word != word:
            raise SqlError(f'near "{token.text}": syntax error')

    def _optional(self, *words: str) -> bool:
        if [it.word for it in self._items[self._at : self._at + len(words)]] != [*words]:
            return False
        self._at += len(words)
        return True

    def _end(self) -> None:
        if self._at < len(self._items):
            raise SqlError(f'near "{self._peek().text}": syntax error')
