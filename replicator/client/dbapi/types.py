"""Type objects and constructors of PEP 249."""

from __future__ import annotations

from datetime import date, datetime
from datetime import time as time_of_day
from typing import TypeAlias

Date: TypeAlias = date
Time: TypeAlias = time_of_day
Timestamp: TypeAlias = datetime


def DateFromTicks(ticks: float) -> date:
    return date.fromtimestamp(ticks)


def TimeFromTicks(ticks: float) -> time_of_day:
    return datetime.fromtimestamp(ticks).time()


def TimestampFromTicks(ticks: float) -> datetime:
    return datetime.fromtimestamp(ticks)


def Binary(value: bytes | bytearray | memoryview) -> bytes:
    return memoryview(value).tobytes()


class TypeObject:
    """Equals the type code of a column, which is its declared type, if that contains one of these words."""

    def __init__(self, name: str, *words: str) -> None:
        self._name = name
        self._words = words

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return any(word in other.upper() for word in self._words)
        return self is other

    __hash__ = None  # type: ignore[assignment]  # as one type object equals many type codes

    def __repr__(self) -> str:
        return self._name


STRING = TypeObject("STRING", "CHAR", "CLOB", "TEXT")
BINARY = TypeObject("BINARY", "BLOB", "BINARY")
NUMBER = TypeObject("NUMBER", "INT", "REAL", "FLOA", "DOUB", "NUMERIC", "DECIMAL", "BOOL")
DATETIME = TypeObject("DATETIME", "DATE", "TIME")
ROWID = TypeObject("ROWID", "ROWID")
