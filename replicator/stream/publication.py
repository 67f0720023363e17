"""From entries of the log to messages of the change stream, without I/O."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from replicator.log.port import Entry
from replicator.protocol.acceptance import judge, skip
from replicator.protocol.log_state import LogState
from replicator.protocol.verification import verify
from replicator.records.codec import BARRIER, NotARecord, RecordCodec
from replicator.records.types import Command
from replicator.sql.catalog import CATALOG_TABLE
from replicator.store.keys import decode_key
from replicator.store.rows import KEYSPACE_TABLE, Image, image
from replicator.stream.change import Change, Op, Position, Source, changes_of
from replicator.stream.command_changes import ChangesOf, unknown_changes
from replicator.stream.envelope import Key, key_of, needs_tombstone
from replicator.stream.settings import StreamSettings
from replicator.stream.sql_rows import Tables, is_published, known, tables_after_record, with_catalog_row


def _nothing() -> None:
    pass


class StreamMessage(NamedTuple):
    key: bytes
    value: bytes | None  # None: a tombstone
    partition: int


class Published(NamedTuple):
    state: LogState  # after the last entry
    tables: Tables  # of SQL, after it
    messages: Sequence[StreamMessage]
    changes: int
    read: int  # entries; the others are left for the next call
    last_us: int  # when the last accepted record was written, by its author's clock; 0 if none was read


class Content(NamedTuple):
    """Of a part of a snapshot."""

    tables: Tables  # of SQL, as far as the snapshot was read
    messages: Sequence[StreamMessage]
    changes: int


class Publication:
    """Makes the messages of a change stream."""

    def __init__(
        self,
        cluster: str,
        settings: StreamSettings,
        published: Sequence[Position] = (),
        changes_of_command: ChangesOf = unknown_changes,
    ) -> None:
        """`published`: by partition, up to which position changes are there already; none if it is empty."""
        self._cluster = cluster
        self._format = settings.envelope_format()
        self._with_field = settings.compacted
        self._partitions = settings.partitions
        self._published = published
        self._changes_of_command = changes_of_command
        self._codec = RecordCodec()

    def read(
        self,
        state: LogState,
        tables: Tables,
        entries: Sequence[Entry],
        now_ms: int,
        limit: int,
        on_progress: Callable[[], None] = _nothing,
    ) -> Published:
        """The messages of the entries after `state`, until there are at least `limit` changes.

        Entries up to `state.offset` are compared with it. `on_progress`: called for each entry and change.

        Raises `LogDamage`, `UpgradeNeeded`, `ConfigError`, and what `ChangesOf` does.
        """
        messages: list[StreamMessage] = []
        changes = read = last_us = 0
        for offset, payload in entries:
            if changes >= limit:
                break
            read += 1
            on_progress()
            try:
                record = None if payload == BARRIER else self._codec.decode(payload, state.timeline)
            except NotARecord:
                record = None
            if offset <= state.offset:
                verify(state, offset, record)
                continue
            if record is None:
                state = skip(state, offset)
                continue
            state, void = judge(state, offset, record)
            if void is not None:
                continue
            last_us = record.header.timestamp_us
            if type(record.body) is Command:
                record = record._replace(body=self._changes_of_command(record))
            for change in changes_of(self._cluster, offset, record, tables):
                changes += 1
                on_progress()
                messages += self._messages(change._replace(published_ms=now_ms))
            tables = tables_after_record(tables, record)
        return Published(state, tables, messages, changes, read, last_us)

    def content(
        self,
        state: LogState,
        tables: Tables,
        first: int,
        taken_us: int,
        entries: Iterable[tuple[bytes, bytes]],
        now_ms: int,
        on_progress: Callable[[], None] = _nothing,
    ) -> Content:
        """The messages of the next entries of a snapshot at `state`. The catalog precedes the rows of SQL tables.

        `first`: the number of changes of the snapshot that are published already. `on_progress`: called for each entry.
        Raises `ConfigError`.
        """
        messages: list[StreamMessage] = []
        place, timeline = first, state.timeline.hex()
        for key, stored in entries:
            on_progress()
            table, row, field = decode_key(key)
            after: Image | None = None
            if table == KEYSPACE_TABLE:
                after = image(stored)
            elif is_published(table):
                shape = known(tables, table)
                table, row, after = shape.name, shape.key_text(row), shape.image(stored)
            elif table == CATALOG_TABLE:
                tables = with_catalog_row(tables, row, None, stored)
            if after is not None:
                source = Source(self._cluster, timeline, state.epoch, state.offset, state.seq, place, taken_us)
                name = field[1:] if field else None
                messages += self._messages(Change(Op.READ, table, row, name, None, after, source, None, now_ms))
                place += 1
        return Content(tables, messages, place - first)

    def _messages(self, change: Change) -> Iterator[StreamMessage]:
        key = key_of(change, with_field=self._with_field)
        encoded = self._format.encode_key(key)
        partition = self._partition(key, encoded)
        if self._published and change.position <= self._published[partition]:
            return
        yield StreamMessage(encoded, self._format.encode(change), partition)
        if needs_tombstone(change, key):
            yield StreamMessage(encoded, None, partition)

    def _partition(self, key: Key, encoded: bytes) -> int:
        """All changes of a row are in one partition, in order. It is that of librdkafka's default partitioner."""
        if self._partitions == 1:
            return 0
        if key.has_field:
            encoded = self._format.encode_key(key._replace(field=None, has_field=False))
        return zlib.crc32(encoded) % self._partitions
