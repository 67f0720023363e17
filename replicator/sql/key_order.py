"""Encodes SQL values as bytes that sort as SQLite compares the values: NULL, numbers, text, blobs.

    NULL      01
    number    its integer part (14 + length, or 14 - length if negative, and so many bytes, big-endian), then
              01, or 02 and its fraction (8 bytes), or 00 and the complement of its fraction if it is negative;
              beyond 64 bits: 1d and the number as a double, or 0b and its complement
    text      30, UTF-8
    blob      40, bytes

Integers and reals that are equal have one encoding. Text and blobs end with 00, and have each 00 in them as 00 FF,
unless they come last in a key. The encoding of integers is that of FoundationDB's tuple layer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from math import isinf

from replicator.sql.values import SqlValue

NULL = b"\x01"
ABOVE_NULL = b"\x02"
BEYOND = b"\xff"
"""Appended to a prefix: above all keys with that prefix."""

TEXTS = (b"\x30", b"\x31")
"""Bounds [start, stop) of the encodings of text."""

_ZERO = 0x14
_WHOLE, _FRACTION, _NEGATIVE_FRACTION = b"\x01", b"\x02", b"\x00"
_HUGE, _NEGATIVE_HUGE = b"\x1d", b"\x0b"
_TEXT, _BLOB = b"\x30", b"\x40"
_DOUBLE = struct.Struct(">d")
_BITS = (1 << 64) - 1
_LIMIT = 2.0**63

Collate = Callable[[str], str]
"""Maps text to text that sorts, by its bytes, as the collation says."""


def encode_last(value: SqlValue, collate: Collate | None = None) -> bytes:
    """The encoding of a value that comes last in a key."""
    if isinstance(value, str):
        return _TEXT + (collate(value) if collate else value).encode()
    if isinstance(value, bytes):
        return _BLOB + value
    return encode(value)


def encode(value: SqlValue, collate: Collate | None = None) -> bytes:
    """The encoding of a value that others follow."""
    if isinstance(value, int):
        return _integer(value) + _WHOLE
    if isinstance(value, str):
        return _TEXT + _terminated((collate(value) if collate else value).encode())
    if value is None:
        return NULL
    if isinstance(value, bytes):
        return _BLOB + _terminated(value)
    return _real(value)


def encode_all(values: Sequence[SqlValue], collations: Sequence[Collate | None]) -> bytes:
    """The encoding of values that others follow."""
    return b"".join(map(encode, values, collations))


def decode_integer(encoded: bytes) -> int:
    """The reverse of `encode` for an integer."""
    size = encoded[0] - _ZERO
    number = int.from_bytes(encoded[1:-1], "big")
    return number if size >= 0 else number + 1 - (1 << -8 * size)


def decode_all(encoded: bytes, count: int) -> list[SqlValue]:
    """The `count` values of a key, the last of which was encoded by `encode_last`.

    Text is as its collation maps it, and a real that is a whole number is an integer.
    """
    values: list[SqlValue] = []
    at = 0
    while len(values) < count:
        value, at = _decode(encoded, at, is_last=len(values) == count - 1)
        values.append(value)
    return values


def _decode(encoded: bytes, at: int, *, is_last: bool) -> tuple[SqlValue, int]:
    """The value at a place, and where the next one begins."""
    kind = encoded[at : at + 1]
    if kind == NULL:
        return None, at + 1
    if kind in (_TEXT, _BLOB):
        end = len(encoded) if is_last else _end_of_data(encoded, at + 1)
        data = encoded[at + 1 : end] if is_last else encoded[at + 1 : end].replace(b"\x00\xff", b"\x00")
        return data.decode() if kind == _TEXT else data, end + 1
    if kind in (_HUGE, _NEGATIVE_HUGE):
        bits = encoded[at + 1 : at + 9]
        value: float = _DOUBLE.unpack(bits if kind == _HUGE else _complement(bits))[0]
        return value if kind == _HUGE else -value, at + 9
    end = at + 1 + abs(encoded[at] - _ZERO)
    whole, fraction = decode_integer(encoded[at : end + 1]), encoded[end : end + 1]
    if fraction == _WHOLE:
        return whole, end + 1
    bits = encoded[end + 1 : end + 9]
    if fraction == _FRACTION:
        return whole + _DOUBLE.unpack(bits)[0], end + 9
    return whole - _DOUBLE.unpack(_complement(bits))[0], end + 9


def _end_of_data(encoded: bytes, at: int) -> int:
    """Where the 00 is that ends text or a blob."""
    end = encoded.index(b"\x00", at)
    while encoded[end + 1 : end + 2] == b"\xff":
        end = encoded.index(b"\x00", end + 2)
    return end


def _complement(bits: bytes) -> bytes:
    return (_BITS - int.from_bytes(bits, "big")).to_bytes(8, "big")


def _integer(value: int) -> bytes:
    if value >= 0:
        size = (value.bit_length() + 7) >> 3
        return bytes((_ZERO + size,)) + value.to_bytes(size, "big")
    size = ((-value).bit_length() + 7) >> 3
    return bytes((_ZERO - size,)) + (value + (1 << 8 * size) - 1).to_bytes(size, "big")


def _real(value: float) -> bytes:
    if isinf(value) or not -_LIMIT <= value < _LIMIT:
        bits = int.from_bytes(_DOUBLE.pack(abs(value)), "big")
        return _complemented(_NEGATIVE_HUGE, bits) if value < 0 else _HUGE + bits.to_bytes(8, "big")
    whole = int(value)  # towards zero
    fraction = abs(value - whole)
    if not fraction:
        return _integer(whole) + _WHOLE
    bits = int.from_bytes(_DOUBLE.pack(fraction), "big")
    if value < 0:
        return _complemented(_integer(whole) + _NEGATIVE_FRACTION, bits)
    return _integer(whole) + _FRACTION + bits.to_bytes(8, "big")


def _complemented(prefix: bytes, bits: int) -> bytes:
    return prefix + (_BITS - bits).to_bytes(8, "big")


def _terminated(data: bytes) -> bytes:
    return data.replace(b"\x00", b"\x00\xff") + b"\x00"
