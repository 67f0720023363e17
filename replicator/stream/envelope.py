"""The formats of messages in the topic of changes: the key and the envelope, as JSON or Avro.

The envelope is that of Debezium ("Change event values" in the documentation of its connectors), with the fields of
`schemas/change.v1.avsc`. JSON has the same fields as Avro, without the schema. A delete of a row is followed by a
tombstone: the same key without a value.
"""

from __future__ import annotations

import base64
import json
from enum import StrEnum
from io import BytesIO
from json.encoder import encode_basestring as quote
from typing import Any, NamedTuple, Protocol

import fastavro

from replicator import __version__
from replicator.position import Epoch, Offset, Seq
from replicator.records.codec import load_schema
from replicator.records.fast import encode_bytes, encode_long
from replicator.store.rows import Image
from replicator.stream.change import Change, Op, Source, TransactionBlock
from replicator.stream.text import cached_text, from_text, to_text

CONNECTOR = "replicator"


class NotAChange(ValueError):
    """The message is not a change in this format: another program wrote it, or the stream has another format."""


class StreamFormat(StrEnum):
    JSON = "json"
    AVRO = "avro"


class Key(NamedTuple):
    """What messages with the same key have in common. `has_field`: in a compacted topic, also the field."""

    table: str
    row: bytes
    field: bytes | None
    has_field: bool


def key_of(change: Change, *, with_field: bool) -> Key:
    return Key(change.table, change.row, change.field if with_field else None, with_field)


def needs_tombstone(change: Change, key: Key) -> bool:
    """Whether nothing is left of what the key names."""
    return change.op is Op.DELETE and (key.has_field or change.field is None)


class EnvelopeFormat(Protocol):
    def encode_key(self, key: Key) -> bytes: ...

    def encode(self, change: Change) -> bytes: ...

    def decode(self, value: bytes) -> Change:
        """Raises `NotAChange`."""
        ...


class JsonFormat:
    """Built as text: `json.dumps` of dicts takes three times as long."""

    def __init__(self) -> None:
        self._source: tuple[object, ...] = ()  # cached: changes of one transaction have nearly the same
        self._source_text = ""

    def encode_key(self, key: Key) -> bytes:
        row, row_base64 = to_text(key.row)
        field = f",{_field_text(key.field)}" if key.has_field else ""
        return f'{{"table":{quote(key.table)},"row":{quote(row)},"row_base64":{_bool(row_base64)}{field}}}'.encode()

    def encode(self, change: Change) -> bytes:
        op, table, row, field, before, after, source, block, published_ms = change
        row_text, row_base64 = to_text(row)
        names = f'{{"row":{quote(row_text)},"row_base64":{_bool(row_base64)},{_field_text(field)},'
        known = (source[:5], source.timestamp_us, table, op is Op.READ)
        if known != self._source:
            self._source, self._source_text = known, _source_text(source, table, op)
        return (
            f'{{"before":{_image_text(names, before)},"after":{_image_text(names, after)},'
            f'"source":{self._source_text}{source.place}}},"op":"{op}","ts_ms":{published_ms},'
            f'"transaction":{_block_text(change, block)}}}'
        ).encode()

    def decode(self, value: bytes) -> Change:
        try:
            return _from_fields(json.loads(value))
        except (ValueError, KeyError, TypeError) as error:
            raise NotAChange(f"not a change in JSON: {type(error).__name__}: {error}") from error


class AvroFormat:
    """The Avro binary encoding of `schemas/change.v1.avsc` and `schemas/change_key.v1.avsc`.

    Written by hand, as `records.fast`: fastavro takes four times as long. `key_prefix` and `prefix` come before it:
    empty, or those of a schema registry.
    """

    def __init__(self, key_prefix: bytes = b"", prefix: bytes = b"") -> None:
        self._schema = fastavro.parse_schema(load_schema("change.v1.avsc"))
        self._key_prefix, self._prefix = key_prefix, prefix
        self._source: tuple[object, ...] = ()
        self._source_head = b""

    def encode_key(self, key: Key) -> bytes:
        field = _avro_field(key.field if key.has_field else None)
        return b"%b%b%b%b" % (self._key_prefix, encode_bytes(key.table.encode()), _avro_text(key.row), field)

    def encode(self, change: Change) -> bytes:
        op, table, row, field, before, after, source, block, published_ms = change
        names = _PRESENT + b"%b%b" % (_avro_text(row), _avro_field(field))
        known = (source[:5], source.timestamp_us, table, op is Op.READ)
        if known != self._source:
            self._source, self._source_head = known, _avro_source(source, table, op)
        return b"".join(
            (
                self._prefix,
                _NULL if before is None else names + _avro_image(before),
                _NULL if after is None else names + _avro_image(after),
                self._source_head,
                encode_long(source.place),
                encode_bytes(op.encode()),
                encode_long(published_ms),
                _NULL if block is None else _avro_block(change, block),
            )
        )

    def decode(self, value: bytes) -> Change:
        if not value.startswith(self._prefix):
            raise NotAChange(f"it begins with {value[:5].hex()}, not with {self._prefix.hex()}")
        try:
            stream = BytesIO(value[len(self._prefix) :])
            fields: Any = fastavro.schemaless_reader(stream, self._schema, None)
            if stream.read(1):
                raise ValueError("trailing bytes")
            return _from_fields(fields)
        except (ValueError, KeyError, TypeError, IndexError, EOFError, OverflowError) as error:
            raise NotAChange(f"not a change in Avro: {type(error).__name__}: {error}") from error


def to_fields(change: Change) -> dict[str, Any]:
    """The envelope, as `json.loads` and Avro readers return it."""
    source, block = change.source, change.transaction
    row, row_base64 = to_text(change.row)
    field, field_base64 = _field(change.field)
    names = {"row": row, "row_base64": row_base64, "field": field, "field_base64": field_base64}
    return {
        "before": _image_fields(names, change.before),
        "after": _image_fields(names, change.after),
        "source": {
            "version": __version__,
            "connector": CONNECTOR,
            "name": source.cluster,
            "ts_ms": source.timestamp_us // 1000,
            "ts_us": source.timestamp_us,
            "snapshot": _bool(change.op is Op.READ),
            "cluster": source.cluster,
            "table": change.table,
            "timeline": source.timeline,
            "epoch": source.epoch,
            "offset": source.offset,
            "seq": source.seq,
            "index": source.place,
        },
        "op": change.op.value,
        "ts_ms": change.published_ms,
        "transaction": None
        if block is None
        else {
            "id": change.transaction_id,
            "total_order": block.order,
            "data_collection_order": block.order,  # there is one table
            "event_count": block.changes,
        },
    }


def _from_fields(fields: dict[str, Any]) -> Change:
    """Raises `ValueError`, `KeyError` or `TypeError`."""
    before, after, source, block = fields["before"], fields["after"], fields["source"], fields["transaction"]
    names = before or after
    field = names["field"]
    return Change(
        Op(fields["op"]),
        source["table"],
        from_text(names["row"], names["row_base64"]),
        None if field is None else from_text(field, names["field_base64"]),
        _image(before),
        _image(after),
        Source(
            source["cluster"],
            source["timeline"],
            Epoch(source["epoch"]),
            Offset(source["offset"]),
            Seq(source["seq"]),
            source["index"],
            source["ts_us"],
        ),
        None if block is None else TransactionBlock(block["total_order"], block["event_count"]),
        fields["ts_ms"],
    )


def _image(fields: dict[str, Any] | None) -> Image | None:
    if fields is None:
        return None
    value = fields["value"]
    data = None if value is None else from_text(value, fields["value_base64"])
    return Image(fields["type"], data, fields["expires_ms"])


def _image_fields(names: dict[str, Any], image: Image | None) -> dict[str, Any] | None:
    if image is None:
        return None
    value, is_base64 = (None, False) if image.value is None else to_text(image.value)
    return {
        **names,
        "type": image.type,
        "value": value,
        "value_base64": is_base64,
        "expires_ms": image.expires_at_ms,
    }


def _field(name: bytes | None) -> tuple[str | None, bool]:
    return (None, False) if name is None else cached_text(name)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _field_text(name: bytes | None) -> str:
    if name is None:
        return '"field":null,"field_base64":false'
    text, is_base64 = cached_text(name)
    return f'"field":{quote(text)},"field_base64":{_bool(is_base64)}'


def _image_text(names: str, image: Image | None) -> str:
    if image is None:
        return "null"
    kind, value, expires_ms = image
    text, is_base64 = ("null", False) if value is None else _quoted(value)
    expires = "null" if expires_ms is None else expires_ms
    return f'{names}"type":"{kind}","value":{text},"value_base64":{_bool(is_base64)},"expires_ms":{expires}}}'


def _quoted(data: bytes) -> tuple[str, bool]:
    text, is_base64 = to_text(data)
    return quote(text), is_base64


def _source_text(source: Source, table: str, op: Op) -> str:
    """Without the index, which is the last field."""
    cluster = quote(source.cluster)
    return (
        f'{{"version":"{__version__}","connector":"{CONNECTOR}","name":{cluster},'
        f'"ts_ms":{source.timestamp_us // 1000},"ts_us":{source.timestamp_us},"snapshot":"{_bool(op is Op.READ)}",'
        f'"cluster":{cluster},"table":{quote(table)},"timeline":"{source.timeline}","epoch":{source.epoch},'
        f'"offset":{source.offset},"seq":{source.seq},"index":'
    )


def _block_text(change: Change, block: TransactionBlock | None) -> str:
    if block is None:
        return "null"
    order, changes = block
    return (
        f'{{"id":"{change.transaction_id}","total_order":{order},"data_collection_order":{order},'
        f'"event_count":{changes}}}'
    )


_NULL, _PRESENT = b"\x00", b"\x02"  # the branches of a union with null
_AVRO_FALSE, _AVRO_TRUE = b"\x00", b"\x01"


def _avro_text(data: bytes) -> bytes:
    """A string, and whether it is base64."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return encode_bytes(base64.b64encode(data)) + _AVRO_TRUE
    return encode_bytes(data) + _AVRO_FALSE


def _avro_field(name: bytes | None) -> bytes:
    """A string or null, and whether it is base64."""
    return _NULL + _AVRO_FALSE if name is None else _PRESENT + _avro_text(name)


def _avro_image(image: Image) -> bytes:
    """What follows the names of the row and the field."""
    kind, value, expires_ms = image
    return b"%b%b%b" % (
        encode_bytes(kind.encode()),
        _avro_field(value),
        _NULL if expires_ms is None else _PRESENT + encode_long(expires_ms),
    )


def _avro_source(source: Source, table: str, op: Op) -> bytes:
    """Without the index, which is the last field."""
    texts = (__version__, CONNECTOR, source.cluster)
    more = (_bool(op is Op.READ), source.cluster, table, source.timeline)
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


def _avro_block(change: Change, block: TransactionBlock) -> bytes:
    id, order = change.transaction_id or "", encode_long(block.order)
    return b"".join((_PRESENT, encode_bytes(id.encode()), order, order, encode_long(block.changes)))
