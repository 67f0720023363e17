"""Glob patterns as Redis matches them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from replicator.errors import BadRequest
from replicator.limits import MAX_PATTERN_BYTES, MAX_PATTERNS


@lru_cache(maxsize=256)
def glob(pattern: bytes) -> re.Pattern[bytes]:
    """A glob pattern of Redis (`stringmatchlen`): ? * [abc] [a-z] [^a] and backslash. Raises `BadRequest`.

    A part between two stars matches where it first can, and never tries another place: the parts after it match if they
    match anywhere. The last part is compared with the end. So the time is at most the product of both lengths.
    """
    if len(pattern) > MAX_PATTERN_BYTES:
        raise BadRequest(f"a pattern has at most {MAX_PATTERN_BYTES} bytes, this one has {len(pattern)}")
    first, *parts = _parts(pattern)
    out = [rb"\A", *first]
    if parts:
        *middle, last = parts
        out += [rb"(?>.*?%b)" % b"".join(part) for part in middle if part]
        out.append(rb"(?=.{%d}).*+(?<=%b)" % (len(last), b"".join(last)))
    return re.compile(b"".join(out) + rb"\Z", re.DOTALL)


def globs(patterns: Sequence[bytes]) -> list[re.Pattern[bytes]]:
    """Raises `BadRequest`."""
    if len(patterns) > MAX_PATTERNS:
        raise BadRequest(f"one command has at most {MAX_PATTERNS} patterns, this one has {len(patterns)}: split it")
    return [glob(pattern) for pattern in patterns]


def _parts(pattern: bytes) -> list[list[bytes]]:
    """What is between the stars. Each item of a part is a regular expression that matches one byte."""
    parts: list[list[bytes]] = [[]]
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            parts.append([])
        elif char == b"?":
            parts[-1].append(b".")
        elif char == b"[":
            item, at = _char_class(pattern, at)
            parts[-1].append(item)
        else:
            if char == b"\\" and at < len(pattern):
                char = pattern[at : at + 1]
                at += 1
            parts[-1].append(re.escape(char))
    return parts


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
