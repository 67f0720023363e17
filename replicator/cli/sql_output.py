"""Results of SQL statements as tables for people, or as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from rich.text import Text

from replicator.cli.output import console, count, plain_table, print_json_line, print_line, print_whole


class StatementResult(Protocol):
    """A cursor of PEP 249."""

    @property
    def description(self) -> Sequence[Sequence[Any]] | None: ...

    @property
    def rowcount(self) -> int: ...

    @property
    def lastrowid(self) -> int | None: ...

    def fetchall(self) -> list[tuple[Any, ...]]: ...


def print_result(result: StatementResult, *, json: bool) -> None:
    """As JSON: a line with an object for each row, or with the number of changed rows."""
    columns = [column[0] for column in result.description or ()]
    if columns:
        rows = result.fetchall()
        if json:
            names = _distinct(columns)
            for row in rows:
                print_json_line(dict(zip(names, map(_json_value, row), strict=True)))
        else:
            _print_table(columns, rows)
    elif json:
        print_json_line({"changes": max(0, result.rowcount), "last_id": result.lastrowid})
    else:
        print_line("OK" if result.rowcount < 0 else count(result.rowcount, "row changed", "rows changed"))


def _print_table(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """A terminal shows how many rows there are, too."""
    table = plain_table(*map(printable, columns))
    for number, column in enumerate(table.columns):
        values = [row[number] for row in rows if row[number] is not None]
        if values and all(isinstance(it, int | float) for it in values):
            column.justify = "right"
    for row in rows:
        table.add_row(*map(_text, row))
    print_whole(table, *([Text(count(len(rows), "row", "rows"), "dim")] if console.is_terminal else []))


def printable(text: str) -> str:
    """Without characters that a terminal takes for commands."""
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


def _text(value: Any) -> Text:
    if value is None:
        return Text("NULL", "dim")
    return Text(f"x'{value.hex()}'" if isinstance(value, bytes) else printable(str(value)))


def _json_value(value: Any) -> Any:
    """Bytes in hexadecimal digits. JSON has no infinite numbers: a text."""
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value.hex() if isinstance(value, bytes) else value


def _distinct(columns: Sequence[str]) -> list[str]:
    """The second column of a name gets another one, as in a subquery of SQLite."""
    names: dict[str, None] = {}
    for column in columns:
        name, number = column, 0
        while name in names:
            number += 1
            name = f"{column}:{number}"
        names[name] = None
    return list(names)
