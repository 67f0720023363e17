"""The envelope and the key in the Avro binary encoding."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import fastavro

from replicator import __version__
from replicator.records.codec import load_schema
from replicator.records.fast import encode_array, encode_bytes, encode_long
from replicator.records.fast_command import encode_scalar
from replicator.sql.values import SqlValue
from replicator.store.rows import Image
from replicator.stream.change import Change, Op, Source, TransactionBlock
from replicator.stream.envelope import CONNECTOR, Key, NotAChange, blobs_of, bool_text, from_fields

_NULL, _PRESENT = b"\x00", b"\x02"  # the branches of a union with null
_FALSE, _TRUE = b"\x00", b"\x01"
_NO_COLUMNS = _NULL + encode_array(())


class AvroFormat:
    """The Avro binary encoding of `schemas/change.v1.avsc` and `schemas/change_key.v1.avsc`.

    Written by hand, as `records.fast`: fastavro takes four times as long.
    """

    def __init__(self, key_prefix: bytes = b"", prefix: bytes = b"") -> None:
        """`key_prefix` and `prefix` precede keys and values: empty, or with the schema id of a schema registry."""
        self._schema = fastavro.parse_schema(load_schema("change.v1.avsc"))
        self._key_prefix, self._prefix = key_prefix, prefix
        self._source: tuple[object, ...] = ()  # of which `_source_head` is the encoding: that of the change before
        self._source_head = b""

    def encode_key(self, key: Key) -> bytes:
        field = _field(key.field if key.has_field else None)
        return b"%b%b%b%b" % (self._key_prefix, encode_bytes(key.table.encode()), _text(key.row), field)

    def encode(self, change: Change) -> bytes:
        op, table, row, field, before, after, source, block, published_ms = change
        names = _PRESENT + b"%b%b" % (_text(row), _field(field))
        known = (source[:5], source.timestamp_us, table, op is Op.READ)
        if known != self._source:
            self._source, self._source_head = known, _source(source, table, op)
        return b"".join(
            (
                self._prefix,
                _NULL if before is None else names + _image(before),
                _NULL if after is None else names + _image(after),
                self._source_head,
                encode_long(source.place),
                encode_bytes(op.encode()),
                encode_long(published_ms),
                _NULL if block is None else _block(change, block),
            )
        )

    def decode(self, value: bytes) -> Change:
        if not value.startswith(self._prefix):
            raise NotAChange(f"it begins with {value[:5].hex()}, not with {self._prefix.hex()}")
        try:
            rest = BytesIO(value[len(self._prefix) :])
            fields: Any = fastavro.schemaless_reader(rest, self._schema, None)
            if rest.read(1):
                raise ValueError("trailing bytes")
            return from_fields(fields)
        except (ValueError, KeyError, TypeError, IndexError, EOFError, OverflowError) as error:
            raise NotAChange(f"not a change in Avro: {type(error).__name__}: {error}") from error


def _text(data: bytes) -> bytes:
    """A string, and whether it is base64."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return encode_bytes(base64.b64encode(data)) + _TRUE
    return encode_bytes(data) + _FALSE


def _field(name: bytes | None) -> bytes:
    """A string or null, and whether it is base64."""
    return _NULL + _FALSE if name is None else _PRESENT + _text(name)


def _image(image: Image) -> bytes:
    """What follows the names of the row and the field."""
    kind, value, expires_ms, columns = image
    return b"%b%b%b%b" % (
        encode_bytes(kind.encode()),
        _field(value),
        _NULL if expires_ms is None else _PRESENT + encode_long(expires_ms),
        _NO_COLUMNS if columns is None else _columns(columns),
    )


def _columns(columns: Mapping[str, SqlValue]) -> bytes:
    """A map, and the array of the names of those that are base64."""
    pairs = [encode_bytes(name.encode()) + _column(it) for name, it in columns.items()]
    return _PRESENT + encode_array(pairs) + encode_array([encode_bytes(name.encode()) for name in blobs_of(columns)])


def _column(value: SqlValue) -> bytes:
    return encode_scalar(base64.b64encode(value).decode() if isinstance(value, bytes) else value)


def _source(source: Source, table: str, op: Op) -> bytes:
    """Without the index, which is the last field."""
    texts = (__version__, CONNECTOR, source.cluster)
    more = (bool_text(op is Op.READ), source.cluster, table, source.timeline)
    return b"".join(
        (
            *(encode_bytes(text.encode()) for text in texts),
            encode_long(source.timestamp_us // 1000),
            encode_long(source.timestamp_us),
            *(encode_bytes(text.encode()) for text in more),
            encode_long(source.epoch),
            encode_long(source.offset),
            encode_long(source.seq),
        )
    )


def _block(change: Change, block: TransactionBlock) -> bytes:
    id = encode_bytes((change.transaction_id or "").encode())
    orders = encode_long(block.order), encode_long(block.table_order)
    return b"".join((_PRESENT, id, *orders, encode_long(block.changes)))
