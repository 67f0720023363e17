"""A change stream on a real Kafka, of a log that is made up: Redis commands write it, and no node runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.log.kafka.security import PLAINTEXT
from replicator.log.port import Entry
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.records.chain import link
from replicator.records.codec import RecordCodec
from replicator.records.types import VERSION, Body, Claim, Header, Reason
from replicator.stream import BlockingChangeStream
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.management import StreamOptions, StreamStart, create, reset
from replicator.stream.publication import Publication, StreamMessage
from replicator.stream.settings import Progress
from replicator.stream.sql_rows import NO_TABLES
from replicator.stream.state_topic import StreamWriter
from tests.keyspace_fixture import NOW_MS, MemoryEntries

AUTHOR = Author(NodeId("n1"), 7)
TIMELINE = bytes(range(16))


class MadeUpLog:
    """A claim, and a record for each transaction: the first one has offset 1."""

    def __init__(self) -> None:
        self._codec = RecordCodec()
        self._entries = MemoryEntries()
        self._seq, self._chain, self._offset = 0, bytes(8), 0

    def claim(self) -> Entry:
        return self.append(Claim(AUTHOR, Epoch(1), Offset(-1), Reason.FIRST))

    def write(self, *commands: str) -> Entry:
        """One transaction."""
        return self.append(self._entries.run(*commands))

    def append(self, body: Body) -> Entry:
        encoded, is_claim = self._codec.encode_body(body), isinstance(body, Claim)
        before, self._chain = self._chain, link(self._chain, encoded)
        self._seq += 1
        seq, chain = (Seq(0), before) if is_claim else (Seq(self._seq), self._chain)
        timestamp_us = (NOW_MS + self._offset) * 1000
        header = Header(VERSION, TIMELINE, Epoch(1), AUTHOR, seq, timestamp_us, chain)
        self._offset += 1
        return Entry(Offset(self._offset - 1), self._codec.encode(header, encoded))


class PublishedStream:
    """A change stream, and the only one who publishes to it."""

    def __init__(self, bootstrap: str, cluster: str, **options: Any) -> None:
        self.bootstrap, self.cluster = bootstrap, cluster
        self.kafka = KafkaAccess(bootstrap, cluster, None, PLAINTEXT)
        stream_options = StreamOptions(**options)
        settings = create(self.kafka, stream_options, StreamStart(Progress(LogState()))).settings
        self._publication = Publication(cluster, settings)
        self._log = MadeUpLog()
        self._state, self._tables = LogState(), NO_TABLES
        self._writer = StreamWriter(self.kafka)
        self._writer.open()
        self._read([self._log.claim()])

    def publish(self, *transactions: str | tuple[str, ...]) -> None:
        """In one Kafka transaction. A command, or some that are one transaction."""
        entries = [self._log.write(*((it,) if isinstance(it, str) else it)) for it in transactions]
        self._writer.commit(self._read(entries))

    def publish_raw(self, value: bytes) -> None:
        """A message that is not a change."""
        self._writer.commit([StreamMessage(b"key", value, 0)])

    def open(self, *args: Any, **options: Any) -> BlockingChangeStream:
        return BlockingChangeStream(self.bootstrap, self.cluster, *args, **options)

    def _read(self, entries: list[Entry]) -> list[StreamMessage]:
        published = self._publication.read(self._state, self._tables, entries, NOW_MS, 1_000_000)
        self._state, self._tables = published.state, published.tables
        return list(published.messages)


PublishedStreams = Callable[..., PublishedStream]


@pytest.fixture
def change_stream(kafka: str, kafka_cluster: str) -> Iterator[PublishedStreams]:
    """Makes the change stream of a new cluster, with options as in `StreamOptions`."""
    made = []

    def make(**options: Any) -> PublishedStream:
        made.append(PublishedStream(kafka, kafka_cluster, **options))
        return made[-1]

    yield make
    for stream in made:
        reset(stream.kafka)
