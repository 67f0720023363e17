"""A Kafka of several brokers on this machine, each a process of its own, whose links can be cut one by one.

    client   → broker        a link for each broker and each of two groups of clients
    broker   → broker        a link to each broker, which all others share
    broker   → controller    a link for each pair

Every broker is a controller, too.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from replicator.address import Address
from replicator.errors import BrokerUnavailable
from replicator.local.kafka.broker import LocalBroker, new_cluster_id
from replicator.local.kafka.proxy import HOST, Link, Proxies
from replicator.local.kafka.settings import BrokerLayout, Listener
from replicator.local.ports import random_free_ports
from replicator.local.progress import ProgressReporter
from replicator.log.kafka.probe import BrokerProbe

BROKERS = 3
HEAP = "256m"
JOIN_S = 60.0
PROBE_S = 1.0
POLL_S = 0.05
BETWEEN_BROKERS = "BROKER"
PORTS_PER_BROKER = 7  # controller; between brokers, and of each group of clients, with a proxy each


class ClientGroup(StrEnum):
    """Clients that reach the brokers through the same links; the name of their listener."""

    FIRST = "FIRST"
    SECOND = "SECOND"


class KafkaCluster:
    """Runs between `start` and `close`. The brokers exit with `close`; their folders remain."""

    def __init__(self, dir: Path, brokers: int = BROKERS) -> None:
        self.nodes = range(1, brokers + 1)
        self._proxies = Proxies()
        self._to_controllers: dict[tuple[int, int], Link] = {}  # from a broker to the controller of another, or its own
        self._to_brokers: dict[int, Link] = {}
        self._of_clients: dict[tuple[ClientGroup, int], Link] = {}
        self._ports = iter(random_free_ports(PORTS_PER_BROKER * brokers + brokers**2))
        controllers = {node: next(self._ports) for node in self.nodes}
        cluster_id = new_cluster_id()
        self._brokers = {
            node: LocalBroker(dir / f"broker{node}", heap=HEAP, layout=self._layout(node, controllers, cluster_id))
            for node in self.nodes
        }

    def _layout(self, node: int, controllers: dict[int, int], cluster_id: str) -> BrokerLayout:
        for to, port in controllers.items():
            self._to_controllers[node, to] = self._link(port)
        between = next(self._ports)
        self._to_brokers[node] = self._link(between)
        listeners = [Listener(BETWEEN_BROKERS, between, self._to_brokers[node].port)]
        for group in ClientGroup:
            port = next(self._ports)
            self._of_clients[group, node] = self._link(port)
            listeners.append(Listener(group, port, self._of_clients[group, node].port))
        reached_at = {to: self._to_controllers[node, to].port for to in controllers}
        return BrokerLayout(node, tuple(listeners), controllers[node], reached_at, cluster_id)

    def _link(self, target_port: int) -> Link:
        return self._proxies.add(target_port, next(self._ports))

    def bootstrap(self, group: ClientGroup = ClientGroup.FIRST) -> str:
        return ",".join(str(Address(HOST, self._of_clients[group, node].port)) for node in self.nodes)

    def start(self, *nodes: int) -> None:
        """Start these brokers, or all, and wait until all that run are members. Raises `BrokerUnavailable`."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: self._brokers[node].start(), nodes or self.nodes))
        if dead := [node for node in nodes or self.nodes if self._brokers[node].process is None]:
            raise BrokerUnavailable(f"these brokers exited while they were starting: {dead}. See their logs")
        probe = BrokerProbe(self.bootstrap())
        running = sum(broker.process is not None for broker in self._brokers.values())
        deadline_s = time.monotonic() + JOIN_S
        while (joined := probe.brokers(PROBE_S)) != running:
            if time.monotonic() > deadline_s:
                raise BrokerUnavailable(f"{joined} of {running} brokers have joined the cluster: see their logs")
            time.sleep(POLL_S)

    def close(self) -> None:
        """Kill all brokers: a clean shutdown of the last ones would wait for the others."""
        for node in self.nodes:
            self.kill(node)
            self._brokers[node].stop()
        self._proxies.close()

    # What can happen to a broker

    def kill(self, node: int) -> None:
        self._brokers[node].kill()

    def stop(self, node: int) -> None:
        """A clean shutdown: leadership of its partitions is transferred first."""
        self._brokers[node].stop()

    @contextmanager
    def stopped(self, node: int) -> Iterator[None]:
        """Its process is stopped with SIGSTOP."""
        process = self._brokers[node].process
        if process is None:
            raise BrokerUnavailable(f"broker {node} does not run")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    @contextmanager
    def cut_off(self, node: int) -> Iterator[None]:
        """From the other brokers and all controllers, but not from clients."""
        pairs = (link for pair, link in self._to_controllers.items() if node in pair)
        with _cut([self._to_brokers[node], *pairs]):
            yield

    @contextmanager
    def cut_off_from_clients(self, node: int, group: ClientGroup) -> Iterator[None]:
        with _cut([self._of_clients[group, node]]):
            yield


@contextmanager
def _cut(links: list[Link]) -> Iterator[None]:
    for link in links:
        link.cut()
    try:
        yield
    finally:
        for link in links:
            link.heal()


@contextmanager
def temporary_brokers(progress: ProgressReporter) -> Iterator[KafkaCluster]:
    """Raises `ConfigError`, `BrokerUnavailable`."""
    with tempfile.TemporaryDirectory(prefix="replicator-brokers-") as folder:
        brokers = KafkaCluster(Path(folder))
        try:
            progress.step(f"starting {BROKERS} brokers")
            brokers.start()
            yield brokers
        finally:
            brokers.close()
