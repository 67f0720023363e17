"""The systems that `replicator bench modes` measures, each ready for as long as a `with` block lasts: a cluster in one
of its modes, Redis, PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from replicator.address import Address
from replicator.bench.closed_loop import (
    KEY,
    KEYS,
    VALUE,
    CommandWords,
    LoadResult,
    Workload,
    key_name,
    run_load,
    value_of,
)
from replicator.bench.peers import redis_pair
from replicator.bench.postgres import postgres_pair
from replicator.errors import ReplicatorError
from replicator.local.cluster import LocalCluster
from replicator.local.operations import policy_of, set_mode, set_policy
from replicator.local.resp_connection import CommandFailed, RespConnection
from replicator.local.waiting import wait_caught_up
from replicator.records.types import Mode, Policy, WriteMode

SET: CommandWords = ("SET", KEY, VALUE)
GET: CommandWords = ("GET", KEY)
WAIT: CommandWords = ("WAIT", "1", "0")
BATCH = 1_000
CATCH_UP_S = 60.0

Measure = Callable[[int, int], LoadResult]
"""Measures with the given number of clients, each of which sends so many writes or reads at a time."""


def measure_with(
    port: int,
    seconds: float,
    command: CommandWords,
    then: Sequence[CommandWords] = (),
    setup: Sequence[CommandWords] = (),
) -> Measure:
    """`then`: sent after the commands of each request."""

    def measure(clients: int, at_a_time: int) -> LoadResult:
        load = run_load(Workload(port, clients, seconds, [command] * at_a_time + list(then), setup))
        return replace(load, per_s=load.per_s * at_a_time)

    return measure


def fill(port: int, password: str = "") -> None:
    """Set all keys. Raises `ReplicatorError`."""
    try:
        with RespConnection(Address("127.0.0.1", port), password) as connection:
            for start in range(0, KEYS, BATCH):
                numbers = range(start, start + BATCH)
                connection.execute_all(("SET", key_name(number), value_of(number)) for number in numbers)
    except (CommandFailed, OSError) as error:
        raise ReplicatorError(f"the keys could not be written: {error}") from error


class ClusterSubject:
    """A cluster of n1, which leads, n2 and n3. Modes and policy stay until the next measurement needs others."""

    def __init__(self, cluster: LocalCluster, seconds: float) -> None:
        self._seconds = seconds
        self._admin = cluster.admin
        self._ports = cluster.resp_ports

    def fill(self) -> None:
        self._configure((), "all", WriteMode.ASYNC)
        fill(self._ports["n1"])

    @contextmanager
    def writes(
        self, sync: Sequence[str], wait_for: str, write: WriteMode, then: Sequence[CommandWords] = ()
    ) -> Iterator[Measure]:
        """`sync`: the sync members."""
        self._configure(sync, wait_for, write)
        yield measure_with(self._ports["n1"], self._seconds, SET, then)

    @contextmanager
    def reads(
        self, id: str, level: str, sync: Sequence[str] = (), write: WriteMode = WriteMode.ASYNC
    ) -> Iterator[Measure]:
        self._configure(sync, "all", write)
        setup = ["REPL.READ", *level.split()]
        if level == "session":
            setup.append(self._token())
        yield measure_with(self._ports[id], self._seconds, GET, setup=[setup])

    def _token(self) -> str:
        with RespConnection(Address("127.0.0.1", self._ports["n1"])) as connection:
            return str(connection.execute("REPL.TOKEN").decode())

    def _configure(self, sync: Sequence[str], wait_for: str, write: WriteMode) -> None:
        """Returns once the settings are in effect, and the followers have caught up. Raises `ReplicatorError`."""
        status = self._admin.leader().status()
        modes = {member.node: member.mode for member in status.members}
        wanted = {id: Mode.SYNC if id in sync else Mode.ASYNC for id in self._ports}
        changed = [id for id, mode in wanted.items() if modes[id] != mode]
        if changed:
            set_policy(self._admin, Policy())  # sync members that a policy waits for cannot become async
        for id in changed:
            set_mode(self._admin, id, wanted[id])
        set_policy(self._admin, policy_of(wait_for, write))
        wait_caught_up(self._admin, CATCH_UP_S)


@contextmanager
def redis_writes(folder: Path, seconds: float, then: Sequence[CommandWords], *settings: str) -> Iterator[Measure]:
    """At a Redis with one replica, both with these settings."""
    with redis_pair(folder, *settings) as port:
        fill(port)
        yield measure_with(port, seconds, SET, then)


@contextmanager
def postgres_writes(seconds: float) -> Iterator[Measure]:
    with postgres_pair() as primary:
        yield lambda clients, at_a_time: primary.run_load(clients, seconds)
