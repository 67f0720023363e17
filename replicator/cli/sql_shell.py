"""Executes the statements and commands of `replicator sql`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from replicator.cli.output import console, print_json_line, print_line
from replicator.cli.sql_output import print_result, printable
from replicator.cli.sql_script import is_command
from replicator.client.dbapi import Connection
from replicator.client.sql import tokens
from replicator.errors import BadRequest

HELP = """\
Statements end with a semicolon, and may have several lines. BEGIN starts a transaction, COMMIT or ROLLBACK ends it.
.tables          the tables and views
.schema [TABLE]  the statements that have created them
.help            this text
.quit            end, as exit, quit and Ctrl-D do"""

_OWN = "name NOT LIKE 'sqlite~_%' ESCAPE '~'"
_TABLES = f"SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND {_OWN} ORDER BY name"
_SCHEMA = f"SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND {_OWN}"


class SqlShell:
    def __init__(self, connection: Connection, *, json: bool) -> None:
        self._connection = connection
        self._json = json

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, text: str) -> None:
        """A statement or a command, with its output. Raises `Error`, `BadRequest`."""
        if is_command(text):
            self._execute_command(text)
        elif any(token != ";" for token in tokens(text)):
            with self._connection.execute(text) as cursor:
                print_result(cursor, json=self._json)

    def end_lost_transaction(self) -> bool:
        """After an error: whether it has ended the transaction, which the connection wants to be acknowledged."""
        is_lost = self._connection.is_transaction_lost
        if is_lost:
            self._connection.rollback()
        return is_lost

    def roll_back(self) -> None:
        self._connection.rollback()

    def tables(self) -> list[str]:
        """Raises `Error`."""
        return [name for (name,) in self._connection.execute(_TABLES)]

    def columns(self, table: str) -> list[str]:
        """Raises `Error`."""
        quoted = table.replace('"', '""')
        return [row[1] for row in self._connection.execute(f'PRAGMA table_info("{quoted}")')]

    def _execute_command(self, text: str) -> None:
        """Raises `Error`, `BadRequest`."""
        match text.rstrip("; \n").split():
            case [".tables"]:
                self._print("name", self.tables())
            case [".schema", *tables] if len(tables) < 2:
                found = [f"{sql};" for sql in self._schema(*tables)]
                if tables and not found:
                    raise BadRequest(f"no such table or view: {tables[0][:80]}")
                self._print("sql", found)
            case [".help"]:
                console.print(HELP)
            case _:
                raise BadRequest(f"unknown command {text[:80]}: .help lists the commands")

    def _schema(self, table: str = "") -> Iterator[str]:
        where, params = ("AND tbl_name = ? COLLATE NOCASE", (table,)) if table else ("", ())
        return (sql for (sql,) in self._connection.execute(f"{_SCHEMA} {where} ORDER BY rowid", params))

    def _print(self, name: str, values: list[str]) -> None:
        for value in values:
            if self._json:
                print_json_line({name: value})
            elif console.is_terminal:
                print_line(re.sub(r"[^\n\t]+", lambda found: printable(found[0]), value))
            else:
                print(value)  # as it is: it may be executed again
