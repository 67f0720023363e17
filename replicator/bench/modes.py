"""What each replication mode and each read level costs, next to Redis and PostgreSQL.

Each round measures all rows, one after the other, and each row loads only its own subject; the cluster idles while
Redis and PostgreSQL are measured. A write that waits for more copies takes longer: so each row states what its reply is
worth.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from replicator.bench import mode_rows
from replicator.bench.benchmark import machine_name
from replicator.bench.closed_loop import KEYS, CommandWords
from replicator.bench.cluster import benchmark_cluster
from replicator.bench.mode_rows import AT_FOLLOWER, AT_LEADER, WRITES, ExpectationResult, ModeRow, median_row
from replicator.bench.subjects import WAIT, ClusterSubject, Measure, postgres_writes, redis_writes
from replicator.errors import ReplicatorError
from replicator.local.progress import ProgressReporter
from replicator.records.types import WriteMode

CLIENTS = 64
PIPELINES, PIPELINE = 16, 16  # clients, and writes that each of them sends at a time
FSYNCS = 100
APPLIED, ACKNOWLEDGED, OWN = "all writes applied here", "all acknowledged writes", "own reads and writes"


class RowSubject(NamedTuple):
    group: str
    name: str
    worth: str
    prepare: Callable[[], AbstractContextManager[Measure]]
    can_pipeline: bool = True


@dataclass(frozen=True, slots=True)
class ModesReport:
    """Its fields are those of the JSON."""

    machine: str
    clients: int
    keys: int
    seconds: float  # per load of a row
    rounds: int
    fsync_p50_ms: tuple[float, float]  # before and after the rounds: Redis and PostgreSQL wait for fsync
    rows: Sequence[ModeRow]
    expectations: Sequence[ExpectationResult]


def measure_modes(
    seconds: float, rounds: int, *, bootstrap: str | None, password: str, progress: ProgressReporter
) -> ModesReport:
    """Raises `ReplicatorError` if the cluster cannot be started; a row that fails has `trouble`."""
    with tempfile.TemporaryDirectory(prefix="replicator-bench-", ignore_cleanup_errors=True) as name:
        dir = Path(name)
        with benchmark_cluster(3, bootstrap=bootstrap, password=password, progress=progress) as cluster:
            subject = ClusterSubject(cluster, seconds)
            progress.step("writing all keys")
            subject.fill()
            before_ms = _fsync_ms(dir)
            subjects = [*_cluster_rows(subject), *_peer_rows(dir, seconds)]
            measured: list[list[ModeRow]] = [[] for _ in subjects]
            for number in range(1, rounds + 1):
                for place, row in enumerate(subjects):
                    progress.step(
                        f"round {number} of {rounds}, {place + 1} of {len(subjects)}: {row.group}, {row.name}"
                    )
                    measured[place].append(_measure(row))
            after_ms = _fsync_ms(dir)
    rows = sorted(map(median_row, measured), key=lambda row: (WRITES, AT_LEADER, AT_FOLLOWER).index(row.group))
    fsync_ms = before_ms, after_ms
    return ModesReport(machine_name(), CLIENTS, KEYS, seconds, rounds, fsync_ms, rows, mode_rows.compare(rows))


def _fsync_ms(folder: Path) -> float:
    """The median time of an fsync of one page."""
    spent_ms = []
    with open(folder / "fsync", "wb", buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            spent_ms.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent_ms)


def _measure(row: RowSubject) -> ModeRow:
    """A row that cannot be measured does not stop the others."""
    try:
        with row.prepare() as measure:
            many = measure(CLIENTS, 1)
            single = pipelined = None
            if row.group == WRITES:
                single = measure(1, 1)
                pipelined = measure(PIPELINES, PIPELINE) if row.can_pipeline else None
    except ReplicatorError as error:
        return ModeRow(row.group, row.name, row.worth, trouble=str(error))
    return ModeRow(
        row.group,
        row.name,
        row.worth,
        many.per_s,
        many.p50_ms,
        many.p99_ms,
        single_p50_ms=single.p50_ms if single else None,
        pipelined_per_s=pipelined.per_s if pipelined else None,
        trouble=next((load.trouble for load in (many, single, pipelined) if load and load.trouble), ""),
    )


def _cluster_rows(cluster: ClusterSubject) -> Sequence[RowSubject]:
    one, both = ("n2",), ("n2", "n3")

    def writes(
        name: str, worth: str, sync: Sequence[str], wait_for: str, write: WriteMode, *then: CommandWords
    ) -> RowSubject:
        return RowSubject(WRITES, name, worth, lambda: cluster.writes(sync, wait_for, write, then))

    def reads(group: str, id: str, level: str, worth: str) -> RowSubject:
        return RowSubject(group, level, worth, lambda: cluster.reads(id, level))

    def local_reads(write: WriteMode) -> RowSubject:
        name = f"linearizable at a sync follower, {write} mode"
        return RowSubject(AT_FOLLOWER, name, ACKNOWLEDGED, lambda: cluster.reads("n2", "linearizable", one, write))

    log = "page cache of 1 broker"
    hidden = f"{log} + store of 1 replica; the old value is read nowhere"
    return (
        writes(mode_rows.ASYNC, log, (), "all", WriteMode.ASYNC),
        writes(mode_rows.ASYNC_WAIT, f"{log} + store of 1 of 2 replicas", (), "all", WriteMode.ASYNC, WAIT),
        reads(AT_LEADER, "n1", mode_rows.EVENTUAL, APPLIED),
        reads(AT_LEADER, "n1", "bounded 500", ACKNOWLEDGED),
        reads(AT_LEADER, "n1", "session", OWN),
        reads(AT_LEADER, "n1", mode_rows.LINEARIZABLE, ACKNOWLEDGED),
        reads(AT_FOLLOWER, "n2", mode_rows.EVENTUAL, APPLIED),
        reads(AT_FOLLOWER, "n2", "bounded 500", "all writes older than 500 ms"),
        reads(AT_FOLLOWER, "n2", "session", OWN),
        reads(AT_FOLLOWER, "n2", mode_rows.LINEARIZABLE, ACKNOWLEDGED),
        writes(mode_rows.QUORUM, f"{log} + store of 1 of 2 replicas", both, "quorum:1", WriteMode.SYNC),
        writes(mode_rows.SYNC_1, f"{log} + store of 1 replica", one, "all", WriteMode.SYNC),
        writes(mode_rows.SYNC_2, f"{log} + stores of 2 replicas", both, "all", WriteMode.SYNC),
        writes(mode_rows.SUSPEND, hidden, one, "all", WriteMode.SUSPEND),
        local_reads(WriteMode.SUSPEND),
        writes(mode_rows.INVALIDATE, hidden, one, "all", WriteMode.INVALIDATE),
        local_reads(WriteMode.INVALIDATE),
    )


def _peer_rows(dir: Path, seconds: float) -> Sequence[RowSubject]:
    always = ("--appendonly", "yes", "--appendfsync", "always")

    def redis(name: str, worth: str, then: Sequence[CommandWords], *settings: str) -> RowSubject:
        return RowSubject(WRITES, name, worth, lambda: redis_writes(Path(mkdtemp(dir=dir)), seconds, then, *settings))

    return (
        redis(mode_rows.REDIS_ALONE, "memory of 1 Redis", []),
        redis(mode_rows.REDIS_WAIT, "memory of 2 Redis", [WAIT]),
        redis(mode_rows.REDIS_FSYNC, "fsync at 2 Redis", [WAIT], *always),
        RowSubject(
            WRITES,
            mode_rows.POSTGRES,
            "WAL fsync at the primary and the standby, applied at both",
            lambda: postgres_writes(seconds),
            can_pipeline=False,
        ),
    )
