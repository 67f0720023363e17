"""What each way to put a statement into the log takes: bytes of the log, and time of a replica that applies it.

The statements are executed by the leader of a cluster. Then the log is read from Kafka, and the code of a follower
applies it: judges each record, executes its commands, and writes the changes to a store.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgpack
import uvloop

from replicator.bench.sql_table import UPDATE
from replicator.config import load_kafka
from replicator.local.cluster import LocalCluster
from replicator.local.progress import ProgressReporter
from replicator.local.resp_connection import CommandFailed, RespConnection, Words
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.security import security_of
from replicator.log.port import Entry
from replicator.node.clock import SystemClock
from replicator.node.latencies import Histogram
from replicator.node.replica import Replica
from replicator.position import Offset
from replicator.records.codec import RecordCodec
from replicator.records.types import Command, Group, Replication, Write
from replicator.server.redis.execution import Replay
from replicator.steps import finish
from replicator.store.machine import open_machine

PIPELINE = 200
ATTEMPTS = 10  # to execute a large statement: it can exceed the limit of its time on a busy machine
ADD, RANDOM = "UPDATE t SET a = a + 1 WHERE id BETWEEN ? AND ?", "UPDATE t SET a = random() WHERE id BETWEEN ? AND ?"


@dataclass(frozen=True, slots=True)
class ReplicationFigure:
    statement: str
    replication: Replication
    rows: int  # that each statement changes
    bytes_per_statement: float  # of the records in the log
    records_per_s: float  # transactions, as a replica applies them
    rows_per_s: float


class Part(NamedTuple):
    """A part of the log: a number of statements that differ in their parameters only."""

    statement: str
    replication: Replication
    rows: int
    number: int
    start: Offset  # of its first record
    stop: Offset  # after the last one


def write_parts(
    cluster: LocalCluster,
    connection: RespConnection,
    table_rows: int,
    statements: int,
    rows: int,
    progress: ProgressReporter,
) -> Iterator[Part]:
    """Execute `statements` UPDATEs of one row, and as many of `rows` rows as change ten times as many rows in all.

    Raises `ReplicatorError`.
    """
    many = max(2, 10 * statements // rows)
    ranges = [(first, first + rows - 1) for first in range(0, table_rows - rows + 1, rows)]
    points = [(number, number % table_rows) for number in range(statements)]
    for name, statement, parameters, changed in (
        ("UPDATE of one row", UPDATE, points, 1),
        (f"UPDATE of {rows:,} rows", ADD, [ranges[it % len(ranges)] for it in range(many)], rows),
        (f"UPDATE of {rows:,} rows, random()", RANDOM, [ranges[it % len(ranges)] for it in range(many)], rows),
    ):
        for replication in Replication:
            progress.step(f"{name}, replicated as {replication}")
            start = _end(cluster)
            lines = [("REPL.BY", replication, *_line(statement, values)) for values in parameters]
            together = PIPELINE if changed == 1 else 1
            for first in range(0, len(lines), together):
                execute(connection, lines[first : first + together])
            yield Part(name, replication, changed, len(lines), start, _end(cluster))


def execute(connection: RespConnection, lines: Sequence[Words]) -> None:
    """A statement alone is tried again if it fails, as it has no effect then. Raises `ReplicatorError`."""
    attempts = ATTEMPTS if len(lines) == 1 else 1
    for attempt in range(1, attempts + 1):
        try:
            connection.execute_all(lines)
        except CommandFailed:
            if attempt == attempts:
                raise
        else:
            return


def measure_parts(cluster: LocalCluster, parts: Sequence[Part], progress: ProgressReporter) -> list[ReplicationFigure]:
    """Apply the whole log to a new store. Raises `ReplicatorError`."""
    progress.step("applying the log as a follower does")
    with tempfile.TemporaryDirectory(prefix="replicator-bench-", ignore_cleanup_errors=True) as name:
        return uvloop.run(_measure(cluster, parts, Path(name)))


async def _measure(cluster: LocalCluster, parts: Sequence[Part], folder: Path) -> list[ReplicationFigure]:
    file = cluster.folder.load()
    security = security_of(load_kafka(None, os.environ, file.bootstrap))
    log = await KafkaLog.open(file.bootstrap, file.name, security=security)
    machine = open_machine(folder, file.name, log.identity)
    replica = Replica(machine, RecordCodec(), SystemClock(), Histogram())
    replica.execute = Replay()
    try:
        entries = await _read(log, parts[-1].stop)
        figures = []
        for part in parts:
            _apply(replica, [it for it in entries if replica.state.offset < it.offset < part.start])
            of_part = [it for it in entries if part.start <= it.offset < part.stop]
            size = sum(len(it.payload) for it in of_part if _is_transaction(replica, it))
            began_s = time.perf_counter()
            _apply(replica, of_part)
            per_s = part.number / (time.perf_counter() - began_s)
            figures.append(
                ReplicationFigure(
                    part.statement, part.replication, part.rows, size / part.number, per_s, per_s * part.rows
                )
            )
        return figures
    finally:
        machine.close()
        await log.close()


async def _read(log: KafkaLog, stop: Offset) -> list[Entry]:
    reader, entries = log.reader(Offset(0)), list[Entry]()
    try:
        while not entries or entries[-1].offset < stop - 1:
            entries += await reader.next()
        return entries
    finally:
        await reader.close()


def _apply(replica: Replica, entries: Sequence[Entry]) -> None:
    while entries:
        entries = finish(replica.read(entries)).rest


def _is_transaction(replica: Replica, entry: Entry) -> bool:
    return isinstance(replica.codec.decode(entry.payload, replica.state.timeline).body, (Write, Group, Command))


def _end(cluster: LocalCluster) -> Offset:
    return Offset(cluster.admin.leader().status().node.applied + 1)


def _line(statement: str, values: Sequence[int]) -> tuple[str | bytes, ...]:
    return ("REPL.SQL", statement, "PARAMS", msgpack.packb(values))
