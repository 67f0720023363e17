"""A hand-written Avro codec for `Command`, the body of `schemas/record.v4.avsc`. `fast` has those of most records.

The bytes are identical to those of fastavro: `tests/test_codec.py` compares them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

from replicator.records.fast import decode_long, encode_array, encode_bytes, encode_long, read_bytes
from replicator.records.tape import Call, TapeValue
from replicator.records.types import Command

_BRANCH = b"\x0e"  # index 7 in the union of the bodies, as a zigzag varint
_NULL, _LONG, _DOUBLE, _STRING, _BYTES = b"\x00", b"\x02", b"\x04", b"\x06", b"\x08"
_DOUBLE_BYTES = 8

T = TypeVar("T")


def is_command(body: bytes) -> bool:
    """Whether its union branch is `Command`."""
    return body[:1] == _BRANCH


def encode_command(command: Command) -> bytes:
    """Encode the body, with the index of its union branch."""
    engine, lines, tape, now_ms, changes, reads = command
    return b"".join(
        (
            _BRANCH,
            encode_bytes(engine.encode()),
            encode_array([encode_array([encode_bytes(word) for word in line]) for line in lines]),
            encode_array([encode_bytes(name.encode()) + encode_scalar(result) for name, result in tape]),
            encode_long(now_ms),
            encode_long(changes),
            encode_long(reads),
        )
    )


def encode_scalar(value: TapeValue) -> bytes:
    """Encode a union of null, long, double, string and, in some schemas, bytes, in this order."""
    if value is None:
        return _NULL
    if isinstance(value, int):
        return _LONG + encode_long(value)
    if isinstance(value, float):
        return _DOUBLE + struct.pack("<d", value)
    if isinstance(value, str):
        return _STRING + encode_bytes(value.encode())
    return _BYTES + encode_bytes(value)


def decode_command(body: bytes) -> Command:
    """Decode a body whose union branch is `Command`. Raises `ValueError` or `IndexError` if it is invalid."""
    engine, at = read_bytes(body, 1)
    lines, at = _read_array(body, at, _read_line)
    tape, at = _read_array(body, at, _read_call)
    now_ms, at = decode_long(body, at)
    changes, at = decode_long(body, at)
    reads, at = decode_long(body, at)
    if at != len(body):
        raise ValueError("trailing bytes")
    return Command(engine.decode(), lines, tape, now_ms, changes, reads)


def _read_array(body: bytes, at: int, read: Callable[[bytes, int], tuple[T, int]]) -> tuple[tuple[T, ...], int]:
    items = []
    count, at = decode_long(body, at)
    while count:
        if count < 0:  # followed by the size of the block in bytes
            count = -count
            _, at = decode_long(body, at)
        for _ in range(count):
            item, at = read(body, at)
            items.append(item)
        count, at = decode_long(body, at)
    return tuple(items), at


def _read_line(body: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    return _read_array(body, at, read_bytes)


def _read_call(body: bytes, at: int) -> tuple[Call, int]:
    name, at = read_bytes(body, at)
    result, at = _read_scalar(body, at)
    return Call(name.decode(), result), at


def _read_scalar(body: bytes, at: int) -> tuple[TapeValue, int]:
    branch, at = body[at : at + 1], at + 1
    if branch == _NULL:
        return None, at
    if branch == _LONG:
        return decode_long(body, at)
    if branch == _DOUBLE:
        end = at + _DOUBLE_BYTES
        if end > len(body):
            raise ValueError("truncated in a double field")
        return struct.unpack_from("<d", body, at)[0], end
    if branch == _STRING:
        text, at = read_bytes(body, at)
        return text.decode(), at
    if branch == _BYTES:
        return read_bytes(body, at)
    raise ValueError(f"invalid union branch {branch!r}")
