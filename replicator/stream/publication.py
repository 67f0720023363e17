"""From entries of the log to messages of the change stream, without I/O."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from replicator.log.port import Entry
from replicator.protocol.acceptance import judge, skip
from replicator.protocol.log_state import LogState
from replicator.protocol.verification import verify
from replicator.records.codec import BARRIER, NotARecord, RecordCodec
from replicator.store.keys import decode_key
from replicator.store.rows import KEYSPACE_TABLE, image
from replicator.stream.change import Change, Op, Position, Source, changes_of
from replicator.stream.envelope import Key, key_of, needs_tombstone
from replicator.stream.settings import StreamSettings


class StreamMessage(NamedTuple):
    key: bytes
    value: bytes | None  # None: a tombstone
    partition: int


class Published(NamedTuple):
    state: LogState  # after the last entry
    messages: Sequence[StreamMessage]
    changes: int
    read: int  # entries; the others are left for the next call
    last_us: int  # when the last accepted record was written, by its author's clock; 0 if none was read


class Publication:
    """Makes the messages of a change stream."""

    def __init__(self, cluster: str, settings: StreamSettings, published: Sequence[Position] = ()) -> None:
        """`published`: by partition, up to which position changes are there already; none if it is empty."""
        self._cluster = cluster
        self._format = settings.envelope_format()
        self._with_field = settings.compacted
        self._partitions = settings.partitions
        self._published = published
        self._codec = RecordCodec()

    def read(self, state: LogState, entries: Sequence[Entry], now_ms: int, limit: int) -> Published:
        """The messages of the entries after `state`, until there are at least `limit` changes.

        Entries up to `state.offset` are compared with it. Raises `LogDamage`, `UpgradeNeeded`.
        """
        messages: list[StreamMessage] = []
        changes = read = last_us = 0
        for offset, payload in entries:
            if changes >= limit:
                break
            read += 1
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
            for change in changes_of(self._cluster, offset, record):
                changes += 1
                messages += self._messages(change._replace(published_ms=now_ms))
        return Published(state, messages, changes, read, last_us)

    def content(
        self, state: LogState, first: int, taken_us: int, entries: Iterable[tuple[bytes, bytes]], now_ms: int
    ) -> tuple[list[StreamMessage], int]:
        """The messages of the next entries of a snapshot at `state`, and how many changes they are.

        `first`: the number of changes of the snapshot that are published already.
        """
        messages: list[StreamMessage] = []
        place = first
        for key, stored in entries:
            table, row, field = decode_key(key)
            if table != KEYSPACE_TABLE:
                continue
            source = Source(self._cluster, state.timeline.hex(), state.epoch, state.offset, state.seq, place, taken_us)
            name = field[1:] if field else None
            change = Change(Op.READ, table, row, name, None, image(stored), source, None, now_ms)
            messages += self._messages(change)
            place += 1
        return messages, place - first

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
