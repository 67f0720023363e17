"""Followers that receive records from each other: what Kafka sends, their lag, and how fast one catches up.

egress     the bytes of the log that Kafka sends for each byte that is appended, by Kafka's own counters
added lag  from the moment when a change is applied at a node until it is applied at the node below it
catch-up   a follower that was stopped meanwhile receives what it lacks from another follower
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import hiredis

from replicator.bench.benchmark import machine_name
from replicator.bench.closed_loop import encode, percentile
from replicator.bench.cluster import benchmark_cluster
from replicator.bench.redis_benchmark import BenchmarkLoad, run_redis_benchmark
from replicator.bench.replay import replay_rate
from replicator.errors import ReplicatorError
from replicator.local.cluster import LocalCluster
from replicator.local.kafka import LocalBroker
from replicator.local.kafka.jmx import BrokerCounters
from replicator.local.ports import random_free_port
from replicator.local.progress import ProgressReporter
from replicator.local.waiting import wait_caught_up
from replicator.log.kafka.topic import wal_topic
from replicator.position import AUTO, FANOUT, GOSSIP

CATCH_UP_S = 120.0
LEVELS = 4
WRITE_PAUSE_S = 0.002
LAG_TIMEOUT_S = 30.0
KEY = "lag"
LOAD = BenchmarkLoad("", clients=64, pipeline=16, share=1.0)

MAX_CASCADE_RATIO, MAX_ADDED_P99_MS, MIN_CATCH_UP_PER_S, MAX_CATCH_UP_EGRESS = 1.3, 5.0, 150_000, 0.05


@dataclass(frozen=True, slots=True)
class Egress:
    upstream: str
    followers: int
    per_byte: float  # that Kafka served, for each byte appended


@dataclass(frozen=True, slots=True)
class LevelLag:
    level: int  # below the leader
    p50_ms: float  # after the node above
    p99_ms: float


@dataclass(frozen=True, slots=True)
class CatchUp:
    records: int
    per_s: float
    egress: float  # of Kafka meanwhile, for each byte that the follower lacked


@dataclass(frozen=True, slots=True)
class ScalingReport:
    """Its fields are those of the JSON."""

    machine: str
    fanout: int
    egress: Sequence[Egress]
    lag: Sequence[LevelLag]
    catch_up: CatchUp

    @property
    def met(self) -> dict[str, bool]:
        served = {(it.upstream, it.followers): it.per_byte for it in self.egress}
        many = max(it.followers for it in self.egress)
        one = served[GOSSIP, 1]  # it fetches all ranges from Kafka
        return {
            f"{many} followers in a tree: Kafka sends at most {MAX_CASCADE_RATIO:g} times what it sends to one": (
                served[AUTO, many] <= MAX_CASCADE_RATIO * one
            ),
            f"{many} followers in gossip: at most {self.fanout} times that": served[GOSSIP, many] <= self.fanout * one,
            f"added lag: p99 at most {MAX_ADDED_P99_MS:g} ms a level": (
                max(it.p99_ms for it in self.lag) <= MAX_ADDED_P99_MS
            ),
            f"catch-up: at least {MIN_CATCH_UP_PER_S:,} records/s": self.catch_up.per_s >= MIN_CATCH_UP_PER_S,
            f"catch-up: at most {MAX_CATCH_UP_EGRESS:.0%} from Kafka": self.catch_up.egress <= MAX_CATCH_UP_EGRESS,
        }


def measure_scaling(
    followers: int, writes: int, behind: int, *, password: str, progress: ProgressReporter
) -> ScalingReport:
    """`writes`: while the egress of Kafka is measured. `behind`: records that a follower lacks.

    Raises `ReplicatorError`.
    """
    with _measured_kafka(progress) as (bootstrap, counters), benchmark_cluster(
        1, bootstrap=bootstrap, password=password, progress=progress, spare_ports=followers
    ) as cluster:  # fmt: skip
        subject = _Subject(cluster, counters, password, progress)
        with subject.chain(LEVELS) as nodes:
            lag = subject.lag(nodes)
        egress = [it for upstream in (AUTO, GOSSIP) for it in subject.egress(upstream, followers, writes)]
        with subject.chain(2) as nodes:
            catch_up = subject.catch_up(nodes[-1], behind)
    return ScalingReport(machine_name(), FANOUT, egress, lag, catch_up)


@contextmanager
def _measured_kafka(progress: ProgressReporter) -> Iterator[tuple[str, BrokerCounters]]:
    """Its address, and its counters."""
    with tempfile.TemporaryDirectory(prefix="replicator-bench-", ignore_cleanup_errors=True) as name:
        port = random_free_port()
        progress.step("starting Kafka")
        counters = BrokerCounters(port)
        broker = LocalBroker(Path(name), jmx_port=port)
        try:
            yield broker.start(), counters
        finally:
            broker.stop()


class _Subject:
    def __init__(
        self, cluster: LocalCluster, counters: BrokerCounters, password: str, progress: ProgressReporter
    ) -> None:
        self._cluster = cluster
        self._counters = counters
        self._password = password
        self._progress = progress
        self._topic = wal_topic(cluster.folder.load().name)

    def egress(self, upstream: str, followers: int, writes: int) -> Iterator[Egress]:
        """With one follower, and with all."""
        added: list[str] = []
        for count in (1, followers):
            while len(added) < count:
                added.append(f"n{len(added) + 2}")
                self._cluster.add_replica(added[-1], upstream=upstream)
            wait_caught_up(self._cluster.admin, CATCH_UP_S)
            self._progress.step(f"{upstream}: what Kafka serves to {count} followers")
            out, appended = self._counters.bytes_out(self._topic), self._counters.bytes_in(self._topic)
            self._write(writes)
            served = self._counters.bytes_out(self._topic) - out
            yield Egress(upstream, count, served / (self._counters.bytes_in(self._topic) - appended))
        for id in added:
            self._cluster.remove_replica(id)

    @contextmanager
    def chain(self, levels: int) -> Iterator[list[str]]:
        """Followers, of which each receives records from the one before, and the first one from the leader."""
        nodes = [f"n{number}" for number in range(2, levels + 2)]
        for upstream, id in pairwise(["n1", *nodes]):
            self._cluster.add_replica(id, upstream=upstream)
        wait_caught_up(self._cluster.admin, CATCH_UP_S)
        yield nodes
        for id in nodes:
            self._cluster.remove_replica(id)

    def lag(self, nodes: Sequence[str], writes: int = 2_000) -> list[LevelLag]:
        self._progress.step(f"the lag of {len(nodes)} levels")
        ports = [self._cluster.resp_ports[id] for id in ("n1", *nodes)]
        arrivals = asyncio.run(_arrivals(ports, self._password, writes))
        found = []
        for level, (above, below) in enumerate(pairwise(arrivals), start=1):
            added_s = sorted(after - before for before, after in zip(above, below, strict=True))
            found.append(LevelLag(level, percentile(added_s, 0.5), percentile(added_s, 0.99)))
        return found

    def catch_up(self, id: str, behind: int) -> CatchUp:
        cluster, admin = self._cluster, self._cluster.admin
        entry = cluster.folder.load().node(id)
        cluster.stop_node(id)
        self._progress.step(f"writing {behind:,} records")
        appended = self._counters.bytes_in(self._topic)
        self._write(behind, all_nodes=False)
        target = admin.leader().status().node.seq or 0
        out = self._counters.bytes_out(self._topic)
        lacked = self._counters.bytes_in(self._topic) - appended
        self._progress.step(f"{id} catches up")
        cluster.folder.start_process(cluster.folder.load(), entry)
        rate = replay_rate(admin.node(entry.http), target)
        served = self._counters.bytes_out(self._topic) - out
        wait_caught_up(admin, CATCH_UP_S)
        if rate is None:
            raise ReplicatorError(f"{behind} records are too few to measure how fast a follower catches up")
        return CatchUp(rate.records, rate.records_per_s, served / lacked)

    def _write(self, writes: int, *, all_nodes: bool = True) -> None:
        run_redis_benchmark(self._cluster.resp_ports["n1"], "SET", LOAD, writes)
        if all_nodes:
            wait_caught_up(self._cluster.admin, CATCH_UP_S)


async def _arrivals(ports: Sequence[int], password: str, writes: int) -> list[list[float]]:
    """When each node has applied each write, by one clock in seconds."""
    loop = asyncio.get_running_loop()
    listeners = [_Listener() for _ in ports]
    transports = []
    login = [("AUTH", password)] if password else []
    for port, listener in zip(ports, listeners, strict=True):
        transport, _ = await loop.create_connection(lambda it=listener: it, "127.0.0.1", port)  # type: ignore[misc]
        transport.write(encode([*login, ("SUBSCRIBE", f"__keyspace@0__:{KEY}")]))
        transports.append(transport)
    writer, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", ports[0])
    writer.write(encode(login))
    async with asyncio.timeout(LAG_TIMEOUT_S + writes * 10 * WRITE_PAUSE_S):
        for listener in listeners:
            await listener.until(0)
        for number in range(1, writes + 1):
            writer.write(encode([("SET", KEY, str(number))]))
            for listener in listeners:
                await listener.until(number)
            await asyncio.sleep(WRITE_PAUSE_S)
    for transport in (*transports, writer):
        transport.abort()
    return [listener.times for listener in listeners]


class _Listener(asyncio.Protocol):
    """Notes when each event arrives."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._subscribed = False
        self._replies = hiredis.Reader()
        self._arrived = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            match reply:
                case [b"subscribe", *_]:
                    self._subscribed = True
                case [b"message", _, b"set"]:
                    self.times.append(now)
        self._arrived.set()

    async def until(self, events: int) -> None:
        while not self._subscribed or len(self.times) < events:
            self._arrived.clear()
            await self._arrived.wait()
