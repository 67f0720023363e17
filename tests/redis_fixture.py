"""Our server on a node in memory, on a loop in a thread, for clients that block; and a real Redis to compare with."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from replicator.address import Address
from replicator.local.ports import random_free_port
from replicator.node.claim import send_claim
from replicator.node.clock import Clock
from replicator.protocol.timing import DEFAULT_TIMEOUTS, Timeouts
from replicator.records.types import Reason, Timing
from replicator.server.redis.server import RedisServer
from tests.memory_cluster import MemoryCluster, RunningNode, until

T = TypeVar("T")
CLUSTER = "test"
PASSWORD = "secret"  # of `pair`

STEADY = Timing(lease_ms=20_000, election_ms=30_000)  # n1 leads to the end, however slow the machine is


class ServerThread:
    """A cluster of `nodes` in memory, each with a server."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        timing: Timing | None = None,
        host: str = "127.0.0.1",
        clock: Clock | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        cluster: str = CLUSTER,
        **options: Any,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._folder = folder
        self._timing = timing
        self._host = host
        self._clock = clock
        self._timeouts = timeouts
        self._name = cluster
        self._options = options
        self.servers: list[RedisServer] = []
        self.cluster: MemoryCluster
        self.run(self._start(nodes))

    @property
    def port(self) -> int:
        return self.servers[0].port

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def client(self, index: int = 0, **options: Any) -> Any:
        no_retry = Retry(NoBackoff(), 0)
        return redis.Redis(self._host, self.servers[index].port, socket_timeout=20, retry=no_retry, **options)

    def node(self, index: int) -> RunningNode:
        return self.cluster.nodes[f"n{index + 1}"]

    def kill(self, index: int) -> None:
        self.run(self.servers[index].close())
        self.run(self.node(index).stop())

    def claim_leadership(self, index: int) -> None:
        """Let this node claim leadership although the leader is healthy."""
        self.run(self._claim_leadership(self.node(index)))

    def close(self) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, nodes: int) -> None:
        self.cluster = cluster = MemoryCluster(self._folder, self._timing, clock=self._clock, timeouts=self._timeouts)
        for index in range(nodes):
            port = random_free_port()
            running = await cluster.start(f"n{index + 1}", priority=index, resp=str(Address(self._host, port)))
            server = RedisServer(running.node, Address(self._host, port), cluster=self._name, **self._options)
            await server.start()
            self.servers.append(server)
        leader = await cluster.leader()
        for running in cluster.nodes.values():
            leader.node.membership_changes.add_member(running.member)
        await until(lambda: all(len(it.node.membership.members) == nodes for it in cluster.nodes.values()))
        await cluster.caught_up()

    async def _claim_leadership(self, running: RunningNode) -> None:
        while running.node.status().leader != running.member.node:
            await send_claim(running.node._context, Reason.ELECTION)
            await self.cluster.caught_up()
        await until(lambda: running.node.leads)

    async def _stop(self) -> None:
        for server in self.servers:
            await server.close()
        await self.cluster.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    thread = ServerThread(tmp_path_factory.mktemp("server"), nodes=2, timing=STEADY)
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """Two nodes with a password; n1 is the leader."""
    thread = ServerThread(tmp_path_factory.mktemp("pair"), nodes=2, timing=STEADY, password=PASSWORD)
    yield thread
    thread.close()


@pytest.fixture
def client(server: ServerThread) -> Iterator[Any]:
    client = server.client()
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServerThread]]:
    """Start servers with other options."""
    threads: list[ServerThread] = []

    def start(**options: Any) -> ServerThread:
        threads.append(ServerThread(tmp_path_factory.mktemp("server"), **options))
        return threads[-1]

    yield start
    for thread in threads:
        thread.close()


@contextmanager
def real_redis(folder: Path, *more: str) -> Iterator[int]:
    """The port of a Redis of our own, started with `more` options."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    port = random_free_port()
    options = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
        *more,
    ]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 100)) as client:
            client.ping()
        yield port
    finally:
        process.terminate()
        process.wait()
