"""The prompt of `replicator sql`: history, completion, and statements of several lines."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import apsw
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from replicator.cli.output import errors, print_error
from replicator.cli.sql_script import is_command, is_complete, is_quit, statements
from replicator.cli.sql_shell import SqlShell
from replicator.client.dbapi import Error
from replicator.client.sql import StatementKind, statement_kind
from replicator.errors import BadRequest

COMMANDS = (".help", ".quit", ".schema", ".tables")
ROLLED_BACK = "the transaction was rolled back"
_WORD = re.compile(r"[\w.]+$")
_NAMES = re.compile(r"\w+")


def run_prompt(shell: SqlShell, history: Path) -> None:
    """Until Ctrl-D, .quit, exit or quit."""
    session: PromptSession[str] = PromptSession(
        history=_open_history(history),
        completer=SqlCompleter(shell),
        complete_while_typing=False,
        multiline=True,
        key_bindings=_keys(),
        prompt_continuation="        ...> ",
    )
    errors.print("Ends with Ctrl-D; .help lists the commands.")
    while True:
        try:
            text = session.prompt("replicator*> " if shell.in_transaction else "replicator> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        if is_quit(text):
            break
        _execute(shell, text)
    if shell.in_transaction:
        _warn(f"{ROLLED_BACK}, as there was no COMMIT")


def _execute(shell: SqlShell, text: str) -> None:
    writes = False
    try:
        for statement in statements(text.splitlines(keepends=True)):
            writes = not is_command(statement) and statement_kind(statement) is not StatementKind.READ
            shell.execute(statement)
    except (Error, BadRequest) as error:
        print_error("Error:", "bold red", str(error))
        if shell.end_lost_transaction():
            _warn(ROLLED_BACK)
    except KeyboardInterrupt:
        if shell.in_transaction:  # of a COMMIT, it has ended
            shell.roll_back()
            _warn(f"interrupted: {ROLLED_BACK}")
        else:
            _warn("interrupted: what was executed may have taken effect" if writes else "interrupted")


def _warn(text: str) -> None:
    print_error("Warning:", "bold yellow", text)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=Condition(lambda: is_complete(get_app().current_buffer.text)))
    def accept(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return keys


def _open_history(file: Path) -> History:
    """Only its owner can read it. Without the file, statements are remembered until the end."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(file)


class SqlCompleter(Completer):
    """Completes keywords, tables, and the columns of tables that the text names."""

    def __init__(self, shell: SqlShell) -> None:
        self._shell = shell

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        found = _WORD.search(document.text_before_cursor)
        word = found[0] if found else ""
        if word.startswith(".") and document.text.lstrip().startswith(word):
            candidates = list(COMMANDS)
        else:
            word = word.rpartition(".")[2]
            candidates = [*self._names(document.text), *sorted(apsw.keywords)]
        for candidate in dict.fromkeys(candidates):
            if candidate.lower().startswith(word.lower()):
                is_keyword = candidate in apsw.keywords
                text = candidate.lower() if is_keyword and word.islower() else candidate
                yield Completion(text, -len(word))

    def _names(self, text: str) -> list[str]:
        """Of columns and tables. None if no node answers."""
        with contextlib.suppress(Error):
            tables = self._shell.tables()
            named = {name.lower() for name in _NAMES.findall(text)}
            columns = [column for table in tables if table.lower() in named for column in self._shell.columns(table)]
            return [*columns, *tables]
        return []
