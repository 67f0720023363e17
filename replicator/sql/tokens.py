"""The tokens of an SQL statement, with its parameters numbered (sqlite.org/lang_expr.html, "Parameters")."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from replicator.sql.errors import SqlError
from replicator.sql.values import SqlValue

_TOKEN = re.compile(
    r"""
    (?P<space> [ \t\r\n\f]+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<string> [xX]?'(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^]]*\] )
    | (?P<parameter> \?\d* | [:@$](?:[\w$]|::)+(?:\([^)\s]*\))? )
    | (?P<number> 0[xX][0-9a-fA-F]+ | (?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)? )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<operator> ->> | -> | \|\| | <= | >= | <> | != | == | << | >> | . )
    """,
    re.VERBOSE | re.DOTALL,
)

_BEFORE_A_TABLE = frozenset({"INTO", "UPDATE", "FROM", "JOIN", "TABLE", "EXISTS", "REPLACE", "IGNORE"})
"""After these, the reserved word TABLE is the name of a table."""

MAX_PARAMETERS = 32_766
"""SQLite's own limit of the number of a parameter (SQLITE_LIMIT_VARIABLE_NUMBER)."""

Parameters = Sequence[SqlValue] | Mapping[str, SqlValue]
"""By their places, or by their names without the sigil."""
Bindings = dict[str, SqlValue]
"""Values for the engine."""


class Token(NamedTuple):
    kind: str  # one of the groups above, but for space
    text: str
    start: int  # in the text of the statement
    end: int
    word: str  # in upper case; empty unless it is an unquoted word
    depth: int  # number of open parentheses around it; those of a pair are outside

    def is_punctuation(self, text: str) -> bool:
        return self.kind == "operator" and self.text == text


class Tokens(NamedTuple):
    """A statement. Its parameters in `text` are `:p1`, `:p2` …, so each part of it can be executed with all values."""

    text: str
    items: Sequence[Token]
    parameters: Sequence[str | None]  # their names without the sigil, by number from 1; None: it has none

    def bind(self, values: Parameters) -> Bindings:
        """Raises `SqlError` unless there is a value for each parameter."""
        if not isinstance(values, Mapping):
            if len(values) != len(self.parameters):
                raise SqlError(f"the statement has {len(self.parameters)} parameters, but {len(values)} values came")
            return {parameter_name(number): value for number, value in enumerate(values, 1)}
        bindings: Bindings = {}
        for number, name in enumerate(self.parameters, 1):
            if name is None or name not in values:
                raise SqlError(f"no value for the parameter {name or number}")
            bindings[parameter_name(number)] = values[name]
        return bindings


def parameter_name(number: int) -> str:
    return f"p{number}"


def tokenize(text: str) -> Tokens:
    """Raises `SqlError`."""
    parts: list[str] = []
    items: list[Token] = []
    names: list[str | None] = []
    at = depth = 0
    for match in _TOKEN.finditer(text):
        kind, part = match.lastgroup or "", match.group()
        if kind == "space":
            part = " " if part[0] in "-/" else part
        else:
            if kind == "parameter":
                part = f":{parameter_name(_number(part, names))}"
            elif kind == "word" and part.upper() == "TABLE" and items and items[-1].word in _BEFORE_A_TABLE:
                kind, part = "quoted", f'"{part}"'
            depth -= part == ")"
            items.append(Token(kind, part, at, at + len(part), part.upper() if kind == "word" else "", depth))
            depth += part == "("
        parts.append(part)
        at += len(part)
    while items and items[-1].is_punctuation(";"):
        items.pop()
    if any(it.is_punctuation(";") and it.depth == 0 for it in items):
        raise SqlError("one statement at a time: send each of them alone")
    return Tokens("".join(parts), items, names)


def _number(parameter: str, names: list[str | None]) -> int:
    """Of a parameter, which is added to `names` if it is new."""
    if parameter[0] == "?" and len(parameter) > 1:
        number = int(parameter[1:8])
        if not 1 <= number <= MAX_PARAMETERS:
            raise SqlError(f"variable number must be between ?1 and ?{MAX_PARAMETERS}")
        names.extend([None] * (number - len(names)))
        return number
    name = parameter[1:] or None
    if name is not None and name in names:
        return names.index(name) + 1
    if len(names) == MAX_PARAMETERS:
        raise SqlError("too many SQL variables")
    names.append(name)
    return len(names)


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
