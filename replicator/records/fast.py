"""A hand-written Avro codec for the shapes that most records consist of: the header, and the row changes.

Leaders and catching-up followers spend most of their time here, and fastavro takes four times as long for these shapes
(it resolves unions by trying the branches). The bytes are identical to those of fastavro: `tests/test_codec.py`
compares them. Zigzag varints: Avro 1.12, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from replicator.position import Author, Epoch, NodeId, Seq
from replicator.records.types import Change, Group, Header, Write

_CHAIN_BYTES = 8
_TIMELINE_BYTES = 16


def encode_long(number: int) -> bytes:
    """Encode an Avro long."""
    zigzag = (number << 1) ^ (number >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


_LENGTHS = [encode_long(n) for n in range(2048)]
_SOME = b"\x02"  # second branch of ["null", "bytes"]
_NONE = b"\x00"
_END = b"\x00"
_WRITE_BRANCH = b"\x00"
_GROUP_BRANCH = b"\x12"


def _length(count: int) -> bytes:
    return _LENGTHS[count] if count < 2048 else encode_long(count)


def encode_bytes(data: bytes) -> bytes:
    """Encode Avro bytes, or a string in UTF-8."""
    return _length(len(data)) + data


def encode_array(items: Sequence[bytes]) -> bytes:
    """Encode an Avro array of encoded items, or a map of encoded pairs."""
    return _length(len(items)) + b"".join(items) + _END if items else _END


@lru_cache(maxsize=64)
def _author_prefix(version: int, timeline: bytes, epoch: Epoch, author: Author) -> bytes:
    node = author.node.encode()
    return b"".join(
        (
            encode_long(version),
            timeline,
            encode_long(epoch),
            encode_long(len(node)),
            node,
            encode_long(author.incarnation),
        )
    )


def encode_header(header: Header) -> bytes:
    version, timeline, epoch, author, seq, timestamp_us, chain = header
    return HeaderWriter(version, timeline, epoch, author, timestamp_us).write(seq, chain)


class HeaderWriter:
    """Encodes the headers of records that differ only in seq and chain."""

    def __init__(self, version: int, timeline: bytes, epoch: Epoch, author: Author, timestamp_us: int) -> None:
        self._prefix = _author_prefix(version, timeline, epoch, author)
        self._timestamp = encode_long(timestamp_us)

    def write(self, seq: Seq, chain: bytes) -> bytes:
        return b"%b%b%b%b" % (self._prefix, encode_long(seq), self._timestamp, chain)


@lru_cache(maxsize=256)
def _table(name: str) -> bytes:
    encoded = name.encode()
    return encode_long(len(encoded)) + encoded


def encode_write(write: Write) -> bytes:
    """Encode the body of a `Write`, with the index of its union branch."""
    changes = write.changes
    parts = [_WRITE_BRANCH]
    if changes:
        parts.append(_length(len(changes)))
        for table, row, field, old, new in changes:
            parts += (_table(table), _length(len(row)), row, _length(len(field)), field)
            if old is None:
                parts.append(_NONE)
            else:
                parts += (_SOME, _length(len(old)), old)
            if new is None:
                parts.append(_NONE)
            else:
                parts += (_SOME, _length(len(new)), new)
    parts.append(_END)
    return b"".join(parts)


def encode_group(encoded_writes: Sequence[bytes]) -> bytes:
    """Encode the body of a `Group` of bodies that `encode_write` has encoded, with the index of its union branch."""
    changes = [encoded[1:] for encoded in encoded_writes]
    return b"%b%b%b%b" % (_GROUP_BRANCH, _length(len(changes)), b"".join(changes), _END)


def decode_long(data: bytes, at: int) -> tuple[int, int]:
    """An Avro long, and the position after it. Raises `IndexError` at the end of the data, `ValueError`."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at
    zigzag = byte & 0x7F
    shift = 7
    while True:
        byte = data[at]
        at += 1
        zigzag |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (zigzag >> 1) ^ -(zigzag & 1), at
        shift += 7
        if shift > 63:
            raise ValueError("a varint is longer than 64 bits")


class _Prefix(NamedTuple):
    """The part of a header that all records of one author in one epoch share."""

    data: bytes
    version: int
    timeline: bytes
    epoch: Epoch
    author: Author


class HeaderReader:
    """Decodes headers. Caches the parts that consecutive records repeat: the prefix and the timestamp."""

    def __init__(self) -> None:
        self._time = b"\x00"  # encoded
        self._time_us = 0
        self._last = _Prefix(b"\xff", 0, b"", Epoch(0), Author(NodeId(""), 0))

    def continues(self, payload: bytes, version: int, timeline: bytes) -> bool:
        """Whether `payload` has the prefix of the record before it, which has this version and timeline."""
        last = self._last
        return payload.startswith(last.data) and last.version == version and last.timeline == timeline

    def read(self, payload: bytes) -> tuple[Header, int]:
        """The header, and the position of the body. Raises `ValueError` or `IndexError` if it is truncated."""
        last = self._last
        if not payload.startswith(last.data):
            last = self._last = _read_prefix(payload)
        seq, at = decode_long(payload, len(last.data))
        if payload.startswith(self._time, at):
            at += len(self._time)
        else:
            self._time_us, end = decode_long(payload, at)
            self._time, at = payload[at:end], end
        timestamp_us = self._time_us
        end = at + _CHAIN_BYTES
        if end > len(payload):
            raise ValueError("truncated in the chain")
        return Header(
            last.version, last.timeline, last.epoch, last.author, Seq(seq), timestamp_us, payload[at:end]
        ), end


def _read_prefix(payload: bytes) -> _Prefix:
    version, at = decode_long(payload, 0)
    timeline = payload[at : at + _TIMELINE_BYTES]
    epoch, at = decode_long(payload, at + _TIMELINE_BYTES)
    node, at = read_bytes(payload, at)
    incarnation, at = decode_long(payload, at)
    author = Author(NodeId(node.decode()), incarnation)
    return _Prefix(payload[:at], version, timeline, Epoch(epoch), author)


def read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    """Avro bytes, and the position after them. Raises as `decode_long`."""
    length = data[at]
    if length < 0x80:  # one byte, the common case
        length = (length >> 1) ^ -(length & 1)
        at += 1
    else:
        length, at = decode_long(data, at)
    end = at + length
    if length < 0 or end > len(data):
        raise ValueError("truncated in a bytes field")
    return data[at:end], end


def _read_some(data: bytes, at: int) -> tuple[bytes, int]:
    """Decode the second branch of ["null", "bytes"]."""
    if data[at] != 2:
        raise ValueError(f"invalid union branch {data[at]}")
    return read_bytes(data, at + 1)


@lru_cache(maxsize=256)
def _table_name(encoded: bytes) -> str:
    return encoded.decode()


def is_write(body: bytes) -> bool:
    """Whether its union branch is `Write`."""
    return body[:1] == _WRITE_BRANCH


def is_group(body: bytes) -> bool:
    return body[:1] == _GROUP_BRANCH


def decode_write(body: bytes) -> Write:
    """Decode a body whose union branch is `Write`. Raises `ValueError` or `IndexError` if it is invalid."""
    write, at = _decode_changes(body, 1)
    _check_end(body, at)
    return write


def decode_group(body: bytes) -> Group:
    """Decode a body whose union branch is `Group`. Raises as `decode_write`, also if it is empty."""
    writes = []
    count, at = decode_long(body, 1)
    while count:
        if count < 0:
            count = -count
            _, at = decode_long(body, at)
        for _ in range(count):
            write, at = _decode_changes(body, at)
            writes.append(write)
        count, at = decode_long(body, at)
    _check_end(body, at)
    if not writes:
        raise ValueError("a group without transactions")
    return Group(tuple(writes))


def _decode_changes(body: bytes, at: int) -> tuple[Write, int]:
    """The array of changes at that position, and the position after it."""
    changes = []
    count, at = decode_long(body, at)
    while count:
        if count < 0:  # Avro: a negative count is followed by the size of the block in bytes
            count = -count
            _, at = decode_long(body, at)
        for _ in range(count):
            # `read_bytes` inlined for lengths below 64. If a slice ends past the data, the next access raises.
            if (length := body[at]) & 0x81:
                table, at = read_bytes(body, at)
            else:
                table, at = body[at + 1 : at + 1 + (length >> 1)], at + 1 + (length >> 1)
            if (length := body[at]) & 0x81:
                row, at = read_bytes(body, at)
            else:
                row, at = body[at + 1 : at + 1 + (length >> 1)], at + 1 + (length >> 1)
            if (length := body[at]) & 0x81:
                field, at = read_bytes(body, at)
            else:
                field, at = body[at + 1 : at + 1 + (length >> 1)], at + 1 + (length >> 1)
            old, at = (None, at + 1) if body[at] == 0 else _read_some(body, at)
            new, at = (None, at + 1) if body[at] == 0 else _read_some(body, at)
            changes.append(Change(_table_name(table), row, field, old, new))
        count, at = decode_long(body, at)
    return Write(tuple(changes)), at


def _check_end(body: bytes, at: int) -> None:
    if at != len(body):
        raise ValueError("trailing bytes")
