"""The envelope and the key as JSON: the same fields as in Avro, without the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.encoder import encode_basestring as quote

from replicator import __version__
from replicator.sql.values import SqlValue
from replicator.store.rows import Image
from replicator.stream.change import Change, Op, Source, TransactionBlock
from replicator.stream.envelope import CONNECTOR, Key, NotAChange, blobs_of, bool_text, from_fields
from replicator.stream.sql_rows import json_value
from replicator.stream.text import cached_text, to_text


class JsonFormat:
    """Built as text: `json.dumps` of dicts takes three times as long."""

    def __init__(self) -> None:
        self._source: tuple[object, ...] = ()  # of which `_source_text` is the encoding: that of the change before
        self._source_text = ""

    def encode_key(self, key: Key) -> bytes:
        row, row_base64 = to_text(key.row)
        field = f",{_field(key.field)}" if key.has_field else ""
        return f'{{"table":{quote(key.table)},"row":{quote(row)},"row_base64":{bool_text(row_base64)}{field}}}'.encode()

    def encode(self, change: Change) -> bytes:
        op, table, row, field, before, after, source, block, published_ms = change
        row_text, row_base64 = to_text(row)
        names = f'{{"row":{quote(row_text)},"row_base64":{bool_text(row_base64)},{_field(field)},'
        known = (source[:5], source.timestamp_us, table, op is Op.READ)
        if known != self._source:
            self._source, self._source_text = known, _source(source, table, op)
        return (
            f'{{"before":{_image(names, before)},"after":{_image(names, after)},'
            f'"source":{self._source_text}{source.place}}},"op":"{op}","ts_ms":{published_ms},'
            f'"transaction":{_block(change, block)}}}'
        ).encode()

    def decode(self, value: bytes) -> Change:
        try:
            return from_fields(json.loads(value))
        except (ValueError, KeyError, TypeError) as error:
            raise NotAChange(f"not a change in JSON: {type(error).__name__}: {error}") from error


def _field(name: bytes | None) -> str:
    if name is None:
        return '"field":null,"field_base64":false'
    text, is_base64 = cached_text(name)
    return f'"field":{quote(text)},"field_base64":{bool_text(is_base64)}'


def _image(names: str, image: Image | None) -> str:
    if image is None:
        return "null"
    kind, value, expires_ms, columns = image
    text, is_base64 = ("null", False) if value is None else _quoted(value)
    expires = "null" if expires_ms is None else expires_ms
    more = "" if columns is None else _columns(columns)
    return f'{names}"type":"{kind}","value":{text},"value_base64":{bool_text(is_base64)},"expires_ms":{expires}{more}}}'


def _columns(columns: Mapping[str, SqlValue]) -> str:
    return f',"columns":{columns_json(columns)},"columns_base64":[{",".join(map(quote, blobs_of(columns)))}]'


def columns_json(columns: Mapping[str, SqlValue]) -> str:
    """The columns by name."""
    return f"{{{','.join(f'{quote(name)}:{json_value(it)}' for name, it in columns.items())}}}"


def _quoted(data: bytes) -> tuple[str, bool]:
    text, is_base64 = to_text(data)
    return quote(text), is_base64


def _source(source: Source, table: str, op: Op) -> str:
    """Without the index, which is the last field."""
    cluster = quote(source.cluster)
    return (
        f'{{"version":"{__version__}","connector":"{CONNECTOR}","name":{cluster},'
        f'"ts_ms":{source.timestamp_us // 1000},"ts_us":{source.timestamp_us},"snapshot":"{bool_text(op is Op.READ)}",'
        f'"cluster":{cluster},"table":{quote(table)},"timeline":"{source.timeline}","epoch":{source.epoch},'
        f'"offset":{source.offset},"seq":{source.seq},"index":'
    )


def _block(change: Change, block: TransactionBlock | None) -> str:
    if block is None:
        return "null"
    order, changes, table_order = block
    return (
        f'{{"id":"{change.transaction_id}","total_order":{order},"data_collection_order":{table_order},'
        f'"event_count":{changes}}}'
    )
