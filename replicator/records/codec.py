"""Encodes records as Avro, and decodes them.

The wire format is the Avro binary encoding of `schemas/record.v4.avsc`, without a container file. Every version of the
schema begins with `version` and `timeline`, so a reader can distinguish a newer record from data of another program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro

from replicator import formats
from replicator.errors import LogDamage, UpgradeNeeded
from replicator.position import Author
from replicator.records import bodies, fast, fast_command
from replicator.records.types import (
    COMMANDS_SINCE,
    GROUPS_SINCE,
    VERSION,
    Ack,
    Body,
    Command,
    Group,
    Header,
    Membership,
    Record,
    Write,
)

_DECODE_ERRORS = (ValueError, IndexError, KeyError, EOFError, TypeError, OverflowError)
_PLAUSIBLE_VERSIONS = range(1, 1000)

Schema = dict[str, Any]


class NotARecord(ValueError):
    """The value is not a record of this log: another program wrote it."""


def load_schema(name: str) -> Schema:
    """The parsed JSON of one file in `schemas/`."""
    packaged = Path(__file__).parent / "schemas"
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "schemas"
    schema: Schema = json.loads((folder / name).read_text())
    return schema


class RecordCodec:
    """Decodes records written with any schema in `writers` (by version). Encodes with the schema of `VERSION`, but for
    a `Membership`, which is encoded with that of its own version. The other bodies are the same in all versions.

    A field that the writer's schema lacks gets the default of the reader's schema (Avro 1.12, "Schema Resolution").
    """

    def __init__(self, writers: Mapping[int, Schema] | None = None, reader: Schema | None = None) -> None:
        known = {version: load_schema(f"record.v{version}.avsc") for version in range(1, VERSION + 1)}
        self._reader = fastavro.parse_schema(reader or known[VERSION])
        self._writers = {version: fastavro.parse_schema(it) for version, it in (writers or known).items()}
        self._headers = fast.HeaderReader()

    def encode(self, header: Header, encoded_body: bytes) -> bytes:
        return fast.encode_header(header) + encoded_body

    def encode_body(self, body: Body) -> bytes:
        if type(body) is Write:
            return fast.encode_write(body)
        if type(body) is Command:
            return fast_command.encode_command(body)
        if type(body) is Group:
            return fast.encode_group([fast.encode_write(write) for write in body.writes])
        out = BytesIO()
        header = {**_EMPTY_HEADER}
        schema = self._writers[body.version] if type(body) is Membership else self._reader
        fastavro.schemaless_writer(out, schema, {"header": header, "body": bodies.to_avro(body)})
        return out.getvalue()[_EMPTY_HEADER_BYTES:]

    def decode(self, payload: bytes, timeline: bytes) -> Record:
        """Decode one record of `timeline` (16 bytes; empty before the first claim: then of any timeline).

        Raises `NotARecord`, `UpgradeNeeded`, or `LogDamage` (a record of this timeline that cannot be decoded).
        """
        if self._headers.continues(payload, VERSION, timeline):
            version, is_own = VERSION, True
        else:
            version, is_own = _begin(payload, timeline)
        writer = self._writers.get(version)
        if writer is None:
            if is_own and version in _PLAUSIBLE_VERSIONS:
                newer = formats.describe_newer("a record", version, max(self._writers))
                raise UpgradeNeeded(f"{newer} on this node. docs/compatibility.md says which one reads it")
            raise NotARecord("it does not begin with the header of a record")
        try:
            header, body_at = self._headers.read(payload)
            encoded_body = payload[body_at:]
            if version <= VERSION and fast.is_write(encoded_body):  # the same in all versions so far
                return Record(header, fast.decode_write(encoded_body), encoded_body)
            if GROUPS_SINCE <= version <= VERSION and fast.is_group(encoded_body):
                return Record(header, fast.decode_group(encoded_body), encoded_body)
            if COMMANDS_SINCE <= version <= VERSION and fast_command.is_command(encoded_body):
                return Record(header, fast_command.decode_command(encoded_body), encoded_body)
            stream = BytesIO(payload)
            avro: Any = fastavro.schemaless_reader(stream, writer, self._reader, return_record_name=True)
            if stream.read(1):
                raise ValueError("trailing bytes")
            return Record(header, bodies.from_avro(*avro["body"]), encoded_body)
        except _DECODE_ERRORS as error:
            if is_own:
                raise LogDamage(f"a record of this log cannot be decoded: {error!r}") from error
            raise NotARecord(f"it cannot be decoded: {error!r}") from error


BARRIER = b""
"""The value of an entry that every reader skips, whatever its version; its offset is all that it says."""

_EMPTY_HEADER = {
    "version": 0,
    "timeline": bytes(16),
    "epoch": 0,
    "node": "",
    "incarnation": 0,
    "seq": 0,
    "timestamp_us": 0,
    "chain": bytes(8),
}
_EMPTY_HEADER_BYTES = 6 + 16 + 8


def _begin(payload: bytes, timeline: bytes) -> tuple[int, bool]:
    """The version (0: invalid), and whether it is followed by `timeline`."""
    try:
        version, at = fast.decode_long(payload, 0)
    except (IndexError, ValueError):
        return 0, False
    return version, bool(timeline) and payload.startswith(timeline, at)


class AckCodec:
    """`schemas/ack.v1.avsc`."""

    def __init__(self) -> None:
        self._schema = fastavro.parse_schema(load_schema("ack.v1.avsc"))

    def encode(self, ack: Ack) -> bytes:
        fields = ack._asdict()
        author = fields.pop("author")
        out = BytesIO()
        fastavro.schemaless_writer(
            out, self._schema, {"version": 1, "node": author.node, "incarnation": author.incarnation, **fields}
        )
        return out.getvalue()

    def decode(self, payload: bytes) -> Ack:
        """Raises `NotARecord`."""
        try:
            fields: Any = fastavro.schemaless_reader(BytesIO(payload), self._schema, None)
            if fields.pop("version") != 1:
                raise ValueError("unsupported version")
            author = Author(fields.pop("node"), fields.pop("incarnation"))
            return Ack(author=author, **fields)
        except _DECODE_ERRORS as error:
            raise NotARecord(f"not an ack: {error!r}") from error
