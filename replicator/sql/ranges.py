"""The ranges of keys whose values a constraint may select.

SQLite converts the column or the value before it compares them, by the affinities of both sides (sqlite.org/datatype3,
4.2), and that of the other side is not known here. So a range has all that may be selected, and SQLite compares again.

    column     value       may be equal to
    numeric    text        the number to which it is converted, otherwise the text
    TEXT       a number    any text
    none       a number    it, and any text

Not covered is the comparison of a TEXT column with a numeric column of another table that contains text, by order or by
IN: SQLite passes the values of such a set as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from replicator.sql.key_order import ABOVE_NULL, BEYOND, TEXTS
from replicator.sql.values import Affinity, SqlValue, as_number

Range = tuple[bytes, bytes]
"""[start, stop) of encoded values."""
Encode = Callable[[SqlValue], bytes]

ALL: Range = (ABOVE_NULL, BEYOND)
"""All values except NULL, to which nothing is equal."""


def equal(affinity: Affinity, value: SqlValue, encode: Encode, beyond: bytes) -> list[Range]:
    """`beyond`: appended to an encoded value, it is above all keys that have the value."""
    value = _converted(affinity, value)
    if value is None:
        return []
    encoded = encode(value)
    exact = (encoded, encoded + beyond)
    if affinity.is_numeric or isinstance(value, (str, bytes)):
        return [exact]
    return [TEXTS] if affinity is Affinity.TEXT else [exact, TEXTS]


def above(affinity: Affinity, value: SqlValue, encode: Encode, beyond: bytes, *, inclusive: bool) -> list[Range]:
    value = _converted(affinity, value)
    if value is None:
        return []
    if affinity is Affinity.TEXT and isinstance(value, (int, float)):
        return [ALL]
    return [(encode(value) + (b"" if inclusive else beyond), BEYOND)]


def below(affinity: Affinity, value: SqlValue, encode: Encode, beyond: bytes, *, inclusive: bool) -> list[Range]:
    value = _converted(affinity, value)
    if value is None:
        return []
    natural = (ABOVE_NULL, encode(value) + (beyond if inclusive else b""))
    if affinity.is_numeric or isinstance(value, (str, bytes)):
        return [natural]
    return [ALL] if affinity is Affinity.TEXT else [natural, TEXTS]


def union(ranges: Iterable[Range]) -> list[Range]:
    """Disjoint, in order."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def intersection(first: list[Range], second: list[Range]) -> list[Range]:
    found = ((max(a[0], b[0]), min(a[1], b[1])) for a in first for b in second)
    return [(start, stop) for start, stop in found if start < stop]


def _converted(affinity: Affinity, value: SqlValue) -> SqlValue:
    if affinity.is_numeric and isinstance(value, str):
        number = as_number(value)
        return value if number is None else number
    return value
