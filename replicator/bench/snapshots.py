"""Snapshots: what taking one costs the leader, and how soon a new replica serves, next to Redis and PostgreSQL.

Each round measures the leader with and without a running snapshot, right after each other.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from replicator.address import Address
from replicator.bench.benchmark import machine_name
from replicator.bench.closed_loop import LoadResult, Workload, key_name, run_load
from replicator.bench.cluster import benchmark_cluster
from replicator.bench.peers import redis_server
from replicator.bench.postgres import postgres_server
from replicator.bench.subjects import SET
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.cluster import LocalCluster, Origin
from replicator.local.progress import ProgressReporter
from replicator.local.resp_connection import RespConnection
from replicator.records.types import Mode

CLIENTS = 8
PIPELINE = 5_000
VALUE_BYTES = 100
SNAPSHOTTER = "s1"
SYNC_S = 120.0

MAX_P99_RATIO = 1.1
MAX_ADD_S, MAX_RESTART_S = {1_000_000: 2.0, 10_000_000: 15.0}, 1.0


@dataclass(frozen=True, slots=True)
class SnapshotBenchmark:
    """Its fields are those of the JSON. Times are medians of the rounds; None: that server is not installed."""

    machine: str
    rounds: int
    keys: int  # with values of 100 bytes
    take_s: float
    add_s: float  # from `add_replica` until the new replica has caught up and is a member
    restart_s: float  # from the start of the process until it serves
    redis_sync_s: float | None  # a full resync of a new replica of Redis, diskless and without a delay
    postgres_sync_s: float | None  # pg_basebackup of a table with as many rows
    p99_ms: float
    p99_during_ms: float  # while snapshots are taken
    p99_ratio: float

    @property
    def met(self) -> dict[str, bool]:
        bounds = {f"leader's p99 during a snapshot at most {MAX_P99_RATIO:g} times": self.p99_ratio <= MAX_P99_RATIO}
        if self.keys in MAX_ADD_S:
            limit_s = MAX_ADD_S[self.keys]
            bounds[f"a new replica with {self.keys:,} keys in {limit_s:g} s"] = self.add_s <= limit_s
        if self.keys <= min(MAX_ADD_S):
            bounds[f"a restart in {MAX_RESTART_S:g} s"] = self.restart_s <= MAX_RESTART_S
        return bounds


def measure_snapshots(
    keys: int, seconds: float, rounds: int, *, password: str, progress: ProgressReporter
) -> SnapshotBenchmark:
    """`seconds`: of each load. Raises `ReplicatorError`."""
    with benchmark_cluster(2, bootstrap=None, password=password, progress=progress, spare_ports=2) as cluster:
        subject = _Subject(cluster, password)
        progress.step(f"writing {keys:,} keys")
        with RespConnection(subject.leader, password) as connection:
            fill(connection, keys, progress)
        cluster.add_replica(SNAPSHOTTER, mode=Mode.SNAPSHOTTER)
        takes, adds, restarts, pairs = [], [], [], []
        for number in range(1, rounds + 1):
            of = f"round {number} of {rounds}"
            progress.step(f"{of}: a snapshot, a new replica, and its restart")
            takes.append(_timed(subject.take))
            adds.append(_timed(subject.add))
            restarts.append(subject.restart())
            cluster.remove_replica("r1")
            progress.step(f"{of}: latency without and with a running snapshot")
            before = subject.load(seconds)
            with subject.taking_snapshots():
                during = subject.load(seconds)
            pairs.append((before, during, subject.load(seconds)))
    p99_ms = median(min(before.p99_ms, after.p99_ms) for before, _, after in pairs)
    ratios = [during.p99_ms / ((before.p99_ms + after.p99_ms) / 2) for before, during, after in pairs]
    return SnapshotBenchmark(
        machine_name(),
        rounds,
        keys,
        median(takes),
        median(adds),
        median(restarts),
        _if_installed(lambda: _redis_sync_s(keys, rounds, progress)),
        _if_installed(lambda: _postgres_sync_s(keys, rounds, progress)),
        p99_ms,
        median(during.p99_ms for _, during, _ in pairs),
        median(ratios),
    )


def fill(connection: RespConnection, keys: int, progress: ProgressReporter) -> None:
    value = "x" * (VALUE_BYTES - 16)
    for start in range(0, keys, PIPELINE):
        numbers = range(start, min(start + PIPELINE, keys))
        connection.execute_all(("SET", key_name(it), f"{it * 2654435761 % 2**53:016d}{value}") for it in numbers)
        progress.bar("keys", "keys", numbers.stop, keys)


class _Subject:
    """A cluster of two nodes and a snapshotter."""

    def __init__(self, cluster: LocalCluster, password: str) -> None:
        self._cluster = cluster
        self._password = password

    @property
    def leader(self) -> Address:
        leader = self._cluster.admin.leader().status().node.id
        return Address("127.0.0.1", self._cluster.resp_ports[leader])

    def take(self) -> None:
        self._cluster.admin.member(SNAPSHOTTER).take_snapshot()

    def add(self) -> None:
        self._cluster.add_replica("r1", origin=Origin.SNAPSHOT)

    def restart(self) -> float:
        """From the start of the process until it serves, in seconds."""
        self._cluster.stop_node("r1")
        return _timed(lambda: self._cluster.start_node("r1"))

    def load(self, seconds: float) -> LoadResult:
        setup = [("AUTH", self._password)] if self._password else []
        result = run_load(Workload(self.leader.port, CLIENTS, seconds, [SET], setup))
        if result.trouble:
            raise ReplicatorError(result.trouble)
        return result

    @contextmanager
    def taking_snapshots(self) -> Iterator[None]:
        """One after another: a write between two makes them differ."""
        stop = threading.Event()

        def take() -> None:
            while not stop.is_set():
                self.take()

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _timed(work: Callable[[], object]) -> float:
    began_s = time.monotonic()
    work()
    return time.monotonic() - began_s


def _if_installed(measure: Callable[[], float]) -> float | None:
    try:
        return measure()
    except ConfigError:
        return None


def _redis_sync_s(keys: int, rounds: int, progress: ProgressReporter) -> float:
    """From the start of a replica until it has caught up."""
    times_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="replicator-bench-redis-") as name:
        folder = Path(name)
        with redis_server(folder / "master", "--repl-diskless-sync-delay", "0") as port:
            progress.step(f"Redis: writing {keys:,} keys")
            with RespConnection(Address("127.0.0.1", port), timeout_s=SYNC_S) as master:
                fill(master, keys, progress)
                for number in range(rounds):
                    progress.step(f"Redis: full resync {number + 1} of {rounds}")
                    began_s = time.monotonic()
                    options = ("--replicaof", f"127.0.0.1 {port}", "--repl-diskless-load", "swapdb")
                    with redis_server(folder / f"replica{number}", *options):
                        master.execute("SET", "last", str(number))
                        if master.execute("WAIT", 1, int(SYNC_S * 1000)) != 1:
                            raise ReplicatorError(f"the replica of Redis has not caught up after {SYNC_S:.0f} s")
                        times_s.append(time.monotonic() - began_s)
    return median(times_s)


def _postgres_sync_s(keys: int, rounds: int, progress: ProgressReporter) -> float:
    times_s: list[float] = []
    value = f"lpad((n * 2654435761 % 9007199254740992)::text, {VALUE_BYTES}, 'x')"
    with postgres_server() as server:
        progress.step(f"PostgreSQL: writing {keys:,} rows")
        server.query(
            "SET synchronous_commit = local",
            "CREATE TABLE kv (key text PRIMARY KEY, value text NOT NULL)",
            f"INSERT INTO kv SELECT 'key:' || lpad(n::text, 12, '0'), {value} "
            f"FROM generate_series(0, {keys - 1}::bigint) n",
            "CHECKPOINT",
        )
        for number in range(rounds):
            progress.step(f"PostgreSQL: pg_basebackup {number + 1} of {rounds}")
            began_s = time.monotonic()
            server.run("pg_basebackup", "-D", f"copy{number}", "-R", "-c", "fast")
            times_s.append(time.monotonic() - began_s)
    return median(times_s)
