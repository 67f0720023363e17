"""SQL as people write it: statements that end with a semicolon, and commands that begin with a dot."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator

QUIT = frozenset({".quit", ".exit"})
_QUIT_WORDS = frozenset({*QUIT, "exit", "quit"})  # at the prompt, where they are no beginning of a statement
_PARTS = re.compile(r"[^;]*;|[^;]+")


def statements(lines: Iterable[str]) -> Iterator[str]:
    """Each statement and each command, as soon as its last line is read. The last one needs no semicolon."""
    return (text for _, text in numbered_statements(lines))


def numbered_statements(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """As `statements`, with the number of the line at which each begins."""
    text, begin = "", 0
    for number, line in enumerate(lines, 1):
        if not text.strip() and is_command(line):
            yield number, line.strip()
            continue
        for part in _PARTS.findall(line):
            if not text.strip():
                begin = number
            text += part
            if part.endswith(";") and sqlite3.complete_statement(text):
                yield begin, text.strip()
                text = ""
    if text.strip():
        yield begin, text.strip()


def is_command(text: str) -> bool:
    return text.lstrip().startswith(".")


def is_quit(text: str) -> bool:
    """Whether it ends the prompt."""
    return text.strip().removesuffix(";").lower() in _QUIT_WORDS


def is_complete(text: str) -> bool:
    """Whether Enter executes it, instead of beginning another line."""
    return not text.strip() or is_command(text) or is_quit(text) or sqlite3.complete_statement(text)
