"""Parses a statement into its clauses, as SQLite's engine cannot write virtual tables in all the ways of SQL.

The clauses are texts for the engine, which checks them: expressions are not parsed here. A clause that becomes a part
of another statement for the engine must not end there: it is put in parentheses, or has no word that ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

from replicator.limits import MAX_SQL_BYTES
from replicator.sql.errors import NO_INDEXED_BY, SqlError
from replicator.sql.names import fold
from replicator.sql.statement import (
    Assignment,
    Conflict,
    Control,
    ControlAction,
    Create,
    Delete,
    Drop,
    Insert,
    Parsed,
    Query,
    Statement,
    Update,
)
from replicator.sql.tokens import Token, Tokens, tokenize, unquote


def parse(text: str) -> Parsed:
    """Raises `SqlError`."""
    return _parse_short(text) if len(text) <= _SHORT else _parse_long(text)


@lru_cache(1_000)
def _parse_short(text: str) -> Parsed:
    """`parse` with a cache, as programs repeat their statements."""
    return _parse(text)


@lru_cache(16)
def _parse_long(text: str) -> Parsed:
    """The same. A command parses its statement several times."""
    return _parse(text)


def _parse(text: str) -> Parsed:
    if len(text.encode()) > MAX_SQL_BYTES:
        raise SqlError(
            f"a statement has at most {MAX_SQL_BYTES >> 10} KiB: divide it, or use parameters for its values"
        )
    tokens = tokenize(text)
    if not tokens.items:
        raise SqlError("the statement is empty")
    return Parsed(_Parser(tokens).statement(), tokens._replace(items=()), _may_run_at_once(tokens))


def _may_run_at_once(tokens: Tokens) -> bool:
    """A short text may become long: SQLite replaces columns of a subquery by their expressions, again and again, and
    each `*` by all columns of a join."""
    if len(tokens.text) > _AT_ONCE:
        return False
    words = [it.word for it in tokens.items]
    stars = sum(
        it.text == "*" and (before.text in (",", ".") or before.word in ("SELECT", "DISTINCT", "ALL"))
        for before, it in pairwise(tokens.items)
    )
    return words.count("SELECT") <= 1 and stars <= 1 and "WITH" not in words


_AT_ONCE = 1_024  # characters of a statement that may be executed at once
_SHORT = 4_096  # characters of a statement of which many are kept in a cache

_CONTROLS = {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"}
_QUERIES = {"SELECT", "VALUES", "EXPLAIN", "PRAGMA"}
_SCHEMA_HINT = "tables are in sqlite_schema: SELECT name, sql FROM sqlite_schema, or .tables and .schema at the prompt"
_HINTS = {
    **dict.fromkeys(("SHOW", "DESCRIBE", "DESC"), _SCHEMA_HINT),
    "ALTER": "create another table, and copy the rows in parts",
    "TRUNCATE": "use DELETE FROM without WHERE",
    "MERGE": "use INSERT … ON CONFLICT",
    "START": "use BEGIN",
}
"""What to do instead of a statement, by its first word."""

_QUERY_CLAUSES = {
    "SELECT", "VALUES", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "UNION", "INTERSECT", "EXCEPT"
}  # fmt: skip
"""Reserved words that neither the list of RETURNING nor a FROM clause has outside of parentheses."""


def _not_created(word: str) -> str:
    if word == "TRIGGER":
        return "triggers are not supported: write all rows in one transaction"
    return f"CREATE {word} is not supported, see docs/sql.md"


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
            raise self._unsupported()
        return writes[current](with_clause)

    def _unsupported(self) -> SqlError:
        token = self._peek()
        hint = _HINTS.get(token.word, "see docs/sql.md for the statements that are")
        return SqlError(f'near "{token.text}": this statement is not supported, {hint}')

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
        begin, returning_at = self._at, self._find(self._at, {"RETURNING"})
        upsert_at = min(self._find_upsert(begin), returning_at)
        if self._optional("DEFAULT", "VALUES"):
            source, upsert_at = None, self._at
        elif self._peek().word in ("SELECT", "VALUES", "WITH"):
            source = self._slice(begin, upsert_at)
            self._at = returning_at
        else:
            raise self._unexpected()
        upsert = self._slice(upsert_at, self._at)
        return Insert(with_clause, table, alias, columns, source, conflict, upsert, self._returning())

    def _update(self, with_clause: str) -> Update:
        self._take()
        conflict = self._conflict()
        table, alias = self._table()
        self._expect("SET")
        set_end = self._find_from(self._at)
        assignments = tuple(self._assignment(*bounds) for bounds in self._divide(self._at, set_end))
        self._at = set_end
        from_clause = self._from() if self._optional("FROM") else ""
        where, returning = self._where(), self._returning()
        return Update(with_clause, table, alias, assignments, from_clause, where, conflict, returning)

    def _delete(self, with_clause: str) -> Delete:
        self._take()
        self._expect("FROM")
        table, alias = self._table()
        return Delete(with_clause, table, alias, self._where(), self._returning())

    def _create(self) -> Create:
        self._take()
        word = self._take().word
        prefix = "CREATE"
        if word == "UNIQUE" and self._peek().word == "INDEX":
            word, prefix = self._take().word, "CREATE UNIQUE"
        if word not in ("TABLE", "INDEX", "VIEW"):
            raise SqlError(_not_created(word))
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
        if word == "TABLE":
            self._refuse_on_conflict()
        sql = f"{prefix} {word} {self._slice(begin, len(self._items))}"
        return Create(word.lower(), name, table, if_not_exists, sql)

    def _refuse_on_conflict(self) -> None:
        """Of a constraint. ABORT is what it would do anyway."""
        for first, second, third in zip(self._items, self._items[1:], self._items[2:], strict=False):
            if (first.word, second.word) == ("ON", "CONFLICT") and third.word != "ABORT":
                raise SqlError(
                    f"ON CONFLICT {third.word} of a constraint is not supported: say it in the statements that write, "
                    "such as INSERT OR REPLACE"
                )

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
        return Control(action, fold(name))

    # Parts

    def _find_from(self, begin: int) -> int:
        """Where the assignments of an UPDATE end."""
        end = self._find(begin, {"FROM", "WHERE", "RETURNING"})
        while end < len(self._items) and self._items[end].word == "FROM" and self._items[end - 1].word == "DISTINCT":
            end = self._find(end + 1, {"FROM", "WHERE", "RETURNING"})  # that was IS [NOT] DISTINCT FROM
        return end

    def _from(self) -> str:
        begin, end = self._at, self._find(self._at, {"WHERE", "RETURNING"})
        self._refuse_clauses(begin, end)
        self._at = end
        is_join = self._find(begin, {"JOIN"}) < end or len(self._divide(begin, end)) > 1
        found = self._slice(begin, end)
        return f"({found})" if is_join else found  # in parentheses, the alias of a single table would be unknown

    def _where(self) -> str:
        if not self._optional("WHERE"):
            return ""
        begin, self._at = self._at, self._find(self._at, {"RETURNING"})
        return self._nonempty(begin, self._at)

    def _returning(self) -> str:
        if not self._optional("RETURNING"):
            self._end()
            return ""
        begin, self._at = self._at, len(self._items)
        self._refuse_clauses(begin, self._at)
        return self._nonempty(begin, self._at)

    def _refuse_clauses(self, begin: int, end: int) -> None:
        for index in range(begin, end):
            token = self._items[index]
            is_clause = token.word in _QUERY_CLAUSES and self._at_top(index)
            if is_clause and not (token.word == "FROM" and self._items[index - 1].word == "DISTINCT"):
                raise SqlError(f'near "{token.text}": syntax error')

    def _nonempty(self, begin: int, end: int) -> str:
        if begin == end:
            raise SqlError("incomplete input")
        return self._slice(begin, end)

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
            raise SqlError(NO_INDEXED_BY)
        return name, ""

    def _schema(self) -> None:
        """`main.` is the only schema."""
        if self._at + 1 < len(self._items) and self._items[self._at + 1].is_punctuation("."):
            if fold(unquote(self._peek())) != "main":
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
            if equals > begin + 1:
                raise SqlError(f'near "{self._items[begin + 1].text}": syntax error')
            return Assignment((unquote(self._items[begin]),), (self._slice(equals + 1, end),))
        self._at = begin
        columns = tuple(map(unquote, self._names()))
        if self._at < equals:
            raise self._unexpected()
        if not self._items[equals + 1].is_punctuation("(") or not self._closes(end - 1, equals + 1):
            raise SqlError("a list of columns takes a list of values in parentheses")
        if self._items[equals + 2].word in ("SELECT", "VALUES", "WITH"):
            names = ", ".join(f"c{number}" for number in range(len(columns)))
            inner = self._slice(equals + 1, end)
            if len(columns) * (len(inner) + len(names)) > MAX_SQL_BYTES:  # which is repeated for each
                raise SqlError(
                    "too many columns for one subquery: name the columns one by one, or divide the statement"
                )
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
            raise self._unexpected()

    def _unexpected(self) -> SqlError:
        token = self._peek()
        return SqlError("incomplete input" if token.kind == "end" else f'near "{token.text}": syntax error')
