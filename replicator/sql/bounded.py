"""SQL functions whose time grows with the product of their arguments in SQLite: here it grows with the sum.

Nothing else runs while SQLite is in such a function, and nothing can interrupt it.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from replicator.limits import MAX_PATCH_BYTES
from replicator.sql.errors import SqlError
from replicator.sql.values import SqlValue


def register(connection: apsw.Connection, plain: apsw.Connection) -> None:
    """`plain`: a connection with SQLite's own functions."""

    def scalar(name: str, function: Callable[..., SqlValue], arguments: int) -> None:
        connection.create_scalar_function(name, function, arguments, deterministic=True)

    text = _AsText(plain)

    def replace(whole: SqlValue, part: SqlValue, by: SqlValue) -> SqlValue:
        if whole is None or part is None or by is None:
            return None
        searched = text(part)
        return text(whole).replace(searched, text(by)) if searched else text(whole)

    def instr(whole: SqlValue, part: SqlValue) -> SqlValue:
        if whole is None or part is None:
            return None
        if isinstance(whole, bytes) and isinstance(part, bytes):
            return whole.find(part) + 1
        return text(whole).find(text(part)) + 1

    def patch(target: SqlValue, changes: SqlValue) -> SqlValue:
        size = sum(len(it) for it in (target, changes) if isinstance(it, (str, bytes)))
        if size > MAX_PATCH_BYTES:
            raise SqlError(f"json_patch() takes at most {MAX_PATCH_BYTES >> 10} KiB")
        result: SqlValue = plain.execute("SELECT json_patch(?, ?)", (target, changes)).get
        return result

    scalar("replace", replace, 3)
    scalar("instr", instr, 2)
    scalar("json_patch", patch, 2)
    for name, strip in (("trim", str.strip), ("ltrim", str.lstrip), ("rtrim", str.rstrip)):
        scalar(name, _trimming(strip, text), 2)


def _trimming(strip: Callable[[str, str], str], text: _AsText) -> Callable[..., SqlValue]:
    def trim(whole: SqlValue, characters: SqlValue) -> SqlValue:
        if whole is None or characters is None:
            return None
        return strip(text(whole), "".join(set(text(characters))))

    return trim


class _AsText:
    """The text of a value, as SQLite converts it."""

    def __init__(self, plain: apsw.Connection) -> None:
        self._plain = plain

    def __call__(self, value: SqlValue) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int):
            return str(value)
        converted: str = self._plain.execute("SELECT CAST(? AS TEXT)", (value,)).get
        return converted
