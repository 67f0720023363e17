"""Names of tables, columns and types: SQLite ignores the case of ASCII letters in them, and of no others."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def fold(name: str) -> str:
    """Names are the same if this is."""
    return name.lower() if name.isascii() else name.translate(_LOWER)
