"""Splits an inline command into words, as Redis does (`sdssplitargs`)."""

from __future__ import annotations

import re

# No group can give back what it has taken, so the time grows with the length only.
_WORD = re.compile(
    rb"""\s*+ ([^\s"']*+) (?: "((?:[^"\\]|\\.)*+)" (?!\S) | '((?:[^'\\]|\\'|\\)*+)' (?!\S) | (?!\S) )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_MEANINGS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def split_words(line: bytes) -> list[bytes] | None:
    """The words of a line, which may be quoted. None: the quotes are not balanced."""
    if not (b'"' in line or b"'" in line):
        return line.split()
    words: list[bytes] = []
    at, line = 0, line.strip()
    while at < len(line):
        found = _WORD.match(line, at)
        if found is None:
            return None
        plain, double, single = found.groups(b"")
        words.append(plain + _ESCAPE.sub(_unescape, double) + single.replace(b"\\'", b"'"))
        at = found.end()
    return words


def _unescape(found: re.Match[bytes]) -> bytes:
    code, char = found.groups()
    return bytes.fromhex(code.decode()) if code else _MEANINGS.get(char, char)
