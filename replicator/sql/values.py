"""The values of SQL, and how a column converts them (sqlite.org/datatype3.html)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from replicator.sql.names import fold

SqlValue = int | float | str | bytes | None

ResultColumn = tuple[str, str | None]
"""Name and declared type."""

INT64 = range(-(2**63), 2**63)


def size_of(row: Sequence[SqlValue]) -> int:
    """Of its texts, in characters, and blobs, in bytes: values of other types are small."""
    size = 0
    for it in row:  # of each row of a result: a comprehension takes half as long again
        if type(it) is str or type(it) is bytes:
            size += len(it)
    return size


class Affinity(Enum):
    """The type to which a column converts the values that are stored in it."""

    INTEGER = "integer"
    REAL = "real"
    NUMERIC = "numeric"
    TEXT = "text"
    BLOB = "blob"  # or no type: values stay as they are

    @property
    def is_numeric(self) -> bool:
        return self in (Affinity.INTEGER, Affinity.REAL, Affinity.NUMERIC)


def affinity_of(declared: str) -> Affinity:
    """By the rules of section 3.1 in the order that they have there."""
    declared = fold(declared)
    if "int" in declared:
        return Affinity.INTEGER
    if any(word in declared for word in ("char", "clob", "text")):
        return Affinity.TEXT
    if not declared or "blob" in declared:
        return Affinity.BLOB
    if any(word in declared for word in ("real", "floa", "doub")):
        return Affinity.REAL
    return Affinity.NUMERIC


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SPACE = " \t\n\v\f\r"


def as_number(text: str) -> int | float | None:
    """The number to which a numeric column converts text; None: it stays text."""
    text = text.strip(_SPACE)
    if not _NUMBER.fullmatch(text):
        return None
    digits = text.lstrip("+-")
    if digits.isdigit() and len(digits.lstrip("0")) < 20 and int(text) in INT64:
        return int(text)
    return float(text)
