"""The tokens of an SQL statement, with its parameters numbered (sqlite.org/lang_expr.html, "Parameters")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from replicator.limits import MAX_SQL_PARAMETERS, MAX_SQL_TOKENS
from replicator.sql.errors import SqlError
from replicator.sql.values import ResultColumn, SqlValue

_TOKEN = re.compile(
    r"""
    [ \t\r\n\f]* (?:
    (?P<operator> [(),;=*] | \.(?!\d) )
    | (?P<word> (?![xX]')[^\W\d][\w$]* )
    | (?P<parameter> \?\d* | [:@$](?:[\w$]|::)+(?:\([^()\s]*\))? )
    | (?P<number> 0[xX][0-9a-fA-F]+ | (?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)? )
    | (?P<string> [xX]?'(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^]]*\] )
    | (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<other> ->> | -> | \|\| | <= | >= | <> | != | == | << | >> | . )
    | (?P<end> \Z )
    )
    """,
    re.VERBOSE | re.DOTALL,
)
"""The most frequent ones come first. Other operators have the kind `operator`, too."""

_BEFORE_A_TABLE = frozenset({"INTO", "UPDATE", "FROM", "JOIN", "TABLE", "EXISTS", "REPLACE", "IGNORE"})
"""After these, the reserved word TABLE is the name of a table."""

_OPENS_QUOTED = frozenset("'\"`[")
"""These begin what the statement does not end."""

_IN_NAME = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|:p(?P<number>\d+)""")
"""A parameter in the name of a column, or a constant or name in quotes, which has none."""

Parameters = Sequence[SqlValue] | dict[str, SqlValue]
"""Values by their places, or by their names without the sigil (`:`, `@` or `$`)."""
Values = Sequence[SqlValue]
"""Of the parameters of a statement, by their numbers; the first one has the place 0."""
Bindings = dict[str, SqlValue]
"""The same for the engine, by their names in `Tokens.text`."""


class Token(NamedTuple):
    kind: str  # one of the groups above, but for space
    text: str
    start: int  # in the text of the statement
    end: int
    word: str  # in upper case; empty unless it is an unquoted word, of ASCII as all keywords are
    depth: int  # number of open parentheses around it; those of a pair are outside

    def is_punctuation(self, text: str) -> bool:
        return self.kind == "operator" and self.text == text


class Tokens(NamedTuple):
    """A statement. Its parameters in `text` are `:p1`, `:p2` …, so each part of it can be executed with all values."""

    text: str
    items: Sequence[Token]
    parameters: Sequence[str | None]  # their names without the sigil, by number from 1; None: it has none
    spellings: Sequence[str]  # of the same, as the statement has them first

    def with_parameters(self, columns: Sequence[ResultColumn]) -> Sequence[ResultColumn]:
        """Columns of a result, with the parameters in their names as the statement has written them."""
        if not self.parameters or not any(":p" in name for name, _ in columns):
            return columns
        return tuple((_IN_NAME.sub(self._spelled, name), declared) for name, declared in columns)

    def _spelled(self, found: re.Match[str]) -> str:
        place = int(found["number"] or 0) - 1
        return self.spellings[place] if 0 <= place < len(self.spellings) else found[0]

    def values_of(self, parameters: Parameters) -> Values:
        """The value of each parameter. Raises `SqlError` unless there is one."""
        if not isinstance(parameters, dict):
            if len(parameters) != len(self.parameters):
                raise SqlError(
                    f"the statement has {len(self.parameters)} parameters, but {len(parameters)} values were given"
                )
            return parameters
        values: list[SqlValue] = []
        for number, name in enumerate(self.parameters, 1):
            if name is None or name not in parameters:
                raise SqlError(f"no value for the parameter {name or number}")
            values.append(parameters[name])
        return values


def bind(values: Values) -> Bindings:
    return {_parameter_name(number): value for number, value in enumerate(values, 1)}


def _parameter_name(number: int) -> str:
    return f"p{number}"


def tokenize(text: str) -> Tokens:
    """Raises `SqlError`."""
    if "\0" in text:
        raise SqlError("a statement cannot contain the character NUL: use a parameter")
    parts: list[str] = []
    items: list[Token] = []
    parameters = _Parameters()
    at = depth = 0
    new: Any = tuple.__new__  # faster than `Token`
    for match in _TOKEN.finditer(text):
        kind, whole = match.lastgroup or "", match[0]
        part = match[kind]
        space = len(whole) - len(part)
        word, inner = "", depth
        if kind == "operator":
            if part == "(":
                inner += 1
            elif part == ")":
                inner = depth = depth - 1
                if depth < 0:
                    raise SqlError('near ")": syntax error')
        elif kind == "word":
            word = part.upper() if part.isascii() else ""
            if word == "TABLE" and items and items[-1].word in _BEFORE_A_TABLE:
                kind, part, word = "quoted", f'"{part}"', ""
                whole = whole[:space] + part
        elif kind == "parameter":
            part = f":{_parameter_name(parameters.number(part))}"
            whole = whole[:space] + part
        elif kind == "other":
            kind = "operator"
            if part in _OPENS_QUOTED:
                start = match.start(match.lastindex or 0)
                raise SqlError(f'unrecognized token: "{text[start : start + 20]}"')
        elif kind in ("comment", "end"):
            whole = whole[:space] + (" " if part else "")
            parts.append(whole)
            at += len(whole)
            continue
        end = at + len(whole)
        items.append(new(Token, (kind, part, at + space, end, word, depth)))
        parts.append(whole)
        at, depth = end, inner
        if len(items) > MAX_SQL_TOKENS:
            raise SqlError(f"a statement has at most {MAX_SQL_TOKENS} words, values and signs: divide it")
    if depth:
        raise SqlError("incomplete input")
    while items and items[-1].is_punctuation(";"):
        items.pop()
    is_trigger = "TRIGGER" in (it.word for it in items[1:3])  # which has statements, and is refused
    if any(it.is_punctuation(";") and it.depth == 0 for it in items) and not is_trigger:
        raise SqlError("one statement at a time: send each of them alone")
    return Tokens("".join(parts), items, parameters.names, parameters.spellings)


class _Parameters:
    """Those of a statement, as they are numbered."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self.spellings: list[str] = []
        self._numbers: dict[str, int] = {}  # by name

    def number(self, parameter: str) -> int:
        """Raises `SqlError`."""
        name = parameter[1:]
        if not name:
            return self._add(None, parameter)
        if parameter[0] != "?":
            return self._numbers.get(name) or self._add(name, parameter)
        number = int(name[:8])
        if not 1 <= number <= MAX_SQL_PARAMETERS:
            raise SqlError(f"variable number must be between ?1 and ?{MAX_SQL_PARAMETERS}")
        while len(self.names) < number:
            self._add(None, f"?{len(self.names) + 1}")
        return number

    def _add(self, name: str | None, parameter: str) -> int:
        if len(self.names) == MAX_SQL_PARAMETERS:
            raise SqlError("too many SQL variables")
        self.names.append(name)
        self.spellings.append(parameter)
        if name is not None:
            self._numbers[name] = len(self.names)
        return len(self.names)


def unquote(token: Token) -> str:
    """The name that an identifier token stands for."""
    text = token.text
    if token.kind == "quoted":
        return text[1:-1] if text[0] == "[" else text[1:-1].replace(text[0] * 2, text[0])
    if token.kind == "string":  # SQLite takes it for a name where it expects one
        return text[1:-1].replace("''", "'")
    return text


def quote(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
