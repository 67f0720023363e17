"""What the topic `<cluster>.changes.state` contains: the settings of the change stream, and how far it is published.

It has one partition and is compacted. The settings, the progress, and each SQL table at that point of the log have a
key, and are an object in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from replicator import __version__, formats
from replicator.errors import UpgradeNeeded
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.stream.avro_envelope import AvroFormat
from replicator.stream.envelope import EnvelopeFormat, StreamFormat
from replicator.stream.json_envelope import JsonFormat
from replicator.stream.sql_rows import NO_TABLES, TableColumns, Tables

STATE_VERSION = 1
"""Of the settings and the progress."""
SETTINGS_KEY, PROGRESS_KEY = b"settings", b"progress"
_TABLE_KEY = b"table:"  # then the name of the table in the store
_SCHEMA_PREFIX = b"\x00"
"""Of messages in the wire format of Confluent's schema registry; the id of the schema follows, in 4 bytes."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A schema registry, and the ids that it gave to the schemas of this stream."""

    url: str
    key_id: int
    value_id: int


@dataclass(frozen=True, slots=True)
class Backfill:
    """The snapshot whose content precedes the changes, and the node that has it."""

    node: NodeId
    snapshot: str


@dataclass(frozen=True, slots=True)
class StreamSettings:
    topic_id: str  # of the topic of changes
    log_id: str  # of the topic of the log
    format: StreamFormat
    partitions: int = 1  # of the topic of changes. Ones that are added to the topic later are not used
    enabled: bool = True
    compacted: bool = False
    registry: Registry | None = None
    backfill: Backfill | None = None
    version: int = STATE_VERSION
    written_by: str = __version__

    def envelope_format(self) -> EnvelopeFormat:
        if self.format is StreamFormat.JSON:
            return JsonFormat()
        if self.registry is None:
            return AvroFormat()
        return AvroFormat(_prefix(self.registry.key_id), _prefix(self.registry.value_id))

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, value: bytes) -> StreamSettings:
        """Raises `UpgradeNeeded`, and `ValueError`, `TypeError` or `KeyError`."""
        fields: dict[str, Any] = json.loads(value)
        version = fields.setdefault("version", 1)  # the first one was not written
        if type(version) is int and version > STATE_VERSION:
            written_by = str(fields.get("written_by", ""))
            raise UpgradeNeeded(
                formats.describe_newer("the state of the change stream", version, STATE_VERSION, written_by)
            )
        registry, backfill = fields.pop("registry"), fields.pop("backfill")
        return cls(
            format=StreamFormat(fields.pop("format")),
            registry=registry and Registry(**registry),
            backfill=backfill and Backfill(**backfill),
            **fields,
        )


class Progress(NamedTuple):
    """How far the stream is published. It changes in the Kafka transaction of what is published."""

    state: LogState  # of the log up to the last record published
    changes: int = 0  # published so far
    backfilling: bool = False  # whether the content of the snapshot is still being published
    last_key: bytes = b""  # the last store key of the snapshot that is published
    tables: Tables = NO_TABLES  # of SQL, at this point of the log or the snapshot; each is stored by itself

    def encode(self) -> bytes:
        state = self.state
        return json.dumps(
            {
                "timeline": state.timeline.hex(),
                "epoch": state.epoch,
                "leader": state.leader,
                "seq": state.seq,
                "chain": state.chain.hex(),
                "offset": state.offset,
                "leader_offset": state.leader_offset,
                "changes": self.changes,
                "backfilling": self.backfilling,
                "last_key": self.last_key.hex(),
            }
        ).encode()

    @classmethod
    def decode(cls, value: bytes, tables: Tables = NO_TABLES) -> Progress:
        """Raises `ValueError`, `TypeError` or `KeyError`."""
        fields: dict[str, Any] = json.loads(value)
        leader = fields["leader"]
        state = LogState(
            timeline=bytes.fromhex(fields["timeline"]),
            epoch=Epoch(fields["epoch"]),
            leader=leader and Author(NodeId(leader[0]), leader[1]),
            seq=Seq(fields["seq"]),
            chain=bytes.fromhex(fields["chain"]),
            offset=Offset(fields["offset"]),
            leader_offset=Offset(fields["leader_offset"]),
        )
        return cls(state, fields["changes"], fields["backfilling"], bytes.fromhex(fields["last_key"]), tables)


def changed_tables(before: Tables, after: Tables) -> Iterator[tuple[bytes, bytes | None]]:
    """Keys and values of the topic, for what has changed; None deletes a table."""
    if before is after:
        return
    for name in sorted(before.keys() | after.keys()):
        table = after.get(name)
        if table != before.get(name):
            yield _TABLE_KEY + name.encode(), None if table is None else json.dumps(table._asdict()).encode()


def decode_tables(found: Mapping[bytes, bytes]) -> Tables:
    """From the content of the topic. Raises `ValueError`, `TypeError` or `KeyError`."""
    return {
        key.removeprefix(_TABLE_KEY).decode(): _decoded_table(value)
        for key, value in found.items()
        if key.startswith(_TABLE_KEY) and value
    }


def _decoded_table(value: bytes) -> TableColumns:
    fields = json.loads(value)
    return TableColumns(fields["name"], tuple(fields["columns"]), tuple(fields["key"]))


class StreamState(NamedTuple):
    settings: StreamSettings
    progress: Progress


def _prefix(schema_id: int) -> bytes:
    return _SCHEMA_PREFIX + schema_id.to_bytes(4, "big")
