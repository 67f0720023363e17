"""SQL as people write it: statements that end with a semicolon, and commands that begin with a dot."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator

_PARTS = re.compile(r"[^;]*;|[^;]+")


def statements(lines: Iterable[str]) -> Iterator[str]:
    """Each statement and each command, as soon as its last line is read. The last one needs no semicolon."""
    text = ""
    for line in lines:
        if not text.strip() and is_command(line):
            yield line.strip()
            continue
        for part in _PARTS.findall(line):
            text += part
            if part.endswith(";") and sqlite3.complete_statement(text):
                yield text.strip()
                text = ""
    if text.strip():
        yield text.strip()


def is_command(text: str) -> bool:
    return text.lstrip().startswith(".")


def is_complete(text: str) -> bool:
    """Whether Enter executes it, instead of beginning another line."""
    return not text.strip() or is_command(text) or sqlite3.complete_statement(text)
