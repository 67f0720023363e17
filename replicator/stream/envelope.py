"""The envelope of a change, and the key of its message, whatever their encoding is.

The envelope is that of Debezium ("Change event values" in the documentation of its connectors), with the fields of
`schemas/change.v1.avsc`. `stream.json_envelope` and `stream.avro_envelope` encode it. A delete of a row is followed by
a tombstone: the same key without a value.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from replicator import __version__
from replicator.position import Epoch, Offset, Seq
from replicator.sql.values import SqlValue
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
    """The key of a message. It names a row; in a compacted topic, a row or one of its fields."""

    table: str
    row: bytes
    field: bytes | None  # None: the row itself, or any of its fields unless `has_field`
    has_field: bool  # whether the encoded key has the field


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


def to_fields(change: Change) -> dict[str, Any]:
    """The envelope, as `json.loads` returns it. Avro readers also return the `columns` of keys, which are null."""
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
            "snapshot": bool_text(change.op is Op.READ),
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
            "data_collection_order": block.table_order,
            "event_count": block.changes,
        },
    }


def from_fields(fields: dict[str, Any]) -> Change:
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
        None if block is None else _block(block),
        fields["ts_ms"],
    )


def _image(fields: dict[str, Any] | None) -> Image | None:
    if fields is None:
        return None
    value = fields["value"]
    data = None if value is None else from_text(value, fields["value_base64"])
    columns = fields.get("columns")
    if columns is None:
        return Image(fields["type"], data, fields["expires_ms"])
    blobs = {name: from_text(columns[name], is_base64=True) for name in fields["columns_base64"]}
    return Image(fields["type"], data, fields["expires_ms"], {**columns, **blobs})


def _block(fields: dict[str, Any]) -> TransactionBlock:
    return TransactionBlock(fields["total_order"], fields["event_count"], fields["data_collection_order"])


def _image_fields(names: dict[str, Any], image: Image | None) -> dict[str, Any] | None:
    if image is None:
        return None
    value, is_base64 = (None, False) if image.value is None else to_text(image.value)
    fields = {
        **names,
        "type": image.type,
        "value": value,
        "value_base64": is_base64,
        "expires_ms": image.expires_at_ms,
    }
    if image.columns is not None:
        fields["columns"] = {
            name: base64.b64encode(it).decode() if isinstance(it, bytes) else it for name, it in image.columns.items()
        }
        fields["columns_base64"] = blobs_of(image.columns)
    return fields


def blobs_of(columns: Mapping[str, SqlValue]) -> list[str]:
    """The columns whose values are in base64: those that are blobs, also if they are valid UTF-8."""
    return [name for name, it in columns.items() if isinstance(it, bytes)]


def _field(name: bytes | None) -> tuple[str | None, bool]:
    return (None, False) if name is None else cached_text(name)


def bool_text(value: bool) -> str:
    return "true" if value else "false"
