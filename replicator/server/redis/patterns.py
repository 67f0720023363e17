"""Glob patterns as Redis matches them."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=256)
def glob(pattern: bytes) -> re.Pattern[bytes]:
    """A glob pattern of Redis (`stringmatchlen`): ? * [abc] [a-z] [^a] and backslash."""
    out = [rb"\A"]
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            out.append(b".*")
        elif char == b"?":
            out.append(b".")
        elif char == b"[":
            part, at = _char_class(pattern, at)
            out.append(part)
        else:
            if char == b"\\" and at < len(pattern):
                char = pattern[at : at + 1]
                at += 1
            out.append(re.escape(char))
    return re.compile(b"".join(out) + rb"\Z", re.DOTALL)


def _char_class(pattern: bytes, at: int) -> tuple[bytes, int]:
    negated = pattern[at : at + 1] == b"^"
    at += negated
    parts: list[bytes] = []
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            at += 1
            parts.append(re.escape(pattern[at : at + 1]))
            at += 1
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at : at + 1], pattern[at + 2 : at + 3]))
            parts.append(re.escape(low) + b"-" + re.escape(high))
            at += 3
        else:
            parts.append(re.escape(pattern[at : at + 1]))
            at += 1
    if not parts:
        return (b"." if negated else rb"(?!)"), at + 1
    return b"[" + (b"^" if negated else b"") + b"".join(parts) + b"]", at + 1
