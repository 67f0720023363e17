"""Changes, a source of them and a clock, for tests of sinks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from replicator.errors import BrokerUnavailable, LogDamage, WrongType
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records.tape import Recorder as Recorded
from replicator.records.types import Header, Record
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.commands.registry import look_up
from replicator.sql.engine import SqlEngine
from replicator.sql.parsing import parse
from replicator.steps import finish
from replicator.store.keys import decode_key
from replicator.store.rows import Image, image
from replicator.store.view import Transaction
from replicator.stream.change import Change, Op, Source, TransactionBlock, changes_of
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.report import SinkReport
from replicator.stream.sinks.runner import ChangeSource
from replicator.stream.sql_rows import tables_in
from tests.keyspace_fixture import NOW_MS, MemoryEntries

TOPIC_ID = "t1"
TIMELINE = bytes(range(16))


def position(next_offset: int, topic_id: str = TOPIC_ID) -> StreamPosition:
    return StreamPosition(topic_id, (next_offset,))


class Recorder:
    """Runs Redis commands, and has the changes and the state that they lead to."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.entries = MemoryEntries()
        self._seq = 0
        self._engine = SqlEngine()

    def run(self, *commands: str | Sequence[bytes]) -> None:
        """In one transaction."""
        transaction = Transaction(self.entries)
        for command in commands:
            args = command.encode().split() if isinstance(command, str) else list(command)
            look_up(args).handler(WritableKeyspace(transaction, NOW_MS), args)
        self._add(transaction)

    def sql(self, *statements: str) -> None:
        """In one transaction."""
        transaction = Transaction(self.entries)
        for statement in statements:
            finish(self._engine.execute(transaction, Recorded(), NOW_MS, parse(statement), ()))
        self._add(transaction)

    def _add(self, transaction: Transaction) -> None:
        tables = tables_in(self.entries)
        write = self.entries.apply(transaction)
        if write.changes:
            self._seq += 1
            header = Header(3, TIMELINE, Epoch(1), Author(NodeId("n1"), 1), Seq(self._seq), NOW_MS * 1000, bytes(8))
            self.changes += changes_of("shop", Offset(self._seq), Record(header, write, b""), tables)

    def backfill(self) -> list[Change]:
        """The state as a snapshot publishes it."""
        found = []
        for place, (key, stored) in enumerate(sorted(self.entries.stored.items())):
            table, row, name = decode_key(key)
            source = Source("shop", TIMELINE.hex(), Epoch(1), Offset(self._seq), Seq(self._seq), place, NOW_MS * 1000)
            after = image(stored)
            found.append(Change(Op.READ, table, row, name[1:] if name else None, None, after, source, None))
        return found

    def state(self) -> dict[bytes, bytes | dict[bytes, bytes]]:
        """Strings and hashes by key."""
        found: dict[bytes, bytes | dict[bytes, bytes]] = {}
        for key, stored in sorted(self.entries.stored.items()):
            _, row, name = decode_key(key)
            value = image(stored)
            assert value is not None
            if not name:
                found[row] = {} if value.value is None else value.value
            else:
                fields = found[row]
                assert isinstance(fields, dict) and value.value is not None
                fields[name[1:]] = value.value
        return found

    def expiries(self) -> dict[bytes, int]:
        found = {decode_key(key)[1]: image(it) for key, it in self.entries.stored.items() if not decode_key(key)[2]}
        return {row: it.expires_at_ms for row, it in found.items() if it is not None and it.expires_at_ms is not None}


def random_history(seed: int, transactions: int, keys: int = 8) -> Recorder:
    """Strings and hashes that are created, changed, replaced by each other and deleted."""
    draw, recorder = random.Random(seed), Recorder()
    texts = [b"Rome", b"", "Köln".encode(), b"\xff\x00", b"nul\0", b"\\x41", b'"quoted"', b"tab\tline\n"]

    def command() -> list[bytes]:
        key, name, value = (
            b"k%d" % draw.randrange(keys),
            draw.choice([b"name", b"city", b"iata", b"\xfe", b"other"]),
            draw.choice(texts),
        )
        return draw.choice(
            [
                [b"SET", key, value],
                [b"DEL", key],
                [b"DEL", key],
                [b"PEXPIREAT", key, b"%d" % (NOW_MS + draw.randrange(1, 10**9))],
                [b"PERSIST", key],
                *3 * [[b"HSET", b"h" + key, name, value, b"city", value]],
                *3 * [[b"HDEL", b"h" + key, name]],
                [b"DEL", b"h" + key],
                [b"SET", b"h" + key, value],
                [b"PEXPIREAT", b"h" + key, b"%d" % (NOW_MS + draw.randrange(1, 10**9))],
            ]
        )

    for _ in range(transactions):
        commands = [command() for _ in range(draw.choice([1, 1, 1, 2, 4]))]
        with suppress(WrongType):  # a transaction without effect
            recorder.run(*commands)
    return recorder


def plain_changes(count: int) -> list[Change]:
    """New strings, one a transaction."""
    recorder = Recorder()
    for number in range(count):
        recorder.run([b"SET", b"key:%d" % number, b"value %d" % number])
    return recorder.changes


def change(row: bytes, after: bytes) -> Change:
    source = Source("shop", TIMELINE.hex(), Epoch(1), Offset(1), Seq(1), 0, NOW_MS * 1000)
    return Change(Op.CREATE, "kv", row, None, None, Image("string", after), source, TransactionBlock(1, 1, 1))


@dataclass
class FakeStream:
    """A topic with one partition: the message at offset N is change N."""

    changes: list[Change]
    topic_id: str = TOPIC_ID
    faults: list[Exception] = field(default_factory=list)  # of the next reads
    open_faults: list[Exception] = field(default_factory=list)
    opened_at: list[StreamPosition | None] = field(default_factory=list)

    def open(self, start: StreamPosition | None) -> ChangeSource:
        self.opened_at.append(start)
        if self.open_faults:
            raise self.open_faults.pop(0)
        if start is not None and start.topic_id != self.topic_id:
            raise LogDamage("the position is of another change stream: it was reset since")
        return FakeSource(self, 0 if start is None else start.next_offsets[0])


@dataclass
class FakeSource:
    stream: FakeStream
    at: int

    @property
    def position(self) -> StreamPosition:
        return position(self.at, self.stream.topic_id)

    def read(self, limit: int, timeout_s: float | None = None) -> list[Change]:
        if self.stream.faults:
            raise self.stream.faults.pop(0)
        found = self.stream.changes[self.at : self.at + limit]
        self.at += len(found)
        return found

    def lag(self) -> int:
        return len(self.stream.changes) - self.at

    def close(self) -> None:
        pass


class FakeControl:
    """Time passes while the sink waits. It stops when `until` holds of the last report."""

    def __init__(self, until: Callable[[SinkReport], bool]) -> None:
        self.reports: list[SinkReport] = []
        self.waited: list[float] = []
        self.paused = False
        self.on_wait: Callable[[], None] = lambda: None
        self._until = until
        self._now_s = 1000.0

    def report(self, report: SinkReport) -> None:
        self.reports.append(report)

    def now_s(self) -> float:
        self._now_s += 0.001
        return self._now_s

    def wall_s(self) -> float:
        return NOW_MS / 1000 + 2.0

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self._now_s += seconds
        self.on_wait()

    def is_stopping(self) -> bool:
        return bool(self.reports) and self._until(self.reports[-1])

    def is_paused(self) -> bool:
        return self.paused


def caught_up(report: SinkReport) -> bool:
    return report.batches > 0 and report.lag_messages == 0


NO_KAFKA = BrokerUnavailable("Kafka at kafka:9092 does not answer")
