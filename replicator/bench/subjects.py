"""What `replicator bench modes` measures, each made ready for as long as a `with` block lasts: a cluster of three nodes
in one of its modes, Redis, PostgreSQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from replicator.bench import load as bench_load
from replicator.bench.load import KEY, KEYS, VALUE, Command, Measured, Workload, key_name, value_of
from replicator.bench.peers import redis_pair
from replicator.bench.postgres import postgres_pair
from replicator.cli import cluster, replica
from replicator.cli.cluster import Write
from replicator.cli.replica import AskedMode
from replicator.errors import ReplicatorError
from replicator.local.admin_client import find_cluster
from replicator.local.folder import ClusterFolder

SET: Command = ("SET", KEY, VALUE)
GET: Command = ("GET", KEY)
WAIT: Command = ("WAIT", "1", "0")
BATCH = 1_000
LEVEL_S = 60.0
POLL_S = 0.05

Measure = Callable[[int], Measured]
"""With so many clients."""


def fill(port: int) -> None:
    """Give all keys a value. Raises `ReplicatorError`."""
    with redis.Redis(port=port) as client, client.pipeline(transaction=False) as pipe:
        for start in range(0, KEYS, BATCH):
            for number in range(start, start + BATCH):
                pipe.set(key_name(number), value_of(number))
            try:
                pipe.execute()
            except redis.RedisError as error:
                raise ReplicatorError(f"the keys could not be written: {error}") from error


class Nodes:
    """n1 leads, n2 and n3 follow; the last settings stay in force until others are asked for."""

    def __init__(self, folder: ClusterFolder, password: str, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._client = find_cluster(folder.dir, None, password)
        self._ports = {entry.id: entry.resp_port for entry in folder.load().nodes}

    def fill(self) -> None:
        self._settle((), "all", Write.ASYNC)
        fill(self._ports["n1"])

    @contextmanager
    def writes(self, sync: Sequence[str], wait_for: str, write: Write) -> Iterator[Measure]:
        self._settle(sync, wait_for, write)
        yield lambda clients: bench_load.run(Workload(self._ports["n1"], clients, self._seconds, [SET]))

    @contextmanager
    def reads(self, id: str, level: str, sync: Sequence[str] = (), write: Write = Write.ASYNC) -> Iterator[Measure]:
        self._settle(sync, "all", write)
        greeting = ["REPL.READ", *level.split()]
        if level == "session":
            greeting.append(self._token())
        yield lambda clients: bench_load.run(Workload(self._ports[id], clients, self._seconds, [GET], [greeting]))

    def _token(self) -> str:
        with redis.Redis(port=self._ports["n1"]) as client:
            token: Any = client.execute_command("REPL.TOKEN")
            return str(token.decode())

    def _settle(self, sync: Sequence[str], wait_for: str, write: Write) -> None:
        """Let n1 lead under these settings, and the others catch up with it. Raises `ReplicatorError`."""
        status = self._client.leader().status()
        if status["node"]["id"] != "n1":
            replica.promote("n1", self._folder.dir)
        modes = {it["node"]: it["mode"] for it in status["members"]}
        wanted = {id: AskedMode.SYNC if id in sync else AskedMode.ASYNC for id in self._ports}
        if any(modes[id] != wanted[id] for id in modes):
            cluster.change_policy(self._client, "all", Write.ASYNC)
            for id in self._ports:
                if modes[id] != wanted[id]:
                    replica.change_mode(self._client, id, wanted[id])
        cluster.change_policy(self._client, wait_for, write)
        self._wait_level()

    def _wait_level(self) -> None:
        target = self._client.leader().status()["node"]["applied_offset"]
        deadline = time.monotonic() + LEVEL_S
        while min(it["node"].get("applied_offset", -1) for it in self._client.statuses()) < target:
            if time.monotonic() > deadline:
                raise ReplicatorError(f"the followers have not caught up after {LEVEL_S:.0f} s")
            time.sleep(POLL_S)


@contextmanager
def redis_writes(folder: Path, seconds: float, request: Sequence[Command], *settings: str) -> Iterator[Measure]:
    """At a Redis with one replica, started with these settings on both."""
    with redis_pair(folder, *settings) as port:
        fill(port)
        yield lambda clients: bench_load.run(Workload(port, clients, seconds, request))


@contextmanager
def postgres_writes(seconds: float) -> Iterator[Measure]:
    with postgres_pair() as primary:
        yield lambda clients: primary.load(clients, seconds)
