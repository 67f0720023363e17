"""The encoding of stored values: a type tag, then the data.

An upper-case tag is followed by the expiry (8 bytes, big-endian, ms since 1970) before the data.
"""

from __future__ import annotations

from typing import NamedTuple

NEVER = None
LONG_AGO_MS = 1
"""An expiry that every clock agrees has passed."""
NO_EXPIRY_TAG = ord("a")
"""Tags from this one on are lower case: the value has no expiry."""


class Value(NamedTuple):
    tag: bytes  # one lower-case letter, e.g. b"s" for a string
    data: bytes
    expires_at_ms: int | None = NEVER


def encode_value(tag: bytes, data: bytes, expires_at_ms: int | None = NEVER) -> bytes:
    if expires_at_ms is None:
        return tag + data
    return tag.upper() + expires_at_ms.to_bytes(8, "big") + data


def decode_value(stored: bytes) -> Value:
    tag = stored[:1]
    if tag.islower():
        return Value(tag, stored[1:])
    return Value(tag.lower(), stored[9:], int.from_bytes(stored[1:9], "big"))


def with_expiry(stored: bytes, expires_at_ms: int) -> bytes:
    """The value with another expiry."""
    return encode_value(*decode_value(stored)[:2], expires_at_ms)


def expiry_of(stored: bytes | None) -> int | None:
    """When the value expires (ms since 1970), or None."""
    if stored is None or stored[0] >= NO_EXPIRY_TAG:
        return None
    return int.from_bytes(stored[1:9], "big")
