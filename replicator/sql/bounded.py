"""SQL functions whose time grows with the product of their arguments' sizes in SQLite. Here it grows with the sum.

Nothing can interrupt SQLite in such a function, and no other client is served meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from replicator.limits import MAX_PATCH_BYTES, MAX_TRIMMED_CHARS
from replicator.sql.errors import SqlError
from replicator.sql.limits import MAX_VALUE
from replicator.sql.values import SqlValue

_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))
"""Those after the first byte of a character in UTF-8."""
"""Different characters, each of which is compared with each at the ends of the text."""
_CONTINUATIONS = frozenset(bytes((it,)) for it in _CONTINUATION_BYTES)


def register(scalar: Callable[[str, Callable[..., SqlValue], int], None], plain: apsw.Connection) -> None:
    """`scalar` adds a function with so many arguments; `plain`: a connection with SQLite's own functions."""
    text = _AsText(plain)

    def replace(whole: SqlValue, part: SqlValue, by: SqlValue) -> SqlValue:
        if whole is None or part is None or by is None:
            return None
        searched, found, put = text(part), text(whole), text(by)
        if not searched:
            return found
        if _size(found) + found.count(searched) * (_size(put) - _size(searched)) > MAX_VALUE:
            raise apsw.TooBigError("string or blob too big")
        return found.replace(searched, put)

    def instr(whole: SqlValue, part: SqlValue) -> SqlValue:
        if whole is None or part is None:
            return None
        if isinstance(whole, bytes) and isinstance(part, bytes):
            return whole.find(part) + 1
        if isinstance(whole, bytes) or isinstance(part, bytes):
            return _instr_utf8(*(it if isinstance(it, bytes) else text(it).encode() for it in (whole, part)))
        return text(whole).find(text(part)) + 1

    def patch(target: SqlValue, changes: SqlValue) -> SqlValue:
        size = sum(len(it) for it in (target, changes) if isinstance(it, (str, bytes)))
        if size > MAX_PATCH_BYTES:
            raise SqlError(f"json_patch() takes at most {MAX_PATCH_BYTES >> 10} KiB: divide the patch")
        result: SqlValue = plain.execute("SELECT json_patch(?, ?)", (target, changes)).get
        return result

    scalar("replace", replace, 3)
    scalar("instr", instr, 2)
    scalar("json_patch", patch, 2)
    for name, strip in (("trim", str.strip), ("ltrim", str.lstrip), ("rtrim", str.rstrip)):
        scalar(name, _trimming(strip, text), 2)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _instr_utf8(whole: bytes, part: bytes) -> int:
    """In characters, for bytes that need not be valid UTF-8: as SQLite, it looks only where a character begins."""
    if part[:1] in _CONTINUATIONS:
        return int(whole.startswith(part))
    at = whole.find(part)
    return 1 + len(whole[1 : at + 1].translate(None, _CONTINUATION_BYTES)) if at >= 0 else 0


def _trimming(strip: Callable[[str, str], str], text: _AsText) -> Callable[..., SqlValue]:
    def trim(whole: SqlValue, characters: SqlValue) -> SqlValue:
        if whole is None or characters is None:
            return None
        wanted = set(text(characters))
        if len(wanted) > MAX_TRIMMED_CHARS:
            raise SqlError(f"trim() removes at most {MAX_TRIMMED_CHARS} different characters")
        return strip(text(whole), "".join(wanted))

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
